"""Cases of RealNVP: couplings of vectors and of images, whole models, and the functions that flows share."""

import torch
from torch import nn

from impl.layers.flows import bits_per_dim, dequantize, from_logits, log_standard_normal, squeeze, to_logits, unsqueeze
from impl.models.realnvp import AffineCoupling, RealNVP, channel_mask, checkerboard_mask
from spec.cases import Bad, Case
from spec.contract import Contract, Fresh
from spec.laws import reseed

MASK = (1, 0, 0, 1, 0)


def stir(module, size: float = 0.2, seed: int = 0):
    """Normal noise on every parameter, so that nothing is at its initial value and no tanh saturates. In place."""
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in sorted(module.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.add_(size * noise.to(parameter.dtype))
    return module


def vector_coupling(mask=MASK, hidden: int = 3):
    """A coupling of vectors whose network is a small perceptron."""
    reseed(0)
    d = len(mask)
    return AffineCoupling(torch.tensor(mask), nn.Sequential(nn.Linear(d, hidden), nn.Tanh(), nn.Linear(hidden, 2 * d)))


def image_coupling():
    """Images (2, 3, 4), channel-wise random mask."""
    reseed(0)
    mask = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1)) < 0.5
    net = nn.Sequential(nn.Flatten(), nn.Linear(24, 3), nn.Tanh(), nn.Linear(3, 48), nn.Unflatten(1, (4, 3, 4)))
    return AffineCoupling(mask, net)


def model(in_shape=(3, 4, 2), num_scales: int = 2, alpha=0.1, seed: int = 0, hidden: int = 4):
    """A RealNVP whose couplings are no identities."""
    reseed(seed)
    return stir(RealNVP(in_shape, num_scales, hidden_channels=hidden, num_blocks=1, alpha=alpha), seed=seed)


class Inverse(nn.Module):
    """The inverse of a flow as a module, so that the laws of modules can be asked of it."""

    def __init__(self, flow):
        super().__init__()
        self.flow = flow

    def forward(self, z):
        return self.flow.inverse(z)


