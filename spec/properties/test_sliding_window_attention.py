"""Sliding-window attention with global tokens.  Beltagy, Peters & Cohan 2020 (Longformer), arXiv:2004.05150."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from impl.layers.sliding_window_attention import SlidingWindowAttention
from spec import cost, laws
from spec.strategies import seeds, sizes

pytestmark = pytest.mark.item("sliding-window-attention")


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def ready(module, seed=0):
    """float64, every parameter random and of a size at which no head is saturated."""
    laws.randomise(module.double(), seed)
    for parameter in module.parameters():
        parameter.data.mul_(0.5)
    return module


def pattern(n, window, dilation=1, positions=()):
    """Which tokens attend to which: True at (i, j) for |i − j| <= d·w/2 in steps of d, and for i or j global."""
    gap = torch.arange(n)[:, None] - torch.arange(n)
    allowed = (gap.abs() <= dilation * window // 2) & (gap % dilation == 0)
    for position in positions:
        if position >= 0:
            allowed[position] = allowed[:, position] = True
    return allowed


def dense(module, x, allowed, special=()):
    """Attention to all tokens with a mask (b, n, n), rows of `special` tokens by the global projections."""
    heads, width = x.shape[-1] // module.head_dim, module.head_dim

    def read(names):
        query, key, value = (getattr(module, f"{n}_proj")(x).unflatten(-1, (heads, width)) for n in names)
        scores = torch.einsum("bihd,bjhd->bhij", query, key) / width**0.5
        weights = scores.masked_fill(~allowed[:, None], -torch.inf).softmax(-1).nan_to_num(0)
        return torch.einsum("bhij,bjhd->bihd", weights, value).flatten(2)

    output = read(("q", "k", "v"))
    if len(special):
        marked = torch.zeros(x.shape[:2], dtype=torch.bool)
        for sample, row in enumerate(special):
            marked[sample, [p for p in row if p >= 0]] = True
        output = torch.where(marked[:, :, None], read(("q_global", "k_global", "v_global")), output)
    return module.out_proj(output)


class _As(nn.Module):
    """A formula as a module with another's parameters, for `laws.gradients_match`."""

    def __init__(self, owner, formula):
        super().__init__()
        self.owner, self.formula = owner, formula

    def forward(self, *inputs):
        return self.formula(*inputs)


# ---------------------------------------------------------------------------------------------- windows


@given(n=sizes(1, 19), reach=sizes(1, 5), dilation=sizes(1, 4), seed=seeds(), length=sizes(1, 19))
def test_windows_are_dense_attention_with_a_banded_mask(n, reach, dilation, seed, length):
    """Token i attends to tokens j with |i − j| <= d·w/2 in steps of d, for every length, window, dilation and padding.

    Source: Beltagy et al. 2020, §3.1.  Convention: w/2 tokens on each side and the token itself between them.
    """
    module = ready(SlidingWindowAttention(6, 2, 2 * reach, dilation, global_attention=False), seed)
    x = normal(2, n, 6, seed=seed)
    mask = torch.arange(n) < torch.tensor([[n], [length]])
    laws.assert_close(module(x), dense(module, x, pattern(n, 2 * reach, dilation).expand(2, n, n)))
    laws.assert_close(
        module(x, key_mask=mask), dense(module, x, pattern(n, 2 * reach, dilation) & mask[:, None]), what="with padding"
    )


@pytest.mark.parametrize(("n", "window", "dilation"), [(37, 8, 1), (13, 4, 3)])
@pytest.mark.parametrize("positions", [[], [[0, 5], [7, -1]]])
def test_gradients_are_those_of_dense_attention(n, window, dilation, positions):
    """Gradients to the tokens and to every parameter are those of attention to all with the banded mask.

    Source: Beltagy et al. 2020, §3.1; 37 tokens are no multiple of the window 8, nor 13 of 4 · 3.
    """
    module = ready(SlidingWindowAttention(12, 3, window, dilation, global_attention=bool(positions)))
    allowed = torch.stack([pattern(n, window, dilation, positions[b] if positions else ()) for b in range(2)])
    arguments = (torch.tensor(positions),) if positions else ()
    laws.gradients_match(
        _As(module, lambda x: module(x, *arguments)),
        _As(module, lambda x: dense(module, x, allowed, positions)),
        normal(2, n, 12),
    )


