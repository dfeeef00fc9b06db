"""Golden values of DETR."""

from itertools import permutations

import numpy as np

from spec.golden import Recipe, recipe


@recipe(
    "detr",
    oracle="transformers.DetrForObjectDetection and its loss in float64, matched by SciPy's linear_sum_assignment",
    second="the transformer in NumPy, image by image and head by head; the loss of the cheapest of all matchings",
    needs=("torch", "transformers", "scipy"),
)
def detr(recipe: Recipe) -> None:
    """Logits, boxes, loss and gradients of two layers on features of 2 × 3, one image's last column being padding.

    The model runs with auxiliary_loss=False and its loss with True: with True transformers 5.23 hands the next decoder
    layer what was normalized for a prediction, and normalizes the last one's twice; neither the paper nor the released
    code does.
    """
    import torch
    from torch import nn
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
    from transformers.loss.loss_for_object_detection import ForObjectDetectionLoss

    config = DetrConfig(
        use_timm_backbone=False,
        backbone_config=ResNetConfig(embedding_size=4, hidden_sizes=[4, 6], depths=[1, 1], layer_type="basic"),
        use_pretrained_backbone=False,
        num_queries=5,
        d_model=8,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=12,
        decoder_ffn_dim=12,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        num_labels=3,
        auxiliary_loss=False,
        class_cost=1,
        bbox_cost=5,
        giou_cost=2,
        bbox_loss_coefficient=5,
        giou_loss_coefficient=2,
        eos_coefficient=0.1,
    )
    model = DetrForObjectDetection(config).double().eval()
    draw = np.random.default_rng(0)
    recipe.fill(model, draw, but=(".backbone.",))
    weights = dict(recipe.inputs)
    features = recipe.given("features", draw.integers(-16, 16, (2, 6, 2, 3)) / 16)
    mask = recipe.given("mask", np.array([[[1, 1, 1]] * 2, [[1, 1, 0]] * 2], dtype=bool))
    labels = recipe.given("labels", np.array([[2, 0, 2], [1, 3, 3]]))  # 3 is no object
    targets = recipe.given("targets", draw.integers(2, 14, (2, 3, 4)) / 16)
    leaf = torch.from_numpy(features).requires_grad_()

    class Given(nn.Module):
        def forward(self, pixels, pixel_mask):
            return [(leaf, torch.from_numpy(mask))]

    model.model.backbone = Given()
    real = [labels[n] < 3 for n in range(2)]
    objects = [
        {"class_labels": torch.from_numpy(labels[n][real[n]]), "boxes": torch.from_numpy(targets[n][real[n]])}
        for n in range(2)
    ]
    states = []
    for layer in model.model.decoder.layers:
        layer.register_forward_hook(lambda module, given, made: states.append(made))
    torch.set_default_dtype(torch.float64)  # of the weights of the classes, which the loss makes itself
    try:
        found = model(torch.zeros(2, 3, 4, 6))
        normalized = model.model.decoder.layernorm(torch.stack(states))
        every = model.class_labels_classifier(normalized), model.bbox_predictor(normalized).sigmoid()
        config.auxiliary_loss = True
        loss = ForObjectDetectionLoss(found.logits, objects, "cpu", found.pred_boxes, config, *every)[0]
    finally:
        torch.set_default_dtype(torch.float32)
    of_features, of_queries = torch.autograd.grad(loss, [leaf, model.model.query_position_embeddings.weight])

    layers = [forward(weights, features[n], mask[n]) for n in range(2)]  # image, layer, (logits, boxes)
    layers = [tuple(np.stack([layers[n][at][k] for n in range(2)]) for k in (0, 1)) for at in range(2)]
    recipe.expect("first_logits", every[0][0], second=layers[0][0])
    recipe.expect("first_boxes", every[1][0], second=layers[0][1])
    recipe.expect("logits", found.logits, second=layers[1][0])
    recipe.expect("boxes", found.pred_boxes, second=layers[1][1])
    recipe.expect("loss", loss, second=sum(set_loss(*layer, labels, targets) for layer in layers))
    recipe.expect("gradient", of_features)
    recipe.expect("queries_gradient", of_queries)


