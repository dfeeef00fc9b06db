"""Golden values of StyleGAN and StyleGAN2: layers, whole networks and penalties."""

import numpy as np

from spec.golden import Recipe, recipe

Z, W, STYLES, SIZES = 5, 6, 4, (4, 8)
CHANNELS = (4, 3)  # at 4 × 4 and 8 × 8
TAPS = np.array([1.0, 3.0, 3.0, 1.0])


@recipe(
    "stylegan",
    oracle="labml_nn.gan.stylegan's layers; the networks by torch.nn.functional, resampled by transposed convolution",
    second="NumPy: sums over pixels and taps, resampling as dense matrices; central differences for Jacobians",
    needs=("torch", "labml-nn"),
)
def stylegan(recipe: Recipe) -> None:
    rng = np.random.default_rng(1812)
    _layers(recipe, rng)
    first, second = _generator_weights(recipe, rng, True), _generator_weights(recipe, rng, False)
    ws = recipe.given("ws", rng.standard_normal((2, STYLES, W)))
    tensors = {k: _torch(v) for k, v in (first | second).items()}
    for name, weights, by_torch, by_numpy in (
        ("g1", first, _first_by_torch, _first_by_numpy),
        ("g2", second, _second_by_torch, _second_by_numpy),
    ):
        value = by_torch({k: tensors[k] for k in weights}, _torch(ws))
        recipe.expect(f"{name}.image", value, second=by_numpy(weights, ws))
    recipe.expect("g1.faded", _first_by_torch(tensors, _torch(ws), 0.3), second=_first_by_numpy(first, ws, 0.3))
    _discriminators(recipe, rng)
    _penalties(recipe, rng, second, ws)


def _torch(array):
    import torch

    return torch.from_numpy(np.array(array))


# ---------------------------------------------------------------------------------------------- layers


def _layers(recipe, rng):
    import torch
    from labml_nn.gan.stylegan import Conv2dWeightModulate, EqualizedLinear

    z = recipe.given("mapping.z", 3 * rng.standard_normal((3, Z)))
    weights = [
        recipe.given(f"mapping.layers.{n}.weight", 10 * rng.standard_normal((W, i))) for n, i in ((0, Z), (1, W))
    ]
    biases = [recipe.given(f"mapping.layers.{n}.bias", 10 * rng.standard_normal(W)) for n in (0, 1)]
    x, y = _torch(z / np.sqrt((z**2).mean(1, keepdims=True) + 1e-8)), z / np.sqrt((z**2).mean(1, keepdims=True) + 1e-8)
    for weight, bias in zip(weights, biases):
        layer = EqualizedLinear(weight.shape[1], W).double()
        layer.weight.weight.data, layer.bias.data = _torch(weight * 0.1), _torch(bias * 0.1)
        layer.weight.c = weight.shape[1] ** -0.5
        x = 2**0.5 * torch.nn.functional.leaky_relu(layer(x), 0.2)
        y = (
            np.stack([[sum(0.1 / len(v) ** 0.5 * a * b for a, b in zip(v, row)) for row in weight] for v in y])
            + 0.1 * bias
        )
        y = _leaky(y)
    recipe.expect("mapping.w", x, second=y)

    x, s = recipe.given("modulated.x", rng.standard_normal((2, 3, 5, 6))), rng.standard_normal((2, W))
    s = recipe.given("modulated.w", s)
    weight = recipe.given("modulated.weight", rng.standard_normal((4, 3, 3, 3)))
    a = recipe.given("modulated.style.weight", rng.standard_normal((3, W)))
    b = recipe.given("modulated.style.bias", rng.standard_normal(3))
    styles = s @ a.T / W**0.5 + b
    for name, demodulate in (("modulated.y", True), ("modulated.plain", False)):
        conv = Conv2dWeightModulate(3, 4, 3, demodulate=demodulate, eps=0.2).double()
        conv.weight.weight.data, conv.weight.c = _torch(weight), 27**-0.5
        recipe.expect(name, conv(_torch(x), _torch(styles)), second=_modulated(x, styles, weight, demodulate, 0.2))

    x = recipe.given("adain.x", 2 + 3 * rng.standard_normal((2, 3, 4, 5)))
    w = recipe.given("adain.w", rng.standard_normal((2, W)))
    a = recipe.given("adain.style.weight", rng.standard_normal((6, W)))
    b = recipe.given("adain.style.bias", rng.standard_normal(6))
    style = _torch(w @ a.T / W**0.5 + b)[:, :, None, None]
    value = style[:, :3] * torch.nn.functional.instance_norm(_torch(x), eps=0.2) + style[:, 3:]
    recipe.expect("adain.y", value, second=_adain(x, w @ a.T / W**0.5 + b, 0.2))


