"""The roadmap's one list: complete, checked, and clear about what is wrong with it."""

from pathlib import Path

import pytest
from conftest import ROADMAP

from tools.roadmap import RoadmapError, load

REPOSITORY = Path(__file__).parents[2]


def test_the_repository_has_77_items_in_nine_sections():
    roadmap = load(REPOSITORY / "spec/roadmap.toml")
    assert len(roadmap.items) == 77
    assert len(roadmap.sections) == 9
    first, *_, last = roadmap.items.values()
    assert (first.id, first.topic, first.path) == ("batch-norm", "normalization", "impl/layers/normalization.py")
    assert last.id == "sam"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('{id = "triple"', '{id = "double"', r":9: duplicate id 'double'.*first: line 8"),
        ('title = "Tripling"', 'titel = "Tripling"', r":9: unknown key 'titel'.*did you mean 'title'"),
        (
            'papers = ["Euclid, book III"]',
            "papers = []",
            r":18: item 'curve': expected papers = a list of at least one",
        ),
        (', papers = ["Euclid, book III"]', "", r":18: item 'curve': expected papers"),
        ('"Curves", papers = ["Euclid, book III"]', '"Curves", papers = [3]', r"expected papers to hold strings"),
        ('id = "curve"', 'id = "Curve"', r"expected an id in lower-case words.*'Curve'"),
        ('"impl.models.curve"', '"models.curve"', r"expected module = a dotted path under impl"),
        ('[[section]]\ntitle = "Geometry"', '[[section]]\nname = "Geometry"', r"expected a title for the section"),
        ('title = "Curves"\nitem', 'title = "Curves"\nitems', r"unknown key 'items' in group 'Curves'"),
        ('title = "Curves"\nitem = [', 'title = "Curves"\nitem = [[', r"not valid TOML"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, old, new, complaint):
    assert ROADMAP.count(old) == 1
    file = tmp_path / "roadmap.toml"
    file.write_text(ROADMAP.replace(old, new))
    with pytest.raises(RoadmapError, match=complaint):
        load(file)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(RoadmapError, match="found no such file"):
        load(tmp_path / "roadmap.toml")


def test_mistyped_id_suggests_the_nearest():
    with pytest.raises(RoadmapError, match="did you mean 'batch-norm'"):
        load(REPOSITORY / "spec/roadmap.toml").find("batchnorm")


def test_broken_roadmap_stops_pytest_with_one_line(house):
    house.edit("spec/roadmap.toml", 'id = "triple"', 'id = "double"')
    result = house.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "duplicate id 'double'" in result.stderr.str()
    assert "Traceback" not in result.stderr.str()
