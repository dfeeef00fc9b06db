"""Properties of Swin.  Liu et al. 2021, arXiv:2103.14030."""

from math import sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from impl.models.swin import PatchMerging, SwinBlock, SwinTransformer, WindowAttention
from spec import cost, laws
from spec.cases.swin import block, swin, window_attention
from spec.cases.vit import without_blocks
from spec.laws import double, random
from spec.strategies import permutations, seeds, sizes

pytestmark = pytest.mark.item("swin")


def all_random(module):
    return laws.randomise(module.double()).eval()


def norm(x, state, name):
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    return x * state[f"{name}.weight"] + state[f"{name}.bias"]


def attended(x, cells, state, heads, m, prefix=""):
    """Attention in which token (i, j) of x (h, w, d) attends to those of its cell, with the bias of eq. 4."""
    state = {name.removeprefix(prefix): value for name, value in state.items()}
    height, width, d = x.shape
    queries, keys, values = (x @ state["in_proj_weight"].T + state["in_proj_bias"]).split(d, dim=-1)
    size, found = d // heads, torch.zeros_like(x)
    places = [(i, j) for i in range(height) for j in range(width)]
    for i, j in places:
        others = [place for place in places if cells(*place) == cells(i, j)]
        for h in range(heads):
            part = slice(h * size, h * size + size)
            scores = [queries[i, j, part] @ keys[a, b, part] / sqrt(size) for a, b in others]
            table = [state["bias_table"][(i - a + m - 1) * (2 * m - 1) + j - b + m - 1, h] for a, b in others]
            shares = (torch.stack(scores) + torch.stack(table)).softmax(0)
            found[i, j, part] = sum(share * values[a, b, part] for share, (a, b) in zip(shares, others))
    return found @ state["out_proj.weight"].T + state["out_proj.bias"]


