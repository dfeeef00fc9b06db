"""Scaled dot-product attention, self-attention and cross-attention.  Vaswani et al. 2017, arXiv:1706.03762."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from impl.layers.attention import CrossAttention, KeyValueCache, MultiHeadAttention, scaled_dot_product_attention
from spec import cost, laws
from spec.strategies import floats, permutations, seeds, sizes

SELF, CROSS = pytest.mark.item("self-attention"), pytest.mark.item("cross-attention")


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def queries_keys_values(t=5, s=7, d_k=4, d_v=6, seed=0, dtype=torch.float64, kv_heads=3):
    """Two samples of three heads, all sizes different."""
    shapes = (2, 3, t, d_k), (2, kv_heads, s, d_k), (2, kv_heads, s, d_v)
    return [normal(*shape, seed=10 * seed + n, dtype=dtype) for n, shape in enumerate(shapes)]


def some(*shape, seed=0):
    """A boolean mask of which about two thirds are True, those of index 0 in the last dimension all."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.66
    mask[..., 0] = True
    return mask


def weights_by_hand(query, key, scale=None, allowed=None, added=0.0):
    """exp(scale·q·k + added) over its sum of the allowed keys."""
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = torch.einsum("...td,...sd->...ts", query, key) * scale + added
    grown = (scores - scores.detach().amax(-1, keepdim=True)).exp()
    grown = grown if allowed is None else grown * allowed
    return grown / grown.sum(-1, keepdim=True)


def attention_by_hand(query, key, value, **options):
    return torch.einsum("...ts,...sd->...td", weights_by_hand(query, key, **options), value)


def until_now(t, s):
    """True where query i of the last t of s positions is not before key j: i + s − t >= j."""
    return torch.tensor([[i + s - t >= j for j in range(s)] for i in range(t)]).reshape(t, s)


def ready(module, seed=0):
    """float64, every parameter random and of a size at which no head is saturated."""
    laws.randomise(module.double(), seed)
    for parameter in module.parameters():
        parameter.data.mul_(0.5)
    return module


def multi_head_by_hand(module, queries, keys, values, weights, heads, kv_heads, width, added=0.0, allowed=None):
    """Concat(head_1, …) W^O with one product for each head, from (W^Q, W^K, W^V) and their bias."""
    (wq, wk, wv), bias = weights
    bq, bk, bv = bias.split([len(wq), len(wk), len(wv)]) if bias is not None else (0.0, 0.0, 0.0)
    q, k, v = queries @ wq.T + bq, keys @ wk.T + bk, values @ wv.T + bv
    found = []
    for h in range(heads):
        own, shared = slice(h * width, (h + 1) * width), h * kv_heads // heads
        shared = slice(shared * width, (shared + 1) * width)
        mask = {"added": added, "allowed": None if allowed is None else allowed[:, h % allowed.shape[1]]}
        found.append(attention_by_hand(q[..., own], k[..., shared], v[..., shared], **mask))
    state = dict(module.named_parameters())
    return torch.cat(found, -1) @ state["out_proj.weight"].T + state.get("out_proj.bias", 0.0)


def self_attention_by_hand(module, x, heads, kv_heads, width, **masks):
    rows = [heads * width, kv_heads * width, kv_heads * width]
    weights = module.in_proj_weight.split(rows), dict(module.named_parameters()).get("in_proj_bias")
    return multi_head_by_hand(module, x, x, x, weights, heads, kv_heads, width, **masks)


def cross_attention_by_hand(module, query, key, value, heads, width, **masks):
    bias = dict(module.named_parameters()).get("in_proj_bias")
    weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight), bias
    return multi_head_by_hand(module, query, key, value, weights, heads, heads, width, **masks)


class _As(nn.Module):
    """A formula as a module with another's parameters, for `laws.gradients_match`."""

    def __init__(self, owner, formula):
        super().__init__()
        self.owner, self.formula = owner, formula

    def forward(self, *inputs):
        return self.formula(*inputs)


# ---------------------------------------------------------------------------------------------- the function


@SELF
@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_is_a_softmax_of_scaled_products(scale):
    """Attention(Q, K, V) = softmax(Q Kᵀ/√d_k) V, with its gradients; `scale` replaces 1/√d_k.

    Source: Vaswani et al. 2017, eq. 1.
    """
    laws.gradients_match(
        lambda *qkv: scaled_dot_product_attention(*qkv, scale=scale),
        lambda *qkv: attention_by_hand(*qkv, scale=scale),
        *queries_keys_values(),
    )


@SELF
@pytest.mark.parametrize("masked", ["not", "boolean", "added", "causal"])
def test_second_derivatives_of_attention_are_right(masked):
    """Gradient and gradient of the gradient equal central differences, whatever the mask.

    Source: the definition of the derivative; a backward pass that saves what forward computed can lose the second.
    """
    options = {
        "not": {},
        "boolean": {"attn_mask": some(2, 3)},
        "added": {"attn_mask": normal(2, 3)},
        "causal": {"is_causal": True},
    }
    inputs = normal(2, 2, 2), normal(2, 3, 2, seed=1), normal(2, 3, 1, seed=2)
    laws.gradient_correct(
        lambda *qkv: scaled_dot_product_attention(*qkv, **options[masked]), *inputs, second_order=True
    )


@SELF
def test_scaled_products_have_unit_variance():
    """For q, k ~ N(0, 1) of any width, Var(q·k/√d_k) = 1: the log-odds of two keys have variance 2.

    The log-odds come out of the weights, with V the identity. 40,000 pairs give ±2 % (3 σ); 1/√d_model with 8 heads
    would give an eighth.

    Source: Vaswani et al. 2017, §3.2.1, footnote 4.
    """
    query, key = normal(40_000, 1, 64), normal(40_000, 2, 64, seed=1)
    weights = scaled_dot_product_attention(query, key, torch.eye(2, dtype=torch.float64).expand(40_000, 2, 2))
    odds = (weights[..., 0] / weights[..., 1]).log()
    laws.assert_close(odds.var() / 2, torch.ones((), dtype=torch.float64), rtol=0.03, because="a sample of 40,000")


@SELF
@given(seed=seeds(), t=sizes(1, 4), s=sizes(1, 4))
def test_outputs_are_weighted_averages_of_the_values(seed, t, s):
    """Weights are positive and sum to 1: constant values come out unchanged, others between their least and greatest.

    Source: Vaswani et al. 2017, §3.2: the output is a weighted sum of the values; eq. 1: softmax over the keys.
    """
    query, key, value = queries_keys_values(t, s, seed=seed)
    level = value[..., :1, :]
    laws.assert_close(
        scaled_dot_product_attention(query, key, level.expand_as(value)), level.expand(*query.shape[:-1], 6)
    )
    output = scaled_dot_product_attention(query, key, value)
    low, high = value.amin(-2, keepdim=True), value.amax(-2, keepdim=True)
    assert ((output >= low - 1e-12) & (output <= high + 1e-12)).all(), "expected outputs between the values"


@SELF
@given(seed=seeds(), size=floats(-5, 5))
def test_a_shift_of_all_scores_of_a_query_is_no_information(seed, size):
    """Adding one vector to all keys, or one constant to all scores of a query, leaves the output unchanged.

    Source: Vaswani et al. 2017, eq. 1: softmax(z + c) = softmax(z).
    """
    query, key, value = queries_keys_values(seed=seed)
    shift = size * normal(2, 3, 1, 4, seed=seed + 1)
    laws.invariant(lambda k: scaled_dot_product_attention(query, k, value), key, lambda k: k + shift)
    rows = normal(2, 3, 5, 7), size * normal(2, 3, 5, 1, seed=seed)
    laws.invariant(lambda m: scaled_dot_product_attention(query, key, value, m), rows[0], lambda m: m + rows[1])


