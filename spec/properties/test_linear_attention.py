"""Linear attention.  Katharopoulos et al. 2020, arXiv:2006.16236; Choromanski et al. 2021, arXiv:2009.14794."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from impl.layers.linear_attention import (
    FavorAttention,
    LinearAttention,
    LinearAttentionState,
    linear_attention,
    orthogonal_projection,
    positive_features,
)
from spec import cost, laws
from spec.strategies import seeds, sizes

pytestmark = pytest.mark.item("linear-attention")
CAUSAL = pytest.mark.parametrize("is_causal", [False, True])
EACH = pytest.mark.parametrize("layer", [LinearAttention, FavorAttention])


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def features(t, s, seed=0, m=5):
    """Positive φ(q), φ(k), and values of 2 samples and 3 heads, all sizes different."""
    return [normal(2, 3, *shape, seed=10 * seed + n) for n, shape in enumerate([(t, m), (s, m), (s, 4)])]


def positive(query, key, value):
    return query.exp(), key.exp(), value


NO_WEIGHT = torch.zeros(1)


def weights_by_hand(query, key, log_weight=NO_WEIGHT, is_causal=False):
    """φ(q_i)ᵀφ(k_j) over its sum of the keys, all N² of them."""
    scores = torch.einsum("...im,...jm->...ij", query, key).log() + log_weight[..., None, :]
    if is_causal:
        place = torch.arange(scores.shape[-1])
        scores = scores.masked_fill(place > place[:, None], -torch.inf)
    return scores.softmax(-1).nan_to_num(0)


def by_hand(query, key, value, log_weight=NO_WEIGHT, is_causal=False):
    return weights_by_hand(query, key, log_weight, is_causal) @ value


def ready(module, seed=0):
    """float64, every parameter random and of a size at which no head is saturated."""
    laws.randomise(module.double(), seed)
    for parameter in module.parameters():
        parameter.data.mul_(0.5)
    return module


def favor_features(x, projection):
    """exp(ω_iᵀx − ‖x‖²/2)/√m, as the paper has it."""
    exponents = torch.einsum("...d,md->...m", x, projection) - (x * x).sum(-1, keepdim=True) / 2
    return exponents.exp() / len(projection) ** 0.5


def layer_by_hand(module, x):
    """Both layers with all N² weights."""
    heads, width = x.shape[-1] // module.head_dim, module.head_dim
    packed = nn.functional.linear(x, module.in_proj_weight, dict(module.named_parameters()).get("in_proj_bias"))
    query, key, value = packed.reshape(*x.shape[:2], 3, heads, width).permute(2, 0, 3, 1, 4)
    if isinstance(module, FavorAttention):
        query, key = (favor_features(t / width**0.25, module.projection) for t in (query, key))
    else:
        query, key = (nn.functional.elu(t) + 1 for t in (query, key))
    read = by_hand(query, key, value, is_causal=module.is_causal)
    return module.out_proj(read.permute(0, 2, 1, 3).flatten(2))


class _As(nn.Module):
    """A formula as a module with another's parameters, for `laws.gradients_match`."""

    def __init__(self, owner, formula):
        super().__init__()
        self.owner, self.formula = owner, formula

    def forward(self, *inputs):
        return self.formula(*inputs)


# ---------------------------------------------------------------------------------------------- the sums


@CAUSAL
@pytest.mark.parametrize("t", [7, 64, 150])
def test_sums_are_attention_with_all_the_weights(t, is_causal):
    """φ(q)ᵀ Σφ(k)vᵀ / φ(q)ᵀ Σφ(k) = Σ_j w_ij v_j with w_ij = φ(q_i)ᵀφ(k_j)/Σ, in value and in every gradient.

    Source: Katharopoulos et al. 2020, eq. 4 and 5, causally eq. 8 and 9; lengths within and beyond a block of keys.
    """
    query, key, value = features(t, t if is_causal else t + 3)
    level = 3 * normal(2, 1, key.shape[-2], seed=9)
    laws.gradients_match(
        lambda q, k, v, w: linear_attention(*positive(q, k, v), w, is_causal=is_causal),
        lambda q, k, v, w: by_hand(*positive(q, k, v), w, is_causal),
        query,
        key,
        value,
        level,
    )


@pytest.mark.states("second derivative")
@CAUSAL
def test_second_derivatives_of_sums_are_right(is_causal):
    """The gradient of the gradient is that of attention with all the weights, across blocks too.

    Source: the definition of the derivative.
    """

    def slope(function):
        def call(q, k, v):
            q, k, v = (u.requires_grad_() for u in (q, k, v))
            output = function(*positive(q, k, v), is_causal=is_causal)
            return torch.autograd.grad(output.square().sum(), (q, k, v), create_graph=True)

        return call

    laws.gradients_match(slope(linear_attention), slope(by_hand), *(u[:1, :1] for u in features(70, 70)))


