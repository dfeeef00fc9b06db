"""Cases of mixtures of experts: with and without bounds, both kinds of gates and experts, and losses."""

import torch

from impl.layers.moe import (
    MixtureOfExperts,
    Routing,
    TopKRouter,
    expert_capacity,
    importance_loss,
    load_balancing_loss,
    router_z_loss,
)
from spec.cases import Bad, Case
from spec.contract import Contract


def _normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _bad(*mentions, **options):
    return Bad(
        call=lambda: MixtureOfExperts(**({"embed_dim": 4, "num_experts": 3, "hidden_features": 5} | options)),
        mentions=mentions,
    )


CHOICES = torch.tensor([[[0, 2], [3, 1], [0, 3]], [[1, 0], [0, 2], [2, 1]]])
DATA_DECIDES = "how many rows an expert reads is data, and so are the shapes; with a capacity they are fixed"
COUPLED = "tokens compete for the places of an expert; stated in properties"
A_MEAN = "a mean over all tokens"
A_SUM = "a sum over all tokens"

CASES = [
    Case(
        item="moe",
        name="TopKRouter, noisy",
        build=lambda: TopKRouter(4, 5, top_k=3, noisy=True),
        inputs=lambda: (_normal(2, 6, 4),),
        bad={
            "more choices than experts": Bad(call=lambda: TopKRouter(4, 5, top_k=6), mentions=("5", "6")),
            "tokens of another width": Bad(call=lambda: TopKRouter(4, 5)(torch.ones(2, 3)), mentions=("4", "(2, 3)")),
            "wider tokens": Bad(call=lambda: TopKRouter(4, 5)(torch.ones(2, 6)), mentions=("4", "(2, 6)")),
            "a number": Bad(call=lambda: TopKRouter(4, 5)(torch.ones(())), mentions=("()",)),
        },
        exempt={"batch_independent": "noise is sampled for all tokens at once; in eval there is none"},
    ),
    Case(
        item="moe",
        name="TopKRouter, as Switch",
        build=lambda: TopKRouter(4, 3, top_k=1, normalize=False),
        inputs=lambda: (_normal(2, 5, 4),),
    ),
    Case(
        item="moe",
        name="MixtureOfExperts",
        build=lambda: MixtureOfExperts(4, 3, 5, top_k=2),
        inputs=lambda: (_normal(2, 6, 4),),
        bad={
            "more choices than experts": _bad("3", "4", top_k=4),
            "a capacity that is no number": _bad("nan", capacity_factor=float("nan")),
            "tokens of another width": Bad(
                call=lambda: MixtureOfExperts(4, 3, 5)(torch.ones(2, 3)), mentions=("4", "(2, 3)")
            ),
        },
        exempt=dict.fromkeys(("compiles", "works_on_meta", "transforms"), DATA_DECIDES),
    ),
    Case(
        item="moe",
        name="MixtureOfExperts, bounded",
        build=lambda: MixtureOfExperts(3, 4, 5, top_k=2, capacity_factor=1.25, shared_features=6, normalize=False),
        inputs=lambda: (_normal(2, 7, 3),),
        exempt={"batch_independent": COUPLED, "batch_independent_in_eval": COUPLED},
    ),
    Case(
        item="moe",
        name="MixtureOfExperts, as Switch",
        build=lambda: MixtureOfExperts(3, 2, 5, top_k=1, normalize=False, gated=False, capacity_factor=8.0),
        inputs=lambda: (_normal(2, 7, 3),),
    ),
    Case(
        item="moe",
        name="load_balancing_loss",
        build=lambda: load_balancing_loss,
        inputs=lambda: (_normal(2, 3, 4), CHOICES, torch.tensor([[True, True, False], [True, True, True]])),
        bad={
            "no tokens": Bad(
                call=lambda: load_balancing_loss(torch.ones(0, 4), torch.ones(0, 2, dtype=torch.long)),
                mentions=("none", "(0, 4)"),
            ),
            "choices of other tokens": Bad(
                call=lambda: load_balancing_loss(torch.ones(2, 3, 4), CHOICES[:1]), mentions=("(2, 3)", "(1, 3)")
            ),
            "a mask of tokens in another order": Bad(
                call=lambda: load_balancing_loss(torch.ones(2, 3, 4), CHOICES, torch.ones(3, 2, dtype=torch.bool)),
                mentions=("(2, 3)", "(3, 2)"),
            ),
        },
        exempt={
            "batch_independent": A_MEAN,
            "batch_independent_in_eval": A_MEAN,
        },
        is_function=True,
    ),
    Case(
        item="moe",
        name="importance_loss",
        build=lambda: importance_loss,
        inputs=lambda: (_normal(2, 3, 2).exp(), CHOICES, 4),
        bad={
            "choices of other tokens": Bad(
                call=lambda: importance_loss(torch.ones(3, 2, 2), CHOICES, 4), mentions=("(3, 2, 2)", "(2, 3, 2)")
            ),
        },
        exempt={
            "batch_independent": A_SUM,
            "batch_independent_in_eval": A_SUM,
            "empty_batch_is_defined": "no tokens have no importance to vary: 0/0",
        },
        is_function=True,
    ),
    Case(
        item="moe",
        name="router_z_loss",
        build=lambda: router_z_loss,
        inputs=lambda: (_normal(2, 3, 4),),
        exempt={
            "batch_independent": A_MEAN,
            "batch_independent_in_eval": A_MEAN,
            "empty_batch_is_defined": "a mean of nothing",
        },
        is_function=True,
    ),
]