@SELF
def test_queries_of_zero_take_the_mean():
    """Q = 0 gives every key that is allowed the same weight: the mean of V, and with a causal mask the running mean.

    Source: Vaswani et al. 2017, eq. 1 at QKᵀ = 0; §3.2.3 for the mask.
    """
    query, key, value = queries_keys_values(7, 7)
    mean = value.mean(-2, keepdim=True).expand(2, 3, 7, 6)
    laws.assert_close(scaled_dot_product_attention(0 * query, key, value), mean, rtol=1e-12, atol=1e-12)
    running = value.cumsum(-2) / torch.arange(1, 8)[:, None]
    found = scaled_dot_product_attention(0 * query, key, value, is_causal=True)
    laws.assert_close(found, running, rtol=1e-12, atol=1e-12)


@SELF
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_huge_scores_pick_the_best_key(dtype):
    """Scores of ±1e4 and more give the value of the best key: no overflow, no NaN, in the gradients neither.

    Source: Vaswani et al. 2017, §3.2.1: for large products the softmax saturates.
    """
    query, key, value = (t.to(dtype) for t in queries_keys_values())
    leaves = [(1e3 * query).requires_grad_(), (1e2 * key).requires_grad_(), value.requires_grad_()]
    output = scaled_dot_product_attention(*leaves)
    best = torch.einsum("...td,...sd->...ts", query.double(), key.double()).argmax(-1)
    laws.assert_same(output, value.gather(-2, best[..., None].expand(*best.shape, 6)))
    for grad in torch.autograd.grad(output.sum(), leaves):
        assert grad.isfinite().all(), "expected finite gradients"


@SELF
def test_scores_of_half_precision_are_not_rounded():
    """In bfloat16 the scores and their softmax are float32: close keys of large scores are told apart.

    The scores are near 40 and differ by 0.02 to 1; rounded to 8 bits they would move by up to 0.12, and the weights by
    12 %.

    Source: Micikevicius et al. 2017, arXiv:1710.03740, §3.3: reductions such as softmax are made in float32.
    Convention: as the fused kernels do; only inputs and outputs are bfloat16.
    """
    query, key, value = (t.bfloat16() for t in queries_keys_values(d_k=16))
    query, key = query + 4, key / 8 + 2.5
    expected = attention_by_hand(query.double(), key.double(), value.double())
    found = scaled_dot_product_attention(query, key, value)
    assert found.dtype == torch.bfloat16, f"expected bfloat16, found {found.dtype}"
    laws.assert_close(found.double(), expected, rtol=0.012, atol=0.012, because="inputs and outputs have 8 bits")


@SELF
@given(order=permutations(7), seed=seeds())
def test_keys_and_values_are_a_set_of_pairs(order, seed):
    """Permuting the keys together with their values changes nothing.

    Source: Vaswani et al. 2017, §3.5: the model contains no recurrence; order comes from positions that are added.
    """
    query, key, value = queries_keys_values(seed=seed)
    laws.invariant(
        lambda pairs: scaled_dot_product_attention(query, pairs[..., :4], pairs[..., 4:]),
        torch.cat([key, value], -1),
        lambda pairs: pairs[..., order, :],
    )


@SELF
def test_queries_do_not_see_each_other():
    """∂output_t/∂query_u = 0 for t ≠ u, in every head by itself: the softmax runs over keys, not over queries or heads.

    Source: Vaswani et al. 2017, eq. 1.
    """
    query, key, value = queries_keys_values(3, 4, 2, 2)
    rows = torch.arange(18).repeat_interleave(2)
    laws.depends_only_on(lambda q: scaled_dot_product_attention(q, key, value), query, rows[:, None] == rows)


@SELF
@pytest.mark.parametrize(("t", "s"), [(4, 4), (2, 5), (5, 3)])
def test_causal_masks_are_aligned_at_the_end(t, s):
    """With is_causal query i depends on keys and values up to i + s − t and no later ones; rows before the first are 0.

    Source: Vaswani et al. 2017, §3.2.3: leftward information flow only, by −∞ inside of the softmax.
    Convention: aligned at the bottom right, as a decoder with a cache needs it; torch's is_causal is at the top left.
    """
    query, key, value = normal(t, 2), normal(s, 2, seed=1), normal(s, 2, seed=2)

    def of_pairs(pairs):
        return scaled_dot_product_attention(query, pairs[:, :2], pairs[:, 2:], is_causal=True)

    allowed = until_now(t, s)
    # A single allowed key has weight 1, whatever it is.
    of_keys = (allowed & (allowed.sum(1, keepdim=True) > 1))[:, None, :, None].expand(t, 2, s, 2)
    own = torch.eye(2, dtype=torch.bool)[None, :, None] & allowed[:, None, :, None]
    laws.depends_only_on(of_pairs, torch.cat([key, value], -1), torch.cat([of_keys, own], -1).reshape(2 * t, 4 * s))
    seen = scaled_dot_product_attention(query, key, value, is_causal=True)
    if t > s:
        laws.assert_same(seen[: t - s], torch.zeros(t - s, 2, dtype=torch.float64))
    laws.assert_close(seen[-s:], attention_by_hand(query[-s:], key, value, allowed=allowed[-s:]))


@SELF
@pytest.mark.parametrize("shape", [(5, 7), (2, 1, 1, 7), (3, 1, 7), (2, 3, 5, 7), (7,)])
def test_true_in_a_mask_means_may_attend(shape):
    """With a boolean mask the softmax is over the keys marked True alone, for every shape that broadcasts.

    Source: Vaswani et al. 2017, §3.2.3.
    Convention: True attends, as in torch's function; in torch.nn.MultiheadAttention True is left out.
    """
    mask = some(*shape)
    laws.gradients_match(
        lambda *qkv: scaled_dot_product_attention(*qkv, mask),
        lambda *qkv: attention_by_hand(*qkv, allowed=mask),
        *queries_keys_values(),
    )


@SELF
@given(seed=seeds())
def test_masked_keys_have_no_weight_at_all(seed):
    """What may not be attended to has weight 0: whatever its key and value, the output is bitwise equal.

    Source: Vaswani et al. 2017, §3.2.3: masked by −∞, not by a number that is merely small.
    """
    query, key, value = queries_keys_values(seed=seed)
    mask = some(7, seed=seed)
    hidden = ~mask[:, None]
    other = key.masked_fill(hidden, 60.0), value.masked_fill(hidden, -1e6)
    laws.assert_same(
        scaled_dot_product_attention(query, *other, mask), scaled_dot_product_attention(query, key, value, mask)
    )


@SELF
@pytest.mark.parametrize("shape", [(5, 7), (3, 1, 7), (2, 3, 5, 7)])
def test_a_floating_mask_is_added_to_the_scores(shape):
    """softmax(Q Kᵀ/√d_k + B) V for a floating mask B, with the gradient to B: relative positions are learned so.

    Source: Vaswani et al. 2017, eq. 1 and §3.2.3; Raffel et al. 2020, arXiv:1910.10683, §2.1, for learned ones.
    """
    laws.gradients_match(
        lambda q, k, v, b: scaled_dot_product_attention(q, k, v, b),
        lambda q, k, v, b: attention_by_hand(q, k, v, added=b),
        *queries_keys_values(),
        normal(*shape, seed=9),
    )


