"""Golden values of Swin."""

from math import erf, sqrt

import numpy as np

from spec.golden import Recipe, recipe
from spec.golden.recipes.vit import norm


@recipe(
    "swin",
    oracle="transformers.SwinForImageClassification in float64",
    second="patches, windows of the shifted grid token by token, merging and head in NumPy",
    needs=("torch", "transformers"),
)
def swin(recipe: Recipe) -> None:
    """Tokens, logits and the gradient to the images of two stages, on images of 9 × 14 pixels in patches of 2 × 2."""
    import torch
    from transformers import SwinConfig, SwinForImageClassification

    config = SwinConfig(
        image_size=14,
        patch_size=2,
        num_channels=3,
        embed_dim=4,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=2,
        mlp_ratio=4.0,
        qkv_bias=True,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        drop_path_rate=0.0,
        hidden_act="gelu",
        layer_norm_eps=1e-5,
        num_labels=5,
    )
    model = SwinForImageClassification(config).double().eval()
    draw = np.random.default_rng(0)
    recipe.fill(model, draw)
    images = recipe.given("images", draw.integers(-16, 16, (2, 3, 9, 14)) / 16)
    leaf = torch.from_numpy(images).requires_grad_()
    tokens = model.swin(leaf).last_hidden_state
    logits = model(leaf).logits
    (gradient,) = torch.autograd.grad(logits.square().sum(), leaf)

    w = recipe.inputs
    x = np.pad(images, [(0, 0), (0, 0), (0, 1), (0, 0)])
    kernel = w["swin.embeddings.patch_embeddings.projection.weight"]
    x = np.einsum("nchiwj,dcij->nhwd", x.reshape(2, 3, 5, 2, 7, 2), kernel)
    x = norm(x + w["swin.embeddings.patch_embeddings.projection.bias"], w, "swin.embeddings.norm", 1e-5)
    for stage, heads in enumerate((2, 4)):
        layer = f"swin.encoder.layers.{stage}"
        for number in range(2):
            x = block(x, w, f"{layer}.blocks.{number}", heads, shift=number)
        if stage == 0:
            x = np.pad(x, [(0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)])
            four = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
            x = norm(np.concatenate(four, -1), w, f"{layer}.downsample.norm", 1e-5)
            x = x @ w[f"{layer}.downsample.reduction.weight"].T
    x = norm(x, w, "swin.layernorm", 1e-5)
    recipe.expect("tokens", tokens, second=x.reshape(2, -1, 8))
    second = x.mean((1, 2)) @ w["classifier.weight"].T + w["classifier.bias"]
    recipe.expect("logits", logits, second=second)
    recipe.expect("gradient", gradient)


def block(x, weights, name, heads, shift, m=2):
    """A block of transformers' Swin on (n, h, w, d): a token attends to its cell of the grid that begins at shift."""

    def map_by(part, value):
        return value @ weights[f"{name}.{part}.weight"].T + weights[f"{name}.{part}.bias"]

    n, height, width, d = x.shape
    y = norm(x, weights, f"{name}.layernorm_before", 1e-5)
    y = np.pad(y, [(0, 0), (0, height % m), (0, width % m), (0, 0)])
    q, k, v = (map_by(f"attention.{letter}_proj", y) for letter in "qkv")
    table = weights[f"{name}.attention.relative_position_bias.relative_position_bias_table"]
    found, size = np.zeros_like(y), d // heads
    places = [(i, j) for i in range(y.shape[1]) for j in range(y.shape[2])]

    def cell(i, j):
        return (i - shift) // m, (j - shift) // m

    for i, j in places:
        others = [place for place in places if cell(*place) == cell(i, j)]
        for h in range(heads):
            part = slice(h * size, h * size + size)
            scores = np.stack(
                [
                    (q[:, i, j, part] * k[:, a, b, part]).sum(-1) / sqrt(size)
                    + table[(i - a + m - 1) * (2 * m - 1) + j - b + m - 1, h]
                    for a, b in others
                ],
                -1,
            )
            shares = np.exp(scores - scores.max(-1, keepdims=True))
            shares /= shares.sum(-1, keepdims=True)
            found[:, i, j, part] = sum(shares[:, [t]] * v[:, a, b, part] for t, (a, b) in enumerate(others))
    x = x + map_by("attention.o_proj", found)[:, :height, :width]
    y = map_by("mlp.fc1", norm(x, weights, f"{name}.layernorm_after", 1e-5))
    return x + map_by("mlp.fc2", y * (1 + np.vectorize(erf)(y / sqrt(2))) / 2)
