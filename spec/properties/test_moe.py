"""Mixtures of experts: routing, dispatch, capacity and balance."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from impl.layers.moe import (
    MixtureOfExperts,
    TopKRouter,
    expert_capacity,
    importance_loss,
    load_balancing_loss,
    router_z_loss,
)
from spec import cost, laws
from spec.strategies import permutations, seeds

pytestmark = pytest.mark.item("moe")

KINDS = {
    "mixtral": {"top_k": 2},
    "switch": {"top_k": 1, "normalize": False, "gated": False},
    "bounded": {"top_k": 2, "capacity_factor": 8.0, "normalize": False},
    "shared": {"top_k": 3, "shared_features": 7, "gated": False, "capacity_factor": 9.0},
}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ready(seed=0, **options):
    """A layer of 4 experts of width 6, 5 inside, with random weights."""
    return laws.randomise(MixtureOfExperts(6, 4, 5, **options), seed).double()


def expert(layer, n, x):
    """What expert n says, by torch's own functions."""
    experts = dict(layer.experts.named_parameters())
    if "gate_up_proj" in experts:
        gate, value = (x @ experts["gate_up_proj"][n].T).chunk(2, -1)
        return (nn.functional.silu(gate) * value) @ experts["down_proj"][n].T
    return nn.functional.relu(x @ experts["up_proj"][n].T) @ experts["down_proj"][n].T


def by_hand(layer, x, top_k, normalize=True, places=math.inf):
    """One token, and one of its choices, at a time."""
    room, outputs = [places] * len(layer.gate.weight), []
    for token in x.reshape(-1, x.shape[-1]):
        scores = token @ layer.gate.weight.T
        chosen = scores.argsort(descending=True)[:top_k]
        gates = scores[chosen].softmax(-1) if normalize else scores.softmax(-1)[chosen]
        output = 0 * token
        for gate, n in zip(gates, chosen.tolist()):
            if room[n] > 0:
                output = output + gate * expert(layer, n, token)
            room[n] -= 1
        shared = {n: p for n, p in layer.named_parameters() if n.startswith("shared_experts.")}
        if shared:
            gate, value, down = (shared[f"shared_experts.{n}_proj.weight"].T for n in ("gate", "up", "down"))
            output = output + (nn.functional.silu(token @ gate) * (token @ value)) @ down
        outputs.append(output)
    return torch.stack(outputs).view_as(x)


class Dense(nn.Module):
    def __init__(self, layer, **options):
        super().__init__()
        self.layer, self.options = layer, options

    def forward(self, x):
        return by_hand(self.layer, x, **self.options)


# ---------------------------------------------------------------------------------------------- the mixture


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_chosen_experts_add_up(kind):
    """y = Σ_{i ∈ top k} g_i E_i(x), plus the shared expert: output and all gradients of a loop over tokens and choices.

    Source: Shazeer et al. 2017, eq. 1; Fedus et al. 2021, eq. 2; Jiang et al. 2024, §2.1; Dai et al. 2024, eq. 9.
    """
    options = KINDS[kind]
    layer = ready(**options)
    counterpart = Dense(layer, top_k=options["top_k"], normalize=options.get("normalize", True))
    laws.gradients_match(_Output(layer), counterpart, normal(2, 7, 6))
    laws.gradients_match(_Output(layer), counterpart, normal(5, 6, seed=1))


