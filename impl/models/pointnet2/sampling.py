"""Which points stand for a cloud, which lie around them, and features between them.

Qi, Yi, Su & Guibas 2017, arXiv:1706.02413, §3.2 to §3.4; conventions: see the package.
"""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from ...layers.checks import check_fractions, check_sizes

Points = Float[Tensor, "b n d"]
Features = Float[Tensor, "b n c"]


def farthest_point_sample(points: Points, count: int, start: int = 0) -> Int[Tensor, "b count"]:
    """Indices of points, each as far as possible from those before it; of equally far ones the first.

    Args:
        count: how many, at most n.
        start: the first index.

    Raises:
        ValueError: a count outside [1, n], a start outside [0, n), points that are not (B, n, d).

    Source: Qi et al. 2017, arXiv:1706.02413, §3.2.
    """
    check_points(points)
    if not (1 <= count <= points.shape[1] and 0 <= start < points.shape[1]):
        raise ValueError(f"expected 1 to {points.shape[1]} points from one of them on, got {count} from {start} on")
    chosen = [torch.full((len(points), 1), start, device=points.device)]
    distance = points.new_full(points.shape[:2], torch.inf)  # squared, to the nearest of those chosen
    for _ in range(count - 1):
        distance = torch.minimum(distance, (points - take(points, chosen[-1])).square().sum(-1))
        distance = distance.scatter(1, chosen[-1], -1)
        chosen.append(distance.argmax(1, keepdim=True))
    return torch.cat(chosen, 1)


def ball_query(points: Points, centres: Float[Tensor, "b m d"], radius: float, most: int) -> Int[Tensor, "b m most"]:
    """Indices of the first points within a radius of each centre, the first repeated where there are fewer.

    Args:
        radius: of the ball, which is closed.
        most: K, indices of each ball.

    Raises:
        ValueError: a radius of 0 or less, `most` below 1, points or centres that are not (B, n, d).

    Source: Qi et al. 2017, arXiv:1706.02413, §3.2.
    """
    check_sizes(most=most)
    check_ball(radius)
    check_points(points)
    check_points(centres, points.shape[-1])
    n = points.shape[1]
    distance = (centres[:, :, None] - points[:, None]).square().sum(-1)  # (b, m, n)
    order = torch.where(distance <= radius**2, torch.arange(n, device=points.device), n).sort(-1).values
    order = torch.constant_pad_nd(order, (0, max(most - n, 0)), n)[..., :most]  # n: there are no more
    first = torch.where(order[..., :1] < n, order[..., :1], distance.argmin(-1, keepdim=True))
    return torch.where(order < n, order, first)


def interpolate(points: Points, known: Float[Tensor, "b m d"], features: Float[Tensor, "b m c"]) -> Features:
    """Features of points as means of those of the 3 nearest known points, weighted by 1/d²; of all, if fewer than 3.

    Raises:
        ValueError: points or known points that are not (B, n, d), features of other points.

    Source: Qi et al. 2017, arXiv:1706.02413, eq. 2 with p = 2 and k = 3; d² is at least 1e-10, as released.
    """
    check_points(points)
    check_features(known, features, points.shape[-1], features.shape[-1])
    distance = (points[:, :, None] - known[:, None]).square().sum(-1)  # (b, n, m)
    nearest = distance.topk(min(3, known.shape[1]), largest=False)
    weights = 1 / nearest.values.clamp(min=1e-10)
    weights = weights / weights.sum(-1, keepdim=True)
    return (weights[..., None] * take(features, nearest.indices)).sum(2)


def drop_points(points: Points, most: float = 0.95) -> Points:
    """Clouds of random density for training: of each, a share θ ~ U[0, most] of the points becomes its first point.

    Each point is replaced with probability θ of its cloud, so that all clouds keep one size.

    Raises:
        ValueError: `most` outside [0, 1), points that are not (B, n, d).

    Source: Qi et al. 2017, arXiv:1706.02413, §3.3: random input dropout, p = 0.95.
    """
    check_fractions(most=most)
    check_points(points)
    share = most * torch.rand(len(points), 1, device=points.device)
    dropped = torch.rand(points.shape[:2], device=points.device) < share
    return torch.where(dropped[..., None], points[:, :1], points)


def take(x: Shaped[Tensor, "b n c"], index: Int[Tensor, "b ..."]) -> Shaped[Tensor, "b ... c"]:
    """Rows of each sample by their indices."""
    flat = index.flatten(1)
    return x.gather(1, flat[..., None].expand(-1, -1, x.shape[-1])).unflatten(1, index.shape[1:])


def check_points(points: Tensor, dimensions: int | None = None) -> None:
    if points.dim() != 3 or points.shape[1] < 1 or dimensions not in (None, points.shape[-1]):
        width = "d" if dimensions is None else dimensions
        raise ValueError(f"expected points (B, n >= 1, {width}), got shape {tuple(points.shape)}")


def check_features(points: Tensor, features: Tensor | None, dimensions: int, channels: int) -> None:
    check_points(points, dimensions)
    found = None if features is None else tuple(features.shape)
    if (found is None) != (channels == 0) or (found is not None and found != (*points.shape[:2], channels)):
        wanted = (*points.shape[:2], channels) if channels else None
        raise ValueError(f"expected features {wanted}, got {found}")


def check_ball(radius: float) -> None:
    if not 0 < radius < torch.inf:
        raise ValueError(f"expected a finite radius > 0, got {radius}")