@SELF
@given(seed=seeds())
def test_log_two_on_a_score_counts_a_key_twice(seed):
    """Adding ln 2 to the scores of a key is as good as having the key and its value twice.

    Source: Vaswani et al. 2017, eq. 1: exp(z + ln 2) = 2 exp(z): the mask is added after the scaling.
    """
    query, key, value = queries_keys_values(seed=seed)
    added = torch.zeros(7, dtype=torch.float64).index_fill(0, torch.tensor([2]), math.log(2))
    twice = [torch.cat([t, t[..., 2:3, :]], -2) for t in (key, value)]
    laws.assert_close(
        scaled_dot_product_attention(query, key, value, added), scaled_dot_product_attention(query, *twice)
    )


@SELF
@pytest.mark.parametrize("kind", ["boolean", "added"])
def test_a_mask_and_causality_hold_together(kind):
    """With a mask and is_causal a query attends where both allow it.

    Source: Vaswani et al. 2017, §3.2.3.  Convention: both may be given; torch's function takes only one of them.
    """
    qkv, mask, both = queries_keys_values(), some(5, 7), until_now(5, 7)
    if kind == "boolean":
        expected = attention_by_hand(*qkv, allowed=mask & both)
    else:
        mask = normal(5, 7, seed=5)
        expected = attention_by_hand(*qkv, allowed=both, added=mask)
    laws.assert_close(scaled_dot_product_attention(*qkv, mask, is_causal=True), expected)


@SELF
@pytest.mark.parametrize("kind", ["boolean", "added", "causal"])
def test_a_query_that_may_attend_to_nothing_gets_zero(kind):
    """Where a whole row is masked the output is 0, no gradient flows and no NaN appears; other rows are unchanged.

    Source: 0/0 in eq. 1 of Vaswani et al. 2017.  Convention: 0, the empty sum; a softmax of −∞ alone gives NaN.
    """
    leaves = [t.requires_grad_() for t in queries_keys_values(9, 7)]
    mask = torch.ones(9, 7, dtype=torch.bool)
    mask[:2] = False
    options = {"attn_mask": mask}
    if kind == "added":
        options = {"attn_mask": torch.zeros(9, 7, dtype=torch.float64).masked_fill(~mask, -math.inf).requires_grad_()}
        leaves.append(options["attn_mask"])
    if kind == "causal":
        options = {"is_causal": True}
    output = scaled_dot_product_attention(*leaves[:3], **options)
    laws.assert_same(output[:, :, :2], torch.zeros(2, 3, 2, 6, dtype=torch.float64))
    assert (output[:, :, 2:] != 0).all(), "expected other rows to attend to values"
    laws.assert_close(output[:, :, 8], attention_by_hand(*leaves[:3])[:, :, 8])
    for grad in torch.autograd.grad(output[:, :, :2].sum(), leaves, retain_graph=True, materialize_grads=True):
        laws.assert_same(grad, torch.zeros_like(grad), what="gradient of rows that attend to nothing")
    for grad in torch.autograd.grad(output.square().sum(), leaves):
        assert grad.isfinite().all() and (grad != 0).any(), "expected finite gradients of the other rows"


@SELF
@pytest.mark.parametrize("kv_heads", [1, 2, 3])
def test_grouped_heads_share_keys_and_values_with_their_neighbours(kv_heads):
    """With h query heads and g of keys and values, query head i attends to head ⌊i·g/h⌋: neighbours share.

    Source: Ainslie et al. 2023, arXiv:2305.13245, §2.2.  Convention: repeat_interleave, 0 0 1 1, not repeat, 0 1 0 1.
    """
    query, key, value = normal(2, 6, 5, 4), normal(2, kv_heads, 7, 4, seed=1), normal(2, kv_heads, 7, 3, seed=2)
    found = scaled_dot_product_attention(query, key, value, enable_gqa=True)
    for head in range(6):
        group = head * kv_heads // 6
        laws.assert_close(found[:, head], attention_by_hand(query[:, head], key[:, group], value[:, group]))
    alone = scaled_dot_product_attention(query[1], key[1], value[1], enable_gqa=True)
    laws.assert_close(alone, found[1], what="one sample without a batch")


@SELF
def test_dropout_zeroes_weights_and_enlarges_the_rest():
    """dropout_p = p zeroes each weight with probability p and divides the rest by 1 − p; nothing else changes.

    With V the identity the output is the weights. Of 6000 weights 30 % are dropped, ±2.4 points at 4 σ (false alarm
    6e-5); the seed is fixed.

    Source: Vaswani et al. 2017, §5.4; Srivastava et al. 2014, §10, for the factor.
    Convention: dropout_p acts at every call, as in torch's function; a module passes 0 in evaluation.
    """
    query, key = normal(2, 3, 50, 4), normal(2, 3, 20, 4, seed=1)
    value = torch.eye(20, dtype=torch.float64).expand(2, 3, 20, 20)
    kept = scaled_dot_product_attention(query, key, value, dropout_p=0.3) / weights_by_hand(query, key)
    dropped = kept == 0
    laws.assert_close(kept[~dropped], torch.full_like(kept[~dropped], 1 / 0.7))
    share = dropped.double().mean().item()
    assert abs(share - 0.3) < 0.024, f"expected about 30 % of the weights dropped, found {share:.3f}"


@SELF
def test_every_weight_is_dropped_independently():
    """Two neighbouring weights are dropped both or neither in 1 − 2p(1 − p) of all cases, in each dimension.

    58 % of 6000 pairs ± 3 points at 4 σ; the seed is fixed. One sample for all heads, say, would make it 100 %.

    Source: Srivastava et al. 2014, §4: a vector of independent Bernoulli variables.
    Convention: as in torch; to save memory some libraries share the samples of a batch or of the queries.
    """
    laws.reseed(5)
    query, key = normal(2, 3, 50, 4), normal(2, 3, 20, 4, seed=1)
    value = torch.eye(20, dtype=torch.float64).expand(2, 3, 20, 20)
    dropped = scaled_dot_product_attention(query, key, value, dropout_p=0.3) == 0
    for dim, name in enumerate(("samples", "heads", "queries", "keys")):
        share = (dropped == dropped.roll(1, dim)).double().mean().item()
        assert abs(share - 0.58) < 0.03, f"expected {name} to agree in 58 % of their samples, found {share:.3f}"


@SELF
def test_gradients_go_through_the_weights_that_were_kept():
    """With dropout the gradients are those of (softmax(Q Kᵀ/√d_k) ∘ R/(1 − p)) V for the R that was sampled.

    Source: Srivastava et al. 2014, §5.2: backpropagation on the thinned network.
    """
    query, key, _ = queries_keys_values()
    identity = torch.eye(7, dtype=torch.float64).expand(2, 3, 7, 7)

    def dropped(*qkv):
        laws.reseed(3)
        return scaled_dot_product_attention(*qkv, dropout_p=0.4)

    drawn = dropped(query, key, identity) != 0
    laws.gradients_match(
        dropped,
        lambda q, k, v: (weights_by_hand(q, k) * drawn / 0.6) @ v,
        query,
        key,
        normal(2, 3, 7, 6, seed=8),
    )


