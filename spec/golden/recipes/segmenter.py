"""Golden values of Segmenter."""

import numpy as np

from spec.golden import Recipe, recipe
from spec.golden.recipes.vit import block, norm


@recipe(
    "segmenter",
    oracle="transformers' ViT layers in float64, torch.nn.functional's normalize, layer_norm and interpolate",
    second="the decoder's block, the cosines and the interpolation in NumPy, head by head",
    needs=("torch", "transformers"),
)
def segmenter(recipe: Recipe) -> None:
    """Cosines, scores and gradient of a mask transformer of one block, and the scores enlarged from 2 × 3 patches."""
    import torch
    from torch.nn import functional
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_act="gelu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=1e-5,
    )
    layer = ViTModel(config).layers[0].double().eval()
    draw = np.random.default_rng(0)

    def given(name, *shape):
        return recipe.given(name, draw.integers(-12, 12, shape) / 16)

    recipe.fill(layer, draw, "block.")
    shapes = {"input.weight": (8, 6), "input.bias": (8,), "classes": (5, 8), "norm.weight": (8,), "norm.bias": (8,)}
    shapes |= {"patch_projection": (8, 8), "class_projection": (8, 8)}
    shapes |= {"score_norm.weight": (5,), "score_norm.bias": (5,)}
    weights = {name: given(name, *shape) for name, shape in shapes.items()}
    w = {name: torch.from_numpy(value) for name, value in weights.items()}
    states = given("states", 2, 6, 6)
    leaf = torch.from_numpy(states).requires_grad_()
    x = torch.cat([leaf @ w["input.weight"].T + w["input.bias"], w["classes"].expand(2, -1, -1)], dim=1)
    x = layer(x)
    x = functional.layer_norm(x if isinstance(x, torch.Tensor) else x[0], (8,), w["norm.weight"], w["norm.bias"])
    patches = functional.normalize(x[:, :6] @ w["patch_projection"], dim=2)
    cosines = patches @ functional.normalize(x[:, 6:] @ w["class_projection"], dim=2).mT
    scores = functional.layer_norm(cosines, (5,), w["score_norm.weight"], w["score_norm.bias"])
    image = scores.mT.reshape(2, 5, 2, 3)
    pixels = functional.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
    (gradient,) = torch.autograd.grad(pixels.square().sum(), leaf)

    y = np.concatenate(
        [states @ weights["input.weight"].T + weights["input.bias"], np.stack([weights["classes"]] * 2)], 1
    )
    y = norm(block(y, recipe.inputs, "block", heads=2, eps=1e-5), weights, "norm", eps=1e-5)
    a, b = y[:, :6] @ weights["patch_projection"], y[:, 6:] @ weights["class_projection"]
    lengths = [np.sqrt((v**2).sum(2)) for v in (a, b)]
    angles = np.einsum("ntd,nkd->ntk", a, b) / lengths[0][:, :, None] / lengths[1][:, None, :]
    second = norm(angles, weights, "score_norm", eps=1e-5)
    rows = {2: np.array([[4, 0], [3, 1], [1, 3], [0, 4]]) / 4}
    rows[3] = np.array([[4, 0, 0], [3, 1, 0], [1, 3, 0], [0, 3, 1], [0, 1, 3], [0, 0, 4]]) / 4
    large = np.einsum("ai,bj,nijk->nkab", rows[2], rows[3], second.reshape(2, 2, 3, 5))
    recipe.expect("cosines", cosines, second=angles)
    recipe.expect("scores", scores, second=second)
    recipe.expect("pixels", pixels, second=large)
    recipe.expect("gradient", gradient)
