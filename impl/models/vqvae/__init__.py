"""Vector-quantized auto-encoder: the code of an image is a map of indices into a codebook that is learned with it.

van den Oord, Vinyals & Kavukcuoglu 2017, arXiv:1711.00937; stop-gradient: sg[x] has the value of x and no derivative.

    q(z = k|x) = 1 for k = argmin_j ‖z_e(x) − e_j‖₂,   z_q(x) = e_k                                       (eq. 1, 2)
    L = −log p(x|z_q(x)) + ‖sg[z_e(x)] − e‖² + β ‖z_e(x) − sg[e]‖²                                        (eq. 3)
    straight-through: ∂L/∂z_e := ∂L/∂z_q                                                                  (§3.2)
    in place of the second term, with n_i vectors z_{i,j} in cluster i of the batch:            (appendix A.1, eq. 6-8)
        N_i ← γ N_i + (1 − γ) n_i,   m_i ← γ m_i + (1 − γ) Σ_j z_{i,j},   e_i = m_i / N_i

With a uniform prior D_KL is log K for each index, a constant. A prior that is trained on the indices of the data
afterwards samples: `vqvae.decode(indices)` makes images of what it returns.

Convention: norms are means over all elements of z_e; m_i is divided by (N_i + ε) / (N + K ε) · N, N = Σ_i N_i, as in
the authors' code; a quantizer returns the second and third term of L, and leaves the first to the caller.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...layers.checks import check_channels, check_finite, check_not_negative, check_sizes
from ...layers.numerics import at_least_float32

Latents = Float[Tensor, "batch d *positions"]
Codes = Int[Tensor, "batch *positions"]
Data = Float[Tensor, "batch features *space"]
Scalar = Float[Tensor, ""]
Output = Float[Tensor, "batch *outputs"]


class _Quantizer(nn.Module):
    """The nearest code and its straight-through gradient; how the codebook is learned is the subclass's `loss`."""

    def __init__(self, num_embeddings: int, embedding_dim: int, commitment_cost: float):
        super().__init__()
        check_sizes(num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        check_not_negative(commitment_cost=commitment_cost)
        check_finite(commitment_cost=commitment_cost)
        self.num_embeddings, self.embedding_dim, self.commitment_cost = num_embeddings, embedding_dim, commitment_cost

    def forward(self, z: Latents) -> tuple[Latents, Scalar, Codes, Scalar]:
        """z_q with a gradient to z, the loss, the indices, and the perplexity exp H(p̂) of their frequencies p̂."""
        indices = self.nearest(z)
        codes = self.lookup(indices).to(z.dtype)
        z_q = codes.detach() + (z - z.detach())  # the value is e_k exactly; z + sg[e_k − z] rounds
        one = torch.ones_like(indices).flatten()
        counts = one.new_zeros(self.num_embeddings).index_add(0, indices.flatten(), one)
        share = counts.to(torch.promote_types(z.dtype, torch.float32)) / max(indices.numel(), 1)  # p̂
        perplexity = torch.special.entr(share).sum().exp()
        return z_q, self.loss(z, codes), indices, perplexity.to(z.dtype)

    def nearest(self, z: Latents) -> Codes:
        """k = argmin_j ‖z − e_j‖₂ of each vector along dimension 1 (eq. 1)."""
        check_channels(z, self.embedding_dim)
        rows = at_least_float32(z.detach().movedim(1, -1).flatten(0, -2))
        # By differences: |z|² − 2⟨z, e⟩ + |e|² loses its digits far from the origin, and under autocast.
        distances = torch.cdist(rows, self.codebook.detach().to(rows.dtype), compute_mode=_BY_DIFFERENCES)
        return distances.argmin(1).view(z.shape[0], *z.shape[2:])

    def lookup(self, indices: Codes) -> Latents:
        """e_k of each index, along dimension 1 (eq. 2)."""
        # index_select, unlike an index in brackets, does not count negative indices from the end.
        return self.codebook.index_select(0, indices.flatten()).view(*indices.shape, self.embedding_dim).movedim(-1, 1)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, commitment_cost={self.commitment_cost}"


class VectorQuantizer(_Quantizer):
    """Replaces each vector by the nearest of K codes; the codes are parameters, drawn to their vectors by gradient.

    Args:
        num_embeddings: K, how many codes there are.
        embedding_dim: D, the length of a code.
        commitment_cost: β >= 0, the weight of the term that draws vectors to their codes.

    Called with z (B, D, *positions) of any number of dimensions of space, it returns (z_q, loss, indices, perplexity):
    z_q (B, D, *positions) has the values of the codes and passes its gradient on to z alone; loss is the scalar
    ‖sg[z] − e‖² + β ‖z − sg[e]‖², each a mean over all elements; indices (B, *positions) count from 0; perplexity is
    exp of the entropy of the codes' frequencies in this batch, a scalar. An empty batch has loss 0.

    Codes are initialised uniformly in ±1/K.

    Raises:
        ValueError: a size below 1, a commitment cost that is negative or not finite, z of another number of channels.

    Source: van den Oord et al. 2017, eq. 1-3.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, commitment_cost: float = 0.25):
        super().__init__(num_embeddings, embedding_dim, commitment_cost)
        self.codebook = nn.Parameter(_initial_codes(num_embeddings, embedding_dim))

    def loss(self, z: Latents, codes: Latents) -> Scalar:
        return _mean_square(z.detach() - codes) + self.commitment_cost * _mean_square(z - codes.detach())


class VectorQuantizerEMA(_Quantizer):
    """Replaces each vector by the nearest of K codes; a code is a moving average of the vectors that it replaced.

    Args:
        num_embeddings, embedding_dim, commitment_cost: K, D and β, as for `VectorQuantizer`.
        decay: γ in [0, 1], how much of the averages a step keeps; with 1 the codebook is unchanged.
        eps: ε >= 0, the smoothing of cluster sizes. A code without any vector, N_i → 0, is drawn to the origin if
            ε > 0, and stays as it is if ε = 0.

    Called as `VectorQuantizer`, with the loss β ‖z − sg[e]‖² and no parameters. A call in training ends with one step
    of the averages, so that its outputs are those of the codebook before. A vector that is not finite joins no cluster.
    Each process of a distributed run averages its own vectors.

    Codes are initialised uniformly in ±1/K, with N_i = 1 and m_i = e_i.

    Raises:
        ValueError: as `VectorQuantizer`; a decay outside of [0, 1], an eps that is negative or not finite.

    Source: van den Oord et al. 2017, appendix A.1.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        commitment_cost: float = 0.25,
        decay: float = 0.99,
        eps: float = 1e-5,
    ):
        super().__init__(num_embeddings, embedding_dim, commitment_cost)
        check_not_negative(eps=eps)
        check_finite(eps=eps)
        if not 0 <= decay <= 1:
            raise ValueError(f"expected 0 <= decay <= 1, got {decay}")
        self.decay, self.eps = decay, eps
        self.register_buffer("codebook", _initial_codes(num_embeddings, embedding_dim))
        self.register_buffer("cluster_size", torch.ones(num_embeddings))  # N
        self.register_buffer("cluster_sum", self.codebook.clone())  # m

    def forward(self, z: Latents) -> tuple[Latents, Scalar, Codes, Scalar]:
        outputs = super().forward(z)
        if self.training:
            self.update(z, outputs[2])
        return outputs

    def loss(self, z: Latents, codes: Latents) -> Scalar:
        return self.commitment_cost * _mean_square(z - codes)

    @torch.no_grad()
    def update(self, z: Latents, indices: Codes) -> None:
        """One step of N, m and e by the vectors z of the clusters `indices` (eq. 6-8)."""
        rows = z.movedim(1, -1).flatten(0, -2).to(self.cluster_sum.dtype)
        finite = rows.isfinite().all(1, keepdim=True)
        joins, rows = finite.squeeze(1).to(rows.dtype), rows.where(finite, 0)
        indices = indices.flatten()
        self.cluster_size.lerp_(torch.zeros_like(self.cluster_size).index_add(0, indices, joins), 1 - self.decay)
        self.cluster_sum.lerp_(torch.zeros_like(self.cluster_sum).index_add(0, indices, rows), 1 - self.decay)
        total = self.cluster_size.sum()
        smoothed = (self.cluster_size + self.eps) / (total + self.num_embeddings * self.eps) * total
        # The mean of a cluster that has faded away is 0/0, or a quotient of what has underflowed: its code stays.
        present = smoothed[:, None] > torch.finfo(smoothed.dtype).tiny ** 0.5
        self.codebook.copy_((self.cluster_sum / smoothed[:, None]).where(present, self.codebook))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, decay={self.decay}, eps={self.eps}"


