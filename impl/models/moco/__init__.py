"""MoCo: contrastive learning with a queue of negatives, whose keys come from an encoder that follows slowly.

He, Fan, Wu, Xie & Girshick 2019, arXiv:1911.05722, algorithm 1. For two views x_q, x_k of each image:

    q = f_q(x_q) / ‖…‖,   k₊ = f_k(x_k) / ‖…‖ without a gradient                          §3.1
    L = −log exp(q·k₊/τ) / (exp(q·k₊/τ) + Σ_{k in the queue} exp(q·k/τ))                   eq. 1
    θ_k ← m θ_k + (1 − m) θ_q before the keys are computed                                 eq. 2
    the queue takes the new keys in after the loss, and loses its oldest                   §3.2

Convention: buffers of f_k, statistics of a batch normalization, are its own and follow nothing. The queue begins with
random vectors of length 1. Where a batch is split over devices, keys are shuffled first, so that no query shares the
statistics of its key (§3.3).
"""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...layers.checks import check_fractions, check_sizes
from ...layers.contrastive import gather_embeddings, unit_length

__all__ = ["MoCo", "info_nce_loss"]


def info_nce_loss(logits: Float[Tensor, "n candidates"]) -> Float[Tensor, ""]:
    """−log softmax(logits)₀, averaged over the queries: the positive is in column 0.

    Raises:
        ValueError: no query, or no column.

    Source: He et al. 2019, arXiv:1911.05722, eq. 1.
    """
    if logits.dim() != 2 or not logits.numel():
        raise ValueError(f"expected logits (queries, candidates) with one of each at least, got {tuple(logits.shape)}")
    return (logits.logsumexp(1) - logits[:, 0]).mean()


class MoCo(nn.Module):
    """Two encoders and a queue of keys.

    Args:
        encoder: f, (N, …) → (N, dim), any projection included; f_q is it, f_k begins as a copy of it.
        dim: width of a query.
        queue_size: K, how many keys are kept.
        momentum: m in [0, 1).
        temperature: τ > 0.
        splits: into how many parts a batch goes through the encoders, each with batch statistics of its own.

    Raises:
        ValueError: a size below 1, a momentum outside of [0, 1), τ <= 0; views of two shapes, a batch larger than the
            queue or one that does not split evenly, an encoder whose output is not (N, dim).

    Source: He et al. 2019, arXiv:1911.05722, algorithm 1.
    """

    def __init__(
        self,
        encoder: nn.Module,
        dim: int = 128,
        queue_size: int = 65536,
        momentum: float = 0.999,
        temperature: float = 0.07,
        splits: int = 1,
    ):
        super().__init__()
        check_sizes(dim=dim, queue_size=queue_size, splits=splits)
        check_fractions(momentum=momentum)
        if not temperature > 0:
            raise ValueError(f"expected a temperature above 0, got {temperature}")
        self.momentum, self.temperature, self.splits = momentum, temperature, splits
        self.encoder_q = encoder
        self.encoder_k = copy.deepcopy(encoder).requires_grad_(False)
        self.register_buffer("queue", unit_length(torch.randn(queue_size, dim)))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))  # the row that is replaced next

    def forward(self, x_q: Float[Tensor, "n ..."], x_k: Float[Tensor, "n ..."]) -> Float[Tensor, "n candidates"]:
        """Similarities q·k/τ of each query: to its own key in column 0, then to the keys of the queue, K columns.

        In training f_k takes a step towards f_q before, and the keys enter the queue after; in evaluation none moves.
        """
        if x_q.shape != x_k.shape or not 0 < len(x_q) <= len(self.queue) or len(x_q) % self.splits:
            sizes = f"at most {len(self.queue)}, a multiple of {self.splits}"
            raise ValueError(f"expected two views of {sizes}, got {tuple(x_q.shape)} and {tuple(x_k.shape)}")
        if self.training:
            self.follow()
        q, k = self.queries(x_q), self.keys(x_k)
        positive, negative = (q * k).sum(1, keepdim=True), q @ self.queue.clone().T  # the queue moves before backward
        if self.training:
            self.enqueue(gather_embeddings(k))
        return torch.cat([positive, negative], dim=1) / self.temperature

    @torch.no_grad()
    def follow(self) -> None:
        """θ_k ← m θ_k + (1 − m) θ_q."""
        for of_k, of_q in zip(self.encoder_k.parameters(), self.encoder_q.parameters()):
            of_k.lerp_(of_q, 1 - self.momentum)

    def queries(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n d"]:
        """Each part of the batch through f_q."""
        return self.embed(self.encoder_q, x)

    @torch.no_grad()
    def keys(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n d"]:
        """Each part of the shuffled batch through f_k, and back in order."""
        if self.splits == 1:
            return self.embed(self.encoder_k, x)
        order = torch.randperm(len(x), device=x.device) if self.training else torch.arange(len(x), device=x.device)
        return self.embed(self.encoder_k, x[order])[order.argsort()]

    def embed(self, encoder: nn.Module, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n d"]:
        """Embeddings of length 1."""
        z = torch.cat([encoder(part) for part in x.chunk(self.splits)])
        if z.shape != (len(x), self.queue.shape[1]):
            raise ValueError(f"expected {(len(x), self.queue.shape[1])} from the encoder, got {tuple(z.shape)}")
        return unit_length(z).to(self.queue.dtype)

    @torch.no_grad()
    def enqueue(self, keys: Float[Tensor, "m d"]) -> None:
        """The oldest rows are replaced by the keys, from row 0 again after the last."""
        if len(keys) > len(self.queue):
            raise ValueError(f"expected {len(self.queue)} keys of all processes at most, got {len(keys)}")
        rows = (self.oldest + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue.index_copy_(0, rows, keys)
        self.oldest.add_(len(keys)).remainder_(len(self.queue))
