"""Reformer: attention by hashing, and reversible layers.  Kitaev, Kaiser & Levskaya 2020, arXiv:2001.04451."""

import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from impl.models.reformer import LSHAttention, Reformer, ReversibleBlock, ReversibleSequence, lsh_buckets
from spec import cost, laws
from spec.strategies import seeds, sizes

pytestmark = pytest.mark.item("reformer")


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def attention(buckets=4, chunk=3, rounds=2, seed=0, **options):
    """float64, random parameters of a size at which no head is saturated, in evaluation, with the state's rotations."""
    laws.reseed(seed)
    module = laws.randomise(LSHAttention(6, 2, buckets, chunk, rounds, **options).double(), seed)
    for parameter in module.parameters():
        parameter.data.mul_(0.5)
    return module.eval()


def attended(module, x, present):
    """Which token attends to which in each round, (b, heads, rounds, n, n): to those of its bucket in its chunk and the
    one before."""
    b, n, _ = x.shape
    rotations, chunk = module.rotations, module.chunk_length
    heads, _, rounds, half = rotations.shape
    query = module.qk_proj(x).detach().unflatten(-1, (heads, -1)).transpose(1, 2)
    place = torch.arange(n)
    buckets = torch.zeros(b, heads, rounds, n, dtype=torch.int64)
    if half:
        turned = torch.einsum("bhnd,hdrk->bhrnk", query, rotations)
        buckets = torch.cat([turned, -turned], -1).argmax(-1)
    buckets = torch.where(present[:, None, None], buckets, 1000)
    rank = (n * buckets + place).argsort(-1).argsort(-1) // chunk
    back = rank[..., :, None] - rank[..., None, :]
    same = buckets[..., :, None] == buckets[..., None, :]
    allowed = same & ((back == 0) | (back == 1))
    return allowed & (place[:, None] >= place) if module.is_causal else allowed


def dense(module, x, allowed):
    """Attention of every pair, with keys of length 1, where `allowed` (b, heads, n, n); a token attends to itself only
    if there is no other."""
    heads, itself = len(module.rotations), torch.eye(x.shape[1], dtype=torch.bool)
    query, value = (
        getattr(module, f"{name}_proj")(x).unflatten(-1, (heads, -1)).transpose(1, 2) for name in ("qk", "v")
    )
    width = query.shape[-1]
    key = query / (query.square().sum(-1, keepdim=True) + width * 1e-6).sqrt()
    others = allowed & ~itself
    readable = torch.where(others.any(-1, keepdim=True), others, allowed & itself)
    weights = (query @ key.mT).masked_fill(~readable, -torch.inf).softmax(-1).nan_to_num(0)
    return module.out_proj((weights @ value).transpose(1, 2).flatten(2))


class _As(nn.Module):
    """A formula as a module with another's parameters, for `laws.gradients_match`."""

    def __init__(self, owner, formula):
        super().__init__()
        self.owner, self.formula = owner, formula

    def forward(self, *inputs):
        return self.formula(*inputs)


# ---------------------------------------------------------------------------------------------- hashing


@pytest.mark.states("symmetry")
@given(seed=seeds(), half=sizes(1, 3), factor=st.sampled_from([0.01, 3.0, 1000.0]))
def test_buckets_depend_on_directions_only(seed, half, factor):
    """A bucket depends on the direction alone: h(c·x) = h(x) for c > 0, and h(−x) = (h(x) + b/2) mod b.

    Source: Kitaev et al. 2020, §2: h(x) = argmax([xR; −xR]), for points on a sphere.
    """
    x, rotations = normal(2, 3, 5, 4, seed=seed), normal(3, 4, 2, half, seed=seed + 1)
    found = lsh_buckets(x, rotations)
    assert found.shape == (2, 3, 2, 5) and found.dtype == torch.int64, f"found {found.dtype} {tuple(found.shape)}"
    laws.assert_same(lsh_buckets(factor * x, rotations), found)
    laws.assert_same(lsh_buckets(-x, rotations), (found + half) % (2 * half))