@SELF
@pytest.mark.parametrize(("t", "s"), [(8, 24), (16, 24), (16, 48)])
def test_attention_costs_the_product_of_the_lengths(t, s):
    """Two products of t·s dot products: at most 2·t·s·(d_k + d_v) floating-point operations a head.

    Source: Vaswani et al. 2017, table 1: O(n²·d) a layer.
    """
    qkv = queries_keys_values(t, s)
    found = cost.flops(scaled_dot_product_attention, *qkv)
    assert found <= 6 * 2 * t * s * (4 + 6), f"expected up to {6 * 2 * t * s * 10} operations, found {found}"


# ---------------------------------------------------------------------------------------------- self-attention


@SELF
@pytest.mark.parametrize(
    ("heads", "kv_heads", "width", "bias"), [(3, 3, 4, True), (3, 3, 4, False), (6, 2, 2, True), (4, 1, 5, True)]
)
@pytest.mark.parametrize("causal", [False, True])
def test_self_attention_joins_heads_of_projected_tokens(heads, kv_heads, width, bias, causal):
    """MultiHead(x) = Concat(head_1, …, head_h) W^O, head_i = Attention(x W_i^Q, x W_i^K, x W_i^V), with its gradients.

    Source: Vaswani et al. 2017, §3.2.2; Ainslie et al. 2023, §2.2, for fewer heads of keys and values.
    Convention: rows of W^Q, W^K, W^V one below the other, head 1 first, as torch.nn.MultiheadAttention has them.
    """
    module = ready(
        MultiHeadAttention(12, heads, bias=bias, is_causal=causal, num_kv_heads=kv_heads, head_dim=width), heads
    )
    allowed = until_now(5, 5)[None, None] if causal else None
    by_hand = _As(module, lambda x: self_attention_by_hand(module, x, heads, kv_heads, width, allowed=allowed))
    laws.gradients_match(module, by_hand, normal(2, 5, 12))


@SELF
def test_heads_add_up_in_any_order():
    """The output is the sum of what each head adds; permuting the heads with their weights changes nothing.

    Source: Vaswani et al. 2017, §3.2.2: Concat(head_1, …) W^O = Σ head_i W_i^O.
    """
    module, x = ready(MultiHeadAttention(12, 3)), normal(2, 5, 12)
    whole, bias = module(x), module.out_proj.bias.detach()
    kept, parts = module.out_proj.weight.detach().clone(), 0.0
    for head in range(3):
        only = torch.zeros_like(kept)
        only[:, 4 * head : 4 * head + 4] = kept[:, 4 * head : 4 * head + 4]
        module.out_proj.weight.data = only
        parts = parts + module(x) - bias
    laws.assert_close(parts + bias, whole)
    places = torch.tensor([2, 0, 1])
    module.out_proj.weight.data = kept.unflatten(1, (3, 4))[:, places].flatten(1)
    module.in_proj_weight.data = module.in_proj_weight.data.unflatten(0, (3, 3, 4))[:, places].flatten(0, 2)
    module.in_proj_bias.data = module.in_proj_bias.data.unflatten(0, (3, 3, 4))[:, places].flatten()
    laws.assert_close(module(x), whole, what="with heads in another order")


@SELF
@given(order=permutations(5))
def test_self_attention_moves_with_its_tokens_unless_it_is_causal(order):
    """f(Px) = P f(x) for every permutation P of the tokens; a causal mask ends this.

    Source: Vaswani et al. 2017, §3.5: without positions the order of the sequence makes no difference.
    """
    x = normal(2, 5, 12)
    laws.equivariant(ready(MultiHeadAttention(12, 3)), x, lambda t: t[:, order])
    causal = ready(MultiHeadAttention(12, 3, is_causal=True))
    swapped = causal(x.flip(1)).flip(1)
    laws.assert_differs(swapped, causal(x), by=1e-3, what="causal attention to the reversed tokens")


@SELF
def test_causal_self_attention_sees_no_future():
    """With is_causal, output t depends on tokens 0 … t, on each of them, and on no later one.

    Source: Vaswani et al. 2017, §3.2.3: leftward information flow is prevented.
    """
    module = ready(MultiHeadAttention(6, 3, is_causal=True))
    laws.causal(module, normal(2, 4, 6))
    step = torch.arange(4).repeat_interleave(6)
    laws.depends_only_on(lambda x: module(x[None])[0], normal(4, 6), step[:, None] >= step)


@pytest.mark.states("limiting case")
@SELF
def test_the_first_token_attends_to_itself_alone():
    """Causal output 0 is W^O W^V x_0 + b, whatever the queries and keys: the diagonal is allowed.

    Source: Vaswani et al. 2017, §3.2.3: all positions up to and including that position.
    """
    module, x = ready(MultiHeadAttention(12, 3, is_causal=True)), normal(2, 5, 12)
    value = x[:, 0] @ module.in_proj_weight[24:].T + module.in_proj_bias[24:]
    laws.assert_close(module(x)[:, 0], value @ module.out_proj.weight.T + module.out_proj.bias)


@SELF
@given(seed=seeds(), lengths=st.tuples(sizes(1, 6), sizes(1, 6)))
def test_padding_is_as_good_as_absent(seed, lengths):
    """With `key_mask` False at padding, each sample's tokens come out as alone in a sequence of their own length.

    Source: Vaswani et al. 2017, §3.2.3, masks inside of the softmax.
    Convention: True marks a token; key_padding_mask of torch.nn.MultiheadAttention marks the padding.
    """
    module, x = ready(MultiHeadAttention(12, 3)), normal(2, 6, 12, seed=seed)
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    x[~mask] = 1e3
    found = module(x, key_mask=mask)
    for sample, length in enumerate(lengths):
        laws.assert_close(found[sample, :length], module(x[sample : sample + 1, :length])[0])


@SELF
@pytest.mark.parametrize("shape", [(5, 5), (2, 1, 5, 5), (1, 3, 5, 5), (2, 3, 5, 5), (2, 3, 1, 5)])
@pytest.mark.parametrize("kind", ["boolean", "added"])
@pytest.mark.parametrize("padded", [False, True])
def test_masks_reach_the_heads_and_tokens_they_are_of(shape, kind, padded):
    """`attn_mask` of (t, s) or (b, heads, t, s) holds for those samples and heads, together with `key_mask`.

    Source: Vaswani et al. 2017, §3.2.3.  Convention: True attends; values are added to the scores.
    """
    module, x = ready(MultiHeadAttention(12, 3)), normal(2, 5, 12)
    key_mask = torch.tensor([[True, True, False, True, True], [True, False, True, True, False]]) if padded else None
    keys = torch.ones(2, 5, dtype=torch.bool) if key_mask is None else key_mask
    mask, added, allowed = some(*shape), torch.zeros((), dtype=torch.float64), keys[:, None, None].expand(2, 3, 5, 5)
    if kind == "added":
        mask = added = normal(*shape)
    else:
        allowed = allowed & mask
    added = added.expand(2, 3, 5, 5)
    values = [(x @ w.T + b).unflatten(-1, (3, 4)).transpose(1, 2) for w, b in _thirds(module)]
    heads = attention_by_hand(*values, allowed=allowed, added=added)
    expected = heads.transpose(1, 2).flatten(2) @ module.out_proj.weight.T + module.out_proj.bias
    laws.assert_close(module(x, mask, key_mask), expected)


def _thirds(module):
    return zip(module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3))


