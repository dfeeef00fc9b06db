"""Pooling against torch's kernels and windows counted in NumPy."""

import pytest

from impl.layers.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from spec.golden import load

pytestmark = pytest.mark.item("dilated-conv")


def test_pools_agree():
    """Maximum, average and adaptive average are those of torch and of windows counted one by one.

    Convention: margins never win a maximum and count as zeros in an average.
    """
    golden = load("dilated-conv")
    x = golden["x_pooled"]
    golden.check("max_pooled", MaxPool2d((3, 2), (1, 2), 1, (2, 1))(x))
    golden.check("average_pooled", AvgPool2d((3, 2), (2, 1), 1)(x))
    golden.check("adaptively_pooled", AdaptiveAvgPool2d((3, 5))(x))
