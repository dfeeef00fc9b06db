"""GPT-2: the model, its sampling and its training.  Radford et al. 2019; Holtzman et al. 2019, arXiv:1904.09751."""

import copy
import inspect
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from impl.models.gpt import (
    GPT,
    decay_groups,
    next_token_loss,
    sampling_distribution,
    train,
    weights_from_gpt2,
    weights_to_gpt2,
)
from spec import cost, laws
from spec.cases.gpt import LossOfSlope
from spec.strategies import floats, seeds

pytestmark = pytest.mark.item("gpt")

VOCABULARY, BLOCK, LAYERS, HEADS, WIDTH = 11, 8, 2, 3, 12
PUBLISHED = {"small": (12, 12, 768), "medium": (24, 16, 1024), "large": (36, 20, 1280), "XL": (48, 25, 1600)}


def model(seed=0, size=0.3, **options):
    """float64, every parameter random, so that no two tokens and no two positions are alike."""
    built = GPT(VOCABULARY, BLOCK, LAYERS, HEADS, WIDTH, **({"dropout": 0.0} | options)).double()
    laws.randomise(built, seed)
    for parameter in built.parameters():
        parameter.data.mul_(size)
    return built.eval()


def text(*shape, seed=0, vocabulary=VOCABULARY):
    return torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(seed))


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parameters(module):
    return sum(p.numel() for p in module.parameters())


# -------------------------------------------------------------------------------------------------- the model


def normed(state, name, x):
    centred = x - x.mean(-1, keepdim=True)
    return (
        centred / ((centred**2).mean(-1, keepdim=True) + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]
    )


def by_hand(state, tokens):
    """GPT-2 equation by equation, from weights under the names of its checkpoints, (inputs, outputs)."""
    x = state["wte.weight"][tokens] + state["wpe.weight"][: tokens.shape[1]]
    future = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).triu(1)
    for n in range(LAYERS):
        mapped = lambda x, name, n=n: x @ state[f"h.{n}.{name}.weight"] + state[f"h.{n}.{name}.bias"]  # noqa: E731
        q, k, v = (
            t.unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for t in mapped(normed(state, f"h.{n}.ln_1", x), "attn.c_attn").chunk(3, -1)
        )
        scores = (q @ k.mT / math.sqrt(WIDTH / HEADS)).masked_fill(future, -math.inf)
        x = x + mapped((scores.softmax(-1) @ v).transpose(1, 2).flatten(2), "attn.c_proj")
        hidden = mapped(normed(state, f"h.{n}.ln_2", x), "mlp.c_fc")
        gate = (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3))) / 2
        x = x + mapped(hidden * gate, "mlp.c_proj")
    return normed(state, "ln_f", x) @ state["wte.weight"].T


def test_it_is_gpt2_equation_by_equation():
    """The logits are those of E[x] + P, two pre-norm blocks with causal attention and tanh-GELU, a final norm, and E
    again.

    Source: Radford et al. 2019 (GPT-2), §2.3; Radford et al. 2018, eq. 2; the released code for tanh-GELU.
    """
    built, tokens = model(), text(2, 7)
    state = {n.removeprefix("transformer."): p for n, p in weights_to_gpt2(built.state_dict()).items()}
    laws.assert_close(built(tokens), by_hand(state, tokens))


@pytest.mark.states("dependence")
def test_logits_depend_on_the_past_alone():
    """Changing token t leaves the logits before t unchanged and changes those from t on.

    Source: Radford et al. 2018, eq. 1: P(u_i | u_i−k, …, u_i−1).
    """
    built, tokens = model(), text(2, 7)
    whole = built(tokens)
    for t in range(7):
        other = tokens.clone()
        other[:, t] = (other[:, t] + 1) % VOCABULARY
        found = built(other)
        laws.assert_close(found[:, :t], whole[:, :t])
        assert ((found - whole)[:, t:].abs().amax(-1) > 1e-6).all(), f"expected every later token to see token {t}"


def test_positions_distinguish_equal_tokens():
    """In a text of one repeated token every position has different logits: positions are added.

    Source: Radford et al. 2018, eq. 2: h₀ = U W_e + W_p.
    """
    found = model()(torch.full((1, 6), 4))
    assert (found.diff(dim=1).abs().amax(-1) > 1e-3).all(), "expected other logits at every position"


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_their_parameters(name):
    """The four sizes have V d + T d + l (12 d² + 13 d) + 2d parameters: 124,439,808, 354,823,168, 774,030,080 and
    1,557,611,200.

    Source: Radford et al. 2019, Table 2, for l and d; the released files (the table says 117M and 345M).
    """
    layers, heads, d = PUBLISHED[name]
    with torch.device("meta"):
        found = parameters(GPT(50257, 1024, layers, heads, d))
    assert found == 50257 * d + 1024 * d + layers * (12 * d * d + 13 * d) + 2 * d, f"found {found:,}"
    exact = {"small": 124_439_808, "medium": 354_823_168, "large": 774_030_080, "XL": 1_557_611_200}[name]
    assert found == exact, f"expected {exact:,} parameters, found {found:,}"


