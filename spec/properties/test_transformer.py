"""Transformer blocks and feed-forward networks.  Vaswani et al. 2017, arXiv:1706.03762; Xiong et al. 2020."""

import inspect
import math

import pytest
import torch
from hypothesis import given
from torch import nn

from impl.layers.attention import KeyValueCache
from impl.layers.gated import GEGLU, SwiGLU
from impl.layers.transformer import FeedForward, TransformerDecoderBlock, TransformerEncoderBlock
from spec import cost, laws
from spec.strategies import permutations, seeds

pytestmark = pytest.mark.item("transformer-block")

WIDTH, HEADS, HIDDEN, EPS = 12, 3, 10, 0.3
both_norms = pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])
ACTIVATIONS = {
    "relu": lambda z: torch.maximum(z, 0 * z),
    "gelu": lambda z: z * (1 + torch.erf(z / math.sqrt(2))) / 2,
    "gelu_tanh": lambda z: z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2,
    "silu": lambda z: z / (1 + torch.exp(-z)),
}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ready(module, seed=0, size=0.4):
    """float64, every parameter random and of a size at which nothing saturates."""
    laws.randomise(module.double(), seed)
    for parameter in module.parameters():
        parameter.data.mul_(size)
    return module


def encoder(**options):
    return ready(TransformerEncoderBlock(WIDTH, HEADS, HIDDEN, **{"dropout": 0.0, "layer_norm_eps": EPS} | options))


def decoder(**options):
    return ready(TransformerDecoderBlock(WIDTH, HEADS, HIDDEN, **{"dropout": 0.0, "layer_norm_eps": EPS} | options))


# ------------------------------------------------------------------------------------ the blocks in plain formulas


def normed(state, name, x):
    """(x − mean)/√(biased variance + ε)·γ + β."""
    centred = x - x.mean(-1, keepdim=True)
    x = centred / ((centred**2).mean(-1, keepdim=True) + EPS).sqrt() * state[f"{name}.weight"]
    return x + state.get(f"{name}.bias", 0.0)


def attention(state, name, x, context, allowed):
    """Every head's softmax of scaled products over the keys that are allowed, (b, 1 or heads, t, s)."""
    projected = []
    weights = state[f"{name}.in_proj_weight"].chunk(3)
    biases = state[f"{name}.in_proj_bias"].chunk(3) if f"{name}.in_proj_bias" in state else (0.0, 0.0, 0.0)
    for tokens, weight, bias in zip((x, context, context), weights, biases):
        mapped = torch.einsum("btd,ed->bte", tokens, weight) + bias
        projected.append(mapped.reshape(*mapped.shape[:2], HEADS, -1))
    q, k, v = projected
    grown = torch.exp(torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.shape[-1])) * allowed
    read = torch.einsum("bhts,bshd->bthd", grown / grown.sum(-1, keepdim=True), v).flatten(2)
    return read @ state[f"{name}.out_proj.weight"].T + state.get(f"{name}.out_proj.bias", 0.0)


def feed_forward(state, x, activation):
    hidden = ACTIVATIONS[activation](x @ state["linear1.weight"].T + state.get("linear1.bias", 0.0))
    return hidden @ state["linear2.weight"].T + state.get("linear2.bias", 0.0)


def by_hand(state, branches, x, norm_first):
    """x + F(LN(x)), or LN(x + F(x)), for one branch after another."""
    for n, branch in enumerate(branches, 1):
        x = x + branch(normed(state, f"norm{n}", x)) if norm_first else normed(state, f"norm{n}", x + branch(x))
    return x


def encoder_by_hand(state, x, norm_first, activation, allowed):
    own = lambda t: attention(state, "self_attn", t, t, allowed)  # noqa: E731
    return by_hand(state, [own, lambda t: feed_forward(state, t, activation)], x, norm_first)


