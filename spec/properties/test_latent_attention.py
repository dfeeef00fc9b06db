"""Multi-head latent attention.  DeepSeek-AI 2024 (DeepSeek-V2), arXiv:2405.04434, §2.1 and appendix C."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from impl.layers.latent_attention import LatentCache, MultiHeadLatentAttention
from spec import cost, laws
from spec.strategies import seeds

pytestmark = pytest.mark.item("latent-attention")

# Every size another; the query's latent is 8, or there is none.
SIZES = {"embed_dim": 11, "num_heads": 3, "kv_lora_rank": 7, "qk_nope_head_dim": 5, "qk_rope_head_dim": 4}
SIZES |= {"v_head_dim": 2}
DEEPSEEK_V2 = {"embed_dim": 5120, "num_heads": 128, "kv_lora_rank": 512, "qk_nope_head_dim": 128}
DEEPSEEK_V2 |= {"qk_rope_head_dim": 64, "v_head_dim": 128, "q_lora_rank": 1536}


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ready(seed=0, **options):
    """float64, every parameter random and of a size at which no head is saturated."""
    module = laws.randomise(MultiHeadLatentAttention(**(SIZES | options)).double(), seed)
    for parameter in module.parameters():
        parameter.data.mul_(0.6)
    return module


def rms_norm(x, weight, eps):
    return x / torch.sqrt((x * x).sum(-1, keepdim=True) / x.shape[-1] + eps) * weight


def rope(x, theta):
    """RoPE of (t, d) by complex numbers: pair i of the token at position p times e^{j p θ^(−2i/d)}."""
    t, d = x.shape
    rates = torch.tensor([theta ** (-2 * i / d) for i in range(d // 2)], dtype=x.dtype)
    angles = torch.outer(torch.arange(t, dtype=x.dtype), rates)
    turned = torch.complex(x[:, 0::2], x[:, 1::2]) * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(turned).flatten(1)


def by_hand(module, x, theta=10000.0, eps=1e-6, present=None):
    """Appendix C, one sample and one head at a time, from the weights under their names."""
    w, outputs = dict(module.named_parameters()), []
    heads, rank, d_h, d_r, d_v = (SIZES[n] for n in list(SIZES)[1:])
    for b, h in enumerate(x):
        joint = h @ w["kv_a_proj_with_mqa.weight"].T
        latent = rms_norm(joint[:, :rank], w["kv_a_layernorm.weight"], eps)
        rope_key = rope(joint[:, rank:], theta)
        if "q_proj.weight" in w:
            query = h @ w["q_proj.weight"].T
        else:
            query = rms_norm(h @ w["q_a_proj.weight"].T, w["q_a_layernorm.weight"], eps) @ w["q_b_proj.weight"].T
        allowed = torch.ones(len(h), len(h), dtype=torch.bool).tril()
        if present is not None:
            allowed = allowed & present[b]
        read = []
        for i in range(heads):
            q = query[:, i * (d_h + d_r) : (i + 1) * (d_h + d_r)]
            up = w["kv_b_proj.weight"][i * (d_h + d_v) : (i + 1) * (d_h + d_v)]
            key, value = latent @ up[:d_h].T, latent @ up[d_h:].T
            scores = (q[:, :d_h] @ key.T + rope(q[:, d_h:], theta) @ rope_key.T) / (d_h + d_r) ** 0.5
            grown = torch.where(allowed, scores.exp(), 0.0)
            read.append(grown / grown.sum(-1, keepdim=True).clamp(min=1e-300) @ value)
        outputs.append(torch.cat(read, -1) @ w["o_proj.weight"].T)
    return torch.stack(outputs)


class _As(nn.Module):
    """A formula as a module with another's parameters, for `laws.gradients_match`."""

    def __init__(self, owner, formula):
        super().__init__()
        self.owner, self.formula = owner, formula

    def forward(self, *inputs):
        return self.formula(*inputs)


# ---------------------------------------------------------------------------------------------- the equations