@pytest.mark.states("limiting case")
@SELF
def test_padding_everywhere_leaves_the_bias():
    """Where no token may be attended to the heads are 0: the output is W^O's bias, and nothing is NaN.

    Source: the empty sum.  Convention: 0 where a softmax over nothing would be NaN.
    """
    module, x = ready(MultiHeadAttention(12, 3)), normal(2, 5, 12).requires_grad_()
    mask = torch.tensor([[True] * 5, [False] * 5])
    found = module(x, key_mask=mask)
    laws.assert_close(found[1], module.out_proj.bias.expand(5, 12))
    (grad,) = torch.autograd.grad(found.square().sum(), x)
    assert grad.isfinite().all() and (grad[0] != 0).all(), "expected finite gradients"
    laws.assert_same(grad[1], torch.zeros(5, 12, dtype=torch.float64))


@SELF
@pytest.mark.parametrize("causal", [False, True])
def test_weights_on_request_are_those_that_were_used(causal):
    """need_weights gives (b, heads, t, s) besides the output: rows sum to 1, and weighted values make the output.

    Source: Vaswani et al. 2017, eq. 1; fig. 3-5 show such weights.
    Convention: of each head, and before dropout; torch.nn.MultiheadAttention averages over heads unless told.
    """
    module, x = ready(MultiHeadAttention(12, 3, dropout=0.5, is_causal=causal)), normal(2, 5, 12)
    output, weights = module.eval()(x, need_weights=True)
    laws.assert_close(output, module(x))
    query, key, value = ((x @ w.T + b).unflatten(-1, (3, 4)).transpose(1, 2) for w, b in _thirds(module))
    by_hand = weights_by_hand(query, key, allowed=until_now(5, 5) if causal else None)
    laws.assert_close(weights, by_hand, what="weights")
    heads = (weights @ value).transpose(1, 2).flatten(2)
    laws.assert_close(heads @ module.out_proj.weight.T + module.out_proj.bias, output, what="weighted values")
    laws.assert_close(module.train()(x, need_weights=True)[1], by_hand, what="weights in training, before dropout")


@pytest.mark.states("gradient routing")
@SELF
def test_weights_on_request_carry_gradient():
    """A loss on the weights, with or without one on the output, trains queries and keys as the formula does.

    Source: Vaswani et al. 2017, eq. 1; losses on weights align tokens (Liu et al. 2016, arXiv:1609.04186).
    """
    module = ready(MultiHeadAttention(12, 3))

    def weights(x):
        query, key, _ = ((x @ w.T + b).unflatten(-1, (3, 4)).transpose(1, 2) for w, b in _thirds(module))
        return weights_by_hand(query, key)

    def both(x):
        return self_attention_by_hand(module, x, 3, 3, 4), weights(x)

    x = normal(2, 5, 12)
    laws.gradients_match(lambda x: module(x, need_weights=True), both, x)
    laws.gradients_match(lambda x: module(x, need_weights=True)[1], weights, x)


@SELF
@given(cuts=st.lists(sizes(1, 4), min_size=1, max_size=4), seed=seeds(), kv_heads=st.sampled_from([1, 2, 4]))
def test_a_cache_changes_nothing_but_the_cost(cuts, seed, kv_heads):
    """Fed in chunks of any sizes with a cache, tokens come out as from one causal call.

    Source: Vaswani et al. 2017, §3.2.3: causal outputs depend on the past, whose keys and values do not change.
    Convention: query i of a chunk has position i + s − t: masks are aligned at the bottom right.
    """
    module = ready(MultiHeadAttention(12, 4, is_causal=True, num_kv_heads=kv_heads), seed)
    x, cache = normal(2, sum(cuts), 12, seed=seed), KeyValueCache()
    parts = [module(chunk, cache=cache) for chunk in x.split(cuts, dim=1)]
    laws.assert_close(torch.cat(parts, 1), module(x), rtol=1e-12, atol=1e-12)


@SELF
def test_gradients_flow_through_a_cache():
    """Tokens in two chunks have the gradients of one causal call, those of the first also through the cache.

    Source: Vaswani et al. 2017, §3.2.3: a cache is a matter of cost, so losses of later tokens reach earlier ones.
    """
    module, cut = ready(MultiHeadAttention(12, 4, is_causal=True, num_kv_heads=2)), 3

    def in_chunks(x):
        cache = KeyValueCache()
        return torch.cat([module(x[:, :cut], cache=cache), module(x[:, cut:], cache=cache)], 1)

    laws.gradients_match(_As(module, in_chunks), module, normal(2, 5, 12))


@SELF
def test_a_cache_holds_the_keys_and_values_of_the_past():
    """After n tokens a cache holds their keys and values, 2·n·kv_heads·head_dim elements a sample, and nothing else.

    Source: Ainslie et al. 2023, arXiv:2305.13245, §2.2: fewer heads of keys and values shrink the cache.
    """
    module, cache, x = (
        ready(MultiHeadAttention(12, 6, is_causal=True, num_kv_heads=2)),
        KeyValueCache(),
        normal(2, 5, 12),
    )
    assert cache.key is None and cache.value is None, "expected an empty cache at first"
    for chunk in x.split([2, 3], dim=1):
        module(chunk, cache=cache)
    projected = (x @ module.in_proj_weight[12:].T + module.in_proj_bias[12:]).unflatten(-1, (4, 2)).transpose(1, 2)
    laws.assert_close(cache.key, projected[:, :2], what="keys")
    laws.assert_close(cache.value, projected[:, 2:], what="values")


@SELF
def test_padding_on_the_left_works_with_a_cache():
    """`key_mask` over all s tokens, padding on the left, gives every sample what it would get alone, chunk by chunk.

    Source: Vaswani et al. 2017, §3.2.3; batched generation pads on the left.
    """
    module, x = ready(MultiHeadAttention(12, 3, is_causal=True)), normal(2, 6, 12)
    mask, cache = torch.arange(6) >= torch.tensor([[0], [2]]), KeyValueCache()
    first = module(x[:, :4], key_mask=mask[:, :4], cache=cache)
    found = torch.cat([first, module(x[:, 4:], key_mask=mask, cache=cache)], 1)
    laws.assert_close(found[0], module(x[:1])[0])
    laws.assert_close(found[1, 2:], module(x[1:, 2:])[0])


@SELF
def test_a_cache_spares_the_products_of_the_past():
    """Token n + 1 with a cache costs at most 2·4·d² + 4·(n + 1)·d operations; without one n + 1 times the first term.

    Source: Vaswani et al. 2017, table 1, for one query.
    """
    module, cache = ready(MultiHeadAttention(12, 3, is_causal=True)), KeyValueCache()
    module(normal(1, 9, 12), cache=cache)
    found = cost.flops(lambda x: module(x, cache=cache), normal(1, 1, 12, seed=1))
    assert found <= 2 * 4 * 12 * 12 + 4 * 10 * 12, f"expected up to {2 * 4 * 144 + 480} operations, found {found}"


@SELF
@pytest.mark.parametrize("t", [16, 32])
def test_self_attention_costs_four_projections_and_two_products(t):
    """The projections cost at most 2·t·4d² operations, scores and values 4·t²·d, whatever the number of heads.

    Source: Vaswani et al. 2017, §3.2.2: the total cost is that of one head of full width; table 1.
    """
    found = [cost.flops(MultiHeadAttention(12, heads).double(), normal(1, t, 12)) for heads in (1, 3, 6)]
    most = 2 * t * 4 * 144 + 4 * t * t * 12
    assert max(found) <= most, f"expected up to {most} for 1, 3 and 6 heads, found {found}"


