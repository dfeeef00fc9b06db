"""Convolution, dilated and depthwise separable.

Yu & Koltun 2015, arXiv:1511.07122; Howard et al. 2017, arXiv:1704.04861; Chollet 2016, arXiv:1610.02357.
"""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from impl.layers.convolution import ContextModule, Conv1d, Conv2d, DepthwiseSeparableConv2d
from spec import cost, laws
from spec.strategies import floats, seeds

dilated, separable = pytest.mark.item("dilated-conv"), pytest.mark.item("depthwise-separable-conv")

pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
margins = st.tuples(st.integers(0, 3), st.integers(0, 3))


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def ready(module, seed=0):
    """float64, and every parameter random so that no default hides a factor."""
    return laws.randomise(module.double(), seed)


def definition(x, weight, bias=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    """y[o, p] = b[o] + Σ_{c,t} w[o, c, t] x[c, s·p + l·t − padding], tap after tap and group after group."""
    (b, _, height, width), (kh, kw) = x.shape, weight.shape[2:]
    framed = x.new_zeros(b, x.shape[1], height + 2 * padding[0], width + 2 * padding[1])
    framed[:, :, padding[0] : padding[0] + height, padding[1] : padding[1] + width] = x
    size = [(n - l * (k - 1) - 1) // s + 1 for n, l, k, s in zip(framed.shape[2:], dilation, (kh, kw), stride)]
    rows = torch.arange(size[0]) * stride[0]
    columns = torch.arange(size[1]) * stride[1]
    blocks = []
    for image, kernel in zip(framed.chunk(groups, dim=1), weight.chunk(groups)):
        y = x.new_zeros(b, len(kernel), *size)
        for i, j in itertools.product(range(kh), range(kw)):
            under = image[:, :, rows[:, None] + i * dilation[0], columns + j * dilation[1]]
            y = y + torch.einsum("oc,bchw->bohw", kernel[:, :, i, j], under)
        blocks.append(y)
    y = torch.cat(blocks, dim=1)
    return y if bias is None else y + bias[:, None, None]


# ---------------------------------------------------------------------------------------------- convolution


@dilated
@given(
    seed=seeds(),
    kernel=pairs,
    stride=pairs,
    padding=margins,
    dilation=pairs,
    groups=st.sampled_from([1, 2]),
    bias=st.booleans(),
)
def test_convolution_is_a_sum_over_channels_and_taps(seed, kernel, stride, padding, dilation, groups, bias):
    """y[o, p] = b[o] + Σ_{c,t} w[o, c, t] · x[c, s·p + l·t − padding], and its gradients, for every geometry.

    Source: Yu & Koltun 2015, eq. 2.  Convention: the kernel is not flipped.
    """
    module = Conv2d(4, 6, kernel, stride, padding, dilation, groups, bias)
    module = ready(module, seed)
    reference = nn.Conv2d(4, 6, kernel, groups=groups, bias=bias).double()
    reference.load_state_dict(module.state_dict())
    reference.forward = lambda x: definition(x, reference.weight, reference.bias, stride, padding, dilation, groups)
    laws.gradients_match(module, reference, normal(2, 4, 7, 8, seed=seed))


@dilated
@given(seed=seeds(), kernel=pairs, dilation=pairs)
def test_dilation_spreads_the_kernel_not_the_image(seed, kernel, dilation):
    """F *_l k = F * k', where k' is k with l − 1 zeros between its taps, l(k − 1) + 1 wide.

    Source: Yu & Koltun 2015, §2: the filter is applied with a dilation factor; no dilated filter is ever built.
    """
    x, module = normal(2, 3, 8, 9, seed=seed), ready(Conv2d(3, 2, kernel, dilation=dilation), seed)
    wide = torch.zeros(2, 3, *(l * (k - 1) + 1 for k, l in zip(kernel, dilation)), dtype=torch.float64)
    wide[:, :, :: dilation[0], :: dilation[1]] = module.weight.detach()
    laws.assert_close(module(x), nn.functional.conv2d(x, wide, module.bias))


@dilated
@given(seed=seeds(), dilation=pairs)
def test_dilated_convolution_treats_subsampled_images_apart(seed, dilation):
    """(F *_l k)[l·i + a] = (F[a::l] * k)[i]: the l² sub-sampled images are convolved each by itself.

    Source: Yu & Koltun 2015, §2; the algorithme à trous (Holschneider et al. 1987) that the section names.
    """
    x, module = normal(2, 3, 11, 10, seed=seed), ready(Conv2d(3, 2, (3, 2), dilation=dilation), seed)
    y = module(x)
    for a, b in itertools.product(range(dilation[0]), range(dilation[1])):
        part = x[:, :, a :: dilation[0], b :: dilation[1]]
        expected = nn.functional.conv2d(part, module.weight, module.bias)
        laws.assert_close(y[:, :, a :: dilation[0], b :: dilation[1]], expected, what=f"offset {a}, {b}")


@dilated
@given(kernel=pairs, stride=pairs, padding=margins, dilation=pairs, height=st.integers(7, 12))
def test_output_size(kernel, stride, padding, dilation, height):
    """H' = ⌊(H + 2·padding − l(k − 1) − 1)/s⌋ + 1: as many positions as the spread kernel has.

    Source: Dumoulin & Visin 2016, arXiv:1603.07285, relationship 15.
    """
    y = Conv2d(1, 3, kernel, stride, padding, dilation)(normal(2, 1, height, 9, dtype=torch.float32))
    last = [n + 2 * p - l * (k - 1) - 1 for n, p, l, k in zip((height, 9), padding, dilation, kernel)]
    expected = (2, 3, *(len(range(0, end + 1, s)) for end, s in zip(last, stride)))
    assert y.shape == expected, f"expected {expected}, found {tuple(y.shape)}"


@dilated
@given(seed=seeds(), down=st.integers(-4, 4), right=st.integers(-4, 4), dilation=pairs)
def test_convolution_moves_with_the_image(seed, down, right, dilation):
    """On a torus conv(shift(x)) = shift(conv(x)): the kernel is the same everywhere.

    Source: Yu & Koltun 2015, eq. 2, where s + l·t = p alone decides.
    """
    module = ready(Conv2d(2, 3, 3, padding=dilation, dilation=dilation, padding_mode="circular"), seed)
    laws.equivariant(module, normal(2, 2, 7, 6, seed=seed), lambda t: t.roll((down, right), dims=(2, 3)))


@pytest.mark.states("limiting case")
@dilated
def test_the_response_to_an_impulse_is_the_kernel_mirrored():
    """conv(δ_q)[p] = w[(q − p)/l]: the response to one pixel is the kernel turned by 180°, its taps l apart.

    Source: Yu & Koltun 2015, eq. 2.  Convention: the kernel is not flipped, so its picture is.
    """
    module = ready(Conv2d(1, 1, 3, dilation=(2, 3), bias=False))
    x = torch.zeros(1, 1, 9, 13, dtype=torch.float64)
    x[0, 0, 4, 6] = 1.0
    expected = torch.zeros(5, 7, dtype=torch.float64)
    expected[::2, ::3] = module.weight.detach()[0, 0].flip(0, 1)
    laws.assert_close(module(x)[0, 0], expected)


@dilated
@given(seed=seeds(), a=floats(-3, 3), b=floats(-3, 3))
def test_convolution_is_linear_and_its_bias_is_added_once(seed, a, b):
    """conv(a·x + b·y) − β = a·(conv(x) − β) + b·(conv(y) − β), β the bias of each output channel.

    Source: Yu & Koltun 2015, eq. 2.
    """
    module = ready(Conv2d(2, 3, (3, 2), stride=(2, 1), padding=1), seed)
    x, y = normal(2, 2, 5, 4, seed=seed), normal(2, 2, 5, 4, seed=seed + 1)
    beta = module.bias[:, None, None]
    laws.assert_close(module(a * x + b * y) - beta, a * (module(x) - beta) + b * (module(y) - beta))


@dilated
@pytest.mark.parametrize(
    ("mode", "theirs"),
    [("zeros", "constant"), ("reflect", "reflect"), ("replicate", "replicate"), ("circular", "circular")],
)
def test_padding_modes(mode, theirs):
    """Margins are zeros, the mirrored image without its edge, the edge again, or the opposite end.

    Convention: torch.nn.Conv2d(padding_mode=…); margins of height and width differ.
    """
    module = ready(Conv2d(2, 3, 3, padding=(2, 3), padding_mode=mode, stride=(1, 2)))
    x = normal(2, 2, 4, 5)
    framed = nn.functional.pad(x, (3, 3, 2, 2), mode=theirs)
    laws.assert_close(module(x), nn.functional.conv2d(framed, module.weight, module.bias, (1, 2)))


@dilated
@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch says that it copies
@given(kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)), dilation=pairs, seed=seeds())
def test_same_padding_keeps_the_size(kernel, dilation, seed):
    """padding="same" keeps the size, and of an odd margin l(k − 1) the larger half is at the end.

    Convention: torch.nn.Conv2d(padding="same"), as in TensorFlow.
    """
    module, x = ready(Conv2d(2, 3, kernel, padding="same", dilation=dilation), seed), normal(2, 2, 6, 5, seed=seed)
    (top, left), (bottom, right) = zip(*(divmod(l * (k - 1), 2) for k, l in zip(kernel, dilation)))
    framed = nn.functional.pad(x, (left, left + right, top, top + bottom))
    expected = nn.functional.conv2d(framed, module.weight, module.bias, dilation=dilation)
    laws.assert_close(module(x), expected)
    assert expected.shape[2:] == x.shape[2:]


