"""Dense passage retrieval: questions and passages are vectors, found by the largest inner product.

Karpukhin et al. 2020, arXiv:2004.04906.

    sim(q, p) = E_Q(q)ᵀ E_P(p)                                                                 (eq. 1)
    L = −log exp sim(q_i, p_i⁺) / (exp sim(q_i, p_i⁺) + Σ_j exp sim(q_i, p_ij⁻))               (eq. 2)
    in-batch negatives: the p⁻ of a question are the positive passages of the others          (§3.2)

Convention: the search is exact; equal scores keep the order in which vectors were added; losses are averaged.
"""

import json
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class DenseIndex(nn.Module):
    """Vectors that are searched by inner product or cosine. They move with the module; `save` writes them.

    Args:
        dim: size of a vector.
        metric: "ip", or "cosine": both sides are divided by their norms; a zero vector's cosine is 0.

    Attributes:
        vectors: those that were added (n, dim), a buffer.

    Raises:
        ValueError: a size below 1, another metric, vectors of another size, a search in nothing, or k below 1.

    Source: Karpukhin et al. 2020, §3.1; Lewis et al. 2020, arXiv:2005.11401, §2.2: maximum inner product search.
    """

    def __init__(self, dim: int, metric: str = "ip"):
        super().__init__()
        if dim < 1:
            raise ValueError(f"expected dim >= 1, got {dim}")
        if metric not in ("ip", "cosine"):
            raise ValueError(f"expected metric 'ip' or 'cosine', got {metric!r}")
        self.dim, self.metric = dim, metric
        self.register_buffer("vectors", torch.zeros(0, dim), persistent=False)

    def __len__(self) -> int:
        return len(self.vectors)

    def add(self, vectors: Float[Tensor, "n dim"]) -> "DenseIndex":
        """Append vectors, outside of the graph. Returns itself.

        The first ones decide dtype and device, to which later ones are converted.
        """
        vectors = self._prepared(vectors.detach())
        self.vectors = torch.cat([self.vectors, vectors.to(self.vectors)]) if len(self) else vectors.clone()
        return self

    def search(self, queries: Float[Tensor, "q dim"], k: int) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
        """Scores and indices of the k best vectors, or of all if there are fewer; best first.

        Of equal scores the vector that was added first comes first. The scores carry gradients to the queries; the
        indices are not differentiable.
        """
        if not len(self) or k < 1:
            raise ValueError(f"expected k >= 1 and vectors to search in, got k = {k} and {len(self)} vectors")
        queries = self._prepared(queries)
        ids = (queries.detach() @ self.vectors.T).argsort(dim=1, descending=True, stable=True)[:, :k]
        return torch.einsum("qd,qkd->qk", queries, self.vectors[ids]), ids

    forward = search

    def _prepared(self, vectors: Tensor) -> Tensor:
        if vectors.dim() != 2 or vectors.shape[1] != self.dim:
            raise ValueError(f"expected vectors (n, {self.dim}), got {tuple(vectors.shape)}")
        if self.metric == "ip":
            return vectors
        norm = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        return vectors / norm.masked_fill(norm == 0, 1)

    def save(self, folder: str | Path) -> None:
        """Write `index.json` and the raw values, `index.bin`, into a folder, which is created if need be.

        `index.json` holds dim, metric, dtype and the count of vectors.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        dtype = next(name for name, dtype in DTYPES.items() if dtype == self.vectors.dtype)
        head = {"dim": self.dim, "metric": self.metric, "count": len(self), "dtype": dtype}
        (folder / "index.json").write_text(json.dumps(head), encoding="utf-8")
        values = folder / "index.bin"
        values.write_bytes(b"")
        if len(self):  # a tensor that is the file
            torch.from_file(str(values), True, self.vectors.numel(), dtype=self.vectors.dtype).copy_(
                self.vectors.flatten()
            )

    @classmethod
    def load(cls, folder: str | Path) -> "DenseIndex":
        """The index that `save` wrote, bitwise equal.

        Raises:
            ValueError: a file of another size than `index.json` says.
        """
        head = json.loads((Path(folder) / "index.json").read_text(encoding="utf-8"))
        index, dtype = cls(head["dim"], head["metric"]), DTYPES[head["dtype"]]
        values, size = Path(folder) / "index.bin", head["count"] * head["dim"]
        if values.stat().st_size != size * dtype.itemsize:
            raise ValueError(f"expected {size * dtype.itemsize} bytes of vectors, got {values.stat().st_size}")
        if size:
            index.vectors = torch.from_file(str(values), False, size, dtype=dtype).view(-1, index.dim).clone()
        return index


class DenseRetriever(nn.Module):
    """Two encoders, and the index of the passages.

    Args:
        question_encoder, passage_encoder: E_Q and E_P, each from a batch to as many vectors of size `dim`.
        dim: size of the vectors.

    Attributes:
        index: the passages' `DenseIndex`, by inner product.

    Raises:
        ValueError: as `DenseIndex`.

    Source: Karpukhin et al. 2020, §3.1.
    """

    def __init__(self, question_encoder: nn.Module, passage_encoder: nn.Module, dim: int):
        super().__init__()
        self.question_encoder, self.passage_encoder = question_encoder, passage_encoder
        self.index = DenseIndex(dim)

    def forward(self, questions: Tensor, passages: Tensor) -> Float[Tensor, "q p"]:
        """sim of every question with every passage, for training: `dpr_loss(retriever(questions, positives))`."""
        return self.question_encoder(questions) @ self.passage_encoder(passages).T

    @torch.no_grad()
    def index_passages(self, passages: Tensor, batch_size: int = 256) -> "DenseRetriever":
        """Encode passages, in evaluation mode; they replace those that were indexed. Returns itself.

        The index keeps its metric, and each module of the encoder its mode.
        """
        modes = {module: module.training for module in self.passage_encoder.modules()}
        self.passage_encoder.eval()
        self.index = DenseIndex(self.index.dim, self.index.metric)
        for batch in passages.split(batch_size):
            self.index.add(self.passage_encoder(batch))
        for module, mode in modes.items():
            module.training = mode
        return self

    def search(self, questions: Tensor, k: int) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
        """Scores and indices of the k best indexed passages; gradients flow to the question encoder alone."""
        return self.index.search(self.question_encoder(questions), k)


class BagOfWords(nn.Module):
    """The mean of the vectors of a text's words, 0 if it has none: an encoder of rows of word ids, padded with 0.

    Args:
        vocabulary_size: how many ids there are, the padding among them.
        dim: size of a vector.

    Attributes:
        table: the vectors (vocabulary_size, dim), initialised as N(0, ¼).
    """

    def __init__(self, vocabulary_size: int, dim: int):
        super().__init__()
        self.table = nn.Parameter(torch.randn(vocabulary_size, dim) / 2)

    def forward(self, input: Int[Tensor, "texts longest"]) -> Float[Tensor, "texts dim"]:
        is_word = (input != 0).to(self.table.dtype)
        found = self.table.index_select(0, input.flatten()).view(*input.shape, self.table.shape[1])
        return torch.einsum("tl,tld->td", is_word / is_word.sum(1, keepdim=True).clamp_min(1), found)


def dpr_loss(scores: Float[Tensor, "q p"], positives: Int[Tensor, " q"] | None = None) -> Float[Tensor, ""]:
    """−log softmax of each question's positive passage among all passages of the batch, averaged.

    Args:
        scores: sim of every question with every passage; passages without a question of their own are negatives of all.
        positives: the column of each question's positive passage; default: question i's is i.

    Raises:
        ValueError: no questions, fewer passages than questions, or a positive that is no passage.

    Source: Karpukhin et al. 2020, §3.2, eq. 2 and "In-batch negatives".
    """
    if scores.dim() != 2 or not len(scores):
        raise ValueError(f"expected scores (questions, passages), got shape {tuple(scores.shape)}")
    if positives is None:
        if scores.shape[1] < len(scores):
            raise ValueError(f"expected a passage for each question, got shape {tuple(scores.shape)}")
        positives = torch.arange(len(scores), device=scores.device)
    elif positives.shape != scores.shape[:1]:
        raise ValueError(f"expected {len(scores)} positives, got shape {tuple(positives.shape)}")
    elif ((positives < 0) | (positives >= scores.shape[1])).any():
        raise ValueError(f"expected positives among {scores.shape[1]} passages, got {positives.tolist()}")
    return -scores.log_softmax(dim=1).gather(1, positives[:, None]).mean()