def _random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _uniform(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05


_DEEP = {
    "every_parameter_receives_gradient": "weights of ±[0.5, 1.5] saturate tanh in deep couplings; "
    "spec/properties/test_realnvp.py asks it with smaller ones",
    "works_under_autocast": "an inverse divides by what bfloat16 has rounded, in ten couplings",
}
_LARGE = {
    "gradient_correct": "thousands of parameters in ten couplings of one kind; the record of one scale is checked"
}

_WRAPPED = {"from_scratch": "the class that is called is defined here; the record of the flow itself is checked"}

_BAD_COUPLING = {
    "another shape": Bad(call=lambda: vector_coupling()(_random(2, 4)), mentions=("(2, 4)",)),
    "another shape in the inverse": Bad(call=lambda: vector_coupling().inverse(_random(2, 6)), mentions=("(2, 6)",)),
    "a mask of halves": Bad(call=lambda: AffineCoupling(torch.tensor([0.5, 1]), nn.Linear(2, 4)), mentions=("0.5",)),
    "a mask of −1": Bad(call=lambda: AffineCoupling(torch.tensor([-1, 1]), nn.Linear(2, 4)), mentions=("-1",)),
    "a mask without dimensions": Bad(call=lambda: AffineCoupling(torch.tensor(1), nn.Linear(2, 4))),
    "a narrow network": Bad(call=lambda: AffineCoupling(torch.tensor([0, 1]), nn.Linear(2, 2))(_random(3, 2))),
}
_BAD_MODEL = {
    "two dimensions": Bad(call=lambda: RealNVP((4, 4)), mentions=("(4, 4)",)),
    "an odd height": Bad(call=lambda: RealNVP((1, 3, 4)), mentions=("3",)),
    "an odd width": Bad(call=lambda: RealNVP((1, 4, 5)), mentions=("5",)),
    "not divisible by 4": Bad(call=lambda: RealNVP((1, 6, 8), num_scales=3), mentions=("6",)),
    "no channels": Bad(call=lambda: RealNVP((0, 4, 4)), mentions=("0",)),
    "images of another shape": Bad(call=lambda: model()(_uniform(2, 3, 2, 4)), mentions=("(2, 3, 2, 4)",)),
    "z of another width": Bad(call=lambda: model().inverse(_random(2, 23)), mentions=("(2, 23)",)),
}

CASES = [
    Case(
        item="realnvp",
        name="AffineCoupling, vectors",
        build=vector_coupling,
        inputs=lambda: (_random(2, 5),),
        bad=_BAD_COUPLING,
    ),
    Case(item="realnvp", name="AffineCoupling, images", build=image_coupling, inputs=lambda: (_random(5, 2, 3, 4),)),
    Case(
        item="realnvp",
        name="AffineCoupling.inverse",
        build=lambda: Inverse(vector_coupling()),
        inputs=lambda: (_random(2, 5),),
        exempt=_WRAPPED,
    ),
    Case(
        item="realnvp",
        name="RealNVP, one scale",
        build=lambda: model((1, 2, 3), num_scales=1, hidden=1),
        inputs=lambda: (_uniform(2, 1, 2, 3),),
        bad=_BAD_MODEL,
    ),
    Case(
        item="realnvp",
        name="RealNVP, two scales",
        build=lambda: model((1, 4, 2)),
        inputs=lambda: (_uniform(3, 1, 4, 2),),
        exempt=_LARGE,
    ),
    Case(
        item="realnvp",
        name="RealNVP.inverse",
        build=lambda: Inverse(model((1, 2, 4), alpha=None, hidden=2)),
        inputs=lambda: (_random(3, 8),),
        exempt=_LARGE | _DEEP | _WRAPPED,
    ),
    *(
        Case(item="realnvp", name=name, build=lambda f=f: f, inputs=inputs, bad=bad, is_function=True)
        for name, f, inputs, bad in (
            (
                "squeeze",
                squeeze,
                lambda: (_random(2, 3, 4, 6),),
                {
                    "an odd height": Bad(call=lambda: squeeze(_random(2, 1, 3, 4))),
                    "an odd width": Bad(call=lambda: squeeze(_random(2, 1, 4, 3))),
                },
            ),
            (
                "unsqueeze",
                unsqueeze,
                lambda: (_random(2, 8, 3, 5),),
                {"6 channels": Bad(call=lambda: unsqueeze(_random(2, 6, 3, 4)))},
            ),
            ("to_logits", to_logits, lambda: (_uniform(2, 3, 5),), {}),
            ("from_logits", from_logits, lambda: (_random(2, 3, 5),), {}),
            ("log_standard_normal", log_standard_normal, lambda: (_random(2, 3, 5),), {}),
        )
    ),
]


def _to_logits(alpha):
    return to_logits(_uniform(2, 3), alpha)


def _from_logits(alpha):
    return from_logits(_random(2, 3), alpha)


def _sample(n):
    return model().sample(n)


CONTRACTS = [
    Contract(
        item="realnvp",
        name="AffineCoupling",
        of=AffineCoupling,
        calls=({"mask": torch.tensor([1, 0, 1]), "net": Fresh(lambda: nn.Linear(3, 6))},),
        attributes={
            "net": "the network, as it was given; its state has that prefix",
            "mask": "b, boolean, a buffer and so part of the state",
            "scale": "the factor of tanh(·), a parameter of shape (features,), initialised at 1",
            "inverse": "y → x and log|det ∂x/∂y|",
        },
    ),
    Contract(
        item="realnvp",
        name="RealNVP",
        of=RealNVP,
        calls=({"in_shape": (2, 4, 4), "num_scales": 2, "hidden_channels": 3, "num_blocks": 1},),
        ranges={
            "num_scales": "int >= 1",
            "hidden_channels": "int >= 1",
            "num_blocks": "int >= 1",
            "alpha": "[0, 1) or None",
        },
        attributes={
            "inverse": "z → x and log|det ∂x/∂z|",
            "log_prob": "x → log p(x) in nats, one value a sample",
            "sample": "(n, generator=None) → n images",
        },
    ),
    Contract(item="realnvp", name="RealNVP.sample", of=_sample, calls=({"n": 2},), ranges={"n": "int >= 1"}),
    Contract(
        item="realnvp",
        name="checkerboard_mask",
        of=checkerboard_mask,
        calls=({"channels": 2, "height": 3, "width": 4},),
        ranges={"channels": "int >= 1", "height": "int >= 1", "width": "int >= 1", "parity": "int in [0, 1]"},
    ),
    Contract(
        item="realnvp",
        name="channel_mask",
        of=channel_mask,
        calls=({"channels": 4, "height": 3, "width": 2},),
        ranges={"channels": "even >= 2", "height": "int >= 1", "width": "int >= 1", "parity": "int in [0, 1]"},
    ),
    Contract(item="realnvp", name="to_logits", of=_to_logits, calls=({"alpha": 0.1},), ranges={"alpha": "[0, 1)"}),
    Contract(item="realnvp", name="from_logits", of=_from_logits, calls=({"alpha": 0.1},), ranges={"alpha": "[0, 1)"}),
    Contract(
        item="realnvp",
        name="dequantize",
        of=dequantize,
        calls=({"grey": torch.zeros(2, 3), "levels": 17},),
        ranges={"levels": "int >= 1"},
    ),
    Contract(
        item="realnvp",
        name="bits_per_dim",
        of=bits_per_dim,
        calls=({"log_prob": torch.zeros(2), "dims": 3, "levels": 17},),
        ranges={"dims": "int >= 1", "levels": "int >= 1"},
    ),
]