@dilated
@pytest.mark.own_code
@given(
    top=st.integers(0, 3),
    bottom=st.integers(0, 3),
    side=st.tuples(st.integers(0, 3), st.integers(0, 3)) | st.integers(0, 3),
    mode=st.sampled_from(("zeros", "reflect", "replicate", "circular")),
    seed=seeds(),
)
def test_each_side_may_have_a_margin_of_its_own(top, bottom, side, mode, seed):
    """padding=((top, bottom), (left, right)) frames the image so; an integer counts for both sides of its dimension.

    Convention: torch.nn has one integer for both sides, and asks for a padding layer in front for more.
    """
    layer = ready(Conv2d(2, 3, (2, 3), padding=((top, bottom), side), padding_mode=mode), seed)
    sequence = ready(Conv1d(2, 3, 2, padding=(side,), padding_mode=mode), seed)
    x = normal(2, 2, 6, 5, seed=seed)
    left, right = side if isinstance(side, tuple) else (side, side)
    how = {"mode": "constant" if mode == "zeros" else mode}
    framed = nn.functional.pad(x, (left, right, top, bottom), **how)
    laws.assert_close(layer(x), nn.functional.conv2d(framed, layer.weight, layer.bias))
    framed = nn.functional.pad(x[:, :, 0], (left, right), **how)
    laws.assert_close(sequence(x[:, :, 0]), nn.functional.conv1d(framed, sequence.weight, sequence.bias))


