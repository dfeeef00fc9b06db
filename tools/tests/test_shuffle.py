"""Runs in random order: one seed is one order, on any number of workers, and a spec that depends on others is found."""

import re

import pytest

from tools import shuffle

DEPENDENT = '''
import pytest

pytestmark = pytest.mark.item("double")
SEEN = []


def test_a_writes():
    """Writing leaves a trace.

    Source: none.
    """
    SEEN.append(1)
    assert SEEN


def test_b_reads():
    """Reading expects nothing.

    Source: none.
    """
    assert not SEEN
'''


def order(house, *arguments):
    result = house.run("-v", *arguments)
    return [line.split("::")[1].split()[0] for line in result.outlines if "::" in line and "PASSED" in line]


def test_one_seed_is_one_order(house):
    orders = [order(house, "-n0", "--order-seed", str(seed)) for seed in (1, 1, 2)]
    assert len(orders[0]) == 6 and sorted(orders[0]) == sorted(orders[2])
    assert orders[0] == orders[1] != orders[2]


def test_a_shuffled_run_is_complete(house):
    result = house.run("-n2", "--order-seed", "3")
    assert result.ret == 0
    assert "2 of 3 done" in " ".join(result.outlines)


def test_a_broken_series_goes_on_as_if_it_were_not(house, capsys):
    shuffle.main(3, 0, ["triple"], root=house.root)
    whole = re.findall(r"(\d) workers, seed (\d)", capsys.readouterr().out)
    shuffle.main(1, 0, ["triple"], root=house.root)
    shuffle.main(2, 1, ["triple"], root=house.root)
    assert (
        re.findall(r"(\d) workers, seed (\d)", capsys.readouterr().out) == whole == [("0", "0"), ("1", "1"), ("2", "2")]
    )


@pytest.mark.parametrize("planted", [False, True])
def test_a_spec_that_depends_on_another_is_found(house, capsys, planted):
    if planted:
        house.write("spec/properties/test_order.py", DEPENDENT)
    assert shuffle.main(5, 0, [], root=house.root) == planted
    said = capsys.readouterr().out
    if planted:
        assert "test_b_reads" in said
        (workers, seed) = re.search(
            r"failed after \d green ones: (\d) workers, order and examples of (\d)", said
        ).groups()
        assert f"  again: python -m pytest -q -n{workers} --order-seed {seed} --hypothesis-seed {seed}\n" in said
        assert (
            f"[{int(seed) + 1}/5] {workers} workers, seed {seed}: FAILED" in said
            and f"seed {int(seed) + 1}:" not in said
        )
        assert f"  on:    python -m tools shuffle --runs {4 - int(seed)} --seed {int(seed) + 1}" in said
    else:
        assert [w for w in ("0", "1", "2", "4", "0") if f"] {w} workers" in said] and "[5/5] 0 workers, seed 4" in said
        assert re.search(r"5 runs in random order, seeds 0 to 4: none failed; \d+ to \d+ s each", said)
