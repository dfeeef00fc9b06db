"""Selective state spaces and Mamba.  Gu & Dao 2023, arXiv:2312.00752."""

import math

import pytest
import torch
from hypothesis import given
from torch import nn

from impl.models.mamba import Mamba, MambaBlock, associative_scan, combine, discretize, selective_scan
from spec import cost, laws
from spec.strategies import floats, seeds

pytestmark = pytest.mark.item("mamba")

METHODS = ["euler", "zoh"]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scan_inputs(seed=0, b=2, t=37, d=3, n=4):
    """u, Δ > 0, A < 0, B, C, D and a state, in float64; 37 steps are more than a chunk and no power of two."""
    delta, A = 0.3 * normal(b, t, d, seed=seed + 1).exp(), -normal(d, n, seed=seed + 2).exp()
    rest = normal(b, t, n, seed=seed + 3), normal(b, t, n, seed=seed + 4), normal(d, seed=seed + 5)
    return normal(b, t, d, seed=seed), delta, A, *rest, normal(b, d, n, seed=seed + 6)


def by_hand(u, delta, A, B, C, D, state, method="euler"):
    """Eq. 2a-2b, one step at a time."""
    outputs = []
    for t in range(u.shape[1]):
        product = delta[:, t, :, None] * A
        gain = delta[:, t, :, None] if method == "euler" else (product.exp() - 1) / A
        state = product.exp() * state + gain * B[:, t, None, :] * u[:, t, :, None]
        outputs.append((state * C[:, t, None, :]).sum(-1) + D * u[:, t])
    return torch.stack(outputs, 1), state


# ---------------------------------------------------------------------------------------------- the scan


@pytest.mark.parametrize("method", METHODS)
def test_the_scan_is_the_recurrence(method):
    """h_t = Ā_t h_{t−1} + B̄_t u_t, y_t = C_tᵀ h_t + D u_t: outputs, last state and all seven gradients agree.

    Source: Gu & Dao 2023, eq. 2a-2b, eq. 4 and algorithm 2.
    Convention: "euler" is the official code's B̄ = ΔB, "zoh" the paper's eq. 4; Ā = exp(ΔA) in both.
    """
    laws.gradients_match(
        lambda *inputs: selective_scan(*inputs, discretization=method),
        lambda *inputs: by_hand(*inputs, method),
        *scan_inputs(),
    )


@pytest.mark.parametrize("method", METHODS)
def test_the_scan_may_be_taken_in_sweeps(method):
    """Discretized steps, joined by the associative scan, give the recurrence's outputs, last state and gradients.

    Source: Gu & Dao 2023, §3.3.2: the scan is associative, so that it can be computed in parallel.
    """

    def in_sweeps(u, delta, A, B, C, D, state):
        decay, gain = discretize(delta[..., None], A, method)
        drive = gain * B[:, :, None] * u[..., None]
        states = associative_scan(decay.transpose(0, 1), drive.transpose(0, 1), state).transpose(0, 1)
        return (states * C[:, :, None]).sum(-1) + D * u, states[:, -1]

    laws.gradients_match(in_sweeps, lambda *inputs: by_hand(*inputs, method), *scan_inputs())


