"""Golden values of convolutions: torch's kernels and jax's, and what the papers print of sizes and costs."""

import itertools

import numpy as np

from spec.golden import Recipe, recipe

# tag → shape of x, of w, stride, padding, dilation, groups: no two values of a row are equal where they could differ.
GEOMETRIES = {
    "plain": ((2, 3, 5, 6), (4, 3, 3, 2), (1, 1), (1, 2), (1, 1), 1),
    "dilated": ((2, 3, 9, 8), (2, 3, 3, 2), (1, 1), (2, 1), (2, 3), 1),
    "strided": ((3, 2, 8, 9), (4, 2, 2, 3), (2, 3), (0, 1), (3, 2), 1),
    "grouped": ((2, 4, 7, 6), (6, 2, 2, 3), (1, 2), (1, 0), (2, 1), 2),
    "depthwise": ((2, 3, 6, 7), (6, 1, 3, 2), (2, 1), (1, 2), (1, 2), 3),
}


def _normal(tag, *shape):
    return np.random.default_rng(list(tag.encode())).normal(size=shape)


def _jax():
    import jax

    jax.config.update("jax_enable_x64", True)
    return jax


def _jax_convolution(stride, padding, dilation, groups):
    jax = _jax()

    def call(x, w, b):
        y = jax.lax.conv_general_dilated(
            x, w, stride, [(p, p) for p in padding], rhs_dilation=dilation, feature_group_count=groups
        )
        return y + b[:, None, None]

    return call


def _derivatives(recipe, tag, first, second, arrays):
    """Freeze y, the gradients for a cotangent, and ∂⟨∂x, tangent⟩/∂w, by torch (`first`) and jax (`second`)."""
    import torch

    jax = _jax()
    leaves = [torch.from_numpy(a).requires_grad_() for a in arrays]
    y = first(*leaves)
    cotangent = recipe.given(f"cotangent_{tag}", _normal(f"cotangent {tag}", *y.shape))
    tangent = recipe.given(f"tangent_{tag}", _normal(f"tangent {tag}", *arrays[0].shape))
    grads = torch.autograd.grad(y, leaves, torch.from_numpy(cotangent), create_graph=True)
    (curvature,) = torch.autograd.grad(grads[0], leaves[1], torch.from_numpy(tangent))
    other, pull = jax.vjp(second, *arrays)
    recipe.expect(f"y_{tag}", y, second=other)
    for name, grad, other in zip(("dx", "dweight", "dbias"), grads, pull(cotangent), strict=True):
        recipe.expect(f"{name}_{tag}", grad, second=other)

    def along_tangent(w):
        return (jax.vjp(lambda x: second(x, w, arrays[2]), arrays[0])[1](cotangent)[0] * tangent).sum()

    recipe.expect(f"curvature_{tag}", curvature, second=jax.grad(along_tangent)(arrays[1]))


def _arrays(recipe, tag, x, w, outputs):
    return (
        recipe.given(f"x_{tag}", _normal(f"x {tag}", *x)),
        recipe.given(f"weights_{tag}.weight", _normal(f"w {tag}", *w)),
        recipe.given(f"weights_{tag}.bias", _normal(f"b {tag}", outputs)),
    )


