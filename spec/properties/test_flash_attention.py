"""FlashAttention.  Dao et al. 2022, arXiv:2205.14135; Dao 2023 (FlashAttention-2), arXiv:2307.08691."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from impl.layers.flash_attention import flash_attention
from spec import cost, laws
from spec.strategies import seeds, sizes

pytestmark = pytest.mark.item("flash-attention")


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def queries_keys_values(t=9, s=13, d_k=4, d_v=6, seed=0, dtype=torch.float64, batch=(2, 3)):
    shapes = (*batch, t, d_k), (*batch, s, d_k), (*batch, s, d_v)
    return [normal(*shape, seed=10 * seed + n, dtype=dtype) for n, shape in enumerate(shapes)]


def until_now(t, s):
    """True where query i of the last t of s positions is not before key j: i + s − t >= j."""
    return torch.arange(t)[:, None] + s - t >= torch.arange(s)


def dense(query, key, value, allowed=None, added=0.0, scale=None):
    """O and L from the whole matrix of scores; where nothing is allowed O = 0 and L = −∞."""
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = torch.einsum("...td,...sd->...ts", query, key) * scale + added
    if allowed is None:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool)
    top = scores.detach().masked_fill(~allowed, torch.finfo(scores.dtype).min).amax(-1, keepdim=True)
    grown = torch.where(allowed, (scores - top).clamp(max=0).exp(), 0.0)
    total = grown.sum(-1, keepdim=True)
    blind = total == 0
    lse = (total.masked_fill(blind, 1).log() + top).masked_fill(blind, -math.inf)
    return torch.einsum("...ts,...sd->...td", grown / total.masked_fill(blind, 1), value), lse.squeeze(-1)


def some(*shape, seed=0):
    """A boolean mask of which about two thirds are True, those of index 0 in the last dimension all."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.66
    if shape:
        mask[..., 0] = True
    return mask


