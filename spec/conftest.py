"""Hypothesis profiles, seeds and threads of every spec."""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

from spec import cases, laws
from spec.laws import reseed

# No deadline: no spec depends on the clock. One bug a report: the first broken claim is what a reader can act on.
_COMMON = {
    "deadline": None,
    "report_multiple_bugs": False,
    "print_blob": False,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
settings.register_profile("dev", max_examples=10, **_COMMON)
settings.register_profile("ci", max_examples=20, derandomize=True, database=None, **_COMMON)
settings.register_profile("thorough", max_examples=200, **_COMMON)
settings.load_profile("dev")


def pytest_configure(config):
    if not config.getoption("sections", default=None):
        cases.wanted = set(config.getoption("items", default=[]))
    laws.asks_wording = config.getoption("impl", default="impl") in ("impl", "fast")
    # One core a run: workers share the machine, and sums do not depend on how a loop was split.
    # TORCH_THREADS is for `tools processors`, which asks whether the specs hold however a loop is split.
    torch.set_num_threads(int(os.environ.get("TORCH_THREADS", 1)))


@pytest.fixture(autouse=True)
def _fixed_start():
    """Every spec starts from the same generator state and default dtype, whatever ran before it."""
    reseed(0)
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(torch.float32)
