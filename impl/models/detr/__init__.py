"""DETR: a transformer turns an image into a set of objects, and training matches them one to one with those that exist.

Carion, Massa, Synnaeve, Usunier, Kirillov & Zagoruyko 2020, arXiv:2005.12872.

The objects y_i = (class c_i, box b_i) of an image count as N, of which those that do not exist have the class ∅.

    σ̂ = argmin_σ Σ_i L_match(y_i, ŷ_σ(i)),   L_match = 1[c_i ≠ ∅] (−p̂_σ(i)(c_i) + L_box(b_i, b̂_σ(i)))       §3.1, eq. 1
    L  = Σ_i (−log p̂_σ̂(i)(c_i) + 1[c_i ≠ ∅] L_box(b_i, b̂_σ̂(i)))                                             §3.1, eq. 2
    L_box(b, b̂) = λ_iou (1 − GIoU(b, b̂)) + λ_L1 ‖b − b̂‖₁                                                     §3.1, A.2

    features     z = W backbone(image), the pixels of which are tokens with the positions p                   §3.2, A.4
    encoder      x ← LN(x + Attention(x + p, x + p, x)),   x ← LN(x + FFN(x)),   from x = z
    decoder      y ← LN(y + Attention(y + q, y + q, y)),   y ← LN(y + Attention(y + q, x + p, x)),
                 y ← LN(y + FFN(y)),   from y = 0, with the learned queries q
    prediction   class logits W_c y and box sigmoid(MLP(y)), where y is normalized once more, after any decoder layer

Convention: a box is (c_x, c_y, w, h), each a share of the image's width or height. ∅ is the last class, K. As released,
log-probabilities are averaged with the weight 0.1 for ∅, boxes over the objects of the batch, and each decoder layer
has its own matching and loss (§3.2). Attention is `CrossAttention`, FFN and MLP have ReLUs, and ε of LN is 1e-5. True
in a mask means a pixel of the image, False one that pads it.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...layers.boxes import box_iou, generalized_box_iou, to_centres, to_corners
from ...layers.checks import check_dropout, check_finite, check_not_negative, check_sizes, check_space
from ...layers.convolution import Conv2d
from ...layers.initialisers import xavier_uniform_
from ...layers.linear import Linear
from ...layers.matching import hungarian_matching
from ...layers.normalization import LayerNorm
from ...layers.numerics import at_least_float32
from .transformer import DecoderLayer, EncoderLayer, image_positions

__all__ = [
    "DETR",
    "box_iou",
    "generalized_box_iou",
    "hungarian_matching",
    "image_positions",
    "matching_cost",
    "set_prediction_loss",
    "to_centres",
    "to_corners",
]


def _box_loss(found, right, l1_weight, giou_weight):
    """L_box of pairs of boxes."""
    apart = 1 - generalized_box_iou(to_corners(found), to_corners(right))
    return l1_weight * (found - right).abs().sum(-1) + giou_weight * apart


def matching_cost(
    logits: Float[Tensor, "b n classes"],
    boxes: Float[Tensor, "b n 4"],
    labels: Int[Tensor, "b m"],
    targets: Float[Tensor, "b m 4"],
    l1_weight: float = 5.0,
    giou_weight: float = 2.0,
) -> Float[Tensor, "b m n"]:
    """L_match of every object with every prediction: −p̂_j(c_i) + L_box(b_i, b̂_j), and 0 where c_i = ∅.

    Arguments and errors: see `set_prediction_loss`.

    Source: Carion et al. 2020, arXiv:2005.12872, §3.1: probabilities here, log-probabilities in the loss.
    """
    _check_sets(logits, boxes, labels, targets)
    check_not_negative(l1_weight=l1_weight, giou_weight=giou_weight)
    check_finite(l1_weight=l1_weight, giou_weight=giou_weight)
    p = at_least_float32(logits).softmax(-1)
    p = p.gather(2, labels[:, None].expand(-1, logits.shape[1], -1)).mT  # (b, m, n)
    boxes, targets = at_least_float32(boxes), at_least_float32(targets)
    pairs = _box_loss(boxes[:, None], targets[:, :, None], l1_weight, giou_weight)  # (b, m, n)
    exists = labels[:, :, None] < logits.shape[2] - 1
    return torch.where(exists, pairs - p, 0).to(logits.dtype)


def set_prediction_loss(
    logits: Float[Tensor, "b n classes"],
    boxes: Float[Tensor, "b n 4"],
    labels: Int[Tensor, "b m"],
    targets: Float[Tensor, "b m 4"],
    l1_weight: float = 5.0,
    giou_weight: float = 2.0,
    no_object_weight: float = 0.1,
) -> Float[Tensor, ""]:
    """The weighted mean of −log p̂_σ̂(i)(c_i), plus the mean of L_box over the objects of the batch.

    Args:
        logits: of K classes and, last, ∅, for each of N predictions.
        boxes: b̂, (c_x, c_y, w, h).
        labels: c in [0, K), int64, of M ≤ N objects; K where an image has fewer than M.
        targets: b; those of ∅ do not count.
        l1_weight, giou_weight: λ_L1 and λ_iou, in the matching and in the loss.
        no_object_weight: of −log p̂(∅); 1 for classes.

    Raises:
        ValueError: shapes that do not fit together, more objects than predictions, or no prediction; weights below 0,
            `no_object_weight` of 0 or below.

    Source: Carion et al. 2020, arXiv:2005.12872, §3.1, eq. 1 and 2, A.2, A.4.
    """
    _check_sets(logits, boxes, labels, targets)
    if not 0 < no_object_weight < math.inf:
        raise ValueError(f"expected a finite no_object_weight > 0, got {no_object_weight}")
    if 0 in logits.shape[:2]:
        raise ValueError(f"expected at least one prediction, got logits of shape {tuple(logits.shape)}")
    dtype, nothing = logits.dtype, logits.shape[2] - 1  # ∅
    logits, boxes, targets = at_least_float32(logits), at_least_float32(boxes), at_least_float32(targets)
    cost = matching_cost(logits.detach(), boxes.detach(), labels, targets, l1_weight, giou_weight)
    query = hungarian_matching(cost)  # σ̂ (b, m): the prediction of each object

    exists = labels < nothing
    matched = boxes.gather(1, query[:, :, None].expand(-1, -1, 4))
    apart = _box_loss(matched, targets, l1_weight, giou_weight)  # (b, m)
    of_boxes = torch.where(exists, apart, 0).sum() / exists.sum().clamp(min=1)

    classes = torch.full(logits.shape[:2], nothing, device=labels.device).scatter(1, query, labels)  # (b, n)
    log_p = logits.log_softmax(-1).gather(2, classes[:, :, None])[:, :, 0]
    weight = torch.where(classes < nothing, torch.ones_like(log_p), no_object_weight)
    return (of_boxes - (weight * log_p).sum() / weight.sum()).to(dtype)


class DETR(nn.Module):
    """Images to the class logits and boxes of N objects.

    Args:
        backbone: any module from images (b, c, h, w) to features (b, channels, h′, w′).
        channels: of the features.
        num_classes: K, without ∅.
        num_queries: N, the most objects that an image can have.
        d_model: width of the transformer, a multiple of 4.
        nhead: heads of each attention.
        num_encoder_layers, num_decoder_layers: of the transformer; the encoder may have none.
        dim_feedforward: width of the feed-forward networks' hidden layers.
        dropout: probability with which an attention weight, a hidden feature of a feed-forward network, and a feature
            of a residual branch is dropped in training.

    Raises:
        ValueError: an argument out of range; images that are not (b, c, h, w), a mask of another shape.

    Source: Carion et al. 2020, arXiv:2005.12872, §3.2, A.3; §4: matrices of the transformer begin as Xavier's; queries
    as N(0, 1), as released.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        num_classes: int,
        num_queries: int = 100,
        d_model: int = 256,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
    ):
        super().__init__()
        check_sizes(channels=channels, num_classes=num_classes, num_queries=num_queries, decoder=num_decoder_layers)
        check_not_negative(num_encoder_layers=num_encoder_layers)
        check_dropout(dropout)
        if d_model < 4 or d_model % 4:
            raise ValueError(f"expected d_model a multiple of 4, got {d_model}")
        self.backbone = backbone
        self.input_proj = Conv2d(channels, d_model, 1)
        sizes = d_model, nhead, dim_feedforward, dropout
        self.encoder = nn.ModuleList(EncoderLayer(*sizes) for _ in range(num_encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(*sizes) for _ in range(num_decoder_layers))
        for parameter in [*self.encoder.parameters(), *self.decoder.parameters()]:
            if parameter.dim() > 1:
                xavier_uniform_(parameter.data)
        self.decoder_norm = LayerNorm(d_model)
        self.queries = nn.Parameter(torch.randn(num_queries, d_model))
        self.class_head = Linear(d_model, num_classes + 1)
        self.box_head = nn.ModuleList(Linear(d_model, out) for out in (d_model, d_model, 4))

    def forward(
        self, images: Float[Tensor, "b c h w"], mask: Bool[Tensor, "b h w"] | None = None
    ) -> tuple[Float[Tensor, "b n classes"], Float[Tensor, "b n 4"]]:
        """Class logits, the last of them ∅'s, and boxes, after the last decoder layer.

        Args:
            mask: True at an image's pixels, False where it is padded; default all True. No token attends to feature
                (i, j) of h′ × w′ where the mask is False at row ⌊i·h/h′⌋, column ⌊j·w/w′⌋.
        """
        return self._predict(self._objects(images, mask)[-1])

    def every_layer(
        self, images: Float[Tensor, "b c h w"], mask: Bool[Tensor, "b h w"] | None = None
    ) -> list[tuple[Float[Tensor, "b n classes"], Float[Tensor, "b n 4"]]]:
        """`forward` after each decoder layer, the first to the last."""
        return [self._predict(objects) for objects in self._objects(images, mask)]

    def loss(
        self,
        images: Float[Tensor, "b c h w"],
        labels: Int[Tensor, "b m"],
        targets: Float[Tensor, "b m 4"],
        mask: Bool[Tensor, "b h w"] | None = None,
    ) -> Float[Tensor, ""]:
        """The sum over decoder layers of `set_prediction_loss`, each with a matching of its own (§3.2)."""
        return sum(set_prediction_loss(*found, labels, targets) for found in self.every_layer(images, mask))

    def _objects(self, images, mask):
        """The normalized states (b, n, d) of the objects after each decoder layer."""
        check_space(images, 2)
        if mask is None:
            mask = torch.ones_like(images[:, 0], dtype=torch.bool)
        if mask.shape != (len(images), *images.shape[2:]) or mask.dtype != torch.bool:
            wanted = (len(images), *images.shape[2:])
            raise ValueError(f"expected a mask {wanted} of booleans, got {tuple(mask.shape)} of {mask.dtype}")
        features = self.input_proj(self.backbone(images))  # (b, d, h′, w′)
        for dim in (1, 2):  # the nearest pixel's
            old, new = mask.shape[dim], features.shape[dim + 1]
            mask = mask.index_select(dim, torch.arange(new, device=mask.device) * old // new)
        positions = image_positions(mask, features.shape[1]).to(features.dtype).flatten(1, 2)  # (b, h′w′, d)
        x, real = features.flatten(2).mT, mask.flatten(1)
        for layer in self.encoder:
            x = layer(x, positions, real)
        y = torch.zeros_like(self.queries).expand(len(x), -1, -1)
        found = []
        for layer in self.decoder:
            y = layer(y, self.queries, x, positions, real)
            found.append(self.decoder_norm(y))
        return found

    def _predict(self, objects):
        x = objects
        for layer in self.box_head[:-1]:
            x = layer(x).relu()
        return self.class_head(objects), self.box_head[-1](x).sigmoid()


def _check_sets(logits, boxes, labels, targets):
    fits = logits.dim() == 3 and logits.shape[2] > 1 and boxes.shape == (*logits.shape[:2], 4)
    fits = fits and labels.dim() == 2 and len(labels) == len(logits) and targets.shape == (*labels.shape, 4)
    if not fits or labels.shape[1] > logits.shape[1]:
        found = [tuple(t.shape) for t in (logits, boxes, labels, targets)]
        raise ValueError(f"expected (b, n, K + 1), (b, n, 4), (b, m) and (b, m, 4) with m <= n, got {found}")