def trained(*inputs, **options):
    """One forward and one backward pass."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    flash_attention(*leaves, **options).sum().backward()


# ---------------------------------------------------------------------------------------------- exact


@given(t=sizes(1, 12), s=sizes(1, 12), block_q=sizes(1, 5), block_k=sizes(1, 5), causal=st.booleans(), seed=seeds())
def test_tiles_of_any_size_give_attention_exactly(t, s, block_q, block_k, causal, seed):
    """O = softmax(τ Q Kᵀ) V and L = log Σ exp(τ Q Kᵀ) with all gradients, whatever lengths and tiles.

    Source: Dao et al. 2022, theorem 1 and algorithm 4; Dao 2023, algorithms 1 and 2.
    Convention: causal masks are aligned at the bottom right; query i of t sees keys up to i + s − t.
    """
    inputs = queries_keys_values(t, s, seed=seed)
    allowed = until_now(t, s) if causal else None
    laws.gradients_match(
        lambda *qkv: flash_attention(*qkv, is_causal=causal, return_lse=True, block_q=block_q, block_k=block_k),
        lambda *qkv: dense(*qkv, allowed=allowed),
        *inputs,
    )


@pytest.mark.parametrize(("block_q", "block_k"), [(64, 256), (256, 64), (100, 100), (1000, 1000)])
def test_long_sequences_agree_in_any_tiles(block_q, block_k):
    """For 300 queries and 333 keys, no multiples of any block, output and gradients are dense attention's.

    Source: Dao et al. 2022, theorem 1; algorithm 1 works on the last, ragged blocks alike.
    """
    laws.gradients_match(
        lambda *qkv: flash_attention(*qkv, is_causal=True, block_q=block_q, block_k=block_k),
        lambda *qkv: dense(*qkv, allowed=until_now(300, 333))[0],
        *queries_keys_values(300, 333, batch=(2,)),
    )


def test_default_tiles_are_exact():
    """With the default tiles and scale 1/√d_k, 140 queries and 150 keys, more than one tile of each, agree.

    Source: Dao et al. 2022, theorem 1; §2.2: S = Q Kᵀ is scaled by τ = 1/√d.
    """
    laws.gradients_match(flash_attention, lambda *qkv: dense(*qkv)[0], *queries_keys_values(140, 150, batch=(2,)))


def test_a_long_sequence_is_cut_by_default():
    """By default no tile of scores is larger than 128 × 128 a head, so that linear memory is the default.

    Source: Dao et al. 2022, algorithm 1, line 1.  Convention: blocks of 128; the paper sizes them by the cache, ⌈M/4d⌉.
    """
    assert largest_tensor(flash_attention, *queries_keys_values(512, 640, 2, 2, batch=())) <= 128 * 128


@pytest.mark.parametrize("scale", [None, 0.3, 2, -1.5])
def test_scale_replaces_one_over_root_width(scale):
    """S = τ Q Kᵀ with τ = 1/√d_k by default, and any other value on request, in output and gradients.

    Source: Dao et al. 2022, algorithm 2, line 10: S = τ Q Kᵀ.
    """
    laws.gradients_match(
        lambda *qkv: flash_attention(*qkv, scale=scale, return_lse=True, block_q=4, block_k=5),
        lambda *qkv: dense(*qkv, scale=scale),
        *queries_keys_values(),
    )


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (2, 1, 3)])
def test_leading_dimensions_are_apart(batch):
    """Samples and heads may have any number of leading dimensions, none included, and do not see each other.

    Source: Dao et al. 2022, §3.1: one head; Dao 2023, §3.2: batch and heads are parallel.
    """
    query, key, value = queries_keys_values(batch=batch)
    alone = [dense(q, k, v)[0] for q, k, v in zip(*(t.reshape(-1, *t.shape[-2:]) for t in (query, key, value)))]
    output = flash_attention(query, key, value, block_q=4, block_k=5)
    laws.assert_close(output, torch.stack(alone).reshape(*batch, 9, 6))


@pytest.mark.parametrize("mask", ["none", "booleans", "numbers"])
@pytest.mark.parametrize("causal", [False, True])
def test_second_derivatives_are_right(mask, causal):
    """Gradient and gradient of the gradient of O and L equal central differences, masked or not.

    Source: the definition of the derivative.  Convention: the second derivative costs N × N memory, the first does not.
    """
    inputs = queries_keys_values(3, 4, 2, 1, batch=())
    options = {"is_causal": causal, "return_lse": True, "block_q": 2, "block_k": 3}
    if mask == "booleans":
        allowed = some(3, 4, seed=3)
        laws.gradient_correct(lambda *qkv: flash_attention(*qkv, allowed, **options), *inputs, second_order=True)
    else:
        added = [normal(3, 4)] if mask == "numbers" else []
        laws.gradient_correct(lambda *given: flash_attention(*given, **options), *inputs, *added, second_order=True)


# ---------------------------------------------------------------------------------------------- masks


def test_causal_output_sees_the_past_alone():
    """∂O_i/∂V_j ≠ 0 exactly for j <= i + s − t, with queries beyond the keys' start seeing nothing, in tiles 2 by 3.

    Source: Dao et al. 2022, §3.1 (masking in algorithm 2).  Convention: aligned at the bottom right; torch's kernel
    aligns at the top left.
    """
    for t, s in ((4, 7), (6, 6), (7, 4)):
        query, key, value = queries_keys_values(t, s, d_v=1, batch=())
        call = lambda v, q=query, k=key: flash_attention(q, k, v, is_causal=True, block_q=2, block_k=3)  # noqa: E731
        laws.depends_only_on(call, value, until_now(t, s))


SHAPES = [(), (1,), (13,), (1, 13), (9, 1), (9, 13), (3, 9, 13)]
SHAPES += [(2, 1, 9, 13), (2, 1, 1, 13), (2, 3, 9, 13), (1, 3, 1, 13)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("causal", [False, True])
def test_true_in_a_mask_means_may_attend(shape, causal):
    """The softmax is over the keys marked True alone, for every shape that broadcasts, and where causality allows too.

    Source: Dao et al. 2022, algorithm 2, line 11: S^masked = mask(S).
    Convention: True means "may attend", as in torch's function, not as in torch.nn.MultiheadAttention.
    """
    mask = some(*shape)
    allowed = mask.expand(2, 3, 9, 13) & (until_now(9, 13) if causal else True)
    laws.gradients_match(
        lambda *qkv: flash_attention(*qkv, mask, causal, return_lse=True, block_q=4, block_k=5),
        lambda *qkv: dense(*qkv, allowed=allowed),
        *queries_keys_values(),
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("causal", [False, True])
def test_a_floating_mask_is_added_and_learned(shape, causal):
    """softmax(τ Q Kᵀ + B) V for a floating mask B of every shape that broadcasts, with the gradient to B.

    Source: Raffel et al. 2020, arXiv:1910.10683, §2.1 (relative position biases); Press et al. 2022, arXiv:2108.12409.
    """
    laws.gradients_match(
        lambda *given: flash_attention(*given, causal, return_lse=True, block_q=4, block_k=5),
        lambda q, k, v, b: dense(q, k, v, until_now(9, 13) if causal else None, b),
        *queries_keys_values(),
        normal(*shape, seed=7),
    )


@pytest.mark.parametrize("kind", ["booleans", "numbers", "causal"])
def test_a_query_that_may_attend_to_nothing_gets_zero(kind):
    """Where a whole row is masked O = 0 and L = −∞, its gradients are 0, nothing is NaN, and other rows stay.

    Source: Dao 2023, algorithm 1 leaves 0/0 there.  Convention: 0, as in this project's dense attention.
    """
    query, key, value = (t.requires_grad_() for t in queries_keys_values(9, 5))
    allowed = some(9, 5, seed=2)
    allowed[[0, 4, 8]] = False
    if kind == "causal":
        allowed = until_now(9, 5)
    mask = {"booleans": allowed, "numbers": torch.where(allowed, 0.5, -math.inf).double(), "causal": None}[kind]
    output, lse = flash_attention(query, key, value, mask, kind == "causal", return_lse=True, block_q=4, block_k=2)
    wanted, wanted_lse = dense(query, key, value, allowed, 0.5 if kind == "numbers" else 0.0)
    blind = ~allowed.any(-1)
    assert blind.sum() in (3, 4), f"expected rows that see nothing, found {int(blind.sum())}"
    laws.assert_same(output[:, :, blind], torch.zeros_like(output[:, :, blind]), what="rows that see nothing")
    laws.assert_close(output, wanted)
    laws.assert_close(lse, wanted_lse, what="log-sum-exp")
    grads = torch.autograd.grad(output, (query, key, value), normal(*output.shape, seed=5))
    wanted_grads = torch.autograd.grad(wanted, (query, key, value), normal(*output.shape, seed=5))
    laws.assert_all_close(grads, wanted_grads)
    laws.assert_same(grads[0][:, :, blind], torch.zeros_like(grads[0][:, :, blind]), what="their gradient")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("visible", ["later keys", "one key of the last tile"])
def test_tiles_that_are_masked_whole_change_nothing(dtype, visible):
    """With the first tiles of keys masked whole and all other scores below −100, L is theirs and nothing is NaN.

    Source: Milakov & Gimelshein 2018, algorithm 3 starts from m = −∞, d = 0.  A running maximum of 0 in place of −∞
    would stay, and exp(−100 − 0) vanishes in float32.
    """
    query, key, value = queries_keys_values(9, 13, dtype=dtype)
    allowed = torch.arange(13) >= (8 if visible == "later keys" else 12)
    options = {"return_lse": True, "block_q": 4, "block_k": 3}
    added = torch.full((13,), -200.0, dtype=dtype).masked_fill(~allowed, -math.inf)
    output, lse = flash_attention(query, key, value, added, **options)
    plain, lse_of_booleans = flash_attention(query, key, value, allowed, **options)
    wanted, wanted_lse = dense(query, key, value, allowed)
    laws.assert_close(output, wanted, atol=1e-4 if dtype == torch.float32 else None, because="200 + x rounds x to 2e-5")
    laws.assert_close(lse, wanted_lse - 200)
    laws.assert_close(plain, wanted)
    laws.assert_close(lse_of_booleans, wanted_lse)


# ---------------------------------------------------------------------------------------------- stable


@pytest.mark.states("limiting case")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sign", [1, -1])
def test_huge_scores_pick_the_best_key(dtype, causal, sign):
    """With scores of ±1e4, rising or falling from key to key, O is the value of the best key and L its score.

    Source: Milakov & Gimelshein 2018, §3: the running maximum makes every exponent at most 0.
    """
    keys = torch.arange(1, 8, dtype=dtype)[:, None] * torch.full((7, 4), sign * 1e4 / 7, dtype=dtype)
    leaves = [torch.full((5, 4), 0.5, dtype=dtype), keys, normal(7, 6, dtype=dtype)]
    leaves = [t.requires_grad_() for t in leaves]
    output, lse = flash_attention(*leaves, is_causal=causal, return_lse=True, block_q=2, block_k=3)
    last = torch.arange(5) + 2 if causal else torch.full((5,), 6)
    best = last if sign > 0 else 0 * last
    laws.assert_close(output, leaves[2][best])
    laws.assert_close(lse, keys[best, 0])
    slope = torch.autograd.grad(output.sum(), leaves)[0]
    why = "keys of 1e4 enlarge the rounding of P and D"
    laws.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e5 * torch.finfo(dtype).eps, because=why)


@given(seed=seeds(), growth=st.sampled_from([-20.0, -3.0, 0.5, 3.0, 20.0]))
def test_earlier_tiles_shrink_when_a_later_maximum_is_higher(seed, growth):
    """O ← e^{m − m'} O + P V and ℓ ← e^{m − m'} ℓ + rowsum P, for scores that grow or fall by up to 20 a key.

    Source: Dao et al. 2022, algorithm 1, lines 11 and 12; Milakov & Gimelshein 2018, algorithm 3.
    """
    query, key, value = queries_keys_values(seed=seed)
    added = growth * torch.arange(13, dtype=torch.float64)
    laws.gradients_match(
        lambda *qkv: flash_attention(*qkv, added, return_lse=True, block_q=4, block_k=2),
        lambda *qkv: dense(*qkv, added=added),
        query,
        key,
        value,
    )


def test_scores_of_half_precision_are_not_rounded():
    """In bfloat16 scores, softmax and L are float32: keys of large scores that differ by 1 are told apart.

    Source: Dao 2023, §3.1: O and ℓ accumulate in float32.
    Convention: L is float32 for inputs of half precision, as of torch's kernel.
    """
    query = torch.full((1, 4), 16.0, dtype=torch.bfloat16)
    key = torch.tensor([[16.0, 0, 0, 0], [16.0, 0.125, 0, 0]], dtype=torch.bfloat16)  # scores 128 and 129
    value = torch.eye(2, dtype=torch.bfloat16)
    output, lse = flash_attention(query, key, value, return_lse=True, block_k=1)
    wanted = torch.tensor([[1 / (1 + math.e), math.e / (1 + math.e)]])
    assert output.dtype == torch.bfloat16 and lse.dtype == torch.float32, f"found {output.dtype} and {lse.dtype}"
    laws.assert_close(output.float(), wanted, rtol=0, atol=2e-3, because="the output is rounded to 8 bits")
    laws.assert_close(lse, torch.tensor([128 + math.log(1 + math.e)]))


@pytest.mark.states("limiting case")
def test_no_keys_at_all_give_zero():
    """For s = 0 the sums are empty: O = 0, L = −∞; for t = 0 there is no output.

    Source: Milakov & Gimelshein 2018, algorithm 3, before its first step.
    """
    query, key, value = queries_keys_values(5, 7)
    output, lse = flash_attention(query, key[:, :, :0], value[:, :, :0], return_lse=True)
    laws.assert_same(output, torch.zeros(2, 3, 5, 6, dtype=torch.float64))
    laws.assert_same(lse, torch.full((2, 3, 5), -math.inf, dtype=torch.float64))
    laws.assert_same(flash_attention(query[:, :, :0], key, value), torch.zeros(2, 3, 0, 6, dtype=torch.float64))


# ---------------------------------------------------------------------------------------------- log-sum-exp


def merge(first, second):
    """(O, L) of the keys of both: L = log(e^{L_1} + e^{L_2}), O = Σ e^{L_i − L} O_i."""
    (o1, l1), (o2, l2) = first, second
    lse = torch.logaddexp(l1, l2)
    level = lse.masked_fill(lse == -math.inf, 0)
    return (l1 - level).exp()[..., None] * o1 + (l2 - level).exp()[..., None] * o2, lse


@pytest.mark.states("symmetry")
@given(seed=seeds(), cuts=st.lists(st.integers(0, 13), min_size=1, max_size=4).map(sorted))
def test_parts_of_the_keys_merge_in_any_order(seed, cuts):
    """(O, L) of disjoint sets of keys merge to those of their union, associatively, commutatively; (0, −∞) is neutral.

    Source: Milakov & Gimelshein 2018, §3.1, eq. 4; Dao et al. 2022, §3.1, the decomposition of the softmax.
    """
    query, key, value = queries_keys_values(seed=seed)
    bounds = [0, *cuts, 13]
    parts = [
        flash_attention(query, key[:, :, a:b], value[:, :, a:b], return_lse=True, block_q=4, block_k=3)
        for a, b in zip(bounds, bounds[1:])
    ]
    forward, backward = parts[0], parts[-1]
    for n in range(1, len(parts)):
        forward, backward = merge(forward, parts[n]), merge(parts[-1 - n], backward)
    wanted = dense(query, key, value)
    for found in (forward, backward, merge(parts[-1], parts[0]) if len(parts) == 2 else forward):
        laws.assert_close(found[0], wanted[0])
        laws.assert_close(found[1], wanted[1], what="log-sum-exp")


@pytest.mark.states("gradient routing")
def test_the_log_sum_exp_alone_has_its_gradient():
    """∂L/∂Q = τ P K and ∂L/∂K = τ Pᵀ: a loss on L alone, z-loss say, trains queries and keys, and no values.

    Source: the derivative of log-sum-exp is the softmax.
    """
    query, key, value = (t.requires_grad_() for t in queries_keys_values(5, 7))
    _, lse = flash_attention(query, key, value, return_lse=True, block_q=2, block_k=3)
    weights = (query @ key.mT / 2).softmax(-1)
    cotangent = normal(2, 3, 5)
    grads = torch.autograd.grad(lse, (query, key, value), cotangent, allow_unused=True, materialize_grads=True)
    laws.assert_close(grads[0], cotangent[..., None] * (weights @ key) / 2)
    laws.assert_close(grads[1], (weights * cotangent[..., None]).mT @ query / 2)
    laws.assert_same(grads[2], torch.zeros_like(value))


# ---------------------------------------------------------------------------------------------- memory and work


class _Sizes(TorchDispatchMode):
    """The largest result of an operator, and the elements that operators read from given tensors' storages."""

    def __init__(self, watched=()):
        super().__init__()
        self.largest = 0
        self.reads = {t.untyped_storage()._cdata: 0 for t in watched}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        made = [t for t in tree_flatten(result)[0] if isinstance(t, torch.Tensor)]
        if not operator.is_view:  # a view moves nothing
            self.largest = max([self.largest, *(t.numel() for t in made)])
            for t in tree_flatten((args, kwargs))[0]:
                if isinstance(t, torch.Tensor) and t.untyped_storage()._cdata in self.reads:
                    self.reads[t.untyped_storage()._cdata] += t.numel()
        return result


