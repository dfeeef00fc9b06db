"""GLU, SwiGLU and GEGLU.  Dauphin et al. 2016, arXiv:1612.08083; Shazeer 2020, arXiv:2002.05202."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from impl.layers.gated import GEGLU, GLU, SwiGLU
from spec import cost, laws
from spec.strategies import floats, seeds, shapes, sizes, tensors, varied


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# ---------------------------------------------------------------------------------------------- GLU


@pytest.mark.item("glu")
@given(value=tensors(shape=(2, 3)), gate=tensors(shape=(2, 3)))
def test_the_second_half_gates_the_first(value, gate):
    """GLU([a, b]) = a ⊗ σ(b) = a / (1 + e^−b).

    Source: Dauphin et al. 2016, eq. 1.  Convention: the second half is the gate, as in torch.nn.GLU; the halves lie
    one after the other, not interleaved.
    """
    laws.assert_close(GLU()(torch.cat([value, gate], -1)), value / (1 + torch.exp(-gate)))


@pytest.mark.item("glu")
@pytest.mark.states("symmetry")
@given(x=varied(shapes(dims=(2, 4), side=(1, 3)).map(lambda s: tuple(2 * n for n in s))), data=st.data())
def test_any_dimension_may_be_halved(x, data):
    """GLU(dim) is GLU over the last dimension after moving `dim` there; negative dims count from the end; default −1.

    Source: Dauphin et al. 2016, eq. 1; the gate acts on channels, whatever dimension holds them.
    """
    dim = data.draw(st.integers(-x.dim(), x.dim() - 1))
    laws.assert_close(GLU(dim)(x).movedim(dim, -1), GLU(-1)(x.movedim(dim, -1)))
    laws.assert_same(GLU()(x), GLU(-1)(x))
    laws.assert_close(GLU(dim)(x), x.narrow(dim, 0, x.shape[dim] // 2) * half(x, dim).sigmoid())


def half(x, dim):
    """The second half along a dimension."""
    return x.narrow(dim, x.shape[dim] // 2, x.shape[dim] // 2)


@pytest.mark.item("glu")
@pytest.mark.states("limiting case")
@given(value=tensors(shape=(2, 3)))
def test_an_open_gate_passes_and_a_closed_one_stops(value):
    """σ(−∞) = 0 stops the value, σ(0) = 1/2 halves it, σ(∞) = 1 passes it unchanged.

    Source: Dauphin et al. 2016, section 2: the gates control what information is passed on.
    """
    for gate, kept in ((-800.0, 0.0), (0.0, 0.5), (800.0, 1.0)):
        laws.assert_close(GLU()(torch.cat([value, torch.full_like(value, gate)], -1)), kept * value)


@pytest.mark.item("glu")
@pytest.mark.states("symmetry")
@given(value=varied((2, 3)), gate=varied((2, 3)))
def test_opposite_gates_share_the_value(value, gate):
    """GLU([a, b]) + GLU([a, −b]) = a, for σ(b) + σ(−b) = 1.

    Source: Dauphin et al. 2016, eq. 1, with the symmetry of the logistic function.
    """
    both = GLU()(torch.cat([value, gate], -1)) + GLU()(torch.cat([value, -gate], -1))
    laws.assert_close(both, value)


@pytest.mark.item("glu")
@given(a=varied((2, 3)), b=varied((2, 3)), gate=varied((2, 3)), scale=floats(-5, 5))
def test_the_value_passes_linearly(a, b, gate, scale):
    """For a fixed gate GLU is linear in the value: GLU([s·a + b, c]) = s·GLU([a, c]) + GLU([b, c]).

    Source: Dauphin et al. 2016, section 3: a linear path for the gradient, unlike tanh(a) ⊗ σ(c) of the LSTM.
    """

    def glu(value):
        return GLU()(torch.cat([value, gate], -1))

    laws.assert_close(glu(scale * a + b), scale * glu(a) + glu(b))


@pytest.mark.item("glu")
@pytest.mark.states("gradient routing")
@given(x=varied((2, 6)), cotangent=varied((2, 3)))
def test_its_gradient_has_an_unscaled_path(x, cotangent):
    """∇[a ⊗ σ(b)] = ∇a ⊗ σ(b) + a ⊗ σ'(b) ∇b: the value's gradient is scaled by the gate alone.

    Source: Dauphin et al. 2016, eq. 3; σ' = σ(1 − σ).
    """
    x = x.requires_grad_()
    (found,) = torch.autograd.grad(GLU()(x), x, cotangent)
    value, gate = x.detach().chunk(2, -1)
    open_ = 1 / (1 + torch.exp(-gate))
    laws.assert_close(found, torch.cat([cotangent * open_, cotangent * value * open_ * (1 - open_)], -1))


@pytest.mark.item("glu")
def test_each_output_depends_on_its_value_and_its_gate():
    """y_i depends on a_i and b_i and on nothing else.

    Source: Dauphin et al. 2016, eq. 1: ⊗ is elementwise.
    """
    eye = torch.eye(3, dtype=torch.bool)
    laws.depends_only_on(GLU(), normal(6), torch.cat([eye, eye], 1))


@pytest.mark.item("glu")
@pytest.mark.states("limiting case")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saturated_gates_are_exact_and_finite(dtype):
    """At gates of ±1000 output and gradient are finite: exactly the value or exactly zero, and no gate gradient.

    Source: the limits of σ; e^1000 overflows.
    """
    x = torch.tensor([3.0, -5.0, 1000.0, -1000.0], dtype=dtype, requires_grad=True)
    y = GLU()(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    laws.assert_same(y.detach().abs(), torch.tensor([3.0, 0.0], dtype=dtype))
    laws.assert_same(gradient.abs(), torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=dtype))


@pytest.mark.item("glu")
@pytest.mark.parametrize(("dim", "shape"), [(-1, (3, 8)), (1, (2, 6, 5)), (0, (4, 3)), (-2, (2, 4, 3))])
def test_the_gradient_of_its_gradient_is_right(dim, shape):
    """Second derivatives are those of central differences, along any dimension.

    Source: the definition of the derivative; gradient penalties differentiate twice.
    """
    laws.gradient_correct(GLU(dim), normal(*shape), second_order=True)


@pytest.mark.item("glu")
@given(x=varied((2, 6)))
def test_a_projection_of_twice_the_width_is_the_papers_layer(x):
    """h(X) = (XW + b) ⊗ σ(XV + c) is a linear layer with [W V] and [b c] followed by GLU.

    Source: Dauphin et al. 2016, eq. 1; Shazeer 2020, eq. 4.
    """
    wide = nn.Linear(6, 10, dtype=torch.float64)
    w, v = wide.weight.detach().chunk(2)
    b, c = wide.bias.detach().chunk(2)
    expected = (x @ w.T + b) / (1 + torch.exp(-(x @ v.T + c)))
    laws.assert_close(GLU()(wide(x)).detach(), expected)


# ---------------------------------------------------------------------------------------------- SwiGLU and GEGLU


def phi(z):
    """The standard normal distribution function, through erfc."""
    return 0.5 * torch.special.erfc(-z / 2**0.5)


def swish(z):
    return z / (1 + torch.exp(-z))


def gelu(z):
    return z * phi(z)


def gelu_tanh(z):
    """Through the logistic function: 1/2 (1 + tanh u) = σ(2u)."""
    u = math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)
    return z / (1 + torch.exp(-2 * u))


def of_both(function):
    """Run a spec for SwiGLU and for GEGLU, each under its own item."""
    both = [
        pytest.param(SwiGLU, swish, id="SwiGLU", marks=pytest.mark.item("swiglu")),
        pytest.param(GEGLU, gelu, id="GEGLU", marks=pytest.mark.item("geglu")),
    ]
    return pytest.mark.parametrize(("layer", "gate"), both)(function)


def build(layer, *arguments, seed=0, **options):
    """A layer in float64 with weights that hide no factor."""
    return laws.randomise(layer(*arguments, **options).double(), seed)


def formula(module, gate, x):
    """(gate(x W + b) ⊗ (x V + c)) W₂ + d from a layer's parameters."""
    weights = {name: p.detach() for name, p in module.named_parameters()}

    def linear(name, x):
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)

    return linear("down_proj", gate(linear("gate_proj", x)) * linear("up_proj", x))