@pytest.mark.parametrize(("window", "dilation"), [(2, 1), (4, 1), (4, 2), (2, 3)])
def test_a_token_depends_on_its_window_alone(window, dilation):
    """∂y_i/∂x_j ≠ 0 for |i − j| <= d·w/2 in steps of d, and exactly 0 elsewhere, at both ends too.

    Source: Beltagy et al. 2020, §3.1 and fig. 2.
    """
    module = ready(SlidingWindowAttention(2, 1, window, dilation, global_attention=False))
    allowed = pattern(9, window, dilation).repeat_interleave(2, 0).repeat_interleave(2, 1)
    laws.depends_only_on(lambda x: module(x[None])[0], normal(9, 2), allowed)


@pytest.mark.parametrize(("layers", "window", "dilation"), [(2, 2, 1), (3, 2, 1), (2, 4, 2)])
def test_a_stack_reaches_as_far_as_its_windows_add_up(layers, window, dilation):
    """ℓ layers reach ℓ·d·w/2 tokens to each side, exactly.

    Source: Beltagy et al. 2020, §3.1: a receptive field of ℓ × d × w.
    """
    stack = nn.Sequential(
        *(ready(SlidingWindowAttention(2, 1, window, dilation, global_attention=False), seed) for seed in range(layers))
    )
    allowed = pattern(11, layers * window, dilation).repeat_interleave(2, 0).repeat_interleave(2, 1)
    laws.depends_only_on(lambda x: stack(x[None])[0], normal(11, 2), allowed)


@pytest.mark.states("symmetry")
@given(seed=seeds(), by=sizes(1, 4))
def test_windows_move_with_the_tokens(seed, by):
    """Away from the ends, f(x moved by k) = f(x) moved by k: windows are relative.

    Source: Beltagy et al. 2020, §3.1: the same window surrounds each token.
    """
    module, x = ready(SlidingWindowAttention(6, 2, 4, global_attention=False), seed), normal(2, 17, 6, seed=seed)
    moved = module(x[:, by:])
    laws.assert_close(moved[:, 2:-2], module(x)[:, by + 2 : -2])


@pytest.mark.states("limiting case")
@pytest.mark.parametrize("window", [14, 16, 40])
def test_a_window_of_twice_the_length_is_full_attention(window):
    """From w/2 = n − 1 on every token attends to every token.

    Source: Beltagy et al. 2020, §3.1; Vaswani et al. 2017, arXiv:1706.03762, eq. 1.
    """
    module, x = ready(SlidingWindowAttention(6, 2, window, global_attention=False)), normal(2, 8, 6)
    laws.assert_close(module(x), dense(module, x, torch.ones(2, 8, 8, dtype=torch.bool)))


@given(seed=seeds(), lengths=st.tuples(sizes(1, 9), sizes(1, 9)))
def test_padding_is_as_good_as_absent(seed, lengths):
    """With `key_mask` False at padding, each sample's tokens come out as alone in a sequence of their own length.

    Source: Beltagy et al. 2020, §3.1: what is padded to a multiple of the window is masked.
    Convention: True marks a token.
    """
    module, x = ready(SlidingWindowAttention(6, 2, 4), seed), normal(2, 9, 6, seed=seed)
    mask, positions = torch.arange(9) < torch.tensor(lengths)[:, None], torch.zeros(2, 1, dtype=torch.int64)
    x[~mask] = 1e3
    found = module(x, positions, mask)
    for n, length in enumerate(lengths):
        laws.assert_close(found[n, :length], module(x[n : n + 1, :length], positions[:1])[0])