def test_gpt1_and_gpt3_have_their_parameters():
    """GPT-1 has 116,534,784 parameters, this model without its final norm; GPT-3 has 174,604,259,328.

    Source: Radford et al. 2018, §4.1; Brown et al. 2020, arXiv:2005.14165, Table 2.1.
    """
    with torch.device("meta"):
        first, third = GPT(40478, 512, 12, 12, 768), GPT(50257, 2048, 96, 96, 12288)
    assert parameters(first) - 2 * 768 == 116_534_784, f"found {parameters(first):,}"
    assert parameters(third) == 174_604_259_328, f"found {parameters(third):,}"


def test_operations_are_counted():
    """The logits of T tokens cost at most 2T (12 l d² + V d) + 4 l T² d operations.

    Source: Kaplan et al. 2020, arXiv:2001.08361, §2.1, Table 1; a multiply-add is two operations.
    """
    t, d = 7, WIDTH
    most = 2 * t * (12 * LAYERS * d * d + VOCABULARY * d) + 4 * LAYERS * t * t * d
    found = cost.flops(model(), text(1, t))
    assert found <= most, f"expected up to {most} operations, found {found}"


def test_without_bias_only_matrices_and_scales_are_left():
    """bias=False removes the bias of every linear layer and norm.

    Convention: nanoGPT's option; Llama and PaLM have none either.
    """
    names = [n for n, _ in model(bias=False).named_parameters()]
    assert not any("bias" in n for n in names), f"expected no bias, found {[n for n in names if 'bias' in n]}"
    d = WIDTH
    assert parameters(model(bias=False)) == (VOCABULARY + BLOCK) * d + LAYERS * (12 * d * d + 2 * d) + d


# -------------------------------------------------------------------------------------------------- one table


@pytest.mark.states("gradient routing")
def test_one_table_is_input_and_output():
    """The gradient of E is the sum of both uses, as the table of tokens and as the output matrix.

    Source: Press & Wolf 2016, arXiv:1608.05859, §3; Radford et al. 2018, eq. 2: W_e occurs twice.
    """
    built, tokens = model(), text(2, 6)
    (found,) = torch.autograd.grad(built.loss(tokens), built.wte.weight)
    state = {n.removeprefix("transformer."): p.detach() for n, p in weights_to_gpt2(built.state_dict()).items()}
    table = state["wte.weight"].clone().requires_grad_()
    logits = by_hand(state | {"wte.weight": table}, tokens[:, :-1])
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    (expected,) = torch.autograd.grad(loss, table)
    laws.assert_close(found, expected)


def test_the_tie_survives_copies_and_loading():
    """After a deep copy or loading a state dict, a change of E changes input and output alike, and E is stored once.

    Source: Press & Wolf 2016, arXiv:1608.05859.  Convention: an output matrix of its own could come apart in a copy.
    """
    built, tokens = model(), text(2, 5)
    loaded = model(seed=1)
    loaded.load_state_dict(built.state_dict())
    for other in (copy.deepcopy(built), loaded):
        laws.assert_close(other(tokens), built(tokens))
        with torch.no_grad():
            other.wte.weight.mul_(1.5)
        state = {n.removeprefix("transformer."): p for n, p in weights_to_gpt2(other.state_dict()).items()}
        laws.assert_close(other(tokens), by_hand(state, tokens))
    tables = [n for n, p in built.state_dict().items() if p.shape == (VOCABULARY, WIDTH)]
    assert tables == ["wte.weight"], f"expected the table once, found {tables}"


