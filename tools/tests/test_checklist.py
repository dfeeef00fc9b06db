"""The checklist: the roadmap's order and wording, claims from docstrings, nothing that differs between two machines."""

from tools import checklist
from tools.checklist import BEGIN, END


def test_checklist_reads_as_the_roadmap(house):
    house.run()
    assert checklist.main(True, house.root) == 0
    assert (house.root / "CHECKLIST.md").read_text().splitlines()[5:] == [
        "**2 of 3 done.**",
        "",
        "## Arithmetic (2/2)",
        "",
        "### Scaling",
        "",
        "- [x] **Doubling** `double` · Euclid, book V",
        "  [properties](spec/properties/test_double_properties.py) 1 · [golden](spec/golden/test_double_golden.py) 1"
        " · [behaviours](spec/behaviours/test_double_behaviours.py) 1 · [implementation](impl/layers/double.py)",
        "  - f(x + y) = f(x) + f(y) for every x and y.",
        "  - f(1) is the factor.",
        "  - Applied twice, the factor is squared.",
        "- [x] **Tripling** `triple` · Euclid, book V",
        "  [properties](spec/properties/test_triple_properties.py) 1 · [golden](spec/golden/test_triple_golden.py) 1"
        " · [behaviours](spec/behaviours/test_triple_behaviours.py) 1 · [implementation](impl/layers/triple.py)",
        "  - f(x + y) = f(x) + f(y) for every x and y.",
        "  - f(1) is the factor.",
        "  - Applied twice, the factor is squared.",
        "",
        "## Geometry (0/1)",
        "",
        "### Curves",
        "",
        "- [ ] **Curves** `curve` · Euclid, book III",
    ]


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
    assert "bugs caught 1/3" in text and "bugs caught 1/1" in text


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


def test_ticked_ids_are_read_back(house):
    house.run()
    checklist.main(True, house.root)
    assert checklist.ticked(house.root) == {"double", "triple"}