@pytest.mark.states("second derivative")
@pytest.mark.parametrize("method", METHODS)
def test_second_derivatives_of_chunks(method):
    """The derivative of ⟨∂y, v⟩ is that of the recurrence: what the backward pass recomputes is differentiated too.

    Source: Gu & Dao 2023, §3.3.2: recomputation changes memory, no derivative.
    """

    def gradients(scan):
        inputs = [t.requires_grad_() for t in scan_inputs()]
        y, state = scan(*inputs)
        first = torch.autograd.grad(y.square().sum() + state.square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(first, inputs, [normal(*g.shape, seed=9) for g in first])

    wanted = gradients(lambda *inputs: by_hand(*inputs, method))
    found = gradients(lambda *inputs: selective_scan(*inputs, discretization=method))
    scale = max(g.abs().max().item() for g in wanted)
    for a, b in zip(found, wanted, strict=True):
        laws.assert_close(a / scale, b / scale)


def test_without_state_and_skip_it_starts_at_zero():
    """No `state` means a state of zeros, no D means D = 0, and Euler's rule is the default.

    Source: Gu & Dao 2023, algorithm 1; the official selective_scan_fn.
    """
    *inputs, D, state = scan_inputs()
    found = selective_scan(*inputs)
    laws.assert_all_close(found, by_hand(*inputs, 0 * D, 0 * state))
    laws.assert_all_close(selective_scan(*inputs, D), by_hand(*inputs, D, 0 * state))


@pytest.mark.parametrize("lengths", [[1] * 37, [32, 5], [33, 1, 3]])
def test_a_text_may_come_in_parts(lengths):
    """Scanned in parts, each from the last state of the part before, a text has the outputs of the whole.

    Source: Gu & Dao 2023, §3.4 and eq. 2a: the state is all that is carried, O(1) a step.
    """
    u, delta, A, B, C, D, state = scan_inputs()
    wanted, last = by_hand(u, delta, A, B, C, D, state)
    outputs = []
    for part in zip(*(s.split(lengths, 1) for s in (u, delta, B, C))):
        y, state = selective_scan(*part[:2], A, *part[2:], D, state)
        outputs.append(y)
    laws.assert_close(torch.cat(outputs, 1), wanted)
    laws.assert_close(state, last, what="state")


def test_a_wide_state_stays_wide_between_parts():
    """300 tokens in bfloat16, one call each, end in the state of one float32 scan: no call rounds the state.

    Source: the official code, whose step keeps its state in float32 whatever the model's dtype.
    """
    ones, state = torch.ones(1, 300, 1, dtype=torch.bfloat16), None
    A = -0.0625 * ones[0, :1]
    for _ in range(300):
        one = ones[:, :1]
        _, state = selective_scan(one, one / 128, A, one, one, state=state)
    wide, zero = ones.double(), torch.zeros(1, 1, 1, dtype=torch.float64)
    _, wanted = by_hand(wide, wide / 128, A.double(), wide, wide, zero[0, 0], zero)
    laws.assert_close(state.double(), wanted, rtol=1e-5, atol=0, because="float32 against float64")


def test_samples_and_channels_do_not_meet():
    """y of sample b and channel d depends on u and Δ of (b, d) and on B and C of b: the states mix no channels.

    Source: Gu & Dao 2023, §2: the SSM is applied to each channel by itself.
    """
    u, delta, A, B, C, D, state = scan_inputs(t=6)
    for n in range(2):
        for c in range(3):
            one = u[n : n + 1, :, c : c + 1], delta[n : n + 1, :, c : c + 1], A[c : c + 1], B[n : n + 1], C[n : n + 1]
            y, _ = by_hand(*one, D[c : c + 1], state[n : n + 1, c : c + 1])
            found, _ = selective_scan(u, delta, A, B, C, D, state)
            laws.assert_close(found[n, :, c], y[0, :, 0])
    none, _ = selective_scan(*(s[:0] for s in (u, delta)), A, B[:0], C[:0], D, state[:0])
    assert none.shape == (0, 6, 3), f"expected an empty batch for an empty batch, found {tuple(none.shape)}"


@pytest.mark.states("symmetry")
@given(seed=seeds())
def test_steps_compose(seed):
    """(a, x) then (a′, x′) is (a′a, a′x + x′): associative, as the composition of h → a h + x, and not commutative.

    Source: Gu & Dao 2023, §3.3.2: a work-efficient parallel scan; Blelloch 1990, §1.4.
    """
    one, two, three = ((normal(3, 2, seed=seed + n), normal(3, 2, seed=seed + 10 + n)) for n in range(3))
    laws.assert_all_close(combine(combine(one, two), three), combine(one, combine(two, three)))
    (a, x), h = combine(one, two), normal(3, 2, seed=seed + 20)
    laws.assert_close(a * h + x, two[0] * (one[0] * h + one[1]) + two[1])
    laws.assert_differs(combine(two, one)[1], x, by=1e-3)


@pytest.mark.parametrize("length", [1, 2, 3, 8, 37])
def test_a_scan_gives_every_prefix(length):
    """Output t of the associative scan is x_t + a_t x_{t−1} + a_t a_{t−1} x_{t−2} + …, whatever the length.

    Source: Gu & Dao 2023, §3.3.2; the sum written out.
    """
    a, x = 0.5 + normal(length, 2).sigmoid(), normal(length, 2, seed=1)
    wanted = torch.stack([sum(a[s + 1 : t + 1].prod(0) * x[s] for s in range(t + 1)) for t in range(length)])
    laws.assert_close(associative_scan(a, x), wanted)


def test_a_scan_has_logarithmic_depth():
    """The associative scan of 1024 steps takes at most three times the operators of 32 steps, log₂ being twice as much.

    Source: Gu & Dao 2023, §3.3.2; Hillis & Steele 1986.  Operators are counted, not timed.
    """
    few, many = (
        len(cost.operators(associative_scan, normal(n, 2).sigmoid(), normal(n, 2, seed=1))) for n in (32, 1024)
    )
    assert many <= 3 * few, f"expected up to {3 * few} operators for 1024 steps, found {many}"


# ---------------------------------------------------------------------------------------------- time invariance


@pytest.mark.parametrize("method", METHODS)
def test_constant_coefficients_are_a_convolution(method):
    """Where Δ, B and C are constant, y = K̄ * u with K̄ = (CB̄, CĀB̄, CĀ²B̄, …).

    Source: Gu & Dao 2023, eq. 3a-3b: a time-invariant SSM is a global convolution.
    """
    u, delta, A, B, C, D, state = scan_inputs()
    delta, B, C = (s[:, :1].expand_as(s) for s in (delta, B, C))
    found, _ = selective_scan(u, delta, A, B, C, 0 * D, 0 * state, discretization=method)
    product = delta[:, 0, :, None] * A
    gain = (delta[:, 0, :, None] if method == "euler" else product.expm1() / A) * B[:, :1]
    powers = (product[..., None] * torch.arange(37)).exp()  # (b, d, n, L)
    kernel = torch.einsum("bn,bdnl,bdn->bdl", C[:, 0], powers, gain)
    size = 2 * 37
    spectrum = torch.fft.rfft(kernel, size) * torch.fft.rfft(u.mT, size)
    laws.assert_close(found, torch.fft.irfft(spectrum, size)[..., :37].mT)


@pytest.mark.states("symmetry")
def test_selection_breaks_shift_equivariance():
    """A scan of constant coefficients is shift-equivariant; with Δ, B or C that vary in time it is not.

    Source: Gu & Dao 2023, §2 and §3.2: selection makes the model time-varying.
    """
    u, delta, A, B, C, D, _ = scan_inputs()
    shifted = torch.cat([0 * u[:, :5], u[:, :-5]], 1)
    constant = [s[:, :1].expand_as(s) for s in (delta, B, C)]

    def outputs(x, steps, B, C):
        return selective_scan(x, steps, A, B, C, D)[0]

    laws.assert_close(outputs(shifted, *constant)[:, 5:], outputs(u, *constant)[:, :-5])
    for varied, moving in enumerate((delta, B, C)):
        chosen = [moving if n == varied else s for n, s in enumerate(constant)]
        laws.assert_differs(outputs(shifted, *chosen)[:, 5:], outputs(u, *chosen)[:, :-5], by=0.1)


# ---------------------------------------------------------------------------------------------- discretization


@given(seed=seeds(), share=floats(0.1, 0.9))
def test_zero_order_hold_is_exact_for_constant_inputs(seed, share):
    """Under zero-order hold two steps with equal u and B equal one step of their summed Δ; under Euler's rule not.

    Source: Gu & Dao 2023, eq. 1a and 4: zero-order hold solves h′ = Ah + Bu.
    """
    u, delta, A, B, C, D, state = scan_inputs(seed, t=1)
    parts = torch.cat([share * delta, (1 - share) * delta], 1)
    twice = [s.expand(-1, 2, -1) for s in (u, B, C)]
    for method in METHODS:
        _, whole = selective_scan(u, delta, A, B, C, D, state, discretization=method)
        _, halves = selective_scan(twice[0], parts, A, *twice[1:], D, state, discretization=method)
        if method == "zoh":
            laws.assert_close(halves, whole)
        else:
            laws.assert_differs(halves, whole, by=1e-6)


def test_euler_is_the_first_order_of_zero_order_hold():
    """B̄/(ΔB) = 1 + ΔA/2 + O(Δ²) under zero-order hold, and 1 under Euler's rule; Ā is exp(ΔA) under both.

    Source: Gu & Dao 2023, eq. 4, and the notes of the official code on its simplified B̄.
    """
    A = -normal(5).exp()
    for delta in (1e-3, 1e-5):
        steps = torch.full((5,), delta, dtype=torch.float64)
        decay, weight = discretize(steps, A, "zoh")
        rest = (weight / delta - 1 - delta * A / 2).abs()
        assert (rest <= (delta * A).square() / 6 + 1e-15).all(), f"expected (ΔA)²/6 at most, found {rest.tolist()}"
        plain, step = discretize(steps, A)
        laws.assert_close(step, steps)
        laws.assert_close(decay, (delta * A).exp(), rtol=1e-14, atol=0)
        laws.assert_close(plain, decay, rtol=1e-14, atol=0)
    tiny = torch.full((5,), 1e-12, dtype=torch.float64)
    laws.assert_close(discretize(tiny, A, "zoh")[1] / tiny, torch.ones(5, dtype=torch.float64), rtol=1e-11, atol=0)


@pytest.mark.states("limiting case")
@pytest.mark.parametrize("method", METHODS)
def test_a_step_of_length_zero_is_skipped(method):
    """A step with Δ = 0 leaves the state bitwise unchanged, and its token does not affect later outputs.

    Source: Gu & Dao 2023, §3.5.2: Δ → 0 ignores the current input; padding can be masked so.
    """
    u, delta, A, B, C, D, state = scan_inputs(t=5)
    delta[:, 2] = 0
    _, kept = selective_scan(*(s[:, 2:3] for s in (u, delta)), A, B[:, 2:3], C[:, 2:3], D, state, method)
    laws.assert_same(kept, state)
    present = [0, 1, 3, 4]
    found, last = selective_scan(u, delta, A, B, C, D, state, method)
    wanted, wanted_last = by_hand(
        *(s[:, present] for s in (u, delta)), A, B[:, present], C[:, present], D, state, method
    )
    laws.assert_close(found[:, present], wanted)
    laws.assert_close(last, wanted_last)


@pytest.mark.states("limiting case")
def test_a_long_step_resets_the_state():
    """For Δ → ∞ the state forgets the past and converges to that of a constant input, h → −A⁻¹Bu.

    Source: Gu & Dao 2023, §3.5.2: Δ → ∞ resets the state.
    """
    u, delta, A, B, C, D, state = scan_inputs(t=1)
    found, last = selective_scan(u, 0 * delta + 1e4, A, B, C, D, state, discretization="zoh")
    wanted = -B[:, 0, None, :] * u[:, 0, :, None] / A
    laws.assert_close(last, wanted)
    laws.assert_close(found[:, 0], torch.einsum("bdn,bn->bd", wanted, C[:, 0]) + D * u[:, 0])


@pytest.mark.states("limiting case")
def test_theorem_1_it_is_a_gated_recurrence():
    """With N = 1, A = −1, B = 1, Δ = softplus(s), zero-order hold: h_t = (1 − g_t) h_{t−1} + g_t u_t, g_t = σ(s_t).

    Source: Gu & Dao 2023, theorem 1 and appendix C.  Euler's rule violates it.
    """
    u, s = normal(2, 9, 3), 2 * normal(2, 9, 3, seed=1)
    delta, ones = s.exp().log1p(), torch.ones(2, 9, 1, dtype=torch.float64)
    A, gate, h = -torch.ones(3, 1, dtype=torch.float64), s.sigmoid(), torch.zeros(2, 3, dtype=torch.float64)
    wanted = []
    for t in range(9):
        h = (1 - gate[:, t]) * h + gate[:, t] * u[:, t]
        wanted.append(h)
    wanted = torch.stack(wanted, 1)
    laws.assert_close(selective_scan(u, delta, A, ones, ones, discretization="zoh")[0], wanted)
    laws.assert_differs(selective_scan(u, delta, A, ones, ones)[0], wanted, by=0.1)


@given(seed=seeds())
def test_states_stay_bounded(seed):
    """With A < 0 < Δ and |B u| <= 1, no state leaves ±1/|A| under zero-order hold, even after 2000 steps.

    Source: Gu & Dao 2023, §3.6: real, negative A; the fixed point of h′ = Ah + Bu.
    """
    A, B = -normal(2, 3, seed=seed).exp(), torch.sign(normal(1, 1, 3, seed=seed + 1)).expand(1, 2000, 3)
    delta = normal(1, 2000, 2, seed=seed + 2).exp()
    _, last = selective_scan(torch.ones_like(delta), delta, A, B, B, discretization="zoh")
    assert (last.abs() * A.abs() <= 1 + 1e-12).all(), f"found states up to {(last.abs() * A.abs()).max():.3f} of 1/|A|"
    laws.assert_close(last[0], B[0, 0] / -A, because="what is left of the start after 2000 steps", rtol=1e-6, atol=1e-6)


def test_the_state_is_wide_in_half_precision():
    """bfloat16 inputs give bfloat16 outputs and a float32 state, which after 300 small steps equals float64's.

    Source: the official kernel scans in float32; a bfloat16 sum of 300 hundredths stops growing at 2^−8 of its size.
    """
    ones = torch.ones(1, 300, 1, dtype=torch.bfloat16)
    y, state = selective_scan(ones, ones / 128, -0.0625 * ones[0, :1], ones, ones)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32), f"found {y.dtype} and {state.dtype}"
    wide = ones.double()
    zero = torch.zeros(1, 1, 1, dtype=torch.float64)
    wanted, last = by_hand(wide, wide / 128, -0.0625 * wide[0, :1], wide, wide, zero[0, 0], zero)
    laws.assert_close(state.double(), last, rtol=1e-5, atol=0, because="float32 against float64")
    laws.assert_close(y.double(), wanted, rtol=2**-8, atol=0, because="bfloat16 has 8 bits")