def test_released_weights_convert_both_ways():
    """weights_to_gpt2 and weights_from_gpt2 are inverse; prefixes, masks and the second copy of E do not matter.

    Source: the released checkpoints of GPT-2: matrices as (inputs, outputs), `h.0.attn.bias` the causal mask.
    """
    built = model()
    theirs = weights_to_gpt2(built.state_dict())
    d = WIDTH
    shapes = {"transformer.h.1.attn.c_attn.weight": (d, 3 * d), "transformer.h.1.mlp.c_fc.weight": (d, 4 * d)}
    shapes |= {"transformer.h.0.mlp.c_proj.weight": (4 * d, d), "lm_head.weight": (VOCABULARY, d)}
    for name, shape in shapes.items():
        assert theirs[name].shape == shape, f"{name}: expected {shape}, found {tuple(theirs[name].shape)}"
    laws.assert_all_close(dict(sorted(weights_from_gpt2(theirs).items())), dict(sorted(built.state_dict().items())))
    bare = {n.removeprefix("transformer."): p for n, p in theirs.items() if n != "lm_head.weight"}
    bare |= {"h.0.attn.bias": torch.ones(1, 1, BLOCK, BLOCK), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    fresh = model(seed=2)
    fresh.load_state_dict(weights_from_gpt2(bare))
    laws.assert_close(fresh(text(2, 5)), built(text(2, 5)))


# ------------------------------------------------------------------------------------------------------ start


def test_weights_are_initialised_as_gpt2s():
    """Weights are initialised as N(0, 0.02²), at the end of a branch as N(0, 0.02²/2l), biases as 0, norms as 1;
    standard deviations are within 3 %.

    Source: Radford et al. 2019, §2.3: residual layers scaled by 1/√N, N their number; §4.1 of Radford et al. 2018.
    """
    laws.reseed(0)
    built = GPT(300, 200, 3, 2, 96)
    for name, p in built.named_parameters():
        p = p.detach().double()
        if p.dim() == 1:
            laws.assert_same(p, torch.full_like(p, float("bias" not in name)))
            continue
        ends = "out_proj" in name or "linear2" in name
        expected = 0.02 / math.sqrt(6) if ends else 0.02
        assert abs(p.std().item() / expected - 1) < 0.03, f"{name}: expected {expected:.5f}, found {p.std():.5f}"
        assert abs(p.mean().item()) < 0.05 * expected, f"{name}: expected mean 0, found {p.mean():.1e}"


@pytest.mark.states("limiting case")
def test_the_first_loss_is_that_of_a_guess():
    """Before training the loss is ln V: 5.30 for 200 tokens, within 0.1.

    Source: Radford et al. 2018, §4.1: weights of N(0, 0.02²) make all logits small.
    """
    laws.reseed(0)
    found = GPT(200, 16, 2, 2, 32).loss(text(8, 16, vocabulary=200)).item()
    assert abs(found - math.log(200)) < 0.1, f"expected about {math.log(200):.3f}, found {found:.3f}"


def test_dropout_is_gpt2s():
    """Dropout of 0.1 by default acts after the embeddings, on attention weights and after branches, not within the
    feed-forward network.

    Source: Radford et al. 2018, §4.1: residual, embedding and attention dropouts of 0.1.
    """
    default = inspect.signature(GPT).parameters["dropout"].default
    assert default == 0.1, f"expected 0.1 by default, found {default}"
    half, d, tokens = GPT(VOCABULARY, 3, 1, 2, 40, dropout=0.5), 40, torch.zeros(300, 1, dtype=torch.long)
    half.ln_f = nn.Identity()
    nothing = {name: torch.zeros_like(p) for name, p in half.state_dict().items()}
    nothing["wte.weight"] = torch.eye(VOCABULARY, d)  # logit j is feature j
    block = "blocks.0"
    attention = {
        f"{block}.self_attn.in_proj_bias": torch.ones(3 * d),
        f"{block}.self_attn.out_proj.weight": torch.eye(d),
    }
    network = {f"{block}.feed_forward.linear1.bias": torch.full((4 * d,), 32.0)}
    network[f"{block}.feed_forward.linear2.weight"] = torch.eye(d, 4 * d) / 32
    for name, ones, values in (
        ("embeddings", {"wpe.weight": torch.ones(3, d)}, {0.0, 2.0}),
        ("attention, inside and after", attention, {0.0, 4.0}),
        ("network, after it alone", network, {0.0, 2.0}),
    ):
        half.load_state_dict(nothing | ones)
        found = set(half.train()(tokens)[..., 1:].unique().tolist())
        assert found == values, f"{name}: expected 1 to become one of {values}, found {found}"
        laws.assert_close(half.eval()(tokens)[..., 1:].detach(), torch.ones(300, 1, VOCABULARY - 1))


# ------------------------------------------------------------------------------------------------------- loss


@given(seed=seeds())
def test_loss_is_the_cross_entropy_of_the_next_token(seed):
    """loss = −1/n Σ log softmax(logits_t)[x_t+1], in nats: the last token is predicted and predicts nothing.

    Source: Radford et al. 2018, eq. 1.
    """
    built, tokens = model(), text(2, 6, seed=seed)
    expected = nn.functional.cross_entropy(built(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    laws.assert_close(built.loss(tokens), expected)
    logits = 50 * normal(2, 5, VOCABULARY, seed=seed)
    reference = lambda z: nn.functional.cross_entropy(z.flatten(0, 1), tokens[:, 1:].flatten())  # noqa: E731
    laws.gradients_match(lambda z: next_token_loss(z, tokens[:, 1:]), reference, logits)


def test_a_text_may_be_one_token_longer_than_the_model():
    """A text of block_size + 1 tokens has a loss, of block_size predictions; its logits are refused.

    Source: Radford et al. 2018, eq. 1, with a context of k.
    """
    built = model()
    assert built.loss(text(2, BLOCK + 1)).isfinite(), "expected a loss"
    laws.rejects(lambda: built(text(2, BLOCK + 1)))


@pytest.mark.states("gradient routing")
def test_padding_counts_nowhere():
    """The loss of padded texts is the mean over their tokens that have a token before them, whatever the padding is.

    Convention: padding at either side; what is predicted from padding or is padding has no loss.
    """
    built, first, second = model(), text(1, 5, seed=1), text(1, 3, seed=2)
    alone = [nn.functional.cross_entropy(built(t)[0, :-1], t[0, 1:], reduction="sum") for t in (first, second)]
    expected = (alone[0] + alone[1]) / (4 + 2)
    for left in (True, False):
        for filler in (0, 9):
            pad = torch.full((1, 2), filler)
            tokens = torch.cat([first, torch.cat([pad, second] if left else [second, pad], 1)])
            mask = torch.ones(2, 5, dtype=torch.bool)
            mask[1, slice(0, 2) if left else slice(3, 5)] = False
            laws.assert_close(built.loss(tokens, mask), expected)


# ------------------------------------------------------------------------------------------------------ cache


@pytest.mark.parametrize("chunks", [[1] * 8, [3, 1, 4], [8]])
def test_a_cache_gives_the_logits_of_the_whole_text(chunks):
    """Token by token or in chunks, a cache gives the logits of the whole text; a token beyond block_size is refused.

    Source: Shazeer 2019, arXiv:1911.02150, §2.2: incremental decoding.
    """
    built, tokens = model(), text(2, BLOCK)
    cache = built.new_cache()
    found = torch.cat([built(part, cache=cache) for part in tokens.split(chunks, 1)], 1)
    laws.assert_close(found, built(tokens))
    assert len(cache) == LAYERS and len({id(c) for c in cache}) == LAYERS, "expected a cache for each block"
    laws.rejects(lambda: built(tokens[:, :1], cache=cache), ("9",))


def test_padding_on_the_left_changes_nothing():
    """A text has the same logits with padding on its left as alone, at once and with a cache, whatever the padding is.

    Convention: key_mask is True at tokens; positions count tokens, so padding takes none.
    """
    built, tokens = model(), text(2, 5)
    alone = built(tokens[1:, 2:])
    mask = torch.tensor([[True] * 5, [False] * 2 + [True] * 3])
    laws.assert_close(built(tokens, mask)[1:, 2:], alone)
    cache = built.new_cache()
    parts = [built(tokens[:, :4], mask[:, :4], cache), built(tokens[:, 4:], mask, cache)]
    laws.assert_close(torch.cat(parts, 1)[1:, 2:], alone)
    laws.assert_close(torch.cat(parts, 1)[:1], built(tokens[:1]))


# --------------------------------------------------------------------------------------------------- sampling


def logits_of(*probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log()


@pytest.mark.parametrize(
    ("p", "kept"), [(0.0, 1), (0.3, 1), (0.5, 1), (0.6, 2), (0.75, 2), (0.76, 3), (0.875, 3), (0.9, 4), (1.0, 4)]
)
def test_a_nucleus_is_the_smallest_set_of_that_mass(p, kept):
    """Of (½, ¼, ⅛, ⅛) the nucleus of p is the smallest set of tokens with Σ >= p, including the one that crosses p.

    Source: Holtzman et al. 2019, §3.1: the smallest set such that Σ P >= p, then P' = P/p'.
    Convention: of equal tokens at the rim the first stay.
    """
    order = [2, 0, 3, 1]
    probabilities = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)
    expected = torch.where(torch.arange(4) < kept, probabilities, 0)
    found = sampling_distribution(probabilities.log(), top_p=p)
    laws.assert_close(found, expected / expected.sum())
    if kept != 3:  # no tie at the rim: the order of the tokens does not matter
        laws.assert_close(
            sampling_distribution(probabilities[order].log(), top_p=p), (expected / expected.sum())[order]
        )


@given(k=st.integers(1, 7), seed=seeds())
def test_top_k_keeps_the_k_largest(k, seed):
    """top_k keeps the proportions of the k largest probabilities and sets the others to 0; a k above V keeps all.

    Source: Fan et al. 2018, arXiv:1805.04833, §5.4.
    """
    z = normal(3, 5, seed=seed)
    rank = z.argsort(-1, descending=True).argsort(-1)
    expected = z.exp() * (rank < k)
    laws.assert_close(sampling_distribution(z, top_k=k), expected / expected.sum(-1, keepdim=True))


def test_ties_with_the_kth_all_stay():
    """top_k=2 keeps three of the logits (2, 1, 1, 0): ties with the k-th stay.

    Convention: transformers' TopKLogitsWarper removes what is below the k-th.
    """
    found = sampling_distribution(torch.tensor([1.0, 2.0, 0.0, 1.0]).double(), top_k=2)
    expected = torch.tensor([1.0, 2.0, -math.inf, 1.0]).double().softmax(-1)
    laws.assert_close(found, expected)


@given(seed=seeds(), temperature=floats(0.2, 5))
def test_temperature_divides_the_logits(seed, temperature):
    """p_i ∝ exp(u_i/T): T = 1 is the plain softmax, and any T keeps the order of tokens.

    Source: Holtzman et al. 2019, §3.3: eq. 4.
    """
    z = normal(3, 5, seed=seed)
    laws.assert_close(sampling_distribution(z, temperature), (z / temperature).softmax(-1))
    laws.assert_close(sampling_distribution(z), z.softmax(-1))


def test_temperature_comes_before_the_filters_and_top_k_before_the_nucleus():
    """The temperature is applied before the nucleus is taken, and top-k before the nucleus.

    (½, ¼, ¼) at T = ½ is (⅔, ⅙, ⅙): its nucleus of 0.6 is one token, that of (½, ¼, ¼) two. Of (0.4, 0.3, 0.3) the
    top two are (4/7, 3/7), whose nucleus of 0.5 is one token; that of the three is two.

    Source: Holtzman et al. 2019, §3.  Convention: the order of transformers' warpers.
    """
    found = sampling_distribution(logits_of(0.5, 0.25, 0.25), 0.5, top_p=0.6)
    laws.assert_close(found, torch.tensor([1.0, 0, 0]).double())
    found = sampling_distribution(logits_of(0.4, 0.35, 0.25), top_k=2, top_p=0.5)
    laws.assert_close(found, torch.tensor([1.0, 0, 0]).double())


@pytest.mark.states("limiting case")
@given(seed=seeds())
def test_all_roads_lead_to_the_most_probable_token(seed):
    """T = 0, T → 0, top_k = 1 and top_p = 0 choose the largest logit; top_k = V and top_p = 1 change nothing.

    Source: Holtzman et al. 2019, §3: greedy decoding as the limit.
    """
    z = normal(4, 6, seed=seed)
    best = torch.zeros_like(z).scatter(-1, z.argmax(-1, keepdim=True), 1.0)
    for options in ({"temperature": 0}, {"top_k": 1}, {"top_p": 0.0}, {"temperature": 1e-9}):
        laws.assert_close(sampling_distribution(z, **options), best)
    laws.assert_close(sampling_distribution(z, top_k=6, top_p=1.0), z.softmax(-1))
    tied = torch.tensor([1.0, 3.0, 3.0]).double()
    laws.assert_close(sampling_distribution(tied, 0), torch.tensor([0.0, 1.0, 0.0]).double())


@pytest.mark.parametrize(("dtype", "temperature"), [(torch.float32, 1e-42), (torch.float16, 1e-7)])
def test_a_temperature_next_to_zero_is_greedy(dtype, temperature):
    """A temperature so small that u/T overflows chooses the largest logit, as its limit does.

    Source: Holtzman et al. 2019, eq. 4, of which only differences of logits matter.
    """
    found = sampling_distribution(torch.tensor([[5.0, 300.0, -math.inf, 299.0]], dtype=dtype), temperature)
    laws.assert_close(found, torch.tensor([[0.0, 1.0, 0.0, 0.0]], dtype=dtype))


def test_a_nucleus_in_half_precision_is_that_of_the_same_logits():
    """Of 3000 bfloat16 logits the nucleus is the one that double precision finds, and that of p = 1 has all tokens.

    A sum of 3000 probabilities in 8 bits is off by some hundredths: tokens at the rim come and go, and the last ones
    seem to lie beyond a mass of 1.

    Source: Holtzman et al. 2019, §3.1.  Convention: probabilities are float32 or wider, as in transformers' generate.
    """
    z = (normal(3000) / 3).bfloat16()
    kept = [(sampling_distribution(z, top_p=0.8) > 0), (sampling_distribution(z.double(), top_p=0.8) > 0)]
    assert kept[0].sum() == kept[1].sum(), f"expected {kept[1].sum()} tokens, found {kept[0].sum()}"
    laws.assert_same(kept[0], kept[1])
    assert (sampling_distribution(z, top_p=1.0) > 0).all(), "expected every token in the nucleus of all mass"


# --------------------------------------------------------------------------------------------------- generate


@torch.no_grad()
def greedy_by_hand(built, tokens, steps):
    for _ in range(steps):
        tokens = torch.cat([tokens, built(tokens[:, -BLOCK:])[:, -1:].argmax(-1)], 1)
    return tokens


@pytest.mark.parametrize("steps", [0, 1, 4, 12])
def test_greedy_text_is_the_most_probable_token_again_and_again(steps):
    """With T = 0 each token is the most probable one after those before it, also when the text outgrows block_size.

    Source: Radford et al. 2018, eq. 1.  Convention: a longer text is continued from its last block_size tokens.
    """
    built, tokens = model(), text(2, 4)
    laws.assert_same(built.generate(tokens, steps, temperature=0), greedy_by_hand(built, tokens, steps))
    laws.assert_same(built.generate(tokens, steps, top_k=1), greedy_by_hand(built, tokens, steps))
    longer = text(2, BLOCK + 3)
    laws.assert_same(built.generate(longer, steps, top_p=0.0), greedy_by_hand(built, longer, steps))
    first = text(2, 1)
    laws.assert_same(built.generate(first, steps, temperature=0), greedy_by_hand(built, first, steps))


def test_a_cache_is_used_while_the_text_fits():
    """With a cache, generating 4 tokens after 4 costs no more than 7 tokens at once, apart from attention to the cache.

    Source: Shazeer 2019, arXiv:1911.02150, §2.2.
    """
    built, tokens, d = model(), text(1, 4), WIDTH
    found = cost.flops(lambda: built.generate(tokens, 4, temperature=0))
    maps = 2 * 7 * (12 * LAYERS * d * d + VOCABULARY * d)
    reading = 4 * LAYERS * d * (4 * 4 + 5 + 6 + 7)
    assert found <= maps + reading, f"expected up to {maps + reading} operations, found {found}"


def test_texts_padded_on_the_left_are_continued_as_alone():
    """Texts of 3 and 5 tokens in one batch, padded on the left, are continued as each is alone, also beyond block_size.

    Convention: key_mask is True at tokens; generated tokens count as tokens.
    """
    built, first, second = model(), text(1, 5, seed=1), text(1, 3, seed=2)
    tokens = torch.cat([first, torch.cat([torch.full((1, 2), 7), second], 1)])
    mask = torch.tensor([[True] * 5, [False] * 2 + [True] * 3])
    found = built.generate(tokens, 3, temperature=0, key_mask=mask)
    laws.assert_same(found[:1], greedy_by_hand(built, first, 3))
    laws.assert_same(found[1:, 2:], greedy_by_hand(built, second, 3))
    longer = built.generate(tokens, 7, temperature=0, key_mask=mask)
    laws.assert_same(longer[:1], greedy_by_hand(built, first, 7))
    laws.assert_same(longer[1:, 2:], greedy_by_hand(built, second, 7))
    built, second = model(3, 0.75), text(1, 2, seed=11)  # generates many different tokens: 6, 3, 0, 8, 8, 7, 7, 8
    tokens = torch.cat([text(1, BLOCK, seed=4), torch.cat([torch.full((1, 6), 7), second], 1)])
    longer = built.generate(tokens, 6, temperature=0, key_mask=tokens.new_tensor([[1] * 8, [0] * 6 + [1] * 2]).bool())
    laws.assert_same(longer[1:, 6:], greedy_by_hand(built, second, 6))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_generators_seed_is_the_text(seed):
    """The same seed generates the same text after the prompt and leaves the global generator unchanged.

    Source: the contract of torch.Generator.
    """
    built, tokens = model(), text(3, 2)
    before = torch.get_rng_state()
    first, second = (built.generate(tokens, 6, generator=torch.Generator().manual_seed(seed)) for _ in range(2))
    laws.assert_same(second, first)
    laws.assert_same(first[:, :2], tokens)
    assert torch.equal(torch.get_rng_state(), before), "expected the global generator untouched"
    assert first.shape == (3, 8) and first.dtype == tokens.dtype, f"found {tuple(first.shape)} of {first.dtype}"


def test_tokens_may_be_of_32_bits():
    """int32 tokens have the logits and the loss of the same int64 tokens, and are continued in int32.

    Convention: what is generated has the dtype of what it continues.
    """
    built, tokens = model(), text(2, 5)
    laws.assert_close(built(tokens.int()), built(tokens))
    laws.assert_close(built.loss(tokens.int()), built.loss(tokens))
    laws.assert_same(built.generate(tokens.int(), 6, 0), built.generate(tokens, 6, 0).int())


def test_an_empty_batch_generates_an_empty_batch():
    """An empty batch of 3-token prompts, continued by 4 tokens, has shape (0, 7).

    Convention: an empty batch is a batch.
    """
    found = model().generate(text(0, 3), 4)
    assert found.shape == (0, 7), f"expected no texts of 7 tokens, found {tuple(found.shape)}"


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5}, {"top_k": 4}, {"top_p": 0.7}])
def test_tokens_are_sampled_by_their_probabilities(options):
    """Over 5,000 texts the next token has the frequencies of its probabilities: χ² is below the 10⁻⁶ point, and no
    token of probability 0 occurs.

    A right sampler would fail for one seed in a million.

    Source: Holtzman et al. 2019, §3.
    """
    built, tokens = model(), text(1, 3)
    z = built(tokens)[0, -1].detach() / options.get("temperature", 1.0)
    probabilities = z.softmax(-1)
    if "top_k" in options:
        probabilities = probabilities * (z >= z.sort().values[-4])
    if "top_p" in options:
        order = probabilities.argsort(descending=True)
        count = int((probabilities[order].cumsum(0) < 0.7).sum()) + 1
        probabilities = torch.zeros_like(probabilities).scatter(0, order[:count], probabilities[order[:count]])
    probabilities = probabilities / probabilities.sum()
    sampled = built.generate(tokens.expand(5000, 3), 1, generator=torch.Generator().manual_seed(0), **options)[:, -1]
    counts, expected = torch.bincount(sampled, minlength=VOCABULARY).double(), 5000 * probabilities
    assert not counts[probabilities == 0].any(), "expected tokens of probability 0 never to be sampled"
    likely = expected > 5
    chi2 = ((counts - expected)[likely].square() / expected[likely]).sum().item()
    assert chi2 < 46.9, f"expected χ² of at most 10 degrees of freedom below 46.9, found {chi2:.1f}"