@pytest.mark.states("equivalence")
@of_both
@given(seed=seeds(), batch=sizes(1, 3), d_in=sizes(1, 5), hidden=sizes(1, 6), d_out=sizes(1, 4), bias=st.booleans())
def test_the_feed_forward_layer_is_the_papers(layer, gate, seed, batch, d_in, hidden, d_out, bias):
    """FFN(x) = (gate(x W) ⊗ x V) W₂ with gate z σ(z) for SwiGLU and z Φ(z) for GEGLU; with biases, one on each map.

    Source: Shazeer 2020, eq. 5 and 6.  Convention: W, V, W₂ are gate_proj, up_proj, down_proj, each (out, in).
    """
    module = build(layer, d_in, hidden, d_out, bias=bias, seed=seed)
    x = normal(batch, d_in, seed=seed + 1)
    laws.assert_close(module(x).detach(), formula(module, gate, x))


@of_both
def test_by_default_there_are_three_matrices_and_no_bias(layer, gate):
    """There are three matrices W, V (hidden × in) and W₂ (out × hidden), and by default no biases.

    Source: Shazeer 2020, eq. 6 omits the biases.  Convention: names and layout of LLaMA's feed-forward layer.
    """
    matrices = {"gate_proj.weight": (5, 3), "up_proj.weight": (5, 3), "down_proj.weight": (2, 5)}
    assert {n: tuple(p.shape) for n, p in layer(3, 5, 2).state_dict().items()} == matrices


