"""Head of a masked language model: from a token's features to a score of each symbol, by the table of the symbols.

Devlin et al. 2019 (BERT), arXiv:1810.04805, §3.1, task 1; shared table: Press & Wolf 2017, arXiv:1608.05859.

    s = E LN(GELU(W x + b)) + c,    E the table that also reads the symbols

Convention: tables of symbols, positions and types start normal with deviation 0.02, as in BERT: with a shared table,
larger numbers would be overconfident scores.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .activation import GELU
from .embedding import Embedding
from .linear import Linear
from .normalization import LayerNorm

DEVIATION = 0.02


def table(rows: int, width: int, padding_idx: int | None = None) -> Embedding:
    """An embedding whose numbers start small."""
    made = Embedding(rows, width, padding_idx)
    with torch.no_grad():
        made.weight.mul_(DEVIATION)
    return made


class MaskedLanguageHead(nn.Module):
    """Scores of all symbols for each token.

    Args:
        vocab_size: how many symbols there are.
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

    def forward(self, features: Float[Tensor, "b n d"], symbols: Float[Tensor, "v d"]) -> Float[Tensor, "b n v"]:
        return self.norm(self.activation(self.dense(features))) @ symbols.T + self.bias