@CAUSAL
@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_weights_sum_to_one_however_small_the_features(factor, is_causal):
    """Of values that are all 1 the average is 1, for features of size 1e-12 too: there is no epsilon.

    Source: Katharopoulos et al. 2020, eq. 4: a weighted average.
    Convention: no epsilon in the denominator; the authors' code has 1e-6, with which small features give 0.
    """
    query, key, value = positive(*features(9, 9))
    ones = linear_attention(factor * query, factor * key, torch.ones_like(value), is_causal=is_causal)
    laws.assert_close(ones, torch.ones_like(value))
    moved = linear_attention(factor * query, factor * key, value, is_causal=is_causal)
    laws.assert_close(moved, by_hand(query, key, value, is_causal=is_causal))


@CAUSAL
@given(seed=seeds(), t=sizes(1, 5), length=sizes(0, 5))
def test_log_weights_scale_keys(seed, t, length, is_causal):
    """log_weight w is φ(k)·e^w: a constant on all cancels, ±1000 as well, and −∞ leaves a key out.

    Source: Choromanski et al. 2021, §2.2: D̂⁻¹ normalises whatever the scale of Q' and K'.
    """
    query, key, value = positive(*features(t, t, seed))
    level = normal(2, 1, t, seed=seed)
    expected = by_hand(query, key * level.exp()[..., None], value, is_causal=is_causal)
    for constant in (0, 1000, -1000):
        laws.assert_close(linear_attention(query, key, value, level + constant, is_causal), expected)
    hidden = torch.where(torch.arange(t) < length, 0.0, -torch.inf).double()
    found = linear_attention(query, key, value, hidden, is_causal)
    laws.assert_close(found, by_hand(query, key, value, hidden, is_causal), what="with keys left out")


@pytest.mark.states("limiting case")
@CAUSAL
def test_a_query_that_attends_to_nothing_gets_zero(is_causal):
    """Where all keys are left out the output is 0, and all gradients are finite.

    Source: the empty sum.  Convention: 0 where 0/0 would be NaN.
    """
    query, key, value = features(6, 6)
    level = torch.zeros(2, 1, 6, dtype=torch.float64)
    level[1] = -torch.inf
    level[0, :, :2] = -torch.inf  # causally, the first two queries attend to nothing

    def call(q, k, v):
        return linear_attention(*positive(q, k, v), level, is_causal)

    output, grads = laws.gradients(call, (query, key, value))
    laws.assert_same(output[1], torch.zeros_like(output[1]))
    nothing = (output[0] == 0).all(-1).sum().item()
    assert nothing == (6 if is_causal else 0), f"expected zeros only of queries without keys, found {nothing} rows"
    assert all(g.isfinite().all() for g in grads), "expected finite gradients"
    laws.assert_same(grads[2][1], torch.zeros_like(grads[2][1]), what="gradient of values without weight")


@given(seed=seeds(), cuts=st.lists(sizes(1, 149), max_size=3))
def test_steps_with_a_state_are_one_pass(seed, cuts):
    """S_i = S_{i−1} + φ(k_i)v_iᵀ, z_i = z_{i−1} + φ(k_i): tokens in any portions, the state carried, give one pass.

    Source: Katharopoulos et al. 2020, §3.4, eq. 16-20: transformers are RNNs.
    """
    query, key, value = positive(*features(150, 150, seed))
    level = 300 * normal(2, 1, 150, seed=seed)
    state, portions = LinearAttentionState(), []
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), 150]):
        part = slice(start, stop)
        if stop > start:
            tensors = query[:, :, part], key[:, :, part], value[:, :, part], level[:, :, part]
            portions.append(linear_attention(*tensors, is_causal=True, state=state))
    laws.assert_close(torch.cat(portions, 2), by_hand(query, key, value, level, is_causal=True))
    held = sum(t.numel() for t in vars(state).values() if isinstance(t, torch.Tensor))
    assert held <= 2 * 3 * 5 * (4 + 1 + 1), f"expected S, z and a level for each feature at most, found {held} elements"