@dilated
def test_valid_padding_is_none():
    """padding="valid" reads only inside the image.

    Convention: torch.nn.Conv2d(padding="valid").
    """
    module, x = ready(Conv2d(2, 3, (3, 2), padding="valid", stride=(1, 2))), normal(2, 2, 6, 5)
    laws.assert_close(module(x), nn.functional.conv2d(x, module.weight, module.bias, (1, 2)))


@dilated
def test_groups_do_not_see_each_other():
    """With G groups the Jacobian is block-diagonal over channels: block g of the outputs sees block g of the inputs.

    Source: Krizhevsky, Sutskever & Hinton 2012 (NeurIPS), §3.5.
    Convention: a group is a block of neighbouring channels, as in torch.
    """
    module = ready(Conv2d(6, 9, 2, groups=3))
    inside = torch.arange(3).repeat_interleave(2 * 4)
    outside = torch.arange(3).repeat_interleave(3)
    laws.depends_only_on(lambda x: module(x[None])[0], normal(6, 2, 2), outside[:, None] == inside)


@dilated
@pytest.mark.parametrize("length", [5, 8])
def test_a_sequence_is_an_image_of_one_row(length):
    """Conv1d has the output and the gradients of a convolution along the only row of an image.

    Source: Yu & Koltun 2015, eq. 2, which holds in any dimension.  Convention: weights (O, C/groups, k), as in torch.
    """
    arguments = {"stride": 2, "padding": 3, "dilation": 2, "groups": 2}
    module = ready(Conv1d(4, 6, 3, **arguments))
    reference = nn.Conv1d(4, 6, 3, groups=2).double()
    reference.load_state_dict(module.state_dict())
    reference.forward = lambda x: definition(
        x.unsqueeze(2), reference.weight.unsqueeze(2), reference.bias, (1, 2), (0, 3), (1, 2), groups=2
    ).squeeze(2)
    laws.gradients_match(module, reference, normal(2, 4, length))


