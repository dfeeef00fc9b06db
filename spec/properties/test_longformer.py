"""Longformer: an encoder whose tokens attend to windows, a few to all.  Beltagy et al. 2020, arXiv:2004.05150."""

import inspect
import math

import pytest
import torch
from torch import nn

from impl.models.longformer import Longformer
from spec import cost, laws

pytestmark = pytest.mark.item("longformer")

PADDING = 2


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def model(seed=0, vocabulary=7, **options):
    """float64, random parameters of a size at which no head is saturated, no dropout."""
    laws.reseed(seed)
    sizes = {"embed_dim": 6, "num_heads": 2, "window": 4, "num_layers": 2, "dim_feedforward": 10, "max_len": 40}
    net = Longformer(vocabulary, **sizes | {"num_types": 2, "dropout": 0.0, "padding_idx": PADDING} | options)
    laws.randomise(net.double(), seed)
    for parameter in net.parameters():
        parameter.data.mul_(0.5)
    return net


def text(*shape, seed=0):
    return 3 + torch.randint(4, shape, generator=torch.Generator().manual_seed(seed))


def layer_norm(x, norm):
    return nn.functional.layer_norm(x, x.shape[-1:], norm.weight, norm.bias)


def affects(n, positions=None, **options):
    """Which token affects which features, (n, n) of booleans, by the gradient to the table; no token occurs twice."""
    net, tokens = model(vocabulary=3 + n, **options), 3 + torch.arange(n)[None]
    features = net.encode(tokens, positions)[0].sum(-1)
    rows = [torch.autograd.grad(one, net.words.weight, retain_graph=True)[0][3:] for one in features]
    return torch.stack(rows).abs().sum(-1) > 0


# ---------------------------------------------------------------------------------------------- windows


@pytest.mark.states("dependence")
@pytest.mark.parametrize(
    ("window", "dilation", "reach"), [(4, 1, 2 + 2), ((2, 6), 1, 1 + 3), ((4, 2), (1, 3), 2 + 3), (2, (2, 1), 2 + 1)]
)
def test_layers_reach_as_far_as_their_windows_add_up(window, dilation, reach):
    """Each layer has its window and dilation, and a stack reaches Σ d·w/2 tokens to each side and no further.

    Source: Beltagy et al. 2020, §3.1, a receptive field of ℓ × w, and §3.2, windows that grow from layer to layer.
    """
    found = affects(13, window=window, dilation=dilation)
    gap = (torch.arange(13)[:, None] - torch.arange(13)).abs()
    assert not found[gap > reach].any(), f"expected nothing beyond {reach} tokens, found {found.int().tolist()}"
    assert found[gap == reach].all(), f"expected tokens to reach {reach} far, found {found.int().tolist()}"


