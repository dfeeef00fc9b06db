"""Golden values of positional and rotary embeddings."""

import pytest
import torch

from impl.layers.positional import (
    RotaryEmbedding,
    SinusoidalPositionalEncoding,
    interpolated_frequencies,
    llama3_frequencies,
    ntk_frequencies,
    rotary_frequencies,
    sinusoids,
)
from spec.golden import load


@pytest.mark.item("positional-embedding")
@pytest.mark.parametrize("d", [4, 10])
def test_encodings_agree_with_forty_digits(d):
    """PE of width 4 and 10 at positions 0, 1, 3, 50, 1023 and 10⁵; PE(1) = (0.8415, 0.5403, 0.0100, 0.9999) for d = 4.

    Source: Vaswani et al. 2017, §3.5; mpmath with 40 digits, powers of complex numbers.
    """
    golden = load("positional-embedding")
    golden.check(f"encoding_{d}", sinusoids(golden["places"], d))
    module = SinusoidalPositionalEncoding(d)
    tokens = torch.zeros(1, len(golden["places"]), d, dtype=torch.float64)
    golden.check(f"encoding_{d}", module(tokens, golden["places"])[0])


@pytest.mark.item("rope")
@pytest.mark.parametrize("layout", ["interleaved", "halves"])
def test_rotations_agree_with_transformers_and_onnx(layout):
    """Turned features and their gradients, at positions up to 10⁵, are those of transformers' code and onnx's operator.

    Source: Su et al. 2021, eq. 34; transformers' LLaMA (halves) and Cohere (interleaved); onnx RotaryEmbedding.
    """
    golden = load("rope")
    x = golden["x"].requires_grad_()
    turned = RotaryEmbedding(8, interleaved=layout == "interleaved")(x, golden["places"])
    golden.check(f"y_{layout}", turned)
    (grad,) = torch.autograd.grad(turned, x, golden["cotangent"])
    golden.check(f"d_x_{layout}", grad)


@pytest.mark.item("rope")
def test_partial_rotations_agree_with_onnx():
    """The first 4 of 8 features turn, by the angles of width 4, as in onnx's operator with rotary_embedding_dim.

    Source: onnx RotaryEmbedding (opset 23); complex numbers in NumPy.
    """
    golden = load("rope")
    golden.check("y_partial", RotaryEmbedding(8, rotary_dim=4)(golden["x"], golden["places"]))


@pytest.mark.item("rope")
def test_ones_of_width_four_rotate_to_known_values():
    """R(1) (1, 1, 1, 1) = (−0.3012, 1.3818, 0.9900, 1.0099).

    Source: Su et al. 2021, eq. 15 at d = 4, m = 1.
    """
    golden = load("rope")
    golden.check("ones", RotaryEmbedding(4)(torch.ones(1, 4, dtype=torch.float64), 1)[0])


@pytest.mark.item("rope")
def test_the_bound_of_scores_decays_with_the_distance():
    """mean_j |Σ_{i<j} e^{i(m−n)θ_i}| of 64 pairs is 32.5, 17.95, 12.63, 10.23, 6.54 at distances 0, 10, 50, 100, 256.

    The sums come out of rotations: pair i of (1, 0, 1, 0, …) turned to position n is (cos nθ_i, sin nθ_i).

    Source: Su et al. 2021, §3.4.3 and Fig. 2.
    """
    golden = load("rope")
    start = torch.tensor([1.0, 0.0], dtype=torch.float64).repeat(64).expand(5, 128)
    turned = RotaryEmbedding(128)(start, golden["distances"]).unflatten(-1, (64, 2))
    found = turned.cumsum(1).norm(dim=-1).mean(-1)
    golden.check("decay", found)
    assert (found.diff() < 0).all(), f"expected a decay, found {found}"


@pytest.mark.item("rope")
def test_scaled_frequencies_agree_with_transformers():
    """Linear, NTK-aware and Llama-3 frequencies of base 500, width 16, are transformers' and mpmath's.

    Source: Chen et al. 2023, eq. 4; Peng et al. 2023, eq. 16; Dubey et al. 2024, §3.4.2; transformers' linear, dynamic
        (at 4 times the length, factor 1) and llama3.
    """
    golden = load("rope")
    golden.check("interpolated", interpolated_frequencies(rotary_frequencies(16, 500.0), 4.0))
    golden.check("ntk", ntk_frequencies(16, 4.0, 500.0))
    golden.check("llama3", llama3_frequencies(rotary_frequencies(16, 500.0), original_max_position=256))
