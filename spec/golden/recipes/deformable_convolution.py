"""Golden values of deformable convolution: torch's grid_sample put together, and the paper's double sum in NumPy."""

import itertools
import math

import numpy as np

from spec.golden import Recipe, recipe

# tag → kernel, stride, padding, dilation, groups, groups of offsets, modulated?
GEOMETRIES = {
    "v1": ((3, 2), (1, 2), (2, 1), (1, 1), 1, 1, False),
    "v2": ((2, 3), (2, 1), (0, 2), (2, 1), 1, 1, True),
    "grouped": ((2, 3), (1, 2), (1, 2), (1, 2), 2, 4, True),
    "crossed": ((3, 1), (2, 1), (1, 0), (1, 3), 4, 2, True),
}
SHAPE, OUTPUTS = (2, 4, 5, 6), 8
STEP = 1 / 16


def _onnx(kernel, stride, padding, dilation, groups, offset_groups, modulated):
    """DeformConv as a function of NumPy arrays."""
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    names = ["x", "w", "offset", "b"] + ["mask"] * modulated
    node = helper.make_node(
        "DeformConv",
        names,
        ["y"],
        kernel_shape=kernel,
        strides=stride,
        pads=[*padding, *padding],
        dilations=dilation,
        group=groups,
        offset_group=offset_groups,
    )
    inputs = [helper.make_tensor_value_info(n, TensorProto.DOUBLE, None) for n in names]
    graph = helper.make_graph(
        [node], "deformable", inputs, [helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)]
    )
    session = ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)]))
    return lambda arrays: session.run(None, dict(zip(["x", "offset", "w", "b", "mask"], arrays)))[0]


def _composed(kernel, stride, padding, dilation, groups, offset_groups, modulated):
    """One grid_sample for each tap and group of offsets, and one einsum."""
    import torch
    from torch.nn import functional as F

    def call(x, offset, w, b, mask=None):
        (height, width), space, taps = x.shape[2:], offset.shape[2:], math.prod(kernel)
        y = 0
        for k, (i, j) in enumerate(itertools.product(*map(range, kernel))):
            sampled = []
            for g, block in enumerate(x.chunk(offset_groups, 1)):
                channel = g * taps + k
                row = (
                    torch.arange(space[0])[:, None] * stride[0] - padding[0] + i * dilation[0] + offset[:, 2 * channel]
                )
                column = torch.arange(space[1]) * stride[1] - padding[1] + j * dilation[1] + offset[:, 2 * channel + 1]
                grid = torch.stack([2 * column / (width - 1) - 1, 2 * row / (height - 1) - 1], -1)
                part = F.grid_sample(block, grid, align_corners=True)
                sampled.append(part if mask is None else part * mask[:, channel, None])
            tap = F.conv2d(torch.cat(sampled, 1), w[:, :, i : i + 1, j : j + 1], groups=groups)
            y = y + tap
        return y + b[:, None, None]

    return call


def _summed(kernel, stride, padding, dilation, groups, offset_groups, modulated):
    """Eq. 2-4 as printed: for each tap the sum of G(q, p) x(q) over all pixels q, in NumPy."""

    def call(arrays):
        x, offset, w, b = arrays[:4]
        (height, width), space, taps = x.shape[2:], offset.shape[2:], math.prod(kernel)
        y = np.zeros((len(x), len(w), *space)) + b[:, None, None]
        for k, (i, j) in enumerate(itertools.product(*map(range, kernel))):
            sampled = []
            for g, block in enumerate(np.split(x, offset_groups, axis=1)):
                channel = g * taps + k
                row = np.arange(space[0])[:, None] * stride[0] - padding[0] + i * dilation[0] + offset[:, 2 * channel]
                column = np.arange(space[1]) * stride[1] - padding[1] + j * dilation[1] + offset[:, 2 * channel + 1]
                along_rows = np.maximum(0, 1 - np.abs(np.arange(height) - row[..., None]))
                along_columns = np.maximum(0, 1 - np.abs(np.arange(width) - column[..., None]))
                part = np.einsum("bpqh,bpqhc->bcpq", along_rows, np.einsum("bpqw,bchw->bpqhc", along_columns, block))
                sampled.append(part * arrays[4][:, channel, None] if modulated else part)
            blocks = np.split(np.concatenate(sampled, axis=1), groups, axis=1)
            kernels = np.split(w[:, :, i, j], groups)
            y += np.concatenate([np.einsum("oc,bcpq->bopq", a, c) for a, c in zip(kernels, blocks)], axis=1)
        return y

    return call