@SELF
@pytest.mark.parametrize(
    ("options", "count"),
    [({}, 4 * 144 + 4 * 12), ({"bias": False}, 4 * 144), ({"num_kv_heads": 2}, 12 * 12 * 2 + 2 * 12 * 4 + 12 * 2 + 8)]
    + [({"head_dim": 5}, 3 * 30 * 12 + 3 * 30 + 12 * 30 + 12)],
)
def test_parameters_are_counted(options, count):
    """4d² weights and 4d biases; fewer heads of keys and values have fewer, a head_dim of its own changes all four.

    Source: Vaswani et al. 2017, §3.2.2: W_i^Q, W_i^K, W_i^V of d × d_k, W^O of h·d_v × d.
    """
    module = MultiHeadAttention(12, 6, **options)
    found = sum(p.numel() for p in module.parameters())
    assert found == count, f"expected {count} parameters, found {found}"
    assert (module(normal(2, 5, 12, dtype=torch.float32))).shape == (2, 5, 12)


@SELF
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_weights_trade_with_torch(bias, causal):
    """State goes to torch.nn.MultiheadAttention and comes back; both ways outputs and gradients stay the same.

    Convention: the names and the layout of torch.nn.MultiheadAttention: in_proj_weight is W^Q, W^K, W^V stacked.
    """
    ours = MultiHeadAttention(12, 3, bias=bias, is_causal=causal).double()
    theirs = nn.MultiheadAttention(12, 3, bias=bias, batch_first=True).double()
    future = ~until_now(5, 5) if causal else None
    own, other = _As(ours, ours), _As(theirs, lambda x: theirs(x, x, x, attn_mask=future, need_weights=False)[0])
    for seed, (source, target) in enumerate(((ours, theirs), (theirs, ours))):
        ready(source, seed)
        target.load_state_dict(source.state_dict())
        laws.gradients_match(own, other, normal(2, 5, 12))


@SELF
def test_projections_start_as_in_torch():
    """in_proj_weight starts uniform in ±√(6/(4d)), W^O in ±1/√d, all biases at 0.

    The largest of d² elements is below 98 % of the bound with probability below 1e-9.

    Source: Glorot & Bengio 2010, eq. 16, of the stacked matrix.  Convention: as torch.nn.MultiheadAttention starts.
    """
    module = MultiHeadAttention(48, 3)
    for weight, bound in ((module.in_proj_weight, math.sqrt(6 / 192)), (module.out_proj.weight, 48**-0.5)):
        largest = weight.abs().max().item()
        assert 0.98 * bound < largest <= bound, f"expected up to {bound:.4f}, found {largest:.4f}"
        spread = weight.std().item() / bound
        assert 0.54 < spread < 0.61, f"expected a uniform spread of 0.577 of the bound, found {spread:.3f}"
    for bias in (module.in_proj_bias, module.out_proj.bias):
        laws.assert_same(bias.detach(), torch.zeros_like(bias))


@pytest.mark.states("gradient routing")
@SELF
def test_the_bias_of_the_keys_does_nothing():
    """A bias of the keys adds q·b to all scores of a query: the output does not change and its gradient is 0.

    Source: softmax(z + c) = softmax(z) in Vaswani et al. 2017, eq. 1; the paper's projections have no biases.
    """
    module, x = ready(MultiHeadAttention(12, 3)), normal(2, 5, 12)
    before = module(x)
    (grad,) = torch.autograd.grad(before.square().sum(), module.in_proj_bias)
    laws.assert_close(grad[12:24], torch.zeros(12, dtype=torch.float64), what="gradient of the keys' bias")
    assert (grad[:12] != 0).all() and (grad[24:] != 0).all(), "expected gradients of the other biases"
    module.in_proj_bias.data[12:24] += 3
    laws.assert_close(module(x), before)


@SELF
def test_dropout_is_of_weights_and_in_training_only():
    """In training a lone token's weight of 1 becomes 0 or 1/(1 − p) in each head; in evaluation it stays 1.

    Each head then adds W_i^O v_i/(1 − p) whole or not at all: 400 samples of 3 heads, 25 % dropped ± 5 points at 4 σ.

    Source: Vaswani et al. 2017, §5.4; Srivastava et al. 2014, §10.
    Convention: attention weights are dropped, as in torch.nn.MultiheadAttention, not the features of the output.
    """
    module = ready(MultiHeadAttention(12, 3, dropout=0.25))
    module.out_proj.weight.data = torch.eye(12, dtype=torch.float64)
    x = normal(1, 1, 12).expand(400, 1, 12)
    value = x @ module.in_proj_weight[24:].T + module.in_proj_bias[24:]
    laws.assert_close(module.eval()(x), value + module.out_proj.bias)
    shares = ((module.train()(x) - module.out_proj.bias) / value).unflatten(-1, (3, 4))
    laws.assert_close(shares, shares[..., :1].expand_as(shares), what="shares of one head's features")
    kept = shares[..., 0] > 0.5
    laws.assert_close(shares[..., 0], kept.double() / 0.75, what="shares of the values")
    share = 1 - kept.double().mean().item()
    assert abs(share - 0.25) < 0.05, f"expected about a quarter of the weights dropped, found {share:.3f}"


@SELF
@pytest.mark.project_convention
def test_self_attention_shows_its_settings():
    """repr names the width, the number of heads, dropout and causality.

    Convention: extra_repr as torch.nn modules have it.
    """
    shown = repr(MultiHeadAttention(12, 6, dropout=0.25, is_causal=True, num_kv_heads=2))
    assert "12, 6, dropout=0.25, is_causal=True" in shown, f"expected the settings, found {shown}"


# ---------------------------------------------------------------------------------------------- cross-attention


def crossing(seed=0, **options):
    """A cross-attention of three heads whose keys and values have widths of their own."""
    return ready(CrossAttention(12, 3, kdim=5, vdim=7, **options), seed)


def query_and_context(seed=0, s=6):
    return normal(2, 4, 12, seed=seed), normal(2, s, 5, seed=seed + 1), normal(2, s, 7, seed=seed + 2)


@CROSS
@pytest.mark.parametrize("bias", [True, False])
def test_queries_attend_to_keys_and_values_of_another_sequence(bias):
    """MultiHead(Q, K, V) with queries of one sequence, keys and values of others of their own widths, with gradients.

    Source: Vaswani et al. 2017, §3.2.2 and §3.2.3: encoder-decoder attention.
    Convention: rows of head 1 first; one in_proj_bias for queries, keys and values in this order, as in torch.nn.
    """
    module = crossing(bias=bias)
    by_hand = _As(module, lambda q, k, v: cross_attention_by_hand(module, q, k, v, 3, 4))
    laws.gradients_match(module, by_hand, *query_and_context())


@CROSS
def test_values_are_made_of_the_keys_sequence_by_default():
    """Given one context, keys and values are both projected from it: f(x, c) = f(x, c, c).

    Source: Vaswani et al. 2017, §3.2.3: memory keys and values come from the output of the encoder.
    """
    module = ready(CrossAttention(12, 3, kdim=5, vdim=5))
    query, context, _ = query_and_context()
    laws.assert_close(module(query, context), cross_attention_by_hand(module, query, context, context, 3, 4))
    same = ready(CrossAttention(12, 3), 1)
    other = normal(2, 6, 12, seed=3)
    laws.assert_close(same(query, other), cross_attention_by_hand(same, query, other, other, 3, 4))


