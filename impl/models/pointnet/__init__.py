"""PointNet: a function of a set of points is a maximum over functions of its single points.

Qi, Su, Mo & Guibas 2016, arXiv:1612.00593. For points x_1 … x_n, rows of a matrix X (n, d):

    f({x_1 … x_n}) ≈ γ(max_i h(x_i))                        h a shared MLP, γ an MLP, max by feature       eq. 1
    X ← X T,  T = TNet(X) (d, d);   H ← H A,  A = TNet(H) (64, 64)                 joint alignment        §4.2
    L = L_task + 0.001 ‖I − A Aᵀ‖²_F                                                                       eq. 2
    f(S′) = f(S)  for  C_S ⊆ S′ ⊆ N_S,   |C_S| ≤ K          critical points and upper bound shape         theorem 2

C_S are points that attain the maxima, N_S all points whose features stay below them, K the number of maxima.

Convention: points are rows and a transform is multiplied from the right; the norm of eq. 2 has no factor ½, which
tf.nn.l2_loss of the authors' code gives it, and is of each cloud, where the code sums over the batch; dropout comes
before the class scores alone, as in the paper's text.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ...layers.checks import check_fractions, check_last, check_sizes
from ...layers.dropout import Dropout
from ...layers.linear import Linear
from ...layers.normalization import BatchNorm1d

Points = Float[Tensor, "batch n d"]
Local = Float[Tensor, "batch n w"]
Transform = Float[Tensor, "batch k k"]


class SharedMLP(nn.Module):
    """Linear layer, batch normalization and ReLU, once for each width: the same for every point.

    Args:
        widths: sizes of the last dimension, of the input first.

    Raises:
        ValueError: fewer than two widths, one below 1, or an input of another last dimension.

    Source: Qi et al. 2016, arXiv:1612.00593, figure 2.
    """

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        if len(widths) < 2:
            raise ValueError(f"expected two widths or more, got {tuple(widths)}")
        self.linears = nn.ModuleList(Linear(before, after) for before, after in zip(widths, widths[1:]))
        self.norms = nn.ModuleList(BatchNorm1d(after) for after in widths[1:])

    def forward(self, x: Float[Tensor, "*batch c_in"]) -> Float[Tensor, "*batch c_out"]:
        for linear, norm in zip(self.linears, self.norms):
            x = linear(x)
            x = norm(x.reshape(-1, x.shape[-1])).reshape(x.shape).relu()
        return x


class TNet(nn.Module):
    """The small PointNet that predicts a (k, k) matrix to align a cloud with: initialised to the identity for any.

    Args:
        k: dimension of a point.
        width: w; h is an MLP of (w, 2w, 16w), γ one of (8w, 4w) and a linear layer to k² elements.

    Called with points (B, n, k), n of any size, it returns transforms (B, k, k), for `points @ transforms`. The last
    layer, `last`, has a weight of zeros and a bias that is the identity, row by row, at first.

    Raises:
        ValueError: a size below 1; points that are not (B, n >= 1, k).

    Source: Qi et al. 2016, arXiv:1612.00593, §4.2 and supplementary C.
    """

    def __init__(self, k: int, width: int = 64):
        super().__init__()
        check_sizes(k=k, width=width)
        self.k = k
        self.point_mlp = SharedMLP((k, width, 2 * width, 16 * width))  # h
        self.cloud_mlp = SharedMLP((16 * width, 8 * width, 4 * width))  # γ
        self.last = Linear(4 * width, k * k)
        with torch.no_grad():
            self.last.weight.zero_()
            self.last.bias.copy_(torch.eye(k).flatten())

    def forward(self, points: Points) -> Transform:
        _check_points(points, self.k)
        return self.last(self.cloud_mlp(self.point_mlp(points).amax(1))).unflatten(1, (self.k, self.k))


class PointNetEncoder(nn.Module):
    """Features of each point and of the whole cloud.

    Args:
        in_channels: d, coordinates of a point; all of them are aligned.
        width: w, so that points have w features and the cloud 16w; 64 in the paper.
        transforms: if True, the points and then their w features are aligned, each by a `TNet`.

    Called with points (B, n, d) it returns (global_feature (B, 16w), local_features (B, n, w), A (B, w, w)); A is the
    feature transform, the identity without transforms. h is an MLP of (w, w) up to the feature transform and one of
    (w, 2w, 16w) from there.

    Raises:
        ValueError: a size below 1; points that are not (B, n >= 1, d).

    Source: Qi et al. 2016, arXiv:1612.00593, figure 2.
    """

    def __init__(self, in_channels: int = 3, width: int = 64, transforms: bool = True):
        super().__init__()
        check_sizes(in_channels=in_channels, width=width)
        self.in_channels, self.width = in_channels, width
        self.input_transform = TNet(in_channels, width) if transforms else None
        self.local_mlp = SharedMLP((in_channels, width, width))
        self.feature_transform = TNet(width, width) if transforms else None
        self.global_mlp = SharedMLP((width, width, 2 * width, 16 * width))

    def forward(self, points: Points) -> tuple[Float[Tensor, "batch features"], Local, Transform]:
        _check_points(points, self.in_channels)
        if self.input_transform is not None:
            points = points @ self.input_transform(points)
        x = self.local_mlp(points)
        if self.feature_transform is None:
            a = torch.eye(self.width, dtype=x.dtype, device=x.device).expand(len(x), -1, -1).clone()
        else:
            a = self.feature_transform(x)
            x = x @ a
        return self.global_mlp(x).amax(1), x, a

    def critical_points(self, points: Points) -> Bool[Tensor, "batch n"]:
        """True at C_S, one point for each maximum, those of the T-Nets included: without the others f is the same.

        Source: Qi et al. 2016, theorem 2. Evaluation mode; in training, batch normalization couples all points.
        """
        first = self._features(points, points).argmax(1)
        return torch.zeros(points.shape[:2], dtype=torch.bool, device=points.device).scatter(1, first, True)

    def within_bound(self, points: Points, others: Float[Tensor, "batch m d"]) -> Bool[Tensor, "batch m"]:
        """True at those of `others` that belong to N_S: adding them to `points` leaves f the same.

        Source: Qi et al. 2016, theorem 2. Evaluation mode, as `critical_points`.
        """
        return (self._features(points, others) <= self._features(points, points).amax(1, keepdim=True)).all(-1)

    def _features(self, cloud, points):
        """All features of points that a maximum is taken of, with the transforms of the cloud."""
        _check_points(cloud, self.in_channels)
        _check_points(points, self.in_channels)
        if self.input_transform is None:
            return self.global_mlp(self.local_mlp(points))
        first = self.input_transform.point_mlp(points)
        t = self.input_transform(cloud)
        x = self.local_mlp(points @ t)
        a = self.feature_transform(self.local_mlp(cloud @ t))
        return torch.cat([first, self.feature_transform.point_mlp(x), self.global_mlp(x @ a)], -1)


class PointNet(nn.Module):
    """Names a cloud of points.

    Args:
        num_classes: number of classes.
        in_channels, width, transforms: as those of `PointNetEncoder`; γ is an MLP of (8w, 4w).
        dropout: probability to drop one of the last 4w features in training.

    Called with points (B, n, d) it returns (logits (B, num_classes), A (B, w, w)). To train, add to the cross entropy
    0.001 times the mean of `feature_transform_regularizer(A)`.

    Raises:
        ValueError: a size below 1, a probability outside of [0, 1); points that are not (B, n >= 1, d).

    Source: Qi et al. 2016, arXiv:1612.00593, figure 2 and §4.2.
    """

    def __init__(
        self, num_classes: int, in_channels: int = 3, width: int = 64, transforms: bool = True, dropout: float = 0.3
    ):
        super().__init__()
        check_sizes(num_classes=num_classes)
        check_fractions(dropout=dropout)
        self.encoder = PointNetEncoder(in_channels, width, transforms)
        self.cloud_mlp = SharedMLP((16 * width, 8 * width, 4 * width))
        self.dropout = Dropout(dropout)
        self.last = Linear(4 * width, num_classes)

    def forward(self, points: Points) -> tuple[Float[Tensor, "batch classes"], Transform]:
        feature, _, a = self.encoder(points)
        return self.last(self.dropout(self.cloud_mlp(feature))), a


class PointNetSegmentation(nn.Module):
    """Names each point of a cloud, by its own features next to those of the whole.

    Args:
        num_classes: number of classes.
        in_channels, width, transforms: as those of `PointNetEncoder`; w + 16w features, 1088 in the paper, go through
            an MLP of (8w, 4w, 2w, 2w) and a linear layer.

    Called with points (B, n, d) it returns (logits (B, n, num_classes), A (B, w, w)).

    Raises:
        ValueError: a size below 1; points that are not (B, n >= 1, d).

    Source: Qi et al. 2016, arXiv:1612.00593, figure 2: local features, then global ones.
    """

    def __init__(self, num_classes: int, in_channels: int = 3, width: int = 64, transforms: bool = True):
        super().__init__()
        check_sizes(num_classes=num_classes)
        self.encoder = PointNetEncoder(in_channels, width, transforms)
        self.point_mlp = SharedMLP((17 * width, 8 * width, 4 * width, 2 * width, 2 * width))
        self.last = Linear(2 * width, num_classes)

    def forward(self, points: Points) -> tuple[Float[Tensor, "batch n classes"], Transform]:
        feature, local, a = self.encoder(points)
        both = torch.cat([local, feature[:, None].expand(-1, local.shape[1], -1)], -1)
        return self.last(self.point_mlp(both)), a


def feature_transform_regularizer(a: Transform) -> Float[Tensor, " batch"]:
    """‖I − A Aᵀ‖²_F of each transform A (B, k, k): 0 where A is orthogonal, which loses no information.

    Source: Qi et al. 2016, eq. 2.  Raises ValueError for what is not (B, k, k).
    """
    if a.dim() != 3 or a.shape[1] != a.shape[2]:
        raise ValueError(f"expected transforms (B, k, k), got {tuple(a.shape)}")
    identity = torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
    return (identity - a @ a.mT).square().sum((1, 2))


def _check_points(points: Tensor, width: int) -> None:
    check_last(points, width)
    if points.dim() != 3 or points.shape[1] < 1:
        raise ValueError(f"expected points (B, n >= 1, {width}), got shape {tuple(points.shape)}")
