"""Positional embeddings, Vaswani et al. 2017, arXiv:1706.03762, §3.5; rotary ones, Su et al. 2021, arXiv:2104.09864."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from impl.layers.positional import (
    LearnedPositionalEmbedding,
    RotaryEmbedding,
    SinusoidalPositionalEncoding,
    interpolated_frequencies,
    llama3_frequencies,
    ntk_frequencies,
    rotary_frequencies,
    sinusoids,
    token_positions,
)
from spec import laws
from spec.strategies import permutations, seeds

ADDED, ROPE = pytest.mark.item("positional-embedding"), pytest.mark.item("rope")
layouts = pytest.mark.parametrize("interleaved", [True, False], ids=["interleaved", "halves"])
places = st.integers(0, 10_000)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax_attention(x):
    """Self-attention without any projection: all that it knows of positions is in x."""
    return (x @ x.mT).softmax(-1) @ x


# ------------------------------------------------------------------------------------------------- sinusoidal


@ADDED
@given(place=places)
def test_sines_and_cosines_of_each_frequency_alternate(place):
    """PE(pos, 2i) = sin(pos/10000^(2i/d)), PE(pos, 2i + 1) = cos(pos/10000^(2i/d)).

    Source: Vaswani et al. 2017, §3.5.
    Convention: alternating, as in the paper; tensor2tensor's code has all sines first.
    """
    d = 10
    angles = [place / 10000 ** (2 * (i // 2) / d) for i in range(d)]
    expected = [math.cos(a) if i % 2 else math.sin(a) for i, a in enumerate(angles)]
    laws.assert_close(sinusoids(torch.tensor(place), d), torch.tensor(expected, dtype=torch.float64))


@ADDED
def test_the_encoding_is_added_to_the_tokens():
    """The output is x + PE(0), x + PE(1), …, and another base has the frequencies base^(−2i/d).

    Source: Vaswani et al. 2017, §3.5: encodings have the same dimension as embeddings, so that the two can be summed.
    """
    x, d = normal(2, 5, 6), 6
    angles = torch.arange(5)[:, None] / torch.tensor([50.0 ** (2 * i / d) for i in range(3)], dtype=torch.float64)
    expected = torch.zeros(5, d, dtype=torch.float64)
    expected[:, 0::2], expected[:, 1::2] = angles.sin(), angles.cos()
    module = SinusoidalPositionalEncoding(d, base=50.0)
    laws.gradients_match(module, lambda t: t + expected, x)
    assert not module.state_dict(), f"expected nothing to store, found {list(module.state_dict())}"


@ADDED
@given(place=places)
def test_every_position_has_the_same_norm(place):
    """Each pair (sin, cos) has norm 1, so ‖PE‖² = d/2 at every position.

    Source: Vaswani et al. 2017, §3.5; sin² + cos² = 1.
    """
    pairs = sinusoids(torch.tensor([place, place + 1]), 12).unflatten(-1, (6, 2))
    laws.assert_close(pairs.square().sum(-1), torch.ones(2, 6, dtype=torch.float64))


@pytest.mark.states("symmetry")
@ADDED
@given(place=places, step=st.integers(-50, 50))
def test_a_shift_is_a_rotation_that_depends_on_the_distance_alone(place, step):
    """PE(p + k) = M_k PE(p), M_k made of rotations by k·ω_i, whatever p.

    Source: Vaswani et al. 2017, §3.5: for any fixed offset k, PE(pos + k) is a linear function of PE(pos).
    """
    d, first = 8, sinusoids(torch.tensor(place), 8)
    shift = torch.zeros(d, d, dtype=torch.float64)
    for i in range(d // 2):
        turn = step * 10000 ** (-2 * i / d)
        c, s = math.cos(turn), math.sin(turn)
        shift[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = torch.tensor([[c, s], [-s, c]], dtype=torch.float64)
    laws.assert_close(sinusoids(torch.tensor(place + step), d), shift @ first)


@ADDED
@given(place=places)
def test_similarity_depends_on_the_distance_alone(place):
    """PE(p)·PE(p + k) = Σ_i cos(k ω_i), the same forwards and backwards.

    Source: Vaswani et al. 2017, §3.5; cos a cos b + sin a sin b = cos(a − b).
    """
    steps = torch.tensor([-7, -1, 0, 1, 7, 40])
    found = sinusoids(place + 50 + steps, 16) @ sinusoids(torch.tensor(place + 50), 16)
    turns = steps[:, None] * torch.tensor([10000 ** (-2 * i / 16) for i in range(8)], dtype=torch.float64)
    laws.assert_close(found, turns.cos().sum(-1))


@pytest.mark.states("limiting case")
@ADDED
def test_wavelengths_are_a_geometric_progression():
    """The first pair repeats after 2π positions, the last after 2π · 10000^(1 − 2/d), with equal ratios between.

    Source: Vaswani et al. 2017, §3.5: wavelengths from 2π to 10000 · 2π.
    """
    d, start = 8, torch.tensor(0.3, dtype=torch.float64)
    for i in range(d // 2):
        later = start + 2 * math.pi * 10000 ** (2 * i / d)
        pair = slice(2 * i, 2 * i + 2)
        laws.assert_close(sinusoids(later, d)[pair], sinusoids(start, d)[pair])
        laws.assert_differs(sinusoids((start + later) / 2, d)[pair], sinusoids(start, d)[pair], by=0.5)


@pytest.mark.states("limiting case")
@ADDED
def test_far_positions_are_as_exact_as_near_ones():
    """At positions 10⁵ to 10⁶ the encoding of a float32 text has an error below 1e-6.

    An angle in float32 would be off by 0.004 at 10⁵, and its sine by as much.

    Source: Vaswani et al. 2017, §3.5; IEEE 754: 24 bits hold an integer up to 16 million, and then no fraction.
    """
    for place in (100_000, 999_983):
        expected = [(math.cos if i % 2 else math.sin)(place * 10000 ** (-2 * (i // 2) / 16)) for i in range(16)]
        found = SinusoidalPositionalEncoding(16)(torch.zeros(1, 1, 16), place)
        laws.assert_close(
            found[0, 0].double(),
            torch.tensor(expected, dtype=torch.float64),
            rtol=0,
            atol=1e-6,
            because="float32 in and out",
        )


@ADDED
def test_dropout_is_of_the_sum_in_training_alone():
    """In training a share p of x + PE becomes 0 and the rest is divided by 1 − p; in evaluation nothing is dropped.

    12,000 features, 30 % ± 1.7 % at 4 σ.

    Source: Vaswani et al. 2017, §5.4: dropout to the sums of the embeddings and the positional encodings.
    """
    module, x = SinusoidalPositionalEncoding(12, dropout=0.3), 5 + normal(10, 100, 12)
    whole = x + sinusoids(torch.arange(100), 12)
    laws.assert_close(module.eval()(x), whole)
    found = module.train()(x)
    laws.assert_close(found, whole * (found != 0) / 0.7)
    share = (found == 0).double().mean().item()
    assert abs(share - 0.3) < 0.02, f"expected 30 % dropped, found {share:.3f}"
    laws.assert_close(SinusoidalPositionalEncoding(12).train()(x), whole)


@pytest.mark.states("symmetry")
@ADDED
@given(order=permutations(5))
def test_positions_end_the_symmetry_of_attention(order):
    """Attention of bare tokens is the same in every order; of tokens with positions it is not.

    Source: Vaswani et al. 2017, §3.5: to make use of the order, information about positions has to be injected.
    """
    x = normal(2, 5, 6)
    laws.equivariant(softmax_attention, x, lambda t: t[:, order])
    learned = LearnedPositionalEmbedding(5, 6).double()
    learned.weight.data.mul_(50)
    if order.tolist() != list(range(5)):
        for module in (SinusoidalPositionalEncoding(6), learned):
            laws.assert_differs(softmax_attention(module(x[:, order])), softmax_attention(module(x))[:, order], by=1e-3)


# ---------------------------------------------------------------------------------------------------- learned


@pytest.mark.states("dependence", "gradient routing")
@ADDED
def test_learned_vectors_are_added_to_the_tokens():
    """Token t gets row t of the table; the gradient of row t sums over the batch, and rows beyond the text get none.

    Source: Gehring et al. 2017, arXiv:1705.03122, §3.1; Vaswani et al. 2017, §3.5.
    """
    module, x = laws.randomise(LearnedPositionalEmbedding(7, 5).double()), normal(2, 4, 5)
    laws.assert_close(module(x), x + module.weight[:4])
    cotangent = normal(2, 4, 5, seed=1)
    (grad,) = torch.autograd.grad(module(x), module.weight, cotangent)
    laws.assert_close(grad[:4], cotangent.sum(0))
    laws.assert_same(grad[4:], torch.zeros(3, 5, dtype=torch.float64))


@ADDED
def test_all_positions_of_the_table_are_used():
    """A text of max_len tokens, and a token at position max_len − 1, have their position; one more has none.

    Source: Radford et al. 2019 (GPT-2), §2.3: a context of 1024 tokens has 1024 positions.
    """
    module, x = laws.randomise(LearnedPositionalEmbedding(4, 5).double()), normal(2, 4, 5)
    laws.assert_close(module(x), x + module.weight)
    laws.assert_close(module(x[:, :1], 3), x[:, :1] + module.weight[3])
    for positions in (torch.tensor([0, 1, 2, 4]), torch.tensor([0, -1, 2, 3])):
        with pytest.raises(IndexError):
            module(x, positions)


@ADDED
def test_learned_vectors_start_small():
    """The table starts as N(0, 0.02²): 30,000 elements, ±2 % at 4 σ.

    Convention: GPT's start (Radford et al. 2018, §4.1).
    """
    laws.reseed(0)
    weight = LearnedPositionalEmbedding(100, 300).weight.detach().double()
    assert abs(weight.std().item() / 0.02 - 1) < 0.02, f"expected a spread of 0.02, found {weight.std():.5f}"
    assert abs(weight.mean().item()) < 5e-4, f"expected mean 0, found {weight.mean():.1e}"


# --------------------------------------------------------------------------------------- positions of every kind


def kinds_of_positions():
    """Modules that take positions, of width 6, with the item of each."""
    return [
        pytest.param(lambda: SinusoidalPositionalEncoding(6), marks=ADDED, id="sinusoidal"),
        pytest.param(lambda: laws.randomise(LearnedPositionalEmbedding(20, 6).double()), marks=ADDED, id="learned"),
        pytest.param(lambda: RotaryEmbedding(6), marks=ROPE, id="rotary"),
    ]


@pytest.mark.states("dependence")
@pytest.mark.parametrize("build", kinds_of_positions())
def test_positions_are_a_start_or_one_for_each_token(build):
    """An integer is the first token's position; a tensor has all of them, the same for every text or each text's own.

    Source: Vaswani et al. 2017, §3.5: what a token gets depends on its position alone, not on the others.
    """
    module, x = build(), normal(2, 3, 6)
    laws.assert_close(module(x, 7), module(torch.cat([normal(2, 7, 6), x], 1))[:, 7:])
    laws.assert_close(module(x, torch.tensor([7, 8, 9])), module(x, 7))
    own = torch.tensor([[4, 0, 2], [1, 1, 5]])
    expected = torch.stack(
        [torch.stack([module(x[b : b + 1, t : t + 1], int(own[b, t]))[0, 0] for t in range(3)]) for b in range(2)]
    )
    laws.assert_close(module(x, own), expected)


@ADDED
def test_padding_does_not_move_a_text():
    """Positions count the tokens of a text from 0; padding before, between or after them does not count.

    Convention: padding has the position of the token before it, or 0; x-transformers 013e60a had the sign wrong.
    """
    mask = [[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 1, 0, 1], [0, 0, 0, 0, 0]]
    expected = [[0, 0, 0, 1, 2], [0, 1, 2, 2, 2], [0, 0, 1, 1, 2], [0, 0, 0, 0, 0]]
    laws.assert_same(token_positions(torch.tensor(mask).bool()), torch.tensor(expected))


# ----------------------------------------------------------------------------------------------------- rotary


def rotation(place, d, interleaved, base=10000.0):
    """R(place) as a matrix, block by block."""
    matrix = torch.zeros(d, d, dtype=torch.float64)
    for i in range(d // 2):
        a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + d // 2)
        turn = place * base ** (-2 * i / d)
        matrix[a, a] = matrix[b, b] = math.cos(turn)
        matrix[a, b], matrix[b, a] = -math.sin(turn), math.sin(turn)
    return matrix


@ROPE
@layouts
@given(seed=seeds(), place=places)
def test_each_pair_rotates_by_its_angle(interleaved, seed, place):
    """R(m) x rotates pair i by m·base^(−2i/d), pairs being neighbours or halves; so do the gradients.

    Source: Su et al. 2021, eq. 15 and 34.
    Convention: interleaved as in the paper; halves as in GPT-NeoX and Hugging Face's LLaMA.
    """
    module = RotaryEmbedding(6, 300.0, interleaved)
    matrices = torch.stack([rotation(place + t, 6, interleaved, 300.0) for t in range(3)])
    laws.gradients_match(
        lambda x: module(x, place), lambda x: torch.einsum("tij,bhtj->bhti", matrices, x), normal(2, 2, 3, 6, seed=seed)
    )


@pytest.mark.states("symmetry")
@ROPE
@layouts
@given(seed=seeds(), m=places, n=places, shift=places)
def test_scores_depend_on_the_distance_alone(interleaved, seed, m, n, shift):
    """⟨R(m) q, R(n) k⟩ = ⟨R(m + s) q, R(n + s) k⟩ for all m, n and s.

    Source: Su et al. 2021, eq. 16: q_mᵀ k_n = xᵀ W_q R(n − m) W_k x.
    Convention: a layout whose angles are laid out the other way keeps lengths and passes shape tests, and fails here.
    """
    module, q, k = RotaryEmbedding(8, interleaved=interleaved), normal(1, 8, seed=seed), normal(1, 8, seed=seed + 1)
    score = (module(q, m) * module(k, n)).sum()
    laws.assert_close((module(q, m + shift) * module(k, n + shift)).sum(), score)


@ROPE
@layouts
def test_scores_depend_on_the_sign_of_the_distance(interleaved):
    """⟨R(3) q, R(7) k⟩ ≠ ⟨R(7) q, R(3) k⟩: distance has a sign.

    Source: Su et al. 2021, eq. 16: R(n − m) and R(m − n) are each other's transposes.
    """
    module, q, k = RotaryEmbedding(8, interleaved=interleaved), normal(1, 8), normal(1, 8, seed=1)
    laws.assert_differs((module(q, 3) * module(k, 7)).sum(), (module(q, 7) * module(k, 3)).sum(), by=0.1)


@pytest.mark.states("symmetry")
@ROPE
@layouts
@given(seed=seeds(), m=places, n=places)
def test_rotations_are_a_group(interleaved, seed, m, n):
    """‖R(m) x‖ = ‖x‖, R(0) = 1, R(m) R(n) = R(m + n), and R(−m) undoes R(m).

    Source: Su et al. 2021, §3.2.2: R is orthogonal.
    """
    module, x = RotaryEmbedding(8, interleaved=interleaved), normal(2, 1, 8, seed=seed)
    laws.assert_close(module(x, m).norm(dim=-1), x.norm(dim=-1))
    laws.assert_same(module(x, 0), x)
    laws.assert_close(module(module(x, m), n), module(x, m + n))
    laws.assert_close(module(module(x, m), -m), x)


@ROPE
@given(seed=seeds(), place=places)
def test_the_two_layouts_are_a_permutation_apart(seed, place):
    """Halves of (x₀, x₂, …, x₁, x₃, …) are the interleaved rotation of x, put in the same order.

    Source: Su et al. 2021, eq. 34; the permutation with which LLaMA's weights were converted.
    """
    x, order = normal(2, 3, 8, seed=seed), [0, 2, 4, 6, 1, 3, 5, 7]
    halves = RotaryEmbedding(8, interleaved=False)(x[..., order], place)
    laws.assert_close(halves, RotaryEmbedding(8)(x, place)[..., order])


@ROPE
@layouts
def test_the_rest_of_a_partial_rotation_passes_as_it_is(interleaved):
    """With rotary_dim = 4 of 7, the first four features rotate as in a head of width 4; the others are unchanged.

    Source: Wang & Komatsuzaki 2021 (GPT-J), Black et al. 2022, arXiv:2204.06745, §2.1: 25 % of a head.
    """
    x = normal(2, 2, 3, 7)
    found = RotaryEmbedding(7, 50.0, interleaved, rotary_dim=4)(x, 5)
    laws.assert_close(found[..., :4], RotaryEmbedding(4, 50.0, interleaved)(x[..., :4], 5))
    laws.assert_same(found[..., 4:], x[..., 4:])
    laws.assert_differs(found[..., :4], x[..., :4], by=0.1)


@pytest.mark.states("dependence")
@ROPE
def test_heads_rotate_alike():
    """The angle depends on the token, not on the head or the text: each is as alone.

    Source: Su et al. 2021, eq. 15.  Convention: (batch, heads, tokens, width); tensorgi/TPA #4 turned by the head.
    """
    module, x, own = RotaryEmbedding(6), normal(2, 4, 3, 6), torch.tensor([[0, 1, 2], [5, 6, 9]])
    for head in range(4):
        laws.assert_close(module(x, 2)[:, head], module(x[:, head], 2))
        laws.assert_close(module(x, own)[:, head], module(x[:, head], own))
    laws.assert_close(module(x, 2)[1, 3], module(x[1, 3], 2))
    groups = normal(2, 2, 4, 3, 6, seed=1)  # (batch, heads of keys, queries of each, tokens, width)
    laws.assert_close(module(groups, own), module(groups.flatten(1, 2), own).view_as(groups))


@ROPE
@layouts
def test_a_second_derivative_is_right(interleaved):
    """Gradient and gradient of the gradient equal central differences, of a whole and of a partial rotation.

    Source: the definition of the derivative.
    """
    for width, part in ((4, 4), (5, 2)):
        module = RotaryEmbedding(width, 3.0, interleaved, rotary_dim=part)
        laws.gradient_correct(lambda x, m=module: m(x, 1).sin(), normal(1, 2, width), second_order=True)


@pytest.mark.states("limiting case")
@ROPE
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_far_tokens_rotate_by_exact_angles(dtype, tolerance):
    """At position 10⁵ a float32 text is rotated as exactly as at 0, and so is a bfloat16 one by a bfloat16 module.

    An angle of 24 bits would be off by 0.004 there, one of 8 bits by whole turns.

    Source: Su et al. 2021, eq. 15.  Convention: angles in float64; transformers' are float32.
    """
    x, place = normal(1, 1, 16), 100_000
    found = RotaryEmbedding(16).to(dtype)(x.to(dtype), place)
    assert found.dtype == dtype, f"expected {dtype}, found {found.dtype}"
    expected = x.to(dtype).double() @ rotation(place, 16, True).T
    laws.assert_close(found.double(), expected, rtol=0, atol=tolerance, because="the precision of the text")


@ROPE
@layouts
def test_cached_keys_are_rotated_once(interleaved):
    """Attention of the whole text is that of chunks whose keys were rotated once, at their own positions, and kept.

    Source: Su et al. 2021, eq. 16; keys in a cache keep their absolute rotation.
    """
    module = RotaryEmbedding(6, interleaved=interleaved)
    q, k, v = (normal(2, 3, 7, 6, seed=n) for n in range(3))
    until_now = torch.ones(7, 7, dtype=torch.bool).tril()
    scores = module(q) @ module(k).mT
    whole = scores.masked_fill(~until_now, -math.inf).softmax(-1) @ v
    keys, found = k[:, :, :0], []
    for start, end in ((0, 3), (3, 4), (4, 7)):
        keys = torch.cat([keys, module(k[:, :, start:end], start)], 2)
        scores = module(q[:, :, start:end], start) @ keys.mT
        found.append(scores.masked_fill(~until_now[start:end, :end], -math.inf).softmax(-1) @ v[:, :, :end])
    laws.assert_close(torch.cat(found, 2), whole)


@ROPE
def test_there_is_nothing_to_learn_or_to_store():
    """Nothing in its state: checkpoints with and without it load into each other, and casts change no angle.

    Source: Su et al. 2021, §3.4.2: the rotation is given.  Convention: transformers once stored inv_freq.
    """
    module = RotaryEmbedding(6)
    found = [*module.state_dict(), *dict(module.named_parameters())]
    assert not found, f"expected nothing, found {found}"
    laws.assert_close(module.bfloat16()(normal(2, 3, 6), 9)[0], RotaryEmbedding(6)(normal(2, 3, 6), 9)[0])


@ROPE
def test_it_can_be_built_without_memory():
    """Under `torch.device("meta")`, where models are built to be counted or filled from a checkpoint, angles are known.

    Source: the contract of torch.device as a context.
    """
    x = normal(2, 3, 6)
    with torch.device("meta"):
        module = RotaryEmbedding(6, 50.0)
    laws.assert_close(module(x, 4), RotaryEmbedding(6, 50.0)(x, 4))


# ------------------------------------------------------------------------------------------------ frequencies


@ROPE
def test_frequencies_are_a_geometric_progression():
    """θ_i = base^(−2i/d) for i = 0 … d/2 − 1, with 10000 as base by default.

    Source: Su et al. 2021, eq. 15.
    """
    for base, found in ((10000.0, rotary_frequencies(10)), (50.0, rotary_frequencies(10, 50.0))):
        laws.assert_close(found, torch.tensor([base ** (-2 * i / 10) for i in range(5)], dtype=torch.float64))
    x = normal(2, 3, 10)
    laws.assert_close(RotaryEmbedding(10)(x, 4), RotaryEmbedding(10, frequencies=rotary_frequencies(10))(x, 4))


@ROPE
@given(seed=seeds(), place=st.integers(0, 1000))
def test_interpolation_is_a_ruler_with_finer_marks(seed, place):
    """With θ/s, position s·m is rotated as position m was: a text s times as long fits into the old range.

    Source: Chen et al. 2023, arXiv:2306.15595, eq. 4.
    """
    x = normal(2, 1, 8, seed=seed)
    longer = RotaryEmbedding(8, frequencies=interpolated_frequencies(rotary_frequencies(8), 4.0))
    laws.assert_close(longer(x, 4 * place), RotaryEmbedding(8)(x, place))


@ROPE
def test_ntk_scaling_slows_the_slow_pairs_alone():
    """base · s^(d/(d − 2)): the first frequency is 1 as before, the last exactly θ/s, with equal ratios between.

    Source: Peng et al. 2023, arXiv:2309.00071, eq. 16.
    """
    old, new = rotary_frequencies(12, 500.0), ntk_frequencies(12, 8.0, 500.0)
    laws.assert_close(new / old, torch.tensor([8 ** (-i / 5) for i in range(6)], dtype=torch.float64))
    laws.assert_close(ntk_frequencies(12, 8.0)[-1], rotary_frequencies(12)[-1] / 8)
    laws.assert_close(ntk_frequencies(4, 3.0)[-1], rotary_frequencies(4)[-1] / 3)


@ROPE
def test_llama3_scaling_is_a_ramp_over_turns():
    """Above 4 turns in 8192 positions θ stays, below 1 it is θ/8, between (1 − γ) θ/8 + γ θ with γ = (turns − 1)/3.

    Source: Dubey et al. 2024, arXiv:2407.21783, §3.4.2; the released code of Llama 3.1.
    """
    turns = torch.tensor([100.0, 4.0, 3.0, 2.5, 1.0, 0.3], dtype=torch.float64)
    old = turns * 2 * math.pi / 8192
    share = torch.tensor([1, 1, 2 / 3 + 1 / 24, 1 / 2 + 1 / 16, 1 / 8, 1 / 8], dtype=torch.float64)
    laws.assert_close(llama3_frequencies(old), old * share)
    other = llama3_frequencies(old, 2.0, 0.5, 2.5, 4096)  # turns are halved: 50, 2, 1.5, 1.25, 0.5, 0.15
    share = torch.tensor([1, 0.75 + 0.25 / 2, 0.5 + 0.5 / 2, 0.375 + 0.625 / 2, 1 / 2, 1 / 2], dtype=torch.float64)
    laws.assert_close(other, old * share)


@pytest.mark.states("limiting case")
@ROPE
def test_a_scale_of_one_changes_nothing():
    """s = 1 leaves every frequency as it is, in all three ways.

    Source: Chen et al. 2023, eq. 4; Peng et al. 2023, eq. 16; Dubey et al. 2024, §3.4.2.
    """
    old = rotary_frequencies(10)
    for new in (interpolated_frequencies(old, 1.0), ntk_frequencies(10, 1.0), llama3_frequencies(old, 1.0)):
        laws.assert_close(new, old)
