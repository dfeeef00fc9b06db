"""FlashAttention as Triton kernels: what impl does tile by tile in PyTorch, here in a GPU's fast memory.

Dao 2023, arXiv:2307.08691, algorithms 1 and 2; the equations stand in impl/layers/flash_attention.py. One program owns
a block of queries (of keys, for ∂K and ∂V) and walks over the blocks of the other side.

Needs the optional extra `triton`, and nothing depends on this file. Where there is no GPU, TRITON_INTERPRET=1 runs the
kernels line by line in NumPy: slow, and good for proving them.

Convention: as in impl. No masks but the causal one, and no second derivatives.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

if not torch.cuda.is_available() and isinstance(tl.zeros, triton.runtime.JITFunction):
    # Triton decides when it is imported, which others may have done before.
    raise RuntimeError("expected a GPU, or TRITON_INTERPRET=1 in the environment from the start, found neither")

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    return_lse: bool = False,
    block_q: int = 64,
    block_k: int = 64,
) -> Tensor | tuple[Tensor, Tensor]:
    """softmax(scale · Q Kᵀ) V; on request also L = log Σ_s exp(scale · Q Kᵀ).

    Args:
        query, key, value: (*batch, t, d_k), (*batch, s, d_k) and (*batch, s, d_v); the same leading dimensions.
        attn_mask: None.
        is_causal: query i may attend to keys up to i + s − t only.
        scale: τ, factor of Q Kᵀ; default 1/√d_k.
        return_lse: if True, (O, L) is returned.
        block_q, block_k: queries and keys of a tile, raised to a power of two; no result depends on them.

    Raises:
        ValueError: shapes that do not fit together, a block below 1.
        NotImplementedError: a mask.

    Source: Dao 2023, arXiv:2307.08691, algorithms 1 and 2.
    """
    batch, (t, d_k), (s, d_v) = query.shape[:-2], query.shape[-2:], value.shape[-2:]
    if key.shape != (*batch, s, d_k) or value.shape != (*batch, s, d_v):
        shapes = [tuple(x.shape) for x in (query, key, value)]
        raise ValueError(f"expected query (*b, t, d_k), key (*b, s, d_k) and value (*b, s, d_v), got shapes {shapes}")
    if attn_mask is not None:
        raise NotImplementedError("the kernels take no mask but the causal one")
    if min(block_q, block_k) < 1:
        raise ValueError(f"expected block_q >= 1 and block_k >= 1, got {block_q} and {block_k}")
    # The interpreter takes milliseconds a tile: long sequences get no small ones there.
    least = 64 if INTERPRETED.value and max(t, s) > 64 else 1
    blocks = (max(least, triton.next_power_of_2(block)) for block in (block_q, block_k))
    scale = d_k**-0.5 if scale is None else scale
    flat = (x.reshape(math.prod(batch), *x.shape[-2:]).contiguous() for x in (query, key, value))
    output, lse = _forward(*flat, is_causal, scale, *blocks)
    output, lse = output.reshape(*batch, t, d_v), lse.reshape(*batch, t)
    return (output, lse) if return_lse else output


@torch.library.custom_op("blueprint::flash_forward", mutates_args=())
def _forward(
    query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float, block_q: int, block_k: int
) -> tuple[Tensor, Tensor]:
    (n, t, d_k), (_, s, d_v) = query.shape, value.shape
    output, lse = _empty_outputs(query, value)
    if output.numel() or lse.numel():
        sizes = t, s, d_k, d_v, s - t, scale
        options = _padded(d_k, d_v) | {"CAUSAL": causal, "BLOCK_Q": block_q, "BLOCK_K": block_k}
        _forward_kernel[(triton.cdiv(t, block_q), n)](query, key, value, output, lse, *sizes, **options)
    return output, lse


@_forward.register_fake
def _(query, key, value, causal, scale, block_q, block_k):
    return _empty_outputs(query, value)


def _empty_outputs(query, value):
    """O in the dtype of the inputs, L in float32 or wider."""
    n, t, _ = query.shape
    lse = query.new_empty(n, t, dtype=torch.promote_types(query.dtype, torch.float32))
    return query.new_empty(n, t, value.shape[-1]), lse


@torch.library.custom_op("blueprint::flash_backward", mutates_args=())
def _backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    d_output: Tensor,
    lse: Tensor,
    slack: Tensor,
    causal: bool,
    scale: float,
    block_q: int,
    block_k: int,
) -> tuple[Tensor, Tensor, Tensor]:
    (n, t, d_k), (_, s, d_v) = query.shape, value.shape
    d_query, d_key, d_value = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
    sizes = t, s, d_k, d_v, s - t, scale
    options = _padded(d_k, d_v) | {"CAUSAL": causal, "BLOCK_Q": block_q, "BLOCK_K": block_k}
    given = query, key, value, d_output, lse, slack
    if n and t and s:
        _query_kernel[(triton.cdiv(t, block_q), n)](*given, d_query, *sizes, **options)
        _key_value_kernel[(triton.cdiv(s, block_k), n)](*given, d_key, d_value, *sizes, **options)
    return d_query, d_key, d_value


@_backward.register_fake
def _(query, key, value, *others):
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:3], *output)
    ctx.options = inputs[3:]


def _differentiate(ctx, d_output, d_lse):
    """D = rowsum(O ∘ ∂O) − ∂L is all that the tiles need to know of other tiles."""
    query, key, value, output, lse = ctx.saved_tensors
    slack = (output.to(lse.dtype) * d_output).sum(-1) - d_lse
    gradients = _backward(query, key, value, d_output.contiguous(), lse, slack, *ctx.options)
    return *gradients, None, None, None, None


def _no_second_derivative(ctx, *gradients):
    raise NotImplementedError("no second derivatives here: impl/layers/flash_attention.py has them")


_forward.register_autograd(_differentiate, setup_context=_save)
_backward.register_autograd(_no_second_derivative)


def _padded(d_k, d_v):
    """Tensor cores take 16 columns at the least, and Triton's ranges are powers of two; beyond the width are zeros."""
    return {"PAD_K": max(16, triton.next_power_of_2(d_k)), "PAD_V": max(16, triton.next_power_of_2(d_v))}


