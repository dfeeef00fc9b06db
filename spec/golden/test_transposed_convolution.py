"""Transposed convolution against torch's kernel and jax's derivative of a convolution."""

import pytest

from impl.layers.transposed_convolution import ConvTranspose2d
from spec.golden import load
from spec.golden.test_convolution import check_derivatives

pytestmark = pytest.mark.item("dilated-conv")


def test_transposed_convolution_agrees():
    """y, ∂x, ∂w, ∂b and ∂²/∂x∂w are those of torch and of the convolution that jax differentiates.

    Source: Dumoulin & Visin 2016, §4; torch.nn.functional.conv_transpose2d, jax.vjp of conv_general_dilated.
    """
    module = ConvTranspose2d(4, 6, (3, 2), (2, 3), (1, 0), (1, 2), groups=2, dilation=(1, 2))
    check_derivatives(load("dilated-conv"), "transposed", module)
