"""Golden values of sliding-window attention: dense attention in float64, confirmed by transformers' Longformer."""

import numpy as np

from spec.golden import Recipe, recipe

WIDTH, HEADS, WINDOW = 12, 3, 4
NAMES = ("query", "key", "value", "query_global", "key_global", "value_global")


@recipe(
    "sliding-window-attention",
    oracle="dense attention with a banded mask in float64",
    second="transformers' LongformerSelfAttention, whose softmax is float32, followed by a linear layer",
    needs=("torch", "transformers"),
)
def sliding_window_attention(recipe: Recipe) -> None:
    import torch
    from transformers import LongformerConfig
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    rng = np.random.default_rng(0)
    config = LongformerConfig(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        attention_window=[WINDOW],
        attention_probs_dropout_prob=0.0,
    )
    layer = LongformerSelfAttention(config, layer_id=0).double().eval()
    state = {}
    for name in NAMES:
        for part, shape in (("weight", (WIDTH, WIDTH)), ("bias", (WIDTH,))):
            key = f"{name}.{part}"
            state[key] = recipe.given(f"longformer.{key}", 0.5 * rng.normal(size=shape))
    layer.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    # LongformerSelfOutput applies it next.
    dense = {
        "weight": recipe.given("dense.weight", 0.5 * rng.normal(size=(WIDTH, WIDTH))),
        "bias": recipe.given("dense.bias", rng.normal(size=WIDTH)),
    }

    # Lengths are multiples of the window there: the rest is padding.
    x = recipe.given("x", rng.normal(size=(2, 12, WIDTH)))
    present = recipe.given("key_mask", np.arange(12) < np.array([[12], [10]]))
    places = {"local": np.full((2, 2), -1), "global": np.array([[0, 7], [3, -1]])}
    for tag, positions in places.items():
        recipe.given(f"positions_{tag}", positions)
        marked = np.zeros((2, 12), dtype=bool)
        for sample, row in enumerate(positions):
            marked[sample, row[row >= 0]] = True
        kept = torch.from_numpy(present)
        hidden, special = ~kept, torch.from_numpy(marked)
        leaf, counterpart = (torch.from_numpy(x).requires_grad_() for _ in range(2))
        output = layer(
            leaf,
            attention_mask=torch.zeros(2, 12, dtype=torch.float64).masked_fill(hidden, -1e4).masked_fill(special, 1e4),
            is_index_masked=hidden,
            is_index_global_attn=special,
            is_global_attn=bool(marked.any()),
        )[0]
        output = output @ torch.from_numpy(dense["weight"]).T + torch.from_numpy(dense["bias"])
        # Rows of padding are zeroed there, and mean nothing. Softmax is float32 there: dense attention is more exact.
        output, expected = output[kept], _dense(counterpart, state, dense, present, marked)[kept]
        recipe.expect(f"y_{tag}", expected, second=output)
        cotangent = torch.from_numpy(recipe.given(f"cotangent_{tag}", rng.normal(size=output.shape)))
        slopes = [torch.autograd.grad(y, t, cotangent)[0] for y, t in ((expected, counterpart), (output, leaf))]
        # Theirs is NaN in the sample with fewer global tokens than the other.
        recipe.expect(f"d_x_{tag}", slopes[0], second=slopes[1] if tag == "local" else None)


def _dense(x, state, dense, present, marked):
    """Every pair of tokens scored, one sample and head at a time; rows of global tokens by their own projections."""
    import torch

    state, dense = ({k: torch.from_numpy(v) for k, v in weights.items()} for weights in (state, dense))
    place = torch.arange(x.shape[1])
    near = (place[:, None] - place).abs() <= WINDOW // 2
    samples = []
    for tokens, there, special in zip(x, torch.from_numpy(present), torch.from_numpy(marked)):
        allowed = there & (near | special | special[:, None])
        allowed |= ~there[:, None]  # whatever padding reads
        read = []
        for head in range(HEADS):
            rows = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
            outputs = []
            for names in (NAMES[:3], NAMES[3:]):
                query, key, value = (tokens @ state[f"{n}.weight"][rows].T + state[f"{n}.bias"][rows] for n in names)
                scores = (query @ key.T / (WIDTH // HEADS) ** 0.5).masked_fill(~allowed, -torch.inf)
                outputs.append(torch.softmax(scores, -1) @ value)
            read.append(torch.where(special[:, None], outputs[1], outputs[0]))
        samples.append(torch.cat(read, -1) @ dense["weight"].T + dense["bias"])
    return torch.stack(samples)