def test_buckets_are_the_best_of_all_directions():
    """The bucket is the index of the largest of xR and −xR; heads and rounds have rotations of their own.

    Source: Kitaev et al. 2020, §2.  Convention: xR before −xR.
    """
    x, rotations = normal(2, 3, 5, 4), normal(3, 4, 2, 3, seed=1)
    found = lsh_buckets(x, rotations)
    for sample, head, r, token in ((0, 0, 0, 0), (1, 2, 1, 4), (0, 1, 1, 3), (1, 0, 0, 2)):
        turned = x[sample, head, token] @ rotations[head, :, r]
        expected = torch.cat([turned, -turned]).argmax().item()
        assert found[sample, head, r, token] == expected, f"expected {expected}, found {found[sample, head, r, token]}"


@given(
    n=sizes(1, 14),
    buckets=st.sampled_from([1, 2, 4, 6]),
    chunk=sizes(1, 6),
    rounds=sizes(1, 3),
    causal=st.booleans(),
    seed=seeds(),
    length=sizes(0, 14),
)
def test_a_token_attends_to_its_buckets_in_its_chunk_and_the_one_before(
    n, buckets, chunk, rounds, causal, seed, length
):
    """o_i is a softmax over the tokens that share its bucket in its own chunk or the one before, united over the
    rounds.

    Chunks are cut from the tokens sorted by bucket, then by place; nothing goes round from the last to the first.

    Source: Kitaev et al. 2020, §2, eq. 3 and fig. 2; union: appendix A.
    Convention: padding has a bucket of its own, and its outputs mean nothing.
    """
    module, x = attention(buckets, chunk, rounds, seed, is_causal=causal), normal(2, n, 6, seed=seed)
    mask = torch.arange(n) < torch.tensor([[n], [length]])
    laws.assert_close(module(x), dense(module, x, attended(module, x, torch.ones_like(mask)).any(2)))
    expected = dense(module, x, attended(module, x, mask).any(2))
    laws.assert_close(module(x, mask)[mask], expected[mask], what="with padding")


@pytest.mark.parametrize(("n", "options"), [(17, {"rounds": 3, "is_causal": True}), (12, {"chunk": 4, "bias": True})])
def test_gradients_are_those_of_dense_attention(n, options):
    """Gradients to tokens and parameters are those of dense attention to the same tokens: buckets are constants.

    Source: Kitaev et al. 2020, §2; the hash is piecewise constant.
    """
    module, mask = attention(**options), torch.arange(n) < torch.tensor([[n], [n - 3]])

    def masked(output):
        return output * mask[..., None]

    laws.gradients_match(
        _As(module, lambda x: masked(module(x, mask))),
        _As(module, lambda x: masked(dense(module, x, attended(module, x, mask).any(2)))),
        normal(2, n, 6),
    )


def test_second_derivatives():
    """Second derivatives of hashed attention equal central differences.

    Source: the definition of the derivative.
    """
    module = laws.randomise(LSHAttention(2, 1, 2, 2, 2).double()).eval()
    laws.gradient_correct(module, normal(1, 4, 2), second_order=True)


