"""Retrieval-augmented generation over torch.nn: tables, mixtures of torch.distributions, cross-entropies, matrices."""

import json
from pathlib import Path

import torch
from torch import nn
from torch.distributions import Categorical
from torch.nn import functional as F

__all__ = [
    "BM25",
    "RAG",
    "BagOfWords",
    "DenseIndex",
    "DenseRetriever",
    "chunk",
    "dpr_loss",
    "rag_sequence_nll",
    "rag_token_nll",
]


class BM25:
    """A dense matrix of documents by words."""

    def __init__(self, corpus, k1=1.5, b=0.75):
        self.words = {w: n for n, w in enumerate(sorted({w for d in corpus for w in d}))}
        counts = torch.zeros(len(corpus), len(self.words) + 1, dtype=torch.float64)
        for row, document in zip(counts, corpus):
            for word in document:
                row[self.words[word]] += 1
        length = torch.tensor([len(d) for d in corpus]).double()[:, None]
        present = (counts > 0).double().sum(0)
        idf = ((len(corpus) - present + 0.5) / (present + 0.5)).log1p()
        relative = length / length.mean() if length.any() else length
        tf = counts * (k1 + 1) / (counts + k1 * (1 - b + b * relative))
        self.matrix = torch.where(counts > 0, tf, 0.0) * idf

    def scores(self, query):
        weights = self.matrix.new_zeros(self.matrix.shape[1])
        for word in query:
            weights[self.words.get(word, -1)] += 1
        return self.matrix @ weights

    def search(self, queries, k):
        none = self.matrix.new_zeros(0, len(self.matrix))
        return _first(torch.vstack([none, *map(self.scores, queries)]), k)


def _first(scores, k):
    best = scores.sort(dim=1, descending=True, stable=True)
    return best.values[:, :k], best.indices[:, :k]


class DenseIndex(nn.Module):
    """All scores at once."""

    def __init__(self, dim, metric="ip"):
        super().__init__()
        self.dim, self.metric = dim, metric
        self.register_buffer("vectors", torch.empty(0, dim), persistent=False)

    def __len__(self):
        return self.vectors.size(0)

    def add(self, vectors):
        new = self.vectors.to(vectors.dtype) if not len(self) else self.vectors
        self.vectors = torch.vstack([new, self._made(vectors.detach()).to(new.dtype)])
        return self

    def _made(self, vectors):
        eps = max(1e-12, torch.finfo(vectors.dtype).tiny)  # 1e-12 is 0 in float16
        return F.normalize(vectors, eps=eps) if self.metric == "cosine" else vectors

    def search(self, queries, k):
        return _first(F.linear(self._made(queries), self.vectors), k)

    def save(self, folder):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        kind = str(self.vectors.dtype)[len("torch.") :]
        head = {"dim": self.dim, "metric": self.metric, "count": len(self), "kind": kind}
        (folder / "index.json").write_text(json.dumps(head))
        (folder / "index.bin").write_bytes(self.vectors.contiguous().view(torch.uint8).numpy().tobytes())

    @classmethod
    def load(cls, folder):
        head = json.loads((Path(folder) / "index.json").read_text())
        raw, new = (Path(folder) / "index.bin").read_bytes(), cls(head["dim"], head["metric"])
        dtype = getattr(torch, head["kind"])
        if len(raw) != head["count"] * head["dim"] * dtype.itemsize:
            expected = head["count"] * head["dim"] * dtype.itemsize
            raise ValueError(f"expected {expected} bytes, got {len(raw)}")
        if raw:
            new.vectors = torch.frombuffer(bytearray(raw), dtype=dtype).view(-1, head["dim"])
        return new