@of_both
def test_a_single_unit_is_a_scalar_function(layer, gate):
    """With W = V = W₂ = 1 the layer is x·gate(x): 1² σ(1) = 0.7311 and (−1)² σ(−1) = 0.2689 for SwiGLU, both positive.

    Source: Shazeer 2020, eq. 6 on scalars; for GEGLU 1² Φ(1) = 0.8413 and Φ(−1) = 0.1587.
    """
    module = layer(1, 1, 1).double()
    for parameter in module.parameters():
        parameter.data.fill_(1)
    expected = {"SwiGLU": (0.731058578630004879, 0.268941421369995121)}
    expected["GEGLU"] = (0.841344746068542949, 0.158655253931457051)
    found = module(torch.tensor([[1.0], [-1.0]], dtype=torch.float64)).detach()
    laws.assert_close(found.flatten(), torch.tensor(expected[layer.__name__], dtype=torch.float64))


@pytest.mark.states("limiting case")
@of_both
@given(x=varied((2, 4)))
def test_a_gate_of_zero_closes(layer, gate, x):
    """Where x W = 0 the output is exactly 0: Swish(0) = GELU(0) = 0, where the gate of GLU, σ(0) = 1/2, is half open.

    Source: Shazeer 2020, eq. 5; section 2.
    """
    module = build(layer, 4, 5, 3)
    module.gate_proj.weight.data.zero_()
    laws.assert_same(module(x).detach().abs(), torch.zeros(2, 3, dtype=torch.float64))


@of_both
@given(x=varied((2, 4)), seed=seeds())
def test_the_value_branch_is_linear(layer, gate, x, seed):
    """FFN(x; W, V₁ + V₂, W₂) = FFN(x; W, V₁, W₂) + FFN(x; W, V₂, W₂): no nonlinearity on x V; on x W there is one.

    Source: Shazeer 2020, eq. 6: the gate's function applies to x W alone.
    """
    module = build(layer, 4, 5, 3, seed=seed)

    def with_weight(name, weight):
        return torch.func.functional_call(module, {f"{name}.weight": weight}, x)

    first, second = normal(5, 4, seed=seed + 1), normal(5, 4, seed=seed + 2)
    parts = with_weight("up_proj", first) + with_weight("up_proj", second)
    laws.assert_close(with_weight("up_proj", first + second), parts.detach())
    parts = with_weight("gate_proj", first) + with_weight("gate_proj", second)
    laws.assert_differs(with_weight("gate_proj", first + second), parts, by=1e-3, what="the gate branch")