class VQVAE(nn.Module):
    """An encoder, a quantizer and a decoder.

    Args:
        encoder: x (B, *data) → z_e (B, D, *positions).
        decoder: z_q (B, D, *positions) → what p(x|z_q) needs, the mean of a Gaussian, say.
        quantizer: a `VectorQuantizer` or `VectorQuantizerEMA` of D dimensions.

    Called with x it returns (the decoder's output, the quantizer's loss, indices, perplexity); to train, add
    −log p(x|z_q), a squared error or a cross entropy, to the loss.

    Source: van den Oord et al. 2017, §3 and figure 1.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, quantizer: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.quantizer = quantizer

    def forward(self, x: Data) -> tuple[Output, Scalar, Codes, Scalar]:
        z_q, loss, indices, perplexity = self.quantizer(self.encoder(x))
        return self.decoder(z_q), loss, indices, perplexity

    def encode(self, x: Data) -> Codes:
        """The indices of x; the codebook is unchanged in every mode."""
        return self.quantizer.nearest(self.encoder(x))

    def decode(self, indices: Codes) -> Output:
        """The decoder's output for a map of indices, of a prior's sample, say."""
        return self.decoder(self.quantizer.lookup(indices))


_BY_DIFFERENCES = "donot_use_mm_for_euclid_dist"


def _initial_codes(num_embeddings: int, embedding_dim: int) -> Tensor:
    return torch.empty(num_embeddings, embedding_dim).uniform_(-1 / num_embeddings, 1 / num_embeddings)


def _mean_square(difference: Tensor) -> Tensor:
    """The mean over all elements, 0 of none; half precision is summed in float32."""
    total = at_least_float32(difference).square().sum()
    return (total / max(difference.numel(), 1)).to(difference.dtype)