class DenseRetriever(nn.Module):
    """Two encoders."""

    def __init__(self, question_encoder, passage_encoder, dim):
        super().__init__()
        self.question_encoder, self.passage_encoder, self.index = question_encoder, passage_encoder, DenseIndex(dim)

    def forward(self, questions, passages):
        return F.linear(self.question_encoder(questions), self.passage_encoder(passages))

    def index_passages(self, passages, batch_size=256):
        before = [m.training for m in self.passage_encoder.modules()]
        self.index = DenseIndex(self.index.dim, self.index.metric)
        with torch.no_grad():
            self.passage_encoder.eval()
            for n in range(0, len(passages), batch_size):
                self.index.add(self.passage_encoder(passages[n : n + batch_size]))
        for m, mode in zip(self.passage_encoder.modules(), before):
            m.training = mode
        return self

    def search(self, questions, k):
        return self.index.search(self.question_encoder(questions), k)


class BagOfWords(nn.Module):
    """torch.nn's embedding, averaged with a mask."""

    def __init__(self, vocabulary_size, dim):
        super().__init__()
        self.table = nn.Parameter(0.5 * torch.randn(vocabulary_size, dim))

    def forward(self, input):
        found = F.embedding(input, self.table).masked_fill((input == 0)[..., None], 0)
        return found.sum(1) / input.count_nonzero(1).clamp(min=1)[:, None].to(found.dtype)


def dpr_loss(scores, positives=None):
    """Cross-entropy."""
    if not len(scores):
        raise ValueError("expected questions, got none")
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device) if positives is None else positives)


def _chosen(log_probs, target, mask):
    b, k, t, v = log_probs.shape
    every = target[:, None].expand(b, k, t)
    found = -F.nll_loss(log_probs.reshape(-1, v), every.reshape(-1), reduction="none").view(b, k, t)
    return found if mask is None else torch.where(mask[:, None], found, 0.0)


def rag_sequence_nll(doc_scores, log_probs, target, mask=None):
    """The likelihood of a mixture of sequences."""
    prior = Categorical(logits=doc_scores, validate_args=False)
    return -(prior.logits + _chosen(log_probs, target, mask).sum(-1)).logsumexp(-1)


def rag_token_nll(doc_scores, log_probs, target, mask=None):
    """The likelihood of a mixture at each symbol."""
    prior = Categorical(logits=doc_scores, validate_args=False)
    return -(prior.logits[..., None] + _chosen(log_probs, target, mask)).logsumexp(1).sum(-1)


class RAG(nn.Module):
    """Search, read, sum."""

    def __init__(self, retriever, generator, k=5, marginal="sequence"):
        super().__init__()
        self.retriever, self.generator, self.k, self.marginal = retriever, generator, k, marginal

    def forward(self, questions, target):
        scores, found = self.retriever.search(questions, self.k)
        log_probs = self.generator(questions, found, target)
        return {"sequence": rag_sequence_nll, "token": rag_token_nll}[self.marginal](scores, log_probs, target)

    @torch.no_grad()
    def generate(self, questions, length=1):
        """By the probability of every continuation."""
        answer = None
        for n in range(length):
            scores, found = self.retriever.search(questions, self.k)
            blank = torch.zeros(len(scores), 1, dtype=torch.long)
            asked = blank if answer is None else torch.cat([answer, blank], 1)
            log_probs = self.generator(questions, found, asked)
            weight = scores.log_softmax(1)
            if self.marginal == "sequence" and n:
                weight = weight + _chosen(log_probs[:, :, :n], answer, None).sum(2)
            best = (weight[..., None] + log_probs[:, :, n]).logsumexp(1).argmax(1, keepdim=True)
            answer = best if answer is None else torch.cat([answer, best], 1)
        return answer


def chunk(items, size, overlap=0):
    """By a running start."""
    if size < 1 or not 0 <= overlap < size:
        raise ValueError(f"expected an overlap in [0, size), got {overlap} and {size}")
    found, start = [], 0
    while len(items):
        found.append(items[start : start + size])
        if start + size >= len(items):
            break
        start += size - overlap
    return found