@dilated
@pytest.mark.parametrize(("kind", "kernel"), [(Conv1d, (3,)), (Conv2d, (3, 2))])
def test_weights_are_initialised_uniform(kind, kernel):
    """Weights and biases are initialised uniform in ±1/√(C/groups · taps), of standard deviation bound/√3.

    Convention: torch.nn's, Kaiming's with a = √5.
    Measured: 0.56 to 0.58 times the bound over 3 seeds; 0.41 with the channels of both groups counted as fan-in. Of
    right code one sample in 10⁵ is refused, for its 256 biases.
    """
    torch.manual_seed(3)
    module = kind(32, 256, kernel, groups=2)
    bound = (16 * torch.tensor(kernel).prod().item()) ** -0.5
    for name, values in (("weight", module.weight), ("bias", module.bias)):
        largest, spread = values.abs().max().item() / bound, values.std().item() / bound
        assert 0.95 < largest <= 1, f"expected {name} to fill ±1/√fan-in, found {largest:.3f} of it"
        assert 0.5 < spread < 0.65, f"expected {name} to be uniform, found a standard deviation of {spread:.3f} bounds"


@dilated
@pytest.mark.parametrize("stride", [(1, 1), (2, 1)])
def test_convolution_has_second_derivatives(stride):
    """The gradient's own gradient is that of central differences, with stride, dilation and groups.

    Source: the definition of the derivative; gradient penalties differentiate twice.
    """
    module = Conv2d(4, 2, (2, 1), stride=stride, padding=(1, 0), dilation=(1, 2), groups=2)
    laws.gradient_correct(module, normal(2, 4, 4, 3), second_order=True)


@dilated
@pytest.mark.parametrize("bias", [True, False])
def test_convolutions_take_the_precision_of_an_autocast_region(bias):
    """Under torch.autocast a convolution of float32 tensors is one of bfloat16, bias or not; float64 stays float64.

    Source: the contract of torch.autocast: convolutions are among what it casts, for their speed.
    """
    image, sequence = Conv2d(3, 4, (2, 3), stride=(2, 1), bias=bias), Conv1d(4, 6, 2, dilation=2, bias=bias)
    for module, x in ((image, normal(2, 3, 5, 6)), (sequence, normal(2, 4, 7))):
        exact = module.double()(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            laws.assert_same(module(x), exact)
            mixed = module.float()(x.float())
        assert mixed.dtype == torch.bfloat16, f"expected bfloat16, found {mixed.dtype}"
        laws.assert_close(mixed.double(), exact, rtol=0.02, atol=0.02, because="bfloat16 has 8 bits")


LAYERS = {
    "1×1": (lambda **o: Conv2d(4, 4, 1, **o), (2, 4, 5, 3)),
    "3×3": (lambda **o: Conv2d(4, 4, 3, padding=1, groups=2, **o), (2, 4, 5, 3)),
    "one position": (lambda **o: Conv2d(4, 4, (3, 5), **o), (2, 4, 3, 5)),
    "sequence": (lambda **o: Conv1d(4, 4, 1, **o), (2, 4, 5)),
    "separable": (lambda **o: DepthwiseSeparableConv2d(4, 4, 3, padding=1, **o), (2, 4, 5, 3)),
}
EACH_LAYER = pytest.mark.parametrize(("build", "shape"), LAYERS.values(), ids=LAYERS)


@dilated
@EACH_LAYER
@pytest.mark.parametrize("bias", [True, False])
def test_the_output_of_a_convolution_may_be_changed_in_place(build, shape, bias):
    """y = conv(x); y += c; y.relu_() gives the output and the gradients of relu(conv(x) + c).

    Source: torch.nn.Conv2d, whose outputs may; residual blocks and ReLU(inplace=True) do it.
    """
    layer, x = ready(build(bias=bias)), normal(*shape)

    def in_place(x):
        y = layer(x)
        y += 0.25
        return y.relu_()

    y = in_place(x.requires_grad_())
    expected = (layer(x) + 0.25).relu()
    laws.assert_close(y, expected)
    leaves, cotangent = [x, *layer.parameters()], normal(*y.shape, seed=1)
    found = torch.autograd.grad(y, leaves, cotangent)
    laws.assert_all_close(found, torch.autograd.grad(expected, leaves, cotangent))


@dilated
@pytest.mark.filterwarnings("ignore:Complex modules")  # torch says that they are new
@pytest.mark.parametrize("stride", [(1, 1), (2, 1)])
@pytest.mark.parametrize("kernel", [(1, 1), (2, 3)])
def test_gradients_of_complex_images_conjugate_the_other_factor(kernel, stride):
    """For complex x and w, ∂/∂x and ∂/∂w are Σ w̄·ȳ' and Σ x̄·ȳ', as torch's: for w = x = i and |y|² both are 2i.

    Convention: autograd's, the gradient of a real loss is the direction of steepest ascent (Wirtinger, conjugated).
    """
    ours = Conv2d(4, 6, kernel, stride, (1, 0), (1, 2), groups=2).to(torch.complex128)
    theirs = nn.Conv2d(4, 6, kernel, stride, (1, 0), (1, 2), groups=2).to(torch.complex128)
    for n, parameter in enumerate(ours.parameters()):
        parameter.data.copy_(normal(*parameter.shape, seed=n, dtype=torch.complex128))
    theirs.load_state_dict(ours.state_dict())
    found, expected = [], []
    for module, grads in ((ours, found), (theirs, expected)):
        x = normal(2, 4, 5, 7, dtype=torch.complex128).requires_grad_()
        loss = (module(x) * normal(1, 6, 1, 1, seed=9, dtype=torch.complex128)).abs().square().sum()
        (d_x,) = torch.autograd.grad(loss, x, create_graph=True)
        d_x.abs().square().sum().backward()  # second derivatives too
        grads += [d_x, x.grad, module.weight.grad]
    for name, a, b in zip(("x", "x, twice", "weight, twice"), found, expected):
        laws.assert_close(torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj()), what=name)