def test_windows_of_padding_leave_the_bias():
    """A token whose whole window is padding gets out_proj's bias; nothing is NaN, and other gradients are finite.

    Source: the empty sum.  Convention: 0 where a softmax over nothing would be NaN.
    """
    module, x = ready(SlidingWindowAttention(6, 2, 2, global_attention=False)), normal(2, 7, 6).requires_grad_()
    output = module(x, key_mask=torch.arange(7) < torch.tensor([[7], [4]]))
    laws.assert_close(output[1, 5:], module.out_proj.bias.expand(2, 6))
    (grad,) = torch.autograd.grad(output.square().sum(), x)
    assert grad.isfinite().all() and (grad[0] != 0).all(), "expected finite gradients"


# ---------------------------------------------------------------------------------------------- global tokens


@given(
    n=sizes(6, 15),
    dilation=sizes(1, 2),
    seed=seeds(),
    rows=st.tuples(*[st.lists(sizes(-1, 5), min_size=2, max_size=2, unique=True)] * 2),
    length=sizes(6, 15),
)
def test_global_tokens_attend_to_all_and_all_attend_to_them(n, dilation, seed, rows, length):
    """Rows and columns of global tokens are full; their rows by Q_g, K_g, V_g; each counts once; −1 means none.

    Source: Beltagy et al. 2020, §3.1, Global Attention: symmetric; Linear Projections for Global Attention.
    Convention: columns use the ordinary projections, and a global token within a window counts once, as in the
    authors' code.
    """
    module = ready(SlidingWindowAttention(6, 2, 4, dilation), seed)
    x, mask = normal(2, n, 6, seed=seed), torch.arange(n) < torch.tensor([[n], [length]])
    allowed = torch.stack([pattern(n, 4, dilation, row) for row in rows])
    laws.assert_close(module(x, torch.tensor(rows)), dense(module, x, allowed, rows))
    laws.assert_close(
        module(x, torch.tensor(rows), mask), dense(module, x, allowed & mask[:, None], rows), what="with padding"
    )


def test_no_token_attends_to_a_padded_global_token():
    """No token attends to a global position that `key_mask` hides, wherever it is.

    Source: Beltagy et al. 2020, §3.1.  Convention: key_mask hides global tokens as it hides others.
    """
    module, x = ready(SlidingWindowAttention(6, 2, 2)), normal(2, 7, 6)
    mask, positions = torch.ones(2, 7, dtype=torch.bool), torch.tensor([[0, 3], [5, 1]])
    mask[0, 3] = mask[1, 5] = False
    other = x.clone()
    other[0, 3], other[1, 5] = 60.0, -60.0
    found, expected = (module(t, positions, mask)[mask] for t in (other, x))
    laws.assert_same(found, expected)


def test_a_global_row_and_column_depend_on_all():
    """The Jacobian's pattern is the window's, with the global token's row and column full.

    Source: Beltagy et al. 2020, fig. 2d.
    """
    module = ready(SlidingWindowAttention(2, 1, 2))
    allowed = pattern(8, 2, positions=[5]).repeat_interleave(2, 0).repeat_interleave(2, 1)
    laws.depends_only_on(lambda x: module(x[None], torch.tensor([[5]]))[0], normal(8, 2), allowed)


@pytest.mark.states("limiting case")
def test_all_tokens_global_is_full_attention():
    """If every token is global and the projections are shared, every token attends to every token, whatever the window.

    Source: Beltagy et al. 2020, §3.1, at the limit.
    """
    module, x = ready(SlidingWindowAttention(6, 2, 2)), normal(2, 7, 6)
    for name in "qkv":
        getattr(module, f"{name}_global_proj").load_state_dict(getattr(module, f"{name}_proj").state_dict())
    everything = torch.stack([torch.randperm(7, generator=torch.Generator().manual_seed(n)) for n in range(2)])
    laws.assert_close(module(x, everything), dense(module, x, torch.ones(2, 7, 7, dtype=torch.bool)))


