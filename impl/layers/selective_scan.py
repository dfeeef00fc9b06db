"""The scan of a selective state-space model: a linear recurrence whose coefficients are read from the input.

Gu & Dao 2023 (Mamba), arXiv:2312.00752, eq. 2a-2b, eq. 4, §3.3 and algorithm 2. For each channel, N states:

    h_t = Ā_t ⊙ h_{t−1} + B̄_t u_t,   y_t = C_tᵀ h_t + D u_t,   Ā_t = exp(Δ_t A)
    zero-order hold (eq. 4)    B̄_t = (exp(Δ_t A) − 1)/A · B_t        exact if the input stands still for Δ_t
    Euler (the official code)  B̄_t = Δ_t B_t                         its first order in Δ_t

Steps compose, so that L of them take ⌈log₂ L⌉ sweeps: (Ā, x) then (Ā′, x′) is (Ā′Ā, Ā′x + x′).

Convention: A is diagonal, one row for each channel; Δ is given positive, softplus has been taken of it. Inside, time
comes first and the N states before the channels, (t, b, n, d), and numbers are float32 or wider.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ..layers._autocast import without_autocast

# Steps whose states are held at one time. Memory between the passes is a state for each chunk.
CHUNK = 32


def selective_scan(
    u: Float[Tensor, "b t d"],
    delta: Float[Tensor, "b t d"],
    A: Float[Tensor, "d n"],
    B: Float[Tensor, "b t n"],
    C: Float[Tensor, "b t n"],
    D: Float[Tensor, " d"] | None = None,
    state: Float[Tensor, "b d n"] | None = None,
    discretization: str = "euler",
    mode: str = "chunked",
) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b d n"]]:
    """y (b, t, d) and the last state h (b, d, n), float32 or wider.

    Args:
        state: h before the first step; 0 if not given.
        discretization: "euler" or "zoh"; the latter divides by A.
        mode: "chunked" steps through time, holds `CHUNK` steps' states and makes them again in the backward pass;
            "sequential" and "parallel" hold all, the one steps through time, the other sweeps over it.

    Raises:
        ValueError: shapes that do not fit together, no steps, or another discretization or mode.

    Source: Gu & Dao 2023, arXiv:2312.00752, algorithm 2 and §3.3.2.
    """
    _check(u, delta, A, B, C, D, state)
    if mode not in ("chunked", "sequential", "parallel"):
        raise ValueError(f"expected mode 'chunked', 'sequential' or 'parallel', got {mode!r}")
    dtype, wide = u.dtype, torch.promote_types(u.dtype, torch.float32)
    state = A.new_zeros(len(u), *A.shape) if state is None else state
    A, start = A.to(wide).mT.contiguous(), state.to(wide).mT.contiguous()
    u, delta, B, C = (s.to(wide).transpose(0, 1).contiguous() for s in (u, delta, B, C))
    if mode == "chunked":
        read, states = _ChunkedScan.apply(u, delta, A, B, C, start, discretization)
    else:
        decay, drive = _coefficients(u, delta, A, B, discretization)
        if mode == "sequential":
            states = recurrence(decay, drive, start)[1:]
        else:
            states = associative_scan(decay, torch.cat([drive[:1] + decay[:1] * start, drive[1:]]))
        read = _read(states, C)
    if D is not None:
        read = read + D.to(wide) * u
    return read.transpose(0, 1).to(dtype), states[-1].mT.clone()  # a view would keep all states


def discretize(
    delta: Float[Tensor, "*#shape"], A: Float[Tensor, "*#shape"], method: str = "euler"
) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """Ā and B̄/B of a step of length Δ.

    Args:
        delta, A: broadcast against one another.
        method: "zoh" for (exp(ΔA) − 1)/A, "euler" for Δ.

    Raises:
        ValueError: another method.

    Source: Gu & Dao 2023, arXiv:2312.00752, eq. 4; "euler" is the official code's simplification.
    """
    if method not in ("euler", "zoh"):
        raise ValueError(f"expected a discretization 'euler' or 'zoh', got {method!r}")
    product = delta * A
    return product.exp(), delta if method == "euler" else product.expm1() / A


def combine(earlier: tuple[Tensor, Tensor], later: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Two steps h → a h + x as one: (a, x) then (a′, x′) is (a′a, a′x + x′). Associative, not commutative."""
    (a, x), (next_a, next_x) = earlier, later
    return next_a * a, next_a * x + next_x