@pytest.mark.states("gradient routing")
def test_gradients_flow_through_a_state():
    """Tokens in two portions have the gradients of one pass, those of the first through the state.

    Source: Katharopoulos et al. 2020, §3.4; the chain rule.
    """

    def in_portions(q, k, v, w):
        state = LinearAttentionState()
        q, k, v = positive(q, k, v)
        parts = slice(0, 70), slice(70, 71), slice(71, 80)
        outputs = [
            linear_attention(q[:, :, p], k[:, :, p], v[:, :, p], w[:, :, p], is_causal=True, state=state) for p in parts
        ]
        return torch.cat(outputs, 2)

    laws.gradients_match(
        in_portions, lambda q, k, v, w: by_hand(*positive(q, k, v), w, True), *features(80, 80), normal(2, 1, 80)
    )


def test_what_comes_later_does_not_drown_what_was_before():
    """Causally, keys 1e300 times as heavy later on, within a block or beyond, change no earlier output.

    Source: Katharopoulos et al. 2020, eq. 8: sums over j ≤ i.
    Convention: sums are relative to the heaviest key so far; relative to that of the whole sequence, the rest is 0/0.
    """
    query, key, value = positive(*features(140, 140))
    level = torch.zeros(140, dtype=torch.float64)
    expected = linear_attention(query, key, value, level, is_causal=True)
    level[[40, 90]] = torch.tensor([800.0, 1700.0], dtype=torch.float64)
    found = linear_attention(query, key, value, level, is_causal=True)
    laws.assert_close(found[:, :, :40], expected[:, :, :40])
    laws.assert_close(found[:, :, 40:90], value[:, :, 40:41].expand(2, 3, 50, 4))
    laws.assert_close(found[:, :, 90:], value[:, :, 90:91].expand(2, 3, 50, 4))


# ---------------------------------------------------------------------------------------------- cost


@CAUSAL
@pytest.mark.parametrize("m", [4, 12])
def test_cost_grows_in_proportion_to_the_length(is_causal, m):
    """Operations and peak memory double with the length at most; without a mask operations are those of two products.

    Source: Katharopoulos et al. 2020, §3.2 and table 1: O(N·m·d); no N × N tensor and, causally, no N × m × d tensor.
    """
    lengths = (512, 1024, 2048)
    found = []
    for n in lengths:
        inputs = [u.abs() for u in (normal(1, 2, n, m), normal(1, 2, n, m), normal(1, 2, n, 4))]
        found.append((cost.flops(linear_attention, *inputs, None, is_causal), [u.float() for u in inputs]))
    operations = [count for count, _ in found]
    assert 4.4 * operations[0] > 2.1 * operations[1] > operations[2], f"expected linear cost, found {operations}"
    if not is_causal:
        products = 2 * 2 * (2 * lengths[0] * m * 5)
        assert operations[0] <= products, f"expected at most {products} operations, found {operations[0]}"
    memory = [cost.peak_bytes(linear_attention, *inputs, None, is_causal) for _, inputs in found]
    assert memory[0] < memory[2] < 2.1 * memory[1], f"expected peak memory linear in the length, found {memory}"
    assert memory[2] < 2048 * 2048 * 4 / 2, f"expected less than half of one N × N tensor, found {memory[2]} bytes"


def test_sums_of_all_positions_are_never_held_at_once():
    """Causally, with many features, memory stays below that of S_i for all i, N · m · d_v elements.

    Source: Katharopoulos et al. 2020, §3.3.1: gradients and sums in constant memory a token.
    """
    inputs = [normal(1, 1, 1024, size, seed=n).abs() for n, size in enumerate((64, 64, 32))]
    found = cost.peak_bytes(linear_attention, *inputs, None, True) / (1024 * 64 * 32 * 8)
    assert found < 0.25, f"expected less than a quarter of the memory of all S_i, found {found:.2f}"


@EACH
@CAUSAL
def test_cost_of_layers_grows_in_proportion_to_the_length(layer, is_causal):
    """Operations of a layer double with the length at most, from 512 tokens to 2048.

    Source: Katharopoulos et al. 2020, §3.2; Choromanski et al. 2021, §1: linear as opposed to quadratic.
    """
    module = layer(8, 2, is_causal=is_causal)
    operations = [cost.flops(module, normal(1, n, 8, dtype=torch.float32)) for n in (512, 1024, 2048)]
    assert 4.4 * operations[0] > 2.1 * operations[1] > operations[2], f"expected linear cost, found {operations}"


# ---------------------------------------------------------------------------------------------- random features

X = torch.tensor([0.4, 0.2, 0.3, -0.1], dtype=torch.float64)
Y = torch.tensor([0.1, 0.3, 0.1, -0.3], dtype=torch.float64)


def kernel_estimates(x, y, projection, m):
    """φ(x)ᵀφ(y) of each m rows of a projection, and exp(xᵀy)."""
    (a, log_a), (b, log_b) = (positive_features(t[None], projection) for t in (x, y))
    products = (a * b * (log_a + log_b).exp()[:, None] * len(projection)).reshape(-1, m)
    return products.mean(1), (x @ y).exp()