def assert_costs(found, most):
    """A formulation may compute a few more positions, where a kernel would reach over the end of a row, and drop them.

    With the dense kernel of dilation 2 in its place a dilated 3×3 kernel costs 2.8 times as much, and a full
    convolution in place of a separable one at least 2.7 times. Fewer operations are welcome: products of elements and
    transforms are not counted.
    """
    assert found <= 1.08 * most, f"expected at most {most} operations, found {found}"


@dilated
@pytest.mark.parametrize("dilation", [1, 2, 5])
def test_cost_does_not_depend_on_dilation(dilation):
    """At most 2·B·O·(C/groups)·k²·H'·W' operations and O·(C/groups)·k² weights, whatever l: dilation is free.

    Source: Yu & Koltun 2015, §2: exponential growth of the receptive field without loss of resolution or coverage, with
    parameters that grow linearly.
    """
    module = Conv2d(4, 6, 3, padding=dilation, dilation=dilation, groups=2, bias=False)
    assert sum(p.numel() for p in module.parameters()) == 6 * 2 * 9
    found = cost.flops(module, normal(3, 4, 7, 150, dtype=torch.float32))
    assert_costs(found, 2 * 3 * 6 * 2 * 9 * 7 * 150)


@dilated
@pytest.mark.parametrize(("needed", "convolutions"), [(True, 3), (False, 2)])
def test_backward_costs_what_it_must(needed, convolutions):
    """Forward and backward are at most three convolutions' worth of work, two where the input needs no gradient.

    The gradient to the input is a convolution of the output's gradient with margins around it, which cost little here.

    Source: LeCun et al. 1998, the first layer of a network; each of the three products has the same size.
    """
    module = Conv2d(3, 5, 3, padding=1, bias=False)
    x = normal(2, 3, 48, 70, dtype=torch.float32).requires_grad_(needed)
    found = cost.flops(lambda t: module(t).sum().backward(), x)
    assert_costs(found, convolutions * 2 * 2 * 5 * 3 * 9 * 48 * 70)


# ---------------------------------------------------------------------------------------------- receptive fields


def support(layers, side=81):
    """How far, and at how many pixels, the middle output of a stack depends on the input."""
    x = torch.zeros(1, 1, side, side, dtype=torch.float64, requires_grad=True)
    y = x
    for layer in layers:
        y = layer(y)
    y[0, 0, side // 2, side // 2].backward()
    seen = x.grad[0, 0] != 0
    rows, columns = (seen.any(d).nonzero() for d in (1, 0))
    return (rows.max() - rows.min() + 1).item(), (columns.max() - columns.min() + 1).item(), seen.sum().item()


def stack(dilations):
    """3×3 convolutions of positive weights, which cannot cancel."""
    layers = [Conv2d(1, 1, 3, padding=l, dilation=l).double() for l in dilations]
    for layer in layers:
        layer.weight.data.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(0))
    return layers


