"""A module of the roadmap may be a package: its page, other modules, and implementations in a single file."""

import importlib
import sys

import pytest

from tools import mutants, peers, subject
from tools.roadmap import ROADMAP, load

PAGE = '''
"""Curves: the page."""

from ...layers.arc import arc
from .lines import line

__all__ = ["Curve", "arc", "line"]


def Curve(x):
    """A curve of a line."""
    return 2 * line(x)
'''

LINE = '''
"""Lines."""

from ._ruler import length


def line(x):
    """A line."""
    return length(x)
'''

ARC = '''
"""Arcs."""


def arc(x):
    """An arc."""
    return x


def other(x):
    return x
'''

FLAT = '''
"""Curves in one file."""


def Curve(x):
    """A curve of a line."""
    return 20 * x
'''

SPEC = '''
"""Curves."""

import pytest

from impl.models.curve import Curve, line

pytestmark = pytest.mark.item("curve")


def test_a_curve_is_twice_its_line():
    """A curve is twice its line.

    Source: Euclid, book III.
    """
    assert Curve(3) == 2 * line(3)
'''


@pytest.fixture
def curved(house):
    """A house whose item `curve` is a package of a page, a public and a private module, and a layer."""
    house.write("impl/models/__init__.py", "")
    house.write("impl/models/curve/__init__.py", PAGE)
    house.write("impl/models/curve/lines.py", LINE)
    house.write("impl/models/curve/_ruler.py", '"""Rulers."""\n\n\ndef length(x):\n    """x."""\n    return x\n')
    house.write("impl/models/curve/__main__.py", '"""Draws."""\n\nfrom .lines import line\n\nprint(line(1))\n')
    house.write(
        "impl/layers/arc.py",
        '"""Arcs."""\n\n\ndef arc(x):\n    """An arc."""\n    return x\n\n\ndef other(x):\n    return x\n',
    )
    house.edit("spec/roadmap.toml", 'names = ["Curve"]', 'names = ["Curve", "arc", "line"]')
    for kind in ("properties", "golden", "behaviours"):
        house.write(f"spec/{kind}/test_curve_{kind}.py", SPEC)
    return house


@pytest.fixture
def installed(curved, monkeypatch):
    """A function that makes a subject of the house the one that is imported, until the test ends."""

    def loaded():
        return {n: module for n, module in sys.modules.items() if n.partition(".")[0] in ("impl", subject.LENDER)}

    before = loaded()
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])

    def install(name="impl", borrow=False):
        subject.install(subject.resolve(name, curved.root, borrow))
        return importlib.import_module("impl.models.curve")

    yield install
    for name in loaded():
        del sys.modules[name]
    sys.modules.update(before)


def test_the_page_of_a_package_is_its_init(curved):
    items = load(curved.root / ROADMAP).items
    assert items["curve"].path == "impl/models/curve/__init__.py" and items["curve"].topic == "curve"
    assert items["double"].path == "impl/layers/double.py"
    assert items["curve"].page(curved.root / "elsewhere") == curved.root / "elsewhere/models/curve.py"


def test_a_skeleton_has_the_page_and_its_public_modules(curved):
    """The page keeps what it re-exports; public modules, in the package or in the layers, are to be written."""
    curved.skeleton()
    mine = curved.root / "mine"
    made = {p.relative_to(mine).as_posix(): p.read_text() for p in mine.rglob("*.py")}
    page = made["models/curve/__init__.py"]
    assert {p for p in made if "curve" in p} == {
        "models/curve/__init__.py",
        "models/curve/__main__.py",
        "models/curve/lines.py",
    }
    assert "from .lines import line" in page and "__all__" in page and "2 *" not in page
    assert "print" in made["models/curve/__main__.py"]
    for part in ("models/curve/lines.py", "layers/arc.py"):
        assert "raise NotImplementedError" in made[part] and "return" not in made[part]
    result = curved.run("--impl", "mine", "--item", "curve")
    assert result.parseoutcomes() == {"pending": 3}


