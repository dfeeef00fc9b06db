"""Golden values of CycleGAN."""

import numpy as np

from spec.golden import Recipe, recipe

GENERATOR = {
    "down.0": (2, 1, 7, 7),
    "down.1": (4, 2, 3, 3),
    "down.2": (8, 4, 3, 3),
    "blocks.0.conv1": (8, 8, 3, 3),
    "blocks.0.conv2": (8, 8, 3, 3),
    "up.0": (8, 4, 3, 3),
    "up.1": (4, 2, 3, 3),
    "last": (3, 2, 7, 7),
}
DISCRIMINATOR = {
    "layers.0": (2, 3, 4, 4),
    "layers.1": (4, 2, 4, 4),
    "layers.2": (8, 4, 4, 4),
    "layers.3": (1, 8, 4, 4),
}


@recipe(
    "cyclegan",
    oracle="torch.nn: ReflectionPad2d, Conv2d, ConvTranspose2d and InstanceNorm2d in float64",
    second="convolutions tap by tap and norms in NumPy",
)
def cyclegan(recipe: Recipe) -> None:
    """A translated image of 8 × 12, its logits at 2 × 3 positions, and the gradient of the adversarial loss."""
    import torch

    draw = np.random.default_rng(0)
    x = recipe.given("images", draw.integers(-16, 16, (2, 1, 8, 12)) / 16)
    judged = recipe.given("judged", draw.integers(-16, 16, (2, 3, 16, 20)) / 16)
    state = {}
    for network, shapes in (("generator", GENERATOR), ("discriminator", DISCRIMINATOR)):
        for name, shape in shapes.items():
            width = shape[1] if name.startswith("up") else shape[0]
            for kind, size in (("weight", shape), ("bias", (width,))):
                key = f"{network}.{name}.{kind}"
                state[key] = recipe.given(key, draw.integers(-8, 8, size) / 64)

    leaf = torch.from_numpy(x.copy()).requires_grad_()
    made = _generator(state)(leaf)
    logits = _discriminator(state)(torch.from_numpy(judged))
    loss = (_discriminator(state)(torch.nn.functional.pad(made, (0, 8, 0, 8))) - 1).square().mean()
    numbers = _by_hand(state, x)
    padded = np.pad(numbers, ((0, 0), (0, 0), (0, 8), (0, 8)))
    recipe.expect("made", made, second=numbers)
    recipe.expect("logits", logits, second=_logits_by_hand(state, judged))
    recipe.expect("loss", loss, second=((_logits_by_hand(state, padded) - 1) ** 2).mean())
    recipe.expect("gradient", torch.autograd.grad(loss, leaf)[0])


def _generator(state):
    from torch import nn

    def norm(channels):
        return nn.InstanceNorm2d(channels), nn.ReLU()

    block = [nn.ReflectionPad2d(1), nn.Conv2d(8, 8, 3), *norm(8), nn.ReflectionPad2d(1), nn.Conv2d(8, 8, 3), norm(8)[0]]
    first = [nn.ReflectionPad2d(3), nn.Conv2d(1, 2, 7), *norm(2)]
    first += [nn.Conv2d(2, 4, 3, 2, 1), *norm(4), nn.Conv2d(4, 8, 3, 2, 1), *norm(8)]
    last = [nn.ConvTranspose2d(8, 4, 3, 2, 1, 1), *norm(4), nn.ConvTranspose2d(4, 2, 3, 2, 1, 1), *norm(2)]
    last += [nn.ReflectionPad2d(3), nn.Conv2d(2, 3, 7), nn.Tanh()]
    first, block, last = (_frozen(nn.Sequential(*part)) for part in (first, block, last))
    _fill([*first, *block, *last], state, "generator", GENERATOR)
    return lambda x: last((h := first(x)) + block(h))


def _discriminator(state):
    from torch import nn

    leaky, norm = nn.LeakyReLU(0.2), nn.InstanceNorm2d
    layers = [nn.Conv2d(3, 2, 4, 2, 1), leaky, nn.Conv2d(2, 4, 4, 2, 1), norm(4), leaky]
    layers += [nn.Conv2d(4, 8, 4, 1, 1), norm(8), leaky, nn.Conv2d(8, 1, 4, 1, 1)]
    network = _frozen(nn.Sequential(*layers))
    _fill(network, state, "discriminator", DISCRIMINATOR)
    return network


def _frozen(network):
    return network.double().requires_grad_(False)


def _fill(layers, state, network, shapes):
    import torch

    with_weights = [layer for layer in layers if hasattr(layer, "weight") and layer.weight is not None]
    for layer, name in zip(with_weights, shapes, strict=True):
        for kind in ("weight", "bias"):
            getattr(layer, kind).copy_(torch.from_numpy(state[f"{network}.{name}.{kind}"]))


def _convolved(x, state, name, stride=1, margin=0, mode="constant"):
    """Σ over the taps of a matrix times the image that lies under the tap."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    x = np.pad(x, ((0, 0), (0, 0), (margin, margin), (margin, margin)), mode=mode)
    size = weight.shape[2]
    rows, columns = ((n - size) // stride + 1 for n in x.shape[2:])
    y = 0
    for i in range(size):
        for j in range(size):
            under = x[:, :, i : i + stride * rows : stride, j : j + stride * columns : stride]
            y = y + np.einsum("oc,nchw->nohw", weight[:, :, i, j], under)
    return y + bias[:, None, None]


def _enlarged(x, state, name):
    """Each pixel adds its kernel to the image of twice the size, from one row above and one column left of it on."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    n, _, h, w = x.shape
    y = np.zeros((n, weight.shape[1], 2 * h + 2, 2 * w + 2))
    for i in range(3):
        for j in range(3):
            y[:, :, i : i + 2 * h : 2, j : j + 2 * w : 2] += np.einsum("co,nchw->nohw", weight[:, :, i, j], x)
    return y[:, :, 1 : 2 * h + 1, 1 : 2 * w + 1] + bias[:, None, None]


def _normalized(x):
    return (x - x.mean((2, 3), keepdims=True)) / np.sqrt(x.var((2, 3), keepdims=True) + 1e-5)


def _by_hand(state, x):
    def rectified(x):
        return np.maximum(_normalized(x), 0)

    x = rectified(_convolved(x, state, "generator.down.0", 1, 3, "reflect"))
    x = rectified(_convolved(x, state, "generator.down.1", 2, 1))
    x = rectified(_convolved(x, state, "generator.down.2", 2, 1))
    inner = rectified(_convolved(x, state, "generator.blocks.0.conv1", 1, 1, "reflect"))
    x = x + _normalized(_convolved(inner, state, "generator.blocks.0.conv2", 1, 1, "reflect"))
    x = rectified(_enlarged(x, state, "generator.up.0"))
    x = rectified(_enlarged(x, state, "generator.up.1"))
    return np.tanh(_convolved(x, state, "generator.last", 1, 3, "reflect"))


def _logits_by_hand(state, x):
    def leaky(x):
        return np.where(x > 0, x, 0.2 * x)

    x = leaky(_convolved(x, state, "discriminator.layers.0", 2, 1))
    x = leaky(_normalized(_convolved(x, state, "discriminator.layers.1", 2, 1)))
    x = leaky(_normalized(_convolved(x, state, "discriminator.layers.2", 1, 1)))
    return _convolved(x, state, "discriminator.layers.3", 1, 1)