def _leaky(x):
    return np.sqrt(2) * np.where(x > 0, x, 0.2 * x)


def _modulated(x, styles, weight, demodulate, eps=1e-8):
    """Weights of each sample, as in the paper."""
    outputs = []
    for image, s in zip(x, styles):
        w = weight / np.sqrt(weight[0].size) * s[None, :, None, None]
        if demodulate:
            w = w / np.sqrt(np.einsum("oikl,oikl->o", w, w) + eps)[:, None, None, None]
        outputs.append(_conv(image[None], w, weight.shape[2] // 2)[0])
    return np.stack(outputs)


def _conv(x, weight, padding=0, stride=1):
    """Pixel by pixel."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    k = weight.shape[2]
    rows, columns = range(0, x.shape[2] - k + 1, stride), range(0, x.shape[3] - k + 1, stride)
    return np.stack(
        [
            np.stack([np.einsum("bikl,oikl->bo", x[:, :, i : i + k, j : j + k], weight) for j in columns], 2)
            for i in rows
        ],
        2,
    )


def _adain(x, style, eps=1e-8):
    c = x.shape[1]
    moments = (x**2).mean((2, 3), keepdims=True) - x.mean((2, 3), keepdims=True) ** 2
    normed = (x - x.mean((2, 3), keepdims=True)) / np.sqrt(moments + eps)
    return style[:, :c, None, None] * normed + style[:, c:, None, None]


# ---------------------------------------------------------------------------------------------- generators


def _generator_weights(recipe, rng, is_first):
    """Random weights under the keys of the contract."""
    prefix, weights = ("g1" if is_first else "g2"), {}

    def give(key, *shape):
        weights[f"{prefix}.{key}"] = recipe.given(f"{prefix}.{key}", rng.standard_normal(shape))

    c4, c8 = CHANNELS
    give("const", c4, 4, 4)
    layers = [(c4, c4, 4), (c4, c8, 8), (c8, c8, 8)]
    for n, (before, c, size) in enumerate([(None, c4, 4), *layers] if is_first else layers):
        if before:
            give(f"layers.{n}.conv.weight", c, before, 3, 3)
        name, width = (f"layers.{n}.norm.style", 2 * c) if is_first else (f"layers.{n}.conv.style", before)
        give(f"{name}.weight", width, W), give(f"{name}.bias", width)
        give(f"layers.{n}.bias", c), give(f"layers.{n}.noise.strength", c if is_first else 1)
        give(f"layers.{n}.noise.image", size, size)
    for n, c in enumerate(CHANNELS):
        if is_first:
            give(f"to_rgb.{n}.weight", 2, c, 1, 1)
        else:
            give(f"to_rgb.{n}.conv.weight", 2, c, 1, 1)
            give(f"to_rgb.{n}.conv.style.weight", c, W), give(f"to_rgb.{n}.conv.style.bias", c)
        give(f"to_rgb.{n}.bias", 2)
    return weights


def _equalised(weight):
    return weight / weight[0].numel() ** 0.5


def _fir(x, padding, gain=1.0, stride=1):
    """[1, 3, 3, 1]/8 in both dimensions, times gain."""
    import torch
    from torch.nn import functional as F

    kernel = gain * torch.outer(_torch(TAPS / 8), _torch(TAPS / 8)).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(x, kernel, padding=padding, groups=x.shape[1], stride=stride)


def _up_conv_by_torch(x, weight):
    """As the authors order it: the transposed convolution first, the filter after it."""
    from torch.nn import functional as F

    wide = F.conv_transpose2d(x, weight.flip(2, 3).transpose(0, 1), stride=2)  # 2H + 1
    return _fir(wide, 1, gain=4.0)


def _act(x):
    from torch.nn import functional as F

    return 2**0.5 * F.leaky_relu(x, 0.2)


def _noised(p, key, x):
    x = x + p[f"{key}.noise.strength"][:, None, None] * p[f"{key}.noise.image"]
    return x + p[f"{key}.bias"][:, None, None]


def _affine(p, key, w):
    return w @ p[f"{key}.weight"].T / W**0.5 + p[f"{key}.bias"]


def _first_by_torch(p, ws, alpha=1.0):
    from torch.nn import functional as F

    x, images = p["g1.const"].expand(2, -1, -1, -1), []
    for n in range(4):
        key = f"g1.layers.{n}"
        if n:
            weight = _equalised(p[f"{key}.conv.weight"])
            x = _up_conv_by_torch(x, weight) if n == 2 else F.conv2d(x, weight, padding=1)
        style = _affine(p, f"{key}.norm.style", ws[:, n])[:, :, None, None]
        scale, shift = style.chunk(2, dim=1)
        x = scale * F.instance_norm(_act(_noised(p, key, x)), eps=1e-8) + shift
        if n % 2:
            name = f"g1.to_rgb.{n // 2}"
            images.append(F.conv2d(x, _equalised(p[f"{name}.weight"]), p[f"{name}.bias"]))
    return alpha * images[1] + (1 - alpha) * F.interpolate(images[0], scale_factor=2, mode="nearest")


def _second_by_torch(p, ws):
    """Each sample by itself with modulated weights."""
    import torch
    from torch.nn import functional as F

    def weights(key, w, demodulate):
        modulated = _equalised(p[f"{key}.weight"]) * _affine(p, f"{key}.style", w)[None, :, None, None]
        return modulated / (modulated.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt() if demodulate else modulated

    images = []
    for one in ws:
        x, image = p["g2.const"][None], None
        for n in range(3):
            weight = weights(f"g2.layers.{n}.conv", one[n], True)
            x = _up_conv_by_torch(x, weight) if n == 1 else F.conv2d(x, weight, padding=1)
            x = _act(_noised(p, f"g2.layers.{n}", x))
            if n != 1:
                name = f"g2.to_rgb.{n // 2}"
                part = F.conv2d(x, weights(f"{name}.conv", one[n + 1], False), p[f"{name}.bias"])
                if image is not None:
                    delta = torch.eye(2, dtype=torch.float64)[:, :, None, None]
                    image = _fir(F.conv_transpose2d(image, delta, stride=2), 2, gain=4.0)
                image = part if image is None else image + part
        images.append(image)
    return torch.cat(images)


def _matrix(size, border):
    """(2·size + 2·border, size): a row of pixels to twice as many, filtered, with the border's leaks."""
    found = np.zeros((2 * size + 2 * border, size))
    for i in range(size):
        for t, tap in enumerate(TAPS / 4):
            row = 2 * i + t - 1 + border
            if 0 <= row < len(found):
                found[row, i] = tap
    return found


def _up(x, border):
    m = _matrix(x.shape[2], border)
    return np.einsum("pi,bcij,qj->bcpq", m, x, m)


def _first_by_numpy(p, ws, alpha=1.0):
    x, images = np.repeat(p["g1.const"][None], 2, 0), []
    for n in range(4):
        key = f"g1.layers.{n}"
        if n:
            weight = p[f"{key}.conv.weight"] / np.sqrt(p[f"{key}.conv.weight"][0].size)
            x = _conv(_up(x, 1), weight) if n == 2 else _conv(x, weight, 1)
        x = _adain(_leaky(_noised(p, key, x)), _affine(p, f"{key}.norm.style", ws[:, n]))
        if n % 2:
            rgb = p[f"g1.to_rgb.{n // 2}.weight"][:, :, 0, 0]
            image = np.einsum("oc,bcij->boij", rgb / np.sqrt(x.shape[1]), x)
            images.append(image + p[f"g1.to_rgb.{n // 2}.bias"][:, None, None])
    return alpha * images[1] + (1 - alpha) * np.kron(images[0], np.ones((2, 2)))


def _second_by_numpy(p, ws):
    x, image = np.repeat(p["g2.const"][None], len(ws), 0), 0.0
    for n in range(3):
        key = f"g2.layers.{n}"
        styles, weight = _affine(p, f"{key}.conv.style", ws[:, n]), p[f"{key}.conv.weight"]
        if n == 1:  # a filter for each channel commutes with the scale of the channel
            x = _modulated(_up(x, 1), styles, weight, True)[:, :, 1:-1, 1:-1]
        else:
            x = _modulated(x, styles, weight, True)
        x = _leaky(_noised(p, key, x))
        if n != 1:
            name = f"g2.to_rgb.{n // 2}"
            part = _modulated(x, _affine(p, f"{name}.conv.style", ws[:, n + 1]), p[f"{name}.conv.weight"], False)
            image = (_up(image, 0) if n else 0.0) + part + p[f"{name}.bias"][:, None, None]
    return image


# ---------------------------------------------------------------------------------------------- discriminators


def _discriminators(recipe, rng):
    c4, c8 = CHANNELS
    images = recipe.given("images", rng.standard_normal((8, 2, 8, 8)))
    common = {"blocks.0.conv0": (c8, c8, 3, 3), "blocks.0.conv1": (c4, c8, 3, 3), "head.conv": (c4, c4 + 1, 3, 3)}
    common |= {"head.linear": (c4, 16 * c4), "head.out": (1, c4)}
    shapes = {
        "d1": common | {"from_rgb.0": (c4, 2, 1, 1), "from_rgb.1": (c8, 2, 1, 1)},
        "d2": common | {"from_rgb": (c8, 2, 1, 1), "skips.0": (c4, c8, 1, 1)},
    }
    for name, layers in shapes.items():
        p = {}
        for key, shape in layers.items():
            p[f"{key}.weight"] = recipe.given(f"{name}.{key}.weight", rng.standard_normal(shape))
            if key != "skips.0":
                p[f"{key}.bias"] = recipe.given(f"{name}.{key}.bias", rng.standard_normal(shape[0]))
        tensors = {k: _torch(v) for k, v in p.items()}
        value = _logits_by_torch(tensors, _torch(images), name == "d2")
        recipe.expect(f"{name}.logits", value, second=_logits_by_numpy(p, images, name == "d2"))


def _logits_by_torch(p, x, residual):
    import torch
    from torch.nn import functional as F

    def conv(key, x, **options):
        return F.conv2d(x, _equalised(p[f"{key}.weight"]), p.get(f"{key}.bias"), **options)

    x = _act(conv("from_rgb" if residual else "from_rgb.1", x))
    y = _act(conv("blocks.0.conv1", _fir(_act(conv("blocks.0.conv0", x, padding=1)), 2), stride=2))
    if residual:
        y = (y + conv("skips.0", _fir(x, 1, stride=2))) / 2**0.5
    groups = y.reshape(4, 2, *y.shape[1:])  # samples n and n + 2 are in one group
    deviation = (groups.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3)).repeat(4)
    y = torch.cat([y, deviation[:, None, None, None].expand(8, 1, 4, 4)], dim=1)
    y = _act(conv("head.conv", y, padding=1)).flatten(1)
    y = _act(F.linear(y, _equalised(p["head.linear.weight"]), p["head.linear.bias"]))
    return F.linear(y, _equalised(p["head.out.weight"]), p["head.out.bias"])


def _halving(size, padding, stride):
    """A row of pixels filtered by [1, 3, 3, 1]/8."""
    wide = np.zeros((size + 2 * padding - 3, size))
    for row in range(len(wide)):
        for t, tap in enumerate(TAPS / 8):
            if 0 <= row + t - padding < size:
                wide[row, row + t - padding] = tap
    return wide[::stride]


def _logits_by_numpy(p, x, residual):
    def conv(key, x, padding=0, stride=1):
        weight, bias = p[f"{key}.weight"], p.get(f"{key}.bias", np.zeros(1))
        return _conv(x, weight / np.sqrt(weight[0].size), padding, stride) + bias[:, None, None]

    def filtered(x, padding, stride):
        m = _halving(x.shape[2], padding, stride)
        return np.einsum("pi,bcij,qj->bcpq", m, x, m)

    x = _leaky(conv("from_rgb" if residual else "from_rgb.1", x))
    y = _leaky(conv("blocks.0.conv1", filtered(_leaky(conv("blocks.0.conv0", x, 1)), 2, 1), 0, 2))
    if residual:
        y = (y + conv("skips.0", filtered(x, 1, 2))) / np.sqrt(2)
    channel = np.empty((8, 1, 4, 4))
    for group in (0, 1):
        members = y[group::2]
        variance = (members**2).mean(0) - members.mean(0) ** 2
        channel[group::2] = np.sqrt(variance + 1e-8).mean()
    y = _leaky(conv("head.conv", np.concatenate([y, channel], 1), 1)).reshape(8, -1)
    y = _leaky(y @ p["head.linear.weight"].T / np.sqrt(y.shape[1]) + p["head.linear.bias"])
    return y @ p["head.out.weight"].T / np.sqrt(y.shape[1]) + p["head.out.bias"]


# ---------------------------------------------------------------------------------------------- penalties


def _penalties(recipe, rng, weights, ws):
    """Lengths ‖J_wᵀ y‖ of the second generator, by autograd and by central differences of the NumPy network."""
    import torch

    y = recipe.given("path.noise", rng.standard_normal((2, 2, 8, 8)))
    tensors = {k: _torch(v) for k, v in weights.items()}
    styles = _torch(ws).requires_grad_()
    projection = (_second_by_torch(tensors, styles) * _torch(y)).sum() / 8
    (gradient,) = torch.autograd.grad(projection, styles)
    numeric = np.zeros_like(ws)
    for n in range(STYLES):
        for d in range(W):
            step = np.zeros_like(ws)
            step[:, n, d] = 1e-6
            change = _second_by_numpy(weights, ws + step) - _second_by_numpy(weights, ws - step)
            numeric[:, n, d] = (change * y).sum((1, 2, 3)) / 8 / 2e-6
    lengths = [np.sqrt((g**2).sum(-1).mean(-1)) for g in (gradient.numpy(), numeric)]
    recipe.expect("path.lengths", lengths[0], second=lengths[1])