# ---------------------------------------------------------------------------------------------- cost


def test_states_are_not_kept_for_the_backward_pass():
    """Between the passes the scan keeps its inputs and a few states, far fewer elements than the L·D·N of all states.

    Source: Gu & Dao 2023, §3.3.2: intermediate states are recomputed in the backward pass.
    """
    b, t, d, n = 2, 128, 24, 16
    inputs = [s.requires_grad_() for s in scan_inputs(b=b, t=t, d=d, n=n)]
    sizes = {}

    def note(tensor):
        sizes[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        y, _ = selective_scan(*inputs)
    kept, states = sum(sizes.values()), b * t * d * n
    assert y.requires_grad and kept < states / 2, f"expected less than half of {states:,} elements, found {kept:,}"
    assert max(sizes.values()) < states / 4, (
        f"expected no tensor of the size of the states, found {max(sizes.values()):,}"
    )


def test_memory_of_the_scan_is_that_of_a_chunk():
    """Doubling the length adds to peak memory, forward and backward, less than the states of the added steps.

    Source: Gu & Dao 2023, §3.3.2.
    """
    b, d, n = 1, 32, 32

    def peak(t):
        inputs = [s.requires_grad_() for s in scan_inputs(b=b, t=t, d=d, n=n)]

        def run(*inputs):
            y, _ = selective_scan(*inputs)
            return torch.autograd.grad(y, inputs, torch.ones_like(y))

        return cost.peak_bytes(run, *inputs)

    extra = (peak(256) - peak(128)) / 8
    states = 128 * b * d * n
    assert extra < states, (
        f"expected 128 more steps to take less than the {states:,} elements of their states, {extra:,}"
    )


def test_cost_is_linear_in_the_length():
    """64 more tokens cost the same after 64 as after 128, and one more token costs the same after any past.

    Source: Gu & Dao 2023, §3.3.1 and §3.4: linear in the length, constant time a step of inference.
    Convention: a filter may be padded, and a call may have a cost of its own: less than that of a token.
    """
    model = Mamba(7, 6, 2, d_state=5)
    tokens = torch.arange(384).reshape(2, 192) % 7
    found = [cost.flops(model, tokens[:, :n]) for n in (64, 128, 192)]
    more = found[1] - found[0]
    assert 0 < found[2] - found[1] == more, f"expected operations linear in the length, found {found}"
    assert found[0] < 65 / 64 * more, f"expected {more:,} for the first 64 as well, found {found[0]:,}"
    counts = []
    for past in (3, 60):
        states = model.empty_states()
        model(tokens[:, :past], states)
        counts.append(cost.flops(model, tokens[:, :1], states))
    assert counts[0] == counts[1] < 2 * more / 64, f"expected {more / 64:,.0f} for any token, found {counts}"


def test_the_state_has_one_size():
    """After 1, 5 or 50 tokens a block's state is d_inner·(N + d_conv − 1) elements a sample, and no other memory.

    Source: Gu & Dao 2023, §3.3.1: a small state is the point of a recurrent model; no cache that grows.
    """
    model = Mamba(7, 6, 2, d_state=5, d_conv=3).double()
    for n in (1, 5, 50):
        states = model.empty_states()
        model(torch.arange(2 * n).reshape(2, n) % 7, states)
        for state in states:
            held = [t for t in (getattr(state, n) for n in dir(state)) if isinstance(t, torch.Tensor)]
            assert sum(t.numel() for t in held) == 2 * 12 * (5 + 2), f"found shapes {[tuple(t.shape) for t in held]}"
            stored = sum(t.untyped_storage().nbytes() for t in held)
            assert stored == 8 * 2 * 12 * (5 + 2), (
                f"expected no more memory than the numbers need, found {stored} bytes"
            )


# ---------------------------------------------------------------------------------------------- the block


def ready(seed=0, **options):
    """A block with random weights; widths all differ."""
    sizes = {"d_model": 5, "d_state": 4, "d_conv": 3, "expand": 2, "dt_rank": 2}
    block = laws.randomise(MambaBlock(**(sizes | options)), seed).double()
    for parameter in block.parameters():
        parameter.data.mul_(0.5)
    return block


def block_by_hand(block, x, method="euler"):
    """Figure 3 with torch's own convolution and activations, the recurrence one step at a time."""
    inner, taps = block.conv1d.weight.shape[0], block.conv1d.weight.shape[2]
    n, rank = block.A_log.shape[1], block.dt_proj.weight.shape[1]
    u, z = (x @ block.in_proj.weight.T).split(inner, -1)
    u = nn.functional.conv1d(u.mT, block.conv1d.weight, block.conv1d.bias, padding=taps - 1, groups=inner)
    u = nn.functional.silu(u[..., : x.shape[1]].mT)
    step, B, C = (u @ block.x_proj.weight.T).split([rank, n, n], -1)
    delta = nn.functional.softplus(step @ block.dt_proj.weight.T + block.dt_proj.bias)
    start = x.new_zeros(len(x), inner, n)
    y, _ = by_hand(u, delta, -block.A_log.exp(), B, C, block.D, start, method)
    return (y * nn.functional.silu(z)) @ block.out_proj.weight.T


@pytest.mark.parametrize("method", METHODS)
def test_a_block_is_the_papers(method):
    """A block is projection, causal filter, SiLU, selection of Δ, B, C, scan, skip, gate, projection, with gradients.

    Source: Gu & Dao 2023, figure 3 and algorithm 2; order of u and z, and of δ, B and C, as in the official code.
    """
    block = ready(discretization=method)
    x = normal(2, 7, 5)
    laws.gradients_match(block, _ByHand(block, method), x)


class _ByHand(nn.Module):
    def __init__(self, block, method):
        super().__init__()
        self.block, self.method = block, method

    def forward(self, x):
        return block_by_hand(self.block, x, self.method)


def test_eulers_rule_is_the_default_of_a_block():
    """A block discretizes by Euler's rule, as the official code does, unless it is told otherwise.

    Convention: B̄ = ΔB, the official code's; eq. 4 of the paper is discretization="zoh".
    """
    block, x = ready(), normal(2, 7, 5)
    laws.assert_close(block(x), block_by_hand(block, x))
    laws.assert_differs(block(x), block_by_hand(block, x, "zoh"), by=1e-3)


@pytest.mark.parametrize("taps", [1, 2, 4])
def test_a_block_is_causal(taps):
    """Output t depends on tokens up to t, and on each of them through filter and state.

    Source: Gu & Dao 2023, §2 and figure 3: the filter is padded on the left alone.
    """
    block = ready(d_conv=taps)
    laws.causal(block, normal(2, 5, 5))
    past = torch.ones(6, 6).tril().bool().repeat_interleave(5, 0).repeat_interleave(5, 1)
    laws.depends_only_on(lambda x: block(x[None])[0], normal(6, 5), past)


@pytest.mark.parametrize("taps", [1, 4])
@pytest.mark.parametrize("lengths", [[1] * 9, [2, 1, 6], [5, 4]])
def test_a_block_goes_on_from_its_state(lengths, taps):
    """Tokens in parts, with the states of filter and scan carried over, give the outputs of the whole text.

    Source: Gu & Dao 2023, §3.4; the official code's step, which keeps the last inputs of the filter and h.
    """
    model = _model(d_conv=taps)
    tokens = torch.arange(18).reshape(2, 9) % 7
    wanted, states = model_by_hand(model, tokens), model.empty_states()
    found = torch.cat([model(part, states) for part in tokens.split(lengths, 1)], 1)
    laws.assert_close(found, wanted)


@pytest.mark.parametrize("lengths", [[1] * 4, [3, 1]])
def test_gradients_flow_from_part_to_part(lengths):
    """Tokens in parts give every parameter the gradient of the whole text, through the filter's past and through h.

    Source: Gu & Dao 2023, eq. 2a: a state is a function of the tokens before; who wants less detaches it.
    """
    model = _model()
    tokens, cotangent = torch.arange(8).reshape(2, 4) % 7, normal(2, 4, 7, seed=1)

    states, weights = model.empty_states(), list(model.parameters())
    found = torch.cat([model(part, states) for part in tokens.split(lengths, 1)], 1)
    wanted = torch.autograd.grad(model_by_hand(model, tokens), weights, cotangent)
    laws.assert_all_close(torch.autograd.grad(found, weights, cotangent), wanted)


def test_the_filter_is_a_depthwise_convolution_of_torch():
    """conv1d's weights move to torch.nn.Conv1d(groups=channels) and back.

    Source: Gu & Dao 2023, §3.4; parameters as torch.nn.Conv1d.
    """
    block, theirs = MambaBlock(3, d_conv=3), nn.Conv1d(6, 6, 3, groups=6, padding=2)
    theirs.load_state_dict(block.conv1d.state_dict())
    laws.assert_same(theirs.weight.detach(), block.conv1d.weight.detach())
    theirs.weight.data.mul_(2)
    block.conv1d.load_state_dict(theirs.state_dict())
    laws.assert_same(block.conv1d.weight.detach(), theirs.weight.detach())
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    laws.assert_close(block(x), block_by_hand(block, x))


def test_softplus_of_large_values_is_finite():
    """Δ = ln(1 + e^s) is s for large s and e^s for very negative s, without overflow; gradients are finite.

    Source: Gu & Dao 2023, §3.5.2: Δ → ∞ and Δ → 0 are both meaningful.
    """
    block = ready(dt_rank=1)
    block.dt_proj.weight.data.zero_()
    for bias in (-30.0, 800.0):
        block.dt_proj.bias.data.fill_(bias)
        x = normal(2, 4, 5)
        laws.assert_close(block(x), block_by_hand(block, x))
        gradient = torch.autograd.grad(block(x).sum(), block.dt_proj.bias)[0]
        assert gradient.isfinite().all(), f"expected finite gradients at {bias}, found {gradient}"


# ---------------------------------------------------------------------------------------------- initialisation


def test_a_block_is_initialised_as_the_paper_says():
    """At first A = −1 … −N, D = 1, Δ is log-uniform in [0.001, 0.1], W_Δ uniform in ±1/√dt_rank, the filter ±1/√taps.

    Source: Gu & Dao 2023, §3.6 (S4D-Real; τ_Δ⁻¹(Uniform([0.001, 0.1]))), and the official code for the logarithm.
    Convention: log-uniform as in the official code.  With 4000 channels a mean is within 0.05 of its own in all but
    1 of 10^5 samples: the standard deviation of ln Δ is 1.33, so that of the mean is 0.021.
    """
    laws.reseed(0)
    block = MambaBlock(500, d_state=6, expand=8, d_conv=9, dt_rank=16)
    rows = -torch.arange(1.0, 7).expand(4000, 6)
    laws.assert_close(-block.A_log.detach().exp(), rows)
    laws.assert_same(block.D.detach(), torch.ones(4000))
    steps = nn.functional.softplus(block.dt_proj.bias.detach().double())
    assert steps.min() > 0.001 - 1e-7 and steps.max() < 0.1 + 1e-6, f"found {steps.min():.5f} to {steps.max():.5f}"
    assert steps.min() < 0.00102 and steps.max() > 0.098, f"found {steps.min():.5f} to {steps.max():.5f}"
    middle = steps.log().mean().item()
    assert abs(middle - math.log(0.01)) < 0.09, f"expected a mean of ln 0.01, found {middle:.3f}"
    for name, tensor, bound in (
        ("dt_proj", block.dt_proj.weight, 0.25),
        ("filter", block.conv1d.weight, 1 / 3),
        ("filter's bias", block.conv1d.bias, 1 / 3),
        ("in_proj", block.in_proj.weight[:20], 500**-0.5),
    ):
        top = tensor.abs().max().item()
        assert 0.99 * bound < top <= bound, f"expected {name} uniform in ±{bound:.3f}, found up to {top:.3f}"
        spread = tensor.std().item() / bound * math.sqrt(3)
        assert abs(spread - 1) < 0.05, f"expected {name} uniform, found {spread:.3f} of its standard deviation"


@pytest.mark.parametrize(("width", "rank"), [(16, 1), (17, 2), (160, 10)])
def test_the_rank_of_the_step_is_a_sixteenth(width, rank):
    """The defaults are dt_rank = ⌈D/16⌉, N = 16, d_conv = 4 and E = 2.

    Source: Gu & Dao 2023, §3.6 and E.2; the official code's dt_rank="auto".
    """
    block = MambaBlock(width)
    found = {name: tuple(p.shape) for name, p in block.named_parameters()}
    wanted = {"in_proj.weight": (4 * width, width), "conv1d.weight": (2 * width, 1, 4), "conv1d.bias": (2 * width,)}
    wanted |= {"x_proj.weight": (rank + 32, 2 * width), "dt_proj.weight": (2 * width, rank)}
    wanted |= {"dt_proj.bias": (2 * width,), "A_log": (2 * width, 16), "D": (2 * width,)}
    assert found == wanted | {"out_proj.weight": (width, 2 * width)}, f"found {found}"


def test_a_model_is_initialised_small():
    """At first the embedding has standard deviation 0.02, out_proj of n layers is scaled by 1/√n, norms are 1.

    Source: the official code's initialisation; Radford et al. 2019 (GPT-2), §2.3.
    """
    laws.reseed(0)
    model = Mamba(300, 64, 9, expand=4)
    std = model.get_parameter("backbone.embeddings.weight").std().item()
    assert abs(std / 0.02 - 1) < 0.03, f"expected 0.02, found {std:.4f}"
    for layer in model.get_submodule("backbone.layers"):
        top = layer.mixer.out_proj.weight.abs().max().item()
        assert 0.98 / 48 < top <= 1 / 48 + 1e-8, f"expected uniform in ±1/(√256·√9), found up to {top:.5f}"
        laws.assert_same(layer.norm.weight.detach(), torch.ones(64))
    laws.assert_same(model.get_parameter("backbone.norm_f.weight").detach(), torch.ones(64))


# ---------------------------------------------------------------------------------------------- the model


def _model(seed=0, **options):
    sizes = {"d_state": 3, "d_conv": 3, "expand": 2, "dt_rank": 2, "eps": 0.1}
    model = laws.randomise(Mamba(7, 5, 2, **(sizes | options)), seed).double()
    for parameter in model.parameters():
        parameter.data.mul_(0.5)
    return model


def model_by_hand(model, tokens, eps=0.1):
    def norm(x, weight):
        return weight * x / (x.square().mean(-1, keepdim=True) + eps).sqrt()

    table = model.get_parameter("backbone.embeddings.weight")
    x = table[tokens]
    for layer in model.get_submodule("backbone.layers"):
        x = x + block_by_hand(layer.mixer, norm(x, layer.norm.weight))
    return norm(x, model.get_parameter("backbone.norm_f.weight")) @ table.T


def test_a_model_is_blocks_between_embedding_and_head():
    """x ← x + block(RMSNorm(x)), logits = E RMSNorm(x) with E the embedding, whose gradient is the sum of both uses.

    Source: Gu & Dao 2023, §3.4 and appendix E.2; Zhang & Sennrich 2019 for RMSNorm.
    """
    model, tokens = _model(), torch.arange(18).reshape(2, 9) % 7
    laws.assert_close(model(tokens), model_by_hand(model, tokens))
    table = model.get_parameter("backbone.embeddings.weight")
    found, wanted = (
        torch.autograd.grad(f(tokens).square().sum(), table)[0] for f in (model, lambda t: model_by_hand(model, t))
    )
    laws.assert_close(found, wanted)


def test_the_embedding_is_one_parameter():
    """The embedding and the output matrix are one parameter under one name, and stay one through assign and to_empty.

    Source: Gu & Dao 2023, appendix E.2; released weights hold the matrix twice, as `lm_head.weight` again.
    """
    model, tokens = _model(), torch.arange(18).reshape(2, 9) % 7
    storages = [tensor.data_ptr() for tensor in model.state_dict().values()]
    assert len(set(storages)) == len(storages), "expected each tensor once, as safetensors asks"

    def state(head):
        found = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        return found | ({"lm_head.weight": head} if head is not None else {})

    wanted = torch.autograd.grad(model(tokens).square().sum(), _table(model))[0]
    for head in (None, _table(model).detach().clone()):
        with torch.device("meta"):
            assigned = Mamba(7, 5, 2, d_state=3, d_conv=3, dt_rank=2, eps=0.1)
        assigned.load_state_dict(state(head), assign=True)
        emptied = _model(seed=1).to("meta").to_empty(device="cpu")
        emptied.load_state_dict(state(head))
        for other in (assigned, emptied):
            laws.assert_close(other(tokens), model(tokens))
            other(tokens).square().sum().backward()
            laws.assert_close(_table(other).grad, wanted)
            _table(other).data.add_(1)
            laws.assert_close(other(tokens), model_by_hand(other, tokens))
    laws.rejects(lambda: _model().load_state_dict(state(_table(model).detach() + 1)))


def _table(model):
    return model.get_parameter("backbone.embeddings.weight")


def test_the_eps_of_the_norms_is_as_released():
    """RMSNorm adds 1e-5 to the mean square by default, and nothing with eps = 0.

    Source: the official code's norm_epsilon.
    """
    model, tokens = Mamba(7, 5, 2, d_state=3).double(), torch.arange(18).reshape(2, 9) % 7
    laws.assert_close(model(tokens), model_by_hand(model, tokens, eps=1e-5))
    bare = _model(eps=0.0)
    laws.assert_close(bare(tokens), model_by_hand(bare, tokens, eps=0.0))


def test_greedy_text_is_the_most_probable_each_time():
    """Each token generated from the states and the last token is the argmax of the logits of the whole text.

    Source: Gu & Dao 2023, §3.3.1: autoregressive inference from the state.
    """
    model, text = _model(seed=3), torch.tensor([[1, 5, 2], [6, 0, 4]])
    laws.assert_same(model.generate(text, 0), text)
    found, wanted = model.generate(text, 8), text
    for _ in range(8):
        wanted = torch.cat([wanted, model_by_hand(model, wanted)[:, -1:].argmax(-1)], 1)
    laws.assert_same(found, wanted)
    steps = [cost.flops(model.generate, text, n + 1) - cost.flops(model.generate, text, n) for n in (1, 7)]
    one = cost.flops(model, text[:, :1], model.empty_states())
    assert 0 < steps[0] == steps[1] <= one, f"expected {one:,} operations for each token more, found {steps}"


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_sampled_text_follows_the_softmax(temperature):
    """A token is sampled from softmax(logits/temperature), by the caller's generator alone, outside of the graph.

    Source: the definition of temperature; of 4000 samples the 7 frequencies have standard deviations below 0.008: 0.04
    is 5 of them.
    """
    model, text = _model(seed=4), torch.tensor([[1, 5, 2]]).expand(4000, 3)
    before = torch.get_rng_state()
    sample = lambda seed: model.generate(text, 1, temperature, torch.Generator().manual_seed(seed))  # noqa: E731
    found = sample(0)
    laws.assert_same(sample(0), found)
    laws.assert_same(torch.get_rng_state(), before)
    laws.assert_same(found[:, :3], text)
    frequencies = torch.bincount(found[:, 3], minlength=7) / 4000
    wanted = (model_by_hand(model, text[:1])[0, -1] / temperature).softmax(-1).float()
    laws.assert_close(frequencies, wanted.detach(), rtol=0, atol=0.04, because="5 standard deviations of 4000 samples")
    assert not found.requires_grad and (sample(1) != found).any()