@pytest.mark.parametrize("absorbed", [False, True])
@pytest.mark.parametrize("q_lora_rank", [None, 8])
@pytest.mark.parametrize("options", [{}, {"rope_theta": 20.0, "eps": 0.5}])
def test_the_layer_is_appendix_c(q_lora_rank, options, absorbed):
    """u = W^O Σ_j softmax([q^C; q^R]·[k^C; k^R]/√(d_h + d^R)) v^C, with its gradients to tokens and all weights.

    Source: DeepSeek-AI 2024, §2.1 and appendix C.
    Convention: RMSNorm on c^Q and c^KV as in DeepSeek's code (§3.1.2: norms after the latents), eps 1e-6, θ = 10000,
    pairs (2i, 2i + 1) are rotated.
    """
    module = ready(q_lora_rank=q_lora_rank, **options)
    theta, eps = options.get("rope_theta", 10000.0), options.get("eps", 1e-6)
    laws.gradients_match(
        _As(module, lambda x: module(x, absorbed=absorbed)),
        _As(module, lambda x: by_hand(module, x, theta, eps)),
        normal(2, 6, 11),
    )


def test_defaults_are_deepseeks():
    """eps is 1e-6 and θ = 10000 by default: latents as small as 1e-3 and positions as late as 40 tell.

    Source: DeepSeek-V2's configuration, rms_norm_eps and rope_theta.
    """
    module, x = ready(q_lora_rank=8), normal(1, 41, 11) * 1e-3
    laws.assert_close(module(x), by_hand(module, x))
    laws.assert_differs(module(x), by_hand(module, x, eps=1e-5), by=1e-3)
    laws.assert_differs(module(x), by_hand(module, x, theta=10100.0), by=1e-8)


@given(seed=seeds(), t=st.integers(1, 7), past=st.integers(0, 4), q_lora_rank=st.sampled_from([None, 8]))
def test_absorbing_the_up_projections_changes_nothing(seed, t, past, q_lora_rank):
    """q^C·k^C = (W^UKᵀ q^C)·c^KV and Σ p v^C = W^UV Σ p c^KV: no keys or values of heads are needed.

    Source: DeepSeek-AI 2024, §2.1.2: W^UK is absorbed into W^UQ, W^UV into W^O.
    """
    module, x = ready(seed, q_lora_rank=q_lora_rank), normal(2, past + t, 11, seed=seed)
    wanted = by_hand(module, x)[:, past:]
    for absorbed in (False, True):
        cache = LatentCache()
        module(x[:, :past], cache=cache)
        laws.assert_close(module(x[:, past:], cache=cache, absorbed=absorbed), wanted, what=f"absorbed={absorbed}")


def test_second_derivatives_are_right():
    """Gradient and gradient of the gradient equal central differences in both forms.

    Source: the definition of the derivative.
    """
    sizes = {"embed_dim": 3, "num_heads": 1, "kv_lora_rank": 2, "qk_nope_head_dim": 1, "v_head_dim": 1}
    module = ready(**sizes, qk_rope_head_dim=2)
    for absorbed in (False, True):
        call = lambda x, a=absorbed: module(x, absorbed=a)  # noqa: E731
        laws.gradient_correct(call, normal(1, 3, 3), second_order=True)


# ---------------------------------------------------------------------------------------------- the cache


@given(
    seed=seeds(),
    cuts=st.lists(st.integers(1, 8), max_size=4).map(lambda c: sorted({0, *c, 9})),
    absorbed=st.booleans(),
    q_lora_rank=st.sampled_from([None, 8]),
)
def test_a_cache_changes_nothing_but_the_cost(seed, cuts, absorbed, q_lora_rank):
    """Fed in chunks of any sizes with a cache, in either form, tokens come out as from one call.

    Source: DeepSeek-AI 2024, §2.1.2: during generation only c^KV, and with RoPE k^R, have to be kept.
    """
    module, x, cache = ready(seed, q_lora_rank=q_lora_rank), normal(2, 9, 11, seed=seed), LatentCache()
    found = [module(x[:, a:b], cache=cache, absorbed=absorbed) for a, b in zip(cuts, cuts[1:])]
    laws.assert_close(torch.cat(found, 1), by_hand(module, x))
    assert len(cache) == 9, f"expected 9 tokens in the cache, found {len(cache)}"


@pytest.mark.parametrize("absorbed", [False, True])
def test_gradients_flow_through_a_cache(absorbed):
    """Tokens in two chunks have the gradients of one call, those of the first also through c^KV and k^R in the cache.

    Source: DeepSeek-AI 2024, §2.1.2: the cache spares work and changes no value.
    """
    module = ready(q_lora_rank=8)

    def in_chunks(x):
        cache = LatentCache()
        return torch.cat([module(part, cache=cache, absorbed=absorbed) for part in x.split([4, 2], dim=1)], 1)

    laws.gradients_match(in_chunks, lambda x: module(x), normal(2, 6, 11))