def associative_scan(decay: Float[Tensor, "..."], drive: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """All h_t = a_t h_{t−1} + x_t from h = 0, t the first dimension, in ⌈log₂ T⌉ sweeps.

    After the k-th sweep a step stands for the 2^k steps up to it.

    Source: Hillis & Steele 1986 (Communications of the ACM 29); Gu & Dao 2023, arXiv:2312.00752, §3.3.2.
    """
    reach = 1
    while reach < len(drive):
        earlier, later = (decay[:-reach], drive[:-reach]), (decay[reach:], drive[reach:])
        joined = combine(earlier, later)
        decay, drive = (torch.cat([s[:reach], new]) for s, new in zip((decay, drive), joined))
        reach *= 2
    return drive


def recurrence(decay: Tensor, drive: Tensor, start: Tensor, backwards: bool = False) -> Tensor:
    """`start` and all h_t = a_t h_{t−1} + x_t after it; `backwards`, all h_t = a_t h_{t+1} + x_t and `start` after."""
    steps = list(zip(decay.unbind(), drive.unbind()))
    states = [start]
    for a, x in reversed(steps) if backwards else steps:
        states.append(torch.addcmul(x, a, states[-1]))
    return torch.stack(states[::-1] if backwards else states)


class _ChunkedScan(torch.autograd.Function):
    """Forwards chunk by chunk; backwards chunk by chunk with the states made again, g_t the gradient of h_t:

        g_t = C_t ∂y_t + Ā_{t+1} g_{t+1},   ∂(Δ_t A) = g_t ⊙ Ā_t ⊙ h_{t−1},   ∂(B̄_t u_t) = g_t

    The states between the chunks are an output: a saved output is part of the graph, so that second derivatives flow
    through it; any other number that forward computes would be a constant to them.
    """

    @staticmethod
    @without_autocast
    def forward(ctx, u, delta, A, B, C, start, method):
        reads, states = [], [start]
        for now in _chunks(len(u)):
            h = recurrence(*_coefficients(u[now], delta[now], A, B[now], method), states[-1])
            reads.append(_read(h[1:], C[now]))
            states.append(h[-1].clone())  # a view would keep the whole chunk
        read, between = torch.cat(reads), torch.stack(states[1:])
        ctx.method = method
        ctx.save_for_backward(u, delta, A, B, C, start, between)
        return read, between

    @staticmethod
    @without_autocast
    def backward(ctx, d_read, d_between):
        u, delta, A, B, C, start, between = ctx.saved_tensors
        carry, d_A, found = 0, 0, []
        for k, now in reversed(list(enumerate(_chunks(len(u))))):
            before = between[k - 1] if k else start
            decay, drive = _coefficients(u[now], delta[now], A, B[now], ctx.method)
            h = recurrence(decay, drive, before)
            d_h = d_read[now].unsqueeze(-2) * C[now].unsqueeze(-1)
            g = recurrence(decay[1:], d_h[:-1], d_h[-1] + carry + d_between[k], backwards=True)
            flow = decay * g  # what reaches h_{t−1}
            slope, carry = flow * h[:-1], flow[0]
            d_C = (h[1:] @ d_read[now].unsqueeze(-1)).squeeze(-1)
            d_u, d_delta, d_B, d_weight_A = _drive_gradients(g, u[now], delta[now], A, B[now], decay, ctx.method)
            d_delta = d_delta + (slope * A).sum(-2)
            d_A = d_A + (slope * delta[now].unsqueeze(-2)).sum((0, 1)) + d_weight_A
            found.append((d_u, d_delta, d_B, d_C))
        d_u, d_delta, d_B, d_C = (torch.cat(parts[::-1]) for parts in zip(*found))
        return d_u, d_delta, d_A, d_B, d_C, carry, None


def _chunks(length):
    return [slice(start, min(start + CHUNK, length)) for start in range(0, length, CHUNK)]


def _coefficients(u, delta, A, B, method):
    """Ā and B̄u, (t, b, n, d)."""
    decay, weight = discretize(delta.unsqueeze(-2), A, method)
    return decay, (weight * u.unsqueeze(-2)) * B.unsqueeze(-1)


def _read(states, C):
    """C_tᵀ h_t, (t, b, d)."""
    return (C.unsqueeze(-2) @ states).squeeze(-2)


def _drive_gradients(g, u, delta, A, B, decay, method):
    """What g, the gradient of w(Δ, A) B u, gives to u, Δ, B and A."""
    if method == "euler":  # w = Δ: sums over states or channels are products of matrices
        read = (B.unsqueeze(-2) @ g).squeeze(-2)
        return delta * read, u * read, (g @ (delta * u).unsqueeze(-1)).squeeze(-1), 0
    delta, u = delta.unsqueeze(-2), u.unsqueeze(-2)
    weight = discretize(delta, A, method)[1]
    of_u, of_weight = g * B.unsqueeze(-1), g * B.unsqueeze(-1) * u
    # ∂w/∂Δ = exp(ΔA),  ∂w/∂A = (Δ exp(ΔA) − w)/A
    d_A = (of_weight * (delta * decay - weight)).sum((0, 1)) / A
    return (of_u * weight).sum(-2), (of_weight * decay).sum(-2), (g * weight * u).sum(-1), d_A


def _check(u, delta, A, B, C, D, state):
    if u.dim() != 3 or not u.shape[1]:
        raise ValueError(f"expected u of shape (batch, steps, channels) with at least a step, got {tuple(u.shape)}")
    if A.dim() != 2 or len(A) != u.shape[2]:
        raise ValueError(f"expected A of shape ({u.shape[2]}, states), got {tuple(A.shape)}")
    (b, t, d), n = u.shape, A.shape[1]
    shapes = {"delta": (delta, (b, t, d)), "B": (B, (b, t, n)), "C": (C, (b, t, n))}
    shapes |= {"D": (D, (d,)), "state": (state, (b, d, n))}
    for name, (tensor, shape) in shapes.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"expected {name} of shape {shape}, got {tuple(tensor.shape)}")
