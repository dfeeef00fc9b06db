"""DDPM: data become noise in small steps, and a network that predicts the noise leads back.

Ho, Jain & Abbeel 2020, arXiv:2006.11239, with α = 1 − β and ᾱ_t = α_1 ⋯ α_t:

    q(x_t|x_0) = N(√ᾱ_t x_0, (1 − ᾱ_t) I)                                                                eq. 4
    q(x_{t−1}|x_t, x_0) = N(μ̃, β̃ I),  μ̃ = √ᾱ_{t−1} β_t/(1 − ᾱ_t) x_0 + √α_t (1 − ᾱ_{t−1})/(1 − ᾱ_t) x_t
                          β̃ = (1 − ᾱ_{t−1})/(1 − ᾱ_t) β_t                                           eq. 6 and 7
    L = E ‖ε − ε_θ(√ᾱ_t x_0 + √(1 − ᾱ_t) ε, t)‖²                                                        eq. 14
    x_{t−1} = μ̃(x_t, x̂_0) + σ_t z,  σ² = β or β̃,  no noise in the last step                   eq. 11, algorithm 2

and in fewer steps by any part of the times, τ the one before t (Song, Meng & Ermon 2020, arXiv:2010.02502, eq. 12, 16):

    x_τ = √ᾱ_τ x̂_0 + √(1 − ᾱ_τ − σ²) ε̂ + σ z,   σ = η √((1 − ᾱ_τ)/(1 − ᾱ_t)) √(1 − ᾱ_t/ᾱ_τ)             η = 0: DDIM

A network may predict ε, x_0 or v = √ᾱ ε − √(1 − ᾱ) x_0 (Salimans & Ho 2022, arXiv:2202.00512, appendix D): each gives
the others at a given x_t. Guidance: ε̂ = ε_u + s(ε_c − ε_u) with and without the condition (Ho & Salimans 2022,
arXiv:2207.12598, eq. 6, with s = 1 + w).

Convention: times count from 0, as released: t = 0 is the paper's 1, and ᾱ before it is 1. Coefficients are float64,
and meet x in its own dtype. Losses are means over pixels, where the paper has sums.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...layers.checks import check_sizes
from .unet import AttentionBlock, DDPMUNet, ResidualBlock, timestep_embedding

__all__ = [
    "AttentionBlock",
    "DDPMUNet",
    "GaussianDiffusion",
    "ResidualBlock",
    "beta_schedule",
    "guide",
    "timestep_embedding",
]

Data = Float[Tensor, "n *shape"]
Times = Int[Tensor, " n"]


def beta_schedule(name: str, steps: int = 1000) -> Float[Tensor, " steps"]:
    """β of every step, in float64.

    Args:
        name: "linear", from 10⁻⁴ to 0.02 for 1000 steps and scaled by 1000/steps for others, or "cosine",
            ᾱ_t = f(t)/f(0) with f(t) = cos²((t/T + s)/(1 + s) · π/2), s = 0.008, and β at most 0.999.
        steps: T.

    Raises:
        ValueError: another name, fewer than one step, or so few that a linear β would exceed 1.

    Source: Ho et al. 2020, arXiv:2006.11239, §4; Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17.
    """
    check_sizes(steps=steps)
    if name == "linear":
        if steps < 20:
            raise ValueError(f"expected 20 or more steps of a linear schedule, got {steps}")
        return torch.linspace(0.1 / steps, 20 / steps, steps, dtype=torch.float64)
    if name != "cosine":
        raise ValueError(f'expected "linear" or "cosine", got {name!r}')
    f = ((torch.arange(steps + 1, dtype=torch.float64) / steps + 0.008) / 1.008 * torch.pi / 2).cos().square()
    return (1 - f[1:] / f[:-1]).clamp(max=0.999)


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """ε_u + s(ε_c − ε_u): 0 ignores the condition, 1 obeys it, more exaggerates it; s = 1 + w of the paper.

    Source: Ho & Salimans 2022, arXiv:2207.12598, eq. 6.
    """
    return unconditional + scale * (conditional - unconditional)


class GaussianDiffusion:
    """The forward process, the training loss and the samplers for one sequence of β.

    Args:
        betas: β of every step, in (0, 1]: see `beta_schedule`.
        predicts: what the network predicts: "noise", "x0" or "v".
        variance: of an ancestral step: "large", β, best for x_0 ~ N(0, I), or "small", β̃, best for a single point.

    Attributes:
        betas, alpha_bars: β and ᾱ, float64.

    Raises:
        ValueError: betas outside (0, 1] or not a vector, another name.

    Source: Ho et al. 2020, arXiv:2006.11239, §3.
    """

    def __init__(self, betas: Sequence[float] | Tensor, predicts: str = "noise", variance: str = "large"):
        self.betas = torch.as_tensor(betas, dtype=torch.float64)
        if self.betas.dim() != 1 or not len(self.betas) or not ((self.betas > 0) & (self.betas <= 1)).all():
            raise ValueError(f"expected a vector of betas in (0, 1], got {betas}")
        if predicts not in ("noise", "x0", "v"):
            raise ValueError(f'expected predicts of "noise", "x0" or "v", got {predicts!r}')
        if variance not in ("large", "small"):
            raise ValueError(f'expected variance "large" or "small", got {variance!r}')
        self.predicts, self.variance = predicts, variance
        self.alpha_bars = (1 - self.betas).cumprod(0)

    def add_noise(self, x0: Data, t: Times, noise: Data) -> Data:
        """x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε: eq. 4."""
        a = self._bar(t)
        return _scale(a.sqrt(), x0) + _scale((1 - a).sqrt(), noise)

    def posterior(self, x0: Data, xt: Data, t: Times) -> tuple[Data, Float[Tensor, " n"]]:
        """μ̃ and β̃, the mean and the variance of q(x_{t−1}|x_t, x_0), the latter in float64: eq. 6 and 7."""
        a, before, beta = self._bar(t), self._bar(t - 1), self.betas.to(t.device)[t]
        mean = _scale(before.sqrt() * beta / (1 - a), x0) + _scale((1 - beta).sqrt() * (1 - before) / (1 - a), xt)
        return mean, (1 - before) / (1 - a) * beta

    def target(self, x0: Data, noise: Data, t: Times) -> Data:
        """What the network ought to predict at √ᾱ x_0 + √(1 − ᾱ) ε."""
        a = self._bar(t)
        v = _scale(a.sqrt(), noise) - _scale((1 - a).sqrt(), x0)
        return {"noise": noise, "x0": x0, "v": v}[self.predicts]

    def x0_and_noise(self, xt: Data, t: Times, prediction: Data) -> tuple[Data, Data]:
        """x̂_0 and ε̂ of a prediction: xt = √ᾱ x̂_0 + √(1 − ᾱ) ε̂."""
        a, rest = self._bar(t), 1 - self._bar(t)
        if self.predicts == "noise":
            return _scale(1 / a.sqrt(), xt - _scale(rest.sqrt(), prediction)), prediction
        if self.predicts == "x0":
            return prediction, _scale(1 / rest.sqrt(), xt - _scale(a.sqrt(), prediction))
        x0 = _scale(a.sqrt(), xt) - _scale(rest.sqrt(), prediction)
        return x0, _scale(rest.sqrt(), xt) + _scale(a.sqrt(), prediction)

    def loss(
        self,
        model: Callable[..., Tensor],
        x0: Data,
        t: Times | None = None,
        noise: Data | None = None,
        **conditions,
    ) -> Float[Tensor, " n"]:
        """L of each sample: the mean squared error of the prediction.

        Args:
            model: called with x_t, t and the conditions.
            t, noise: drawn uniformly and from N(0, I) if None.

        Source: Ho et al. 2020, arXiv:2006.11239, eq. 14, algorithm 1.
        """
        if t is None:
            t = torch.randint(len(self.betas), (len(x0),), device=x0.device)
        noise = torch.randn_like(x0) if noise is None else noise
        error = model(self.add_noise(x0, t, noise), t, **conditions) - self.target(x0, noise, t)
        return error.square().flatten(1).mean(1)

    def prior_kl(self, x0: Data) -> Float[Tensor, " n"]:
        """D_KL(q(x_T|x_0) ‖ N(0, I)) in nats, summed over the elements: L_T of eq. 5, which no training changes."""
        a = self.alpha_bars[-1].to(x0.device)
        variance = 1 - a
        return (variance + a * x0.double().square() - 1 - variance.log()).flatten(1).sum(1).to(x0.dtype) / 2

    def step(self, xt: Data, t: Times, prediction: Data, noise: Data, clip: tuple[float, float] | None = None) -> Data:
        """x_{t−1} of x_t by an ancestral step: algorithm 2.

        Args:
            noise: z, which counts for nothing at t = 0.
            clip: the range that x̂_0 is cut to, if any.
        """
        x0, _ = self.x0_and_noise(xt, t, prediction)
        mean, small = self.posterior(x0 if clip is None else x0.clamp(*clip), xt, t)
        variance = small if self.variance == "small" else self.betas.to(t.device)[t]
        return mean + _scale(torch.where(t > 0, variance, 0.0).sqrt(), noise)

    def ddim_step(
        self,
        xt: Data,
        t: Times,
        before: Times,
        prediction: Data,
        eta: float = 0.0,
        noise: Data | None = None,
        clip: tuple[float, float] | None = None,
    ) -> Data:
        """x at an earlier time of x_t.

        Args:
            before: the earlier time τ; −1 for the end, where ᾱ is 1.
            eta: η; 0 is DDIM, without noise, 1 the ancestral step with β̃.
            noise: z; may be None with eta 0.
            clip: the range that x̂_0 is cut to, if any; ε̂ follows it.

        Source: Song et al. 2020, arXiv:2010.02502, eq. 12 and 16.
        """
        a, earlier = self._bar(t), self._bar(before)
        x0, predicted = self.x0_and_noise(xt, t, prediction)
        if clip is not None:
            x0 = x0.clamp(*clip)
            predicted = _scale(1 / (1 - a).sqrt(), xt - _scale(a.sqrt(), x0))
        variance = eta**2 * (1 - earlier) / (1 - a) * (1 - a / earlier)
        x = _scale(earlier.sqrt(), x0) + _scale((1 - earlier - variance).clamp(min=0).sqrt(), predicted)
        return x if noise is None else x + _scale(variance.sqrt(), noise)

    @torch.no_grad()
    def sample(
        self, model: Callable[..., Tensor], x: Data, clip: tuple[float, float] | None = None, **conditions
    ) -> Data:
        """x_0 from x_T by all T ancestral steps: algorithm 2.  Noise comes from torch's generator."""
        for number in reversed(range(len(self.betas))):
            t = torch.full((len(x),), number, device=x.device)
            x = self.step(x, t, model(x, t, **conditions), torch.randn_like(x), clip)
        return x

    @torch.no_grad()
    def ddim_sample(
        self,
        model: Callable[..., Tensor],
        x: Data,
        steps: int | Sequence[int] = 50,
        eta: float = 0.0,
        clip: tuple[float, float] | None = None,
        **conditions,
    ) -> Data:
        """x_0 from x_T in few steps.

        Args:
            steps: how many, at times 0, k, 2k, … with k = ⌊T/steps⌋, or the times themselves, rising.
            eta: η, see `ddim_step`; noise comes from torch's generator, none is drawn with 0.

        Raises:
            ValueError: steps outside [1, T], times that do not rise or lie outside [0, T).

        Source: Song et al. 2020, arXiv:2010.02502, §4.2.
        """
        total = len(self.betas)
        if isinstance(steps, int):
            if not 1 <= steps <= total:
                raise ValueError(f"expected 1 to {total} steps, got {steps}")
            steps = range(0, steps * (total // steps), total // steps)
        times = [-1, *steps]
        if len(times) < 2 or times[-1] >= total or any(a >= b for a, b in zip(times, times[1:])):
            raise ValueError(f"expected times that rise within [0, {total}), got {list(steps)}")
        for now, then in zip(reversed(times), reversed(times[:-1])):
            t, before = (torch.full((len(x),), number, device=x.device) for number in (now, then))
            noise = torch.randn_like(x) if eta else None
            x = self.ddim_step(x, t, before, model(x, t, **conditions), eta, noise, clip)
        return x

    def _bar(self, t: Times) -> Float[Tensor, " n"]:
        """ᾱ at t, which is 1 before the first step, t = −1."""
        return torch.cat([torch.ones(1, dtype=torch.float64), self.alpha_bars]).to(t.device)[t + 1]


def _scale(factor: Float[Tensor, " n"], x: Data) -> Data:
    """A factor for each sample."""
    return factor.to(x.dtype).reshape(-1, *[1] * (x.dim() - 1)) * x