def test_the_cache_holds_the_latent_and_one_rotated_key():
    """After n tokens the cache is c^KV, normalised, and k^R, rotated: n·(d_c + d^R) elements a sample, none of a head.

    Source: DeepSeek-AI 2024, appendix C, the boxed vectors c^KV and k^R.
    """
    module, x, cache = ready(q_lora_rank=8), normal(2, 6, 11), LatentCache()
    assert len(cache) == 0 and cache.latent is None and cache.rope_key is None
    for chunk in x.split([2, 1, 3], 1):
        module(chunk, cache=cache)
    held = [t for t in vars(cache).values() if isinstance(t, torch.Tensor)]
    assert sum(t.numel() for t in held) == 2 * 6 * (7 + 4), f"found shapes {[tuple(t.shape) for t in held]}"
    joint = x @ module.kv_a_proj_with_mqa.weight.T
    laws.assert_close(cache.latent, rms_norm(joint[..., :7], module.kv_a_layernorm.weight, 1e-6), what="latent")
    laws.assert_close(cache.rope_key, torch.stack([rope(k, 10000.0) for k in joint[..., 7:]]), what="rope_key")


def test_deepseek_v2_caches_34560_elements_a_token():
    """60 layers of DeepSeek-V2 cache 60·(512 + 64) = 34,560 elements a token, full heads 56.9 times as many.

    Source: DeepSeek-AI 2024, table 1 and §3.1.2; counted from the cache of a full-size layer on the meta device.
    """
    with torch.device("meta"):
        module, cache = MultiHeadLatentAttention(**DEEPSEEK_V2), LatentCache()
        module(torch.randn(1, 3, 5120), cache=cache)
    numbers = 60 * sum(t.numel() for t in vars(cache).values() if isinstance(t, torch.Tensor)) / 3
    assert numbers == 34_560 == 4.5 * 128 * 60, f"found {numbers:,}"
    assert round(2 * 128 * 128 * 60 / numbers, 1) == 56.9


def test_padding_on_the_left_works_with_a_cache():
    """`key_mask` over all s tokens, padding on the left, gives every sample what it would get alone, chunk by chunk.

    Source: Su et al. 2021, arXiv:2104.09864, §3.2: q^R·k^R depends on relative positions, so padding shifts nothing.
    """
    module, x, lengths = ready(q_lora_rank=8), normal(3, 7, 11), (7, 4, 2)
    present = torch.arange(7) >= 7 - torch.tensor(lengths)[:, None]
    for absorbed in (False, True):
        cache = LatentCache()
        first = module(x[:, :4], present[:, :4], cache, absorbed)
        found = torch.cat([first, module(x[:, 4:], present, cache, absorbed)], 1)
        for sample, n in enumerate(lengths):
            alone = by_hand(module, x[sample, 7 - n :][None])[0]
            laws.assert_close(found[sample, 7 - n :], alone, what=f"sample {sample}")


@pytest.mark.states("limiting case")
def test_padding_alone_gives_zero():
    """A token that may attend to nothing gets 0, no NaN, and no gradient flows through its row.

    Source: an empty sum.  Convention: 0, as in this project's dense attention.
    """
    module, x = ready(), normal(2, 4, 11).requires_grad_()
    present = torch.tensor([[False, False, True, True], [True, False, True, False]])
    output = module(x, present)
    laws.assert_same(output[0, :2], torch.zeros_like(output[0, :2]))
    wanted = by_hand(module, x, present=present)
    laws.assert_close(output, wanted)
    found, expected = (torch.autograd.grad(o, x, normal(2, 4, 11, seed=2))[0] for o in (output, wanted))
    laws.assert_close(found, expected)


# ---------------------------------------------------------------------------------------------- positions


def test_an_output_sees_tokens_up_to_its_own():
    """Output t depends on tokens 0 … t, on each of them, and on no later one.

    Source: DeepSeek-AI 2024, appendix C: the sum runs over j <= t.
    """
    module = ready(q_lora_rank=8)
    for absorbed in (False, True):
        laws.causal(lambda x, a=absorbed: module(x, absorbed=a), normal(2, 5, 11))