def test_windows_and_dilations_are_in_the_order_of_the_layers():
    """window[n] and dilation[n] are those of layer n.

    Source: Beltagy et al. 2020, §3.2: small windows in lower layers.
    """
    gap = torch.arange(19)[:, None] - torch.arange(19)
    net = model(window=(4, 2, 6), dilation=[3, 1, 2], num_layers=3)
    for layer, (window, dilation) in zip(net.layers, ((4, 3), (2, 1), (6, 2)), strict=True):
        moved = laws.jacobian(lambda x, layer=layer: layer.self_attn(x[None])[0].sum(-1), normal(19, 6))
        expected = (gap.abs() <= dilation * window // 2) & (gap % dilation == 0)
        found = moved.abs().sum(-1) > 0
        assert torch.equal(found, expected), (
            f"expected a window of {window} in steps of {dilation}, found {found.int()}"
        )


@pytest.mark.states("dependence")
def test_global_tokens_connect_every_pair_in_two_layers():
    """With one global token every token depends on every other after two layers; each text has its own global tokens.

    Source: Beltagy et al. 2020, §3.1, Global Attention.
    """
    assert affects(13, torch.tensor([[5]]), window=2).all(), "expected every pair to be connected"
    net, tokens = model(window=2), text(2, 13)
    found = net(tokens, torch.tensor([[5, -1], [0, 12]]))
    for sample, row in enumerate(([5], [12, 0])):
        laws.assert_close(found[sample], net(tokens[sample : sample + 1], torch.tensor([row]))[0])


@pytest.mark.states("limiting case")
def test_an_exact_window_needs_no_multiple():
    """If the window holds the whole text, of any length, features are those of full attention.

    Source: Beltagy et al. 2020, §3.1; Vaswani et al. 2017, arXiv:1706.03762, eq. 1.
    """
    net, tokens = model(window=24), text(2, 11)
    x = layer_norm(net.words.weight[tokens] + net.positions.weight[3:14] + net.types.weight[0], net.norm)
    for layer in net.layers:
        attention, network = layer.self_attn, layer.feed_forward
        query, key, value = (
            getattr(attention, f"{name}_proj")(x).unflatten(-1, (2, 3)).transpose(1, 2) for name in "qkv"
        )
        read = (query @ key.mT / 3**0.5).softmax(-1) @ value
        x = layer_norm(x + attention.out_proj(read.transpose(1, 2).flatten(2)), layer.norm1)
        wide = nn.functional.gelu(nn.functional.linear(x, network.linear1.weight, network.linear1.bias))
        x = layer_norm(x + nn.functional.linear(wide, network.linear2.weight, network.linear2.bias), layer.norm2)
    laws.assert_close(net.encode(tokens), x)


# ---------------------------------------------------------------------------------------------- embeddings


@pytest.mark.states("symmetry")
def test_positions_are_counted_over_tokens():
    """A token's position is padding_idx + its index among the text's tokens, from 1: padding in front changes no
    position.

    Source: RoBERTa's code, from whose weights Longformer starts (Beltagy et al. 2020, §5); transformers'
    create_position_ids_from_input_ids.
    """
    net, tokens = model(window=24), text(1, 9)
    filled = torch.cat([torch.full((1, 3), PADDING), tokens, torch.full((1, 2), PADDING)], 1)
    laws.assert_close(net(filled)[:, 3:-2], net(tokens))
    other = model(window=24)
    other.load_state_dict(net.state_dict())
    other.positions.weight.data[: PADDING + 1] = 7.0
    other.positions.weight.data[PADDING + 10 :] = 7.0
    laws.assert_same(other(tokens), net(tokens))
    other.positions.weight.data[PADDING + 1] += normal(6)
    laws.assert_differs(other(tokens), net(tokens), by=1e-3)
    assert len(net.positions.weight) == 40 + PADDING + 1, f"found {len(net.positions.weight)} rows"


def test_the_longest_text_has_positions():
    """A text of max_len tokens is accepted, and its last token uses the last row of the table.

    Source: Beltagy et al. 2020, §5: 4096 positions; RoBERTa's table has padding_idx + 1 more.
    """
    net, tokens = model(), text(1, 40)
    before = net(tokens)
    net.positions.weight.data[-1] += normal(6)
    changed = ((net(tokens) - before).abs() > 1e-6).any(-1)[0]
    assert changed[-1] and not changed[:30].any(), f"expected the end to change, found {changed.tolist()}"


@pytest.mark.parametrize("what", ["words", "positions", "types"])
def test_embeddings_are_summed(what):
    """x⁰ = LN(words + positions + types): the same vector added in any of the tables has the same effect.

    Source: Devlin et al. 2019, arXiv:1810.04805, fig. 2; RoBERTa's code.  Convention: types are 0 if none are given.
    """
    net, tokens, shift = model(), text(2, 11), normal(6)
    kinds = 1 + 0 * tokens
    expected = net.encode(tokens, types=kinds)
    net.types.weight.data[1] -= shift
    getattr(net, what).weight.data.add_(shift)
    laws.assert_close(net.encode(tokens, types=kinds), expected)
    laws.assert_close(net.encode(tokens), net.encode(tokens, types=0 * tokens), what="without types")
    laws.assert_differs(net.encode(tokens), net.encode(tokens, types=kinds), by=1e-3)


@pytest.mark.states("symmetry")
def test_padding_is_no_information():
    """Padding after a text does not change its logits, with global tokens and without.

    Source: Beltagy et al. 2020, §3.1.  Convention: no token attends to padding, whose rows of the tables learn
    nothing from being looked up.
    """
    net, tokens = model(), text(2, 11)
    longer = torch.cat([tokens, torch.full((2, 4), PADDING)], 1)
    for positions in (None, torch.tensor([[0], [7]])):
        laws.assert_close(net(longer, positions)[:, :11], net(tokens, positions))
    few, more = (torch.cat([text(1, n), torch.full((1, 15 - n), PADDING)], 1) for n in (3, 6))
    laws.assert_close(net.encode(few)[:, -1], net.encode(more)[:, -1], what="padding beyond every token's reach")
    grads = torch.autograd.grad(net.encode(longer).square().sum(), [net.words.weight, net.positions.weight])
    for grad in grads:
        assert (grad[PADDING] == 0).all() and (grad[3] != 0).any(), "expected gradients of tokens alone"


# ---------------------------------------------------------------------------------------------- head, start, dropout


def test_logits_share_the_words_table():
    """The logits are E LN(GELU(W x + b)) + c with E the table of words, whose gradient is the sum of both uses.

    Source: RoBERTa's code; Press & Wolf 2017, arXiv:1608.05859.  Convention: exact GELU.
    """
    net, tokens = model(), text(2, 11)
    head = net.head
    x = nn.functional.gelu(nn.functional.linear(net.encode(tokens), head.dense.weight, head.dense.bias))
    expected = nn.functional.linear(layer_norm(x, head.norm), net.words.weight, head.bias)
    laws.assert_close(net(tokens), expected)
    (grad,) = torch.autograd.grad(net(tokens).logsumexp(-1).sum(), net.words.weight)
    absent = sorted(set(range(7)) - set(tokens.flatten().tolist()))
    assert len(absent) == 3 and (grad[absent] != 0).all(), "expected a gradient for the logits of absent tokens"
    names = [n for n, p in net.named_parameters() if p.shape == (7, 6)]
    assert names == ["words.weight"], f"expected one table, found {names}"


@pytest.mark.parametrize("seed", [0, 1])
def test_the_first_loss_is_that_of_a_guess(seed):
    """Before training every token is about equally probable: the loss is ln V ± 0.1; tables have standard deviation
    0.02.

    Measured: up to 0.03 off right, 8.7 and more off with tables of standard deviation 1; 3 seeds.

    Source: Devlin et al. 2019, the authors' code: initializer_range 0.02.
    """
    laws.reseed(seed)
    net = Longformer(50, 32, 4, 8, 1, 2, 64, max_len=80, num_types=40).eval()
    tokens = torch.randint(2, 50, (2, 80))
    loss = nn.functional.cross_entropy(net(tokens).flatten(0, 1), tokens.flatten()).item()
    assert abs(loss - math.log(50)) < 0.1, f"expected {math.log(50):.3f}, found {loss:.3f}"
    for table in (net.words, net.positions, net.types):
        deviation = table.weight.std().item()
        assert 0.015 < deviation < 0.025, f"expected about 0.02, found {deviation:.3f}"
    for table in (net.words, net.positions):
        assert (table.weight[1] == 0).all(), "expected padding that starts at zero"


def test_global_projections_are_initialised_as_copies_in_every_layer():
    """Q_g, K_g and V_g of each layer are initialised as its Q, K and V, and without global tokens they get no gradient.

    Source: Beltagy et al. 2020, §3.1, Linear Projections for Global Attention.
    """
    laws.reseed(0)
    net, tokens = Longformer(7, 6, 2, 4, 1, 2, 10, max_len=40, dropout=0.0).double(), text(2, 11)
    for layer in net.layers:
        for name in "qkv":
            own, local = (getattr(layer.self_attn, f"{name}{kind}_proj").weight for kind in ("_global", ""))
            laws.assert_same(own, local)
    own = {n: p for n, p in net.named_parameters() if "global_proj.weight" in n}
    others = {n: p for n, p in net.named_parameters() if n.endswith("weight") and n not in own}
    assert len(own) == 6, f"expected three a layer, found {list(own)}"
    laws.gradient_reaches(net(tokens, torch.tensor([[0], [4]])).square().sum(), own | others)
    laws.gradient_reaches(net(tokens).square().sum(), others, own)


def test_dropout_acts_after_the_embeddings_norm_and_in_each_branch():
    """In training about p of the normalized embeddings, of each branch's output and of the attention weights is
    dropped, nothing before the embeddings' norm or within the feed-forward network.

    Source: RoBERTa's code, as transformers' LongformerEmbeddings.  Convention: BigBird drops before the norm instead.
    """
    laws.reseed(0)
    net = Longformer(7, 400, 2, 4, 1, 1, 8, max_len=30, dropout=0.5, padding_idx=PADDING).double()
    seen = laws.dropped_shares(net, text(2, 20))
    assert not seen["before the embeddings' norm"], "expected nothing dropped before the norm"
    for place in ("after the embeddings' norm", "attention's output", "feed-forward network's output"):
        assert 0.45 < seen[place] < 0.55, f"expected about half dropped, found {seen}"
    (layer,), x = net.layers, normal(1, 20, 400)
    share = laws.dropped_weights(layer.self_attn, 2)
    assert 0.4 < share < 0.6, f"expected about half of attention's weights dropped, found {share:.3f}"
    laws.assert_same(layer.feed_forward.train()(x), layer.feed_forward.eval()(x))


def test_the_model_costs_in_proportion_to_the_length():
    """Operations and peak memory of the whole model are linear in the length, with a global token and without.

    Source: Beltagy et al. 2020, §3.1: O(n × w).
    """
    laws.reseed(0)
    net, lengths = Longformer(11, 8, 2, 16, 1, 2, 16, max_len=512), (128, 256, 512)
    for positions in (None, torch.tensor([[0]])):
        operations = [cost.flops(net, text(1, n), positions) for n in lengths]
        steps = operations[1] - operations[0], operations[2] - operations[1]
        assert steps[1] == 2 * steps[0] > 0, f"expected operations linear in the length, found {operations}"
        with torch.no_grad():
            found = [cost.peak_bytes(net, text(1, n), positions) for n in lengths]
        growth = (found[2] - found[1]) / (found[1] - found[0])
        assert growth < 2.2, f"expected peak memory linear in the length, found {found}"


def test_defaults_are_longformer_base():
    """The defaults are 12 layers of 12 heads, width 768, windows of 512, texts of 4096 tokens, dropout 0.1.

    Source: Beltagy et al. 2020, §5; transformers' allenai/longformer-base-4096.
    """
    model()  # a signature alone is no implementation
    found = {name: p.default for name, p in inspect.signature(Longformer).parameters.items()}
    wanted = {"vocab_size": 50265, "embed_dim": 768, "num_heads": 12, "window": 512, "dilation": 1, "num_layers": 12}
    wanted |= {"dim_feedforward": 3072, "max_len": 4096, "num_types": 1, "dropout": 0.1, "padding_idx": 1}
    assert found == wanted, f"found {found}"
