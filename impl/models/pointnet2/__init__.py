"""PointNet++: PointNets of small neighbourhoods, of neighbourhoods of their outcomes, and so on.

Qi, Yi, Su & Guibas 2017, arXiv:1706.02413, §3. Of a cloud of points x with features f:

    sampling      centres c_1, c_2, …: each is the point farthest from those before                          §3.2
    grouping      K points within a ball of radius r around each centre
    PointNet      f(c) = max_{x in the ball} MLP([x − c; f(x)])
    several radii at once, their outcomes next to each other: multi-scale grouping                            §3.3
    propagation   f(x) = Σ_i w_i f(c_i)/Σ_i w_i,  w_i = 1/d(x, c_i)², over the 3 nearest centres; then
                  an MLP of it and of the features that x had                                      eq. 2, §3.4

Convention, as released: the first point is the first centre, the first K points in the cloud's order are a ball's, and
where there are fewer the first of them is repeated, which no maximum notices. The ball is closed; an empty one has the
nearest point. No point is sampled twice, even where two are alike. Multi-resolution grouping is left out.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...layers.checks import check_fractions, check_not_negative, check_sizes
from ...layers.dropout import Dropout
from ...layers.linear import Linear
from ..pointnet import SharedMLP
from .sampling import (
    Features,
    Points,
    ball_query,
    check_ball,
    check_features,
    drop_points,
    farthest_point_sample,
    interpolate,
    take,
)

__all__ = [
    "MULTI_SCALE",
    "SINGLE_SCALE",
    "FeaturePropagation",
    "GlobalAbstraction",
    "PointNet2",
    "PointNet2Segmentation",
    "SetAbstraction",
    "ball_query",
    "drop_points",
    "farthest_point_sample",
    "interpolate",
]

# Of each level: centres, radii, points in a ball, widths of the MLPs.  Supplementary B, for clouds in the unit ball.
SINGLE_SCALE = (
    (512, (0.2,), (32,), ((64, 64, 128),)),
    (128, (0.4,), (64,), ((128, 128, 256),)),
)
MULTI_SCALE = (
    (512, (0.1, 0.2, 0.4), (16, 32, 128), ((32, 32, 64), (64, 64, 128), (64, 96, 128))),
    (128, (0.2, 0.4, 0.8), (32, 64, 128), ((64, 64, 128), (128, 128, 256), (128, 128, 256))),
)


class SetAbstraction(nn.Module):
    """Fewer points with features of what surrounds them.

    Args:
        count: centres.
        radii: of the balls, one for each scale.
        most: K, of each scale.
        in_channels: c, features of a point besides its coordinates; may be 0.
        mlps: widths of each scale's MLP, without that of its input, d + c.
        dimensions: d, coordinates of a point.

    Raises:
        ValueError: as many radii, K and MLPs do not match, or none; a size below 1, a radius of 0 or less; points or
            features of other shapes, fewer points than centres.

    Source: Qi et al. 2017, arXiv:1706.02413, §3.2 and, with several scales, §3.3.
    """

    def __init__(
        self,
        count: int,
        radii: Sequence[float],
        most: Sequence[int],
        in_channels: int,
        mlps: Sequence[Sequence[int]],
        dimensions: int = 3,
    ):
        super().__init__()
        if not len(radii) == len(most) == len(mlps) > 0:
            raise ValueError(f"expected one radius, K and MLP for each scale, got {radii}, {most} and {mlps}")
        check_sizes(count=count, dimensions=dimensions, most=min(most))
        check_not_negative(in_channels=in_channels)
        for radius in radii:
            check_ball(radius)
        self.count, self.radii, self.most = count, tuple(radii), tuple(most)
        self.in_channels, self.dimensions = in_channels, dimensions
        self.mlps = nn.ModuleList(SharedMLP((dimensions + in_channels, *widths)) for widths in mlps)

    def forward(self, points: Points, features: Features | None = None) -> tuple[Float[Tensor, "b m d"], Tensor]:
        """The centres (B, count, d) and their features (B, count, sum of the MLPs' last widths)."""
        check_features(points, features, self.dimensions, self.in_channels)
        centres = take(points, farthest_point_sample(points.detach(), self.count))
        scales = []
        for radius, most, mlp in zip(self.radii, self.most, self.mlps):
            index = ball_query(points.detach(), centres.detach(), radius, most)
            group = take(points, index) - centres[:, :, None]  # (b, m, K, d)
            if features is not None:
                group = torch.cat([group, take(features, index)], -1)
            scales.append(mlp(group).amax(2))
        return centres, torch.cat(scales, -1)


class GlobalAbstraction(nn.Module):
    """One PointNet of all points, where they lie: the last level.

    Args:
        in_channels: c, features of a point besides its coordinates; may be 0.
        mlp: widths, without that of the input.
        dimensions: d, coordinates of a point.

    Raises:
        ValueError: a size below 1; points or features of other shapes.

    Source: Qi et al. 2017, arXiv:1706.02413, supplementary B: SA([256, 512, 1024]).
    """

    def __init__(self, in_channels: int, mlp: Sequence[int], dimensions: int = 3):
        super().__init__()
        check_sizes(dimensions=dimensions)
        check_not_negative(in_channels=in_channels)
        self.in_channels, self.dimensions = in_channels, dimensions
        self.mlp = SharedMLP((dimensions + in_channels, *mlp))

    def forward(self, points: Points, features: Features | None = None) -> Float[Tensor, "b e"]:
        check_features(points, features, self.dimensions, self.in_channels)
        return self.mlp(points if features is None else torch.cat([points, features], -1)).amax(1)


class FeaturePropagation(nn.Module):
    """Features of many points from those of few: interpolated, next to the points' own, through an MLP.

    Args:
        in_channels: of the known points' features and the points' own together.
        mlp: widths, without that of the input.

    Raises:
        ValueError: a size below 1; points or features of other shapes.

    Source: Qi et al. 2017, arXiv:1706.02413, §3.4.
    """

    def __init__(self, in_channels: int, mlp: Sequence[int]):
        super().__init__()
        self.mlp = SharedMLP((in_channels, *mlp))

    def forward(
        self,
        points: Points,
        known: Float[Tensor, "b m d"],
        features: Float[Tensor, "b m c"],
        own: Float[Tensor, "b n e"] | None = None,
    ) -> Float[Tensor, "b n f"]:
        x = interpolate(points, known, features)
        return self.mlp(x if own is None else torch.cat([x, own], -1))


class _Encoder(nn.Module):
    """The levels of both networks."""

    def __init__(self, levels, in_channels, mlp, dimensions):
        super().__init__()
        self.widths = [in_channels]  # features of the points of each level
        self.levels = nn.ModuleList()
        for count, radii, most, mlps in levels:
            self.levels.append(SetAbstraction(count, radii, most, self.widths[-1], mlps, dimensions))
            self.widths.append(sum(widths[-1] for widths in mlps))
        self.whole = GlobalAbstraction(self.widths[-1], mlp, dimensions)

    def forward(self, points, features):
        """Points and features of every level, and the feature of the cloud."""
        found = [(points, features)]
        for level in self.levels:
            found.append(level(*found[-1]))
        return found, self.whole(*found[-1])


class PointNet2(nn.Module):
    """Names a cloud of points.

    Args:
        num_classes: number of classes.
        levels: of each level its centres, radii, K and MLPs, e.g. SINGLE_SCALE or MULTI_SCALE.
        in_channels: features of a point besides its coordinates, e.g. a normal; may be 0.
        mlp: widths of the last level's MLP.
        hidden: widths of the layers before the logits, each with batch normalization, ReLU and dropout.
        dropout: its probability.
        dimensions: d, coordinates of a point.

    Raises:
        ValueError: a size below 1, a probability outside [0, 1), levels as for `SetAbstraction`; points or features of
            other shapes.

    Source: Qi et al. 2017, arXiv:1706.02413, §3.3 and supplementary B.
    """

    def __init__(
        self,
        num_classes: int,
        levels: Sequence[tuple] = SINGLE_SCALE,
        in_channels: int = 0,
        mlp: Sequence[int] = (256, 512, 1024),
        hidden: Sequence[int] = (512, 256),
        dropout: float = 0.5,
        dimensions: int = 3,
    ):
        super().__init__()
        check_sizes(num_classes=num_classes)
        check_fractions(dropout=dropout)
        self.encoder = _Encoder(levels, in_channels, mlp, dimensions)
        self.hidden = nn.ModuleList(SharedMLP(pair) for pair in zip([mlp[-1], *hidden], hidden))
        self.dropout = Dropout(dropout)
        self.last = Linear([mlp[-1], *hidden][-1], num_classes)

    def forward(self, points: Points, features: Features | None = None) -> Float[Tensor, "b classes"]:
        _, x = self.encoder(points, features)
        for layer in self.hidden:
            x = self.dropout(layer(x))
        return self.last(x)


class PointNet2Segmentation(nn.Module):
    """Names each point of a cloud.

    Args:
        num_classes, levels, in_channels, mlp, dropout, dimensions: as those of `PointNet2`.
        propagation: widths of the MLP that brings features to each level, the coarsest first: one more than levels.

    Raises:
        ValueError: as `PointNet2`, or another number of MLPs.

    Source: Qi et al. 2017, arXiv:1706.02413, §3.4 and supplementary B: a layer of the last width, dropout, the logits.
    """

    def __init__(
        self,
        num_classes: int,
        levels: Sequence[tuple] = SINGLE_SCALE,
        in_channels: int = 0,
        mlp: Sequence[int] = (256, 512, 1024),
        propagation: Sequence[Sequence[int]] = ((256, 256), (256, 128), (128, 128, 128)),
        dropout: float = 0.5,
        dimensions: int = 3,
    ):
        super().__init__()
        check_sizes(num_classes=num_classes)
        check_fractions(dropout=dropout)
        if len(propagation) != len(levels) + 1:
            raise ValueError(f"expected {len(levels) + 1} MLPs of propagation, got {len(propagation)}")
        self.encoder = _Encoder(levels, in_channels, mlp, dimensions)
        self.propagation, width = nn.ModuleList(), mlp[-1]
        for own, widths in zip(reversed(self.encoder.widths), propagation):
            self.propagation.append(FeaturePropagation(width + own, widths))
            width = widths[-1]
        self.hidden = SharedMLP((width, width))
        self.dropout = Dropout(dropout)
        self.last = Linear(width, num_classes)

    def forward(self, points: Points, features: Features | None = None) -> Float[Tensor, "b n classes"]:
        levels, x = self.encoder(points, features)
        known, x = points.new_zeros(len(points), 1, points.shape[-1]), x[:, None]  # the cloud: one point, near to all
        for (points, own), step in zip(reversed(levels), self.propagation):
            x, known = step(points, known, x, own), points
        return self.last(self.dropout(self.hidden(x)))