def test_a_text_ends_at_its_stop_token():
    """After its stop_token a text repeats it, other texts continue, and generation stops when all have ended.

    Convention: rows that ended are padded with stop_token; x-transformers 496e41d left what was sampled there.
    """
    tokens, changed, early = text(12, 3), 0, 0
    for seed in range(8):  # at one in four all texts are alike, whichever way the weights are laid out
        built = model(seed, 0.75)
        free = built.generate(tokens, 5, temperature=0)
        for stop in free[:, 3:].unique().tolist():
            expected, ends = free.clone(), torch.full((12,), 5)
            for n, row in enumerate(free[:, 3:] == stop):
                if row.any():
                    ends[n] = int(row.nonzero()[0]) + 1
                    expected[n, 3 + int(ends[n]) :] = stop
            found = built.generate(tokens, 5, temperature=0, stop_token=stop)
            laws.assert_same(found, expected[:, : 3 + int(ends.max())])
            changed += not torch.equal(expected, free)
            early += int(ends.min()) < int(ends.max())
    assert changed and early, f"expected texts of several lengths, found {changed} and {early}"
    found = built.generate(tokens[:1], 5, temperature=0, stop_token=int(built(tokens[:1])[0, -1].argmax()))
    assert found.shape == (1, 4), f"expected one token and the end, found {tuple(found.shape)}"
    prompt_has_it = int(tokens[0, 0])
    assert built.generate(tokens[:1], 1, stop_token=prompt_has_it).shape == (1, 4), (
        "expected the prompt not to end itself"
    )