def grid(height, width, m, shift):
    """The cell of a token in the grid of windows that begins `shift` further down and right; one window stays whole."""
    down, right = (shift if side > m else 0 for side in (height, width))
    return lambda i, j: ((i - down) // m, (j - right) // m)


# ---------------------------------------------------------------------------------------------- windows


@pytest.mark.states("equivalence")
@given(height=sizes(1, 5), width=sizes(1, 7), m=sizes(2, 3), shifted=st.booleans(), seed=seeds())
def test_block_is_attention_in_a_shifted_grid_and_an_mlp(height, width, m, shifted, seed):
    """z ← (S)W-MSA(LN(z)) + z, then z ← MLP(LN(z)) + z: a token attends to those of its cell of the shifted grid.

    The grid is no ring: what the shift cuts off at an edge attends to itself alone.  Zeros are added after the norm
    until windows divide the map, and the grid is that of the map with them.

    Source: Liu et al. 2021, eq. 3 and 4, §3.2; padding as released.
    """
    shift = m // 2 if shifted else 0
    module = all_random(block(window_size=m, shift_size=shift))
    state, x = module.state_dict(), double(1, height, width, 4, seed=seed)
    whole = torch.zeros(height + -height % m, width + -width % m, 4, dtype=torch.float64)
    whole[:height, :width] = norm(x[0], state, "norm1")
    cells = grid(*whole.shape[:2], m, shift)
    z = x[0] + attended(whole, cells, state, 2, m, "attention.")[:height, :width]
    hidden = norm(z, state, "norm2") @ state["mlp.linear1.weight"].T + state["mlp.linear1.bias"]
    hidden = hidden / 2 * (1 + (hidden / sqrt(2)).erf())
    expected = z + hidden @ state["mlp.linear2.weight"].T + state["mlp.linear2.bias"]
    laws.assert_close(module(x)[0], expected)


@pytest.mark.states("dependence")
@pytest.mark.parametrize("shift", [0, 1, 2])
def test_a_token_depends_on_its_window_alone(shift):
    """Without its MLP and norms a block's output at a token depends on all tokens of its window, and on no others.

    Source: Liu et al. 2021, §3.2: self-attention within non-overlapping local windows; figure 4.
    """
    module = all_random(block(window_size=3, shift_size=shift))
    rows = laws.jacobian(module, double(1, 6, 9, 4)).reshape(54, 4, 54, 4).abs().amax((1, 3))
    cells = grid(6, 9, 3, shift)
    places = [(i, j) for i in range(6) for j in range(9)]
    expected = torch.tensor([[cells(*a) == cells(*b) for b in places] for a in places])
    wrong = (expected != (rows > 0)).nonzero()[:3].tolist()
    assert not wrong, f"expected tokens to depend on their windows alone, found otherwise at {wrong}"


def test_two_blocks_connect_windows():
    """After W-MSA and SW-MSA a token depends on those that share a window with one of its own: both grids' product.

    Source: Liu et al. 2021, §3.2: connections across windows.
    """
    first, second = (all_random(block(window_size=2, shift_size=shift)) for shift in (0, 1))
    rows = laws.jacobian(lambda x: second(first(x)), double(1, 4, 6, 4)).reshape(24, 4, 24, 4).abs().amax((1, 3))
    places = [(i, j) for i in range(4) for j in range(6)]
    one, two = (
        torch.tensor([[cells(*a) == cells(*b) for b in places] for a in places]).double()
        for cells in (grid(4, 6, 2, 0), grid(4, 6, 2, 1))
    )
    expected = two @ one > 0
    assert expected.sum() > one.sum(), "expected more connections than within windows"
    wrong = (expected != (rows > 0)).nonzero()[:3].tolist()
    assert not wrong, f"expected the two grids' connections, found otherwise at {wrong}"


@given(height=sizes(3, 6), width=sizes(3, 6), seed=seeds())
def test_opposite_edges_do_not_see_each_other(height, width, seed):
    """In one shifted block the first row's tokens do not change the last row's, nor the first column's the last's.

    Source: Liu et al. 2021, §3.3, figure 4: the mask of the cyclic shift.
    """
    module = all_random(block(window_size=2, shift_size=1))
    x = double(1, height, width, 4, seed=seed)
    for dim in (1, 2):
        other = x.clone()
        other.select(dim, 0).add_(double(*x.select(dim, 0).shape, seed=seed + 1))
        before, after = module(x).select(dim, -1), module(other).select(dim, -1)
        laws.assert_close(after, before, what=f"the last of dimension {dim}, the first changed")


@pytest.mark.states("symmetry")
@given(seed=seeds(), down=st.integers(0, 3), right=st.integers(0, 3))
def test_windows_are_treated_alike(seed, down, right):
    """A map moved by whole windows has an output moved likewise, by W-MSA: each window is treated as every other.

    Source: Liu et al. 2021, §3.2: evenly partitioned windows.
    """
    module, x = all_random(block(shift_size=0)), double(2, 8, 8, 4, seed=seed)
    laws.equivariant(module, x, lambda t: t.roll((2 * down, 2 * right), (1, 2)))


@given(seed=seeds(), order=permutations(4))
def test_without_biases_of_place_a_window_is_a_set(seed, order):
    """With B̂ = 0 permuted tokens of a window have permuted outputs; with B̂ they do not.

    Source: Liu et al. 2021, eq. 4: B is the only place where positions enter.
    """
    module, x = all_random(window_attention()), double(2, 4, 6, seed=seed)
    if order.tolist() != [0, 1, 2, 3]:
        laws.assert_differs(module(x[:, order]), module(x)[:, order], by=1e-6)
    state = module.state_dict()
    module.load_state_dict(state | {"bias_table": torch.zeros_like(state["bias_table"])})
    laws.assert_close(module(x[:, order]), module(x)[:, order])


# ---------------------------------------------------------------------------------------------- biases


@pytest.mark.parametrize("m", [1, 2, 3])
def test_bias_is_that_of_the_relative_position(m):
    """Without queries, weights are SoftMax(B) with B = B̂[(y − y′ + M − 1)(2M − 1) + x − x′ + M − 1] at each head.

    With M = 2 the indices are 4 3 1 0, 5 4 2 1, 7 6 4 3, 8 7 5 4, query by query.

    Source: Liu et al. 2021, eq. 4 and the text below it: M² × M² biases of a (2M − 1) × (2M − 1) table.
    """
    tokens, laid_out = m * m, torch.zeros(m * m, m * m, dtype=torch.long)
    for query in range(tokens):
        for key in range(tokens):
            apart = query // m - key // m, query % m - key % m
            laid_out[query, key] = (apart[0] + m - 1) * (2 * m - 1) + apart[1] + m - 1
    if m == 2:
        assert laid_out.tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    module = all_random(WindowAttention(2 * tokens, m, 2))
    state, eye = module.state_dict(), torch.eye(2 * tokens, dtype=torch.float64)
    state |= {"in_proj_weight": torch.cat([0 * eye, 0 * eye, eye]), "in_proj_bias": 0 * state["in_proj_bias"]}
    module.load_state_dict(state | {"out_proj.weight": eye, "out_proj.bias": 0 * state["out_proj.bias"]})
    x = torch.eye(tokens, dtype=torch.float64).repeat(1, 2)[None]  # a token for each key, alike for both heads
    for head in range(2):
        found = module(x)[0, :, head * tokens : (head + 1) * tokens]
        laws.assert_close(found, state["bias_table"][laid_out, head].softmax(1), what=f"weights of head {head}")


def test_masked_keys_count_nothing():
    """A key that the mask hides has weight 0 exactly, whatever its bias and however large its features.

    Source: Liu et al. 2021, §3.3: masking limits attention to each sub-window.
    """
    module, x = all_random(window_attention()), double(2, 4, 6)
    mask = torch.ones(2, 4, 4, dtype=torch.bool)
    mask[0, 1:, 0] = mask[1, :2, 3] = False
    other = x.clone()
    other[0, 0] += 1000 * double(6)
    other[1, 3] -= 1000 * double(6)
    laws.assert_close(module(other, mask)[0, 1:], module(x, mask)[0, 1:])
    laws.assert_close(module(other, mask)[1, :2], module(x, mask)[1, :2])
    laws.assert_close(module(x, torch.ones_like(mask)), module(x), what="output with a mask that hides nothing")


def test_biases_begin_small():
    """B̂ has a mean of 0 and a standard deviation of 0.02 at first.

    Source: Liu et al. 2021, as released.
    """
    laws.reseed(0)
    table = WindowAttention(4, 12, 4).state_dict()["bias_table"].double()
    laws.assert_close(table.std(), torch.tensor(0.02).double(), rtol=0.08, because="2116 samples, 5 standard errors")
    assert table.mean().abs() < 0.002, f"expected a mean of 0, found {table.mean()}"


# ---------------------------------------------------------------------------------------------- merging, whole model


@given(height=sizes(1, 5), width=sizes(1, 5), seed=seeds())
def test_merging_joins_two_by_two(height, width, seed):
    """Token (i, j) becomes LN([x(2i, 2j); x(2i+1, 2j); x(2i, 2j+1); x(2i+1, 2j+1)]) W, with zeros beyond an odd edge.

    Source: Liu et al. 2021, §3.1: concatenated features of 2 × 2 patches, 4C → 2C; the order as released.
    """
    module, x = all_random(PatchMerging(3)), double(2, height, width, 3, seed=seed)
    state, zero = module.state_dict(), torch.zeros(2, 3, dtype=torch.float64)

    def at(i, j):
        return x[:, i, j] if i < height and j < width else zero

    found = module(x)
    assert found.shape == (2, (height + 1) // 2, (width + 1) // 2, 6), f"expected half the sides, found {found.shape}"
    for i in range(found.shape[1]):
        for j in range(found.shape[2]):
            four = [at(2 * i, 2 * j), at(2 * i + 1, 2 * j), at(2 * i, 2 * j + 1), at(2 * i + 1, 2 * j + 1)]
            expected = norm(torch.cat(four, dim=1), state, "norm") @ state["reduction.weight"].T
            laws.assert_close(found[:, i, j], expected, what=f"token {i}, {j}")


def part(state, prefix):
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


@pytest.mark.parametrize("window", [2, 3])
def test_model_is_its_parts_in_order(window):
    """Patches, a norm, two stages with a merging between, a norm, the mean of the tokens, the head.

    Blocks have shifts 0, ⌊M/2⌋, 0, … and MLPs four times as wide as their tokens; each stage begins without a shift.

    Source: Liu et al. 2021, figure 3, §3.1 and §3.2.
    """
    model = all_random(swin(depths=(3, 2), window_size=window))
    state, images = model.state_dict(), double(2, 3, 14, 10)
    kernel = state["patches.projection.weight"]
    x = torch.einsum("nchiwj,dcij->nhwd", images.reshape(2, 3, 7, 2, 5, 2), kernel) + state["patches.projection.bias"]
    x = norm(x, state, "embedding_norm")
    for stage, (depth, dim, heads) in enumerate([(3, 4, 2), (2, 8, 4)]):
        if stage:
            merging = PatchMerging(4).double()
            merging.load_state_dict(part(state, "mergings.0."))
            x = merging(x)
        for number in range(depth):
            module = SwinBlock(dim, heads, window, window // 2 * (number % 2), 4 * dim).double()
            module.load_state_dict(part(state, f"stages.{stage}.{number}."))
            x = module(x)
    x = norm(x, state, "norm").mean((1, 2))
    laws.assert_close(model(images), x @ state["head.weight"].T + state["head.bias"])
    bare = all_random(swin(depths=(3, 2), window_size=window, num_classes=None))
    bare.load_state_dict({name: value for name, value in state.items() if not name.startswith("head")})
    laws.assert_close(bare(images), x, what="features without a head")


@given(height=sizes(1, 9), width=sizes(1, 9), seed=seeds())
def test_any_image_is_padded_at_the_right_and_bottom(height, width, seed):
    """An image of any size gives the logits of the image with zeros to the next patch.

    Source: Liu et al. 2021, as released.
    """
    model, images = all_random(swin()), double(2, 3, height, width, seed=seed)
    whole = torch.zeros(2, 3, height + height % 2, width + width % 2, dtype=torch.float64)
    whole[:, :, :height, :width] = images
    laws.assert_close(model(images), model(whole))


@pytest.mark.states("limiting case")
def test_blocks_that_add_nothing_are_the_identity():
    """Where the last maps of both branches are 0, a block returns its input.

    Source: Liu et al. 2021, eq. 3.
    """
    module, x = without_blocks(all_random(block())), double(2, 3, 5, 4)
    laws.assert_close(module(x), x)


@pytest.mark.states("cost")
@given(rows=sizes(1, 3), columns=sizes(1, 3), shift=st.sampled_from([0, 1]))
def test_attention_costs_linearly_in_the_tokens(rows, columns, shift):
    """A block takes Ω(W-MSA) = 4 h w C² + 2 M² h w C multiply-adds for its attention, and 8 h w C² for its MLP.

    Source: Liu et al. 2021, eq. 2.
    """
    module, m, c = block(window_size=3, shift_size=shift, mlp_dim=16), 3, 4
    h, w = rows * m, columns * m
    expected = 2 * (4 * h * w * c * c + 2 * m * m * h * w * c + 8 * h * w * c * c)
    found = cost.flops(module, random(1, h, w, c))
    assert found == expected, f"expected {expected} operations, found {found}"


@pytest.mark.states("gradient routing")
def test_logits_reach_every_parameter():
    """The logits depend on every parameter: each stage's norms, attentions, biases, MLPs, and the mergings.

    Source: Liu et al. 2021, figure 3.
    """
    model = all_random(swin())
    laws.gradient_reaches(model(double(2, 3, 14, 10)).square().sum(), dict(model.named_parameters()))


@pytest.mark.states("second derivative")
def test_windows_have_second_derivatives():
    """The gradient of the gradient to a map equals central differences, through the shifted windows.

    Source: the definition of the derivative.
    """
    module = all_random(block())
    laws.gradient_correct(module, double(1, 3, 3, 4), second_order=True)


def test_default_layout_is_tiny():
    """Defaults are Swin-T's: C = 96, depths 2, 2, 6, 2, heads 3, 6, 12, 24, windows of 7, patches of 4, 1000 classes.

    Source: Liu et al. 2021, §3.3.
    """
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in SwinTransformer().state_dict().items()}
    depths = [len({name.split(".")[2] for name in shapes if name.startswith(f"stages.{stage}.")}) for stage in range(4)]
    assert depths == [2, 2, 6, 2], f"expected depths 2, 2, 6, 2, found {depths}"
    tables = [shapes[f"stages.{stage}.0.attention.bias_table"] for stage in range(4)]
    assert tables == [(169, 3), (169, 6), (169, 12), (169, 24)], f"expected 13² biases a head, found {tables}"
    assert shapes["patches.projection.weight"] == (96, 3, 4, 4) and shapes["head.weight"] == (1000, 768), shapes
