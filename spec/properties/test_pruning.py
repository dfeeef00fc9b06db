"""Lottery tickets: pruning by magnitude and rewinding.  Frankle & Carbin 2018, arXiv:1803.03635."""

import copy
import inspect
import io

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from impl.compression.pruning import LotteryTicket, magnitude_masks
from spec import cost, laws
from spec.cases.pruning import perceptron, pruned
from spec.strategies import floats, permutations, seeds, tensors, varied

pytestmark = pytest.mark.item("lottery-ticket")

SCOPES = pytest.mark.parametrize("scope", ["layer", "global"])


def random(*shape, seed: int = 0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layers(seed: int = 0):
    """Three layers of unequal size and scale; no two magnitudes are equal."""
    return {"a": random(4, 5, seed=seed), "b": 3 * random(7, 3, seed=seed + 1), "c": random(2, 3, 2, seed=seed + 2) / 3}


def counts(masks):
    return {name: int(m.sum()) for name, m in masks.items()}


def by_sorting(weights, amount, masks, scope):
    """The masks by another route: sort the pairs (magnitude, index) of what is left, and drop the first ones."""
    found = {name: m.clone() for name, m in masks.items()}
    for names in [[name] for name in weights] if scope == "layer" else [list(weights)]:
        ranked = sorted(
            (abs(weights[name].flatten()[n].item()), name, n)
            for name in names
            for n in range(weights[name].numel())
            if masks[name].flatten()[n]
        )
        for _, name, n in ranked[: round(amount * len(ranked))]:
            found[name].view(-1)[n] = False
    return found


def network(seed: int = 0):
    laws.reseed(seed)
    return nn.Sequential(nn.Linear(6, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 4)).double()


def train(net, optimizer, steps: int = 4, seed: int = 0):
    """A regression to noise; returns the optimizer, whose state outlives the call."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x, y = (torch.randn(5, n, generator=generator, dtype=torch.float64) for n in (6, 4))
        optimizer.zero_grad()
        (net(x) - y).square().sum().backward()
        optimizer.step()
    return optimizer


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=0.1)


def adamw(net):
    return torch.optim.AdamW(net.parameters(), lr=0.02, weight_decay=0.5)


def adam(net):
    return torch.optim.Adam(net.parameters(), lr=0.02, weight_decay=0.1)


OPTIMIZERS = pytest.mark.parametrize("optimizer", [sgd, adam, adamw])


def with_zeros(ticket):
    """A copy of the bare network with 0 written where the masks say so."""
    reference = copy.deepcopy(ticket.model)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if name in ticket.masks:
                parameter[~ticket.masks[name]] = 0.0
    return reference


def state_of(net):
    return {name: t.detach().clone() for name, t in net.state_dict().items()}


# ---------------------------------------------------------------------------------------------- masks


@given(weight=varied((5, 4)), amount=floats(0, 1))
@example(weight=torch.linspace(-3, 2, 20, dtype=torch.float64).view(5, 4), amount=0.125)  # 2.5 weights
@example(weight=torch.linspace(-3, 2, 20, dtype=torch.float64).view(5, 4), amount=0.175)  # 3.5 weights
def test_the_smallest_magnitudes_go(weight, amount):
    """A share p of n weights drops round(p·n) of them, and none that is kept is smaller in magnitude.

    Source: Frankle & Carbin 2018, §1, step 3: "prune p % of the parameters".
    Convention: halves round to even, as in torch.nn.utils.prune.
    """
    mask = magnitude_masks({"w": weight}, amount)["w"]
    assert mask.dtype == torch.bool and mask.shape == weight.shape
    dropped, kept = weight[~mask].abs(), weight[mask].abs()
    assert len(dropped) == round(amount * 20), f"expected {round(amount * 20)} dropped, found {len(dropped)}"
    if len(dropped) and len(kept):
        assert dropped.max() <= kept.min(), f"expected the smallest dropped, found {dropped.max()} > {kept.min()}"


@SCOPES
@given(weight=tensors((4, 5), low=-0.0625, high=0.0625), amount=floats(0, 1))
def test_ties_leave_the_count_exact(scope, weight, amount):
    """Where magnitudes tie, exactly round(p·n) weights go: a threshold alone would take all of them or none.

    Source: Frankle & Carbin 2018, §1, step 3.  Convention: which of the tied weights go is left open.
    """
    mask = magnitude_masks({"w": weight}, amount, scope=scope)["w"]
    dropped, kept = weight[~mask].abs(), weight[mask].abs()
    assert len(dropped) == round(amount * 20), f"expected {round(amount * 20)} dropped, found {len(dropped)}"
    if len(dropped) and len(kept):
        assert dropped.max() <= kept.min(), "expected the smallest dropped"


@given(seed=seeds(), order=permutations(20))
def test_magnitude_and_nothing_else_decides(seed, order):
    """Signs, the scale of a layer and the order of its weights are no information: the mask moves with the weights.

    Source: Frankle & Carbin 2018, §2: "the lowest-magnitude weights", layer by layer.
    """
    weight = random(20, seed=seed)
    signs = torch.randint(0, 2, (20,), generator=torch.Generator().manual_seed(seed)) * 2 - 1

    def mask(w):
        return magnitude_masks({"w": w}, 0.3)["w"]

    laws.invariant(mask, weight, lambda w: w * signs)
    laws.invariant(mask, weight, lambda w: 17 * w)
    laws.equivariant(mask, weight, lambda w: w[order])
    laws.assert_close(mask(weight.view(4, 5).T), mask(weight).view(4, 5).T)


@SCOPES
def test_each_round_counts_what_is_left(scope):
    """A round drops round(p·left) of the weights left: pruned ones neither count nor come back, whatever they are now.

    Source: Frankle & Carbin 2018, §1: each round prunes p^(1/n) % of the weights "that survive the previous round".
    """
    masks, sizes, total = None, {"a": 20, "b": 21, "c": 12}, 53
    for n in range(4):
        weights = layers(seed=10 * n)
        if masks is not None:
            weights = {name: torch.where(masks[name], w, 100.0 * w) for name, w in weights.items()}
        before, masks = masks, magnitude_masks(weights, 0.3, masks, scope)
        left = {name: w[m].abs() for (name, w), m in zip(weights.items(), masks.values())}
        if before is not None:
            for name, m in masks.items():
                assert not (m & ~before[name]).any(), f"expected nothing of {name} to come back"
        if scope == "layer":
            sizes = {name: size - round(0.3 * size) for name, size in sizes.items()}
            assert counts(masks) == sizes, f"expected {sizes} left, found {counts(masks)}"
        else:
            total -= round(0.3 * total)
            assert sum(counts(masks).values()) == total, f"expected {total} left, found {counts(masks)}"
        for name in left if before is not None and scope == "layer" else ():
            gone = weights[name][before[name] & ~masks[name]].abs()
            assert gone.max() < left[name].min(), f"expected the smallest of those left of {name} to go"


def test_zeros_of_earlier_rounds_do_not_count():
    """Weights (0, 0, 0, 0, 1, 2, −3, 4), the zeros pruned before: half of the four that are left goes, not the zeros.

    Source: Frankle & Carbin 2018, §1, step 3, in the second round.
    """
    weight = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 2.0, -3.0, 4.0], dtype=torch.float64)
    mask = magnitude_masks({"w": weight}, 0.5, {"w": weight != 0})["w"]
    assert mask.tolist() == [False] * 6 + [True] * 2


@given(seed=seeds(), amount=floats(0, 1))
def test_global_ranks_all_layers_as_one(seed, amount):
    """Scope "global" drops the smallest of all weights that are left, whichever layer they are in.

    Source: Frankle & Carbin 2018, §4: "prune deeper networks globally, removing the lowest-magnitude weights
    collectively across all layers".
    """
    weights = layers(seed)
    start = {name: w > -1 for name, w in layers(seed + 1).items()}
    expected = by_sorting(weights, amount, start, "global")
    found = magnitude_masks(weights, amount, start, scope="global")
    assert list(found) == list(weights)
    for name, mask in found.items():
        laws.assert_close(mask, expected[name], what=name)


def test_layers_are_spared_by_global_ranking_or_not():
    """Layer by layer each layer loses its share; globally the layer with the small weights loses more, here nearly all.

    Source: Frankle & Carbin 2018, §4: pruned "at the same rate", small layers become bottlenecks.
    """
    weights = layers()
    each, together = magnitude_masks(weights, 0.4), magnitude_masks(weights, 0.4, scope="global")
    assert counts(each) == {"a": 12, "b": 13, "c": 7}
    found = counts(together)
    assert sum(found.values()) == 32 and found["b"] > 17 and found["c"] < 4, f"expected few of c kept, found {found}"


def test_a_share_for_each_layer():
    """A mapping gives every layer its own share.

    Source: Frankle & Carbin 2018, §2: connections to outputs are pruned at half the rate of the rest.
    """
    found = magnitude_masks(layers(), {"a": 0.2, "b": 1.0, "c": 0.0})
    assert counts(found) == {"a": 16, "b": 0, "c": 12}
    same = magnitude_masks(layers(), {"a": 0.4, "b": 0.4, "c": 0.4}, scope="global")
    assert sum(counts(same).values()) == 32


def test_the_defaults_are_a_fifth_of_each_layer():
    """p = 20 %, ranked layer by layer, all weights left.

    Source: Frankle & Carbin 2018, figure 2: LeNet's rate is 20 %; §2: pruned layer by layer.
    """
    assert counts(magnitude_masks(layers())) == {"a": 16, "b": 17, "c": 10}
    ticket = LotteryTicket(perceptron())
    ticket.prune()
    assert counts(ticket.masks) == {"0.weight": 45, "2.weight": 32}
    assert list(inspect.signature(magnitude_masks).parameters) == ["weights", "amount", "masks", "scope"]
    assert list(inspect.signature(LotteryTicket.__init__).parameters)[1:] == ["model", "amount", "scope"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_weights_of_every_dtype(dtype):
    """The count is exact in 8 bits of mantissa too, where many magnitudes tie; weights and masks are left alone.

    Source: Frankle & Carbin 2018, §1, step 3.
    """
    weight = random(40, 9).to(dtype).requires_grad_()
    start = random(40, 9, seed=1) > -1
    left, copies = int(start.sum()), (weight.detach().clone(), start.clone())
    for scope in ("layer", "global"):
        mask = magnitude_masks({"w": weight}, 0.37, {"w": start}, scope)["w"]
        assert int(mask.sum()) == left - round(0.37 * left)
        assert weight.detach().abs()[mask].min() >= weight.detach().abs()[start & ~mask].max()
        assert mask.data_ptr() != start.data_ptr() and not mask.requires_grad
    laws.assert_same(weight.detach(), copies[0])
    laws.assert_same(start, copies[1])


@pytest.mark.states("limiting case")
def test_nothing_to_rank():
    """No layers, a layer without weights, or one of which nothing is left give masks of the same kind.

    Convention: no weights are no error.
    """
    assert magnitude_masks({}, 0.5) == magnitude_masks({}, 0.5, scope="global") == {}
    empty = magnitude_masks({"e": random(0, 3), "w": random(2, 3)}, 0.5)
    assert empty["e"].shape == (0, 3) and counts(empty) == {"e": 0, "w": 3}
    gone = magnitude_masks({"w": random(2, 3)}, 0.5, {"w": random(2, 3) > 99})
    assert counts(gone) == {"w": 0}


# ---------------------------------------------------------------------------------------------- under a mask


@pytest.mark.states("limiting case")
def test_a_new_ticket_is_its_network():
    """Before the first round every mask keeps all: bitwise the outputs of the network, a density of 1.

    Source: Frankle & Carbin 2018, §1, step 1: f(x; θ₀).
    """
    ticket, x = LotteryTicket(network()), random(5, 6)
    laws.assert_same(ticket(x), network()(x))
    assert ticket.density() == 1.0
    assert all(m.all() and m.dtype == torch.bool for m in ticket.masks.values())
    assert ticket.model.training and not ticket.eval().model.training


@pytest.mark.states("equivalence")
@SCOPES
def test_a_pruned_network_is_the_network_with_zeros(scope):
    """The ticket's output is f(x; m ⊙ θ): that of the bare network with 0 where m is 0, in training and evaluation.

    Source: Frankle & Carbin 2018, §1: f(x; m ⊙ θ).
    """
    ticket, x = pruned(network(), 0.4, scope), random(5, 6)
    train(ticket, adamw(ticket))
    for mode in (True, False):
        laws.assert_close(ticket.train(mode)(x), with_zeros(ticket).train(mode)(x).detach())
    for name, weight in ticket.weights().items():
        mask = ticket.masks[name]
        laws.assert_same(weight[mask], dict(ticket.model.named_parameters())[name][mask])
        assert (weight[~mask] == 0).all() and (~mask).any(), f"expected zeros in {name}"


def test_an_output_needs_only_the_weights_left():
    """Output i of a pruned linear layer depends on input j just where the mask keeps the weight (i, j).

    Source: Frankle & Carbin 2018, §1: m ⊙ θ.
    """
    laws.reseed(0)
    ticket = pruned(nn.Linear(6, 4).double(), 0.4)
    laws.depends_only_on(ticket, random(6), ticket.masks["weight"])


@pytest.mark.states("gradient routing")
def test_gradients_go_to_the_weights_left():
    """∂L/∂θ = m ⊙ ∂L/∂(m ⊙ θ): pruned weights get none, the others what they get in the network with zeros.

    Source: Frankle & Carbin 2018, §1, by the chain rule.
    """
    ticket, x, cotangent = pruned(network(), 0.4), random(5, 6), random(5, 4, seed=1)
    reference = with_zeros(ticket)
    names = [name for name, _ in reference.named_parameters()]
    found = torch.autograd.grad(ticket(x), ticket.parameters(), cotangent)
    expected = torch.autograd.grad(reference(x), reference.parameters(), cotangent)
    assert names == [n.removeprefix("model.") for n, _ in ticket.named_parameters()]
    for name, a, b in zip(names, found, expected, strict=True):
        laws.assert_close(a, b * ticket.masks[name] if name in ticket.masks else b, what=name)


def test_second_derivatives_are_right():
    """The gradient of the gradient equals central differences, for inputs and parameters.

    Source: the definition of the derivative.
    """
    laws.gradient_correct(pruned(perceptron().double(), 0.4), random(2, 7), second_order=True)


def test_a_mask_costs_no_matrix_product():
    """The ticket runs the matrix products of its network and no others; what is 0 is multiplied as well.

    Source: Frankle & Carbin 2018, §6: unstructured sparsity saves weights, not time on the hardware at hand.
    """
    ticket, x = pruned(network(), 0.4), random(5, 6)
    assert cost.flops(ticket, x) == cost.flops(ticket.model, x) > 0


# ---------------------------------------------------------------------------------------------- which weights


def test_biases_and_gains_stay():
    """A share for all is one for every parameter of two dimensions or more: no bias, no gain of a norm.

    Source: Frankle & Carbin 2018, §2: weights.  Convention: dimensions tell weights from biases and gains.
    """
    laws.reseed(0)
    model = nn.Sequential(nn.Conv1d(3, 4, 2), nn.BatchNorm1d(4), nn.Flatten(), nn.Linear(12, 5))
    ticket, before = LotteryTicket(model, 0.5), state_of(model)
    ticket.prune()
    assert counts(ticket.masks) == {"0.weight": 12, "3.weight": 30}
    for name in set(before) - set(ticket.masks):
        laws.assert_same(model.state_dict()[name], before[name], what=name)


def test_what_is_named_is_pruned_and_nothing_else():
    """A mapping prunes the parameters that it names, each by its share, biases included.

    Convention: names as in named_parameters().
    """
    ticket = LotteryTicket(perceptron(), {"2.weight": 0.5, "0.bias": 0.25})
    ticket.prune()
    assert counts(ticket.masks) == {"2.weight": 20, "0.bias": 6}
    laws.assert_close(torch.tensor(ticket.density()), torch.tensor(26 / 48))
    x = random(3, 7).float()
    laws.assert_close(ticket(x), with_zeros(ticket)(x).detach())


@given(amount=st.sampled_from([0.1, 0.2, 0.4]))
def test_rounds_leave_the_powers_of_a_share(amount):
    """After n rounds each layer holds what n exact roundings of (1 − p) leave: (1 − p)ⁿ but for whole weights.

    Source: Frankle & Carbin 2018, §1: n rounds prune p^(1/n) % each.
    """
    ticket, left = LotteryTicket(perceptron(), amount), {"0.weight": 56, "2.weight": 40}
    for n in range(1, 6):
        ticket.prune()
        left = {name: size - round(amount * size) for name, size in left.items()}
        assert counts(ticket.masks) == left, f"expected {left} after {n} rounds, found {counts(ticket.masks)}"
        laws.assert_close(torch.tensor(ticket.density()), torch.tensor(sum(left.values()) / 96))
        assert abs(ticket.density() - (1 - amount) ** n) < 0.03


@SCOPES
def test_a_round_takes_the_smallest_of_the_trained_weights(scope):
    """`prune` ranks the weights as training left them, not as they began, and leaves those that it keeps as they are.

    Source: Frankle & Carbin 2018, §1, steps 2 and 3.
    """
    ticket = pruned(network(), 0.3, scope)
    train(ticket, adamw(ticket))
    before, trained = {n: m.clone() for n, m in ticket.masks.items()}, state_of(ticket.model)
    expected = by_sorting({n: trained[n] for n in before}, 0.3, before, scope)
    first = by_sorting({n: network().state_dict()[n] for n in before}, 0.3, before, scope)
    assert any((expected[n] != first[n]).any() for n in before), "expected training to change the ranking"
    ticket.prune()
    for name, mask in ticket.masks.items():
        laws.assert_close(mask, expected[name], what=name)
        laws.assert_same(dict(ticket.model.named_parameters())[name][mask], trained[name][mask], what=name)
    for name in set(trained) - set(before):
        laws.assert_same(ticket.model.state_dict()[name], trained[name], what=name)


# ---------------------------------------------------------------------------------------------- rewinding


@OPTIMIZERS
def test_rewinding_is_exact(optimizer):
    """After any training every weight left, bias, gain and running statistic has the bits that it began with.

    Source: Frankle & Carbin 2018, §1, step 4: "reset the remaining parameters to their values in θ₀".
    """
    ticket, first = LotteryTicket(network(), 0.4), state_of(network())
    for _ in range(3):
        train(ticket, optimizer(ticket))
        laws.assert_differs(ticket.model.state_dict()["0.bias"], first["0.bias"], by=1e-3)
        laws.assert_differs(ticket.model.state_dict()["1.running_mean"], first["1.running_mean"], by=1e-3)
        ticket.prune()
        ticket.rewind()
        for name, value in ticket.model.state_dict().items():
            kept = ticket.masks.get(name, torch.ones_like(value, dtype=torch.bool))
            laws.assert_same(value[kept], first[name][kept], what=name)
            assert (value[~kept] == 0).all(), f"expected 0 where {name} is pruned"


def test_a_rewound_ticket_trains_as_a_fresh_one():
    """From there on it is the training of f(x; m ⊙ θ₀): bitwise equal to that of a new network under the same masks.

    Source: Frankle & Carbin 2018, §1: "train f(x; m ⊙ θ₀)" in isolation.
    """
    ticket = LotteryTicket(network(), 0.4)
    train(ticket, sgd(ticket))
    ticket.prune()
    ticket.rewind()
    fresh = LotteryTicket(network(), 0.4)
    for name, mask in fresh.masks.items():
        mask.copy_(ticket.masks[name])
    train(ticket, adamw(ticket), seed=5)
    train(fresh, adamw(fresh), seed=5)
    for name, weight in fresh.weights().items():
        laws.assert_same(ticket.weights()[name].detach(), weight.detach(), what=name)


def test_it_rewinds_to_where_it_was_made():
    """θ₀ is the network as it was handed over: a few steps into training for late rewinding.

    Source: Frankle, Dziugaite, Roy & Carbin 2019, arXiv:1912.05671, §2.
    """
    model = network()
    train(model, sgd(model), steps=2)
    early = state_of(model)
    ticket = LotteryTicket(model, 0.4)
    train(ticket, sgd(ticket))
    ticket.prune()
    ticket.rewind()
    laws.assert_same(model.state_dict()["3.bias"], early["3.bias"])
    mask = ticket.masks["0.weight"]
    laws.assert_same(model.state_dict()["0.weight"][mask], early["0.weight"][mask])
    laws.assert_differs(early["0.weight"], network().state_dict()["0.weight"], by=1e-3)


def test_parameters_stay_the_same_objects():
    """Pruning and rewinding write into the network's own parameters, so optimizers and callers keep hold of them.

    Source: the contract of torch.optim: an optimizer holds parameters by reference.
    """
    model = network()
    handed = list(model.parameters())
    ticket = LotteryTicket(model, 0.4)
    train(ticket, sgd(ticket))
    ticket.prune()
    ticket.rewind()
    assert all(a is b for a, b in zip(handed, ticket.parameters(), strict=True))
    assert all(p.requires_grad and p.is_leaf for p in handed)


@pytest.mark.states("limiting case")
def test_a_share_of_zero_is_ordinary_training():
    """At p = 0 rounds keep every weight, and training under the masks gives the bits of training without.

    Source: Frankle & Carbin 2018, §1, at p = 0.
    """
    plain, ticket = network(), LotteryTicket(network(), 0.0)
    train(ticket, adamw(ticket), seed=3)
    ticket.prune()
    ticket.rewind()
    train(plain, adamw(plain))
    train(ticket, adamw(ticket))
    assert ticket.density() == 1.0
    for name, value in plain.state_dict().items():
        laws.assert_same(ticket.model.state_dict()[name], value, what=name)


# ---------------------------------------------------------------------------------------------- what is pruned stays so


@OPTIMIZERS
def test_pruned_weights_stay_zero_through_training(optimizer):
    """With momentum, Adam's moments and weight decay, pruned parameters are exactly 0 after every step; others move.

    Source: Frankle & Carbin 2018, §1: m is fixed while f(x; m ⊙ θ) trains.
    """
    ticket = LotteryTicket(network(), 0.4)
    train(ticket, optimizer(ticket))
    ticket.prune()
    ticket.rewind()
    before = state_of(ticket.model)
    train(ticket, optimizer(ticket), steps=6)
    for name, mask in ticket.masks.items():
        stored = dict(ticket.model.named_parameters())[name]
        assert (stored[~mask] == 0).all(), f"expected {name} exactly 0 where it is pruned"
        assert (stored[mask] != before[name][mask]).all(), f"expected the rest of {name} to train"


@OPTIMIZERS
def test_an_old_optimizer_revives_nothing(optimizer):
    """Pruned in mid-run, under an optimizer whose momentum still pushes, the network computes with zeros all the same.

    Source: Frankle & Carbin 2018, §1; masks that are applied once, or to gradients alone, let momentum regrow weights.
    """
    ticket, x = LotteryTicket(network(), 0.4), random(5, 6)
    running = train(ticket, optimizer(ticket))
    ticket.prune()
    train(ticket, running)
    for name, weight in ticket.weights().items():
        assert (weight[~ticket.masks[name]] == 0).all(), f"expected {name} exactly 0 where it is pruned"
    laws.assert_close(ticket(x), with_zeros(ticket)(x).detach())
    before = {name: mask.clone() for name, mask in ticket.masks.items()}
    ticket.prune()
    for name, mask in ticket.masks.items():
        assert not (mask & ~before[name]).any(), f"expected nothing of {name} to come back"
        stored = dict(ticket.model.named_parameters())[name]
        assert (stored[~mask] == 0).all(), f"expected {name} cleared by the next round"


def test_state_holds_weights_masks_and_the_beginning():
    """A state dict, loaded with weights_only=True into a ticket of another network, brings θ, m and θ₀ along.

    Source: Frankle & Carbin 2018, §1: a ticket is a mask and an initialisation.
    """
    ticket, other = pruned(network(), 0.4), LotteryTicket(network(seed=9), 0.4)
    train(ticket, sgd(ticket))
    file = io.BytesIO()
    torch.save(ticket.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for name, mask in ticket.masks.items():
        laws.assert_close(other.masks[name], mask, what=name)
    x = random(5, 6)
    laws.assert_same(other.eval()(x), ticket.eval()(x))
    train(other, adamw(other))
    for name, weight in other.weights().items():
        assert (weight[~ticket.masks[name]] == 0).all(), f"expected {name} exactly 0 where it is pruned"
    other.rewind()
    ticket.rewind()
    for name, value in ticket.model.state_dict().items():
        laws.assert_same(other.model.state_dict()[name], value, what=name)


def test_weights_of_a_plain_network_load_and_stay_pruned():
    """Dense weights loaded into the ticket's network change what is left, and revive nothing.

    Source: Frankle & Carbin 2018, §1: the mask belongs to the structure, not to the values; §2's control experiment
    puts random values under it.
    """
    ticket, x = pruned(network(), 0.4), random(5, 6)
    masks = {name: mask.clone() for name, mask in ticket.masks.items()}
    ticket.model.load_state_dict(network(seed=9).state_dict())
    for name, weight in ticket.weights().items():
        laws.assert_close(weight.detach(), network(seed=9).state_dict()[name] * masks[name], what=name)
    laws.assert_close(ticket(x), with_zeros(ticket)(x).detach())


def test_a_ticket_leaves_as_a_plain_network():
    """Rewound or pruned, the network inside is the ticket: its state dict works in the network without this class.

    Source: Frankle & Carbin 2018, §1: f(x; m ⊙ θ₀) is a network.
    """
    for finish in (LotteryTicket.prune, LotteryTicket.rewind):
        ticket, plain, x = pruned(network(), 0.3), network(seed=9), random(5, 6)
        train(ticket, sgd(ticket))
        finish(ticket)
        plain.load_state_dict(ticket.model.state_dict())
        laws.assert_close(plain.eval()(x), ticket.eval()(x).detach())


def test_masks_follow_a_change_of_dtype():
    """After .float() the masks are still boolean, rewinding gives the first weights rounded, and training goes on.

    Source: the contract of torch.nn.Module.to: floating tensors alone are cast.
    """
    ticket, first = pruned(network(), 0.4).float(), network().float().state_dict()
    train(ticket.double().float(), sgd(ticket.double()))
    ticket.float().rewind()
    for name, mask in ticket.masks.items():
        assert mask.dtype == torch.bool
        laws.assert_same(ticket.model.state_dict()[name][mask], first[name][mask], what=name)


def test_networks_with_several_inputs():
    """Every positional input reaches the network.

    Convention: the wrapper adds a mask and no interface.
    """
    laws.reseed(0)
    ticket = pruned(nn.Bilinear(3, 4, 5).double(), 0.4)
    a, b = random(2, 3), random(2, 4, seed=1)
    laws.assert_close(ticket(a, b), with_zeros(ticket)(a, b).detach())


def test_tied_weights_share_a_mask():
    """Where two layers share one matrix, one mask hides its weights in both.

    Source: Frankle & Carbin 2018, §1: m has an entry for each parameter; language models tie the first and last matrix.
    """
    laws.reseed(0)
    tied = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5)).double()
    tied[2].weight = tied[0].weight
    ticket, x = pruned(tied, 0.4), random(3, 5)
    train_all = torch.optim.SGD(ticket.parameters(), lr=0.1, momentum=0.9)
    ticket(x).square().sum().backward()
    train_all.step()
    weight = ticket.weights()["0.weight"]
    assert list(ticket.masks) == ["0.weight"] and int((weight == 0).sum()) == 16
    hidden = (x @ weight.T + tied[0].bias).tanh()
    laws.assert_close(ticket(x), (hidden @ weight.T + tied[2].bias).detach())
