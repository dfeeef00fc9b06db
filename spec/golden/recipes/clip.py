"""Golden values of CLIP."""

import numpy as np

from spec.golden import Recipe, recipe

TEXTS = np.array([[3, 1, 4, 10, 0], [2, 7, 10, 0, 0], [5, 5, 9, 2, 10]])


@recipe(
    "clip",
    oracle="transformers.CLIPModel in float64",
    second="both transformers and the loss in NumPy, head by head",
    needs=("torch", "transformers"),
)
def clip(recipe: Recipe) -> None:
    """Features, logits, loss and the gradient to the images of a model of two layers a side, pre-norm, QuickGELU."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    shared = {"hidden_size": 6, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    shared |= {"hidden_act": "quick_gelu", "attention_dropout": 0.0}
    ends = {"eos_token_id": 10, "bos_token_id": 0, "pad_token_id": 0}
    text = shared | {"vocab_size": 11, "max_position_embeddings": 5} | ends
    vision = shared | {"image_size": 4, "patch_size": 2, "num_channels": 3}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=4, attn_implementation="sdpa")
    model = CLIPModel(config).double().eval()
    draw = np.random.default_rng(0)
    recipe.fill(model, draw)
    tokens = recipe.given("tokens", TEXTS)
    images = recipe.given("images", draw.integers(-16, 16, (3, 3, 4, 4)) / 16)
    leaf = torch.from_numpy(images).requires_grad_()
    found = model(input_ids=torch.from_numpy(tokens), pixel_values=leaf, return_loss=True)
    (gradient,) = torch.autograd.grad(found.loss, leaf)
    first, second = _vision(recipe.inputs, images), _text(recipe.inputs, tokens)
    first, second = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in (first, second))
    logits = np.exp(recipe.inputs["logit_scale"]) * first @ second.T

    def crossed(rows):
        return (np.log(np.exp(rows).sum(1)) - np.diag(rows)).mean()

    recipe.expect("image_features", found.image_embeds, second=first)
    recipe.expect("text_features", found.text_embeds, second=second)
    recipe.expect("logits", found.logits_per_image, second=logits)
    recipe.expect("loss", found.loss, second=(crossed(logits) + crossed(logits.T)) / 2)
    recipe.expect("gradient", gradient)


def _norm(x, weights, name):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _blocks(x, weights, side, causal):
    """Pre-norm blocks on (n, t, 6), one head after another."""
    for number in range(2):
        name = f"{side}.encoder.layers.{number}"

        def map_by(part, value, name=name):
            return value @ weights[f"{name}.{part}.weight"].T + weights[f"{name}.{part}.bias"]

        y = _norm(x, weights, f"{name}.layer_norm1")
        q, k, v = (map_by(f"self_attn.{letter}_proj", y) for letter in "qkv")
        heads = []
        for part in (slice(0, 3), slice(3, 6)):
            scores = q[..., part] @ k[..., part].transpose(0, 2, 1) / np.sqrt(3)
            if causal:
                scores = np.where(np.tril(np.ones(scores.shape[1:])) > 0, scores, -np.inf)
            shares = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(shares / shares.sum(-1, keepdims=True) @ v[..., part])
        x = x + map_by("self_attn.out_proj", np.concatenate(heads, axis=-1))
        y = map_by("mlp.fc1", _norm(x, weights, f"{name}.layer_norm2"))
        x = x + map_by("mlp.fc2", y / (1 + np.exp(-1.702 * y)))
    return x


def _text(weights, tokens):
    x = weights["text_model.embeddings.token_embedding.weight"][tokens]
    x = _blocks(x + weights["text_model.embeddings.position_embedding.weight"], weights, "text_model", causal=True)
    x = _norm(x, weights, "text_model.final_layer_norm")
    return x[np.arange(3), tokens.argmax(1)] @ weights["text_projection.weight"].T


def _vision(weights, images):
    kernel = weights["vision_model.embeddings.patch_embedding.weight"]
    patches = [(images[:, None, :, i : i + 2, j : j + 2] * kernel).sum((2, 3, 4)) for i in (0, 2) for j in (0, 2)]
    token = np.broadcast_to(weights["vision_model.embeddings.class_embedding"], (3, 6))
    x = np.stack([token, *patches], axis=1) + weights["vision_model.embeddings.position_embedding.weight"]
    x = _blocks(_norm(x, weights, "vision_model.pre_layrnorm"), weights, "vision_model", causal=False)
    return _norm(x[:, 0], weights, "vision_model.post_layernorm") @ weights["visual_projection.weight"].T
