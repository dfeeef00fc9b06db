"""Golden values: derived twice, frozen with their provenance, and derived again."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from spec import golden
from tools import golden as tool
from tools.install import BARE


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    """One recipe in an empty folder; its oracle and its inputs can be told to drift."""
    state = {"factor": 2.0, "second": 2.0, "off": 0, "ulps": 0}

    def generate(recipe):
        x = np.linspace(-1, 1, 5)
        tiny = np.array([1e-300, 3e-18, -0.7, 0.0, 5e20])
        tiny += state["off"] * np.where(tiny == 0, 0, np.spacing(tiny))
        recipe.given("x", x)
        recipe.given("weights", tiny, ulps=state["ulps"])
        recipe.expect("y", state["factor"] * x, second=state["second"] * x)

    source = golden.Source("double", "arithmetic", "addition", ("numpy",), generate)
    monkeypatch.setattr(golden, "FOLDER", tmp_path)
    monkeypatch.setattr(golden, "RECIPES", {"double": source})
    monkeypatch.setattr(tool, "_load_recipes", lambda: golden)
    return state, tmp_path


def run(update=False, installed=False, items=()):
    return tool.main(update, installed, list(items))


def test_frozen_values_stand(recipes):
    assert run(update=True) == 0
    assert run() == 0


def test_files_are_the_same_bytes_every_time(recipes):
    _, folder = recipes
    run(update=True)
    before = {f.name: f.read_bytes() for f in folder.iterdir()}
    run(update=True)
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before


def test_nothing_frozen_is_drift(recipes):
    assert run() == 1


def test_changed_number_is_drift(recipes, capsys):
    _, folder = recipes
    run(update=True)
    arrays = dict(np.load(folder / "double.npz"))
    arrays["y"][2] += 1e-3
    np.savez(folder / "double.npz", **arrays)
    assert run() == 1
    assert "edited" in capsys.readouterr().out


def test_drifting_oracle_is_drift(recipes, capsys):
    state, _ = recipes
    run(update=True)
    state["factor"] = state["second"] = 2 + 1e-9
    assert run() == 1
    assert "derived value differs" in capsys.readouterr().out


@pytest.mark.parametrize("ulps", [0, 1, 4, 8])
def test_ten_units_in_the_last_place_of_a_given_array_are_drift(recipes, capsys, ulps):
    """However small the element: 10 units of 1e-300 are drift, whatever number of units the recipe asks for."""
    state, _ = recipes
    state["ulps"] = ulps
    run(update=True)
    state["off"] = 10
    assert run() == 1
    assert f"double.weights: derived value differs by 10 > {ulps} units in the last place" in capsys.readouterr().out


@pytest.mark.parametrize("off", [1, 4, -4, 5, -5])
def test_a_computed_array_has_the_units_that_its_recipe_declares(recipes, off):
    state, folder = recipes
    state["ulps"] = 4
    run(update=True)
    assert '[double.given]\n"weights" = { ulps = 4 }' in (folder / "provenance.toml").read_text()
    state["off"] = off
    assert run() == int(abs(off) > 4)


def test_an_exact_array_has_no_room(recipes):
    state, folder = recipes
    run(update=True)
    assert "double.given" not in (folder / "provenance.toml").read_text()
    state["off"] = 1
    assert run() == 1


def test_units_that_were_not_frozen_are_drift(recipes, capsys):
    """A recipe cannot gain room without provenance.toml showing it."""
    state, _ = recipes
    run(update=True)
    state["ulps"] = 4
    assert run() == 1
    assert "the recipe allows {'weights': 4} units in the last place, provenance.toml {}" in capsys.readouterr().out


@pytest.mark.parametrize("ulps", [-1, 9])
def test_more_than_a_few_units_are_refused(ulps):
    with pytest.raises(ValueError, match="weights: expected 0 to 8 units in the last place, found"):
        golden.Recipe().given("weights", [0.5], ulps=ulps)


def test_derivations_that_part_are_drift(recipes, capsys):
    state, _ = recipes
    run(update=True)
    state["second"] = 2 + 1e-9
    assert run() == 1
    assert "two derivations now disagree" in capsys.readouterr().out


def test_tolerance_follows_from_the_disagreement(recipes):
    state, folder = recipes
    state["second"] = 2 + 3e-7
    run(update=True)
    text = (folder / "provenance.toml").read_text()
    assert 'oracle = "arithmetic"' in text and 'second = "addition"' in text and '"numpy" = ' in text
    # 3e-7·|x| against 1 + 2|x|: 1e-7 at |x| = 1, and four times that.
    assert '"y" = { disagreement = 1.0e-07, tolerance = 4e-07 }' in text


@pytest.mark.parametrize("second", [2.01, float("nan")])
def test_derivations_of_two_things_are_not_frozen(recipes, second):
    """A tolerance that follows from any disagreement would make a golden value of a mistake."""
    state, folder = recipes
    state["second"] = second
    with pytest.raises(SystemExit, match="y: expected two derivations within 0.0001, found"):
        run(update=True)
    assert not list(folder.iterdir())


def test_file_without_recipe_is_drift(recipes, capsys):
    _, folder = recipes
    run(update=True)
    np.savez(folder / "stray.npz", x=np.zeros(2))
    assert run() == 1
    assert "stray" in capsys.readouterr().out


def test_missing_oracle_is_said_and_not_passed_over(recipes, monkeypatch, capsys):
    run(update=True)
    monkeypatch.setattr(tool, "_installed", lambda distribution: False)
    assert run() == 2
    assert "missing oracles: numpy" in capsys.readouterr().out
    assert run(installed=True) == 0


def test_missing_oracle_does_not_hide_an_edited_file(recipes, monkeypatch):
    _, folder = recipes
    run(update=True)
    np.savez(folder / "double.npz", x=np.zeros(5), y=np.zeros(5))
    monkeypatch.setattr(tool, "_installed", lambda distribution: False)
    assert run(installed=True) == 1


def test_unknown_item_is_named(recipes, capsys):
    assert run(items=["triple"]) == 1
    assert "no recipe for triple" in capsys.readouterr().out


def test_objects_are_refused():
    with pytest.raises(TypeError, match="numbers"):
        golden.Recipe().given("x", np.array([{}], dtype=object))


def test_the_oracles_of_every_recipe_are_in_the_extra():
    """`make golden` installs what the recipes need, each at a pinned version."""
    root = Path(__file__).parents[2]
    extra = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]["oracles"]
    pinned = {line.partition("==")[0] for line in (root / "constraints.txt").read_text().splitlines()}
    texts = [f.read_text() for f in (root / "spec/golden/recipes").glob("*.py")]
    needs = {
        name
        for text in texts
        for group in re.findall(r"needs=\(([^)]*)\)", text)
        for name in re.findall(r'"(.+?)"', group)
    }
    bare = BARE["oracles"]  # without their own requirements
    assert needs and needs - {"numpy", "torch"} <= {*extra, *bare}
    assert needs <= pinned