@pytest.mark.states("limiting case")
@pytest.mark.parametrize("absorbed", [False, True])
def test_the_first_token_attends_to_itself_alone(absorbed):
    """u_0 = W^O [W^UV_i c^KV_0], whatever queries and keys are: a token may attend to itself.

    Source: DeepSeek-AI 2024, appendix C for t = 1.
    """
    module, x = ready(q_lora_rank=8), normal(2, 3, 11)
    latent = rms_norm(x[:, 0] @ module.kv_a_proj_with_mqa.weight[:7].T, module.kv_a_layernorm.weight, 1e-6)
    value = (latent @ module.kv_b_proj.weight.T).reshape(2, 3, 7)[:, :, 5:]
    laws.assert_close(module(x, absorbed=absorbed)[:, 0], value.flatten(1) @ module.o_proj.weight.T)


@pytest.mark.states("symmetry")
@given(seed=seeds(), shift=st.integers(1, 50))
def test_positions_are_relative(seed, shift):
    """After any number of hidden tokens the output is the same: scores depend on t − j alone.

    Source: DeepSeek-AI 2024, §2.1.3; Su et al. 2021, arXiv:2104.09864, eq. 16.
    """
    module, x = ready(seed), normal(2, 5, 11, seed=seed)
    after = torch.cat([normal(2, shift, 11, seed=1), x], 1)
    present = (torch.arange(shift + 5) >= shift).expand(2, -1)
    laws.assert_close(module(after, present)[:, shift:], by_hand(module, x))


@given(seed=seeds())
def test_only_the_rotated_key_depends_on_the_order(seed):
    """With W^KR = 0 the past is a set: the last output is the same for every order of it; with W^KR it is not.

    Source: DeepSeek-AI 2024, §2.1.3: k^R carries RoPE, k^C does not, or W^UK could not be absorbed.
    """
    module, x = ready(seed), normal(2, 6, 11, seed=seed)
    mixed = x[:, [3, 0, 4, 2, 1, 5]]
    laws.assert_differs(module(mixed)[:, -1], module(x)[:, -1], by=1e-6)
    module.kv_a_proj_with_mqa.weight.data[7:] = 0
    laws.assert_close(module(mixed)[:, -1], module(x)[:, -1])


# ---------------------------------------------------------------------------------------------- heads and latents


@pytest.mark.states("symmetry")
@given(seed=seeds(), order=st.permutations(range(3)))
def test_heads_may_be_permuted_and_share_one_rotated_key(seed, order):
    """Permuting the heads' blocks of W^UQ, W^QR, W^UK, W^UV and W^O changes nothing: k^R belongs to no head.

    Source: DeepSeek-AI 2024, appendix C: k^R has no head's index.  Rotated along the heads instead of the tokens, as in
    tensorgi/TPA #4, they could not be permuted.
    """
    module, x, order = ready(seed), normal(2, 5, 11, seed=seed), list(order)
    before = by_hand(module, x)
    for layer, dim in ((module.q_proj, 0), (module.kv_b_proj, 0), (module.o_proj, 1)):
        blocks = layer.weight.data.unflatten(dim, (3, -1))
        layer.weight.data = blocks.index_select(dim, torch.tensor(order)).flatten(dim, dim + 1)
    laws.assert_close(module(x), before)
    laws.assert_close(module(x, absorbed=True), before, what="absorbed")


def test_later_tokens_depend_on_an_earlier_one_by_its_latent_alone():
    """∂(later outputs)/∂h_0 has rank d_c + d^R at most, 6 of a width of 11: nothing else of a token is kept.

    Source: DeepSeek-AI 2024, §2.1.2: joint low-rank compression of keys and values.
    """
    module, x = ready(kv_lora_rank=4, qk_rope_head_dim=2), normal(1, 5, 11)
    for absorbed in (False, True):
        call = lambda h, a=absorbed: module(torch.cat([h, x[:, 1:]], 1), absorbed=a)[:, 1:]  # noqa: E731
        values = torch.linalg.svdvals(laws.jacobian(call, x[:, :1]).reshape(44, 11))
        assert values[6] < 1e-12 and values[4] > 1e-6, f"expected rank 5 or 6, found singular values {values.tolist()}"


def test_latents_are_normalised_and_the_rotated_key_is_not():
    """With eps = 0 the sizes of W^DKV and W^DQ mean nothing, that of W^KR does.

    Source: DeepSeek-AI 2024, §3.1.2: additional RMSNorm layers after the compressed latent vectors.
    """
    module, x = ready(q_lora_rank=8, eps=0.0), normal(2, 5, 11)
    before = module(x)
    module.kv_a_proj_with_mqa.weight.data[:7] *= 3
    module.q_a_proj.weight.data *= 0.2
    laws.assert_close(module(x), before)
    module.kv_a_proj_with_mqa.weight.data[7:] *= 3
    laws.assert_differs(module(x), before, by=1e-3)


