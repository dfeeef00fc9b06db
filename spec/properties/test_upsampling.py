"""Nearest and bilinear upsampling.  Odena, Dumoulin & Olah 2016 (Distill), for resize-convolution."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from impl.layers.upsampling import Upsample
from spec import laws
from spec.strategies import floats, seeds

pytestmark = pytest.mark.item("dilated-conv")

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seed=seeds(), size=SIZES)
@pytest.mark.parametrize(("mode", "corners"), [("nearest", None), ("bilinear", False), ("bilinear", True)])
def test_images_take_any_size(mode, corners, seed, size):
    """Any n×m of a 4×5 image, larger or smaller: nearest ⌊i·H/n⌋, bilinear between centres or between corners.

    Convention: torch.nn.Upsample(size=…).
    """
    x = normal(2, 3, 4, 5, seed=seed)
    laws.gradients_match(
        Upsample(size=size, mode=mode, align_corners=corners), nn.Upsample(size, mode=mode, align_corners=corners), x
    )


@pytest.mark.parametrize("scale", [2, 3.0, (1.75, 2.5), (0.5, 1)])
@pytest.mark.parametrize(("mode", "corners"), [("nearest", None), ("bilinear", None), ("bilinear", True)])
def test_scale_factors_count_from_the_factor_itself(mode, corners, scale):
    """A factor r gives ⌊r·H⌋ pixels, and the step between them is 1/r even where r·H is no whole number.

    Convention: torch.nn.Upsample(scale_factor=…); align_corners is off by default.
    """
    x = normal(2, 3, 5, 7)
    expected = nn.Upsample(scale_factor=scale, mode=mode, align_corners=corners)(x)
    laws.assert_close(Upsample(scale_factor=scale, mode=mode, align_corners=corners)(x), expected)


def test_nearest_doubles_by_repeating():
    """At a factor of 2×3 every pixel becomes a block of 2×3 equal ones.

    Source: Odena, Dumoulin & Olah 2016: nearest-neighbour resize followed by a convolution.
    """
    x = normal(2, 3, 4, 5)
    expected = x.repeat_interleave(2, dim=2).repeat_interleave(3, dim=3)
    laws.assert_same(Upsample(scale_factor=(2, 3))(x), expected)


@given(a=floats(-3, 3), b=floats(-3, 3), size=st.integers(6, 15))
def test_bilinear_keeps_planes_between_its_centres(a, b, size):
    """A plane a·row + b·column stays that plane, at u = (i + ½)·H/n − ½, wherever u lies between two centres.

    Source: the definition of linear interpolation.  Convention: pixels are squares, align_corners=False.
    """
    rows, columns = torch.arange(5.0).double()[:, None], torch.arange(6.0).double()
    y = Upsample(size=(size, 2 * size), mode="bilinear")((a * rows + b * columns)[None, None])[0, 0]
    u = ((torch.arange(size) + 0.5) * 5 / size - 0.5).clamp(0, 4)
    v = ((torch.arange(2 * size) + 0.5) * 6 / (2 * size) - 0.5).clamp(0, 5)
    laws.assert_close(y, a * u.double()[:, None] + b * v.double(), rtol=1e-5, atol=1e-5, because="float32 positions")


def test_aligned_corners_stay_where_they_are():
    """With align_corners the four corner pixels keep their values, and the middle of three new rows is a mean.

    Convention: torch.nn.Upsample(align_corners=True).
    """
    x = normal(2, 2, 2, 3)
    y = Upsample(size=(3, 7), mode="bilinear", align_corners=True)(x)
    laws.assert_close(y[:, :, ::2, ::6], x[:, :, :, ::2])
    laws.assert_close(y[:, :, 1, ::3], x.mean(2))