def largest_tensor(function, *inputs, **options):
    with _Sizes() as meter:
        function(*inputs, **options)
    return meter.largest


@pytest.mark.parametrize("causal", [False, True])
def test_no_matrix_of_all_scores_is_ever_made(causal):
    """No operator, forward or backward, makes a tensor above a few times N·d elements, as the N × N matrix would be.

    Source: Dao et al. 2022, §3.1: S and P are not written to memory, and P is recomputed in the backward pass.
    """
    inputs = queries_keys_values(512, 512, 16, 16, batch=(), dtype=torch.float32)
    found = largest_tensor(trained, *inputs, is_causal=causal, block_q=32, block_k=64)
    assert found <= 4 * 512 * 16, f"expected 4·N·d = {4 * 512 * 16:,} elements at most, found {found:,}"


@pytest.mark.parametrize("run", [flash_attention, trained])
@pytest.mark.parametrize("causal", [False, True])
def test_memory_is_linear_in_the_length(run, causal):
    """Peak bytes are a line in N: from 256 to 512 and from 512 to 768 tokens they grow by as much, not by 5/3 of it.

    Source: Dao et al. 2022, theorem 1: O(N) memory beyond inputs and output; dense attention's N² takes 4 N² bytes.
    """

    def peak(n):
        inputs = queries_keys_values(n, n, 8, 8, batch=(), dtype=torch.float32)
        return cost.peak_bytes(lambda *qkv: run(*qkv, is_causal=causal, block_q=64, block_k=64), *inputs)

    first, second, third = (peak(n) for n in (256, 512, 768))
    bend = (third - second) / (second - first)
    assert 0.8 < bend < 1.2, f"expected a line, found {first:,}, {second:,} and {third:,} bytes"
    slope = (third - second) / 256
    # A few vectors and numbers a token: O, L and its parts; to train, D and three gradients as well, each made twice.
    most = 4 * (8 * 3 + 4) if run is flash_attention else 4 * (8 * 10 + 8)
    assert slope <= most, f"expected {most} bytes a token at most, found {slope:g}"


