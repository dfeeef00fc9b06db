"""Linear attention against loops over pairs of tokens and recurrent sums in jax."""

import pytest
import torch

from impl.layers.linear_attention import FavorAttention, LinearAttention, LinearAttentionState, positive_features
from spec.golden import load

pytestmark = pytest.mark.item("linear-attention")


def with_weights(golden, name, is_causal):
    state = golden.state_dict("weights")
    if name == "elu":
        module = LinearAttention(12, 3, is_causal=is_causal).double()
    else:
        module = FavorAttention(12, 3, num_features=10, is_causal=is_causal).double()
        state["projection"] = golden["projection"]
    module.load_state_dict(state)
    return module


@pytest.mark.parametrize("name", ["elu", "favor"])
@pytest.mark.parametrize("kind", ["full", "causal"])
def test_layers_equal_weights_of_all_pairs(name, kind):
    """With given weights, ω and padding, output and gradient are those of weights formed one pair at a time.

    Source: Katharopoulos et al. 2020, eq. 4, 7 and 8; Choromanski et al. 2021, eq. 2 and Lemma 1.
    Convention: no epsilon; ω is shared by the heads; no token attends to padding.
    """
    golden = load("linear-attention")
    x = golden["x"].requires_grad_()
    output = with_weights(golden, name, kind == "causal")(x, golden["key_mask"].bool())
    golden.check(f"y_{name}_{kind}", output)
    output.backward(golden["cotangent"])
    golden.check(f"d_x_{name}_{kind}", x.grad)


@pytest.mark.parametrize("name", ["elu", "favor"])
def test_steps_equal_weights_of_all_pairs(name):
    """Token by token with a carried state, outputs are those of weights formed one pair at a time.

    Source: Katharopoulos et al. 2020, eq. 16-20.
    """
    golden, state = load("linear-attention"), LinearAttentionState()
    module, x, present = with_weights(golden, name, True), golden["x"], golden["key_mask"].bool()
    steps = [module(x[:, n : n + 1], present[:, n : n + 1], state) for n in range(7)]
    golden.check(f"y_{name}_causal", torch.cat(steps, 1))


def test_features_are_exponentials():
    """features · e^level = exp(ω_iᵀx − ‖x‖²/2)/√m.

    Source: Choromanski et al. 2021, Lemma 1 and eq. 5.
    """
    golden = load("linear-attention")
    features, level = positive_features(golden["vectors"], golden["projection"])
    golden.check("features", features * level.exp()[:, None])
