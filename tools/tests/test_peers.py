"""Peers: whose code is accepted is counted, a rejection is an error, an absent library is named."""

import pytest

from tools import peers
from tools.roadmap import ROADMAP, RoadmapError, load

WRONG = """
def triple(x):
    return 4 * x
"""


@pytest.fixture
def peopled(house):
    """A house with two peers: `first` has both items, `second` one of them."""
    for peer, item in (("first", "double"), ("first", "triple"), ("second", "triple")):
        text = (house.root / f"impl/layers/{item}.py").read_text()
        house.write(f"spec/peers/{peer}/__init__.py", "")
        house.write(f"spec/peers/{peer}/layers/{item}.py", text)
    return house


def test_accepted_items_are_counted(peopled, capsys):
    assert peers.main([], [], peopled.root) == 0
    said = capsys.readouterr().out
    assert "first: 2 of 2 items accepted" in said and "second: 1 of 1 items accepted" in said
    assert "2 items accepted from other people's code, none rejected" in said


def test_a_rejected_peer_is_an_error(peopled, capsys):
    peopled.write("spec/peers/second/layers/triple.py", WRONG)
    assert peers.main([], [], peopled.root) == 1
    said = capsys.readouterr().out
    assert "second: 0 of 1 items accepted" in said
    assert "second: triple: " in said and "specs failed" in said


def test_a_peer_that_waits_for_everything_is_not_accepted(peopled, capsys):
    peopled.write("spec/peers/second/layers/triple.py", "def triple(x):\n    raise NotImplementedError\n")
    assert peers.main(["second"], [], peopled.root) == 1
    assert "second: triple: not written yet" in capsys.readouterr().out


def test_an_absent_library_is_named(peopled, capsys):
    text = (peopled.root / "spec/peers/second/layers/triple.py").read_text()
    peopled.write("spec/peers/second/layers/triple.py", "import no_such_library\n\n" + text)
    assert peers.main([], [], peopled.root) == 0
    assert "second: left out, no_such_library not installed" in capsys.readouterr().out
    with pytest.raises(RoadmapError, match="no_such_library"):
        peers.main(["second"], [], peopled.root)


def test_what_a_peer_carries_is_what_it_defines(peopled):
    roadmap = load(peopled.root / ROADMAP)
    assert peers.carried_items(peopled.root / "spec/peers/first", roadmap) == ["double", "triple"]
    peopled.write("spec/peers/first/layers/triple.py", "from math import sqrt as triple\n")
    assert "triple" in peers.carried_items(peopled.root / "spec/peers/first", roadmap)
    peopled.write("spec/peers/first/layers/triple.py", "other = 3\n")
    assert peers.carried_items(peopled.root / "spec/peers/first", roadmap) == ["double"]


def test_an_unknown_peer_is_an_error(peopled):
    with pytest.raises(RoadmapError, match="expected one of first, second"):
        peers.main(["third"], [], peopled.root)