@recipe(
    "dilated-conv",
    oracle="torch.nn.functional in float64; table 1 of Yu & Koltun 2015",
    second="jax.lax.conv_general_dilated with jax's derivatives; jax.image.resize; windows counted in NumPy",
    needs=("torch", "jax"),
)
def dilated_conv(recipe: Recipe) -> None:
    import torch
    from torch.nn import functional as F

    jax = _jax()
    for tag, (x, w, *how) in GEOMETRIES.items():
        if tag != "depthwise":
            arrays = _arrays(recipe, tag, x, w, w[0])
            _derivatives(recipe, tag, lambda x, w, b, how=how: F.conv2d(x, w, b, *how), _jax_convolution(*how), arrays)

    # The transposed convolution: jax pulls y back through the convolution of the same geometry.
    arrays = _arrays(recipe, "transposed", (2, 4, 3, 5), (4, 3, 3, 2), 6)

    def pulled(y, w, b):
        convolution = _jax_convolution((2, 3), (1, 0), (1, 2), 2)
        zeros = np.zeros((2, 6, 6, 17))  # (3 − 1)·2 − 2 + 2 + 1 + 1 and (5 − 1)·3 + 2 + 1 + 2
        return jax.vjp(lambda x: convolution(x, w, np.zeros(4)), zeros)[1](y)[0] + b[:, None, None]

    _derivatives(
        recipe,
        "transposed",
        lambda x, w, b: F.conv_transpose2d(x, w, b, (2, 3), (1, 0), (1, 2), 2, (1, 2)),
        pulled,
        arrays,
    )

    x = recipe.given("x_pooled", _normal("pooled", 2, 3, 7, 8))
    t = torch.from_numpy(x)
    low = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(low, (5, 2), axis=(2, 3))[:, :, ::1, ::2, ::2]
    recipe.expect("max_pooled", F.max_pool2d(t, (3, 2), (1, 2), (1, 1), (2, 1)), second=windows.max((4, 5)))
    inside = np.lib.stride_tricks.sliding_window_view(np.where(np.isinf(low), 0, low), (3, 2), axis=(2, 3))[
        :, :, ::2, ::1
    ]
    recipe.expect("average_pooled", F.avg_pool2d(t, (3, 2), (2, 1), (1, 1)), second=inside.sum((4, 5)) / 6)
    bins = [[slice(i * n // m, -(-(i + 1) * n // m)) for i in range(m)] for n, m in ((7, 3), (8, 5))]
    counted = np.array([[x[:, :, r, c].mean((2, 3)) for c in bins[1]] for r in bins[0]]).transpose(2, 3, 0, 1)
    recipe.expect("adaptively_pooled", F.adaptive_avg_pool2d(t, (3, 5)), second=counted)
    resized = jax.image.resize(x, (2, 3, 11, 20), "bilinear", antialias=False)
    recipe.expect("bilinear", F.interpolate(t, (11, 20), mode="bilinear"), second=resized)
    floors = x[:, :, np.arange(11) * 7 // 11][..., np.arange(3) * 8 // 3]
    recipe.expect("nearest", F.interpolate(t, (11, 3), mode="nearest"), second=floors)

    steps = (1, 1, 2, 4, 8, 16, 1)
    sums = [*itertools.accumulate((2 * l for l in steps), initial=1)][1:]
    recipe.expect("receptive_fields", np.array([3, 5, 9, 17, 33, 65, 67, 67]), second=np.array([*sums, sums[-1]]))


# The body of MobileNet, Howard et al. 2017, table 1: width of the outputs and stride of each separable block.
BODY = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]


def _counted(width, separable):
    """Parameters and multiply-adds of MobileNet at 224×224, batch normalization included, by hand."""
    inputs, side = int(32 * width), 112
    parameters, multiplications = inputs * (27 + 2), inputs * 27 * side**2
    for outputs, stride in BODY:
        outputs, side = int(outputs * width), side // stride
        if separable:
            parameters += inputs * (9 + 2) + outputs * (inputs + 2)
            multiplications += (9 * inputs + inputs * outputs) * side**2
        else:
            parameters += outputs * (9 * inputs + 2)
            multiplications += 9 * inputs * outputs * side**2
        inputs = outputs
    return parameters + 1000 * (inputs + 1), multiplications + 1000 * inputs


def _built(width, separable):
    """The same, of a network of torch.nn on the meta device; multiply-adds by torch's counter."""
    import torch
    from torch import nn
    from torch.utils.flop_counter import FlopCounterMode

    def block(inputs, outputs, side, stride, groups=1):
        convolution = nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=groups, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]

    with torch.device("meta"):
        inputs = int(32 * width)
        layers = block(3, inputs, 3, 2)
        for outputs, stride in BODY:
            outputs = int(outputs * width)
            if separable:
                layers += block(inputs, inputs, 3, stride, inputs) + block(inputs, outputs, 1, 1)
            else:
                layers += block(inputs, outputs, 3, stride)
            inputs = outputs
        network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(2, 3, 224, 224))
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 4


@recipe(
    "depthwise-separable-conv",
    oracle="torch.nn.functional.conv2d twice, in float64; MobileNet built of torch.nn on the meta device",
    second="jax.lax.conv_general_dilated with jax's derivatives; MobileNet's sizes added up by hand",
    needs=("torch", "jax"),
)
def depthwise_separable_conv(recipe: Recipe) -> None:
    import torch
    from torch.nn import functional as F

    x, w, *how = GEOMETRIES["depthwise"]
    arrays = _arrays(recipe, "depthwise", x, w, w[0])
    _derivatives(recipe, "depthwise", lambda x, w, b: F.conv2d(x, w, b, *how), _jax_convolution(*how), arrays)

    x = recipe.given("x_separable", _normal("separable", 2, 3, 6, 7))
    depthwise = recipe.given("weights_separable.depthwise.weight", _normal("depthwise", 6, 1, 3, 2))
    pointwise = recipe.given("weights_separable.pointwise.weight", _normal("pointwise", 4, 6, 1, 1))
    first = F.conv2d(torch.from_numpy(x), torch.from_numpy(depthwise), None, *how)
    halves = _jax_convolution(*how), _jax_convolution((1, 1), (0, 0), (1, 1), 1)
    second = halves[1](halves[0](x, depthwise, np.zeros(6)), pointwise, np.zeros(4))
    recipe.expect("y_separable", F.conv2d(first, torch.from_numpy(pointwise)), second=second)

    for tag, width, separable in [
        ("100", 1, True),
        ("75", 0.75, True),
        ("50", 0.5, True),
        ("25", 0.25, True),
        ("full", 1, False),
    ]:
        built, counted = _built(width, separable), _counted(width, separable)
        recipe.expect(f"parameters_{tag}", np.array(built[0]), second=np.array(counted[0]))
        recipe.expect(f"multiplications_{tag}", np.array(built[1]), second=np.array(counted[1]))
