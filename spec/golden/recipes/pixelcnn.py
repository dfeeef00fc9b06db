"""Golden values of PixelCNN: no library has one, so each value is derived twice, over torch and in NumPy loops."""

import itertools

import numpy as np

from spec.golden import Recipe, recipe


@recipe(
    "pixelcnn",
    oracle="torch.nn.functional.conv2d with kernels whose hidden taps are cut off or zero, float64",
    second="NumPy: for each output the sum over the pixels and colours that come before it",
    needs=("torch",),
)
def pixelcnn(recipe: Recipe) -> None:
    _masked(recipe)
    _model(recipe)


def _masked(recipe):
    """A 5 × 3 kernel, two colours, 4 channels in and 6 out, for both masks."""
    import torch
    from torch.nn.functional import conv2d

    generator = np.random.default_rng(0)
    x = recipe.given("masked.x", generator.standard_normal((2, 4, 4, 5)))
    weight = recipe.given("masked.weight", generator.standard_normal((6, 4, 5, 3)))
    bias = recipe.given("masked.bias", generator.standard_normal(6))
    for mask_type in "AB":
        mask = np.zeros_like(weight)
        mask[:, :, :2] = 1
        mask[:, :, 2, :1] = 1
        mask[3:, :2, 2, 1] = 1  # the second colour sees the first
        if mask_type == "B":
            mask[:3, :2, 2, 1] = mask[3:, 2:, 2, 1] = 1
        first = conv2d(*(torch.from_numpy(a) for a in (x, weight * mask, bias)), padding=(2, 1))
        second = over_predecessors(x, weight, bias, 2, own=mask_type == "B")
        recipe.expect(f"masked.{mask_type}", first, second=second)