def _differences(call, arrays, which, cotangent):
    """∂⟨y, cotangent⟩/∂arrays[which] by central differences: exact, for y is linear in each number between pixels."""
    slope = np.zeros_like(arrays[which])
    for place in np.ndindex(*slope.shape):
        ends = []
        for step in (STEP, -STEP):
            moved = [a.copy() for a in arrays]
            moved[which][place] += step
            ends.append((call(moved) * cotangent).sum())
        slope[place] = (ends[0] - ends[1]) / (2 * STEP)
    return slope


@recipe(
    "deformable-conv",
    oracle="torch.nn.functional.grid_sample of each tap, in float64, with torch's derivatives",
    second="eq. 2-4 summed in NumPy, and central differences of it; onnx.reference DeformConv; scipy.ndimage",
    needs=("torch", "onnx", "scipy"),
)
def deformable_conv(recipe: Recipe) -> None:
    import torch
    from scipy.ndimage import map_coordinates
    from torch.nn import functional as F

    for seed, (tag, geometry) in enumerate(GEOMETRIES.items()):
        kernel, stride, padding, dilation, groups, offset_groups, modulated = geometry
        rng = np.random.default_rng(seed)
        space = [
            (n + 2 * p - l * (k - 1) - 1) // s + 1
            for n, p, l, k, s in zip(SHAPE[2:], padding, dilation, kernel, stride)
        ]
        taps = offset_groups * math.prod(kernel)
        # Fractions stay 1/8 off the pixels, further than the steps of the differences.
        offset = rng.integers(-2, 2, size=(2, 2 * taps, *space)) + rng.uniform(0.125, 0.875, size=(2, 2 * taps, *space))
        arrays = [
            recipe.given(f"x_{tag}", rng.normal(size=SHAPE)),
            recipe.given(f"offset_{tag}", offset),
            recipe.given(f"weight_{tag}", rng.normal(size=(OUTPUTS, SHAPE[1] // groups, *kernel))),
            recipe.given(f"bias_{tag}", rng.normal(size=OUTPUTS)),
        ]
        arrays += [recipe.given(f"mask_{tag}", rng.uniform(0.1, 1, size=(2, taps, *space)))] * modulated
        cotangent = recipe.given(f"cotangent_{tag}", rng.normal(size=(2, OUTPUTS, *space)))
        leaves = [torch.from_numpy(a).requires_grad_() for a in arrays]
        y = _composed(*geometry)(*leaves)
        summed = _summed(*geometry)
        recipe.expect(f"y_{tag}", y, second=summed(arrays))
        apart = np.abs(_onnx(*geometry)(arrays) - y.detach().numpy()).max()
        if apart > 1e-5:  # it computes in float32
            raise ValueError(f"expected onnx's DeformConv within 1e-5, found it {apart:g} off")
        grads = torch.autograd.grad(y, leaves, torch.from_numpy(cotangent))
        wanted = {"dx": 0, "doffset": 1, "dweight": 2, "dmask": 4}
        for name, which in wanted.items():
            if which < len(arrays):
                # Thousands of runs: enough for one geometry of each kind.
                second = _differences(summed, arrays, which, cotangent) if tag in ("v1", "v2") else None
                recipe.expect(f"{name}_{tag}", grads[which], second=second)

    # One offset for all taps and places, so that SciPy can sample the image once, border included.
    rng = np.random.default_rng(9)
    x, w = (
        recipe.given("x_moved", rng.normal(size=(2, 3, 9, 8))),
        recipe.given("weight_moved", rng.normal(size=(2, 3, 3, 2))),
    )
    rows, columns = np.meshgrid(np.arange(-1, 10) + 0.37, np.arange(-2, 10) - 1.6, indexing="ij")
    images = [
        [map_coordinates(c, [rows, columns], order=1, mode="grid-constant", cval=0.0) for c in image] for image in x
    ]
    sampled = torch.from_numpy(np.array(images))
    offset = torch.tensor([0.37, -1.6], dtype=torch.float64).repeat(6)[:, None, None].expand(2, -1, 9, 11)
    composed = _composed((3, 2), (1, 1), (1, 2), (1, 1), 1, 1, False)
    moved = composed(torch.from_numpy(x), offset, torch.from_numpy(w), torch.zeros(2).double())
    recipe.expect("y_moved", moved, second=F.conv2d(sampled, torch.from_numpy(w)))
