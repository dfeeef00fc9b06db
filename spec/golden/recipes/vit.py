"""Golden values of ViT."""

from math import erf, sqrt

import numpy as np

from spec.golden import Recipe, recipe


@recipe(
    "vit",
    oracle="transformers.ViTForImageClassification in float64",
    second="the patches, both blocks and the head in NumPy, head by head",
    needs=("torch", "transformers"),
)
def vit(recipe: Recipe) -> None:
    """Tokens, logits and the gradient to the images of two blocks, on images of 4 × 6 pixels in patches of 2 × 2."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        hidden_act="gelu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=1e-6,
        image_size=(4, 6),
        patch_size=2,
        num_channels=3,
        qkv_bias=True,
        num_labels=5,
    )
    model = ViTForImageClassification(config).double().eval()
    draw = np.random.default_rng(0)
    recipe.fill(model, draw)
    images = recipe.given("images", draw.integers(-16, 16, (2, 3, 4, 6)) / 16)
    leaf = torch.from_numpy(images).requires_grad_()
    tokens = model.vit(leaf).last_hidden_state
    logits = model(leaf).logits
    (gradient,) = torch.autograd.grad(logits.square().sum(), leaf)
    weights = recipe.inputs
    z = embedded(weights, "vit.embeddings.", images)
    for number in range(2):
        z = block(z, weights, f"vit.layers.{number}", heads=2)
    z = norm(z, weights, "vit.layernorm")
    recipe.expect("tokens", tokens, second=z)
    recipe.expect("logits", logits, second=z[:, 0] @ weights["classifier.weight"].T + weights["classifier.bias"])
    recipe.expect("gradient", gradient)


def embedded(weights, prefix, images):
    """Class token and patches of 2 × 2, with positions."""
    kernel = weights[f"{prefix}patch_embeddings.projection.weight"]  # (d, c, 2, 2)
    n, _, height, width = images.shape
    patches = [
        np.einsum("ncij,dcij->nd", images[:, :, i : i + 2, j : j + 2], kernel)
        for i in range(0, height, 2)
        for j in range(0, width, 2)
    ]
    patches = np.stack(patches, axis=1) + weights[f"{prefix}patch_embeddings.projection.bias"]
    token = np.broadcast_to(weights[f"{prefix}cls_token"], (n, 1, kernel.shape[0]))
    return np.concatenate([token, patches], axis=1) + weights[f"{prefix}position_embeddings"]


def norm(x, weights, name, eps=1e-6):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def block(x, weights, name, heads, eps=1e-6):
    """A pre-norm block of transformers' ViT on (n, t, d), one head after another."""

    def map_by(part, value):
        return value @ weights[f"{name}.{part}.weight"].T + weights[f"{name}.{part}.bias"]

    y = norm(x, weights, f"{name}.layernorm_before", eps)
    q, k, v = (map_by(f"attention.{letter}_proj", y) for letter in "qkv")
    width = x.shape[-1] // heads
    found = []
    for h in range(heads):
        part = slice(h * width, h * width + width)
        scores = q[..., part] @ k[..., part].transpose(0, 2, 1) / sqrt(width)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        found.append(shares / shares.sum(-1, keepdims=True) @ v[..., part])
    x = x + map_by("attention.o_proj", np.concatenate(found, axis=-1))
    y = map_by("mlp.fc1", norm(x, weights, f"{name}.layernorm_after", eps))
    return x + map_by("mlp.fc2", y * (1 + np.vectorize(erf)(y / sqrt(2))) / 2)