def linear(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(x, weights, name):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attention(at, over, values, weights, name, real=None, heads=2):
    """Of queries (t, d) over keys (s, d), one head after another; `real` is False at keys of padding."""
    q, k = linear(at, weights, f"{name}.q_proj"), linear(over, weights, f"{name}.k_proj")
    v, found = linear(values, weights, f"{name}.v_proj"), []
    for own in np.split(np.arange(q.shape[1]), heads):
        scores = np.exp(q[:, own] @ k[:, own].T / np.sqrt(len(own)))
        scores = scores if real is None else scores * real
        found.append(scores / scores.sum(1, keepdims=True) @ v[:, own])
    return linear(np.concatenate(found, 1), weights, f"{name}.o_proj")


def positions(mask, width):
    """Of one image's pixels, row by row: sines and cosines of the row among the real ones, then of the column."""
    found = []
    for row in range(mask.shape[0]):
        for column in range(mask.shape[1]):
            place = []
            for line, index in ((mask[:, column], row), (mask[row], column)):
                angle = 2 * np.pi * line[: index + 1].sum() / (line.sum() + 1e-6)
                for i in range(width // 4):
                    turned = angle / 10000 ** (4 * i / width)
                    place += [np.sin(turned), np.cos(turned)]
            found.append(place)
    return np.array(found)


def forward(weights, features, mask):
    """Logits and boxes of one image after each decoder layer."""
    kernel = weights["model.input_projection.weight"][:, :, 0, 0]
    x = features.reshape(len(features), -1).T @ kernel.T + weights["model.input_projection.bias"]
    p, real, q = positions(mask, 8), mask.ravel(), weights["model.query_position_embeddings.weight"]
    for number in range(2):
        at = f"model.encoder.layers.{number}"
        x = x + attention(x + p, x + p, x, weights, f"{at}.self_attn", real)
        x = norm(x, weights, f"{at}.self_attn_layer_norm")
        hidden = np.maximum(linear(x, weights, f"{at}.mlp.fc1"), 0)
        x = norm(x + linear(hidden, weights, f"{at}.mlp.fc2"), weights, f"{at}.final_layer_norm")
    y, found = np.zeros_like(q), []
    for number in range(2):
        at = f"model.decoder.layers.{number}"
        y = norm(y + attention(y + q, y + q, y, weights, f"{at}.self_attn"), weights, f"{at}.self_attn_layer_norm")
        y = y + attention(y + q, x + p, x, weights, f"{at}.encoder_attn", real)
        y = norm(y, weights, f"{at}.encoder_attn_layer_norm")
        hidden = np.maximum(linear(y, weights, f"{at}.mlp.fc1"), 0)
        y = norm(y + linear(hidden, weights, f"{at}.mlp.fc2"), weights, f"{at}.final_layer_norm")
        z = norm(y, weights, "model.decoder.layernorm")
        box = z
        for layer in range(2):
            box = np.maximum(linear(box, weights, f"bbox_predictor.layers.{layer}"), 0)
        box = 1 / (1 + np.exp(-linear(box, weights, "bbox_predictor.layers.2")))
        found.append((linear(z, weights, "class_labels_classifier"), box))
    return found


def box_loss(a, b):
    """5 ‖a − b‖₁ + 2 (1 − GIoU) of two boxes (c_x, c_y, w, h)."""
    low, high = [box[:2] - box[2:] / 2 for box in (a, b)], [box[:2] + box[2:] / 2 for box in (a, b)]
    common = np.prod(np.maximum(np.minimum(*high) - np.maximum(*low), 0))
    hull = np.prod(np.maximum(*high) - np.minimum(*low))
    union = a[2] * a[3] + b[2] * b[3] - common
    return 5 * np.abs(a - b).sum() + 2 * (1 - common / union + (hull - union) / hull)


def set_loss(logits, boxes, labels, targets):
    """The loss of one decoder layer, with the cheapest of all matchings."""
    of_boxes, of_classes, total, objects = 0.0, 0.0, 0.0, 0
    for n in range(len(logits)):
        p = np.exp(logits[n]) / np.exp(logits[n]).sum(1, keepdims=True)
        real = [i for i in range(len(labels[n])) if labels[n, i] < 3]
        costs = {(i, j): box_loss(boxes[n, j], targets[n, i]) - p[j, labels[n, i]] for i in real for j in range(len(p))}
        best = min(permutations(range(len(p)), len(real)), key=lambda o: sum(costs[i, j] for i, j in zip(real, o)))
        classes = np.full(len(p), 3)
        for i, j in zip(real, best):
            classes[j] = labels[n, i]
            of_boxes += box_loss(boxes[n, j], targets[n, i])
        objects += len(real)
        weight = np.where(classes == 3, 0.1, 1.0)
        of_classes -= (weight * np.log(p[np.arange(len(p)), classes])).sum()
        total += weight.sum()
    return of_boxes / objects + of_classes / total
