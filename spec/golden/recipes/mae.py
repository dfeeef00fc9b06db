"""Golden values of MAE."""

import numpy as np

from spec.golden import Recipe, recipe
from spec.golden.recipes.vit import block, embedded, norm


@recipe(
    "mae",
    oracle="transformers.ViTMAEForPreTraining in float64",
    second="masking, both transformers and both losses in NumPy, head by head; positions by mpmath",
    needs=("mpmath", "torch", "transformers"),
)
def mae(recipe: Recipe) -> None:
    """Predictions, mask, losses and the gradient to the images, with given noise that keeps 4 patches of 16."""
    import mpmath
    import torch
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    config = ViTMAEConfig(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_act="gelu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=1e-6,
        image_size=8,
        patch_size=2,
        num_channels=3,
        qkv_bias=True,
        decoder_hidden_size=4,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
        mask_ratio=0.7,
    )
    model = ViTMAEForPreTraining(config)
    model.vit.embeddings.patch_embeddings.projection._is_hf_initialized = False  # else the positions stay 0
    model.vit.embeddings.initialize_weights()
    model.decoder.initialize_weights(16)
    model = model.double().eval()
    draw = np.random.default_rng(0)
    recipe.fill(model, draw, but=("position_embeddings", "pos_embed"))
    images = recipe.given("images", draw.integers(-16, 16, (2, 3, 8, 8)) / 16)
    noise = recipe.given("noise", np.stack([draw.permutation(16) for _ in range(2)]) / 16)
    leaf = torch.from_numpy(images).requires_grad_()
    found = model(leaf, noise=torch.from_numpy(noise))
    (gradient,) = torch.autograd.grad(found.loss, leaf)
    model.config.norm_pix_loss = True
    normalized = model(leaf, noise=torch.from_numpy(noise)).loss

    weights = dict(recipe.inputs)
    places = {"vit.embeddings.position_embeddings": 8, "decoder.decoder_pos_embed": 4}
    for name, width in places.items():
        rows = [[0.0] * width]
        for y in range(4):
            for x in range(4):
                angles = [
                    [place / mpmath.mpf(10000) ** (mpmath.mpf(4 * i) / width) for i in range(width // 4)]
                    for place in (x, y)
                ]
                rows.append([float(f(a)) for part in angles for f in (mpmath.sin, mpmath.cos) for a in part])
        weights[name] = np.array(rows, dtype=np.float32).astype(np.float64)[None]
    prediction, hidden = _painted(weights, images, noise)
    cut = images.reshape(2, 3, 4, 2, 4, 2).transpose(0, 2, 4, 3, 5, 1).reshape(2, 16, 12)
    scaled = (cut - cut.mean(2, keepdims=True)) / np.sqrt(cut.var(2, ddof=1, keepdims=True) + 1e-6)
    recipe.expect("hidden", found.mask.double(), second=hidden)
    recipe.expect(
        "positions",
        model.vit.embeddings.position_embeddings[0, 1:],
        second=weights["vit.embeddings.position_embeddings"][0, 1:],
    )
    recipe.expect("prediction", found.logits, second=prediction)
    recipe.expect("loss", found.loss, second=((prediction - cut) ** 2).mean(2)[hidden > 0].mean())
    recipe.expect("normalized_loss", normalized, second=((prediction - scaled) ** 2).mean(2)[hidden > 0].mean())
    recipe.expect("gradient", gradient)


def _painted(weights, images, noise):
    """Predictions of all patches and where they were hidden, 1.0, image by image."""
    found, masks = [], []
    for image, order in zip(images, np.argsort(noise, axis=1)):
        kept = order[:4]  # ⌊16 · 0.3⌋
        z = embedded(weights, "vit.embeddings.", image[None])[0]
        token = weights["vit.embeddings.cls_token"][0]  # its position is 0
        z = np.concatenate([token, z[1 + kept]])[None]
        for number in range(2):
            z = block(z, weights, f"vit.layers.{number}", heads=2)
        z = norm(z, weights, "vit.layernorm")
        z = z @ weights["decoder.decoder_embed.weight"].T + weights["decoder.decoder_embed.bias"]
        x = np.repeat(weights["decoder.mask_token"], 17, axis=1)
        x[0, 0], x[0, 1 + kept] = z[0, 0], z[0, 1:]
        x = x + weights["decoder.decoder_pos_embed"]
        x = norm(block(x, weights, "decoder.decoder_layers.0", heads=2), weights, "decoder.decoder_norm")
        found.append((x @ weights["decoder.decoder_pred.weight"].T + weights["decoder.decoder_pred.bias"])[0, 1:])
        masks.append(np.isin(np.arange(16), kept, invert=True).astype(float))
    return np.stack(found), np.stack(masks)
