"""Deformable convolution, v1 and v2.  Dai et al. 2017, arXiv:1703.06211; Zhu et al. 2018, arXiv:1811.11168."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from impl.layers.deformable_convolution import DeformConv2d, ModulatedDeformConv2d, deform_conv2d
from spec import laws
from spec.cases.deformable_convolution import between, moved
from spec.strategies import floats, seeds

pytestmark = pytest.mark.item("deformable-conv")

pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
margins = st.tuples(st.integers(0, 2), st.integers(0, 2))


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bilinear(x, row, column):
    """Σ_q G(q, p) x(q) over every pixel q of x (B, C, H, W), p = (row, column) of (B, H', W')."""
    height, width = x.shape[2:]
    g_rows = (1 - (torch.arange(height).double() - row[..., None]).abs()).clamp(min=0)  # g(q_y, p_y)
    g_columns = (1 - (torch.arange(width).double() - column[..., None]).abs()).clamp(min=0)
    return torch.einsum("bpqh,bpqw,bchw->bcpq", g_rows, g_columns, x)


def definition(x, offset, weight, bias, stride, padding, dilation, mask=None, offset_groups=1, groups=1):
    """y(p) = b + Σ_k w_k · x(p + p_k + Δp_k) · Δm_k, tap after tap."""
    kh, kw = weight.shape[2:]
    height, width = offset.shape[2:]
    rows = torch.arange(height).double()[:, None] * stride[0] - padding[0]
    columns = torch.arange(width).double() * stride[1] - padding[1]
    y = x.new_zeros(len(x), len(weight), height, width)
    for k in range(kh * kw):
        parts = []
        for g, block in enumerate(x.chunk(offset_groups, dim=1)):
            channel = g * kh * kw + k
            row = rows + k // kw * dilation[0] + offset[:, 2 * channel]
            column = columns + k % kw * dilation[1] + offset[:, 2 * channel + 1]
            part = bilinear(block, row, column)
            parts.append(part if mask is None else part * mask[:, channel, None])
        sampled = torch.cat(parts, dim=1).chunk(groups, dim=1)
        w = weight[:, :, k // kw, k % kw].chunk(groups)
        y = y + torch.cat([torch.einsum("oc,bchw->bohw", a, b) for a, b in zip(w, sampled)], dim=1)
    return y if bias is None else y + bias[:, None, None]


# ---------------------------------------------------------------------------------------------- the definition


@given(
    seed=seeds(),
    kernel=pairs,
    stride=pairs,
    padding=margins,
    dilation=pairs,
    modulated=st.booleans(),
    groups=st.sampled_from([1, 2]),
    offset_groups=st.sampled_from([1, 2, 4]),
)
def test_every_tap_reads_where_its_offset_says(
    seed, kernel, stride, padding, dilation, modulated, groups, offset_groups
):
    """y(p) = b + Σ_k w_k·x(p + p_k + Δp_k)·Δm_k with x(p) = Σ_q G(q, p) x(q), and the gradients to all five inputs.

    Source: Dai et al. 2017, eq. 2-4; Zhu et al. 2018, eq. 1.
    Convention: offsets (y, x) for each tap in turn, groups of offsets outermost; zero outside of the image.
    """
    x, weight, bias = (
        normal(2, 4, 7, 8, seed=seed),
        normal(6, 4 // groups, *kernel, seed=seed + 1),
        normal(6, seed=seed),
    )
    size = nn.functional.conv2d(x, weight, bias, stride, padding, dilation, groups).shape[2:]
    taps = offset_groups * kernel[0] * kernel[1]
    offset = between(2, 2 * taps, *size, seed=seed).double()
    mask = (uniform(2, taps, *size, seed=seed),) if modulated else ()
    laws.gradients_match(
        lambda x, o, w, b, *m: deform_conv2d(x, o, w, b, stride, padding, dilation, *m),
        lambda x, o, w, b, *m: definition(
            x, o, w, b, stride, padding, dilation, *(m or (None,)), offset_groups, groups
        ),
        x,
        offset,
        weight,
        bias,
        *mask,
    )


@pytest.mark.states("limiting case")
@given(seed=seeds(), kernel=pairs, stride=pairs, padding=margins, dilation=pairs, groups=st.sampled_from([1, 2]))
def test_zero_offsets_give_the_ordinary_convolution(seed, kernel, stride, padding, dilation, groups):
    """With Δp = 0, and Δm = 1 or none, it is the convolution, border included.

    Source: Dai et al. 2017, eq. 1 and 2; Zhu et al. 2018, eq. 1.
    """
    x, weight = normal(2, 4, 7, 8, seed=seed), normal(6, 4 // groups, *kernel, seed=seed + 1)
    expected = nn.functional.conv2d(x, weight, None, stride, padding, dilation, groups)
    taps = kernel[0] * kernel[1]
    offset, mask = (torch.full((2, n, *expected.shape[2:]), v).double() for n, v in ((2 * taps, 0.0), (taps, 1.0)))
    laws.assert_close(deform_conv2d(x, offset, weight, None, stride, padding, dilation), expected)
    laws.assert_close(deform_conv2d(x, offset, weight, None, stride, padding, dilation, mask), expected)


@pytest.mark.states("limiting case")
@given(seed=seeds(), step=pairs)
def test_whole_offsets_dilate_the_kernel(seed, step):
    """Offsets (i − 1)·(l − 1) of tap row i, and likewise of columns, give the convolution of dilation l, padding l.

    Source: Dai et al. 2017, §2.3: dilated convolution is a special case of deformable convolution.
    """
    x, weight = normal(2, 3, 8, 9, seed=seed), normal(2, 3, 3, 3, seed=seed + 1)
    offset = torch.zeros(2, 9, 2, 8, 9, dtype=torch.float64)
    for k in range(9):
        offset[:, k, 0], offset[:, k, 1] = (k // 3 - 1) * (step[0] - 1), (k % 3 - 1) * (step[1] - 1)
    expected = nn.functional.conv2d(x, weight, None, 1, step, step)
    laws.assert_close(deform_conv2d(x, offset.flatten(1, 2), weight, padding=1), expected)


@pytest.mark.states("symmetry")
@given(seed=seeds(), down=st.integers(-3, 3), right=st.integers(-3, 3))
def test_equal_whole_offsets_shift_the_image(seed, down, right):
    """Offsets (dy, dx) the same for all taps read the image moved by (−dy, −dx); exchanged ones read another.

    Source: Dai et al. 2017, eq. 2.  Convention: y first.
    """
    x, weight = normal(2, 2, 9, 10, seed=seed), normal(3, 2, 2, 3, seed=seed + 1)
    offset = torch.tensor([down, right]).double().repeat(6)[:, None, None].expand(2, -1, 8, 8)
    framed = nn.functional.pad(x, (3, 3, 3, 3))
    moved_image = framed[:, :, 3 + down : 12 + down, 3 + right : 13 + right]
    laws.assert_close(deform_conv2d(x, offset, weight), nn.functional.conv2d(moved_image, weight))
    if down != right:
        exchanged = offset.unflatten(1, (6, 2)).flip(2).flatten(1, 2)
        laws.assert_differs(deform_conv2d(x, exchanged, weight), deform_conv2d(x, offset, weight), by=1e-3)


@given(row=floats(-2.5, 5.5), column=floats(-2.5, 6.5))
def test_pixels_outside_are_zero_one_by_one(row, column):
    """A tap near the border fades out: each of its four pixels that lies outside counts as zero by itself.

    Source: Dai et al. 2017, eq. 3-4, where G(q, p) weighs the pixels q of the image only.
    Convention: torchvision's; a clamped coordinate would repeat the border instead.
    """
    x = normal(1, 1, 4, 5) + 3
    offset = torch.tensor([row, column]).double().reshape(1, 2, 1, 1).expand(1, 2, 4, 5)
    position = torch.tensor([[[row]]]).double(), torch.tensor([[[column]]]).double()
    y = deform_conv2d(x, offset, torch.full((1, 1, 1, 1), 2.0, dtype=torch.float64))
    laws.assert_close(y[:, :, :1, :1], 2 * bilinear(x, *position))


@given(seed=seeds(), tap=st.integers(0, 5))
def test_an_offset_moves_its_own_tap_at_its_own_position(seed, tap):
    """∂y(p)/∂Δp_k(p') is zero for p' ≠ p: an offset per tap and position, not one per channel or image.

    Source: Dai et al. 2017, §2.1: 2N channels for N taps, at the resolution of the output.
    """
    x, weight = normal(1, 2, 4, 5, seed=seed), normal(1, 2, 2, 3, seed=seed + 1)
    offset = between(1, 12, 3, 3, seed=seed).double() / 10
    position = torch.arange(9)
    laws.depends_only_on(
        lambda o: deform_conv2d(x, torch.cat([offset[:, : 2 * tap], o, offset[:, 2 * tap + 2 :]], 1), weight),
        offset[:, 2 * tap : 2 * tap + 2],
        position[:, None] == position.repeat(2),
    )


@given(seed=seeds(), a=floats(-2, 2), tap=st.integers(0, 5))
def test_the_mask_weighs_each_tap(seed, a, tap):
    """y(a·Δm) = a·y(Δm), and a zero in the mask of tap k leaves the kernel without w_k.

    Source: Zhu et al. 2018, eq. 1.
    """
    x, weight = normal(2, 2, 5, 6, seed=seed), normal(3, 2, 2, 3, seed=seed + 1)
    offset, mask = between(2, 12, 4, 4, seed=seed).double(), uniform(2, 6, 4, 4, seed=seed)
    y = deform_conv2d(x, offset, weight, mask=mask)
    laws.assert_close(deform_conv2d(x, offset, weight, mask=a * mask), a * y)
    without, off = weight.clone(), mask.clone()
    without[:, :, tap // 3, tap % 3], off[:, tap] = 0, 0
    laws.assert_close(deform_conv2d(x, offset, weight, mask=off), deform_conv2d(x, offset, without, mask=mask))


@pytest.mark.states("symmetry")
def test_groups_of_offsets_move_their_own_channels():
    """With two groups of offsets, the first half of the offsets and masks moves the first half of the channels only.

    Source: Dai et al. 2017, §2.1.  Convention: groups outermost in the offsets' channels, as in torchvision.
    """
    x, weight = normal(1, 4, 3, 3), torch.eye(4).double()[:, :, None, None]
    own = torch.arange(4).repeat_interleave(9)[:, None] // 2 == torch.arange(2).repeat_interleave(18)
    offset, mask = between(1, 4, 3, 3).double() / 5, uniform(1, 2, 3, 3)
    position = torch.arange(9).repeat(4)[:, None] == torch.arange(9).repeat(4)
    laws.depends_only_on(lambda o: deform_conv2d(x, o, weight, mask=mask), offset, own & position)
    laws.depends_only_on(lambda m: deform_conv2d(x, offset, weight, mask=m), mask, own[:, ::2] & position[:, :18])


# ---------------------------------------------------------------------------------------------- gradients


def test_derivatives_of_both_orders():
    """First and second derivatives to input, offset, weight, bias and mask are those of central differences.

    Source: Dai et al. 2017, appendix A: the gradient to the offsets.  Convention: between pixels, where it exists.
    """
    arguments = (normal(1, 2, 3, 4), between(1, 8, 2, 2).double(), normal(2, 1, 2, 1), normal(2))
    mask = uniform(1, 4, 2, 2)
    laws.gradient_correct(
        lambda x, o, w, b, m: deform_conv2d(x, o, w, b, (2, 3), (1, 0), 1, m), *arguments, mask, second_order=True
    )


def test_offsets_far_outside_get_no_gradient():
    """A tap that reads beyond every pixel gives zero, and neither its offset nor the image gets gradient from it.

    Source: Dai et al. 2017, eq. 3-4: G(q, p) = 0 for every q.
    """
    x, weight = normal(2, 2, 4, 5).requires_grad_(), normal(3, 2, 1, 1)
    far = (torch.randint(0, 2, (2, 2, 4, 5), generator=torch.Generator().manual_seed(0)) * 40.0 - 20.5).double()
    far.requires_grad_()
    y = deform_conv2d(x, far, weight)
    laws.assert_close(y, torch.zeros(2, 3, 4, 5, dtype=torch.float64))
    laws.gradient_reaches((y * normal(*y.shape)).sum(), {}, {"offset": far, "input": x})


def test_at_a_pixel_the_gradient_looks_ahead():
    """At a whole offset, where both one-sided derivatives exist, the gradient is x(p + 1) − x(p), not zero.

    Convention: ⌊·⌋ picks the pair, as in torchvision; training begins with offsets of zero.
    """
    x, offset = normal(1, 1, 4, 5), torch.zeros(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    y = deform_conv2d(x, offset, torch.full((1, 1, 1, 1), 3.0, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(y.sum(), offset)
    below, right = nn.functional.pad(x, (0, 0, 0, 1))[:, :, 1:], nn.functional.pad(x, (0, 1))[:, :, :, 1:]
    laws.assert_close(gradient, 3 * torch.cat([below - x, right - x], dim=1))


# ---------------------------------------------------------------------------------------------- the layers


@pytest.mark.parametrize(("layer", "share"), [(DeformConv2d, 1.0), (ModulatedDeformConv2d, 0.5)])
def test_layers_are_initialised_as_an_ordinary_convolution(layer, share):
    """A new layer is the convolution of its weight, v2 half of it, for its masks are initialised to sigmoid(0) = ½.

    Source: Dai et al. 2017, §3; Zhu et al. 2018, §3.2: the added layers are initialised to zero.
    """
    how = {"stride": (1, 2), "padding": (2, 1), "dilation": (2, 1)}
    module = layer(4, 6, (3, 2), groups=2, **how).double()
    x = normal(2, 4, 6, 7)
    expected = nn.functional.conv2d(x, share * module.weight, module.bias, groups=2, **how)
    laws.assert_close(module(x), expected)
    loss = (module(x) * normal(*expected.shape, seed=1)).sum()
    laws.gradient_reaches(loss, dict(module.named_parameters()))


@given(seed=seeds())
@pytest.mark.parametrize("layer", [DeformConv2d, ModulatedDeformConv2d])
def test_offsets_come_from_a_convolution_of_the_same_input(layer, seed):
    """Δp, and for v2 Δm = sigmoid(…), are the output of one convolution of the input with the same geometry.

    Source: Dai et al. 2017, §2.1, fig. 2; Zhu et al. 2018, §3.2: 3K channels, the last K go through a sigmoid.
    """
    how = {"stride": (1, 2), "padding": (2, 1), "dilation": (2, 1)}
    module = moved(layer, 4, 6, (3, 2), groups=2, offset_groups=2, bias=False, **how).double()
    head, x = module.conv_offset, normal(2, 4, 6, 7, seed=seed)
    predicted = nn.functional.conv2d(x, head.weight, head.bias, **how)
    offset, mask = predicted[:, :24], predicted[:, 24:].sigmoid()
    assert mask.shape[1] == (12 if layer is ModulatedDeformConv2d else 0)
    geometry = how["stride"], how["padding"], how["dilation"]
    expected = definition(x, offset, module.weight, None, *geometry, mask if mask.shape[1] else None, 2, 2)
    laws.assert_close(module(x), expected)


@pytest.mark.states("cost")
@pytest.mark.parametrize(("layer", "per_tap"), [(DeformConv2d, 2), (ModulatedDeformConv2d, 3)])
def test_parameters_of_the_offsets(layer, per_tap):
    """The offsets' convolution has 2K·offset_groups output channels, v2's 3K, K = k² taps, and is initialised to zero.

    Source: Dai et al. 2017, §2.1; Zhu et al. 2018, §3.2.
    """
    module = layer(4, 6, (3, 2), groups=2, offset_groups=2)
    expected = {"weight": (6, 2, 3, 2), "bias": (6,)}
    expected |= {"conv_offset.weight": (per_tap * 12, 4, 3, 2), "conv_offset.bias": (per_tap * 12,)}
    found = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    assert found == expected, f"expected {expected}, found {found}"
    for name in ("conv_offset.weight", "conv_offset.bias"):
        assert not module.state_dict()[name].any(), f"expected {name} to be zero"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_positions_are_exact_in_low_precision(dtype):
    """At row 257, which bfloat16 has not, a tap without offset still reads row 257.

    Convention: positions are float32 or wider, values keep their dtype.
    """
    x = torch.randint(-8, 8, (2, 1, 2, 3000), generator=torch.Generator().manual_seed(0)).to(dtype)
    offset = torch.zeros(2, 2, 2, 3000, dtype=dtype)
    laws.assert_same(deform_conv2d(x, offset, torch.ones(1, 1, 1, 1, dtype=dtype)), x)