@of_both
@given(x=varied((2, 4)))
def test_gate_and_value_are_different_branches(layer, gate, x):
    """Exchanging W and V changes the output: gate(x W) ⊗ x V ≠ gate(x V) ⊗ x W.

    Source: Shazeer 2020, eq. 6; checkpoints with the two exchanged load without an error.
    """
    module = build(layer, 4, 5, 3)
    before = module(x).detach()
    laws.assert_close(before, formula(module, gate, x))
    gate_weight, up_weight = module.gate_proj.weight.data, module.up_proj.weight.data
    module.gate_proj.weight.data, module.up_proj.weight.data = up_weight, gate_weight
    laws.assert_differs(module(x).detach(), before, by=1e-3)


@pytest.mark.states("limiting case")
@of_both
def test_far_out_it_is_a_rectified_bilinear_form(layer, gate):
    """FFN(c x)/c² → (relu(x W) ⊗ x V) W₂ as c → ∞: Swish and GELU approach ReLU, and two branches make degree 2.

    Source: Shazeer 2020, eq. 5 and 6: ReGLU is their common limit.
    """
    module, x = build(layer, 4, 5, 3), normal(2, 4, seed=3)
    limit = formula(module, lambda z: z.clamp_min(0), x)
    laws.assert_close(module(1e6 * x).detach() / 1e12, limit)


@of_both
@given(order=st.permutations(range(5)), scale=floats(0.1, 5))
def test_hidden_units_have_no_order_and_values_no_scale(layer, gate, order, scale):
    """Permuted hidden units compute the same; V·s with W₂/s too, while W·s with W₂/s does not.

    Source: Shazeer 2020, eq. 6: a sum over hidden units, linear in V and W₂ but not in W.
    """
    module, x = build(layer, 4, 5, 3), normal(2, 4, seed=3)
    before = module(x).detach()
    weights = {n: p.detach() for n, p in module.named_parameters()}

    def call(**changed):
        return torch.func.functional_call(module, weights | {f"{n}.weight": w for n, w in changed.items()}, x)

    gate_w, up, down = (weights[f"{n}.weight"] for n in ("gate_proj", "up_proj", "down_proj"))
    laws.assert_close(call(gate_proj=gate_w[order], up_proj=up[order], down_proj=down[:, order]), before)
    laws.assert_close(call(up_proj=up * scale, down_proj=down / scale), before)
    laws.assert_differs(call(gate_proj=gate_w * 7, down_proj=down / 7), before, by=1e-3)


@pytest.mark.states("dependence")
@of_both
@given(x=varied((2, 3, 4)), order=st.permutations(range(3)))
def test_tokens_are_treated_one_by_one(layer, gate, x, order):
    """Position-wise: permuting tokens permutes outputs, and leading dimensions are as many as one likes, or none.

    Source: Shazeer 2020, section 1: the feed-forward layer takes a vector x at one position.
    """
    module = build(layer, 4, 6, 5)
    laws.equivariant(module, x, lambda t: t[:, order])
    laws.assert_close(module(x)[1, 2], module(x[1, 2]).detach())
    laws.assert_close(module(x[None])[0], module(x).detach())


@pytest.mark.states("gradient routing")
@of_both
@given(x=varied((2, 4)), cotangent=varied((2, 3)))
def test_the_values_gradient_is_scaled_by_the_gate_alone(layer, gate, x, cotangent):
    """∂L/∂V = (gate(x W) ⊗ g W₂ᵀ)ᵀ x and ∂L/∂W₂ = gᵀ (gate(x W) ⊗ x V).

    Source: Shazeer 2020, eq. 6, differentiated by hand; no second factor of the gate's derivative.
    """
    module = build(layer, 4, 5, 3)
    weights = [module.up_proj.weight, module.down_proj.weight]
    found = torch.autograd.grad(module(x), weights, cotangent)
    w, v, down = (p.detach() for p in (module.gate_proj.weight, *weights))
    opened = gate(x @ w.T)
    laws.assert_close(found[0], (opened * (cotangent @ down)).T @ x)
    laws.assert_close(found[1], cotangent.T @ (opened * (x @ v.T)))


@of_both
def test_second_derivatives_are_right(layer, gate):
    """The gradient of the gradient equals central differences, for the input and all weights.

    Source: the definition of the derivative; gradient penalties differentiate twice.
    """
    laws.gradient_correct(build(layer, 2, 3, 2, bias=True), normal(2, 2), second_order=True)