def decoder_by_hand(state, x, memory, norm_first, activation, allowed, readable):
    branches = [
        lambda t: attention(state, "self_attn", t, t, allowed),
        lambda t: attention(state, "multihead_attn", t, memory, readable),
        lambda t: feed_forward(state, t, activation),
    ]
    return by_hand(state, branches, x, norm_first)


class _Formula(nn.Module):
    """A formula of (parameters, inputs) that has another module's parameters."""

    def __init__(self, owner, formula):
        super().__init__()
        self.owner, self.formula = owner, formula

    def forward(self, *inputs):
        return self.formula(dict(self.owner.named_parameters()), *inputs)


def until_now(t):
    return torch.tensor([[j <= i for j in range(t)] for i in range(t)])


def some(*shape, seed=0):
    """A boolean mask, True for about two thirds and at index 0 of the last dimension always."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.66
    mask[..., 0] = True
    return mask


# ---------------------------------------------------------------------------------------------- feed-forward


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_feed_forward_is_two_maps_and_an_activation(name, bias):
    """FFN(x) = act(x W₁ + b₁) W₂ + b₂, values and gradients, for each activation that has a name.

    Source: Vaswani et al. 2017, eq. 2; act = ReLU there, GELU in GPT and BERT.
    Convention: "gelu" is exact, "gelu_tanh" the approximation of GPT-2's code.
    """
    module = ready(FeedForward(5, 7, name, bias=bias))
    laws.gradients_match(module, _Formula(module, lambda state, x: feed_forward(state, x, name)), normal(2, 3, 5))


def test_any_function_is_an_activation():
    """A function or a module given in place of a name is used unchanged; a module's parameters are learned.

    Source: Shazeer 2020, arXiv:2002.05202, §1: feed-forward layers differ in the activation.
    """
    x = normal(2, 3, 5)
    module = ready(FeedForward(5, 7, torch.sin))
    expected = torch.sin(x @ module.linear1.weight.T + module.linear1.bias) @ module.linear2.weight.T
    laws.assert_close(module(x), expected + module.linear2.bias)
    given = nn.PReLU()
    learned = ready(FeedForward(5, 7, given))
    assert any(p is given.weight for p in learned.parameters()), "expected the negative slope to be a parameter"


def test_hidden_features_are_dropped_after_the_activation():
    """Of act = cos and a hidden 0, cos(0) = 1 becomes 0 or 1/(1 − p); dropped before it, it would stay 1.

    Source: Vaswani et al. 2017, §5.4.  Convention: torch.nn.TransformerEncoderLayer; for ReLU both orders are one.
    """
    module = FeedForward(6, 6, torch.cos, dropout=0.75).double()
    for parameter in module.parameters():
        parameter.data.zero_()
    module.linear2.weight.data = torch.eye(6, dtype=torch.float64)
    x = normal(50, 6)
    found = set(module.train()(x).unique().tolist())
    assert found == {0.0, 4.0}, f"expected 1 to become 0 or 4, found {found}"
    laws.assert_close(module.eval()(x), torch.ones_like(x))


def test_feed_forward_sees_one_token_at_a_time():
    """∂FFN(x)_t/∂x_u = 0 for t ≠ u; it is two convolutions of width 1.

    Source: Vaswani et al. 2017, §3.3: applied to each position separately and identically; two convolutions with
    kernel size 1.
    """
    module, x = ready(FeedForward(3, 4, torch.sin)), normal(1, 5, 3)
    token = torch.arange(5).repeat_interleave(3)
    laws.depends_only_on(module, x, token[:, None] == token)
    first, second = nn.Conv1d(3, 4, 1).double(), nn.Conv1d(4, 3, 1).double()
    for convolution, linear in ((first, module.linear1), (second, module.linear2)):
        convolution.load_state_dict({"weight": linear.weight.data[..., None], "bias": linear.bias.data})
    laws.assert_close(module(x), second(first(x.mT).sin()).mT)


def test_feed_forward_takes_any_shape_of_tokens():
    """Leading dimensions are batch: (5,), (3, 5) and (2, 3, 4, 5) alike.

    Source: Vaswani et al. 2017, §3.3.
    """
    module, x = ready(FeedForward(5, 7)), normal(2, 3, 4, 5)
    laws.assert_close(module(x)[1, 2, 3], module(x[1, 2, 3]))
    laws.assert_close(module(x)[1, 2], module(x[1, 2]))


# ------------------------------------------------------------------------------------------------- the equations


@both_norms
@pytest.mark.parametrize(
    ("activation", "is_causal", "bias"), [("relu", False, True), ("gelu", True, True), ("silu", True, False)]
)
def test_encoder_block_is_its_equations(norm_first, activation, is_causal, bias):
    """x ← LN(x + F(x)) or x ← x + F(LN(x)), F = self-attention, then FFN; values and all gradients.

    Source: Vaswani et al. 2017, §3.1: LayerNorm(x + Sublayer(x)); Xiong et al. 2020, Table 1, for pre-norm.
    """
    module = encoder(norm_first=norm_first, activation=activation, is_causal=is_causal, bias=bias)
    allowed = until_now(5) if is_causal else torch.ones(5, 5, dtype=torch.bool)
    formula = _Formula(module, lambda state, x: encoder_by_hand(state, x, norm_first, activation, allowed))
    laws.gradients_match(module, formula, normal(2, 5, WIDTH))


@both_norms
@pytest.mark.parametrize(
    ("activation", "is_causal", "bias"), [("relu", True, True), ("gelu_tanh", False, True), ("gelu", True, False)]
)
def test_decoder_block_is_its_equations(norm_first, activation, is_causal, bias):
    """Between self-attention and FFN each query attends to the memory, which no norm of the block changes.

    Source: Vaswani et al. 2017, §3.1 and §3.2.3; Xiong et al. 2020, Table 1.
    """
    module = decoder(norm_first=norm_first, activation=activation, is_causal=is_causal, bias=bias)
    allowed = until_now(5) if is_causal else torch.ones(5, 5, dtype=torch.bool)
    everything = torch.ones(5, 7, dtype=torch.bool)
    formula = _Formula(
        module, lambda state, x, m: decoder_by_hand(state, x, m, norm_first, activation, allowed, everything)
    )
    laws.gradients_match(module, formula, normal(2, 5, WIDTH), normal(2, 7, WIDTH, seed=1))


@both_norms
def test_masks_of_the_encoder_reach_its_attention(norm_first):
    """attn_mask and key_mask hold together: a token may be attended to where both are True.

    Source: Vaswani et al. 2017, §3.2.3.  Convention: True may attend, the opposite of torch.nn.TransformerEncoderLayer.
    """
    module, x, pairs, keys = encoder(norm_first=norm_first), normal(2, 5, WIDTH), some(5, 5), some(2, 5, seed=1)
    state = dict(module.named_parameters())
    expected = encoder_by_hand(state, x, norm_first, "relu", pairs & keys[:, None, None])
    laws.assert_close(module(x, attn_mask=pairs, key_mask=keys), expected)


@both_norms
@pytest.mark.parametrize("s", [7, 5])
def test_masks_of_the_decoder_stay_apart(norm_first, s):
    """attn_mask and key_mask are of its own tokens, memory_attn_mask and memory_key_mask of the memory alone.

    Source: Vaswani et al. 2017, §3.2.3: three attentions, each with a mask of its own.
    """
    module = decoder(norm_first=norm_first)
    x, memory = normal(2, 5, WIDTH), normal(2, s, WIDTH, seed=1)
    own = {"attn_mask": some(5, 5), "key_mask": some(2, 5, seed=1)}
    read = {"memory_attn_mask": some(5, s, seed=2), "memory_key_mask": some(2, s, seed=3)}
    allowed = until_now(5) & own["attn_mask"] & own["key_mask"][:, None, None]
    readable = read["memory_attn_mask"] & read["memory_key_mask"][:, None, None]
    everything = torch.ones(5, s, dtype=torch.bool)
    state = dict(module.named_parameters())
    for masks, first, second in (
        (own | read, allowed, readable),
        (own, allowed, everything),
        (read, until_now(5), readable),
    ):
        expected = decoder_by_hand(state, x, memory, norm_first, "relu", first, second)
        laws.assert_close(module(x, memory, **masks), expected)


# ------------------------------------------------------------------------------------------------ limits and laws


@pytest.mark.states("limiting case")
@both_norms
def test_a_block_without_branches_is_its_residual_path(norm_first):
    """With W^O = 0 and W₂ = 0 pre-norm is the identity, bit for bit, and post-norm is LN(LN(x)).

    Source: He et al. 2016, arXiv:1603.05027, §2; Xiong et al. 2020, Table 1.
    """
    x, memory = normal(2, 5, WIDTH), normal(2, 7, WIDTH, seed=1)
    for module, inputs in ((encoder(norm_first=norm_first), (x,)), (decoder(norm_first=norm_first), (x, memory))):
        for name, parameter in module.named_parameters():
            if "out_proj" in name or "linear2" in name:
                parameter.data.zero_()
        expected = by_hand(dict(module.named_parameters()), [torch.zeros_like] * (len(inputs) + 1), x, norm_first)
        (laws.assert_same if norm_first else laws.assert_close)(module(*inputs), expected)


@given(seed=seeds())
def test_outputs_of_post_norm_are_standardized(seed):
    """With γ = 1, β = 0 and ε = 0 every token of a post-norm block has mean 0 and variance 1; pre-norm's have not.

    Source: Vaswani et al. 2017, §3.1; Xiong et al. 2020, §3.1.
    """
    x = 3 + normal(2, 5, WIDTH, seed=seed)
    outputs = {}
    for norm_first in (False, True):
        module = encoder(norm_first=norm_first, layer_norm_eps=0.0)
        module.norm2.load_state_dict({"weight": torch.ones(WIDTH).double(), "bias": torch.zeros(WIDTH).double()})
        outputs[norm_first] = module(x)
    mean, variance = outputs[False].mean(-1), outputs[False].var(-1, correction=0)
    laws.assert_close(mean, torch.zeros_like(mean))
    laws.assert_close(variance, torch.ones_like(variance))
    laws.assert_differs(outputs[True].mean(-1), torch.zeros_like(mean), by=0.1)


@both_norms
@given(order=permutations(5))
def test_without_positions_and_masks_tokens_are_a_set(order, norm_first):
    """f(P x) = P f(x) for an encoder block; a decoder's output ignores the order of its memory.

    Source: Vaswani et al. 2017, §3.5: the model contains no recurrence, so order has to be put in.
    """
    laws.equivariant(encoder(norm_first=norm_first), normal(2, 5, WIDTH), lambda t: t[:, order])
    module, x = decoder(norm_first=norm_first), normal(2, 4, WIDTH)
    laws.invariant(lambda m: module(x, m), normal(2, 5, WIDTH, seed=1), lambda m: m[:, order])


@both_norms
def test_causal_blocks_do_not_see_the_future(norm_first):
    """An encoder block with is_causal, and a decoder block by default, depend on earlier tokens and their own only.

    Source: Vaswani et al. 2017, §3.1: masking ensures that predictions depend only on known outputs.
    Convention: a decoder block masks by itself; in torch the caller gives the mask.
    """
    x, memory = normal(2, 5, WIDTH), normal(2, 7, WIDTH, seed=1)
    laws.causal(encoder(norm_first=norm_first, is_causal=True), x)
    module = decoder(norm_first=norm_first)
    laws.causal(lambda t: module(t, memory), x)
    later = torch.cat([x[:, :4], -x[:, 4:]], 1)
    for open_block in (encoder(norm_first=norm_first), lambda t: decoder(is_causal=False)(t, memory)):
        laws.assert_differs(open_block(later)[:, :4], open_block(x)[:, :4], by=1e-3)


def test_gradient_of_a_token_goes_to_its_past_and_to_all_the_memory():
    """The loss of token 2 sends gradient to tokens 0 to 2 and to every token of the memory, none to later tokens.

    Source: Vaswani et al. 2017, §3.1 and §3.2.3.
    """
    tokens = [normal(2, 1, WIDTH, seed=n).requires_grad_() for n in range(5)]
    memory = [normal(2, 1, WIDTH, seed=10 + n).requires_grad_() for n in range(3)]
    module = decoder()
    loss = module(torch.cat(tokens, 1), torch.cat(memory, 1))[:, 2].square().sum()
    reached = {f"token {n}": tokens[n] for n in range(3)} | {f"memory {n}": m for n, m in enumerate(memory)}
    laws.gradient_reaches(loss, reached, {"token 3": tokens[3], "token 4": tokens[4]})


@both_norms
@pytest.mark.parametrize("chunks", [[1] * 6, [3, 1, 2]])
def test_a_cache_gives_the_outputs_of_the_whole_sequence(norm_first, chunks):
    """Fed token by token, or in chunks, with a KeyValueCache, both blocks give what the whole sequence gives.

    Source: Shazeer 2019, arXiv:1911.02150, §2.2: incremental decoding.
    """
    x, memory, keys = normal(2, 6, WIDTH), normal(2, 7, WIDTH, seed=1), some(2, 6)
    for module, rest in (
        (encoder(norm_first=norm_first, is_causal=True), ()),
        (decoder(norm_first=norm_first), [memory]),
    ):
        cache, found, seen = KeyValueCache(), [], 0
        for part in x.split(chunks, 1):
            seen += part.shape[1]
            found.append(module(part, *rest, key_mask=keys[:, :seen], cache=cache))
        laws.assert_close(torch.cat(found, 1), module(x, *rest, key_mask=keys))


@pytest.mark.parametrize("block", ["encoder", "decoder"])
@both_norms
def test_second_derivatives_are_right(block, norm_first):
    """The gradient of the gradient equals central differences, to x and to the memory.

    Source: the definition of the derivative.
    """
    options = {"dropout": 0.0, "activation": "gelu", "norm_first": norm_first, "layer_norm_eps": EPS}
    inputs = normal(1, 2, 2), normal(1, 3, 2, seed=1)
    if block == "encoder":
        module, inputs = ready(TransformerEncoderBlock(2, 1, 2, is_causal=True, **options)), inputs[:1]
    else:
        module = ready(TransformerDecoderBlock(2, 1, 1, **options))
    laws.gradient_correct(lambda *t: module(*t), *inputs, second_order=True)


# ---------------------------------------------------------------------------------------------------- own parts


class _Mean(nn.Module):
    """Attention of the simplest kind: every token gets the mean of all, `scale` times."""

    def forward(self, input, scale=1.0):
        return scale * input.mean(1, keepdim=True).expand_as(input)


@both_norms
def test_self_attn_replaces_the_heads(norm_first):
    """self_attn may be any module of tokens; what the block is called with besides its input is passed on to it.

    Source: Tay et al. 2020, arXiv:2009.06732: efficient transformers differ in the attention alone.
    """
    module = ready(
        TransformerEncoderBlock(
            WIDTH, self_attn=_Mean(), dim_feedforward=HIDDEN, dropout=0.0, layer_norm_eps=EPS, norm_first=norm_first
        )
    )
    x, state = normal(2, 5, WIDTH), dict(module.named_parameters())
    assert not any("self_attn" in name for name in state), "expected no attention but the given one"
    for options, scale in (({}, 1.0), ({"scale": 2.5}, 2.5)):
        mean = lambda t, scale=scale: scale * t.mean(1, keepdim=True) + 0 * t  # noqa: E731
        branches = [mean, lambda t: feed_forward(state, t, "relu")]
        laws.assert_close(module(x, **options), by_hand(state, branches, x, norm_first))


@both_norms
@pytest.mark.parametrize("gated", ["SwiGLU", "GEGLU"])
def test_a_gated_network_replaces_the_linear_layers(norm_first, gated):
    """feed_forward may be any module of tokens: SwiGLU(x) = (Swish(x W) ⊗ x V) W₂ between norm and residual.

    Source: Shazeer 2020, arXiv:2002.05202, §2.
    """
    network = {"SwiGLU": SwiGLU, "GEGLU": GEGLU}[gated](WIDTH, 7)
    gate = ACTIVATIONS["silu" if gated == "SwiGLU" else "gelu"]
    x, memory = normal(2, 5, WIDTH), normal(2, 7, WIDTH, seed=1)

    def network_by_hand(state, t):
        w, v, w2 = (state[f"feed_forward.{n}_proj.weight"] for n in ("gate", "up", "down"))
        return (gate(t @ w.T) * (t @ v.T)) @ w2.T

    module = encoder(norm_first=norm_first, feed_forward=network)
    state = dict(module.named_parameters())
    assert not any("linear1" in name for name in state), "expected no network but the given one"
    own = lambda t: attention(state, "self_attn", t, t, torch.ones(5, 5))  # noqa: E731
    expected = by_hand(state, [own, lambda t: network_by_hand(state, t)], x, norm_first)
    laws.assert_close(module(x), expected)
    module = decoder(norm_first=norm_first, feed_forward=network, is_causal=False)
    state = dict(module.named_parameters())
    own = lambda t: attention(state, "self_attn", t, t, torch.ones(5, 5))  # noqa: E731
    read = lambda t: attention(state, "multihead_attn", t, memory, torch.ones(5, 7))  # noqa: E731
    laws.assert_close(
        module(x, memory), by_hand(state, [own, read, lambda t: network_by_hand(state, t)], x, norm_first)
    )


@both_norms
def test_a_part_without_layers_is_a_part(norm_first):
    """An empty nn.Sequential, whose truth value is false, is the identity in place of the FFN, or of the attention.

    Source: the contract of Python's truth values: what has no elements is false, and is not None.
    """
    x, options = normal(2, 5, WIDTH), {"dropout": 0.0, "layer_norm_eps": EPS, "norm_first": norm_first}
    bare = ready(TransformerEncoderBlock(WIDTH, self_attn=nn.Sequential(), feed_forward=nn.Sequential(), **options))
    state = dict(bare.named_parameters())
    laws.assert_close(bare(x), by_hand(state, [lambda t: t, lambda t: t], x, norm_first))
    assert all(name.startswith("norm") for name in state), f"expected the norms' parameters alone, found {list(state)}"
    module = decoder(norm_first=norm_first, feed_forward=nn.Sequential(), is_causal=False)
    state, memory = dict(module.named_parameters()), normal(2, 7, WIDTH, seed=1)
    own = lambda t: attention(state, "self_attn", t, t, torch.ones(5, 5))  # noqa: E731
    read = lambda t: attention(state, "multihead_attn", t, memory, torch.ones(5, 7))  # noqa: E731
    laws.assert_close(module(x, memory), by_hand(state, [own, read, lambda t: t], x, norm_first))


def test_parameters_are_counted():
    """d_ff = 4d gives an encoder block 12d² + 13d parameters; SwiGLU of 8d/3 as many weights as FFN of 4d.

    Source: Vaswani et al. 2017, §3.2.2 and §3.3; Shazeer 2020, arXiv:2002.05202, §2: hidden size reduced by 2/3.
    """
    d = 12
    counts = {
        "encoder": (TransformerEncoderBlock(d, 3, 4 * d), 12 * d * d + 13 * d),
        "decoder": (TransformerDecoderBlock(d, 3, 4 * d), 16 * d * d + 19 * d),
        "no bias": (TransformerEncoderBlock(d, 3, 4 * d, bias=False), 12 * d * d + 2 * d),
        "gated": (TransformerEncoderBlock(d, 3, bias=False, feed_forward=SwiGLU(d)), 12 * d * d + 2 * d),
        "FFN": (FeedForward(d, 20), 2 * 20 * d + 20 + d),
        "torch's hidden width": (TransformerEncoderBlock(d, 3), 4 * d * d + 9 * d + 2 * 2048 * d + 2048),
    }
    for name, (module, expected) in counts.items():
        found = sum(p.numel() for p in module.parameters())
        assert found == expected, f"{name}: expected {expected} parameters, found {found}"


def test_operations_are_counted():
    """An encoder block costs at most 2T(4d² + 2·d·d_ff) + 4T²d operations; a decoder adds 2(2T + 2S)d² + 4TSd.

    Source: Vaswani et al. 2017, Table 1: O(T²·d) for self-attention; a multiply-add is two operations.
    """
    t, s, d, hidden = 5, 7, WIDTH, HIDDEN
    one = 2 * t * (4 * d * d + 2 * d * hidden) + 4 * t * t * d
    found = cost.flops(encoder(), normal(1, t, d))
    assert found <= one, f"encoder: expected up to {one} operations, found {found}"
    two = one + 2 * (2 * t + 2 * s) * d * d + 4 * t * s * d
    found = cost.flops(decoder(), normal(1, t, d), normal(1, s, d))
    assert found <= two, f"decoder: expected up to {two} operations, found {found}"


# ------------------------------------------------------------------------------------------------- conventions


@both_norms
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_weights_move_to_and_from_torch(name, norm_first, bias):
    """State dicts of torch.nn's layers and of these blocks are the same, and so are outputs and gradients to inputs.

    Convention: torch.nn.TransformerEncoderLayer and TransformerDecoderLayer batch first; True in their masks hides.
    """
    settings = (WIDTH, HEADS, HIDDEN, 0.0, "gelu", EPS)
    future, padding = ~until_now(5), torch.tensor([[False] * 4 + [True], [False] * 5])
    x, memory = normal(2, 5, WIDTH), normal(2, 7, WIDTH, seed=1)
    if name == "encoder":
        ours = TransformerEncoderBlock(*settings, norm_first, bias).double()
        theirs = nn.TransformerEncoderLayer(*settings, batch_first=True, norm_first=norm_first, bias=bias).double()
        inputs, ours_masks, theirs_masks = (x,), {"key_mask": ~padding}, {"src_key_padding_mask": padding}
    else:
        ours = TransformerDecoderBlock(*settings, norm_first, bias).double()
        theirs = nn.TransformerDecoderLayer(*settings, batch_first=True, norm_first=norm_first, bias=bias).double()
        inputs, ours_masks = (x, memory), {"key_mask": ~padding}
        theirs_masks = {"tgt_mask": future, "tgt_key_padding_mask": padding}
    ready(ours, seed=1)
    theirs.load_state_dict(ours.state_dict())
    first = laws.gradients(lambda *t: ours(*t, **ours_masks), inputs)
    laws.assert_all_close(first, laws.gradients(lambda *t: theirs(*t, **theirs_masks), inputs))
    ready(theirs, seed=2)
    ours.load_state_dict(theirs.state_dict())
    laws.assert_close(ours(*inputs, **ours_masks), theirs(*inputs, **theirs_masks))


def test_defaults_are_torchs():
    """A hidden width of 2048, dropout of 0.1, ReLU, ε = 1e-5, post-norm, biases.

    Convention: torch.nn.TransformerEncoderLayer and TransformerDecoderLayer.
    """
    x, memory = normal(2, 5, WIDTH), normal(2, 7, WIDTH, seed=1)
    x[:, 1] = 1e-3 * normal(2, WIDTH) / 30  # so small that ε matters
    future = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    for ours, theirs, given_to_ours, given_to_theirs in (
        (TransformerEncoderBlock(WIDTH, HEADS), nn.TransformerEncoderLayer(WIDTH, HEADS, batch_first=True), (x,), (x,)),
        (
            TransformerDecoderBlock(WIDTH, HEADS),
            nn.TransformerDecoderLayer(WIDTH, HEADS, batch_first=True),
            (x, memory),
            (x, memory, future),
        ),
    ):
        found = inspect.signature(type(ours)).parameters["dropout"].default
        assert found == 0.1, f"expected dropout of 0.1, found {found}"
        ours.double().eval().load_state_dict(theirs.double().eval().state_dict())
        laws.assert_close(ours(*given_to_ours), theirs(*given_to_theirs))
    narrow, x = ready(FeedForward(5, 7)), normal(2, 3, 5)
    laws.assert_close(narrow.train()(x), feed_forward(narrow.state_dict(), x, "relu"))


def test_parameters_start_as_in_torch():
    """Stacked projections are Xavier-uniform, ±√(6/4d), W₁ within ±1/√d, W₂ within ±1/√d_ff, norms the identity.

    Convention: torch.nn.TransformerDecoderLayer.
    """
    module = TransformerDecoderBlock(48, 3, 80)
    bounds = {"linear1.weight": 48, "linear1.bias": 48, "linear2.weight": 80, "linear2.bias": 80}
    bounds |= {f"{name}.out_proj.weight": 48 for name in ("self_attn", "multihead_attn")}
    bounds |= {f"{name}.in_proj_weight": 4 * 48 / 6 for name in ("self_attn", "multihead_attn")}
    for name, width in bounds.items():
        largest = module.get_parameter(name).abs().max().item() * math.sqrt(width)
        assert 0.9 < largest <= 1.0001, f"{name}: expected up to 1/√{width:g}, found {largest:.3f} of it"
    for name in ("self_attn", "multihead_attn"):
        for bias in (f"{name}.in_proj_bias", f"{name}.out_proj.bias"):
            laws.assert_same(module.get_parameter(bias).detach(), torch.zeros(module.get_parameter(bias).shape))
    for norm in (module.norm1, module.norm2, module.norm3):
        laws.assert_same(norm.weight.detach(), torch.ones(48))
        laws.assert_same(norm.bias.detach(), torch.zeros(48))


@pytest.mark.parametrize(
    ("block", "branch"),
    [
        (TransformerEncoderBlock, "attention"),
        (TransformerEncoderBlock, "feed-forward"),
        (TransformerDecoderBlock, "attention"),
        (TransformerDecoderBlock, "context"),
        (TransformerDecoderBlock, "feed-forward"),
    ],
)
@both_norms
def test_dropout_is_inside_and_after_every_branch(block, branch, norm_first):
    """In training a constant branch of 1 becomes 0 or 1/(1 − p)²: dropped inside and after; in evaluation it stays 1.

    Inside are the attention's weights, or the hidden features. Of 12,000 numbers 56 % ± 2 stay for p = 0.25 (4 σ; a
    weight takes the 4 features of a head along).

    Source: Vaswani et al. 2017, §5.4, after each branch.  Convention: the three dropouts of torch's layers.
    """
    decodes = block is TransformerDecoderBlock
    block = block(WIDTH, HEADS, WIDTH, dropout=0.25, norm_first=norm_first).double()
    for parameter in block.parameters():
        parameter.data.zero_()
    one, eye = torch.ones(WIDTH, dtype=torch.float64), torch.eye(WIDTH, dtype=torch.float64)
    if branch == "feed-forward":
        block.linear1.bias.data, block.linear2.weight.data = one, eye
    else:
        layer = block.self_attn if branch == "attention" else block.multihead_attn
        layer.in_proj_bias.data[-WIDTH:], layer.out_proj.weight.data = one, eye
    for name in ("norm1", "norm2", "norm3")[: 2 + decodes]:
        setattr(block, name, nn.Identity())
    x, memory = torch.zeros(1000, 1, WIDTH, dtype=torch.float64), [normal(1000, 1, WIDTH)] * decodes
    laws.assert_close(block.eval()(x, *memory), torch.ones_like(x))
    found = block.train()(x, *memory)
    laws.assert_close(found, (found > 0.5).double() / 0.75**2)
    share = (found > 0.5).double().mean().item()
    assert abs(share - 0.5625) < 0.03, f"expected 56 % to stay, found {share:.3f}"