_WIDE = "(num_experts, 2 * hidden_features, embed_dim)"
_SIZES = {"embed_dim": 4, "num_experts": 3, "hidden_features": 5, "top_k": 1}
_ROUTER = {"embed_dim": "int >= 1", "num_experts": "int >= 1", "top_k": "int >= 1"}
_WEIGHT = "(num_experts, embed_dim)"


def _router(name, state, **more):
    return Contract(
        item="moe",
        name=name,
        of=TopKRouter,
        calls=({"embed_dim": 4, "num_experts": 3, "top_k": 1} | more,),
        ranges=_ROUTER,
        state={"weight": _WEIGHT} | state,
    )


def _mixture(name, state, **more):
    return Contract(
        item="moe",
        name=name,
        of=MixtureOfExperts,
        calls=(_SIZES | more,),
        ranges=_ROUTER
        | {
            "hidden_features": "int >= 1",
            "capacity_factor": "(0, inf) or None",
            "shared_features": "int >= 1 or None",
        },
        state={"gate.weight": _WEIGHT, "experts.down_proj": "(num_experts, embed_dim, hidden_features)"} | state,
    )


_PLAIN = {
    "Routing": Routing,
    "expert_capacity": expert_capacity,
    "load_balancing_loss": load_balancing_loss,
    "importance_loss": importance_loss,
    "router_z_loss": router_z_loss,
}
CONTRACTS = [
    _router("TopKRouter", {}),
    _router("TopKRouter, noisy", {"noise_weight": _WEIGHT}, noisy=True),
    _mixture("MixtureOfExperts", {"experts.gate_up_proj": _WIDE}),
    _mixture(
        "MixtureOfExperts, a shared expert",
        {
            "experts.gate_up_proj": _WIDE,
            "shared_experts.gate_proj.weight": "(shared_features, embed_dim)",
            "shared_experts.up_proj.weight": "(shared_features, embed_dim)",
            "shared_experts.down_proj.weight": "(embed_dim, shared_features)",
        },
        shared_features=6,
    ),
    _mixture(
        "MixtureOfExperts, not gated", {"experts.up_proj": "(num_experts, hidden_features, embed_dim)"}, gated=False
    ),
    *(Contract(item="moe", name=name, of=of) for name, of in _PLAIN.items()),
]
