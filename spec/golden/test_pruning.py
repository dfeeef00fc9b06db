"""Golden values of pruning by magnitude.  Frankle & Carbin 2018, arXiv:1803.03635."""

import pytest
import torch
from torch import nn

from impl.compression.pruning import LotteryTicket, magnitude_masks
from spec import laws
from spec.golden import load

pytestmark = pytest.mark.item("lottery-ticket")

LAYERS = ("first", "second", "third")


@pytest.mark.states("equivalence")
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_three_rounds_agree_with_torch(scope):
    """Masks of three rounds at 30 %, each with other weights, are those of torch.nn.utils.prune and of NumPy.

    Source: Frankle & Carbin 2018, §1.  Convention: torch.nn.utils.prune.l1_unstructured, global_unstructured.
    """
    golden, masks = load("lottery-ticket"), None
    for n in range(3):
        masks = magnitude_masks({name: golden[f"{name}.{n}"] for name in LAYERS}, 0.3, masks, scope)
        for name in LAYERS:
            golden.check(f"{scope}.{n}.{name}", masks[name])


def test_five_weights_by_hand():
    """Of (0.1, −0.5, 0.3, −0.2, 0.4) 40 % go: 0.1 and −0.2; of the three left again 40 %, one: 0.3.

    Source: Frankle & Carbin 2018, §1, by hand: round(2) and round(1.2).
    """
    weight = torch.tensor([0.1, -0.5, 0.3, -0.2, 0.4], dtype=torch.float64)
    first = magnitude_masks({"w": weight}, 0.4)
    laws.assert_close(first["w"], torch.tensor([False, True, True, False, True]))
    laws.assert_close(magnitude_masks({"w": weight}, 0.4, first)["w"], torch.tensor([False, True, False, False, True]))


def test_densities_of_the_papers_lenet():
    """LeNet-300-100 has 266 200 weights; 20 % a round and 10 % of the output leave 51.3, 21.1, 7.0, 3.6 and 1.9 %.

    After 3, 7, 12, 15 and 18 rounds; and after each round the exact number in each layer.

    Source: Frankle & Carbin 2018, figures 2, 3 and 4a: their P_m.
    """
    golden = load("lottery-ticket")
    torch.manual_seed(0)
    lenet = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))
    ticket = LotteryTicket(lenet, {"0.weight": 0.2, "2.weight": 0.2, "4.weight": 0.1})
    assert sum(m.numel() for m in ticket.masks.values()) == 266_200
    left, densities = [], []
    for _ in range(18):
        ticket.prune()
        left.append([int(m.sum()) for m in ticket.masks.values()])
        densities.append(round(100 * ticket.density(), 1))
    golden.check("lenet.left", torch.tensor(left))
    found = [densities[n - 1] for n in (3, 7, 12, 15, 18)]
    assert found == [51.3, 21.1, 7.0, 3.6, 1.9], f"expected the paper's densities, found {found}"