def lemma_2(x, y, m):
    """MSE of the positive estimator with m independent ω: exp(‖x + y‖²) SM² (1 − exp(−‖x + y‖²))/m."""
    z = (x + y).square().sum()
    return z.exp() * (x @ y).exp() ** 2 * (1 - (-z).exp()) / m


@given(seed=seeds(), m=sizes(1, 9), scale=st.sampled_from([0.1, 1.0, 6.0]))
def test_features_are_exponentials_over_their_largest(seed, m, scale):
    """features · e^level = exp(ω_iᵀx − ‖x‖²/2)/√m, with its gradient; features lie in [0, 1] and the largest is 1.

    Source: Choromanski et al. 2021, Lemma 1 with h(x) = exp(−‖x‖²/2), and eq. 5.
    """
    x, projection = scale * normal(2, 3, 4, seed=seed), normal(m, 4, seed=seed + 1)

    def together(x, projection):
        found, level = positive_features(x, projection)
        return found * level.exp()[..., None]

    laws.gradients_match(together, favor_features, x, projection)
    found, _ = positive_features(x, projection)
    assert (found >= 0).all(), "expected positive features"
    laws.assert_close(found.amax(-1), torch.ones(2, 3, dtype=torch.float64), what="largest feature")


@pytest.mark.parametrize("scale", [30.0, 1e4])
def test_features_of_long_vectors_are_finite(scale):
    """In float32 features of vectors 1e4 long, whose exp(ωᵀx) and exp(−‖x‖²/2) overflow and vanish, are in (0, 1].

    Source: Choromanski et al. 2021, appendix on the implementation: the maximum is subtracted for stability.
    """
    found, level = positive_features(scale * normal(2, 3, 4, dtype=torch.float32), normal(6, 4, dtype=torch.float32))
    assert found.isfinite().all() and level.isfinite().all() and (found.amax(-1) == 1).all(), f"found {found}"


def test_features_of_opposite_vectors_are_exact():
    """φ(x)ᵀφ(−x) = exp(−‖x‖²) whatever ω is: the estimate has no error where the kernel is smallest.

    Source: Choromanski et al. 2021, Lemma 2 at x + y = 0: MSE(SM⁺) = 0.
    """
    estimates, exact = kernel_estimates(5 * X, -5 * X, normal(7, 4), 7)
    laws.assert_close(estimates, exact[None])


