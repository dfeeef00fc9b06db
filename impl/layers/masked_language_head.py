"""Head of a masked language model: from the features of a token to a logit for each token of the vocabulary.

Devlin et al. 2019 (BERT), arXiv:1810.04805, §3.1, task 1; shared table: Press & Wolf 2017, arXiv:1608.05859.

    s = E LN(GELU(W x + b)) + c,    E the table of word embeddings

Convention: tables of words, positions and types are initialised normal with standard deviation 0.02, as in BERT: with a
shared table, larger values would be overconfident logits.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .activation import GELU
from .embedding import Embedding
from .linear import Linear
from .normalization import LayerNorm

STANDARD_DEVIATION = 0.02


def table(rows: int, width: int, padding_idx: int | None = None) -> Embedding:
    """An embedding with a small initialisation."""
    made = Embedding(rows, width, padding_idx)
    with torch.no_grad():
        made.weight.mul_(STANDARD_DEVIATION)
    return made


class MaskedLanguageHead(nn.Module):
    """Logits of all tokens of the vocabulary at each position.

    Args:
        vocab_size: number of tokens.
        embed_dim: width of the features.
        approximate: GELU's; see `GELU`.
        layer_norm_eps: ε of the norm.

    Source: Devlin et al. 2019, arXiv:1810.04805, §3.1; the layers are those of the authors' code.
    """

    def __init__(self, vocab_size: int, embed_dim: int, approximate: str, layer_norm_eps: float):
        super().__init__()
        self.dense, self.activation = Linear(embed_dim, embed_dim), GELU(approximate)
        self.norm = LayerNorm(embed_dim, layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, features: Float[Tensor, "b n d"], words: Float[Tensor, "v d"]) -> Float[Tensor, "b n v"]:
        return self.norm(self.activation(self.dense(features))) @ words.T + self.bias
