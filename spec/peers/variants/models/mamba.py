"""Mamba without a recurrence: in stretches of 16 steps every pair of steps is weighed; other scans are taken on a tree.

h_t = exp(s_t0) h_0 + Σ_{r <= t} exp(s_tr) x_r with s_tr the sum of ΔA over the steps between r and t, as in Mamba-2's
dual form (Dao & Gu 2024, arXiv:2405.21060, §6). Layers are torch.nn's; the tree is Blelloch's; stretches are
checkpointed.
"""

import math

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

__all__ = ["Mamba", "MambaBlock", "MambaState", "associative_scan", "combine", "discretize", "selective_scan"]
STRETCH = 16


def discretize(delta, A, method="euler"):
    _check_method(method)
    decay = torch.exp(delta * A)
    return decay, torch.expm1(delta * A) / A if method == "zoh" else delta


def combine(earlier, later):
    return earlier[0] * later[0], torch.addcmul(later[1], later[0], earlier[1])


def associative_scan(decay, drive, state=None):
    """Pairs are combined, their prefixes found the same way, and those of the odd ones out derived from them."""
    if state is not None:
        first, steps = torch.ones_like(decay[:1]), (decay, drive)
        decay, drive = (torch.cat(both) for both in zip((first, state[None]), steps))
        return associative_scan(decay, drive)[1:]
    if len(drive) < 2:
        return drive
    size = 2 ** math.ceil(math.log2(len(drive)))
    rest = (size - len(drive), *drive.shape[1:])
    decay, drive = torch.cat([decay, decay.new_ones(rest)]), torch.cat([drive, drive.new_zeros(rest)])
    return _prefixes(decay, drive)[1][: size - rest[0]]


def _prefixes(decay, drive):
    if len(drive) == 1:
        return decay, drive
    even, odd = (decay[::2], drive[::2]), (decay[1::2], drive[1::2])
    ends = _prefixes(*combine(even, odd))
    starts = combine(tuple(e[:-1] for e in ends), tuple(e[1:] for e in even))
    starts = tuple(torch.cat([e[:1], s]) for e, s in zip(even, starts))
    return tuple(torch.stack(both, 1).flatten(0, 1) for both in zip(starts, ends))


def selective_scan(u, delta, A, B, C, D=None, state=None, discretization="euler"):
    _check_method(discretization)
    dtype, wide = u.dtype, torch.float64 if u.dtype == torch.float64 else torch.float32
    u, delta, A, B, C = (s.to(wide) for s in (u, delta, A, B, C))
    h = u.new_zeros(len(u), *A.shape) if state is None else state.to(wide)
    outputs = []
    for parts in zip(*(s.split(STRETCH, 1) for s in (u, delta, B, C))):
        y, h = checkpoint(_stretch, *parts, A, h, discretization, use_reentrant=False)
        outputs.append(y)
    y = torch.cat(outputs, 1)
    return (y if D is None else y + D.to(wide) * u).to(dtype), h.clone()


def _stretch(u, delta, B, C, A, h, method):
    product = delta[..., None] * A  # (b, t, d, n)
    drive = discretize(delta[..., None], A, method)[1] * B[:, :, None] * u[..., None]
    step = torch.arange(u.shape[1], device=u.device)
    later, earlier = (mask[:, :, None, None] for mask in (step[:, None] > step, step[:, None] < step))
    between = torch.where(later, product[:, :, None], 0).cumsum(1)  # Σ over r < i <= t, (b, t, r, d, n)
    weight = between.masked_fill(earlier, -torch.inf).exp()
    states = product.cumsum(1).exp() * h[:, None] + torch.einsum("btrdn,brdn->btdn", weight, drive)
    return torch.einsum("btdn,btn->btd", states, C), states[:, -1].clone()


class MambaState:
    def __init__(self):
        self.window = None
        self.h = None