@pytest.mark.parametrize("n", [64, 128])
@pytest.mark.parametrize("causal", [False, True])
def test_no_more_than_inputs_output_and_sums_is_saved_for_the_backward_pass(n, causal):
    """Saved are at most Q, K, V, O and two numbers a query, 8·N·(4d + 2) bytes in float64, and no tile of P.

    Source: Dao et al. 2022, §3.1, recomputation from m and ℓ; Dao 2023, §3.1.1: from L alone.
    """
    saved = {}

    def pack(t):
        saved[t.untyped_storage()._cdata] = t.untyped_storage().nbytes()
        return t

    inputs = [t.requires_grad_() for t in queries_keys_values(n, n, 16, 16, batch=())]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        output = flash_attention(*inputs, is_causal=causal, block_q=16, block_k=16)
    assert sum(saved.values()) <= 8 * n * (4 * 16 + 2), f"found {saved.values()} bytes"
    assert output.requires_grad


def visible_tiles(t, s, block_q, block_k):
    """The number of scores in tiles that some query of theirs may look into, ragged tiles as large as they are."""
    rows = [(i, min(i + block_q, t)) for i in range(0, t, block_q)]
    columns = [(j, min(j + block_k, s)) for j in range(0, s, block_k)]
    return sum((i1 - i0) * (j1 - j0) for i0, i1 in rows for j0, j1 in columns if j0 <= i1 - 1 + s - t)