@dilated
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_receptive_field_doubles_with_each_layer(layers):
    """Dilations 1, 2, 4, …, 2^i give a receptive field of (2^(i+2) − 1)², and every pixel of it counts.

    Source: Yu & Koltun 2015, §2 and fig. 1.
    """
    side = 2 ** (layers + 1) - 1
    found = support(stack([2**i for i in range(layers)]))
    assert found == (side, side, side**2), f"expected {side}×{side} pixels, all seen, found {found}"


@dilated
def test_equal_dilations_leave_a_grid():
    """Three layers of dilation 2 reach 13×13 pixels but see only every other one, 49 of 169: gridding.

    Source: Yu, Koltun & Funkhouser 2017, arXiv:1705.09914, §3.3; Wang et al. 2017, arXiv:1702.08502, fig. 2.
    """
    found = support(stack([2, 2, 2]))
    assert found == (13, 13, 49), f"expected 13×13 pixels, 49 of them seen, found {found}"


@dilated
def test_context_module_sees_67_by_67():
    """The module's eight layers see 3, 5, 9, 17, 33, 65, 67, 67 pixels a side, every pixel of them.

    Source: Yu & Koltun 2015, table 1, row "Receptive field".
    """
    module = ContextModule(1).double()
    found = []
    for layer in module.layers:
        layer.weight.data.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(0))
        found.append(support(module.layers[: len(found) + 1]))
    expected = [(n, n, n * n) for n in (3, 5, 9, 17, 33, 65, 67, 67)]
    assert found == expected, f"expected {expected}, found {found}"


@pytest.mark.states("limiting case")
@dilated
@pytest.mark.parametrize("channels", [1, 3])
def test_context_module_is_initialised_as_the_identity(channels):
    """A new module returns every non-negative map unchanged, and the positive part of any other.

    Source: Yu & Koltun 2015, eq. 4: k^b(t, a) = 1[t = 0]·1[a = b]; the truncation max(·, 0) of §3.
    """
    x = normal(2, channels, 9, 7)
    laws.assert_close(ContextModule(channels).double()(x), x.clamp(min=0))


@dilated
def test_context_module_truncates_between_its_layers_but_not_at_its_end():
    """out = w₈ * r(w₇ * … r(w₁ * x)), r = max(·, 0): the last layer may go below zero.

    Source: Yu & Koltun 2015, table 1, row "Truncation": seven times yes, then no.
    """
    module, x = ready(ContextModule(2)), normal(2, 2, 6, 5)
    for layer in module.layers:
        layer.weight.data *= 0.3
    expected = x
    for n, l in enumerate((1, 1, 2, 4, 8, 16, 1, 0)):
        layer = module.layers[n]
        y = nn.functional.conv2d(expected, layer.weight, layer.bias, padding=l, dilation=max(l, 1))
        expected = y if n == 7 else y.clamp(min=0)
    laws.assert_close(module(x), expected)
    assert expected.min() < 0, "the case is empty: expected a negative output"


@dilated
def test_context_module_learns_in_every_layer_from_its_initialisation():
    """At the identity every weight and bias of the module gets gradient: the zeros are no trap.

    Source: Yu & Koltun 2015, §3: from the identity, backpropagation harvests the context.
    """
    module = ContextModule(2).double()
    loss = (module(normal(2, 2, 40, 36).abs()) * normal(2, 2, 40, 36, seed=1)).sum()
    laws.gradient_reaches(loss, dict(module.named_parameters()))


# ---------------------------------------------------------------------------------------------- depthwise separable