@pytest.mark.parametrize("name", ["q_global_proj", "k_global_proj", "v_global_proj"])
def test_global_projections_are_for_rows_of_global_tokens(name):
    """Changing Q_g, K_g or V_g changes the outputs at global positions, every one, and no other.

    Source: Beltagy et al. 2020, §3.1, Linear Projections for Global Attention.
    """
    module, x, positions = ready(SlidingWindowAttention(6, 2, 4)), normal(2, 9, 6), torch.tensor([[2, 7], [4, -1]])
    before = module(x, positions)
    laws.randomise(getattr(module, name), seed=5)
    changed = (module(x, positions) != before).any(-1)
    expected = torch.zeros(2, 9, dtype=torch.bool)
    expected[0, [2, 7]] = expected[1, 4] = True
    assert torch.equal(changed, expected), f"expected changes at {expected.nonzero()}, found {changed.nonzero()}"


def test_global_projections_start_as_copies():
    """Q_g, K_g, V_g start equal to Q, K, V, share no memory with them, and get gradients of their own.

    Source: Beltagy et al. 2020, §3.1: the projections for global attention are initialized with those of the windows.
    """
    module, x, positions = SlidingWindowAttention(6, 2, 4).double(), normal(2, 9, 6), torch.tensor([[2], [7]])
    allowed = torch.stack([pattern(9, 4, positions=row) for row in positions.tolist()])
    laws.assert_close(module(x, positions), dense(module, x, allowed))
    own = {f"{n}_global": getattr(module, f"{n}_global_proj").weight for n in "qkv"}
    shared = {n: getattr(module, f"{n}_proj").weight for n in "qkv"}
    for weight, other in zip(own.values(), shared.values()):
        assert weight.data_ptr() != other.data_ptr(), "expected copies, found shared memory"
    assert not torch.equal(shared["q"], shared["k"]), "expected different values in each projection"
    laws.gradient_reaches(module(x, positions).square().sum(), own | shared)
    laws.gradient_reaches(module(x).square().sum(), shared, own)


@pytest.mark.states("symmetry")
@given(seed=seeds())
def test_the_order_of_global_positions_is_no_information(seed):
    """Global tokens may be listed in any order, and −1 may be anywhere in the list.

    Source: Beltagy et al. 2020, §3.1: a set of pre-selected locations.
    """
    module, x = ready(SlidingWindowAttention(6, 2, 4), seed), normal(2, 9, 6, seed=seed)
    found = module(x, torch.tensor([[7, 0, 3], [-1, 8, 2]]))
    laws.assert_close(found, module(x, torch.tensor([[0, 3, 7], [8, 2, -1]])))
    none = module(x, torch.full((2, 3), -1))
    laws.assert_close(none, module(x), what="no global token")
    laws.assert_differs(found, none, by=1e-3, what="output with global tokens")


def test_a_global_position_given_twice_counts_once():
    """A position that a row repeats counts once, and its gradients are those of a row without the repetition.

    Source: Beltagy et al. 2020, §3.1: a set of pre-selected locations.
    """
    module, x = ready(SlidingWindowAttention(6, 2, 2)), normal(2, 9, 6)
    once, twice = torch.tensor([[7, 0, -1, -1], [-1, 8, 0, -1]]), torch.tensor([[7, 0, 7, 7], [-1, 8, 0, 8]])
    laws.gradients_match(_As(module, lambda x: module(x, twice)), _As(module, lambda x: module(x, once)), x)


# ---------------------------------------------------------------------------------------------- cost and the rest


