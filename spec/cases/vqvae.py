"""Cases of the vector-quantized auto-encoder."""

import torch
from torch import nn

from impl.models.vqvae import VQVAE, VectorQuantizer, VectorQuantizerEMA
from spec.cases import Bad, Case
from spec.contract import Contract, Fresh
from spec.laws import random, reseed


class Part(nn.Module):
    """One of the outputs of a quantizer or of the whole model, so that the laws of samples can be asked of it."""

    def __init__(self, whole, part: int):
        super().__init__()
        self.whole = whole
        self.part = part

    def forward(self, x):
        return self.whole(x)[self.part]


def spread(quantizer):
    """Codes as far apart as vectors are, so that no two are nearly as near; the averages as after some training."""
    codes = torch.randn(quantizer.codebook.shape, generator=torch.Generator().manual_seed(1))
    state = {"codebook": codes}
    if len(quantizer.state_dict()) > 1:
        sizes = torch.linspace(0.5, 2, len(codes))
        state |= {"cluster_size": sizes, "cluster_sum": sizes[:, None] * codes}
    quantizer.load_state_dict(state)
    return quantizer


def by_gradient():
    return spread(VectorQuantizer(7, 4, commitment_cost=0.4))


def by_averages():
    return spread(VectorQuantizerEMA(7, 4, commitment_cost=0.4, decay=0.9, eps=0.01))


def vqvae(quantizer=by_gradient):
    """Images (1, 4, 6) in, a code of 4 dimensions at each of 2 × 3 positions."""
    reseed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(24, 24), nn.Unflatten(1, (4, 2, 3)))
    decoder = nn.Sequential(nn.Flatten(), nn.Linear(24, 24), nn.Unflatten(1, (1, 4, 6)))
    return VQVAE(encoder, decoder, quantizer())


def _vectors():
    """Four dimensions at 3 × 5 positions."""
    return (random(2, 4, 3, 5),)


def _images():
    return (random(3, 1, 4, 6),)


_STOPPED = {
    "gradient_correct": "straight-through gradients and stop-gradients are not the derivative: it is 0 or infinite",
}
_JOINT = {
    "batch_independent": "loss and perplexity are those of the batch; the record of z_q is asked",
    "batch_independent_in_eval": "loss and perplexity are those of the batch; the record of z_q is asked",
}
_PART = {"from_scratch": "the class that is called is defined here; the record of all outputs is checked"}
_UNREACHED = {
    "every_parameter_receives_gradient": "z_q passes no gradient to the codes; the record of all outputs is checked"
}
_MOVES = {"batch_independent": "a call in training moves the codebook by the whole batch"}

_BAD = {
    "vectors of another width": Bad(call=lambda: by_gradient()(random(2, 3, 5)), mentions=("4", "(2, 3, 5)")),
    "vectors of another width, nearest": Bad(call=lambda: by_gradient().nearest(random(2, 5))),
    "no channels": Bad(call=lambda: by_averages()(random(4))),
}

CASES = [
    Case(item="vq-vae", name="VectorQuantizer", build=by_gradient, inputs=_vectors, bad=_BAD, exempt=_STOPPED | _JOINT),
    Case(item="vq-vae", name="VectorQuantizerEMA", build=by_averages, inputs=_vectors, exempt=_STOPPED | _JOINT),
    Case(item="vq-vae", name="VQVAE", build=vqvae, inputs=_images, exempt=_STOPPED | _JOINT),
    Case(item="vq-vae", name="VQVAE, EMA", build=lambda: vqvae(by_averages), inputs=_images, exempt=_STOPPED | _JOINT),
    Case(
        item="vq-vae",
        name="VectorQuantizer, z_q",
        build=lambda: Part(by_gradient(), 0),
        inputs=_vectors,
        exempt=_STOPPED | _PART | _UNREACHED,
    ),
    Case(
        item="vq-vae",
        name="VQVAE, EMA, reconstruction",
        build=lambda: Part(vqvae(by_averages), 0),
        inputs=_images,
        exempt=_STOPPED | _PART | _MOVES,
    ),
]

_RANGES = {
    "num_embeddings": "int >= 1",
    "embedding_dim": "int >= 1",
    "commitment_cost": "[0, inf)",
}
_METHODS = {
    "nearest": "nearest(z): the indices (B, *positions) of the nearest codes of z (B, D, *positions); changes nothing",
    "lookup": "lookup(indices): the codes (B, D, *positions) of indices (B, *positions)",
}
_CALLS = ({"num_embeddings": 7, "embedding_dim": 4},)

CONTRACTS = [
    Contract(
        item="vq-vae",
        name="VectorQuantizer",
        of=VectorQuantizer,
        calls=_CALLS,
        ranges=_RANGES,
        state={"codebook": "(num_embeddings, embedding_dim)"},
        attributes={"codebook": "the codes e, a parameter"} | _METHODS,
    ),
    Contract(
        item="vq-vae",
        name="VectorQuantizerEMA",
        of=VectorQuantizerEMA,
        calls=_CALLS,
        ranges=_RANGES | {"decay": "[0, 1]", "eps": "[0, inf)"},
        state={
            "codebook": "(num_embeddings, embedding_dim)",
            "cluster_size": "(num_embeddings,)",
            "cluster_sum": "(num_embeddings, embedding_dim)",
        },
        attributes={
            "codebook": "the codes e, a buffer",
            "cluster_size": "N, a buffer, at first 1",
            "cluster_sum": "m, a buffer, at first the codes",
        }
        | _METHODS,
        remembers="a call in training moves codebook, cluster_size and cluster_sum",
    ),
    Contract(
        item="vq-vae",
        name="VQVAE",
        of=VQVAE,
        calls=(
            {
                "encoder": Fresh(lambda: nn.Conv2d(1, 4, 2, stride=2)),
                "decoder": Fresh(lambda: nn.ConvTranspose2d(4, 1, 2, stride=2)),
                "quantizer": Fresh(by_gradient),
            },
        ),
        attributes={
            "encoder": "the network of z_e, as it was given; its state has that prefix",
            "decoder": "the network of p(x|z_q), likewise",
            "quantizer": "likewise",
            "encode": "encode(x): the indices of x; changes nothing",
            "decode": "decode(indices): the decoder's output for codes (B, D, *positions) of indices (B, *positions)",
        },
    ),
]
