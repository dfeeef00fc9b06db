"""Golden values of DETR.  Carion et al. 2020, arXiv:2005.12872; boxes: Rezatofighi et al. 2019, arXiv:1902.09630."""

import pytest
import torch
from torch import nn

from impl.models.detr import DETR, box_iou, generalized_box_iou
from spec import laws
from spec.golden import load

pytestmark = pytest.mark.item("detr")


def _attention(golden, old, new):
    """transformers' projections under the names of our attention."""
    state = {f"{new}.{part}_proj_weight": golden[f"{old}.{part}_proj.weight"] for part in "qkv"}
    state[f"{new}.in_proj_bias"] = torch.cat([golden[f"{old}.{part}_proj.bias"] for part in "qkv"])
    return state | {f"{new}.out_proj.{what}": golden[f"{old}.o_proj.{what}"] for what in ("weight", "bias")}


def _layer(golden, old, new, attentions, norms):
    state = {}
    for theirs, ours in attentions.items():
        state |= _attention(golden, f"{old}.{theirs}", f"{new}.{ours}")
    names = norms | {"mlp.fc1": "feed_forward.linear1", "mlp.fc2": "feed_forward.linear2"}
    for theirs, ours in names.items():
        state |= {f"{new}.{ours}.{what}": golden[f"{old}.{theirs}.{what}"] for what in ("weight", "bias")}
    return state


def weights(golden):
    """The frozen state of transformers' model, without a backbone, under the names of ours."""
    state = {"queries": golden["model.query_position_embeddings.weight"]}
    names = {"model.input_projection": "input_proj", "model.decoder.layernorm": "decoder_norm"}
    names |= {"class_labels_classifier": "class_head"}
    names |= {f"bbox_predictor.layers.{n}": f"box_head.{n}" for n in range(3)}
    for old, new in names.items():
        state |= {f"{new}.{what}": golden[f"{old}.{what}"] for what in ("weight", "bias")}
    norms = {"self_attn_layer_norm": "norm1", "final_layer_norm": "norm2"}
    for n in range(2):
        state |= _layer(golden, f"model.encoder.layers.{n}", f"encoder.{n}", {"self_attn": "self_attn"}, norms)
    both = {"self_attn": "self_attn", "encoder_attn": "cross_attn"}
    norms = {"self_attn_layer_norm": "norm1", "encoder_attn_layer_norm": "norm2", "final_layer_norm": "norm3"}
    for n in range(2):
        state |= _layer(golden, f"model.decoder.layers.{n}", f"decoder.{n}", both, norms)
    return state


def test_transformers_weights_give_its_predictions_and_its_loss():
    """Logits and boxes after both decoder layers, the loss of both, and its gradient to features and queries.

    Source: Carion et al. 2020, §3; values of transformers' DetrForObjectDetection, with padding in one image.
    """
    golden = load("detr")
    model = DETR(nn.Identity(), 6, 3, 5, 8, 2, 2, 2, 12).double().eval()
    model.load_state_dict(weights(golden))
    features, mask = golden["features"].requires_grad_(), golden["mask"]
    first, last = model.every_layer(features, mask)
    golden.check("first_logits", first[0])
    golden.check("first_boxes", first[1])
    golden.check("logits", last[0])
    golden.check("boxes", last[1])
    loss = model.loss(features, golden["labels"], golden["targets"], mask)
    golden.check("loss", loss)
    for name, found in zip(("gradient", "queries_gradient"), torch.autograd.grad(loss, [features, model.queries])):
        golden.check(name, found)


@pytest.mark.parametrize(
    ("a", "b", "iou", "giou"),
    [
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7, 1 / 7 - 2 / 9),
        ((0, 0, 1, 1), (2, 2, 3, 3), 0, -7 / 9),
        ((0, 0, 1, 1), (9, 0, 10, 1), 0, -8 / 10),
        ((0, 0, 4, 2), (1, 0, 2, 1), 1 / 8, 1 / 8),
    ],
)
def test_overlaps_worked_out_by_hand(a, b, iou, giou):
    """IoU and GIoU of boxes that cross, that are apart along a diagonal or a row, and of one within the other.

    Source: Rezatofighi et al. 2019, Alg. 1.
    """
    a, b = (torch.tensor(box, dtype=torch.float64) for box in (a, b))
    laws.assert_close(box_iou(a, b), torch.tensor(iou, dtype=torch.float64))
    laws.assert_close(generalized_box_iou(a, b), torch.tensor(giou, dtype=torch.float64))


def resnet50():
    """The convolutions of ResNet-50, whose batch normalization is frozen and has no parameters here."""

    def convolutions(*shapes):
        return [nn.Conv2d(a, b, k, bias=False) for a, b, k in shapes]

    layers, width = convolutions((3, 64, 7)), 64
    for inner, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        layers += convolutions((width, 4 * inner, 1))  # the shortcut of the first block
        for _ in range(blocks):
            layers += convolutions((width, inner, 1), (inner, inner, 3), (inner, 4 * inner, 1))
            width = 4 * inner
    return nn.ModuleList(layers)


def test_published_size():
    """With a ResNet-50 and COCO's 91 labels it has 41,524,768 parameters, the "41M" of the paper.

    222,400 of them, of the first convolution and the first stage, are frozen in training.

    Source: Carion et al. 2020, table 1, DETR; transformers' DetrForObjectDetection has the same number.
    """
    with torch.device("meta"):
        backbone = resnet50()
        model = DETR(backbone, 2048, 91)
    found = [sum(p.numel() for p in part.parameters()) for part in (model, backbone)]
    assert found == [41_524_768, 23_454_912], f"expected 41,524,768 parameters, 23,454,912 of ResNet-50, found {found}"
