"""The checklist: the roadmap's order and wording, claims from docstrings, nothing that differs between two machines."""

import re
import tomllib

from tools import checklist
from tools.checklist import BEGIN, END


def test_checklist_reads_as_the_roadmap(house):
    house.run()
    assert checklist.main(True, house.root) == 0
    heads = [
        "| | Item | Papers | Properties | Golden | Behaviours | Bugs | Peers |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    assert (house.root / "CHECKLIST.md").read_text().splitlines()[7:] == [
        "**2 of 3 done.**",
        "",
        "## Arithmetic (2/2)",
        "",
        *heads,
        "| ✓ | [Doubling](spec/properties/test_double_properties.py#L13) `double` | Euclid, book V | 1 | 1 | 1 |  |  |",
        "| ✓ | [Tripling](spec/properties/test_triple_properties.py#L13) `triple` | Euclid, book V | 1 | 1 | 1 |  |  |",
        "",
        "## Geometry (0/1)",
        "",
        *heads,
        "|   | Curves `curve` | Euclid, book III |  |  |  |  |  |",
    ]


def test_links_lead_to_the_first_spec(house):
    house.run()
    checklist.main(True, house.root)
    for file, line in re.findall(r"\((spec/\S+)#L(\d+)\)", (house.root / "CHECKLIST.md").read_text()):
        assert (house.root / file).read_text().splitlines()[int(line) - 1].startswith(("def test_", "@"))


def test_a_lost_claim_shows_in_what_is_done(house):
    house.run()
    checklist.main(True, house.root)
    before = tomllib.loads((house.root / checklist.DONE).read_text())
    assert set(before) == {"double", "triple"} and before["double"]["claims"] == 3
    file = "spec/properties/test_double_properties.py"
    house.edit(file, "for every x and y.", "for all x, y.")
    house.run()
    assert checklist.main(False, house.root) == 1
    checklist.main(True, house.root)
    after = tomllib.loads((house.root / checklist.DONE).read_text())
    assert after["double"]["hash"] != before["double"]["hash"] and after["triple"] == before["triple"]


def test_peers_are_counted(house):
    house.write("spec/peers/other/layers/double.py", "class Double:\n    pass\n")
    house.run()
    checklist.main(True, house.root)
    rows = (house.root / "CHECKLIST.md").read_text().splitlines()
    assert next(r for r in rows if "`double`" in r).endswith("|  | 1 |")
    assert next(r for r in rows if "`triple`" in r).endswith("|  |  |")


def test_checklist_is_deterministic(house):
    texts = []
    for workers in ("-n0", "-n2"):
        house.run(workers)
        assert checklist.main(True, house.root) == 0
        texts.append((house.root / "CHECKLIST.md").read_bytes())
    assert texts[0] == texts[1]
    assert str(house.root).encode() not in texts[0]


def test_papers_become_links():
    assert checklist._linked("Wu & He 2018, arXiv:1803.08494").endswith(
        "[arXiv:1803.08494](https://arxiv.org/abs/1803.08494)"
    )


def test_bugs_caught_are_counted(house):
    """A bug that is in the catalogue and not in the matrix has not been seen to be caught."""
    bugs = [("double", "a"), ("double", "b"), ("double", "c"), ("triple", "a")]
    house.write("spec/bugs/all.toml", "".join(f'[[bug]]\nitem = "{item}"\nid = "{bug}"\n' for item, bug in bugs))
    house.write("spec/bugs/kills.json", '{"double/a": ["x"], "double/b": [], "triple/a": ["y"], "triple/gone": ["z"]}')
    house.run()
    checklist.main(True, house.root)
    text = (house.root / "CHECKLIST.md").read_text()
    assert "| 1 | 1 | 1 | 1/3 |" in text and "| 1 | 1 | 1 | 1/1 |" in text


def test_readme_block_is_renewed_and_nothing_else(house):
    house.write("README.md", f"# House\n\n{BEGIN}\nold\n{END}\n\nThe end.\n")
    house.run()
    assert checklist.main(False, house.root) == 1
    checklist.main(True, house.root)
    text = (house.root / "README.md").read_text()
    assert text.startswith("# House\n") and text.endswith("The end.\n")
    assert "| Arithmetic | 2 of 2 |" in text and "| **All** | **2 of 3** |" in text and "old" not in text
    assert checklist.main(False, house.root) == 0


def test_check_writes_nothing(house):
    house.run()
    assert checklist.main(False, house.root) == 1
    assert not (house.root / "CHECKLIST.md").exists()


def test_an_edited_file_is_told_from_a_generated_one(house, capsys):
    house.run()
    checklist.main(True, house.root)
    house.edit("spec/done.toml", "double = { claims = 3", "double = { claims = 4")
    assert checklist.main(False, house.root) == 1
    assert (
        "spec/done.toml: not as the last complete run; `python -m tools checklist --update`" in capsys.readouterr().out
    )
    house.edit("spec/done.toml", "triple = {", "triple {")
    result = house.run("--item", "double")
    assert result.ret != 0
    assert "spec/done.toml: not valid TOML" in result.stderr.str()


def test_ticked_ids_are_read_back(house):
    house.run()
    checklist.main(True, house.root)
    assert checklist.ticked(house.root) == {"double", "triple"}