def test_mutants_are_of_the_package_and_of_the_layers_that_a_page_names(curved):
    roadmap = load(curved.root / ROADMAP)
    reached = mutants._reached(curved.root / "impl", roadmap, roadmap.find("curve"))
    found = {path.as_posix(): len(lines) for path, lines in reached.items()}
    assert found == {
        "models/curve/__init__.py": 3,
        "models/curve/lines.py": 3,
        "models/curve/_ruler.py": 3,
        "layers/arc.py": 3,
    }


@pytest.mark.parametrize("place", ["models/curve.py", "models/curve/__init__.py"])
def test_a_peer_may_be_one_file_or_a_package(curved, place):
    curved.write("spec/peers/first/__init__.py", "")
    curved.write(f"spec/peers/first/{place}", FLAT)
    assert peers.carried_items(curved.root / "spec/peers/first", load(curved.root / ROADMAP)) == ["curve"]


@pytest.mark.parametrize("place", ["models/curve.py", "models/curve/__init__.py"])
@pytest.mark.parametrize("name", ["mine", "fast"])
@pytest.mark.parametrize("reference", ["package", "file"])
def test_what_is_not_written_is_borrowed_whatever_the_form(curved, installed, place, name, reference):
    """A file that stands for a package, or a package for a file, lacks `line`, which the reference lends."""
    if reference == "file":
        for part in ("__init__", "lines", "_ruler", "__main__"):
            (curved.root / f"impl/models/curve/{part}.py").unlink()
        curved.write("impl/models/curve.py", FLAT.replace("20 * x", "2 * x") + "\n\ndef line(x):\n    return x\n")
    curved.write(f"{name}/{place}", FLAT)
    curve = installed(name, borrow=True)
    assert (curve.Curve(3), curve.line(3)) == (60, 3)
    assert curve.__file__ == str(curved.root / name / place)
    assert subject.resolve(name, curved.root, True).borrowed("impl.models.curve", ["Curve", "line"]) == ["line"]
    if reference == "package":
        assert importlib.import_module("impl.models.curve.lines").line(3) == 3


def test_a_stub_in_a_page_is_borrowed(curved, installed):
    """A page whose function is not written yet gives way to the reference's, as any module does."""
    curved.write("mine/models/curve/__init__.py", FLAT.replace("return 20 * x", "raise NotImplementedError"))
    assert installed("mine", borrow=True).Curve(3) == 6


def test_a_file_for_a_package_leaves_what_it_lacks_pending(curved, installed):
    """Without --borrow `line`, and the module of that name, wait to be written."""
    curved.write("mine/models/curve.py", FLAT)
    assert curved.run("--impl", "mine", "--item", "curve").parseoutcomes() == {"pending": 3}
    installed("mine")
    with pytest.raises(NotImplementedError):
        importlib.import_module("impl.models.curve.lines").line(3)


def test_a_class_asked_for_as_a_module_stays_a_class(installed):
    """What follows imports asks for every imported name as a module; no stub may hide the name."""
    curve = installed()
    with pytest.raises(ImportError):
        importlib.import_module("impl.models.curve.Curve")
    assert curve.Curve(3) == 6


def test_byte_code_that_a_package_left_does_not_hide_a_file(curved, installed):
    curved.write("mine/models/curve.py", FLAT)
    curved.write("mine/models/curve/__pycache__/old.pyc", "")
    assert installed("mine").Curve(3) == 60


def test_the_from_scratch_law_reads_every_module_of_a_package(curved, installed):
    from spec import scratch

    curved.edit("impl/models/curve/_ruler.py", '"""Rulers."""\n', '"""Rulers."""\n\nimport numpy\n')
    installed()
    with pytest.raises(AssertionError, match="_ruler.py:3: import of numpy"):
        scratch.source_is_from_scratch("impl.models.curve")


def test_the_from_scratch_law_follows_a_file_by_its_own_folder(curved, installed):
    """A file that stands for a package imports its neighbours, not modules inside of it."""
    from spec import scratch

    curved.write("mine/models/curve.py", "from ._ruler import length\n\n\ndef Curve(x):\n    return length(x)\n")
    curved.write("mine/models/_ruler.py", "import numpy\n\n\ndef length(x):\n    return numpy.abs(x)\n")
    installed("mine", borrow=True)
    with pytest.raises(AssertionError, match="_ruler.py:1: import of numpy"):
        scratch.source_is_from_scratch("impl.models.curve")
