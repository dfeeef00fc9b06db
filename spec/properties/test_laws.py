"""The laws of every module, run on every record of spec/cases: what no item needs to say again."""

import pytest

from spec import contract, laws, scratch  # noqa: F401  from scratch is a law of every module, too
from spec.cases import all_cases, all_contracts


@laws.every(laws.OF_MODULES, all_cases())
def test_law(law, case):
    """Each law of every module holds for each record of spec/cases that is not exempt from it.

    Source: named by the law.
    """
    law.check(case.build, case.inputs())


@laws.every(contract.OF_CONTRACTS, all_contracts())
def test_contract(law, case):
    """Each public class keeps its contract, the part of its specification that a signature does not show.

    Source: named by the law.
    """
    law.check(case)


@pytest.mark.own_code
@pytest.mark.parametrize(
    ("case", "bad"),
    [
        pytest.param(case, bad, id=f"{case.item}:{case.name}:{why}", marks=pytest.mark.item(case.item))
        for case in all_cases()
        for why, bad in case.bad.items()
    ],
)
def test_bad_input_raises(case, bad):
    """Bad input raises ValueError or TypeError.

    Convention: which of the two, and its wording, are free; other libraries raise other errors, so peers are not asked.
    """
    case.build()(*case.inputs())  # refusing everything is no answer: good input is accepted first
    laws.rejects(bad.call, bad.mentions)