@pytest.mark.states("limiting case")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("n", "chunk", "rounds"), [(9, 9, 1), (9, 40, 3), (10, 5, 2)])
def test_one_bucket_and_long_chunks_are_full_attention(causal, n, chunk, rounds):
    """With one bucket every token attends to all of its chunk and the one before, however many rounds; with a single
    chunk, to all.

    Source: Kitaev et al. 2020, §2, eq. 2: shared-QK attention.
    """
    module, x = attention(1, chunk, rounds, is_causal=causal), normal(2, n, 6)
    place = torch.arange(n)
    allowed = (place[:, None] // chunk >= place // chunk) | (place[:, None] < 0)
    allowed = allowed & (place[:, None] >= place) if causal else allowed
    laws.assert_close(module(x), dense(module, x, allowed))


@pytest.mark.states("symmetry")
def test_more_rounds_of_the_same_hash_change_nothing():
    """If all rounds hash alike, the output is that of one round: no token counts twice.

    Source: Kitaev et al. 2020, appendix A, eq. 15: m_ij = log N_ij.
    """
    one, three, x = attention(rounds=1), attention(rounds=3), normal(2, 13, 6)
    three.load_state_dict(one.state_dict() | {"rotations": one.rotations.expand(-1, -1, 3, -1)})
    laws.assert_close(three(x), one(x))


@pytest.mark.states("limiting case")
@given(seed=seeds())
def test_a_token_attends_to_itself_only_if_there_is_no_other(seed):
    """The first token of a causal text attends to itself; the second to the first alone, or to itself if their buckets
    differ.

    Source: Kitaev et al. 2020, §2, Causal masking for shared-QK attention.
    """
    module, x = attention(2, 8, 2, seed, is_causal=True), normal(1, 7, 6, seed=seed)
    value = module.v_proj(x)
    laws.assert_close(module(x)[:, 0], module.out_proj(value[:, 0]))
    heads = attended(module, x, torch.ones(1, 7, dtype=torch.bool)).any(2)[0, :, 1, 0]
    read = torch.where(heads.repeat_interleave(3), value[:, 0], value[:, 1])
    laws.assert_close(module(x)[:, 1], module.out_proj(read))


@pytest.mark.states("dependence")
@pytest.mark.parametrize(("buckets", "chunk"), [(1, 3), (1, 20), (4, 2)])
def test_the_future_is_not_attended_to(buckets, chunk):
    """y_t is a function of x_1 … x_t and of the buckets: no output attends to a later token.

    Source: Kitaev et al. 2020, §2, Causal masking for shared-QK attention.
    Convention: with several buckets later tokens still decide where chunks are cut, in the authors' code as well; their
    values do not matter.
    """
    module, x = attention(buckets, chunk, 2, is_causal=True), normal(1, 12, 6)
    place = torch.arange(12)
    allowed = attended(module, x, torch.ones(1, 12, dtype=torch.bool)).any(2)[0].any(0) & (place[:, None] >= place)
    rows = laws.jacobian(lambda x: module(x[None])[0].sum(-1), x[0]).abs().sum(-1) > 0
    found = rows & ~allowed & (place[:, None] != place)
    assert not found.any(), f"expected no dependence, found {found.nonzero().tolist()}"
    assert (rows & (place[:, None] > place)).any(), "expected a dependence on earlier tokens"


def test_the_length_of_a_vector_sets_its_sharpness_as_a_query_only():
    """As k_j = q_j/‖q_j‖, scaling a token's shared vector leaves the attention of others to it unchanged.

    Source: Kitaev et al. 2020, §2, Sharing Q and K.
    """
    module, x = attention(2, 8, 1), normal(1, 8, 6)
    module.v_proj.weight.data[:, :3], module.qk_proj.weight.data[:, 3:] = 0, 0  # vectors of x's first half
    scaled = x.clone()
    scaled[:, 5, :3] *= 4
    before, after = module(x), module(scaled)
    others = torch.arange(8) != 5
    laws.assert_close(after[:, others], before[:, others], rtol=1e-5, atol=1e-5, because="1e-6 under the root")
    laws.assert_differs(after[:, 5], before[:, 5], by=1e-3)


def test_a_vector_of_zero_has_finite_gradients():
    """A shared vector of length 0 gives a key of 0 and finite gradients.

    Source: the limit.  Convention: 1e-6 under the root, as in the authors' code.
    """
    x = normal(1, 9, 6)
    x[0, 4] = 0
    x.requires_grad_()
    module = attention()
    (grad,) = torch.autograd.grad(module(x).square().sum(), x)
    assert grad.isfinite().all() and module(x).isfinite().all(), "expected finite values"


def test_training_samples_rotations_and_evaluation_keeps_them():
    """Each call in training samples new rotations from the global generator; evaluation uses the state's.

    Source: Kitaev et al. 2020, §2: random rotations; the authors' code draws them at each step.
    """
    module, x = attention(), normal(2, 30, 6)
    kept, before = module.rotations.clone(), module(x)
    module.train()
    laws.reseed(0)
    first = module(x)
    laws.assert_differs(module(x), first, by=1e-3)
    laws.reseed(0)
    laws.assert_same(module(x), first)
    laws.assert_same(module.rotations, kept)
    laws.assert_same(module.eval()(x), before)
    other = attention(seed=4)
    other.load_state_dict(module.state_dict())
    laws.assert_same(other(x), before)
    assert kept.shape == (2, 3, 2, 2), f"expected rotations of each head and round, found {tuple(kept.shape)}"
    laws.assert_differs(kept[0], kept[1], by=0.1)
    laws.assert_differs(kept[:, :, 0], kept[:, :, 1], by=0.1)


def test_training_samples_for_each_head_and_round():
    """In training two heads with equal weights attend to different tokens, and twelve rounds to more pairs than one.

    Source: Kitaev et al. 2020, §2, Multi-round LSH attention: n_rounds distinct hash functions.
    Measured: 0.49 to 0.51 of the pairs with twelve rounds, 0.18 to 0.20 with one; 5 seeds.
    """
    module, x = attention(6, 30, 1, bias=True).train(), normal(2, 24, 6)
    for part in (module.qk_proj, module.v_proj):
        for parameter in part.parameters():
            parameter.data[3:] = parameter.data[:3]
    nn.init.eye_(module.out_proj.weight)
    nn.init.zeros_(module.out_proj.bias)
    heads = module(x).unflatten(-1, (2, 3))
    laws.assert_differs(heads[:, :, 0], heads[:, :, 1], by=1e-2)

    def share(rounds):
        module = attention(20, 30, rounds).train()
        nn.init.eye_(module.out_proj.weight)
        rows = laws.jacobian(lambda x: laws.reseed(0) or module(x[None])[0, :, :3].sum(-1), normal(24, 6))
        return (rows.abs().sum(-1) > 0).double().mean().item()

    found = share(1), share(12)
    assert found[0] < 0.3 < 0.4 < found[1], f"expected twelve rounds to read more than one, found {found}"


def test_rotations_are_normal():
    """R is initialised with independent standard normal values: the mean and variance of 4,000 are within 5 σ.

    Source: Andoni et al. 2015, arXiv:1509.02897; Kitaev et al. 2020, §2.
    """
    laws.reseed(0)
    rotations = LSHAttention(100, 2, 8, 5, 10).rotations
    assert rotations.numel() == 4000 and abs(rotations.mean().item()) < 5 / 63, "expected a mean of 0"
    assert abs(rotations.var().item() - 1) < 5 * (2 / 4000) ** 0.5, "expected a variance of 1"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_are_wide_in_half_precision(dtype):
    """In half precision a token without another attends to itself, and all outputs are close to float64: scores are
    float32.

    Source: Kitaev et al. 2020, §2: a token's score of itself is lowered by 10⁵, which float16 does not hold.
    """
    module, x = attention(1, 4, 2, is_causal=True).to(dtype), normal(2, 9, 6).to(dtype)
    found = module(x)
    assert found.dtype == dtype, f"expected {dtype}, found {found.dtype}"
    laws.assert_close(found.double(), module.double()(x.double()), rtol=0, atol=0.03, because="8 or 11 bits")


def test_padding_is_no_information():
    """Tokens that `key_mask` hides change no other token, and padding at the end is equivalent to none.

    Source: Kitaev et al. 2020, §2.  Convention: True marks a token.
    """
    module, x, mask = attention(), normal(2, 20, 6), torch.ones(2, 20, dtype=torch.bool)
    mask[0, 1::4] = mask[1, 13:] = False
    other = torch.where(mask[..., None], x, 50.0)
    found = module(x, mask)
    laws.assert_same(module(other, mask)[mask], found[mask])
    laws.assert_close(found[1, :13], module(x[1:, :13])[0])


def test_hashing_costs_in_proportion_to_the_length():
    """For a fixed chunk length operations and peak memory are linear in the length and in the rounds.

    Source: Kitaev et al. 2020, table 1 and §2: O(l) chunks of a fixed size, next to the sort's log l.
    """

    def run(n, rounds):
        laws.reseed(0)
        module, x = LSHAttention(8, 2, 8, 16, rounds).eval(), normal(1, n, 8, dtype=torch.float32)
        return cost.flops(module, x), cost.peak_bytes(module, x)

    found = [run(n, 2) for n in (128, 256, 512)]
    # Three projections; for each round a rotation, of [R; −R] at most, and two products with the tokens of two chunks.
    most = 2 * 8 * (3 * 8 + 2 * (8 + 2 * 2 * 16))
    steps = found[1][0] - found[0][0], found[2][0] - found[1][0]
    assert steps[0] <= 128 * most, f"expected up to {128 * most} for 128 tokens, found {found}"
    assert steps[1] == 2 * steps[0], f"expected operations linear in the length, found {found}"
    growth = (found[2][1] - found[1][1]) / (found[1][1] - found[0][1])
    assert growth < 2.2, f"expected peak memory linear in the length, found {found}"
    more = run(256, 3)[0] - run(256, 2)[0]
    assert more <= 256 * 2 * 8 * (8 + 2 * 2 * 16), f"found {more} for a round more"


def test_dropout_is_of_weights_and_in_training_only():
    """In training the weight of 1 of a lone token becomes 0 or 1/(1 − p) in each head; in evaluation it stays 1.

    400 samples of 3 heads, 25 % dropped ± 5 points at 4 σ.

    Source: Vaswani et al. 2017, arXiv:1706.03762, §5.4.  Convention: weights are dropped, as in torch.nn.
    """
    module = laws.randomise(LSHAttention(12, 3, 2, 4, dropout=0.25).double())
    module.out_proj.weight.data = torch.eye(12, dtype=torch.float64)
    x = normal(1, 1, 12).expand(400, 1, 12)
    value = module.v_proj(x)
    laws.assert_close(module.eval()(x), value)
    found = (module.train()(x) / value).unflatten(-1, (3, 4))
    kept = found > 0.5
    laws.assert_close(found, kept.double() / 0.75)
    share = 1 - kept.double().mean().item()
    assert abs(share - 0.25) < 0.05, f"expected about a quarter of the weights dropped, found {share:.3f}"


# ---------------------------------------------------------------------------------------------- reversible layers


def branch(width, seed, dropout=0.0):
    laws.reseed(seed)
    return nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, width)).double()