@of_both
@pytest.mark.parametrize("d_in", [3, 192, 768])
def test_it_costs_what_two_matrices_cost(layer, gate, d_in):
    """At d_ff' = 2/3·4d the three matrices have the parameters and the FLOPs of a two-matrix layer of d_ff = 4d.

    Source: Shazeer 2020, section 2: the hidden width is reduced by 2/3 to keep parameters and computation constant;
    at d = 768, 3072 becomes 2048, and both layers have 4,718,592 parameters.
    """
    with torch.device("meta"):
        plain = nn.Sequential(nn.Linear(d_in, 4 * d_in, bias=False), nn.ReLU(), nn.Linear(4 * d_in, d_in, bias=False))
        gated = layer(d_in)
        x = torch.empty(2, 5, d_in)
    assert parameters(gated) == parameters(plain) == 8 * d_in**2
    assert gated.gate_proj.weight.shape == (8 * d_in // 3, d_in)
    assert cost.flops(gated, x) == cost.flops(plain, x) > 0


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@of_both
@given(d_in=sizes(1, 5000), multiple=sizes(1, 300))
def test_the_default_width_is_two_thirds_rounded_up(layer, gate, d_in, multiple):
    """The default width is the smallest multiple of `multiple_of` that is at least 2/3·4·in_features.

    Source: Shazeer 2020, section 2; Touvron et al. 2023 (LLaMA), arXiv:2302.13971, section 2.2: 2/3·4d.
    Convention: rounded up from the exact ratio, so never fewer parameters than the two-matrix layer has; LLaMA's code
    cuts the fraction off first, which differs where that leaves a multiple already.
    """
    with torch.device("meta"):
        hidden = layer(d_in, multiple_of=multiple).gate_proj.weight.shape[0]
    assert hidden % multiple == 0
    assert 3 * hidden >= 8 * d_in > 3 * (hidden - multiple)


@of_both
def test_every_default_width_is_allowed_unless_one_says_otherwise(layer, gate):
    """Without `multiple_of` the width is ⌈8/3·in_features⌉, odd ones included: 4 gives 11.

    Convention: multiple_of = 1 by default; LLaMA's 256 is a choice for its hardware.
    """
    assert [layer(d_in).gate_proj.weight.shape[0] for d_in in (3, 4, 5)] == [8, 11, 14]


@of_both
def test_a_given_width_is_taken_as_it_is(layer, gate):
    """hidden_features is neither reduced nor rounded, and out_features defaults to in_features.

    Source: Shazeer 2020, section 2.  Convention: 2/3 and `multiple_of` belong to the default width only.
    """
    assert layer(4, 9, multiple_of=8).up_proj.weight.shape == (9, 4)
    assert layer(4, 9, multiple_of=8).down_proj.weight.shape == (4, 9)
    laws.assert_close(build(layer, 4, 9, 2)(normal(3, 4)).detach(), formula(build(layer, 4, 9, 2), gate, normal(3, 4)))


@of_both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saturated_gates_stay_finite(layer, gate, dtype):
    """At gates of ±1000 the layer passes x V times the gate, or nothing, with finite gradients.

    Source: the limits of Swish and GELU: z and 0; e^1000 overflows.
    """
    module = layer(1, 1, 1).to(dtype)
    module.load_state_dict({f"{n}_proj.weight": torch.ones(1, 1, dtype=dtype) for n in ("gate", "up", "down")})
    x = torch.tensor([[1000.0], [-1000.0]], dtype=dtype, requires_grad=True)
    y = module(x)
    grads = torch.autograd.grad(y.sum(), [x, *module.parameters()])
    laws.assert_close(y.detach().flatten(), torch.tensor([1e6, 0.0], dtype=dtype))
    laws.assert_close(grads[0].flatten(), torch.tensor([2000.0, 0.0], dtype=dtype))
    assert all(g.isfinite().all() for g in grads)


@of_both
def test_the_three_projections_are_initialised_as_linear_layers(layer, gate):
    """Each weight is initialised uniformly in ±1/√fan_in, so that W₂ has the hidden width's bound and W, V the input's.

    Source: the default of torch.nn.Linear.  Convention: as torch.nn. With 12,000 samples the largest exceeds 0.99 of
    the bound but for a chance of 0.99^12000 < 1e-52.
    """
    torch.manual_seed(3)
    module = layer(40, 300, 50)
    for name, fan_in in (("gate_proj", 40), ("up_proj", 40), ("down_proj", 300)):
        largest = getattr(module, name).weight.abs().max().item() * fan_in**0.5
        assert 0.99 < largest <= 1, f"{name}: expected weights up to 1/√{fan_in}, found {largest:.3f} of it"
    assert not torch.equal(module.gate_proj.weight, module.up_proj.weight)


@pytest.mark.item("swiglu")
def test_swiglu_saves_what_the_bilinear_form_would_let_through():
    """Between its branches SwiGLU bends downwards: Swish has its minimum −0.2785 at z = −1.2785, not 0 as ReLU.

    Source: Ramachandran, Zoph & Le 2017, arXiv:1710.05941, section 3: non-monotonic; Shazeer 2020 takes β = 1.
    """
    module = SwiGLU(2, 1, 1).double()
    gate, up, down = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0]])
    module.load_state_dict({"gate_proj.weight": gate, "up_proj.weight": up, "down_proj.weight": down})
    lowest = -1.27846454276107379511
    z = torch.tensor([lowest - 0.1, lowest, lowest + 0.1], dtype=torch.float64)
    y = module(torch.stack([z, torch.ones_like(z)], -1)).detach().flatten()
    laws.assert_close(y[1], -0.27846454276107379511)
    assert y[0] > y[1] < y[2]