class _Output(nn.Module):
    """The layer without its routing, with the parameters in the order of `Dense`."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


def test_defaults_are_mixtrals():
    """2 of the experts, gates renormalised over them, SwiGLU, no capacity, no noise, no shared expert.

    Source: Jiang et al. 2024, §2.1, and transformers' MixtralSparseMoeBlock.
    """
    layer, x = ready(), normal(2, 30, 6)
    laws.assert_close(layer(x)[0], by_hand(layer, x, 2))
    router = TopKRouter(6, 4).double()
    logits, gates, indices = router(x)
    laws.assert_close(gates.sum(-1), torch.ones(2, 30, dtype=torch.float64))
    assert indices.shape == (2, 30, 2) and logits.shape == (2, 30, 4), f"found {indices.shape} and {logits.shape}"


@pytest.mark.states("limiting case")
@given(seed=seeds())
def test_all_experts_chosen_are_a_dense_mixture(seed):
    """With k = N both kinds of gates are the softmax of the logits, and y = Σ_i softmax(s)_i E_i(x).

    Source: Jacobs et al. 1991; Shazeer et al. 2017, eq. 1-2.
    """
    x = normal(5, 6, seed=seed)
    for normalize in (True, False):
        layer = ready(seed, top_k=4, normalize=normalize)
        weights = (x @ layer.gate.weight.T).softmax(-1)
        wanted = sum(weights[:, n : n + 1] * expert(layer, n, x) for n in range(4))
        laws.assert_close(layer(x)[0], wanted)


def test_a_single_choice_needs_the_full_softmax():
    """k = 1: Switch's gate is p_i < 1 with a gradient to the router; renormalised over one it is 1, with none.

    Source: Fedus et al. 2021, §2.1, eq. 2, against Shazeer et al. 2017, who thought k > 1 was needed.
    """
    x = normal(9, 6)
    switch, alone = ready(top_k=1, normalize=False), ready(top_k=1)
    gates = switch(x)[1].gates
    laws.assert_close(gates[:, 0], (x @ switch.gate.weight.T).softmax(-1).amax(-1))
    laws.gradient_reaches(switch(x)[0].square().sum(), {"router": switch.gate.weight})
    laws.assert_close(alone(x)[1].gates, torch.ones(9, 1, dtype=torch.float64))
    loss = alone(x)[0].square().sum()
    slope = torch.autograd.grad(loss, alone.gate.weight)[0] / loss.detach()
    laws.assert_close(slope, torch.zeros(4, 6, dtype=torch.float64))


@pytest.mark.states("limiting case")
@given(seed=seeds(), k=st.integers(1, 4))
def test_equal_experts_are_one_expert(seed, k):
    """With the same weights in each, y = E(x) · Σ g: E(x) itself where gates are renormalised.

    Source: Shazeer et al. 2017, eq. 1: the gates of a token are its only difference.  Gates scale what an expert
    outputs, not its input: E is not linear.
    """
    x = normal(5, 6, seed=seed)
    for normalize in (True, False):
        layer = ready(seed, top_k=k, normalize=normalize)
        for weight in layer.experts.parameters():
            weight.data = weight.data[:1].expand_as(weight).clone()
        total = 1 if normalize else (x @ layer.gate.weight.T).softmax(-1).topk(k).values.sum(-1, keepdim=True)
        laws.assert_close(layer(x)[0], total * expert(layer, 0, x))


@pytest.mark.states("symmetry")
@given(seed=seeds(), order=permutations(4), tokens=permutations(9))
def test_experts_and_tokens_may_be_permuted(seed, order, tokens):
    """Experts renumbered with their rows of the router change nothing; outputs follow the order of tokens.

    Source: Shazeer et al. 2017, eq. 1: a sum over experts, token by token.
    """
    layer, x = ready(seed), normal(9, 6, seed=seed)
    before = by_hand(layer, x, 2)
    laws.equivariant(lambda x: layer(x)[0], x, lambda t: t[tokens])
    for weight in (layer.gate.weight, *layer.experts.parameters()):
        weight.data = weight.data[order]
    laws.assert_close(layer(x)[0], before)


def test_unchosen_experts_get_no_gradient():
    """An expert that no token chose gets a gradient of exactly zero, and is finite; the others get one.

    Source: Shazeer et al. 2017, §2: where G(x)_i = 0, E_i is not computed.
    """
    for options in ({}, {"capacity_factor": 9.0}):
        layer = ready(**options)
        layer.gate.weight.data = torch.tensor([[9.0], [7.0], [-9.0], [-7.0]], dtype=torch.float64).expand(4, 6).clone()
        slopes = torch.autograd.grad(layer(normal(5, 6).abs())[0].sum(), list(layer.experts.parameters()))
        for slope in slopes:
            laws.assert_same(slope[2:], torch.zeros_like(slope[2:]))
            assert (slope[:2].abs().amax((1, 2)) > 0).all(), "expected a gradient for the experts that were chosen"


def test_the_routing_is_reported():
    """Logits, gates and indices, largest first, have the leading dimensions of the input; gates are of its dtype.

    Source: Fedus et al. 2021, eq. 4-6: what the balance loss is computed from.
    """
    layer = ready(top_k=3, normalize=False)
    x = normal(2, 5, 6)
    _, (logits, gates, indices) = layer(x)
    wanted = x @ layer.gate.weight.T
    laws.assert_close(logits, wanted)
    laws.assert_close(gates, wanted.softmax(-1).sort(-1, descending=True).values[..., :3])
    laws.assert_same(indices, wanted.argsort(-1, descending=True)[..., :3])
    half = layer.bfloat16()(x.bfloat16())
    assert half[0].dtype == half[1].gates.dtype == torch.bfloat16, f"found {half[0].dtype}, {half[1].gates.dtype}"


def test_probabilities_are_wide_in_half_precision():
    """In bfloat16 the softmax over 64 experts is taken in float32: gates differ from it by their own rounding alone.

    Source: Fedus et al. 2021, §2.4: selective precision, the router in float32.
    """
    router = TopKRouter(64, 64, top_k=1, normalize=False).bfloat16()
    router.weight.data = torch.eye(64, dtype=torch.bfloat16)
    x = normal(200, 64).bfloat16()
    wanted = x.double().softmax(-1).amax(-1, keepdim=True)
    laws.assert_close(router(x).gates.double(), wanted, rtol=2**-8, atol=0, because="bfloat16 has 8 bits")
    loss = load_balancing_loss(x, x.topk(1).indices)
    exact = 64 * (torch.bincount(x.argmax(-1), minlength=64) / 200 * x.double().softmax(-1).mean(0)).sum()
    laws.assert_close(loss.double(), exact, rtol=2**-8, atol=0, because="bfloat16 has 8 bits")


# ---------------------------------------------------------------------------------------------- noise


def test_noise_is_added_to_the_logits_in_training():
    """H(x) = x W_g + N(0, 1) · softplus(x W_noise): its standard deviation is that of each token and expert, 0 in eval.

    Source: Shazeer et al. 2017, eq. 4.  4000 samples: standard deviations are within 5 %, 4.5 standard errors;
    between two experts samples correlate by less than 0.08, 5 standard errors.
    """
    router = TopKRouter(6, 4, top_k=2, noisy=True).double()
    laws.assert_same(router.noise_weight.detach(), torch.zeros(4, 6, dtype=torch.float64))
    router.noise_weight.data = normal(4, 6, seed=1)
    x = normal(1, 6)
    clean = x @ router.weight.T
    laws.reseed(0)
    logits, gates, indices = router(x.expand(4000, 6))
    noise = logits - clean
    spread = nn.functional.softplus(x @ router.noise_weight.T)[0]
    laws.assert_close(noise.std(0), spread, rtol=0.05, atol=0, because="a standard deviation of 4000 samples")
    assert (noise.mean(0).abs() < 5 * spread / 4000**0.5).all(), f"expected a mean of 0, found {noise.mean(0).tolist()}"
    together = (noise / spread).T @ (noise / spread) / 4000 - torch.eye(4, dtype=torch.float64)
    assert together.fill_diagonal_(0).abs().max() < 0.08, f"expected independent noise, found {together.tolist()}"
    laws.assert_close(gates, logits.topk(2).values.softmax(-1))
    laws.assert_same(indices, logits.topk(2).indices)
    laws.gradient_reaches(gates.square().sum(), {"W_noise": router.noise_weight, "W_g": router.weight})
    laws.assert_close(router.eval()(x).logits, clean)
    plain = TopKRouter(6, 4).double()
    laws.assert_close(plain(x).logits, x @ plain.weight.T)


def test_weights_start_as_those_of_linear_layers():
    """Router and experts start uniform in ±1/√(width of their input).

    Convention: as torch.nn.Linear; 2 % of the bound and 5 % of the standard deviation for 20,000 elements and more.
    """
    laws.reseed(0)
    layer = MixtureOfExperts(100, 50, 64, gated=False)
    gated = MixtureOfExperts(100, 5, 64).experts
    for name, weight, width in (
        ("router", layer.gate.weight, 100),
        ("up", layer.experts.up_proj, 100),
        ("down", layer.experts.down_proj, 64),
        ("gate and up", gated.gate_up_proj, 100),
    ):
        top, spread = weight.abs().max() * width**0.5, weight.std() * (3 * width) ** 0.5
        assert 0.98 < top <= 1 + 1e-6 and 0.95 < spread < 1.05, f"{name}: found up to {top:.3f}, {spread:.3f}"


# ---------------------------------------------------------------------------------------------- capacity


@pytest.mark.parametrize(
    ("tokens", "experts", "k", "factor", "places"),
    [(100, 8, 1, 1.25, 16), (100, 8, 2, 1.0, 25), (10, 1, 1, 1.1, 11), (0, 3, 2, 2.0, 0), (7, 4, 1, 0.1, 1)],
)
def test_the_capacity_of_an_expert(tokens, experts, k, factor, places):
    """C = ⌈factor · k · tokens / experts⌉: 16 for 100 tokens, 8 experts and a factor of 1.25.

    Source: Fedus et al. 2021, eq. 3.  Convention: rounded up (15.6 is 15 elsewhere); a rounding error is no token.
    """
    assert expert_capacity(tokens, experts, k, factor) == places


@pytest.mark.states("dependence")
@given(seed=seeds(), factor=st.sampled_from([0.3, 0.5, 1.0, 1.5]), k=st.integers(1, 3))
def test_capacity_is_used_up_in_the_order_of_tokens(seed, factor, k):
    """An expert takes the first C tokens that chose it, a token's choices one after the other; the rest get 0 from it.

    Source: Fedus et al. 2021, §2.2: overflowing tokens pass by the residual connection.
    Convention: priority is the order of tokens, over the whole batch; gates of the others are not renormalised.
    """
    x = normal(2, 8, 6, seed=seed)
    layer = ready(seed, top_k=k, capacity_factor=factor)
    expected = by_hand(layer, x, k, places=math.ceil(factor * k * 16 / 4))
    laws.assert_close(layer(x)[0], expected)
    laws.assert_close(layer.eval()(x)[0], expected)


@pytest.mark.states("dependence")
def test_tokens_beyond_the_capacity_get_zero_and_no_gradient():
    """If every token chooses one expert of capacity 2, tokens 0 and 1 get it: the others' outputs and gradients are 0.

    Source: Fedus et al. 2021, §2.2.
    """
    layer = ready(top_k=1, normalize=False, capacity_factor=1.0)
    layer.gate.weight.data = torch.tensor([[1.0], [-1.0], [-1.0], [-1.0]], dtype=torch.float64).expand(4, 6).clone()
    x = normal(8, 6).abs().requires_grad_()
    output, _ = layer(x)
    laws.assert_close(output[:2], (x @ layer.gate.weight.T).softmax(-1)[:2, :1] * expert(layer, 0, x[:2]))
    laws.assert_same(output[2:].detach(), torch.zeros(6, 6, dtype=torch.float64))
    slope = torch.autograd.grad(output.sum(), x)[0]
    laws.assert_same(slope[2:], torch.zeros(6, 6, dtype=torch.float64))
    assert (slope[:2] != 0).any(1).all()


# ---------------------------------------------------------------------------------------------- cost


@pytest.mark.parametrize("k", [1, 2, 4])
def test_cost_is_that_of_the_chosen_experts(k):
    """T tokens cost at most k·T·6·d·h for SwiGLU, and 2·T·d·N for the router: only active experts are computed.

    Source: Shazeer et al. 2017, §1: more parameters without more computation; Jiang et al. 2024, §2.1.
    """
    for experts in (4, 8):
        layer = MixtureOfExperts(16, experts, 5, top_k=k)
        found = cost.flops(layer, torch.randn(30, 16))
        most = k * 30 * 6 * 16 * 5 + 2 * 30 * 16 * experts
        assert found <= most, f"expected up to {most:,} for {experts} experts, found {found:,}"


def test_cost_is_bounded_by_the_capacity():
    """With a capacity experts compute C rows each at most: N·C·4·d·h for ReLU experts, whatever tokens choose.

    Source: Lepikhin et al. 2020, §2.2, and Fedus et al. 2021, §2.2: static shapes, so experts compute full blocks.
    """
    for factor in (1.0, 1.7):
        layer = MixtureOfExperts(16, 4, 5, top_k=2, gated=False, capacity_factor=factor)
        found = cost.flops(layer, torch.randn(30, 16))
        wanted = 4 * math.ceil(factor * 15) * 4 * 16 * 5 + 2 * 30 * 16 * 4
        assert found <= wanted, f"expected up to {wanted:,} with a factor of {factor}, found {found:,}"


@pytest.mark.project_convention
def test_no_step_for_each_token():
    """As many operators run for 200 tokens as for 20: no loop over tokens, with a capacity none over experts either.

    Source: Lepikhin et al. 2020, §3: dispatch as products of whole tensors.  Operators are counted, not timed.
    Convention: a loop over experts is right as well.
    """

    def operators(tokens, experts, **options):
        layer = MixtureOfExperts(6, experts, 5, **options)
        return len(cost.operators(layer, torch.randn(tokens, 6, generator=torch.Generator().manual_seed(0))))

    for options in ({}, {"capacity_factor": 1.5}):
        assert operators(20, 4, **options) == operators(200, 4, **options)
    assert operators(50, 4, capacity_factor=1.5) == operators(50, 9, capacity_factor=1.5)


# ---------------------------------------------------------------------------------------------- balance


@given(seed=seeds(), k=st.integers(1, 4))
def test_the_balance_loss_is_switchs(seed, k):
    """N Σ_i f_i P_i with f_i the share of choices and P_i the mean probability, its gradient through P alone.

    Source: Fedus et al. 2021, eq. 4-6.  Convention: for k > 1, f is the share of all choices, so it sums to 1.
    """
    logits = normal(2, 6, 4, seed=seed).requires_grad_()
    indices = logits.topk(k).indices
    share = torch.stack([(indices == n).double().mean() for n in range(4)])
    wanted = 4 * (share * logits.softmax(-1).mean((0, 1))).sum()
    found = load_balancing_loss(logits, indices)
    laws.assert_close(found, wanted)
    laws.assert_close(torch.autograd.grad(found, logits)[0], torch.autograd.grad(wanted, logits)[0])


@pytest.mark.states("limiting case")
@pytest.mark.parametrize("experts", [2, 5])
def test_the_ends_of_the_balance_loss(experts):
    """1 for even routing, whatever k; N where all tokens are sure of one expert, N/k where they are of the same k.

    Source: Fedus et al. 2021, §2.2: under uniform routing Σ f P = 1/N.
    """
    even = torch.zeros(experts, experts, dtype=torch.float64)
    turns = torch.arange(experts)[:, None]
    one = torch.tensor(1.0, dtype=torch.float64)
    laws.assert_close(load_balancing_loss(even, turns), one)
    laws.assert_close(load_balancing_loss(even, torch.cat([turns, (turns + 1) % experts], 1)), one)
    sure = torch.zeros(7, experts, dtype=torch.float64)
    sure[:, 1] = 200
    laws.assert_close(load_balancing_loss(sure, torch.ones(7, 1, dtype=torch.long)), experts * one)
    sure[:, 0] = 200
    both = torch.tensor([[0, 1]]).expand(7, 2)
    laws.assert_close(load_balancing_loss(sure, both), experts / 2 * one)


def test_layers_are_balanced_one_by_one():
    """Two layers that send everything to one of 2 experts, each to another, cost 2 each; pooled they look even, cost 1.

    Source: Fedus et al. 2021, §2.2: for each Switch layer the loss is added.  transformers pools the layers.
    """
    sure = torch.zeros(2, 7, 2, dtype=torch.float64)
    sure[0, :, 0] = sure[1, :, 1] = 200
    indices = sure.argmax(-1, keepdim=True)
    each = torch.stack([load_balancing_loss(*layer) for layer in zip(sure, indices)])
    laws.assert_close(each, torch.full((2,), 2.0, dtype=torch.float64))
    laws.assert_close(load_balancing_loss(sure, indices), torch.tensor(1.0, dtype=torch.float64))


def test_padding_counts_nowhere():
    """With a mask the loss is that of the tokens alone, in float32 as well; of padding alone it is 0.

    Source: the definition of f and P as means over tokens; transformers' attention_mask.
    """
    logits, mask = normal(3, 5, 4), torch.arange(5) < torch.tensor([5, 2, 1])[:, None]
    indices = logits.topk(2).indices
    share = torch.bincount(indices[mask].flatten(), minlength=4) / 16
    wanted = 4 * (share * logits[mask].softmax(-1).mean(0)).sum()
    laws.assert_close(load_balancing_loss(logits, indices, mask), wanted)
    laws.assert_close(load_balancing_loss(logits.float(), indices, mask), wanted.float())
    alone = torch.zeros_like(mask)
    alone[1, 0] = True
    one = logits[1, 0].softmax(-1)[indices[1, 0]].sum() * 4 / 2
    laws.assert_close(load_balancing_loss(logits, indices, alone), one)
    nothing = load_balancing_loss(logits, indices, torch.zeros_like(mask))
    laws.assert_close(nothing, torch.tensor(0.0, dtype=torch.float64))


@given(seed=seeds())
def test_the_importance_loss_is_a_squared_variation(seed):
    """CV² = Var/mean² of Σ_tokens g_i: 0 for equal importance, N − 1 for one expert alone, free of scale.

    Source: Shazeer et al. 2017, eq. 6-7.  Convention: biased variance.
    """
    gates, indices = normal(2, 6, 2, seed=seed).exp().requires_grad_(), normal(2, 6, 4, seed=seed).topk(2).indices
    importance = torch.stack([(gates * (indices == n)).sum() for n in range(4)])
    wanted = importance.var(correction=0) / importance.mean().square()
    found = importance_loss(gates, indices, 4)
    laws.assert_close(found, wanted)
    laws.assert_close(torch.autograd.grad(found, gates)[0], torch.autograd.grad(wanted, gates)[0])
    laws.assert_close(importance_loss(3 * gates, indices, 4), wanted)


def test_the_importance_of_many_tokens_is_a_sum():
    """Of 4096 bfloat16 gates of ½, a quarter sent to one of 2 experts, CV² = ¼.

    Added up in 8 bits a sum ends at 128, where ½ is below half of a step: both experts seem to matter alike.

    Source: Shazeer et al. 2017, eq. 6-7; Fedus et al. 2021, §2.4, selective precision.
    """
    indices = (torch.arange(4096) % 4 > 0).long()[:, None]
    found = importance_loss(torch.full((4096, 1), 0.5, dtype=torch.bfloat16), indices, 2)
    laws.assert_close(found, torch.tensor(0.25, dtype=torch.bfloat16))


def test_the_z_loss_of_half_precision_is_finite():
    """mean (log Z)² of a few float16 logits of 400 among many small ones is finite: 400² is beyond float16.

    Source: Zoph et al. 2022, eq. 5; Fedus et al. 2021, §2.4, selective precision.
    """
    logits = normal(100, 8).half()
    logits[:3, 2] = 400
    wanted = logits.double().logsumexp(-1).square().mean()
    laws.assert_close(router_z_loss(logits).double(), wanted, rtol=2**-11, because="float16 has 11 bits")


def test_the_ends_of_the_importance_loss():
    """0 where experts matter alike, N − 1 where one has all of the weight.

    Source: Shazeer et al. 2017, eq. 6-7.
    """
    gates = torch.full((5, 1), 0.7, dtype=torch.float64)
    laws.assert_close(importance_loss(gates, torch.arange(5)[:, None], 5), torch.tensor(0.0, dtype=torch.float64))
    alone = importance_loss(gates, torch.full((5, 1), 3), 5)
    laws.assert_close(alone, torch.tensor(4.0, dtype=torch.float64))


@given(seed=seeds())
def test_the_z_loss_is_the_mean_of_squared_logarithms(seed):
    """mean (log Σ_i exp s_i)², finite for large logits: (log N)² for zeros, and growing with a common shift c as c².

    Source: Zoph et al. 2022, eq. 5.
    """
    logits = normal(2, 3, 4, seed=seed)
    total = logits.exp().sum(-1).log()
    laws.assert_close(router_z_loss(logits), (total**2).mean())
    laws.assert_close(router_z_loss(logits + 1000), ((total + 1000) ** 2).mean())
    zeros = torch.zeros(2, 3, 4, dtype=torch.float64)
    laws.assert_close(router_z_loss(zeros), torch.tensor(math.log(4) ** 2, dtype=torch.float64))