def test_large_scores_of_half_precision_keep_their_order():
    """In bfloat16 the softmax is float32, whose weights of many equal keys still sum to 1 within rounding.

    Source: DeepSeek-V2's code takes the softmax in float32; 300 weights added up in 8 bits would not sum to 1.
    """
    module = ready(q_lora_rank=8)
    x = normal(1, 1, 11).expand(1, 300, 11)
    exact = by_hand(module, x[:, :1])[0, 0]
    found = module.bfloat16()(x.bfloat16())[0, -1].double()
    tolerance = 0.03 * exact.abs().max().item()
    laws.assert_close(found, exact, rtol=0, atol=tolerance, because="weights and tokens are rounded to 8 bits")


def test_late_positions_are_told_apart_in_half_precision():
    """In bfloat16 the angles are float32: positions 290 to 299, which 8 bits round to even numbers, are all different.

    Source: DeepSeek-V2's code makes cos and sin in float32; bfloat16 knows whole numbers up to 256.
    """
    module, cache = ready(), LatentCache()
    x = normal(1, 1, 11).expand(1, 300, 11)
    exact = rope((x[0] @ module.kv_a_proj_with_mqa.weight.T)[:, 7:], 10000.0)[290:]
    module.bfloat16()(x.bfloat16(), cache=cache)
    tolerance = 0.03 * exact.abs().max().item()
    found = cache.rope_key[0, 290:].double()
    laws.assert_close(found, exact, rtol=0, atol=tolerance, because="weights and tokens are rounded to 8 bits")


# ---------------------------------------------------------------------------------------------- cost


@pytest.mark.parametrize("absorbed", [False, True])
def test_decoding_costs_less_with_absorbed_projections(absorbed):
    """A token after n costs, of n, at most 2n·n_h(2d_c + d^R) absorbed, else 2n·n_h(d_c(d_h + d_v) + d_h + d^R + d_v).

    Source: DeepSeek-AI 2024, §2.1.2; for DeepSeek-V2's sizes 0.279 n million in place of 33.6 n million a layer.
    """

    def operations(n):
        module, cache = ready(), LatentCache()
        module(normal(1, n, 11), cache=cache)
        return cost.flops(lambda x: module(x, cache=cache, absorbed=absorbed), normal(1, 1, 11))

    if absorbed:
        wanted = 2 * 20 * 3 * (2 * 7 + 4)
    else:
        # Keys and values of the new token are made in either form of the difference, so they cancel.
        wanted = 2 * 20 * 7 * 3 * (5 + 2) + 2 * 20 * 3 * (5 + 4 + 2)
    found = operations(30) - operations(10)
    assert found <= wanted, f"expected 20 more tokens to cost up to {wanted:,}, found {found:,}"


def test_absorbed_decoding_makes_no_copy_of_the_latents_for_each_head():
    """With n tokens cached, an absorbed step takes less memory than one head's copies of keys for all heads: 3·n·d_c.

    Source: DeepSeek-AI 2024, §2.1.2: keys and values are not computed out.
    """
    sizes = {"num_heads": 16, "kv_lora_rank": 32, "qk_nope_head_dim": 24, "v_head_dim": 24}
    module, cache = ready(**sizes), LatentCache()
    module(normal(1, 500, 11), cache=cache)
    peak = cost.peak_bytes(lambda x: module(x, cache=cache, absorbed=True), normal(1, 1, 11))
    assert peak < 8 * 500 * 16 * 32 / 2, f"expected less than half of {8 * 500 * 16 * 32:,} bytes, found {peak:,}"


@pytest.mark.parametrize("q_lora_rank", [None, 8])
def test_norms_start_at_one_and_projections_at_random(q_lora_rank):
    """There is no bias, the weights of the norms start at 1, and those of the projections differ from one another.

    Source: DeepSeek-AI 2024, appendix C; the initialisation of torch.nn's layers.
    """
    for name, weight in MultiHeadLatentAttention(**SIZES, q_lora_rank=q_lora_rank).named_parameters():
        if "norm" in name:
            laws.assert_same(weight.detach(), torch.ones(len(weight)), what=name)
        else:
            assert weight.dim() == 2 and 0 < weight.std() < 1, f"{name} starts at {weight}"