@pytest.mark.parametrize("drawn", ["independent", "hyperbolic", "orthogonal"])
def test_estimates_of_the_kernel_are_unbiased(drawn):
    """E[φ(x)ᵀφ(y)] = exp(xᵀy) for independent ω, for pairs ±ω, and for orthogonal ω of χ_d lengths.

    |bias| < 4.5 σ of Lemma 2's variance, 20,000 samples: a false alarm in 100,000 seeds, and the seed is fixed.
    Measured: 0.0 to 1.4 σ right; with orthogonal ω from a QR whose signs were left alone 82 σ, of length 1 67 σ, of
    length √d 5.5 to 6.5 σ; 3 seeds.

    Source: Choromanski et al. 2021, Lemma 1 and §2.4: isotropy of ω makes orthogonal features unbiased.
    """
    count, m = 20_000, 4
    if drawn == "orthogonal":
        projection = orthogonal_projection(count * m, 4, torch.Generator().manual_seed(0), torch.float64)
    else:
        projection = normal(count, m, 4)
        if drawn == "hyperbolic":
            projection[:, m // 2 :] = -projection[:, : m // 2]
        projection = projection.flatten(0, 1)
    estimates, exact = kernel_estimates(X, Y, projection, m)
    off = ((estimates.mean() - exact) / (lemma_2(X, Y, m) / count).sqrt()).item()
    assert abs(off) < 4.5, f"expected no bias, found {off:.1f} standard deviations"


def test_errors_of_the_kernel_are_lemma_2():
    """MSE(SM⁺_m) = exp(‖x+y‖²) SM² (1 − exp(−‖x+y‖²))/m, and half of it times that bracket for pairs ±ω.

    Measured: within 5 % of the equation with 40,000 samples, 3 seeds; the bracket is 0.56 here.

    Source: Choromanski et al. 2021, Lemma 2: eq. 7 and Lemma 1's hyperbolic features, m of ω and m of −ω.
    """
    for m in (2, 8):
        omega = normal(40_000, m, 4, seed=m)
        expected = lemma_2(X, Y, m).item()
        estimates, exact = kernel_estimates(X, Y, omega.flatten(0, 1), m)
        found = (estimates - exact).square().mean().item()
        assert 0.9 < found / expected < 1.1, f"expected {expected:.4f} with {m} features, found {found:.4f}"
        estimates, exact = kernel_estimates(X, Y, torch.cat([omega, -omega], 1).flatten(0, 1), 2 * m)
        found = (estimates - exact).square().mean().item()
        expected *= 0.5 * (1 - math.exp(-(X + Y).square().sum().item()))
        assert 0.9 < found / expected < 1.1, f"expected {expected:.4f} with {m} pairs, found {found:.4f}"


def test_positive_features_are_sharp_where_the_kernel_is_small():
    """At x, y nearly opposite the relative error is 0.036; the trigonometric estimate's is 500, and half are negative.

    Measured: 0.035 to 0.036 positive, 502 to 504 trigonometric, 0.50 of these negative; 3 seeds, 4000 samples of m = 8.

    Source: Choromanski et al. 2021, Lemma 2: MSE(SM^trig) → ∞ and MSE(SM⁺) → 0 as SM → 0; §2.2.
    """
    x = torch.tensor([2.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    y, omega = -0.95 * x, normal(4000 * 8, 4)
    estimates, exact = kernel_estimates(x, y, omega, 8)
    trigonometric = ((omega @ (x - y)).cos() * ((x @ x + y @ y) / 2).exp()).reshape(-1, 8).mean(1)
    errors = [(e / exact - 1).square().mean().sqrt().item() for e in (estimates, trigonometric)]
    assert errors[0] < 0.1 and (estimates > 0).all(), f"expected a small relative error, found {errors[0]:.3f}"
    negative = (trigonometric < 0).double().mean().item()
    assert errors[1] > 50 and 0.4 < negative < 0.6, f"expected wild estimates, found {errors[1]:.0f}, {negative:.2f}"


def test_orthogonal_features_have_smaller_errors():
    """MSE(SM^ort) ≤ MSE(SM⁺) − 2(m−1)/(m(d+2)) · (SM − exp(−(‖x‖²+‖y‖²)/2))², for m = d = 8.

    Measured: gains of 1.2 to 1.6 of the bound, standard error 0.13 of it; 3 seeds. Independent rows gain 0. 0.6 of the
    bound is 4 standard errors from either: a false alarm in 10,000 seeds, and the seed is fixed.

    Source: Choromanski et al. 2021, theorem 2.
    """
    d = 8
    x, y = (t / (2 * t.norm()) for t in (normal(d, seed=2), normal(d, seed=3)))
    projection = orthogonal_projection(12_000 * d, d, torch.Generator().manual_seed(0), torch.float64)
    estimates, exact = kernel_estimates(x, y, projection, d)
    gain = (lemma_2(x, y, d) - (estimates - exact).square().mean()).item()
    bound = (2 * (d - 1) / (d * (d + 2)) * (exact - math.exp(-0.25)) ** 2).item()
    assert gain > 0.6 * bound, f"expected a gain of {bound:.5f} or more, found {gain:.5f}"


# ---------------------------------------------------------------------------------------------- the projection


@given(m=sizes(1, 14), d=sizes(1, 5), seed=seeds())
def test_blocks_of_a_projection_are_orthogonal(m, d, seed):
    """Rows of one block of d are orthogonal, also in a last block that is cut; rows of two blocks are not.

    Source: Choromanski et al. 2021, §2.4: m > d by independent blocks.
    """
    projection = orthogonal_projection(m, d, torch.Generator().manual_seed(seed), torch.float64)
    assert projection.shape == (m, d), f"expected shape {(m, d)}, found {tuple(projection.shape)}"
    products = projection @ projection.T
    block = torch.arange(m) // d
    others = (block[:, None] == block) & ~torch.eye(m, dtype=torch.bool)
    laws.assert_close(products[others], torch.zeros_like(products[others]))
    assert (products[block[:, None] != block] != 0).all(), "expected blocks independent of one another"


@pytest.mark.parametrize("d", [1, 3])
def test_each_direction_is_standard_normal(d):
    """Alone every ω_i is N(0, I_d): mean 0, covariance I, ‖ω‖² of mean d and variance 2d.

    Bounds are 5 standard errors of 8,000 blocks, a false alarm in 100,000 seeds, and the seed is fixed.
    Measured: means within 0.022 right, 3 seeds; −0.79, −0.75 and 0.76 with the signs of Householder's QR; variance of
    ‖ω‖² 0 with rows of length √d.

    Source: Choromanski et al. 2021, §2.4: marginal distributions stay N(0, I_d), as QR with positive diagonal gives.
    """
    count = 8000
    rows = orthogonal_projection(count * d, d, torch.Generator().manual_seed(0), torch.float64).reshape(count, d, d)
    mean = rows.mean(0).abs().max().item()
    assert mean < 5 / count**0.5, f"expected a mean of 0 in every row, found {mean:.3f}"
    covariance = torch.einsum("nri,nrj->rij", rows, rows) / count
    off = (covariance - torch.eye(d)).abs().max().item()
    assert off < 5 * (2 / count) ** 0.5, f"expected covariance I in every row, found {off:.3f} off"
    squares = rows.square().sum(-1)
    assert abs(squares.var().item() / (2 * d) - 1) < 0.15, f"expected variance {2 * d}, found {squares.var():.2f}"
    if d > 1:
        shared = torch.corrcoef(squares.T)[0, 1].item()
        assert abs(shared) < 5 / count**0.5, f"expected lengths independent of one another, found {shared:.3f}"


def test_a_projection_is_sampled_by_the_given_generator():
    """Equal seeds give equal projections, others others; a given generator spares the global one; dtype is as asked.

    Source: the contract of `generator` in torch's functions.
    """
    before = torch.get_rng_state()
    first, again, other = (orthogonal_projection(6, 4, torch.Generator().manual_seed(n)) for n in (1, 1, 2))
    laws.assert_same(first, again)
    laws.assert_differs(first, other, by=0.1)
    assert torch.equal(before, torch.get_rng_state()), "expected the global generator untouched"
    assert first.dtype == torch.float32, f"expected torch's default dtype, found {first.dtype}"
    found = orthogonal_projection(6, 4, dtype=torch.float64).dtype
    assert found == torch.float64, f"expected float64 as asked, found {found}"


def test_a_projection_is_state_and_resampled_in_place():
    """ω is a buffer in the state dict, no parameter; `redraw` changes it alone, in place, as its generator says.

    Source: Choromanski et al. 2021, §4.2: features are sampled anew periodically in training.
    """
    module = ready(FavorAttention(12, 3, num_features=7))
    assert "projection" not in dict(module.named_parameters()), "expected no parameter"
    kept, before, place = module.projection, module.projection.clone(), module.projection.data_ptr()
    weights = {n: p.clone() for n, p in module.named_parameters()}
    found = []
    for seed in (4, 3, 3):
        module.redraw(torch.Generator().manual_seed(seed))
        assert module.projection is kept and kept.data_ptr() == place, "expected the same buffer"
        laws.assert_differs(kept, before, by=0.1)
        found.append(kept.clone())
    laws.assert_same(found[2], found[1], what="resampled projection of the same seed")
    laws.assert_differs(found[1], found[0], by=0.1)
    for name, parameter in module.named_parameters():
        laws.assert_same(parameter, weights[name], what=name)
    x = normal(2, 5, 12)
    laws.assert_close(module(x), layer_by_hand(module, x), what="output with the new projection")


@pytest.mark.parametrize(("head_dim", "count"), [(64, 266), (8, 16), (3, 3), (2, 1), (1, 1)])
def test_as_many_features_as_theorem_4_asks(head_dim, count):
    """By default m = ⌊d ln d⌋, at least 1.

    Source: Choromanski et al. 2021, theorem 4: m = Θ(d log d) suffices.  Convention: rounded down, as performer-pytorch
    does.
    """
    found = FavorAttention(2 * head_dim, 2).projection.shape
    assert found == (count, head_dim), f"expected {(count, head_dim)}, found {tuple(found)}"


# ---------------------------------------------------------------------------------------------- the layers


@EACH
@CAUSAL
@pytest.mark.parametrize("bias", [False, True])
def test_layers_are_projections_around_the_kernel(layer, is_causal, bias):
    """LinearAttention has φ = elu + 1 of q and k as they are, FavorAttention its features of q/d^¼ and k/d^¼.

    Source: Katharopoulos et al. 2020, eq. 5 and 7; Choromanski et al. 2021, §2.1-2.2: exp(qᵀk/√d).
    Convention: the stabiliser is none of the result's business; weights as in torch.nn.MultiheadAttention.
    """
    module = ready(layer(12, 3, bias=bias, is_causal=is_causal))
    laws.gradients_match(
        _As(module, lambda x: module(x)), _As(module, lambda x: layer_by_hand(module, x)), normal(2, 5, 12)
    )


@EACH
def test_causal_layers_depend_on_the_past_alone(layer):
    """Token i attends to j ≤ i, itself included: the Jacobian's pattern is the lower triangle.

    Source: Katharopoulos et al. 2020, eq. 8.
    """
    module = ready(layer(2, 1, is_causal=True))
    allowed = torch.ones(5, 5).tril().bool().repeat_interleave(2, 0).repeat_interleave(2, 1)
    laws.depends_only_on(lambda x: module(x[None])[0], normal(5, 2), allowed)


@EACH
@given(seed=seeds(), lengths=st.tuples(sizes(1, 7), sizes(1, 7)))
def test_padding_is_as_good_as_absent(layer, seed, lengths):
    """With `key_mask` False at padding, tokens come out as alone in a sequence of their own length, causally or not.

    Source: Katharopoulos et al. 2020, eq. 4: a sum over the keys.  Convention: True marks a token.
    """
    for is_causal in (False, True):
        module, x = ready(layer(6, 2, is_causal=is_causal), seed), normal(2, 7, 6, seed=seed)
        mask = torch.arange(7) < torch.tensor(lengths)[:, None]
        x[~mask] = 1e2
        found = module(x, mask)
        for n, length in enumerate(lengths):
            laws.assert_close(found[n, :length], module(x[n : n + 1, :length])[0])


@EACH
def test_padding_in_front_is_as_good_as_absent(layer):
    """Padding before the tokens, in front of a causal sequence as well, changes nothing and leaves itself the bias.

    Source: Katharopoulos et al. 2020, eq. 8.  Convention: a token that attends to nothing gets out_proj's bias.
    """
    module, x = ready(layer(6, 2, is_causal=True)), normal(2, 7, 6)
    mask = torch.arange(7) >= torch.tensor([[0], [3]])
    found = module(x, mask)
    laws.assert_close(found[1, 3:], module(x[1:, 3:])[0])
    laws.assert_close(found[1, :3], module.out_proj.bias.expand(3, 6))


@EACH
@given(seed=seeds(), cut=sizes(1, 8))
def test_layers_generate_step_by_step(layer, seed, cut):
    """A prompt at once and then token by token, the state carried, gives what one causal pass gives.

    Source: Katharopoulos et al. 2020, §3.4.
    """
    module, x = ready(layer(6, 2, is_causal=True), seed), normal(2, 9, 6, seed=seed)
    state = LinearAttentionState()
    steps = [module(x[:, :cut], state=state), *(module(x[:, n : n + 1], state=state) for n in range(cut, 9))]
    laws.assert_close(torch.cat(steps, 1), layer_by_hand(module, x))


@EACH
def test_padding_on_the_left_works_with_a_state(layer):
    """A padded prompt and then more tokens, the state carried, give what one pass with the whole mask gives.

    In the second sample the first portion is padding alone: its state is that of no tokens.

    Source: Katharopoulos et al. 2020, §3.4; batches of prompts are padded in front to generate together.
    """
    module, x = ready(layer(6, 2, is_causal=True)), normal(2, 7, 6)
    mask, state = torch.arange(7) >= torch.tensor([[1], [4]]), LinearAttentionState()
    x[~mask] = 1e2
    portions = [module(x[:, part], mask[:, part], state) for part in (slice(0, 3), slice(3, 5), slice(5, 7))]
    found = torch.cat(portions, 1)
    for n, first in enumerate((1, 4)):
        laws.assert_close(found[n, first:], module(x[n : n + 1, first:])[0])


@EACH
def test_tokens_without_a_mask_are_a_set(layer):
    """Not causally, permuting the tokens permutes the outputs.

    Source: Katharopoulos et al. 2020, eq. 5: sums over all keys.
    """
    module = ready(layer(6, 2))
    order = torch.tensor([3, 0, 4, 1, 2])
    laws.equivariant(module, normal(2, 5, 6), lambda t: t[:, order])


def test_the_feature_map_is_positive_and_smooth():
    """φ(0) = 1 with derivative 1 from both sides, and φ(−30) = e^−30 in float32, where elu(x) + 1 rounds to 0.

    Read off the weights: of two keys with k = a and k = 0 the first weighs φ(a)/(φ(a) + 1).

    Source: Katharopoulos et al. 2020, eq. 7 and the remark on gradients below it.
    """
    module = LinearAttention(1, 1, bias=False)
    for parameter in module.parameters():
        parameter.data.fill_(1)

    def share(a):
        """The tokens are (a, 0): the value of the first is a as well, that of the second 0."""
        return module(torch.stack([a, torch.zeros_like(a)]).reshape(1, 2, 1))[0, 1, 0] / a

    grown = math.exp(-30)
    found = share(torch.tensor(-30.0)).item()
    assert abs(found / grown - 1) < 1e-5, f"expected a weight of {grown:.3e}, found {found:.3e}"
    found = share(torch.tensor(2.0)).item()
    assert abs(found - 3 / 4) < 1e-6, f"expected φ(2) = 3, a weight of 3/4, found {found:.4f}"
    # Queries 0, keys and values of the tokens themselves: the derivative at a key of 0 is φ'(0) = 1.
    module = LinearAttention(2, 1).double()
    for parameter in module.parameters():
        parameter.data.zero_()
    module.in_proj_weight.data[2:4] = torch.eye(2)
    module.in_proj_weight.data[4:6] = torch.eye(2)
    module.in_proj_bias.data[4:6] = 1.0
    module.out_proj.weight.data = torch.eye(2, dtype=torch.float64)
    x = torch.zeros(1, 2, 2, dtype=torch.float64)
    x[0, 1, 1] = 2.0  # keys (0, 0) and (0, 2): φ = (1, 1) and (1, 3); queries φ(0) = 1; values (1, 1) and (1, 3)
    rows = laws.jacobian(module, x)[0, 0, 1]  # of y_2 = (2 + 4 · 3)/(2 + 4) at the first token
    # ∂/∂k of the first key's weight 2: (1 − 7/3)/6 · φ'(0); its value moves by 2/6 along the second feature.
    slope = (1 - 7 / 3) / 6
    expected = torch.tensor([[slope, slope + 1 / 3]], dtype=torch.float64)
    laws.assert_close(rows[0, :1], expected, what="derivative at k = 0")


@pytest.mark.states("limiting case")
def test_heavy_and_light_keys_in_one_sequence():
    """In float32, causally, a first key of weight e^−200 still has the whole weight of the first token.

    Source: Choromanski et al. 2021, Lemma 1: exp(−‖x‖²/2).  Convention: one stabiliser a key, as large as the largest
    so far; one for all keys would leave 0/0 to the first token, and let it see what comes.
    """
    module = ready(FavorAttention(6, 2, num_features=9, is_causal=True))
    x = normal(1, 6, 6)
    x[:, 0] *= 9
    expected = layer_by_hand(module, x)
    value = nn.functional.linear(x[:, 0], module.in_proj_weight[12:], module.in_proj_bias[12:])
    expected[:, 0] = module.out_proj(value)
    found = module.float()(x.float())
    laws.assert_close(found, expected.float(), rtol=1e-4, atol=1e-4, because="float32 with exponents in hundreds")


@EACH
def test_weights_of_softmax_attention_move_over(layer):
    """A state dict of torch.nn.MultiheadAttention loads, and one of ours loads there; ω is the only extra.

    Source: Choromanski et al. 2021, §4.2: Performers take over the weights of a trained Transformer.
    """
    theirs = nn.MultiheadAttention(12, 3, batch_first=True).double()
    laws.randomise(theirs)
    module = layer(12, 3).double()
    missing, unexpected = module.load_state_dict(theirs.state_dict(), strict=False)
    assert set(missing) <= {"projection"} and not unexpected, f"expected ω alone to lack, found {missing}, {unexpected}"
    state = {n: t for n, t in module.state_dict().items() if n != "projection"}
    laws.randomise(theirs, seed=1)
    theirs.load_state_dict(state)
    x = normal(2, 5, 12)
    laws.assert_close(module(x), layer_by_hand(module, x))


@EACH
@pytest.mark.parametrize(("bias", "count"), [(True, 4 * 12 * 12 + 4 * 12), (False, 4 * 12 * 12)])
def test_features_cost_no_parameters(layer, bias, count):
    """Four layers of d² + d parameters, biases at 0 to begin with, and nothing for the kernel.

    Source: Choromanski et al. 2021, §1: no change of the parameters.  Convention: as torch.nn.MultiheadAttention.
    """
    module = layer(12, 3, bias=bias)
    found = sum(p.numel() for p in module.parameters())
    assert found == count, f"expected {count} parameters, found {found}"
    assert all((p == 0).all() for n, p in module.named_parameters() if "bias" in n), "expected biases at 0"
    bound = (6 / (4 * 12)) ** 0.5
    largest = module.in_proj_weight.abs().max().item()
    assert 0.9 * bound < largest <= bound, f"expected weights uniform up to {bound:.3f}, found {largest:.3f}"


@pytest.mark.project_convention
def test_layers_show_their_settings():
    """repr names the width, the width of a head, the features and whether it is causal.

    Convention: extra_repr as torch.nn modules have it.
    """
    shown = repr(LinearAttention(12, 3, is_causal=True))
    assert "12, head_dim=4, is_causal=True" in shown, f"expected the settings, found {shown}"
    shown = repr(FavorAttention(12, 3, num_features=7))
    assert "12, head_dim=4, num_features=7, is_causal=False" in shown, f"expected the settings, found {shown}"
