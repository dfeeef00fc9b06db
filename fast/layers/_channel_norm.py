"""What BatchNorm and InstanceNorm have in common; they differ in the dimensions of a mean, and in defaults.

    training:    y = γ (x − μ)/√(σ² + ε) + β
                 running_mean ← (1 − α)·running_mean + α·μ
                 running_var ← (1 − α)·running_var + α·n/(n − 1)·σ²
    evaluation:  y = γ (x − running_mean)/√(running_var + ε) + β     Ioffe & Szegedy 2015, arXiv:1502.03167, Alg. 2

Convention: α is called momentum, as in torch.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ._standardize import inverse_root, standardize


class _ChannelNorm(nn.Module):
    """γ and β per channel and, if tracked, running statistics; a subclass says which inputs it takes, and S."""

    dimensions: tuple[int, ...]  # that an input may have
    over: tuple[int, ...] = (0, 2)  # the dimensions of S in (N, C, positions)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ):
        super().__init__()
        check_size("num_features", num_features)
        check_eps(eps)
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"expected momentum in [0, 1] or None, got {momentum}")
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None  # γ
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None  # β
        self.register_buffer("running_mean", torch.zeros(num_features) if track_running_stats else None)
        self.register_buffer("running_var", torch.ones(num_features) if track_running_stats else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if track_running_stats else None)

    def forward(self, input: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *space"]:
        if input.dim() not in self.dimensions:
            allowed = " or ".join(map(str, self.dimensions))
            raise ValueError(f"expected an input of {allowed} dimensions, got shape {tuple(input.shape)}")
        check_floating(input)
        check_channels(input, self.num_features)
        x = input.reshape(*input.shape[:2], math.prod(input.shape[2:]))
        if self.training or self.running_mean is None:
            n = math.prod([x.shape[d] for d in self.over])  # values that share a mean
            if n < 2 or len(x) == 0:
                raise ValueError(f"expected more than 1 value per channel, got shape {tuple(input.shape)}")
            output, mean, variance = standardize(x, self.weight, self.bias, (1, -1, 1), self.over, self.eps)
            if self.running_mean is not None:
                self._track(mean, variance * (n / (n - 1)))
        else:
            scale = inverse_root(self.running_var, self.eps)
            scale = scale if self.weight is None else scale * self.weight
            output = (x - self.running_mean[:, None]) * scale[:, None]
            output = (output if self.bias is None else output + self.bias[:, None]).to(input.dtype)
        return output.reshape(input.shape)

    @torch.no_grad()
    def _track(self, mean, variance):
        self.num_batches_tracked += 1
        for running, new in ((self.running_mean, mean), (self.running_var, variance)):
            step = new.mean((0, 2)) - running
            running += step / self.num_batches_tracked if self.momentum is None else self.momentum * step

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        if self.num_batches_tracked is not None:  # states from before torch 0.4.1 do not count batches
            state_dict.setdefault(f"{prefix}num_batches_tracked", self.num_batches_tracked)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.weight is not None}"


def check_size(name: str, size: int) -> None:
    if size < 1:
        raise ValueError(f"expected {name} >= 1, got {size}")


def check_eps(eps: float) -> None:
    if not eps >= 0:
        raise ValueError(f"expected eps >= 0, got {eps}")


def check_floating(input: Tensor) -> None:
    if not input.is_floating_point():
        raise ValueError(f"expected an input of floating point, got {input.dtype}")


def check_channels(input: Tensor, channels: int) -> None:
    if input.dim() < 2 or input.shape[1] != channels:
        raise ValueError(f"expected {channels} channels in dimension 1, got shape {tuple(input.shape)}")
