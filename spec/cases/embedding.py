"""Contract of the table of tokens' vectors."""

import torch

from impl.layers.embedding import Embedding
from spec.contract import Contract

CASES = []

CONTRACTS = [
    Contract(
        item="positional-embedding",
        name="Embedding",
        of=Embedding,
        calls=({"num_embeddings": 7, "embedding_dim": 5}, {"num_embeddings": 7, "embedding_dim": 5, "padding_idx": 3}),
        ranges={"num_embeddings": "int >= 1", "embedding_dim": "int >= 1"},
        state={"weight": "(num_embeddings, embedding_dim)"},
        library="torch.nn.Embedding",
        inputs=lambda arguments: (torch.tensor([[1, 3, 6], [3, 0, 6]]),),
    ),
]