def stack(layers, width=4, dropout=0.0):
    return ReversibleSequence(
        *(ReversibleBlock(branch(width, 2 * n, dropout), branch(width, 2 * n + 1, dropout)) for n in range(layers))
    )


def ordinary(sequence):
    """The same sum by plain autograd: y₁ = x₁ + F(x₂), y₂ = x₂ + G(y₁)."""

    def run(x1, x2):
        for block in sequence.blocks:
            x1 = x1 + block.f(x2)
            x2 = x2 + block.g(x1)
        return x1, x2

    return _As(sequence, run)


def test_a_block_is_undone_by_its_inverse():
    """The inverses x₂ = y₂ − G(y₁), x₁ = y₁ − F(x₂) of 12 blocks restore both inputs.

    Source: Kitaev et al. 2020, eq. 9 and 10; Gomez et al. 2017, arXiv:1707.04585, eq. 8.
    """
    blocks, x1, x2 = stack(12).blocks, normal(2, 3, 4), normal(2, 3, 4, seed=1)
    y1, y2 = x1, x2
    for n, block in enumerate(blocks):
        before = y1, y2
        y1, y2 = block(y1, y2)
        laws.assert_close(y1, before[0] + block.f(before[1]), what=f"y1 of block {n}")
        laws.assert_close(y2, before[1] + block.g(y1), what=f"y2 of block {n}")
    for block in reversed(blocks):
        y1, y2 = block.inverse(y1, y2)
    laws.assert_close(y1, x1, rtol=1e-12, atol=1e-12)
    laws.assert_close(y2, x2, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layers", [1, 4])
def test_gradients_are_those_of_ordinary_layers(layers):
    """Outputs, and gradients to both inputs and every parameter, are those of plain autograd.

    Source: Gomez et al. 2017, arXiv:1707.04585, algorithm 1.
    """
    sequence = stack(layers)
    laws.gradients_match(sequence, ordinary(sequence), normal(2, 3, 4), normal(2, 3, 4, seed=1))


def test_second_derivatives_of_reversible_layers():
    """Second derivatives of reversible layers equal central differences: the backward pass is a function of the
    outputs.

    Source: the definition of the derivative.
    """
    laws.gradient_correct(stack(2, width=2), normal(2, 2), normal(2, 2, seed=1), second_order=True)


@pytest.mark.states("gradient routing")
def test_gradients_reach_exactly_what_requires_them():
    """A single input with a gradient, frozen parameters, and parameters also used before the layers get the right
    gradients.

    Source: the chain rule.
    """
    sequence, x = stack(2), normal(3, 4)
    shared = sequence.blocks[0].f[0]
    sequence.blocks[1].g[0].weight.requires_grad_(False)
    found, expected = ([], [])
    for grads, run in ((found, sequence), (expected, ordinary(sequence))):
        leaf = x.clone().requires_grad_()
        y1, y2 = run(shared(leaf), x)
        wanted = [leaf, *(p for p in sequence.parameters() if p.requires_grad)]
        (slope,) = torch.autograd.grad((y1 * y2).sum(), leaf, create_graph=True)
        grads += torch.autograd.grad((y1 * y2).sum() + slope.square().sum(), wanted)
    laws.assert_all_close(found, expected)


@pytest.mark.parametrize("seed", [0, 1])
def test_dropout_is_replayed(seed):
    """The backward pass drops what the forward pass dropped, and leaves the random generator unchanged.

    Source: Kitaev et al. 2020, §3: activations are recomputed; a port that drew others trained on wrong gradients.
    """
    sequence, inputs = stack(3, dropout=0.5).train(), (normal(2, 3, 4), normal(2, 3, 4, seed=1))
    results = []
    for run in (sequence, ordinary(sequence)):
        laws.reseed(seed)
        outputs, grads = laws.gradients(run, inputs)
        results.append((outputs, grads, torch.rand(3, dtype=torch.float64)))
    laws.assert_all_close(results[0], results[1])
    drawn = [laws.gradients(sequence, inputs)[0][0] for _ in range(2)]
    laws.assert_differs(drawn[0], drawn[1], by=1e-3)


def test_later_random_numbers_do_not_disturb_the_replay():
    """Random numbers used between the forward and the backward pass change no gradient.

    Source: as above: the states of the generator are kept, not its seed assumed.
    """
    sequence, x = stack(2, dropout=0.5).train(), normal(2, 3, 4).requires_grad_()
    grads = []
    for more in (0, 5):
        laws.reseed(3)
        y1, y2 = sequence(x, 2 * x)
        torch.rand(more)
        grads.append(torch.autograd.grad((y1 * y2).sum(), x)[0])
    laws.assert_same(grads[1], grads[0])


def test_mixed_precision_is_replayed():
    """Under autocast gradients are those of ordinary layers, though the backward pass runs outside the region.

    Source: Kitaev et al. 2020, §3: activations are recomputed, which they are in the precision that they had.
    Measured: alike to 1e-7 right; 0.008 of the largest off where the layers are run again in float32.
    """
    sequence = stack(4, width=8).float()
    found = []
    for run in (sequence, ordinary(sequence)):
        x = normal(2, 3, 8, dtype=torch.float32).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y1, y2 = run(x, x)
        found.append((y1, *torch.autograd.grad((y1 * y2).sum(), [x, *sequence.parameters()])))
    scale = max(g.abs().max().item() for g in found[1])
    for a, b in zip(*found, strict=True):
        laws.assert_close(a / scale, b / scale)


def test_activations_cost_the_same_at_any_depth():
    """4 and 16 blocks keep the same, inputs and outputs at most besides the parameters; the peak is that of one block.

    Source: Kitaev et al. 2020, §3 and table 3: memory without the factor of layers.
    """
    x, kept, peaks = normal(64, 32, 4), [], []
    for layers in (4, 16):
        for run in (stack(layers), ordinary(stack(layers))):
            weights = {p.data_ptr() for p in run.parameters()}
            saved = {}

            def pack(t, weights=weights, saved=saved):
                if t.is_floating_point() and t.data_ptr() not in weights:
                    saved[t.data_ptr()] = t.numel() * t.element_size()
                return t

            leaf = x.clone().requires_grad_()
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
                y1, y2 = run(leaf, leaf)
            kept.append(sum(saved.values()))

            def train(x, run=run):
                y1, y2 = run(x, x)
                grads = torch.autograd.grad((y1 + y2).sum(), x)
                return grads

            peaks.append(cost.peak_bytes(train, leaf))
    one = x.numel() * 8
    assert kept[0] == kept[2] <= 4 * one, f"expected {4 * one} bytes at most, found {kept[0]} and {kept[2]}"
    assert kept[3] > 3 * kept[1] > 3 * kept[0], f"expected ordinary layers to keep more, found {kept}"
    assert peaks[2] < 1.1 * peaks[0], f"expected the same peak at any depth, found {peaks[0]} and {peaks[2]}"
    assert peaks[3] > 3 * peaks[1] > 3 * peaks[0], f"expected ordinary layers to need more, found {peaks}"


def test_context_reaches_every_first_branch():
    """Further arguments reach every F, forward and inverse, and no G.

    Source: Kitaev et al. 2020, §3: F is attention, which needs its mask; G is the feed-forward network.
    """

    class Scaled(nn.Module):
        def __init__(self, seed):
            super().__init__()
            self.inner = branch(4, seed)

        def forward(self, x, factor):
            return factor * self.inner(x)

    sequence = ReversibleSequence(*(ReversibleBlock(Scaled(2 * n), branch(4, 2 * n + 1)) for n in range(2)))

    def plain(x1, x2):
        for block in sequence.blocks:
            x1 = x1 + 3 * block.f.inner(x2)
            x2 = x2 + block.g(x1)
        return x1, x2

    factor, inputs = torch.tensor(3.0, dtype=torch.float64), (normal(2, 4), normal(2, 4, seed=1))
    laws.gradients_match(_As(sequence, lambda *x: sequence(*x, factor)), _As(sequence, plain), *inputs)
    block = sequence.blocks[0]
    laws.assert_close(block.inverse(*block(*inputs, factor), factor)[0], inputs[0])


# ---------------------------------------------------------------------------------------------- the model


def model(**options):
    laws.reseed(0)
    sizes = {"embed_dim": 6, "num_heads": 2, "num_layers": 2, "dim_feedforward": 10, "max_len": 20}
    return Reformer(7, **sizes | {"num_buckets": 2, "chunk_length": 4, "num_hashes": 2} | options).double().eval()


def text(*shape, seed=0):
    return torch.randint(7, shape, generator=torch.Generator().manual_seed(seed))


def test_layers_see_the_sum_of_words_and_positions_twice():
    """x₁ = x₂ = words + positions; y₁ = x₁ + Attn(LN(x₂)), y₂ = x₂ + FFN(LN(y₁)); the logits are a projection of
    LN([y₁, y₂]).

    Source: Kitaev et al. 2020, §3, eq. 9; norms within the branches.  Convention: both halves are read, y₁ first.
    """
    net, tokens = laws.randomise(model()), text(2, 13)
    x1 = x2 = net.words.weight[tokens] + net.positions.weight[:13]
    for block in net.layers.blocks:
        x1 = x1 + block.f.part(_norm(x2, block.f.norm))
        wide = nn.functional.linear(_norm(x1, block.g.norm), block.g.part.linear1.weight, block.g.part.linear1.bias)
        x2 = x2 + nn.functional.linear(wide.relu(), block.g.part.linear2.weight, block.g.part.linear2.bias)
    features = _norm(torch.cat([x1, x2], -1), net.norm)
    laws.assert_close(net.encode(tokens), features)
    laws.assert_close(net(tokens), features @ net.head.weight.T)


def _norm(x, norm):
    return nn.functional.layer_norm(x, x.shape[-1:], norm.weight, norm.bias)


@pytest.mark.parametrize("chunk", [1, 4, 13, 40])
def test_the_feed_forward_network_may_work_in_chunks(chunk):
    """Chunks of the feed-forward network change neither outputs nor gradients: it treats each token by itself.

    Source: Kitaev et al. 2020, §3, Chunking, eq. 11.
    """
    whole, parts, tokens = model(), model(feed_forward_chunk=chunk), text(2, 13)
    parts.load_state_dict(whole.state_dict())
    laws.gradients_match(parts, whole, tokens)


def test_chunks_and_reversal_save_memory():
    """Chunks lower the peak of a forward pass, and four times the layers hardly raise that of training.

    Source: Kitaev et al. 2020, §3 and table 3.
    """
    tokens, peaks = text(1, 20), []
    for chunk in (None, 2):
        net = model(dim_feedforward=400, feed_forward_chunk=chunk)
        with torch.no_grad():
            peaks.append(cost.peak_bytes(net, tokens))
    assert peaks[1] < peaks[0] / 2, f"expected less than half at a time, found {peaks}"

    def train(net, tokens):
        x = net.words(tokens)
        return torch.autograd.grad(torch.cat(net.layers(x, x), -1).sum(), x)

    peaks = [cost.peak_bytes(train, model(num_layers=layers), text(40, 20)) for layers in (2, 8)]
    assert peaks[1] < 1.1 * peaks[0], f"expected nearly the same peak with 8 layers as with 2, found {peaks}"


@pytest.mark.states("dependence")
@pytest.mark.parametrize("causal", [True, False])
def test_logits_of_the_next_token_do_not_depend_on_it(causal):
    """The logits of a causal model depend on the past alone, those of another model on every token.

    Source: Kitaev et al. 2020, §2 and §5: language modelling.
    """
    net, tokens = model(num_buckets=1, chunk_length=13, is_causal=causal), text(1, 13)
    other = tokens.clone()
    other[0, 6] = (tokens[0, 6] + 1) % 7
    changed = (net(other) - net(tokens)).abs().amax(-1)[0] > 1e-12
    assert changed[6:].all(), f"expected later logits to change, found {changed.tolist()}"
    assert changed[:6].any() != causal, f"expected earlier logits to change only without a mask: {changed.tolist()}"


def test_padding_does_not_change_the_model():
    """Tokens that `key_mask` hides after a text do not change its logits.

    Source: Kitaev et al. 2020, §2.  Convention: True marks a token.
    """
    net, tokens = model(is_causal=False), text(2, 13)
    mask = torch.arange(13) < torch.tensor([[13], [9]])
    laws.assert_close(net(tokens, mask)[1, :9], net(tokens[1:, :9])[0])
    laws.assert_differs(net(tokens)[1, :9], net(tokens[1:, :9])[0], by=1e-4)


def test_settings_reach_every_layer():
    """Rounds, buckets, chunks and the mask reach each layer.

    Source: Kitaev et al. 2020, §2.  A port ignored the number of rounds.
    """
    for causal in (True, False):
        net = model(num_hashes=3, num_buckets=6, chunk_length=5, is_causal=causal)
        for block in net.layers.blocks:
            alone, x = attention(6, 5, 3, is_causal=causal), normal(2, 13, 6)
            alone.load_state_dict(block.f.part.state_dict())
            laws.assert_close(block.f.part(x), alone(x))


def test_dropout_is_of_words_weights_branches_and_the_end():
    """In training a fraction p of the words' features, attention weights, each branch's and the last features is
    dropped.

    4800 elements and 800 weights or more at p = 0.25: 5 σ are 0.031 and 0.077.

    Source: Kitaev et al. 2020, §5, the authors' code.  Convention: positions are added after the words' dropout, and
    nothing is dropped inside of the feed-forward network.
    """
    net, tokens, seen = laws.randomise(model(dropout=0.25, num_hashes=1)).train(), text(40, 20), []
    net.layers.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    shares = {"end": net.encode(tokens), "words": seen[0] - net.positions.weight[:20]}
    for n, block in enumerate(net.layers.blocks):
        x = normal(40, 20, 6, seed=n)
        shares |= {f"F of layer {n}": block.f(x), f"G of layer {n}": block.g(x)}
        laws.assert_same(block.g.part.train()(x), block.g.part.eval()(x))
        weights = laws.dropped_weights(block.f.part, 2)
        assert abs(weights - 0.25) < 0.08, f"expected a quarter of attention's weights dropped, found {weights:.3f}"
    shares = {place: (found == 0).double().mean().item() for place, found in shares.items()}
    assert all(abs(share - 0.25) < 0.035 for share in shares.values()), f"expected a quarter dropped, found {shares}"


def test_defaults_are_the_papers():
    """The defaults are width 1024, 4096 within, 8 heads, 3 layers, texts of 4096, 128 buckets, chunks of 64, 4 rounds,
    no dropout.

    Source: Kitaev et al. 2020, §5.
    """
    model()  # a signature alone is no implementation
    found = {name: p.default for name, p in inspect.signature(Reformer).parameters.items() if name != "vocab_size"}
    wanted = {"embed_dim": 1024, "num_heads": 8, "num_layers": 3, "dim_feedforward": 4096, "max_len": 4096}
    wanted |= {"num_buckets": 128, "chunk_length": 64, "num_hashes": 4, "is_causal": True}
    assert found == wanted | {"feed_forward_chunk": None, "dropout": 0.0}, f"found {found}"


@pytest.mark.project_convention
def test_attention_shows_its_settings():
    """repr names buckets, chunk, rounds and the mask.

    Convention: extra_repr as torch.nn modules have it.
    """
    shown = repr(LSHAttention(6, 2, 4, 5, 3, is_causal=True))
    assert "num_buckets=4, chunk_length=5, num_hashes=3, is_causal=True" in shown, f"found {shown}"
    assert "num_hashes=1, is_causal=False" in repr(LSHAttention(6, 2, 4, 5)), "expected one round, all tokens"


@pytest.mark.parametrize(("options", "count"), [({}, 3 * 36), ({"bias": True}, 3 * 42)])
def test_parameters_are_counted(options, count):
    """Hashed attention has three projections of d² parameters, one fewer than a transformer's: keys are the queries.

    Source: Kitaev et al. 2020, §2, Sharing Q and K.  Convention: no biases, as in the authors' code.
    """
    found = sum(p.numel() for p in LSHAttention(6, 2, 4, 5, **options).parameters())
    assert found == count, f"expected {count} parameters, found {found}"
