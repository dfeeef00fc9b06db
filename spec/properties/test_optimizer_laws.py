"""The laws of every optimizer, run on every record of spec/cases: what no item needs to repeat."""

import pytest

from spec import laws
from spec.cases import all_optimizer_cases
from spec.optimizer_laws import OF_OPTIMIZERS


@laws.every(OF_OPTIMIZERS, all_optimizer_cases())
def test_law(law, case):
    """Each law of every optimizer holds for each record of spec/cases that is not exempt from it.

    Source: named by the law.
    """
    law.check(*((case.build, case.library) if law.needs else (case.build,)))


@pytest.mark.own_code
@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(bad, id=f"{case.item}:{case.name}:{why}", marks=pytest.mark.item(case.item))
        for case in all_optimizer_cases()
        for why, bad in case.bad.items()
    ],
)
def test_a_bad_setting_raises(bad):
    """A bad setting or gradient raises ValueError or TypeError.

    Convention: which of the two, and its wording, are free; other libraries raise other errors, so peers are not asked.
    """
    laws.rejects(bad.call, bad.mentions)
