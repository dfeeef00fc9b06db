"""Embedding: a table of vectors, one for each token, the shared foundation of the models of text.

    y_t = E[x_t],   the product of E with the one-hot vector of x_t

Convention: E is (num_embeddings, embedding_dim) as in torch.nn.Embedding, and is initialised standard normal.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .checks import check_sizes


class Embedding(nn.Module):
    """Looks up the vector of each token.

    Args:
        num_embeddings: size of the vocabulary; token ids count from 0.
        embedding_dim: width of a vector.
        padding_idx: a token id whose vector is initialised to zero and receives no gradient.

    Other vectors are initialised as N(0, 1), as torch.nn.Embedding's.

    Raises:
        ValueError: a size below 1, a `padding_idx` outside of the vocabulary, or an input of another dtype than int32
            or int64.
        IndexError: a token id outside of [0, num_embeddings) in the input.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None):
        super().__init__()
        check_sizes(num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        if padding_idx is not None and not 0 <= padding_idx < num_embeddings:
            raise ValueError(f"expected 0 <= padding_idx < num_embeddings = {num_embeddings}, got {padding_idx}")
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        self.weight = nn.Parameter(torch.randn(num_embeddings, embedding_dim))
        if padding_idx is not None:
            with torch.no_grad():
                self.weight[padding_idx] = 0

    def forward(self, input: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape d"]:
        if input.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"expected token ids as torch.int32 or torch.int64, got {input.dtype}")
        # index_select, unlike an index in brackets, does not count negative ids from the end.
        found = self.weight.index_select(0, input.flatten()).view(*input.shape, self.embedding_dim)
        if self.padding_idx is None:
            return found
        return torch.where((input == self.padding_idx)[..., None], found.detach(), found)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, padding_idx={self.padding_idx}"