def over_predecessors(x, weight, bias, groups, own):
    """Σ of weight · x over what comes before an output pixel and colour under the kernel, with its own if `own`."""
    _, inputs, height, width = x.shape
    outputs, _, rows, columns = weight.shape
    y = np.zeros((len(x), outputs, height, width)) + bias[:, None, None]
    for o, i, j, c, k, m in itertools.product(*map(range, (outputs, height, width, inputs, height, width))):
        di, dj = k - i + rows // 2, m - j + columns // 2
        if not (0 <= di < rows and 0 <= dj < columns):
            continue
        mine, other = (i, j, o * groups // outputs), (k, m, c * groups // inputs)
        if other < mine or (own and other == mine):
            y[:, o, i, j] += weight[o, c, di, dj] * x[:, c, k, m]
    return y


def _model(recipe):
    """Two layers, two colours of three levels, four channels, a condition of three features: logits and log p."""
    import torch

    generator = np.random.default_rng(1)
    shapes = {}
    for n, (inputs, above, kernel) in enumerate(((2, 2, 5), (4, 2, 3))):
        shapes |= {
            f"layers.{n}.vertical.weight": (8, inputs, above, kernel),
            f"layers.{n}.vertical.bias": (8,),
            f"layers.{n}.to_horizontal.weight": (8, 8, 1, 1),
            f"layers.{n}.to_horizontal.bias": (8,),
            f"layers.{n}.horizontal.weight": (8, inputs, 1, kernel),
            f"layers.{n}.horizontal.bias": (8,),
            f"layers.{n}.output.weight": (4, 4, 1, 1),
            f"layers.{n}.output.bias": (4,),
            f"layers.{n}.condition_vertical.weight": (8, 3, 1, 1),
            f"layers.{n}.condition_horizontal.weight": (8, 3, 1, 1),
        }
    shapes |= {"hidden.weight": (4, 4, 1, 1), "hidden.bias": (4,), "logits.weight": (6, 4, 1, 1), "logits.bias": (6,)}
    weights = {name: recipe.given(f"model.{name}", generator.standard_normal(s) / 2) for name, s in shapes.items()}
    x = recipe.given("x", generator.integers(0, 3, (2, 2, 4, 5)))
    condition = recipe.given("condition", generator.standard_normal((2, 3)))
    first = _by_torch(
        *({k: torch.from_numpy(v) for k, v in weights.items()}, torch.from_numpy(x)), torch.from_numpy(condition)
    )
    second = _by_loops(weights, x, condition)
    recipe.expect("logits", first, second=second)
    log_p = -torch.nn.functional.cross_entropy(first, torch.from_numpy(x), reduction="none").sum((1, 2, 3))
    shifted = second - second.max(1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    by_hand = np.take_along_axis(log_softmax, x[:, None], axis=1)[:, 0].sum((1, 2, 3))
    recipe.expect("log_prob", log_p, second=by_hand)


def _by_torch(w, x, condition):
    """With shifts, of an image down by a row and right by a column, and kernels without a mask of space."""
    import torch
    from torch.nn.functional import conv2d, pad

    def by_colour(weight, own):
        """Halves of the outputs see halves of the inputs: the first sees itself if `own`, the second the first, too."""
        weight = weight.clone()
        a, b = weight.shape[0] // 2, weight.shape[1] // 2
        weight[:a, b:] = 0
        if not own:
            weight[:a, :b] = weight[a:, b:] = 0
        return weight

    def gate(a):
        f1, g1, f2, g2 = a.chunk(4, dim=1)
        return torch.cat([f1.tanh() * g1.sigmoid(), f2.tanh() * g2.sigmoid()], dim=1)

    v = h = x.double() - 1
    for n, (kernel, first) in enumerate(((5, True), (3, False))):
        own = {k.removeprefix(f"layers.{n}."): value for k, value in w.items() if k.startswith(f"layers.{n}.")}
        side = kernel // 2
        above = pad(v, (side, side, side, 0))[:, :, : -1 if first else None]
        above = conv2d(above, own["vertical.weight"], own["vertical.bias"])
        above = above + (condition @ own["condition_vertical.weight"][..., 0, 0].T)[..., None, None]
        taps = own["horizontal.weight"]
        past = conv2d(pad(h, (side, 0, 0, 0))[..., :-1], taps[..., :side], own["horizontal.bias"])
        left = past + conv2d(h, by_colour(taps[..., side : side + 1], own=not first))
        left = left + (condition @ own["condition_horizontal.weight"][..., 0, 0].T)[..., None, None]
        left = left + conv2d(above, own["to_horizontal.weight"], own["to_horizontal.bias"])
        made = conv2d(gate(left), by_colour(own["output.weight"], own=True), own["output.bias"])
        v, h = gate(above), made if first else made + h
    hidden = conv2d(h.relu(), by_colour(w["hidden.weight"], own=True), w["hidden.bias"]).relu()
    logits = conv2d(hidden, by_colour(w["logits.weight"], own=True), w["logits.bias"])
    return torch.stack(logits.chunk(2, dim=1), dim=2)


def _by_loops(w, x, condition):
    def gate(a):
        made = np.empty((a.shape[0], 4, *a.shape[2:]))
        for c in range(
            4
        ):  # channel c of the outputs belongs to colour c // 2, whose block of four begins at 4·(c // 2)
            begin = 4 * (c // 2) + c % 2
            made[:, c] = np.tanh(a[:, begin]) / (1 + np.exp(-a[:, begin + 2]))
        return made

    def rows_above(v, weight, bias):
        """The last row of the kernel lies on the row above the pixel in the first layer, on its own in the second."""
        _, inputs, height, width = v.shape
        outputs, _, rows, columns = weight.shape
        own_row = int(columns == 3)
        y = np.zeros((len(v), outputs, height, width)) + bias[:, None, None]
        for i, j, a, b in itertools.product(*map(range, (height, width, rows, columns))):
            k, m = i + a - rows + own_row, j + b - columns // 2
            if 0 <= k < height and 0 <= m < width:
                y[:, :, i, j] += v[:, :, k, m] @ weight[:, :, a, b].T
        return y

    v = h = 2 * x / 2 - 1.0
    for n in range(2):
        own = {k.removeprefix(f"layers.{n}."): value for k, value in w.items() if k.startswith(f"layers.{n}.")}
        above = rows_above(v, own["vertical.weight"], own["vertical.bias"])
        above += np.einsum("of,bf->bo", own["condition_vertical.weight"][..., 0, 0], condition)[..., None, None]
        left = over_predecessors(h, own["horizontal.weight"], own["horizontal.bias"], 2, own=n == 1)
        left += np.einsum("of,bf->bo", own["condition_horizontal.weight"][..., 0, 0], condition)[..., None, None]
        left += np.einsum("oc,bchw->bohw", own["to_horizontal.weight"][..., 0, 0], above)
        left += own["to_horizontal.bias"][:, None, None]
        made = over_predecessors(gate(left), own["output.weight"], own["output.bias"], 2, own=True)
        v, h = gate(above), made + (h if n else 0)
    hidden = over_predecessors(np.maximum(h, 0), w["hidden.weight"], w["hidden.bias"], 2, own=True)
    logits = over_predecessors(np.maximum(hidden, 0), w["logits.weight"], w["logits.bias"], 2, own=True)
    return np.moveaxis(logits.reshape(len(x), 2, 3, *x.shape[2:]), 1, 2)