@CROSS
@pytest.mark.parametrize("widths", [{}, {"kdim": 5}, {"vdim": 7}])
def test_a_width_that_is_not_given_is_that_of_the_queries(widths):
    """kdim and vdim are embed_dim unless given, each by itself; given values are used even if shaped as the keys.

    Convention: the defaults of torch.nn.MultiheadAttention.
    """
    module, (kdim, vdim) = ready(CrossAttention(12, 3, **widths)), (widths.get(name, 12) for name in ("kdim", "vdim"))
    query, key, value = normal(2, 4, 12), normal(2, 6, kdim, seed=1), normal(2, 6, vdim, seed=2)
    laws.assert_close(module(query, key, value), cross_attention_by_hand(module, query, key, value, 3, 4))


@pytest.mark.states("symmetry")
@CROSS
@given(order=permutations(6), queries=permutations(4), seed=seeds())
def test_the_context_is_a_set_and_queries_keep_their_order(order, queries, seed):
    """Permuting the context with its mask changes nothing; permuting the queries permutes the output.

    Source: Vaswani et al. 2017, §3.5.
    """
    module, mask = crossing(seed), some(2, 6, seed=seed)
    query, key, value = query_and_context(seed)
    moved = module(query[:, queries], key[:, order], value[:, order], key_mask=mask[:, order])
    laws.assert_close(moved, module(query, key, value, key_mask=mask)[:, queries])


@pytest.mark.states("symmetry")
@CROSS
@given(seed=seeds(), times=sizes(2, 3))
def test_repeating_the_context_changes_nothing(seed, times):
    """Repeating every token of the context leaves the output: the weights are shared out.

    Source: Vaswani et al. 2017, eq. 1: numerator and denominator grow alike.
    """
    module = crossing(seed)
    query, key, value = query_and_context(seed)
    twice = (t.repeat(1, times, 1) for t in (key, value))
    laws.assert_close(module(query, *twice), module(query, key, value), rtol=1e-12, atol=1e-12)


@pytest.mark.states("limiting case")
@CROSS
def test_every_query_gets_the_same_from_a_context_of_one_token():
    """With one token of context every weight is 1: output = W^O W^V c + b, whatever the query.

    Source: Vaswani et al. 2017, eq. 1 for one key.
    """
    module = crossing()
    query, key, value = query_and_context(s=1)
    read = value @ module.v_proj_weight.T + module.in_proj_bias[24:]
    expected = read @ module.out_proj.weight.T + module.out_proj.bias
    laws.assert_close(module(query, key, value), expected.expand(2, 4, 12))


@CROSS
def test_each_query_sees_itself_and_the_unmasked_context():
    """∂out_t/∂query_u = 0 for t ≠ u, and ∂out/∂context_s = 0 exactly where `key_mask` is False, not elsewhere.

    Source: Vaswani et al. 2017, §3.2.3.
    """
    module, mask = ready(CrossAttention(6, 3, kdim=2, vdim=2)), torch.tensor([[True, False, True, True, False]])
    query, context = normal(1, 3, 6), normal(1, 5, 2, seed=1)
    step = torch.arange(3).repeat_interleave(6)
    laws.depends_only_on(lambda q: module(q, context, key_mask=mask), query, step[:, None] == step)
    open_ = mask[0].repeat_interleave(2).expand(18, 10)
    laws.depends_only_on(lambda c: module(query, c, key_mask=mask), context, open_)


@CROSS
@given(seed=seeds(), lengths=st.tuples(sizes(1, 6), sizes(1, 6)))
def test_context_padding_is_as_good_as_absent(seed, lengths):
    """With `key_mask` False at padding every sample attends to its context as if it ended there.

    Source: Vaswani et al. 2017, §3.2.3.  Convention: True marks a token; torch.nn's key_padding_mask marks padding.
    """
    module, mask = crossing(seed), torch.arange(6) < torch.tensor(lengths)[:, None]
    query, key, value = query_and_context(seed)
    key[~mask], value[~mask] = 1e3, -1e3
    found = module(query, key, value, key_mask=mask)
    for n, length in enumerate(lengths):
        alone = module(query[n : n + 1], key[n : n + 1, :length], value[n : n + 1, :length])
        laws.assert_close(found[n], alone[0])


@CROSS
@pytest.mark.parametrize("shape", [(4, 6), (2, 1, 4, 6), (1, 3, 1, 6), (2, 3, 4, 6)])
@pytest.mark.parametrize("kind", ["boolean", "added"])
def test_cross_masks_reach_the_heads_and_tokens_they_are_of(shape, kind):
    """`attn_mask` of (t, s) or (b, heads, t, s) holds for those samples, heads and pairs, together with `key_mask`.

    Source: Vaswani et al. 2017, §3.2.3.  Convention: True attends; values are added to the scores.
    """
    module, keys, mask = crossing(), some(2, 6, seed=4), some(*shape)
    query, key, value = query_and_context()
    allowed, added = keys[:, None, None].expand(2, 3, 4, 6), torch.zeros((), dtype=torch.float64)
    if kind == "added":
        mask = added = normal(*shape)
    else:
        allowed = allowed & mask
    matrices = module.q_proj_weight, module.k_proj_weight, module.v_proj_weight
    projected = (
        (x @ w.T + b).unflatten(-1, (3, 4)).transpose(1, 2)
        for x, w, b in zip((query, key, value), matrices, module.in_proj_bias.chunk(3))
    )
    heads = attention_by_hand(*projected, allowed=allowed, added=added).transpose(1, 2).flatten(2)
    expected = heads @ module.out_proj.weight.T + module.out_proj.bias
    laws.assert_close(module(query, key, value, mask, keys), expected)


@pytest.mark.states("limiting case")
@CROSS
def test_no_context_at_all_leaves_the_bias():
    """A sample whose whole context is masked gets W^O's bias, no NaN, and its context no gradient.

    Source: the empty sum.  Convention: 0 where a softmax over nothing would be NaN.
    """
    module, mask = crossing(), torch.tensor([[True] * 6, [False] * 6])
    query, key, value = (t.requires_grad_() for t in query_and_context())
    found = module(query, key, value, key_mask=mask)
    laws.assert_close(found[1], module.out_proj.bias.expand(4, 12))
    for grad in torch.autograd.grad(found.square().sum(), (query, key, value)):
        assert grad.isfinite().all() and (grad[0] != 0).all(), "expected finite gradients"
        laws.assert_same(grad[1], torch.zeros_like(grad[1]))


@CROSS
def test_cross_attention_trains_both_sequences():
    """A loss of the output reaches queries, keys and values, and the four projections.

    Source: Vaswani et al. 2017, §3.2.3: the encoder learns through the decoder's attention.
    """
    module = crossing()
    query, key, value = (t.requires_grad_() for t in query_and_context())
    loss = module(query, key, value).square().sum()
    laws.gradient_reaches(loss, {"query": query, "key": key, "value": value, **dict(module.named_parameters())})


@CROSS
def test_a_context_is_projected_once_for_many_queries():
    """read(query, *project(key, value)) = forward, and spares the 2·s·(kdim + vdim)·d operations of the context.

    Source: Vaswani et al. 2017, §3.2.3: the memory is the same at every step of the decoder.
    """
    module, mask = crossing(), some(2, 6)
    query, key, value = query_and_context()
    projected = module.project(key, value)
    laws.assert_close(module.read(query, *projected, key_mask=mask), module(query, key, value, key_mask=mask))
    read = cost.flops(module.read, query, *projected)
    assert read <= 2 * 2 * 4 * 2 * 144 + 2 * 4 * 4 * 6 * 12, f"expected two projections and two products, found {read}"


