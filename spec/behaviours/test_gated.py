"""Gated layers at work: at equal parameters they fit what two matrices cannot.  Shazeer 2020, arXiv:2002.05202."""

import pytest
import torch
from torch import nn

from impl.layers.gated import GEGLU, GLU, SwiGLU

WIDTH, STEPS = 16, 400


def error(net, seed):
    """Relative squared error on unseen inputs after fitting (x P) ⊗ (x Q) with Adam."""
    generator = torch.Generator().manual_seed(seed + 7)
    p, q = (torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5 for _ in range(2))
    x = torch.randn(5000, WIDTH, generator=generator)
    target = (x @ p) * (x @ q)
    optimizer = torch.optim.Adam(net.parameters(), lr=6e-3)
    for _ in range(STEPS):
        rows = torch.randint(4000, (128,), generator=generator)
        optimizer.zero_grad()
        (net(x[rows]) - target[rows]).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        return ((net(x[4000:]) - target[4000:]).square().mean() / target[4000:].square().mean()).item()


def compare(build, seed=0):
    """The error of a gated layer, in parts of that of a ReLU layer with as many parameters: 3·16·64 = 2·16·96."""
    torch.manual_seed(seed)
    gated = build()
    torch.manual_seed(seed)
    plain = nn.Sequential(nn.Linear(WIDTH, 96, bias=False), nn.ReLU(), nn.Linear(96, WIDTH, bias=False))
    sizes = [sum(p.numel() for p in net.parameters()) for net in (gated, plain)]
    assert sizes == [3072, 3072]
    return error(gated, seed) / error(plain, seed)


@pytest.mark.item("glu")
def test_gating_fits_products():
    """At 3072 parameters, a product of two linear functions is fitted with less than half the error of a ReLU layer.

    Measured: 0.25 to 0.29 right (4 seeds); 10 with the gate alone and the value dropped. The threshold is 0.5.

    Source: Dauphin et al. 2016, section 2: multiplicative interactions; Shazeer 2020, table 1, puts GLU before ReLU.
    """

    def build():
        return nn.Sequential(nn.Linear(WIDTH, 128, bias=False), GLU(), nn.Linear(64, WIDTH, bias=False))

    ratio = compare(build)
    assert ratio < 0.5, f"expected less than half the error of a ReLU layer, found {ratio:.2f}"


@pytest.mark.item("swiglu")
def test_swiglu_fits_products():
    """At 3072 parameters, a product of two linear functions is fitted with less than half the error of a ReLU layer.

    Measured: 0.12 to 0.20 right (4 seeds); 0.67 to 0.80 with Swish alone and no value. The threshold is 0.5.

    Source: Shazeer 2020, table 1: at equal parameters SwiGLU has a lower perplexity than ReLU, GELU and Swish.
    """
    ratio = compare(lambda: SwiGLU(WIDTH, 64))
    assert ratio < 0.5, f"expected less than half the error of a ReLU layer, found {ratio:.2f}"


@pytest.mark.item("geglu")
def test_geglu_fits_products():
    """At 3072 parameters, a product of two linear functions is fitted with less than half the error of a ReLU layer.

    Measured: 0.09 to 0.20 right (4 seeds); 0.89 to 1.07 with GELU alone and no value. The threshold is 0.5.

    Source: Shazeer 2020, table 1: at equal parameters GEGLU has the lowest perplexity of all.
    """
    ratio = compare(lambda: GEGLU(WIDTH, 64))
    assert ratio < 0.5, f"expected less than half the error of a ReLU layer, found {ratio:.2f}"