@pytest.mark.parametrize("positions", [None, torch.tensor([[0, 5, 100]])])
def test_cost_grows_in_proportion_to_the_length(positions):
    """Operations and peak memory double with the length, exactly and nearly; there is never a tensor of n × n.

    Source: Beltagy et al. 2020, §3.1: O(n × w) instead of O(n²).
    """
    module = SlidingWindowAttention(8, 2, 16, global_attention=positions is not None)
    arguments = () if positions is None else (positions,)
    lengths = (128, 256, 512)
    operations = [cost.flops(module, normal(1, n, 8, dtype=torch.float32), *arguments) for n in lengths]
    steps = operations[1] - operations[0], operations[2] - operations[1]
    assert steps[1] == 2 * steps[0] > 0, f"expected operations linear in the length, found {operations}"
    # A band of 17 keys out of blocks of 34 at most; two products, and four projections of the tokens.
    if positions is None:
        assert operations[0] <= 128 * 8 * (2 * 4 * 8 + 2 * 2 * 2 * 17), f"expected n·w operations, found {operations}"
    found = [cost.peak_bytes(module, normal(1, n, 8, dtype=torch.float32), *arguments) for n in lengths]
    assert found[2] / found[1] < 2.2, f"expected peak memory linear in the length, found {found}"
    assert found[2] < 2 * 512 * 512 * 4, f"expected less than the scores of 2 heads, found {found[2]} bytes"


@pytest.mark.parametrize("window", [8, 16])
def test_cost_grows_in_proportion_to_the_window(window):
    """Doubling the window adds as many operations as two products with w more keys a token, at most twice as many.

    Source: Beltagy et al. 2020, §3.1: O(n × w).
    """
    x = normal(1, 128, 8, dtype=torch.float32)
    small, large = (
        cost.flops(SlidingWindowAttention(8, 2, w, global_attention=False), x) for w in (window, 2 * window)
    )
    added = (large - small) / (2 * 2 * 128 * 8)
    assert window <= added <= 2 * window, f"expected {window} to {2 * window} more keys a token, found {added}"


@pytest.mark.parametrize(
    ("options", "count"), [({}, 7 * 42), ({"global_attention": False}, 4 * 42), ({"bias": False}, 7 * 36)]
)
def test_parameters_are_counted(options, count):
    """Four layers of d² + d parameters, and three more with global attention.

    Source: Beltagy et al. 2020, §3.1, Linear Projections for Global Attention.
    """
    found = sum(p.numel() for p in SlidingWindowAttention(6, 2, 4, **options).parameters())
    assert found == count, f"expected {count} parameters, found {found}"


@pytest.mark.project_convention
def test_windows_show_their_settings():
    """repr names the window, the dilation and dropout.

    Convention: extra_repr as torch.nn modules have it.
    """
    shown = repr(SlidingWindowAttention(6, 2, 10, dilation=3, dropout=0.25))
    assert "window=10, dilation=3, dropout=0.25" in shown, f"expected the settings, found {shown}"


def test_dropout_is_of_weights_and_in_training_only():
    """In training the weight of 1 of a lone token becomes 0 or 1/(1 − p) in each head; in evaluation it stays 1.

    400 samples of 3 heads, in windows and as global tokens, 25 % dropped ± 5 points at 4 σ.

    Source: Vaswani et al. 2017, §5.4; Beltagy et al. 2020, table 12, for attention dropout.
    Convention: attention weights are dropped, as in torch.nn.MultiheadAttention.
    """
    module = ready(SlidingWindowAttention(12, 3, 4, dropout=0.25))
    module.out_proj.weight.data = torch.eye(12, dtype=torch.float64)
    x = normal(1, 1, 12).expand(400, 1, 12)
    for name, arguments in (("v_proj", ()), ("v_global_proj", (torch.zeros(400, 1, dtype=torch.int64),))):
        value = getattr(module, name)(x)
        laws.assert_close(module.eval()(x, *arguments), value + module.out_proj.bias)
        shares = ((module.train()(x, *arguments) - module.out_proj.bias) / value).unflatten(-1, (3, 4))
        kept = shares > 0.5
        laws.assert_close(shares, kept.double() / 0.75)
        share = 1 - kept.double().mean().item()
        assert abs(share - 0.25) < 0.05, f"{name}: expected about a quarter of the weights dropped, found {share:.3f}"
