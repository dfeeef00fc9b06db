"""Transposed convolution.  Dumoulin & Visin 2016, arXiv:1603.07285, §4."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from impl.layers.transposed_convolution import ConvTranspose2d
from spec import laws
from spec.strategies import seeds

pytestmark = pytest.mark.item("dilated-conv")

pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(
    seed=seeds(),
    kernel=pairs,
    stride=pairs,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=pairs,
    groups=st.sampled_from([1, 2]),
)
def test_transposed_convolution_is_the_adjoint(seed, kernel, stride, padding, dilation, groups):
    """⟨A x, y⟩ = ⟨x, Aᵀ y⟩ for the convolution A of the same weight, stride, padding, dilation and groups.

    Source: Dumoulin & Visin 2016, §4.1: the transposed convolution multiplies by Cᵀ where the convolution does by C.
    Convention: output_padding is how many rows at the end of x the stride leaves unread.
    """
    x = normal(2, 4, 9, 8, seed=seed)
    weight = normal(6, 4 // groups, *kernel, seed=seed + 1)
    ax = nn.functional.conv2d(x, weight, None, stride, padding, dilation, groups)
    unread = [
        (n + 2 * p - l * (k - 1) - 1) % s for n, p, l, k, s in zip(x.shape[2:], padding, dilation, kernel, stride)
    ]
    module = ConvTranspose2d(6, 4, kernel, stride, padding, unread, groups, False, dilation).double()
    module.load_state_dict({"weight": weight})
    y = normal(*ax.shape, seed=seed + 2)
    laws.assert_close((x * module(y)).sum(), (ax * y).sum())


def stamps(y, weight, bias, stride, padding, dilation, extra):
    """Every pixel of y, multiplied by the kernel, added up where it falls."""
    (_, _, h, w), (kh, kw) = y.shape, weight.shape[2:]
    height = (h - 1) * stride[0] + dilation[0] * (kh - 1) + 1 + extra[0]
    width = (w - 1) * stride[1] + dilation[1] * (kw - 1) + 1 + extra[1]
    x = y.new_zeros(len(y), weight.shape[1], height * width)
    for i in range(kh):
        for j in range(kw):
            rows, columns = torch.arange(h) * stride[0] + i * dilation[0], torch.arange(w) * stride[1] + j * dilation[1]
            stamp = torch.einsum("oc,bohw->bchw", weight[:, :, i, j], y)
            x = x.index_add(2, (rows[:, None] * width + columns).flatten(), stamp.flatten(2))
    x = x.unflatten(2, (height, width))[:, :, padding[0] : height - padding[0], padding[1] : width - padding[1]]
    return x if bias is None else x + bias[:, None, None]


@given(
    seed=seeds(),
    kernel=pairs,
    stride=pairs,
    dilation=pairs,
    extra=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    bias=st.booleans(),
)
def test_each_pixel_stamps_the_kernel(seed, kernel, stride, dilation, extra, bias):
    """x[c, s·p + l·t − padding] collects w[o, c, t]·y[o, p] over all o, p, t; its gradients are those of the sum.

    Source: Dumoulin & Visin 2016, §4.  Convention: rows of the output padding that nothing reaches hold the bias.
    """
    extra = tuple(min(e, max(s, l) - 1) for e, s, l in zip(extra, stride, dilation))
    module = ConvTranspose2d(2, 3, kernel, stride, (1, 2), extra, 1, bias, dilation).double()
    reference = nn.ConvTranspose2d(2, 3, kernel, bias=bias).double()
    reference.load_state_dict(laws.randomise(module, seed).state_dict())
    reference.forward = lambda y: stamps(y, reference.weight, reference.bias, stride, (1, 2), dilation, extra)
    laws.gradients_match(module, reference, normal(2, 2, 4, 5, seed=seed))


def test_padding_may_cut_off_all_that_was_stamped():
    """Where the padding is wider than the stamps, what is left are rows of the output padding, which hold the bias.

    H' = 0·2 − 2·2 + 1 + 4 = 1 row, at position 2; the only stamp is at 0.

    Source: Dumoulin & Visin 2016, relationship 14.  Convention: torch's; output_padding is below stride or dilation.
    """
    arguments = {"stride": (2, 1), "padding": (2, 0), "output_padding": (4, 0), "dilation": (5, 1)}
    module = laws.randomise(ConvTranspose2d(2, 3, (1, 2), **arguments).double())
    expected = module.bias[:, None, None].expand(2, 3, 1, 5)
    laws.assert_close(module(normal(2, 2, 1, 4)), expected)


@pytest.mark.parametrize(("size", "stride", "kernel", "padding", "expected"), [(5, 2, 4, 1, 10), (4, 3, 3, 0, 12)])
def test_stride_multiplies_the_size(size, stride, kernel, padding, expected):
    """H' = (H − 1)·s − 2·padding + l·(k − 1) + 1 + output_padding: the usual settings enlarge s times.

    Source: Dumoulin & Visin 2016, relationship 14.
    """
    y = ConvTranspose2d(2, 3, kernel, stride, padding)(torch.randn(2, 2, size, size + 1))
    assert y.shape == (2, 3, expected, expected + stride), f"expected {expected} rows, found {tuple(y.shape)}"


def test_groups_do_not_see_each_other():
    """With G groups, block g of the outputs depends on block g of the inputs and on nothing else.

    Convention: weight (in_channels, out_channels/groups, kh, kw), groups are neighbouring channels, as in torch.
    """
    module = laws.randomise(ConvTranspose2d(4, 6, (1, 2), groups=2).double())
    inside, outside = torch.arange(2).repeat_interleave(2), torch.arange(2).repeat_interleave(3 * 2)
    laws.depends_only_on(lambda y: module(y[None])[0], normal(4, 1, 1), outside[:, None] == inside)


def test_weights_are_initialised_uniform():
    """Weights and biases are initialised uniform in ±1/√(out_channels/groups · taps).

    Convention: torch's, which takes the second size of the weight for its inputs.
    Measured: 0.575 to 0.578 times the bound over 3 seeds; 0.41 with twice the fan.
    """
    torch.manual_seed(3)
    module = ConvTranspose2d(256, 64, (3, 2), groups=4)
    bound = (16 * 6) ** -0.5
    largest, deviation = module.weight.abs().max().item() / bound, module.weight.std().item() / bound
    assert 0.95 < largest <= 1, f"expected the weight to fill ±1/√fan, found {largest:.3f} of it"
    assert 0.5 < deviation < 0.65, f"expected a uniform weight, found a standard deviation of {deviation:.3f} bounds"
    largest = module.bias.abs().max().item() / bound
    assert 0.9 < largest <= 1, f"expected the bias to fill ±1/√fan, found {largest:.3f} of it"


def test_transposed_convolution_has_second_derivatives():
    """The gradient's own gradient is that of central differences.

    Source: the definition of the derivative; gradient penalties of generators differentiate twice.
    """
    module = ConvTranspose2d(2, 2, (2, 1), stride=(1, 2), padding=(1, 0), groups=2, dilation=(2, 1))
    laws.gradient_correct(module, normal(2, 2, 2, 3), second_order=True)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (2, 2), (3, (2, 1))])
@pytest.mark.parametrize("bias", [True, False])
def test_the_output_may_be_changed_in_place(kernel, stride, bias):
    """y = conv(x); y += c; y.relu_() gives the output and the gradients of relu(conv(x) + c).

    Source: torch.nn.ConvTranspose2d, whose outputs may; ReLU(inplace=True) in a decoder does it.
    """
    layer = laws.randomise(ConvTranspose2d(2, 3, kernel, stride, bias=bias).double())
    x = normal(2, 2, 3, 4).requires_grad_()
    y = layer(x)
    y += 0.25
    y.relu_()
    expected = (layer(x) + 0.25).relu()
    laws.assert_close(y, expected)
    leaves, cotangent = [x, *layer.parameters()], normal(*y.shape, seed=1)
    found = torch.autograd.grad(y, leaves, cotangent)
    laws.assert_all_close(found, torch.autograd.grad(expected, leaves, cotangent))


@pytest.mark.filterwarnings("ignore:Complex modules")  # torch says that they are new
def test_gradients_of_complex_images_conjugate_the_other_factor():
    """For complex x and w, ∂/∂x and ∂/∂w hold w̄ and x̄, as torch's, in first and second derivatives.

    Convention: autograd's, the gradient of a real loss is the direction of steepest ascent (Wirtinger, conjugated).
    """
    arguments = (4, 6, (3, 2), (2, 1), (1, 0), (1, 0), 2)
    ours, theirs = (kind(*arguments).to(torch.complex128) for kind in (ConvTranspose2d, nn.ConvTranspose2d))
    generator = torch.Generator().manual_seed(0)
    for parameter in ours.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.complex128))
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(2, 4, 3, 5, generator=generator, dtype=torch.complex128)
    found = []
    for module in (ours, theirs):
        x = image.clone().requires_grad_()
        (d_x,) = torch.autograd.grad(module(x).abs().square().sum(), x, create_graph=True)
        d_x.abs().square().sum().backward()
        found.append((d_x, x.grad, module.weight.grad))
    for name, a, b in zip(("x", "x, twice", "weight, twice"), *found):
        laws.assert_close(torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj()), what=name)
