"""Vector quantization over diffusers' gradient codebook and the moving averages of vector_quantize_pytorch."""

import torch
from diffusers.models.autoencoders.vae import VectorQuantizer as Theirs
from torch import nn
from torch.nn.functional import embedding, mse_loss, one_hot
from vector_quantize_pytorch import VectorQuantize


def as_image(z):
    """(B, D, *positions) as (B, D, positions, 1), in a dtype that torch.cdist has."""
    if not len(z):
        raise ValueError("expected a batch with a sample, got none")
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    return z.reshape(*z.shape[:2], -1, 1) if z.dim() > 2 else z[:, :, None, None]


class _Quantizer(nn.Module):
    def __init__(self, num_embeddings, embedding_dim, commitment_cost=0.25):
        super().__init__()
        self.num_embeddings = num_embeddings
        self.commitment_cost = commitment_cost
        with torch.device("meta"):
            self.theirs = (Theirs(num_embeddings, embedding_dim, commitment_cost, legacy=False),)  # no state of ours

    def forward(self, z):
        image = as_image(z)
        state = {"embedding.weight": self.codebook.to(image.dtype)}
        z_q, loss, (_, _, indices) = torch.func.functional_call(self.theirs[0], state, (image,))
        share = one_hot(indices, self.num_embeddings).to(image.dtype).mean(0)
        perplexity = torch.distributions.Categorical(share, validate_args=False).entropy().exp()
        z_q, loss, perplexity = (t.to(z.dtype) for t in (z_q, loss, perplexity))
        return z_q.view(z.shape), loss, indices.view(z.shape[0], *z.shape[2:]), perplexity

    def nearest(self, z):
        distance = torch.cdist(z.detach().movedim(1, -1).flatten(0, -2), self.codebook)
        return distance.argmin(1).view(z.shape[0], *z.shape[2:])

    def lookup(self, indices):
        return embedding(indices, self.codebook).movedim(-1, 1)


class VectorQuantizer(_Quantizer):
    def __init__(self, num_embeddings, embedding_dim, commitment_cost=0.25):
        super().__init__(num_embeddings, embedding_dim, commitment_cost)
        self.codebook = nn.Parameter(torch.rand(num_embeddings, embedding_dim).mul_(2).sub_(1) / num_embeddings)


class VectorQuantizerEMA(_Quantizer):
    def __init__(self, num_embeddings, embedding_dim, commitment_cost=0.25, decay=0.99, eps=1e-5):
        super().__init__(num_embeddings, embedding_dim, commitment_cost)
        self.register_buffer("codebook", torch.rand(num_embeddings, embedding_dim).mul_(2).sub_(1) / num_embeddings)
        self.register_buffer("cluster_size", torch.ones(num_embeddings))
        self.register_buffer("cluster_sum", self.codebook.clone())
        self.averages = (VectorQuantize(embedding_dim, num_embeddings, decay=decay, eps=eps)._codebook,)

    def forward(self, z):
        z_q, _, indices, perplexity = super().forward(z)
        loss = self.commitment_cost * mse_loss(z, z_q.detach())
        if self.training:
            self.step(z.detach(), indices)
        return z_q, loss, indices, perplexity

    def step(self, z, indices):
        """Hands our state to theirs, lets it make a step, and takes it back."""
        rows = z.movedim(1, -1).flatten(0, -2)
        kept = rows.isfinite().all(1)
        members = one_hot(indices.flatten(), self.num_embeddings).to(rows.dtype)
        (theirs,) = self.averages
        names = {"embed": self.codebook, "cluster_size": self.cluster_size, "embed_avg": self.cluster_sum}
        for name, value in names.items():
            getattr(theirs, name).data = value[None].clone()
        theirs.track_cluster_size_and_embed_avg(rows[kept][None], members[kept][None])
        theirs.update_ema()
        filled = theirs.cluster_size[0] + theirs.eps > 1e-150  # they answer 0/0 where there is neither vector nor ε
        theirs.embed.data = torch.where(filled[:, None], theirs.embed, self.codebook)
        for name, value in names.items():
            value.copy_(getattr(theirs, name)[0].detach())


class VQVAE(nn.Module):
    def __init__(self, encoder, decoder, quantizer):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.quantizer = quantizer

    def forward(self, x):
        z_q, *others = self.quantizer(self.encoder(x))
        return self.decoder(z_q), *others

    def encode(self, x):
        return self.quantizer.nearest(self.encoder(x))

    def decode(self, indices):
        return self.decoder(self.quantizer.lookup(indices))
