"""Golden values of positions: the formulas with 40 digits, transformers' and onnx's rotary embeddings."""

import numpy as np

from spec.golden import Recipe, recipe

PLACES = np.array([0, 1, 3, 50, 1023, 100_000])


def _normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def _exact(function, place, i, d, base=10000):
    """function(place · base^(−2i/d)) with 40 digits."""
    import mpmath

    with mpmath.workdps(40):
        return float(function(int(place) * mpmath.mpf(base) ** (-mpmath.mpf(2 * i) / d)))


@recipe(
    "positional-embedding",
    oracle="sines and cosines by mpmath with 40 digits",
    second="powers of one complex number a pair, exp(i ω)^p, in NumPy with 64 bits after the point",
    needs=("mpmath", "numpy"),
)
def positional_embedding(recipe: Recipe) -> None:
    import mpmath

    recipe.given("places", PLACES)
    for d in (4, 10):
        table = np.empty((len(PLACES), d))
        turned = np.empty((len(PLACES), d))
        for row, place in enumerate(PLACES):
            for i in range(d // 2):
                table[row, 2 * i] = _exact(mpmath.sin, place, i, d)
                table[row, 2 * i + 1] = _exact(mpmath.cos, place, i, d)
                power = np.exp(1j * np.longdouble(10000.0) ** (np.longdouble(-2 * i) / d), dtype=np.clongdouble) ** int(
                    place
                )
                turned[row, 2 * i : 2 * i + 2] = power.imag, power.real
        recipe.expect(f"encoding_{d}", table, second=turned)


def _onnx(x, cos, sin, interleaved, rotary_dim):
    """onnx's operator RotaryEmbedding, of opset 23, by its reference evaluator, of (b, heads, tokens, width)."""
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    arrays = {"x": x, "cos": cos, "sin": sin}
    node = helper.make_node(
        "RotaryEmbedding", list(arrays), ["y"], interleaved=interleaved, rotary_embedding_dim=rotary_dim
    )
    inputs = [helper.make_tensor_value_info(n, TensorProto.DOUBLE, list(a.shape)) for n, a in arrays.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.DOUBLE, [None] * 4)]
    graph = helper.make_graph([node], "rotary", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
    return ReferenceEvaluator(model).run(None, arrays)[0]


@recipe(
    "rope",
    oracle="transformers' apply_rotary_pos_emb (LLaMA: halves, Cohere: interleaved) and ROPE_INIT_FUNCTIONS, "
    "of angles by mpmath with 40 digits",
    second="onnx.reference RotaryEmbedding (opset 23); complex numbers in NumPy; frequencies by mpmath",
    needs=("transformers", "onnx", "mpmath", "torch"),
)
def rope(recipe: Recipe) -> None:
    import mpmath
    import torch
    from transformers.models.cohere.modeling_cohere import apply_rotary_pos_emb as interleaved
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as halves

    b, heads, d = 2, 3, 8
    recipe.given("places", PLACES)
    x = recipe.given("x", _normal(1, b, heads, len(PLACES), d))
    cotangent = recipe.given("cotangent", _normal(2, *x.shape))
    cos, sin = (
        np.array([[_exact(f, place, i, d) for i in range(d // 2)] for place in PLACES])
        for f in (mpmath.cos, mpmath.sin)
    )
    for name, theirs, lay_out in (("halves", halves, np.tile), ("interleaved", interleaved, None)):
        wide = [np.concatenate([t, t], -1) if lay_out else np.repeat(t, 2, -1) for t in (cos, sin)]
        leaf = torch.from_numpy(x).requires_grad_()
        turned, _ = theirs(leaf, leaf, *(torch.from_numpy(t)[None].expand(b, -1, -1) for t in wide))
        (grad,) = torch.autograd.grad(turned, leaf, torch.from_numpy(cotangent))
        tables = [np.broadcast_to(t, (b, *t.shape)).copy() for t in (cos, sin)]
        recipe.expect(f"y_{name}", turned, second=_onnx(x, *tables, int(name == "interleaved"), d))
        recipe.expect(
            f"d_x_{name}", grad, second=_onnx(cotangent, tables[0], -tables[1], int(name == "interleaved"), d)
        )
    part = [np.broadcast_to(t[:, ::2], (b, len(PLACES), 2)).copy() for t in (cos, sin)]  # of width 4: every other angle
    both = np.concatenate([x[..., :4], np.zeros_like(x[..., 4:])], -1)
    numbers = (both[..., 0:4:2] + 1j * both[..., 1:4:2]) * (part[0] + 1j * part[1])[:, None]
    by_hand = np.concatenate([np.stack([numbers.real, numbers.imag], -1).reshape(*x.shape[:-1], 4), x[..., 4:]], -1)
    recipe.expect("y_partial", _onnx(x, *part, 1, 4), second=by_hand)
    _small_and_decay(recipe)
    _frequencies(recipe)


def _small_and_decay(recipe):
    """x = (1, 1, 1, 1) at position 1, and the mean of |S_i| that bounds scores at a distance (§3.4.3)."""
    import mpmath

    one = [mpmath.expj(mpmath.mpf(1) * mpmath.mpf(10000) ** (-mpmath.mpf(2 * i) / 4)) * (1 + 1j) for i in range(2)]
    by_numpy = np.exp(1j * 10000.0 ** (-2 * np.arange(2) / 4)) * (1 + 1j)
    recipe.expect(
        "ones",
        np.array([float(part) for z in one for part in (z.real, z.imag)]),
        second=np.stack([by_numpy.real, by_numpy.imag], -1).ravel(),
    )
    distances = recipe.given("distances", np.array([0, 10, 50, 100, 256]))
    angles = distances[:, None] * 10000.0 ** (-2 * np.arange(64) / 128)
    sums = np.cumsum(np.exp(1j * angles), -1)
    exact = [
        sum(
            abs(
                mpmath.fsum(mpmath.expj(int(n) * mpmath.mpf(10000) ** (-mpmath.mpf(2 * i) / 128)) for i in range(j + 1))
            )
            for j in range(64)
        )
        / 64
        for n in distances
    ]
    recipe.expect("decay", np.abs(sums).mean(-1), second=np.array([float(e) for e in exact]))


def _frequencies(recipe):
    import mpmath
    import torch
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    d, base = 16, 500.0
    plain = [mpmath.mpf(base) ** (-mpmath.mpf(2 * i) / d) for i in range(d // 2)]

    def config(**parameters):
        return LlamaConfig(
            hidden_size=d,
            num_attention_heads=1,
            max_position_embeddings=4096,
            rope_parameters={"rope_theta": base} | parameters,
        )

    linear, _ = ROPE_INIT_FUNCTIONS["linear"](config(rope_type="linear", factor=4.0), torch.device("cpu"))
    recipe.expect("interpolated", linear.double(), second=[float(f / 4) for f in plain])
    dynamic, _ = ROPE_INIT_FUNCTIONS["dynamic"](
        config(rope_type="dynamic", factor=1.0), torch.device("cpu"), seq_len=4 * 4096
    )
    larger = base * mpmath.mpf(4) ** (mpmath.mpf(d) / (d - 2))
    recipe.expect("ntk", dynamic.double(), second=[float(larger ** (-mpmath.mpf(2 * i) / d)) for i in range(d // 2)])
    settings = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 256}
    llama3, _ = ROPE_INIT_FUNCTIONS["llama3"](config(rope_type="llama3", **settings), torch.device("cpu"))
    by_hand = []
    for f in plain:
        kept = min(max((256 * f / (2 * mpmath.pi) - 1) / 3, 0), 1)
        by_hand.append(float((1 - kept) * f / 8 + kept * f))
    recipe.expect("llama3", llama3.double(), second=by_hand)