class MambaBlock(nn.Module):
    def __init__(self, d_model, d_state=16, d_conv=4, expand=2, dt_rank=None, discretization="euler"):
        super().__init__()
        _check_method(discretization)
        inner, self.rank = expand * d_model, dt_rank or -(-d_model // 16)
        self.method, self.d_state = discretization, d_state
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner)
        self.x_proj = nn.Linear(inner, self.rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        step = torch.exp(math.log(0.001) + torch.rand(inner) * math.log(100))
        self.dt_proj.bias.data = torch.log(torch.expm1(step))
        self.A_log = nn.Parameter(torch.log(torch.arange(1, d_state + 1).float()).expand(inner, -1).clone())
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, d_model, bias=False)

    def forward(self, x, state=None):
        if x.dim() != 3 or not x.shape[1]:
            raise ValueError(f"expected tokens, got {tuple(x.shape)}")
        u, z = self.in_proj(x).split(self.D.numel(), -1)
        window = None if state is None else state.window
        if window is None:
            window = u.new_zeros(len(u), self.conv1d.kernel_size[0] - 1, self.D.numel())
        window = torch.cat([window, u], 1)
        u = functional.silu(self.conv1d(window.mT)).mT
        step, B, C = self.x_proj(u).split([self.rank, self.d_state, self.d_state], -1)
        delta = functional.softplus(self.dt_proj(step), threshold=50)
        A = -torch.exp(self.A_log if self.A_log.dtype == torch.float64 else self.A_log.float())
        y, h = selective_scan(u, delta, A, B, C, self.D, None if state is None else state.h, self.method)
        if state is not None:
            state.window, state.h = window[:, x.shape[1] :].clone(), h
        return self.out_proj(y * functional.silu(z))


class _Layer(nn.Module):
    def __init__(self, norm, mixer):
        super().__init__()
        self.norm, self.mixer = norm, mixer


class Mamba(nn.Module):
    def __init__(self, vocab_size, d_model, n_layer, d_state=16, d_conv=4, expand=2, dt_rank=None, eps=1e-5):
        super().__init__()
        if eps < 0 or n_layer < 1:
            raise ValueError(f"expected eps >= 0 and n_layer >= 1, got {eps} and {n_layer}")
        self.backbone = nn.Module()
        self.backbone.embeddings = nn.Embedding(vocab_size, d_model)
        self.backbone.embeddings.weight.data *= 0.02
        blocks = (MambaBlock(d_model, d_state, d_conv, expand, dt_rank) for _ in range(n_layer))
        self.backbone.layers = nn.ModuleList(_Layer(nn.RMSNorm(d_model, eps), block) for block in blocks)
        for layer in self.backbone.layers:
            layer.mixer.out_proj.weight.data *= n_layer**-0.5
        self.backbone.norm_f = nn.RMSNorm(d_model, eps)

    def _load_from_state_dict(self, state, prefix, *rest):
        head = state.pop(prefix + "lm_head.weight", None)
        if head is not None and (head != state[prefix + "backbone.embeddings.weight"]).any():
            raise ValueError("expected a tied head")
        super()._load_from_state_dict(state, prefix, *rest)

    def empty_states(self):
        return [MambaState() for _ in self.backbone.layers]

    def forward(self, tokens, states=None):
        x = self.backbone.embeddings(tokens)
        for n, layer in enumerate(self.backbone.layers):
            x = x + layer.mixer(layer.norm(x), None if states is None else states[n])
        return nn.functional.linear(self.backbone.norm_f(x), self.backbone.embeddings.weight)

    def generate(self, tokens, count, temperature=0.0, generator=None):
        states, made = self.empty_states(), [tokens]
        with torch.no_grad():
            for _ in range(count):
                logits = self(made[-1], states)[:, -1]
                if temperature == 0:
                    made.append(logits.max(-1, keepdim=True).indices)
                else:
                    odds = torch.softmax(logits / temperature, -1)
                    made.append(torch.multinomial(odds, 1, generator=generator))
        return torch.cat(made, 1)


def _check_method(method):
    if method not in ("euler", "zoh"):
        raise ValueError(f"expected 'euler' or 'zoh', got {method!r}")
