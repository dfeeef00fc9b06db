"""The scan of a selective state-space model: a linear recurrence whose coefficients depend on the input.

Gu & Dao 2023 (Mamba), arXiv:2312.00752, eq. 2a-2b, eq. 4, §3.3 and algorithm 2. For each channel, N states:

    h_t = Ā_t ⊙ h_{t−1} + B̄_t u_t,   y_t = C_tᵀ h_t + D u_t,   Ā_t = exp(Δ_t A)
    zero-order hold (eq. 4)    B̄_t = (exp(Δ_t A) − 1)/A · B_t        exact if the input is constant for Δ_t
    Euler (the official code)  B̄_t = Δ_t B_t                         its first order in Δ_t

Three ways to compute the states: `recurrence` goes step by step; `associative_scan` takes ⌈log₂ L⌉ sweeps, because
steps compose: (Ā, x) then (Ā′, x′) is (Ā′Ā, Ā′x + x′); `selective_scan` goes through chunks of steps and, as §3.3.2
asks, keeps no states for the backward pass, which is written out and computes each chunk's states once more.

Convention: A is diagonal, one row a channel; Δ is positive, after its softplus. Inside, time comes first and the N
states before the channels, (t, b, n, d), in float32 or wider.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ._autocast import without_autocast
from .numerics import at_least_float32

# Steps whose states are held at one time; between the passes one state a chunk is kept.
CHUNK = 32


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


def recurrence(
    decay: Float[Tensor, "..."], drive: Float[Tensor, "..."], state: Float[Tensor, "..."]
) -> Float[Tensor, "..."]:
    """All h_t = a_t h_{t−1} + x_t, one after another.

    Args:
        decay, drive: a and x.
        state: h before the first step.

    Source: Gu & Dao 2023, arXiv:2312.00752, eq. 2a.
    """
    states = [state]
    for a, x in zip(decay.unbind(), drive.unbind()):
        states.append(torch.addcmul(x, a, states[-1]))
    return torch.stack(states[1:])


def associative_scan(
    decay: Float[Tensor, "..."], drive: Float[Tensor, "..."], state: Float[Tensor, "..."] | None = None
) -> Float[Tensor, "..."]:
    """All h_t = a_t h_{t−1} + x_t in ⌈log₂ T⌉ sweeps.

    After the k-th sweep a step stands for the 2^k steps up to it.

    Args:
        decay, drive: a and x.
        state: h before the first step; default 0.

    Source: Hillis & Steele 1986 (Communications of the ACM 29); Gu & Dao 2023, arXiv:2312.00752, §3.3.2.
    """
    if state is not None:
        drive = torch.cat([drive[:1] + decay[:1] * state, drive[1:]])
    reach = 1
    while reach < decay.shape[0]:
        earlier, later = (decay[:-reach], drive[:-reach]), (decay[reach:], drive[reach:])
        joined = combine(earlier, later)
        decay, drive = (torch.cat([s[:reach], new]) for s, new in zip((decay, drive), joined))
        reach *= 2
    return drive


def selective_scan(
    u: Float[Tensor, "b t d"],
    delta: Float[Tensor, "b t d"],
    A: Float[Tensor, "d n"],
    B: Float[Tensor, "b t n"],
    C: Float[Tensor, "b t n"],
    D: Float[Tensor, " d"] | None = None,
    state: Float[Tensor, "b d n"] | None = None,
    discretization: str = "euler",
) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "b d n"]]:
    """y (b, t, d) and the last state h (b, d, n), float32 or wider.

    Args:
        state: h before the first step; default 0.
        discretization: "euler" or "zoh"; the latter divides by A.

    Raises:
        ValueError: shapes that do not fit together, no steps, or another discretization.

    Source: Gu & Dao 2023, arXiv:2312.00752, algorithm 2 and §3.3.2.
    """
    _check(u, delta, A, B, C, D, state)
    dtype = u.dtype
    state = A.new_zeros(u.shape[0], *A.shape) if state is None else state
    A, state = (at_least_float32(s).mT.contiguous() for s in (A, state))
    u, delta, B, C = (at_least_float32(s).transpose(0, 1).contiguous() for s in (u, delta, B, C))
    y, states = _ChunkedScan.apply(u, delta, A, B, C, state, discretization)
    if D is not None:
        y = y + at_least_float32(D) * u
    return y.transpose(0, 1).to(dtype), states[-1].mT.clone()  # a view would keep all states


class _ChunkedScan(torch.autograd.Function):
    """Forward chunk by chunk; backward chunk by chunk with the states recomputed, g_t the gradient of h_t:

        g_t = C_t ∂y_t + Ā_{t+1} g_{t+1},   ∂(Δ_t A) = g_t ⊙ Ā_t ⊙ h_{t−1},   ∂(B̄_t u_t) = g_t

    The states between the chunks are an output: a saved output is part of the graph, so that second derivatives flow
    through it; any other value that forward computes would be a constant to them.
    """

    @staticmethod
    @without_autocast
    def forward(ctx, u, delta, A, B, C, start, method):
        outputs, states = [], [start]
        for now in _chunks(len(u)):
            h = recurrence(*_coefficients(u[now], delta[now], A, B[now], method), states[-1])
            outputs.append(_read(h, C[now]))
            states.append(h[-1].clone())  # a view would keep the whole chunk
        y, between = torch.cat(outputs), torch.stack(states[1:])
        ctx.method = method
        ctx.save_for_backward(u, delta, A, B, C, start, between)
        return y, between

    @staticmethod
    @without_autocast
    def backward(ctx, d_y, d_between):
        u, delta, A, B, C, start, between = ctx.saved_tensors
        carry, d_A, found = 0, 0, []
        for k, now in reversed(list(enumerate(_chunks(len(u))))):
            before = between[k - 1] if k else start
            decay, drive = _coefficients(u[now], delta[now], A, B[now], ctx.method)
            h = torch.cat([before[None], recurrence(decay, drive, before)])
            d_h = d_y[now].unsqueeze(-2) * C[now].unsqueeze(-1)
            g = _backwards(decay[1:], d_h[:-1], d_h[-1] + carry + d_between[k])
            flow = decay * g  # what reaches h_{t−1}
            d_product, carry = flow * h[:-1], flow[0]
            d_C = (h[1:] @ d_y[now].unsqueeze(-1)).squeeze(-1)
            d_u, d_delta, d_B, d_weight_A = _drive_gradients(g, u[now], delta[now], A, B[now], decay, ctx.method)
            d_delta = d_delta + (d_product * A).sum(-2)
            d_A = d_A + (d_product * delta[now].unsqueeze(-2)).sum((0, 1)) + d_weight_A
            found.append((d_u, d_delta, d_B, d_C))
        d_u, d_delta, d_B, d_C = (torch.cat(parts[::-1]) for parts in zip(*found))
        return d_u, d_delta, d_A, d_B, d_C, carry, None


def _backwards(decay, drive, last):
    """All g_t = a_{t+1} g_{t+1} + x_t, and `last` after them."""
    states = [last]
    for a, x in zip(reversed(decay.unbind()), reversed(drive.unbind())):
        states.append(torch.addcmul(x, a, states[-1]))
    return torch.stack(states[::-1])


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
        of_input = (B.unsqueeze(-2) @ g).squeeze(-2)
        return delta * of_input, u * of_input, (g @ (delta * u).unsqueeze(-1)).squeeze(-1), 0
    delta, u = delta.unsqueeze(-2), u.unsqueeze(-2)
    weight = discretize(delta, A, method)[1]
    of_u, of_weight = g * B.unsqueeze(-1), g * B.unsqueeze(-1) * u
    # ∂w/∂Δ = exp(ΔA),  ∂w/∂A = (Δ exp(ΔA) − w)/A
    d_A = (of_weight * (delta * decay - weight)).sum((0, 1)) / A
    return (of_u * weight).sum(-2), (of_weight * decay).sum(-2), (g * weight * u).sum(-1), d_A


def _check(u, delta, A, B, C, D, state):
    if u.dim() != 3 or not u.shape[1]:
        raise ValueError(f"expected u of shape (batch, steps, channels) with at least a step, got {tuple(u.shape)}")
    if A.dim() != 2 or A.shape[0] != u.shape[2]:
        raise ValueError(f"expected A of shape ({u.shape[2]}, states), got {tuple(A.shape)}")
    (b, t, d), n = u.shape, A.shape[1]
    shapes = {"delta": (delta, (b, t, d)), "B": (B, (b, t, n)), "C": (C, (b, t, n))}
    shapes |= {"D": (D, (d,)), "state": (state, (b, d, n))}
    for name, (tensor, shape) in shapes.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"expected {name} of shape {shape}, got {tuple(tensor.shape)}")
