"""Which claims were lost: matched by text, by the spec's name, or as a rewording."""

import subprocess

import pytest

from tools import claims
from tools.claims import Claim

FIRST = Claim("double", "test_value", "Double(1) is 2.")


@pytest.mark.parametrize(
    ("now", "lost", "reworded"),
    [
        ([FIRST], 0, 0),
        ([Claim("double", "test_other_name", FIRST.text)], 0, 0),
        ([Claim("double", "test_value", "Twice one makes two.")], 0, 1),
        ([Claim("double", "test_other_name", "Double(1) equals 2.")], 0, 1),
        ([Claim("double", "test_other_name", "It is additive in its argument, as every linear function.")], 1, 0),
        ([Claim("single", "test_value", FIRST.text)], 1, 0),
        ([], 1, 0),
    ],
    ids=["the same", "renamed", "reworded", "renamed and reworded", "another claim", "another item", "none"],
)
def test_a_claim_is_matched_within_its_item(now, lost, reworded):
    found = claims.compare([FIRST], now)
    assert (len(found[0]), len(found[1])) == (lost, reworded)


def test_claims_of_a_revision_are_collected_with_its_own_plugin(house, capsys):
    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=house.root, check=True)

    git("init", "-q")
    git("add", "-A", "-f")
    git("commit", "-qm", "before")
    assert claims.main("HEAD", [], house.root) == 0
    file = house.root / "spec/properties/test_double_properties.py"
    file.write_text(file.read_text().replace("def test_is_additive", "def no_longer_test_is_additive"))
    assert claims.main("HEAD", ["double"], house.root) == 1
    assert "LOST      double: test_is_additive" in capsys.readouterr().out
