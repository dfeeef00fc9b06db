"""Golden values of U-Net."""

import numpy as np

from spec.golden import Recipe, recipe


@recipe(
    "unet",
    oracle="torch.nn.functional's convolutions and maximum, scipy.ndimage's distance transform",
    second="scipy.signal.correlate2d and block maxima; distances to every pixel of a cell in NumPy",
    needs=("torch", "scipy"),
)
def unet(recipe: Recipe) -> None:
    """Scores and gradient of a network without padding, scores of a padded one, and the weights of a map of cells."""
    import torch
    from scipy.ndimage import distance_transform_edt

    draw = np.random.default_rng(0)
    shapes = {}
    for name, before, after in (
        ("contracting.0", 2, 2),
        ("contracting.1", 2, 4),
        ("contracting.2", 4, 8),
        ("expanding.0", 4, 2),
        ("expanding.1", 8, 4),
    ):
        for number, channels in ((1, before), (2, after)):
            shapes |= {f"{name}.conv{number}.weight": (after, channels, 3, 3), f"{name}.conv{number}.bias": (after,)}
    shapes |= {"up.0.weight": (4, 2, 2, 2), "up.0.bias": (2,), "up.1.weight": (8, 4, 2, 2), "up.1.bias": (4,)}
    shapes |= {"head.weight": (3, 2, 1, 1), "head.bias": (3,)}
    w = {}
    for name, shape in shapes.items():
        w[name] = recipe.given(name, draw.integers(-6, 9, shape) / 16)
    images = recipe.given("images", draw.integers(-16, 16, (1, 2, 44, 48)) / 16)
    small = recipe.given("small", draw.integers(-16, 16, (1, 2, 8, 12)) / 16)
    leaf = torch.from_numpy(images).requires_grad_()
    scores = _by_torch({name: torch.from_numpy(np.array(v)) for name, v in w.items()}, leaf, 0)
    padded = _by_torch({name: torch.from_numpy(np.array(v)) for name, v in w.items()}, torch.from_numpy(small), 1)
    recipe.expect("scores", scores, second=_by_scipy(w, images[0], "valid")[None])
    recipe.expect("gradient", torch.autograd.grad(scores.square().sum(), leaf)[0])
    recipe.expect("padded", padded, second=_by_scipy(w, small[0], "same")[None])

    cells = np.zeros((14, 17), dtype=np.int64)
    cells[1:6, 1:7], cells[3:9, 8:12], cells[10:13, 2:9], cells[12, 15] = 1, 2, 5, 3
    recipe.given("cells", cells)
    distances = np.stack([distance_transform_edt(cells != k) for k in (1, 2, 3, 5)])
    second = np.zeros((4, *cells.shape))
    for number, k in enumerate((1, 2, 3, 5)):
        for i, j in np.ndindex(*cells.shape):
            second[number, i, j] = min(np.hypot(i - a, j - b) for a, b in np.argwhere(cells == k))
    found = [np.sort(d, axis=0)[:2].sum(0) for d in (distances, second)]
    first, other = (np.where(cells, 1.5, 0.5 + 8 * np.exp(-(d**2) / (2 * 3.0**2)) * (cells == 0)) for d in found)
    recipe.expect("weights", first, second=other)


def _by_torch(w, x, padding):
    import torch
    from torch.nn import functional

    def two(x, name):
        for number in (1, 2):
            x = functional.conv2d(x, w[f"{name}.conv{number}.weight"], w[f"{name}.conv{number}.bias"], padding=padding)
            x = functional.relu(x)
        return x

    bridges = []
    for level in (0, 1):
        bridges.append(two(x, f"contracting.{level}"))
        x = functional.max_pool2d(bridges[-1], 2)
    x = two(x, "contracting.2")
    for level in (1, 0):
        x = functional.conv_transpose2d(x, w[f"up.{level}.weight"], w[f"up.{level}.bias"], stride=2)
        cut = (bridges[level].shape[2] - x.shape[2]) // 2
        bridge = bridges[level][:, :, cut : cut + x.shape[2], cut : cut + x.shape[3]]
        x = two(torch.cat([bridge, x], dim=1), f"expanding.{level}")
    return functional.conv2d(x, w["head.weight"], w["head.bias"])


def _by_scipy(w, x, mode):
    """The same on one image (channels, height, width), map by map."""
    from scipy.signal import correlate2d

    def convolve(x, name):
        kernel, bias = w[f"{name}.weight"], w[f"{name}.bias"]
        maps = [sum(correlate2d(c, k, mode) for c, k in zip(x, kernels)) + b for kernels, b in zip(kernel, bias)]
        return np.stack(maps)

    def two(x, name):
        return np.maximum(convolve(np.maximum(convolve(x, f"{name}.conv1"), 0), f"{name}.conv2"), 0)

    bridges = []
    for level in (0, 1):
        bridges.append(two(x, f"contracting.{level}"))
        c, h, width = bridges[-1].shape
        x = bridges[-1].reshape(c, h // 2, 2, width // 2, 2).max((2, 4))
    x = two(x, "contracting.2")
    for level in (1, 0):
        kernel, bias = w[f"up.{level}.weight"], w[f"up.{level}.bias"]
        large = sum(np.stack([np.kron(x[c], kernel[c, o]) for o in range(len(bias))]) for c in range(len(x)))
        x = large + bias[:, None, None]
        cut = (bridges[level].shape[1] - x.shape[1]) // 2
        bridge = bridges[level][:, cut : cut + x.shape[1], cut : cut + x.shape[2]]
        x = two(np.concatenate([bridge, x]), f"expanding.{level}")
    return convolve(x, "head")