@triton.jit
def _tile(start, n, length, width, rows, columns):
    """Where the numbers of a tile stand in (N, length, width), and which of them exist."""
    inside = (rows[:, None] < length) & (columns[None, :] < width)
    return start + (n * length + rows[:, None]) * width + columns[None, :], inside


@triton.jit
def _load(start, n, length, width, rows, columns):
    place, inside = _tile(start, n, length, width, rows, columns)
    return tl.load(place, mask=inside, other=0.0)


@triton.jit
def _product(a, b):
    if INTERPRETED and a.dtype == tl.bfloat16:  # NumPy has no bfloat16 and would multiply the bits
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")  # not the 10 bits of TF32


@triton.jit
def _scores(q, k, rows, columns, s, lag, scale, CAUSAL: tl.constexpr):
    """A tile of S, −∞ where a query may not attend."""
    visible = columns[None, :] < s
    if CAUSAL:
        visible = visible & (columns[None, :] <= rows[:, None] + lag)
    return tl.where(visible, _product(q, tl.trans(k)) * scale, float("-inf"))


@triton.jit
def _forward_kernel(
    Q, K, V, O, L, t, s, d_k, d_v, lag, scale,
    PAD_K: tl.constexpr, PAD_V: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    n, first = tl.program_id(1), tl.program_id(0) * BLOCK_Q
    rows, keys, values = first + tl.arange(0, BLOCK_Q), tl.arange(0, PAD_K), tl.arange(0, PAD_V)
    q = _load(Q, n, t, d_k, rows, keys)
    exact = L.dtype.element_ty
    peak = tl.full([BLOCK_Q], float("-inf"), exact)  # m
    total = tl.zeros([BLOCK_Q], exact)  # ℓ
    out = tl.zeros([BLOCK_Q, PAD_V], exact)
    end = tl.minimum(s, first + BLOCK_Q + lag) if CAUSAL else s  # no query of this block sees further
    for start in range(0, end, BLOCK_K):
        columns = start + tl.arange(0, BLOCK_K)
        scores = _scores(q, _load(K, n, s, d_k, columns, keys), rows, columns, s, lag, scale, CAUSAL)
        higher = tl.maximum(peak, tl.max(scores, 1))
        level = tl.where(higher == float("-inf"), 0.0, higher)  # nothing seen yet: −∞ − (−∞) is no number
        weights = tl.exp(scores - level[:, None])
        shrink = tl.exp(peak - level)
        v = _load(V, n, s, d_v, columns, values)
        total = total * shrink + tl.sum(weights, 1)
        out = out * shrink[:, None] + _product(weights.to(v.dtype), v)
        peak = higher
    total = tl.where(total == 0, 1.0, total)  # of a query that sees nothing: O = 0, L = −∞
    tl.store(L + n * t + rows, peak + tl.log(total), mask=rows < t)
    place, inside = _tile(O, n, t, d_v, rows, values)
    out = out / total[:, None]
    tl.store(place, out.to(O.dtype.element_ty), mask=inside)


@triton.jit
def _score_gradient(q, k, v, d_out, rows, columns, n, L, D, t, s, lag, scale, CAUSAL: tl.constexpr):
    """P = exp(S − L) and ∂S = P ∘ (∂O Vᵀ − D), made anew; 0 where a query may not attend."""
    lse = tl.load(L + n * t + rows, mask=rows < t, other=0.0)
    slack = tl.load(D + n * t + rows, mask=rows < t, other=0.0)
    scores = _scores(q, k, rows, columns, s, lag, scale, CAUSAL)
    weights = tl.exp(scores - tl.where(lse == float("-inf"), 0.0, lse)[:, None])
    return weights, weights * (_product(d_out, tl.trans(v)) - slack[:, None])


@triton.jit
def _query_kernel(
    Q, K, V, dO, L, D, dQ, t, s, d_k, d_v, lag, scale,
    PAD_K: tl.constexpr, PAD_V: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    n, first = tl.program_id(1), tl.program_id(0) * BLOCK_Q
    rows, keys, values = first + tl.arange(0, BLOCK_Q), tl.arange(0, PAD_K), tl.arange(0, PAD_V)
    q, d_out = _load(Q, n, t, d_k, rows, keys), _load(dO, n, t, d_v, rows, values)
    d_q = tl.zeros([BLOCK_Q, PAD_K], L.dtype.element_ty)
    end = tl.minimum(s, first + BLOCK_Q + lag) if CAUSAL else s
    for start in range(0, end, BLOCK_K):
        columns = start + tl.arange(0, BLOCK_K)
        k, v = _load(K, n, s, d_k, columns, keys), _load(V, n, s, d_v, columns, values)
        _, d_scores = _score_gradient(q, k, v, d_out, rows, columns, n, L, D, t, s, lag, scale, CAUSAL)
        d_q += _product(d_scores.to(k.dtype), k)
    place, inside = _tile(dQ, n, t, d_k, rows, keys)
    tl.store(place, (d_q * scale).to(dQ.dtype.element_ty), mask=inside)


@triton.jit
def _key_value_kernel(
    Q, K, V, dO, L, D, dK, dV, t, s, d_k, d_v, lag, scale,
    PAD_K: tl.constexpr, PAD_V: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    n, first = tl.program_id(1), tl.program_id(0) * BLOCK_K
    columns, keys, values = first + tl.arange(0, BLOCK_K), tl.arange(0, PAD_K), tl.arange(0, PAD_V)
    k, v = _load(K, n, s, d_k, columns, keys), _load(V, n, s, d_v, columns, values)
    d_k_tile = tl.zeros([BLOCK_K, PAD_K], L.dtype.element_ty)
    d_v_tile = tl.zeros([BLOCK_K, PAD_V], L.dtype.element_ty)
    # The first query that sees any of these keys, at the start of its block.
    begin = tl.maximum(0, first - lag) // BLOCK_Q * BLOCK_Q if CAUSAL else 0
    for start in range(begin, t, BLOCK_Q):
        rows = start + tl.arange(0, BLOCK_Q)
        q, d_out = _load(Q, n, t, d_k, rows, keys), _load(dO, n, t, d_v, rows, values)
        weights, d_scores = _score_gradient(q, k, v, d_out, rows, columns, n, L, D, t, s, lag, scale, CAUSAL)
        d_v_tile += _product(tl.trans(weights).to(d_out.dtype), d_out)
        d_k_tile += _product(tl.trans(d_scores).to(q.dtype), q)
    place, inside = _tile(dK, n, s, d_k, columns, keys)
    tl.store(place, (d_k_tile * scale).to(dK.dtype.element_ty), mask=inside)
    place, inside = _tile(dV, n, s, d_v, columns, values)
    tl.store(place, d_v_tile.to(dV.dtype.element_ty), mask=inside)