def test_generating_keeps_the_mode_and_needs_no_graph():
    """generate keeps the mode of training or evaluation, and its result has no graph.

    Convention: the caller chooses the mode, as with any module.
    """
    for mode in (True, False):
        built = model().train(mode)
        found = built.generate(text(1, 3), 2)
        assert built.training is mode and not found.requires_grad, f"expected mode {mode} to stay"


# ---------------------------------------------------------------------------------------------------- training


class _Recorder(torch.optim.SGD):
    """Records the learning rate and the norm of the gradient at each step."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.seen = []

    def step(self):
        gradients = [p.grad for g in self.param_groups for p in g["params"]]
        self.seen.append((self.param_groups[0]["lr"], torch.stack([g.norm() for g in gradients]).norm().item()))
        super().step()


def test_training_follows_the_schedule():
    """The rate grows linearly to its peak, positive from the first step, then falls by a cosine to a tenth.

    Source: Brown et al. 2020, arXiv:2005.14165, appendix B; Loshchilov & Hutter 2016, arXiv:1608.03983, eq. 5.
    Convention: step 1 of w warm-up steps has 1/w of the peak; nanoGPT dc81cb3 began with 0.
    """
    built = model()
    optimizer = _Recorder(built.parameters(), lr=0.5)
    train(
        built, text(40), optimizer, 12, batch_size=2, warmup=4, report=None, generator=torch.Generator().manual_seed(0)
    )
    wave = [0.1 + 0.9 * (1 + math.cos(math.pi * n / 8)) / 2 for n in range(8)]
    expected = torch.tensor([0.25, 0.5, 0.75, 1.0, *wave], dtype=torch.float64) * 0.5
    laws.assert_close(torch.tensor([lr for lr, _ in optimizer.seen], dtype=torch.float64), expected)
    assert optimizer.param_groups[0]["lr"] == 0.5, "expected the peak back at the end"


def test_every_group_has_a_peak_of_its_own():
    """Groups of different learning rates each follow their own peak, which is restored at the end.

    Source: the contract of torch.optim's parameter groups; Brown et al. 2020, appendix B, for the schedule.
    """
    built = model()
    groups = [group | {"lr": lr} for group, lr in zip(decay_groups(built, 0.1), (0.5, 0.02))]
    optimizer, seen = torch.optim.SGD(groups), []
    optimizer.register_step_pre_hook(lambda optimizer, *_: seen.append([g["lr"] for g in optimizer.param_groups]))
    train(built, text(40), optimizer, 5, batch_size=2, warmup=2, report=None)
    share = torch.tensor([0.5, 1.0, 1.0, 0.775, 0.325], dtype=torch.float64)[:, None]
    laws.assert_close(torch.tensor(seen, dtype=torch.float64), share * torch.tensor([0.5, 0.02], dtype=torch.float64))
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.02], "expected both peaks back at the end"


def test_frozen_parameters_stay_frozen():
    """A parameter without a gradient is unchanged; the others learn.

    Source: Pascanu, Mikolov & Bengio 2012: the norm is over the gradients that there are.
    """
    built = model()
    built.wpe.weight.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in built.named_parameters()}
    train(built, text(40), torch.optim.SGD(built.parameters(), lr=0.1), 2, batch_size=2, report=None)
    for name, p in built.named_parameters():
        assert torch.equal(p, before[name]) is (name == "wpe.weight"), (
            f"{name}: expected the table of positions alone to stay"
        )


@pytest.mark.parametrize("clip", [0.05, 1e6])
def test_gradients_are_clipped_together(clip):
    """All gradients are scaled by one factor to a norm of at most `clip`; shorter ones are unchanged.

    Source: Pascanu, Mikolov & Bengio 2012, arXiv:1211.5063, algorithm 1.
    """
    built, other = model(), model()
    tokens = text(BLOCK + 1)  # a single window, which every sample is
    losses = train(
        built, tokens, _Recorder(built.parameters(), lr=0.1), 1, batch_size=5, warmup=0, clip=clip, report=None
    )
    loss = other.loss(tokens.expand(5, -1))
    laws.assert_close(torch.tensor(losses, dtype=torch.float64), loss.detach()[None])
    grads = torch.autograd.grad(loss, list(other.parameters()))
    norm = torch.stack([g.norm() for g in grads]).norm()
    assert norm > 0.05, "expected a gradient to clip"
    for parameter, old, grad in zip(built.parameters(), other.parameters(), grads):
        expected = (old - 0.1 * grad * min(1, clip / norm)).detach()
        laws.assert_close(parameter.detach(), expected, rtol=1e-6, atol=1e-8, because="torch adds 1e-6 to the norm")


def test_training_reports_its_loss():
    """train reports step and mean loss every `every` steps and at the last, and returns the loss of every step.

    Convention: report=print by default, None for silence.
    """
    built, lines = model(), []
    losses = train(
        built, text(40), torch.optim.SGD(built.parameters(), lr=0.1), 5, 2, length=4, report=lines.append, every=2
    )
    assert len(losses) == 5 and built.training, "expected a loss a step, and training mode"
    expected = [f"step {n} of 5: loss {sum(losses[max(0, n - 2) : n]) / 2:.3f}" for n in (2, 4, 5)]
    assert lines == expected, f"expected {expected}, found {lines}"


def test_windows_of_a_text_are_all_sampled():
    """A text as long as one window trains on it; of a text of one token more, both windows are sampled.

    Convention: windows of block_size + 1 tokens start anywhere, the last as well as the first; 32 of them a step.
    """
    for n, expected in ((5, {(0, 1, 2, 3, 4)}), (6, {(0, 1, 2, 3, 4), (1, 2, 3, 4, 5)})):
        seen = LossOfSlope()
        train(
            seen,
            torch.arange(n),
            torch.optim.SGD(seen.parameters(), lr=0.1),
            3,
            generator=torch.Generator(),
            report=None,
        )
        assert {tuple(t) for t in seen.texts} == expected, f"expected {expected}, found {set(map(tuple, seen.texts))}"
        assert len(seen.texts) == 3 * 32, f"expected batches of 32, found {len(seen.texts) / 3}"


def test_training_has_its_defaults(capsys):
    """By default train warms up for 20 steps, clips gradients to a norm of 1 and prints a line every 100 steps.

    Source: Brown et al. 2020, arXiv:2005.14165, appendix B, for the norm of 1.
    Convention: 20 steps of warm-up suit runs of a few hundred steps.
    """
    linear = LossOfSlope()
    optimizer = _Recorder(linear.parameters(), lr=0.5)
    train(linear, torch.arange(9), optimizer, 101, batch_size=1)
    rates = torch.tensor([rate for rate, _ in optimizer.seen[:21]], dtype=torch.float64)
    laws.assert_close(rates, torch.tensor([*(0.5 * (n + 1) / 20 for n in range(20)), 0.5], dtype=torch.float64))
    norms = torch.tensor([norm for _, norm in optimizer.seen], dtype=torch.float64)
    laws.assert_close(norms, torch.ones(101, dtype=torch.float64), rtol=1e-6, because="torch adds 1e-6 to the norm")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["step 100 of 101", "step 101 of 101"], f"found {lines}"


def test_matrices_decay_and_vectors_do_not():
    """decay_groups puts every parameter in one of two groups: tables and matrices decay, biases and norms do not.

    Source: Loshchilov & Hutter 2017, arXiv:1711.05101.  Convention: by dimensions; by name minGPT forgot some (#16).
    """
    built = model()
    built.wpe.weight.requires_grad_(False)
    decayed, others = decay_groups(built, 0.3)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    names = {id(p): n for n, p in built.named_parameters()}
    expected = {
        n
        for n, p in built.named_parameters()
        if n != "wpe.weight" and ("linear" in n or "proj" in n or "wte" in n) and "bias" not in n
    }
    assert {names[id(p)] for p in decayed["params"]} == expected, f"found {[names[id(p)] for p in decayed['params']]}"
    assert len(decayed["params"]) + len(others["params"]) == len(names) - 1, "expected every parameter once"
    temperature = torch.nn.Parameter(torch.ones(()))
    built.register_parameter("temperature", temperature)
    _, others = decay_groups(built, 0.3)
    assert any(p is temperature for p in others["params"]), "expected a number among those without decay"