@pytest.mark.item("geglu")
@given(x=varied((2, 4)), seed=seeds())
def test_the_tanh_form_is_the_published_approximation(x, seed):
    """approximate="tanh" gates with z/2 (1 + tanh[√(2/π)(z + 0.044715 z³)]).

    Source: Hendrycks & Gimpel 2016, arXiv:1606.08415, section 2.  Convention: as torch.nn.GELU's `approximate`.
    """
    module = build(GEGLU, 4, 5, 3, approximate="tanh", seed=seed)
    laws.assert_close(module(x).detach(), formula(module, gelu_tanh, x))


@pytest.mark.item("geglu")
def test_exact_and_tanh_differ_by_less_than_a_thousandth():
    """The two forms are close and not the same: 1e-4 < max |difference| < 5e-4 per unit of value; exact is the default.

    Source: Hendrycks & Gimpel 2016, section 2: an approximation. Largest |z Φ(z) − tanh form| = 4.7e-4, at z = ±2.7.
    Convention: Shazeer's eq. 5 has the exact GELU; T5's code takes the tanh form.
    """
    exact, default, near = (
        GEGLU(2, 1, 1, **o).double() for o in ({"approximate": "none"}, {}, {"approximate": "tanh"})
    )
    weights = {"gate_proj.weight": torch.tensor([[1.0, 0.0]]), "up_proj.weight": torch.tensor([[0.0, 1.0]])}
    for module in (exact, default, near):
        module.load_state_dict(weights | {"down_proj.weight": torch.ones(1, 1)})
    z = torch.linspace(-4, 4, 161, dtype=torch.float64)
    x = torch.stack([z, torch.ones_like(z)], -1)
    laws.assert_same(default(x).detach(), exact(x).detach())
    laws.assert_differs(near(x), exact(x), by=1e-4)
    gap = (near(x) - exact(x)).abs().max().item()
    assert gap < 5e-4, f"expected a difference below 5e-4, found {gap:g}"


@pytest.mark.item("geglu")
@given(z=varied((5, 1)))
def test_geglus_gates_are_complementary(z):
    """GELU(z) − GELU(−z) = z: the gates of opposite pre-activations differ by exactly z.

    Source: Hendrycks & Gimpel 2016, eq. 1: z Φ(z), and Φ(z) + Φ(−z) = 1. Swish shares it; the tanh form as well.
    """
    for approximate in ("none", "tanh"):
        module = GEGLU(2, 1, 1, approximate=approximate).double()
        weights = {"gate_proj.weight": torch.tensor([[1.0, 0.0]]), "up_proj.weight": torch.tensor([[0.0, 1.0]])}
        module.load_state_dict(weights | {"down_proj.weight": torch.ones(1, 1)})
        one = torch.ones_like(z)
        difference = module(torch.cat([z, one], -1)) - module(torch.cat([-z, one], -1))
        laws.assert_close(difference.detach(), z)
