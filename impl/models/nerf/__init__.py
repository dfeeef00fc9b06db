"""NeRF: a scene as a network of position and direction, seen along rays by the integral of volume rendering.

Mildenhall, Srinivasan, Tancik, Barron, Ramamoorthi & Ng 2020, arXiv:2003.08934.

    γ(p) = (sin 2⁰πp, cos 2⁰πp, …, sin 2ᴸ⁻¹πp, cos 2ᴸ⁻¹πp)                             eq. 4
    F: (γ(x), γ(d)) ↦ (c, σ), σ of the position alone                                    §3, figure 7
    t_i ~ U[t_n + (i−1)/N (t_f − t_n), t_n + i/N (t_f − t_n)]                             eq. 2
    Ĉ = Σ_i T_i (1 − exp(−σ_i δ_i)) c_i,   T_i = exp(−Σ_{j<i} σ_j δ_j),   δ_i = t_{i+1} − t_i        eq. 3
    w_i = T_i (1 − exp(−σ_i δ_i)) normalised is a density, from which N_f more t are sampled          eq. 5, §5.2

Both networks learn: L = Σ over rays of ‖Ĉ_c − C‖² + ‖Ĉ_f − C‖² (eq. 6).
Convention: γ is the paper's, with π and without p itself; the authors' code leaves π out and puts p first. δ is a
length: t's difference times ‖direction‖. The last one has no end, 10¹⁰. A camera looks along −z, and rays go through
the centres of pixels; the authors' code leaves out the half pixel.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from ...layers.checks import check_sizes
from ...layers.linear import Linear
from ...layers.numerics import at_least_float32

__all__ = [
    "NeRF",
    "get_rays",
    "positional_encoding",
    "render_rays",
    "sample_pdf",
    "stratified_samples",
    "volume_render",
]


def positional_encoding(
    p: Float[Tensor, "*batch d"], num_freqs: int, include_input: bool = False
) -> Float[Tensor, "*batch encoded"]:
    """γ(p), octave by octave: sin 2ᵏπp of all d coordinates, then cos 2ᵏπp of all, then octave k + 1.

    Args:
        p: coordinates, at best in [−1, 1].
        num_freqs: L, from 0 on.
        include_input: if True, p itself comes first.

    Returns: 2·L·d numbers in place of d, or (2·L + 1)·d.

    Raises:
        ValueError: num_freqs < 0.

    Source: Mildenhall et al. 2020, arXiv:2003.08934, eq. 4.
    """
    if num_freqs < 0:
        raise ValueError(f"expected num_freqs >= 0, got {num_freqs}")
    wide = at_least_float32(p)  # 2ᵏπp has many periods
    octaves = torch.pi * 2.0 ** torch.arange(num_freqs, dtype=wide.dtype, device=p.device)
    angles = octaves[:, None] * wide[..., None, :]  # (*batch, L, d)
    waves = torch.stack([angles.sin(), angles.cos()], dim=-2).flatten(-3).to(p.dtype)
    return torch.cat([p, waves], dim=-1) if include_input else waves


class NeRF(nn.Module):
    """Colour and density of points of a scene.

    Some layers of ReLU see γ(x); the density is ReLU of one more; a linear feature, with γ(d), goes through one layer
    of ReLU, half as wide, to the colour, a sigmoid.
    Its linear layers are layers.0 to layers.(depth − 1), sigma, feature, direction and rgb; where vectors are joined,
    γ(x) comes first and γ(d) last.

    Args:
        pos_freqs: L of the position.
        dir_freqs: L of the direction.
        width: of the hidden layers.
        depth: how many there are.
        skip: after so many of them γ(x) comes in again, in front of what they gave; never if there are no more.
        include_input: as of `positional_encoding`.

    Raises:
        ValueError: a size below 1, a width below 2; positions or directions that are not of 3 coordinates.

    Source: Mildenhall et al. 2020, arXiv:2003.08934, §5.1, §5.3 and figure 7.
    """

    def __init__(
        self,
        pos_freqs: int = 10,
        dir_freqs: int = 4,
        width: int = 256,
        depth: int = 8,
        skip: int = 5,
        include_input: bool = False,
    ):
        super().__init__()
        check_sizes(pos_freqs=pos_freqs, dir_freqs=dir_freqs, depth=depth, skip=skip)
        if width < 2:
            raise ValueError(f"expected width >= 2, got {width}")
        self.pos_freqs, self.dir_freqs, self.skip, self.include_input = pos_freqs, dir_freqs, skip, include_input
        of_x, of_d = (3 * (2 * freqs + include_input) for freqs in (pos_freqs, dir_freqs))
        inputs = [of_x, *(width + (of_x if i == skip else 0) for i in range(1, depth))]
        self.layers = nn.ModuleList(Linear(n, width) for n in inputs)
        self.sigma = Linear(width, 1)
        self.feature = Linear(width, width)
        self.direction = Linear(width + of_d, width // 2)
        self.rgb = Linear(width // 2, 3)

    def forward(
        self, x: Float[Tensor, "*batch 3"], d: Float[Tensor, "*batch 3"]
    ) -> tuple[Float[Tensor, "*batch 3"], Float[Tensor, "*batch"]]:
        """c in [0, 1] and σ >= 0 at positions x, seen along d, which should have length 1."""
        if x.shape != d.shape or x.shape[-1:] != (3,):
            raise ValueError(f"expected x and d of 3 coordinates, got {tuple(x.shape)} and {tuple(d.shape)}")
        encoded = h = positional_encoding(x, self.pos_freqs, self.include_input)
        for i, layer in enumerate(self.layers):
            h = layer(torch.cat([encoded, h], dim=-1) if i == self.skip else h).relu()
        seen = positional_encoding(d, self.dir_freqs, self.include_input)
        shade = self.direction(torch.cat([self.feature(h), seen], dim=-1)).relu()
        return self.rgb(shade).sigmoid(), self.sigma(h).relu().squeeze(-1)


def get_rays(
    height: int, width: int, focal: float, pose: Float[Tensor, "rows 4"]
) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w 3"]]:
    """Origins and directions of the rays through all pixels, row 0 on top; a direction has −1 along the camera's z.

    Args:
        focal: focal length in pixels.
        pose: camera to world, (3, 4) or (4, 4): the camera's x (right), y (up) and z (back) axes and its position.

    Raises:
        ValueError: a size below 1, a focal length that is not above 0, another shape of the pose.

    Source: Mildenhall et al. 2020, arXiv:2003.08934, §4: r(t) = o + t d.
    """
    check_sizes(height=height, width=width)
    if not focal > 0 or pose.shape not in ((3, 4), (4, 4)):
        raise ValueError(f"expected focal > 0 and a pose (3, 4) or (4, 4), got {focal} and {tuple(pose.shape)}")
    x = (torch.arange(width, dtype=pose.dtype, device=pose.device) + 0.5 - width / 2) / focal
    y = (torch.arange(height, dtype=pose.dtype, device=pose.device) + 0.5 - height / 2) / focal
    right, up, back, position = pose[:3].unbind(1)
    directions = x[:, None] * right - y[:, None, None] * up - back  # (H, W, 3)
    return position.expand_as(directions).clone(), directions


def stratified_samples(near: float, far: float, u: Float[Tensor, "*rays n"]) -> Float[Tensor, "*rays n"]:
    """t_i = t_n + (i − 1 + u_i)/N (t_f − t_n), i = 1 … N: one in each of N equal bins, at the share u_i of its length.

    Raises:
        ValueError: near >= far.

    Source: Mildenhall et al. 2020, arXiv:2003.08934, eq. 2, with u ~ U[0, 1).
    """
    if not near < far:
        raise ValueError(f"expected near < far, got {near} and {far}")
    n = u.shape[-1]
    return near + (torch.arange(n, dtype=u.dtype, device=u.device) + u) / n * (far - near)


def volume_render(
    rgb: Float[Tensor, "*rays n 3"],
    sigma: Float[Tensor, "*rays n"],
    t: Float[Tensor, "*rays n"],
    directions: Float[Tensor, "*rays 3"],
    white_background: bool = False,
    last: float = 1e10,
) -> tuple[Float[Tensor, "*rays 3"], Float[Tensor, "*rays"], Float[Tensor, "*rays"], Float[Tensor, "*rays n"]]:
    """Colour Ĉ, depth Σ w_i t_i, opacity Σ w_i and weights w of rays with samples at ascending t.

    Args:
        sigma: densities >= 0.
        directions: d of r(t) = o + t d, of any length: a step of t is ‖d‖ long.
        white_background: if True, 1 − Σ w_i is added to the colour.
        last: t from the last sample to the end of its segment.

    Raises:
        ValueError: no sample, a negative `last`, shapes that do not fit.

    Source: Mildenhall et al. 2020, arXiv:2003.08934, eq. 3 and 5.
    """
    rays, n = sigma.shape[:-1], sigma.shape[-1]
    if not n or rgb.shape != (*rays, n, 3) or t.shape != sigma.shape or directions.shape != (*rays, 3):
        found = ", ".join(str(tuple(x.shape)) for x in (rgb, sigma, t, directions))
        raise ValueError(f"expected (*rays, n, 3), (*rays, n), (*rays, n), (*rays, 3) with n >= 1, got {found}")
    if not last >= 0:
        raise ValueError(f"expected last >= 0, got {last}")
    wide = at_least_float32(t)
    delta = torch.cat([wide.diff(dim=-1), torch.full_like(wide[..., :1], last)], dim=-1)
    thickness = sigma * delta * at_least_float32(directions).square().sum(-1, keepdim=True).sqrt()
    before = torch.cat([torch.zeros_like(thickness[..., :1]), thickness[..., :-1]], dim=-1).cumsum(-1)
    weights = (-before).exp() * -(-thickness).expm1()  # T_i (1 − exp(−σ_i δ_i))
    opacity = weights.sum(-1)
    colour = (weights[..., None] * rgb).sum(-2)
    if white_background:
        colour = colour + (1 - opacity[..., None])
    return tuple(x.to(rgb.dtype) for x in (colour, (weights * wide).sum(-1), opacity, weights))


def sample_pdf(
    edges: Float[Tensor, "*rays bins_and_1"],
    weights: Float[Tensor, "*rays bins"],
    u: Float[Tensor, "*rays n"],
    eps: float = 1e-5,
) -> Float[Tensor, "*rays n"]:
    """F⁻¹(u) of the density that is constant within bins and gives them masses proportional to weights + eps.

    Args:
        edges: of the bins, ascending.
        weights: >= 0; of any sum.
        u: probabilities in [0, 1]; uniform ones give samples of the density.
        eps: above 0: a ray that sees nothing is sampled evenly by bin.

    Returns: samples in the order of u, without a gradient.

    Raises:
        ValueError: eps not above 0, no bin, or another number of edges than bins + 1.

    Source: Mildenhall et al. 2020, arXiv:2003.08934, §5.2: inverse transform sampling; eps as in the authors' code.
    """
    if not eps > 0 or not weights.shape[-1] or edges.shape != (*weights.shape[:-1], weights.shape[-1] + 1):
        found = f"{eps}, {tuple(edges.shape)} and {tuple(weights.shape)}"
        raise ValueError(f"expected eps > 0 and one edge more than one or more bins, got {found}")
    ends, mass, shares = (at_least_float32(x.detach()) for x in (edges, weights, u))
    cdf = (mass + eps).cumsum(-1)
    cdf = torch.cat([torch.zeros_like(cdf[..., :1]), cdf / cdf[..., -1:]], dim=-1)  # from 0 to 1 exactly
    above = torch.searchsorted(cdf, shares.contiguous(), right=True).clamp(1, mass.shape[-1])
    low, high = (cdf.gather(-1, i) for i in (above - 1, above))
    left, right = (ends.gather(-1, i) for i in (above - 1, above))
    return (left + (shares - low) / (high - low).clamp(min=1e-30) * (right - left)).to(edges.dtype)


def render_rays(
    coarse: Callable,
    fine: Callable,
    origins: Float[Tensor, "*rays 3"],
    directions: Float[Tensor, "*rays 3"],
    near: float,
    far: float,
    num_coarse: int = 64,
    num_fine: int = 128,
    white_background: bool = False,
    generator: Generator | None = None,
) -> tuple[tuple, tuple]:
    """What `volume_render` returns, first for the coarse network, then for the fine one.

    The coarse network sees one sample in each of num_coarse bins from near to far. Its weights w_2 … w_{N−1}, each
    between the middles of sample i and its neighbours, are the density of num_fine more samples; the fine network sees
    all, in order. Networks get r(t) = o + t d and d/‖d‖.

    Args:
        coarse, fine: networks, or any functions of positions (*rays, n, 3) and directions of length 1, (*rays, n, 3).
        num_coarse: at least 3.
        generator: of the samples' randomness; if None, they are the middles of the bins and the (k − ½)/num_fine
            quantiles.

    Raises:
        ValueError: fewer than 3 coarse samples or 1 fine one, near >= far.

    Source: Mildenhall et al. 2020, arXiv:2003.08934, §5.2.
    """
    check_sizes(num_fine=num_fine)
    if num_coarse < 3:
        raise ValueError(f"expected num_coarse >= 3, got {num_coarse}")
    rays = origins.shape[:-1]
    t = stratified_samples(near, far, _uniform(origins, (*rays, num_coarse), generator))
    first = _seen(coarse, origins, directions, t, white_background)
    u = _uniform(origins, (*rays, num_fine), generator)
    if generator is None:
        u = stratified_samples(0.0, 1.0, u)
    more = sample_pdf((t[..., 1:] + t[..., :-1]) / 2, first[3][..., 1:-1], u)
    t = torch.cat([t, more], dim=-1).sort(-1).values
    return first, _seen(fine, origins, directions, t, white_background)


def _uniform(like: Tensor, shape: tuple[int, ...], generator: Generator | None) -> Tensor:
    """Uniform numbers of a generator, or ½ each."""
    if generator is None:
        return torch.full(shape, 0.5, dtype=like.dtype, device=like.device)
    return torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device)


def _seen(field: Callable, origins: Tensor, directions: Tensor, t: Tensor, white_background: bool) -> tuple:
    """The rays' rendering from a field's values at t."""
    x = origins[..., None, :] + t[..., None] * directions[..., None, :]
    unit = directions / directions.square().sum(-1, keepdim=True).sqrt()
    return volume_render(*field(x, unit[..., None, :].expand_as(x)), t, directions, white_background)
