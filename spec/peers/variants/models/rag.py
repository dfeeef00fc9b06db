"""Retrieval by tables of counts and sorts of tuples, and marginals as nested losses of torch.nn.functional."""

import json
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional


class BM25:
    def __init__(self, corpus, k1=1.5, b=0.75):
        self.column = {word: n for n, word in enumerate({word for document in corpus for word in document})}
        counts = torch.zeros(len(corpus), len(self.column), dtype=torch.float64)
        for row, document in zip(counts, corpus):
            for word in document:
                row[self.column[word]] += 1
        n, length = (counts > 0).double().sum(0), counts.sum(1, keepdim=True)
        norm = k1 * (1 - b + b * length / length.mean().clamp_min(1e-300))
        weight = torch.log1p((len(corpus) - n + 0.5) / (n + 0.5)) * (k1 + 1)
        self.table = torch.where(counts > 0, weight * counts / (counts + norm), 0.0)

    def scores(self, query):
        if isinstance(query, str):
            raise ValueError(f"expected words, got {query!r}")
        return self.table[:, [self.column[word] for word in query if word in self.column]].sum(1)

    def search(self, queries, k):
        every = torch.cat([self.table.new_zeros(0, len(self.table)), *(self.scores(q)[None] for q in queries)])
        found = every.sort(dim=1, descending=True, stable=True)
        return found.values[:, :k], found.indices[:, :k]


class DenseIndex(nn.Module):
    def __init__(self, dim, metric="ip"):
        super().__init__()
        self.dim, self.metric = dim, metric
        self.register_buffer("vectors", torch.empty(0, dim), persistent=False)

    def __len__(self):
        return self.vectors.shape[0]

    def _unit(self, vectors):
        if self.metric == "ip":
            return vectors
        square = vectors.pow(2).sum(1, keepdim=True)
        return vectors / torch.where(square > 0, square, 1).sqrt()

    def add(self, vectors):
        new = self._unit(vectors.detach().clone())
        self.vectors = torch.cat([self.vectors, new.to(self.vectors)]) if len(self) else new
        return self

    def forward(self, queries, k):
        found = (self._unit(queries) @ self.vectors.mT).sort(dim=1, descending=True, stable=True)
        return found.values[:, :k], found.indices[:, :k]

    search = forward

    def save(self, folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        kind = str(self.vectors.dtype).removeprefix("torch.")
        about = {"count": len(self), "dim": self.dim, "dtype": kind, "metric": self.metric}
        Path(folder, "index.json").write_text(json.dumps(about))
        Path(folder, "index.bin").write_bytes(bytes(self.vectors.contiguous().view(torch.uint8).flatten().tolist()))

    @classmethod
    def load(cls, folder):
        about = json.loads(Path(folder, "index.json").read_text())
        index, numbers = cls(about["dim"], about["metric"]), bytearray(Path(folder, "index.bin").read_bytes())
        dtype = getattr(torch, about["dtype"])
        size = about["count"] * about["dim"] * dtype.itemsize
        if len(numbers) != size:
            raise ValueError(f"expected {size} bytes, got {len(numbers)}")
        if size:
            index.vectors = torch.frombuffer(numbers, dtype=dtype).reshape(-1, index.dim).clone()
        return index


class DenseRetriever(nn.Module):
    def __init__(self, question_encoder, passage_encoder, dim):
        super().__init__()
        self.question_encoder, self.passage_encoder, self.index = question_encoder, passage_encoder, DenseIndex(dim)

    def forward(self, questions, passages):
        return torch.einsum("qd,pd->qp", self.question_encoder(questions), self.passage_encoder(passages))

    def index_passages(self, passages, batch_size=256):
        was = [(module, module.training) for module in self.passage_encoder.modules()]
        self.passage_encoder.eval()
        with torch.no_grad():
            found = [self.passage_encoder(part) for part in passages.split(batch_size)]
        for module, mode in was:
            module.training = mode
        self.index = DenseIndex(self.index.dim, self.index.metric).add(torch.cat(found))
        return self

    def search(self, questions, k):
        return self.index(self.question_encoder(questions), k)


class RAG(nn.Module):
    def __init__(self, retriever, generator, k=5, marginal="sequence"):
        super().__init__()
        self.retriever, self.generator, self.k, self.marginal = retriever, generator, k, marginal

    def forward(self, questions, target):
        scores, passages = self.retriever.search(questions, self.k)
        loss = {"sequence": rag_sequence_nll, "token": rag_token_nll}[self.marginal]
        return loss(scores, self.generator(questions, passages, target), target)

    def generate(self, questions, length=1):
        """Every continuation is tried, and the likeliest kept."""
        loss = {"sequence": rag_sequence_nll, "token": rag_token_nll}[self.marginal]
        with torch.no_grad():
            scores, passages = self.retriever.search(questions, self.k)
            answer = passages[:, :0]
            for _ in range(length):
                log_probs = self.generator(questions, passages, functional.pad(answer, (0, 1)))
                tried = [functional.pad(answer, (0, 1), value=symbol) for symbol in range(log_probs.shape[-1])]
                best = torch.stack([loss(scores, log_probs, target) for target in tried]).argmin(0)
                answer = torch.cat([answer, best[:, None]], 1)
        return answer


def _likelihoods(log_probs, target, mask):
    """log p_θ of the target's symbols, (b, t, k)."""
    if log_probs.dim() != 4:
        raise ValueError(f"expected four dimensions, got {tuple(log_probs.shape)}")
    mask = torch.ones_like(target, dtype=torch.bool) if mask is None else mask
    found = torch.take_along_dim(log_probs, torch.where(mask, target, 0)[:, None, :, None], 3)[..., 0]
    return torch.where(mask[:, None], found, 0).mT, mask


def rag_sequence_nll(doc_scores, log_probs, target, mask=None):
    each, _ = _likelihoods(log_probs, target, mask)
    return doc_scores.logsumexp(1) - (doc_scores + each.sum(1)).logsumexp(1)


def rag_token_nll(doc_scores, log_probs, target, mask=None):
    each, mask = _likelihoods(log_probs, target, mask)
    joint = (doc_scores[:, None] + each).logsumexp(2) - doc_scores.logsumexp(1)[:, None]
    return -torch.where(mask, joint, 0).sum(1)


def dpr_loss(scores, positives=None):
    if not len(scores):
        raise ValueError("expected questions, got none")
    own = torch.arange(len(scores), device=scores.device)
    return functional.cross_entropy(scores, own if positives is None else positives)
