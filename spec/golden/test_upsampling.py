"""Upsampling against torch's kernels, jax.image and the definition."""

import pytest

from impl.layers.upsampling import Upsample
from spec.golden import load

pytestmark = pytest.mark.item("dilated-conv")


def test_upsampling_agrees():
    """Bilinear and nearest images of another size are those of torch, of jax and of the definition.

    Convention: pixels are squares, align_corners=False; nearest takes ⌊i·H/n⌋.
    """
    golden = load("dilated-conv")
    x = golden["x_pooled"]
    golden.check("bilinear", Upsample(size=(11, 20), mode="bilinear")(x))
    golden.check("nearest", Upsample(size=(11, 3))(x))
