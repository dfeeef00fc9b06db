"""CLIP: images and texts in one space, each image nearest to its own text and each text to its own image.

Radford et al. 2021, arXiv:2103.00020, §2.3 and figure 3. For N pairs, with an encoder and a linear projection each:

    I = f(image) / ‖…‖,   T = g(text) / ‖…‖                       vectors of length 1
    logits = e^t I Tᵀ,   e^t <= 100                               t is learned, ln(1/0.07) at first (§2.5)
    L = ½ (cross entropy of the rows + cross entropy of the columns), the pair itself being the right answer

A classifier without training: each class is the mean of its prompts' vectors, of length 1 again (§3.1.4).

Convention: both encoders are pre-norm transformers with x σ(1.702 x) for GELU, as released; a text's feature is that of
its end token, whose id is the highest of the text; projections have no bias.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from ...layers.checks import check_sizes
from ...layers.contrastive import gather_embeddings, unit_length
from ...layers.convolution import Conv2d
from ...layers.embedding import Embedding
from ...layers.normalization import LayerNorm
from ...layers.transformer import pre_norm_blocks

__all__ = ["CLIP", "TextTransformer", "VisionTransformer", "clip_loss", "gather_embeddings", "quick_gelu"]

Features = Float[Tensor, "n d"]
Texts = Shaped[Tensor, "m ..."]  # whatever the text encoder takes


def quick_gelu(x: Tensor) -> Tensor:
    """x σ(1.702 x), the shortcut for GELU of Hendrycks & Gimpel 2016, arXiv:1606.08415, §2."""
    return x * torch.sigmoid(1.702 * x)


def clip_loss(images: Features, texts: Features, scale: float | Float[Tensor, ""] = 1.0) -> Float[Tensor, ""]:
    """The mean of the cross entropies from images to texts and from texts to images, in float32 or wider.

    Args:
        images, texts: features of N pairs; they are brought to length 1 here.
        scale: e^t, which the cosines are multiplied by.

    Raises:
        ValueError: features of different shapes, or no pair.

    Source: Radford et al. 2021, arXiv:2103.00020, figure 3.
    """
    if images.shape != texts.shape or not len(images):
        raise ValueError(f"expected features of pairs, got {tuple(images.shape)} and {tuple(texts.shape)}")
    logits = scale * unit_length(images) @ unit_length(texts).T  # (N, N)
    return ((logits.logsumexp(1) + logits.logsumexp(0)) / 2 - logits.diagonal()).mean()


class CLIP(nn.Module):
    """Two encoders and the scale of their similarities.

    Args:
        image_encoder: images → (n, d).
        text_encoder: texts → (n, d).
        temperature: e^−t at first, > 0.
        max_scale: what `limit_scale` holds e^t below, > 0.

    Raises:
        ValueError: a temperature or scale that is not above 0.

    Source: Radford et al. 2021, arXiv:2103.00020, §2.3 to §2.5.
    """

    def __init__(
        self, image_encoder: nn.Module, text_encoder: nn.Module, temperature: float = 0.07, max_scale: float = 100.0
    ):
        super().__init__()
        if not (0 < temperature < math.inf and max_scale > 0):
            raise ValueError(f"expected temperature and max_scale above 0, got {temperature} and {max_scale}")
        self.image_encoder, self.text_encoder, self.max_scale = image_encoder, text_encoder, max_scale
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(temperature)))  # t

    def encode_image(self, images: Float[Tensor, "n ..."]) -> Features:
        """Features of length 1."""
        return unit_length(self.image_encoder(images)).to(self.logit_scale.dtype)

    def encode_text(self, tokens: Texts) -> Float[Tensor, "m d"]:
        """Features of length 1."""
        return unit_length(self.text_encoder(tokens)).to(self.logit_scale.dtype)

    def forward(self, images: Float[Tensor, "n ..."], tokens: Texts) -> Float[Tensor, "n m"]:
        """e^t times the cosine of each image with each text."""
        return self.logit_scale.exp() * self.encode_image(images) @ self.encode_text(tokens).T

    def loss(self, images: Float[Tensor, "n ..."], tokens: Shaped[Tensor, "n ..."]) -> Float[Tensor, ""]:
        """`clip_loss` of N pairs; in data-parallel training of the pairs of all processes."""
        features = (gather_embeddings(f) for f in (self.encode_image(images), self.encode_text(tokens)))
        return clip_loss(*features, self.logit_scale.exp())

    @torch.no_grad()
    def limit_scale(self) -> None:
        """Brings e^t back to max_scale; to be called after each step of training.

        The limit is on the parameter: one inside of the forward pass would have no gradient and never let go.
        """
        self.logit_scale.clamp_(max=math.log(self.max_scale))

    def zero_shot_classifier(self, prompts: Sequence[Shaped[Tensor, "..."]]) -> Float[Tensor, "classes d"]:
        """A vector of length 1 for each class: the mean of its prompts' features.

        Args:
            prompts: for each class the texts of one or more prompts, (prompts, …).

        Raises:
            ValueError: no class, or one without a prompt.

        Source: Radford et al. 2021, §3.1.4.
        """
        if not len(prompts) or not all(len(tokens) for tokens in prompts):
            raise ValueError(f"expected a prompt or more for each class, got {[len(tokens) for tokens in prompts]}")
        return unit_length(torch.stack([self.encode_text(tokens).mean(0) for tokens in prompts]))

    def classify(
        self, images: Float[Tensor, "n ..."], classifier: Float[Tensor, "classes d"]
    ) -> Float[Tensor, "n classes"]:
        """Logits of each class: e^t times the cosine with its vector."""
        return self.logit_scale.exp() * self.encode_image(images) @ classifier.to(self.logit_scale.dtype).T


def _projection(width: int, embed_dim: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(width, embed_dim).normal_(std=width**-0.5))


class TextTransformer(nn.Module):
    """Tokens, read from left to right, to the projected feature of the end token.

    Args:
        vocab_size: number of tokens.
        context_length: the most tokens of a text.
        width: of the tokens.
        layers, heads: of the transformer.
        embed_dim: width of the feature.

    Raises:
        ValueError: a size below 1, a width that heads do not divide; no tokens or more than context_length.

    Source: Radford et al. 2021, arXiv:2103.00020, §2.4; embeddings N(0, 0.02²), positions N(0, 0.01²) as released.
    """

    def __init__(self, vocab_size: int, context_length: int, width: int, layers: int, heads: int, embed_dim: int):
        super().__init__()
        check_sizes(vocab_size=vocab_size, context_length=context_length, layers=layers, embed_dim=embed_dim)
        self.token_embedding = Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width).normal_(std=0.01))
        self.blocks = pre_norm_blocks(layers, width, heads, 4 * width, quick_gelu, is_causal=True)
        self.ln_final = LayerNorm(width)
        self.projection = _projection(width, embed_dim)
        with torch.no_grad():
            self.token_embedding.weight.mul_(0.02)

    def forward(self, tokens: Int[Tensor, "n t"]) -> Features:
        longest = len(self.positional_embedding)
        if tokens.dim() != 2 or not 0 < tokens.shape[1] <= longest:
            raise ValueError(f"expected tokens (texts, 1 to {longest}), got {tuple(tokens.shape)}")
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        end = tokens.argmax(1)  # the first of the highest id
        return self.ln_final(x[torch.arange(len(x), device=x.device), end]) @ self.projection


class VisionTransformer(nn.Module):
    """Patches of an image and a class token, all attending to all, to the projected feature of the class token.

    Args:
        image_size: height and width.
        patch_size: of a patch; it divides the image's.
        width: of the tokens.
        layers, heads: of the transformer.
        embed_dim: width of the feature.
        channels: of the image.

    Raises:
        ValueError: a size below 1, patches that do not divide the image, a width that heads do not divide; an image of
            another size.

    Source: Radford et al. 2021, arXiv:2103.00020, §2.4: ViT with a norm before the first block.
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        width: int,
        layers: int,
        heads: int,
        embed_dim: int,
        channels: int = 3,
    ):
        super().__init__()
        check_sizes(image_size=image_size, patch_size=patch_size, layers=layers, embed_dim=embed_dim)
        if image_size % patch_size:
            raise ValueError(f"expected patches that divide the image, got {patch_size} and {image_size}")
        self.shape = channels, image_size, image_size
        self.patches = Conv2d(channels, width, patch_size, stride=patch_size, bias=False)
        count = (image_size // patch_size) ** 2
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        self.positional_embedding = nn.Parameter(torch.randn(count + 1, width) * width**-0.5)
        self.ln_pre, self.ln_post = LayerNorm(width), LayerNorm(width)
        self.blocks = pre_norm_blocks(layers, width, heads, 4 * width, quick_gelu)
        self.projection = _projection(width, embed_dim)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Features:
        if images.shape[1:] != self.shape:
            raise ValueError(f"expected images of shape (n, *{self.shape}), got {tuple(images.shape)}")
        x = self.patches(images).flatten(2).mT  # (n, patches, width)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1) + self.positional_embedding
        x = self.ln_pre(x)
        for block in self.blocks:
            x = block(x)
        return self.ln_post(x[:, 0]) @ self.projection