@CROSS
def test_cross_weights_on_request_are_those_that_were_used():
    """need_weights gives (b, heads, t, s) besides the output, each row a softmax over the context, before dropout.

    Source: Vaswani et al. 2017, eq. 1.  Convention: of each head; torch.nn averages over heads unless told.
    """
    module, mask = crossing(dropout=0.5), some(2, 6)
    query, key, value = query_and_context()
    q, k = query @ module.q_proj_weight.T + module.in_proj_bias[:12], key @ module.k_proj_weight.T
    heads = [t.unflatten(-1, (3, 4)).transpose(1, 2) for t in (q, k)]  # a bias of the keys would change nothing
    expected = weights_by_hand(*heads, allowed=mask[:, None, None])
    for training in (True, False):
        output, weights = module.train(training)(query, key, value, key_mask=mask, need_weights=True)
        laws.assert_close(weights, expected)
    laws.assert_close(output, module(query, key, value, key_mask=mask))


@CROSS
def test_losses_of_cross_weights_reach_queries_and_keys():
    """The weights have the gradients of their softmax: alignments can be trained by a loss of their own.

    Source: Vaswani et al. 2017, eq. 1; guided attention, Tachibana et al. 2017, arXiv:1710.08969, §4.
    """
    module, mask = crossing(), some(2, 6)

    def by_hand(query, key, value):
        q, k = query @ module.q_proj_weight.T + module.in_proj_bias[:12], key @ module.k_proj_weight.T
        return weights_by_hand(*(t.unflatten(-1, (3, 4)).transpose(1, 2) for t in (q, k)), allowed=mask[:, None, None])

    laws.gradients_match(
        lambda *tokens: module(*tokens, key_mask=mask, need_weights=True)[1], by_hand, *query_and_context()
    )


@CROSS
@pytest.mark.parametrize("bias", [True, False])
def test_cross_weights_trade_with_torch(bias):
    """State goes to torch.nn.MultiheadAttention of the same kdim and vdim and comes back, outputs and gradients alike.

    Convention: the names of torch.nn.MultiheadAttention with kdim and vdim: q_proj_weight, k_proj_weight, …
    """
    ours = CrossAttention(12, 3, kdim=5, vdim=7, bias=bias).double()
    theirs = nn.MultiheadAttention(12, 3, bias=bias, kdim=5, vdim=7, batch_first=True).double()
    mask = some(2, 6)
    other = _As(theirs, lambda q, k, v: theirs(q, k, v, key_padding_mask=~mask, need_weights=False)[0])
    for seed, (source, target) in enumerate(((ours, theirs), (theirs, ours))):
        ready(source, seed)
        target.load_state_dict(source.state_dict())
        laws.gradients_match(_As(ours, lambda q, k, v: ours(q, k, v, key_mask=mask)), other, *query_and_context())


@CROSS
def test_torch_packs_the_three_where_all_widths_are_equal():
    """With equal widths torch.nn stacks W^Q, W^K, W^V in in_proj_weight; its thirds are our three weights.

    Convention: the mapping in_proj_weight.chunk(3) → q_proj_weight, k_proj_weight, v_proj_weight.
    """
    theirs, ours = ready(nn.MultiheadAttention(12, 3, batch_first=True)), CrossAttention(12, 3).double()
    state = theirs.state_dict()
    stacked = state.pop("in_proj_weight").chunk(3)
    ours.load_state_dict(state | dict(zip(("q_proj_weight", "k_proj_weight", "v_proj_weight"), stacked)))
    query, context = normal(2, 4, 12), normal(2, 6, 12, seed=1)
    laws.assert_close(ours(query, context), theirs(query, context, context, need_weights=False)[0])


@CROSS
@given(seed=seeds())
def test_attention_to_itself_is_self_attention(seed):
    """CrossAttention of a sequence to itself is MultiHeadAttention with the same projections.

    Source: Vaswani et al. 2017, §3.2.3: in self-attention keys, values and queries come from the same sequence.
    """
    cross, itself = ready(CrossAttention(12, 3), seed), MultiHeadAttention(12, 3).double()
    state = cross.state_dict()
    stacked = torch.cat([state.pop(f"{name}_proj_weight") for name in "qkv"])
    itself.load_state_dict(state | {"in_proj_weight": stacked})
    x = normal(2, 5, 12, seed=seed)
    laws.assert_close(cross(x, x), itself(x))


@CROSS
def test_cross_projections_start_as_in_torch():
    """W^Q, W^K, W^V start uniform in ±√(6/(rows + columns)) each, W^O in ±1/√d, the biases at 0.

    Source: Glorot & Bengio 2010, eq. 16.  Convention: as torch.nn.MultiheadAttention with kdim and vdim starts.
    """
    module = CrossAttention(48, 3, kdim=24, vdim=96)
    bounds = {"q_proj_weight": 6 / 96, "k_proj_weight": 6 / 72, "v_proj_weight": 6 / 144, "out_proj.weight": 1 / 48}
    for name, square in bounds.items():
        weight, bound = module.get_parameter(name), math.sqrt(square)
        largest = weight.abs().max().item()
        assert 0.98 * bound < largest <= bound, f"{name}: expected up to {bound:.4f}, found {largest:.4f}"
    for bias in (module.in_proj_bias, module.out_proj.bias):
        laws.assert_same(bias.detach(), torch.zeros_like(bias))


@CROSS
def test_cross_dropout_is_of_weights_and_in_training_only():
    """In training the weight of 1 of a lone token becomes 0 or 1/(1 − p) in each head; in evaluation it stays 1.

    400 queries of 3 heads, 25 % dropped ± 5 points at 4 σ.

    Source: Vaswani et al. 2017, §5.4.  Convention: attention weights are dropped, as in torch.nn.MultiheadAttention.
    """
    module = crossing(dropout=0.25)
    module.out_proj.weight.data = torch.eye(12, dtype=torch.float64)
    _, key, value = query_and_context(s=1)
    query, read = normal(2, 200, 12), value @ module.v_proj_weight.T + module.in_proj_bias[24:]
    laws.assert_close(module.eval()(query, key, value), (read + module.out_proj.bias).expand(2, 200, 12))
    shares = ((module.train()(query, key, value) - module.out_proj.bias) / read).unflatten(-1, (3, 4))
    kept = shares > 0.5
    laws.assert_close(shares, kept.double() / 0.75)
    assert (kept == kept[..., :1]).all(), "expected the features of a head to stay or go together"
    share = 1 - kept.double().mean().item()
    assert abs(share - 0.25) < 0.05, f"expected about a quarter of the weights dropped, found {share:.3f}"


@CROSS
def test_cross_parameters_are_counted():
    """d² weights of queries and of W^O, d·kdim of keys, d·vdim of values, 4d biases.

    Source: Vaswani et al. 2017, §3.2.2.
    """
    found = [sum(p.numel() for p in CrossAttention(12, 3, 5, 7, bias=bias).parameters()) for bias in (True, False)]
    assert found == [2 * 144 + 12 * 12 + 48, 2 * 144 + 12 * 12], f"expected 480 and 432 parameters, found {found}"
