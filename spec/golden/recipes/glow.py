"""Golden values of Glow."""

import numpy as np

from spec.golden import Recipe, recipe


@recipe(
    "glow",
    oracle="normflows' Invertible1x1Conv and nflows' ActNorm in float64; torch.nn.functional for the coupling",
    second="NumPy: sums by hand, the determinant of a whole Jacobian by complex steps",
    needs=("nflows", "normflows", "torch"),
)
def glow(recipe: Recipe) -> None:
    """A step of flow of 4 channels on 2 × 3 pixels, layer by layer."""
    import torch
    from nflows.transforms import ActNorm
    from normflows.flows.mixing import Invertible1x1Conv
    from torch.nn import functional

    draw = np.random.default_rng(0)

    def given(name, *shape, low=-16, high=16):
        return recipe.given(name, draw.integers(low, high, shape) / 16)

    x = given("x", 2, 4, 2, 3)
    scale, bias = given("scale", 4, low=8, high=40), given("bias", 4)
    norm = ActNorm(4)
    norm.log_scale.data, norm.shift.data = torch.from_numpy(np.log(scale)), torch.from_numpy(bias)
    norm.eval()
    first, first_log_det = norm(torch.from_numpy(x))

    p = recipe.given("permutation", np.eye(4)[[2, 0, 3, 1]])
    lower, upper = given("lower", 4, 4), given("upper", 4, 4)
    sign, log_scale = recipe.given("sign", np.array([1.0, -1.0, -1.0, 1.0])), given("log_scale", 4)
    conv = Invertible1x1Conv(4, use_lu=True)
    state = {"P": p, "L": lower, "U": upper, "sign_S": sign, "log_S": log_scale, "eye": np.eye(4)}
    for name, value in state.items():
        getattr(conv, name).data = torch.from_numpy(value.copy())
    mixed, mixed_log_det = conv.inverse(first)  # the library's inverse goes from images to z

    shapes = {"first.weight": (3, 2, 3, 3), "first.bias": (3,), "second.weight": (3, 3, 1, 1), "second.bias": (3,)}
    shapes |= {"last.weight": (4, 3, 3, 3), "last.bias": (4,)}
    w = {name: given(name, *shape) for name, shape in shapes.items()}
    t = {name: torch.from_numpy(value) for name, value in w.items()}
    hidden = functional.conv2d(mixed[:, 2:], t["first.weight"], t["first.bias"], padding=1).relu()
    hidden = functional.conv2d(hidden, t["second.weight"], t["second.bias"]).relu()
    out = functional.conv2d(hidden, t["last.weight"], t["last.bias"], padding=1)
    s = torch.sigmoid(out[:, :2] + 2)
    y = torch.cat([s * mixed[:, :2] + out[:, 2:], mixed[:, 2:]], dim=1)
    log_det = first_log_det + mixed_log_det + s.log().sum((1, 2, 3))

    matrix = p @ (np.tril(lower, -1) + np.eye(4)) @ (np.triu(upper, 1) + np.diag(sign * np.exp(log_scale)))

    def by_hand(image):
        """The three layers on one image, complex numbers allowed."""
        image = np.einsum("ij,jhw->ihw", matrix, image * scale[:, None, None] + bias[:, None, None])

        def convolve(v, weight, b):
            size = weight.shape[2] // 2
            v = np.pad(v, ((0, 0), (size, size), (size, size)))
            rows = [v[:, i : i + 2 * size + 1, j : j + 2 * size + 1] for i in range(2) for j in range(3)]
            return np.stack([np.einsum("ockl,ckl->o", weight, row) + b for row in rows], 1).reshape(-1, 2, 3)

        def relu(v):
            return np.where(v.real > 0, v, 0)

        h = relu(convolve(image[2:], w["first.weight"], w["first.bias"]))
        h = relu(convolve(h, w["second.weight"], w["second.bias"]))
        h = convolve(h, w["last.weight"], w["last.bias"])
        return np.concatenate([image[:2] / (1 + np.exp(-h[:2] - 2)) + h[2:], image[2:]])

    slopes = []
    for image in x:
        columns = []
        for place in np.ndindex(4, 2, 3):
            step = image.astype(complex)
            step[place] += 1e-30j
            columns.append(by_hand(step).imag.ravel() / 1e-30)
        slopes.append(np.linalg.slogdet(np.stack(columns, 1))[1])
    recipe.expect(
        "mixed", mixed, second=np.einsum("ij,njhw->nihw", matrix, x * scale[:, None, None] + bias[:, None, None])
    )
    recipe.expect("y", y, second=np.stack([by_hand(image.astype(complex)).real for image in x]))
    recipe.expect("log_det", log_det, second=np.array(slopes))