@pytest.mark.states("equivalence")
@separable
@given(seed=seeds(), kernel=pairs, stride=pairs, padding=margins, dilation=pairs, multiplier=st.integers(1, 3))
def test_separable_convolution_is_a_full_one_of_factored_kernels(seed, kernel, stride, padding, dilation, multiplier):
    """It equals the full convolution of kernel K[n, m, t] = Σ_i P[n, m·d + i] · D[m·d + i, t], d the multiplier.

    Source: Howard et al. 2017, eq. 3: Ĝ = Σ K̂_m · F_m, followed by a 1×1 convolution.
    Convention: the kernels of input channel m give the outputs m·d … m·d + d − 1 of the depthwise half, as in torch.
    """
    module = ready(DepthwiseSeparableConv2d(3, 4, kernel, stride, padding, dilation, multiplier), seed)
    mixing = module.pointwise.weight[:, :, 0, 0].unflatten(1, (3, multiplier))
    kernels = module.depthwise.weight[:, 0].unflatten(0, (3, multiplier))
    full = torch.einsum("nmi,miyx->nmyx", mixing, kernels)
    x = normal(2, 3, 8, 7, seed=seed)
    laws.assert_close(module(x), nn.functional.conv2d(x, full, None, stride, padding, dilation))


@separable
def test_depthwise_half_keeps_channels_apart():
    """Output m·d + i of the depthwise half depends on the pixels of channel m under the kernel and on nothing else.

    Source: Howard et al. 2017, §3.1: depthwise convolution only filters input channels, it does not combine them.
    """
    module = ready(DepthwiseSeparableConv2d(3, 5, 2, depth_multiplier=2))
    channel_of_output = torch.arange(3).repeat_interleave(2)
    channel_of_input = torch.arange(3).repeat_interleave(4)
    laws.depends_only_on(
        lambda x: module.depthwise(x[None])[0], normal(3, 2, 2), channel_of_output[:, None] == channel_of_input
    )


@separable
def test_pointwise_half_keeps_pixels_apart():
    """The pointwise half mixes all channels of one pixel, and never two pixels.

    Source: Howard et al. 2017, §3.1: a 1×1 convolution to create a linear combination of the depthwise layer's output.
    """
    module = ready(DepthwiseSeparableConv2d(2, 3, 3, padding=1, depth_multiplier=2))
    pixel = torch.arange(6)
    laws.depends_only_on(
        lambda x: module.pointwise(x[None])[0],
        normal(4, 2, 3),
        (pixel.repeat(3)[:, None] == pixel.repeat(4)),
    )


@separable
@given(seed=seeds(), a=floats(-3, 3))
def test_there_is_nothing_between_the_two_halves(seed, a):
    """f(a·x) = a·f(x) for every a, negative ones too: there is no activation between the halves.

    Source: Chollet 2016, §3.2 and fig. 10: no intermediate activation is better.
    Convention: MobileNet's batch normalization and ReLU after each half are the network's, not the layer's.
    """
    module, x = ready(DepthwiseSeparableConv2d(3, 4, (3, 2), padding=1), seed), normal(2, 3, 4, 5, seed=seed)
    laws.assert_close(module(a * x), a * module(x))


@separable
@pytest.mark.parametrize(("inside", "outside", "side"), [(4, 64, 3), (6, 10, 5), (3, 7, 1)])
def test_cost_is_a_fraction_of_the_full_convolution(inside, outside, side):
    """At most D_K²·M·D_F² + M·N·D_F² multiply-adds, 1/N + 1/D_K² of the full convolution's D_K²·M·N·D_F².

    Source: Howard et al. 2017, eq. 5 and the ratio below it: 8 to 9 times less for 3×3 kernels.
    """
    module = DepthwiseSeparableConv2d(inside, outside, side, padding="same")
    found = cost.flops(module, normal(2, inside, 8, 90, dtype=torch.float32))
    full = 2 * 2 * side**2 * inside * outside * 8 * 90
    expected = 2 * 2 * 8 * 90 * (side**2 * inside + inside * outside)
    assert expected * outside * side**2 == full * (side**2 + outside)  # the ratio is 1/N + 1/D_K²
    assert_costs(found, expected)


@separable
@pytest.mark.parametrize("bias", [False, True])
def test_separable_parameters(bias):
    """There are M·d·D_K² + M·d·N weights; with biases M·d + N more, and none by default.

    Source: Howard et al. 2017, §3.1, where batch normalization follows and makes biases redundant.
    """
    module = DepthwiseSeparableConv2d(3, 5, (3, 2), depth_multiplier=2, **({"bias": True} if bias else {}))
    found, expected = sum(p.numel() for p in module.parameters()), 6 * 6 + 6 * 5 + bias * (6 + 5)
    assert found == expected, f"expected {expected} parameters, found {found}"
