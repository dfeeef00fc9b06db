"""The scan of a selective state-space model: a linear recurrence whose coefficients depend on the input.

Gu & Dao 2023 (Mamba), arXiv:2312.00752, eq. 2a-2b, eq. 4, §3.3 and algorithm 2. For each channel, N states:

    h_t = Ā_t ⊙ h_{t−1} + B̄_t u_t,   y_t = C_tᵀ h_t + D u_t,   Ā_t = exp(Δ_t A)
    zero-order hold (eq. 4)    B̄_t = (exp(Δ_t A) − 1)/A · B_t        exact if the input is constant for Δ_t
    Euler (the official code)  B̄_t = Δ_t B_t                         its first order in Δ_t

Three ways to compute the states: `recurrence` goes step by step; `associative_scan` takes ⌈log₂ L⌉ sweeps, because
steps compose: (Ā, x) then (Ā′, x′) is (Ā′Ā, Ā′x + x′); `selective_scan` goes through chunks of steps and, as §3.3.2
asks, keeps no states for the backward pass: each chunk is computed once more for its derivatives.

Convention: A is diagonal, one row a channel; Δ is positive, after its softplus. Inside, time comes first and the N
states before the channels, (t, b, n, d), in float32 or wider.
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

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
    check_scan(u, delta, A, B, C, D, state)
    dtype = u.dtype
    state = A.new_zeros(u.shape[0], *A.shape) if state is None else state
    A, state = (at_least_float32(s).mT.contiguous() for s in (A, state))
    u, delta, B, C = (at_least_float32(s).transpose(0, 1).contiguous() for s in (u, delta, B, C))
    scan_chunk = _scan_chunk if torch.compiler.is_compiling() else _Recomputed.apply  # a compiler chooses what it keeps
    outputs = []
    for chunk in zip(*(s.split(CHUNK) for s in (u, delta, B, C))):
        y, state = scan_chunk(*chunk, A, state, discretization)
        outputs.append(y)
    y = torch.cat(outputs) + (0 if D is None else D * u)
    return y.transpose(0, 1).to(dtype), state.mT


def _scan_chunk(u, delta, B, C, A, state, method):
    """y_t = C_tᵀ h_t of each step, (t, b, d), and the last state, (b, n, d)."""
    decay, weight = discretize(delta.unsqueeze(-2), A, method)
    states = recurrence(decay, weight * u.unsqueeze(-2) * B.unsqueeze(-1), state)
    return (C.unsqueeze(-1) * states).sum(-2), states[-1].clone()  # a view would keep the whole chunk


class _Recomputed(torch.autograd.Function):
    """`_scan_chunk`, of which only the inputs are kept: derivatives run it once more (§3.3.2)."""

    generate_vmap_rule = True

    forward = staticmethod(_scan_chunk)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.method = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx, *gradients):
        _, pull_back = torch.func.vjp(partial(_scan_chunk, method=ctx.method), *ctx.saved_tensors)
        return *pull_back(gradients), None

    @staticmethod
    def jvp(ctx, *tangents):
        return torch.func.jvp(partial(_scan_chunk, method=ctx.method), ctx.saved_tensors, tangents[:-1])[1]


def check_scan(u, delta, A, B, C, D, state):
    """Shapes that fit together, and at least one step."""
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
