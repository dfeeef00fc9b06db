"""Max, average and adaptive average pooling.  Lin, Chen & Yan 2013, arXiv:1312.4400, for the global average."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from impl.layers.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from spec import laws
from spec.strategies import seeds

pytestmark = pytest.mark.item("dilated-conv")

pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@st.composite
def geometries(draw):
    """Kernel, stride, and a padding of at most half the kernel."""
    kernel, stride = draw(pairs), draw(pairs)
    return kernel, stride, tuple(draw(st.integers(0, k // 2)) for k in kernel)


@given(seed=seeds(), geometry=geometries(), dilation=pairs)
def test_max_pool_takes_the_largest_of_each_window(seed, geometry, dilation):
    """y[p] = max_t x[s·p + l·t − padding] over the taps inside of the image; its gradient goes to that element.

    Source: Boureau, Ponce & LeCun 2010, §1.  Convention: margins are −∞ and never win, as in torch.nn.MaxPool2d.
    """
    x = normal(2, 3, 8, 9, seed=seed) - 5  # all negative: a margin of zeros would win
    laws.gradients_match(MaxPool2d(*geometry, dilation), lambda t: nn.functional.max_pool2d(t, *geometry, dilation), x)


def test_the_first_of_equal_elements_gets_the_gradient():
    """Of elements that tie for the maximum, the first in reading order gets all of the gradient.

    Convention: torch.nn.MaxPool2d; after a ReLU zeros tie all the time.
    """
    x = torch.tensor([[[[0.0, 2.0, 1.0, 1.0], [2.0, 2.0, 1.0, 1.0]]]], dtype=torch.float64, requires_grad=True)
    y = MaxPool2d(2)(x)
    (gradient,) = torch.autograd.grad(y, x, torch.tensor([[[[3.0, 5.0]]]], dtype=torch.float64))
    expected = torch.tensor([[[[0.0, 3.0, 5.0, 0.0], [0.0, 0.0, 0.0, 0.0]]]], dtype=torch.float64)
    laws.assert_close(gradient, expected)


@given(seed=seeds(), geometry=geometries(), margins_count=st.booleans())
def test_average_pool_takes_the_mean_of_each_window(seed, geometry, margins_count):
    """y[p] = 1/n Σ_t x[s·p + t − padding], n the taps of the window, or only those inside of the image.

    Convention: count_include_pad=True by default, as in torch.nn.AvgPool2d.
    """
    kernel, stride, padding = geometry
    laws.gradients_match(
        AvgPool2d(kernel, stride, padding, count_include_pad=margins_count),
        lambda t: nn.functional.avg_pool2d(t, kernel, stride, padding, count_include_pad=margins_count),
        normal(2, 3, 7, 8, seed=seed),
    )


@pytest.mark.parametrize("kind", [MaxPool2d, AvgPool2d])
def test_windows_tile_the_image_by_default(kind):
    """Without a stride it is the window's size: 6×9 pixels under 2×3 windows give 3×3; margins of the mean count.

    Convention: torch.nn.MaxPool2d and AvgPool2d.
    """
    x = normal(2, 3, 6, 9)
    tiles = x.reshape(2, 3, 3, 2, 3, 3)
    laws.assert_close(kind((2, 3))(x), tiles.amax((3, 5)) if kind is MaxPool2d else tiles.mean((3, 5)))
    theirs = getattr(nn, kind.__name__)(3, padding=1)
    laws.assert_close(kind(3, padding=1)(x), theirs(x))


@given(seed=seeds(), height=st.integers(1, 9), width=st.integers(1, 9), bins=pairs)
def test_adaptive_average_pool_has_the_bins_of_the_definition(seed, height, width, bins):
    """Bin i is [⌊i·H/n⌋, ⌈(i + 1)·H/n⌉): neighbours share a row where n does not divide H, and n may exceed H.

    Convention: torch.nn.AdaptiveAvgPool2d.
    """
    x = normal(2, 2, height, width, seed=seed)
    laws.gradients_match(AdaptiveAvgPool2d(bins), lambda t: nn.functional.adaptive_avg_pool2d(t, bins), x)


def test_one_bin_is_the_global_average():
    """With n = 1 the output is the mean of each channel, whatever the size of the image.

    Source: Lin, Chen & Yan 2013, §3.2: global average pooling.
    """
    x = normal(2, 3, 5, 7)
    laws.assert_close(AdaptiveAvgPool2d(1)(x), x.mean((2, 3), keepdim=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bins", [1, (2, 3), 4])
def test_adaptive_means_of_half_precision_are_rounded_once(dtype, bins):
    """In bfloat16 and float16 a bin is the mean of its elements, rounded to that dtype: bins of 1000s are 1000.

    A weight 1/7 or 1/49 rounded to bfloat16 makes each mean 0.4 % too small; a sum of 16-bit elements is coarser still.

    Source: the definition of the mean.  Convention: torch.nn.AdaptiveAvgPool2d accumulates in float32.
    """
    x = (normal(2, 3, 7, 7) + 3).to(dtype)
    pool = AdaptiveAvgPool2d(bins)
    laws.assert_same(pool(torch.full_like(x, 1000)), torch.full_like(pool(x), 1000))
    exact = nn.functional.adaptive_avg_pool2d(x.double(), bins)
    unit = torch.finfo(dtype).eps / 2
    error = ((pool(x).double() - exact) / exact).abs().max().item()
    assert error <= 1.001 * unit, f"expected one rounding, an error of at most {unit:g}, found {error:g}"


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("bins", [(3, 2), (2, 3)])
def test_an_infinite_pixel_stays_in_its_bins(value, bins):
    """One infinity or NaN changes the bins that hold its pixel and no other, also where neighbouring bins overlap.

    Source: Lin, Chen & Yan 2013, §3.2: a mean of the pixels of a bin has no part of the others.
    """
    x = normal(1, 2, 5, 5)
    pool = AdaptiveAvgPool2d(bins)
    expected = pool(x)
    (weights,) = torch.autograd.functional.jacobian(pool, (x,))
    touched = weights[:, :, :, :, 0, 1, 2, 3] != 0
    x[0, 1, 2, 3] = value
    expected = torch.where(touched, value, expected)
    found = pool(x)
    assert touched.any() and not touched.all(), "the case is empty"
    laws.assert_close(found, expected)


@given(seed=seeds())
def test_max_pool_ignores_what_happens_below_the_maximum(seed):
    """Any increasing map commutes with the maximum: max-pool(exp x) = exp(max-pool(x)); a mean does not.

    Source: Boureau, Ponce & LeCun 2010, §1: the maximum is an order statistic.
    """
    x = normal(2, 2, 4, 6, seed=seed)
    laws.equivariant(MaxPool2d(2), x, torch.exp)
    laws.assert_differs(AvgPool2d(2)(x.exp()), AvgPool2d(2)(x).exp(), by=1e-3)