@pytest.mark.own_code
@pytest.mark.parametrize(("t", "s"), [(256, 256), (70, 150), (150, 70), (96, 100)])
def test_tiles_beyond_the_diagonal_are_skipped(t, s):
    """Causal, the products cost at most 2·(d_k + d_v) a score of a visible tile; backward 2·(3·d_k + 2·d_v).

    Source: Dao 2023, §3.1.1, causal masking: blocks beyond the diagonal, about half, are skipped: 1.7-1.8x.
    Convention: tiles lie on a fixed grid from the first query and key; fused kernels of others count otherwise.
    """
    inputs = queries_keys_values(t, s, 16, 8, batch=())
    seen = visible_tiles(t, s, 32, 24)
    forward = cost.flops(lambda *qkv: flash_attention(*qkv, is_causal=True, block_q=32, block_k=24), *inputs)
    both = cost.flops(lambda *qkv: trained(*qkv, is_causal=True, block_q=32, block_k=24), *inputs)
    assert forward <= 2 * (16 + 8) * seen, f"expected up to {48 * seen:,}, found {forward:,}"
    assert both - forward <= 2 * (3 * 16 + 2 * 8) * seen, f"expected up to {128 * seen:,}, found {both - forward:,}"


@pytest.mark.own_code
def test_causality_of_256_tokens_spares_44_percent():
    """N = 256, d = 16, tiles of 32 × 32: 36 of 64 tiles are visible, at most 2,359,296 operations of 4,194,304.

    Source: Dao 2023, §3.1.1: 4·d·B_r·B_c operations a tile, 8·9/2 tiles on and below the diagonal.
    """
    inputs = queries_keys_values(256, 256, 16, 16, batch=())
    for causal, count in ((True, 2_359_296), (False, 4_194_304)):
        call = lambda *qkv, c=causal: flash_attention(*qkv, is_causal=c, block_q=32, block_k=32)  # noqa: E731
        assert cost.flops(call, *inputs) <= count, f"expected up to {count:,}, found {cost.flops(call, *inputs):,}"


@pytest.mark.project_convention
@pytest.mark.parametrize(("n", "block_q"), [(128, 16), (128, 32), (256, 32), (70, 16)])
def test_keys_and_values_are_read_once_for_each_block_of_queries(n, block_q):
    """Slow memory is read N·d times for Q and ⌈N/B_r⌉·N·d times for each of K and V: a larger block halves it.

    Source: Dao et al. 2022, theorem 2, Θ(N²d²/M) accesses; in the order of loops of Dao 2023, §3.1.1: queries outside.
    Convention: counted are the elements of Q, K and V that operators take in, whatever the size of a block of keys.
    """
    inputs = queries_keys_values(n, n, 8, 8, batch=(2, 3))
    with _Sizes(inputs) as meter:
        flash_attention(*inputs, block_q=block_q, block_k=16)
    size = 6 * n * 8
    found, wanted = list(meter.reads.values()), [size, -(-n // block_q) * size, -(-n // block_q) * size]
    assert found == wanted, f"expected {wanted} elements read of Q, K and V, found {found}"
