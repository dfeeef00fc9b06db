"""Golden values of graph attention."""

import numpy as np

from spec.golden import Recipe, recipe
from spec.golden.recipes.gcn import EDGES


@recipe(
    "gat",
    oracle="torch_geometric.nn.GATConv and GATv2Conv in float64",
    second="dense matrices in jax.numpy, the pairs of nodes concatenated, with jax's derivatives",
    needs=("torch", "torch-geometric", "jax"),
)
def gat(recipe: Recipe) -> None:
    import torch
    from torch_geometric.nn import GATConv, GATv2Conv

    edges = recipe.given("edges", EDGES)
    for name, of, concat in (("gat", GATConv, True), ("mean", GATConv, False), ("gatv2", GATv2Conv, True)):
        given = _numbers(recipe, name, 2 if name == "gatv2" else 1, concat)
        x, cotangent, bias = given["x"], given["cotangent"], given["bias"]
        conv = of(3, 4, heads=2, concat=concat, negative_slope=0.3).double()
        if name == "gatv2":
            zero = np.zeros(8)
            state = {"lin_l.weight": given["weight_sender"], "lin_r.weight": given["weight_receiver"]}
            state |= {"lin_l.bias": zero, "lin_r.bias": zero, "att": given["attention_vector"][None], "bias": bias}
        else:
            state = {"lin.weight": given["weight"], "bias": bias}
            state |= {"att_src": given["attention_sender"][None], "att_dst": given["attention_receiver"][None]}
        conv.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in state.items()})
        leaf = torch.from_numpy(x).requires_grad_()
        y = conv(leaf, torch.from_numpy(edges))
        (dx,) = torch.autograd.grad((y * torch.from_numpy(cotangent)).sum(), leaf)
        second_y, second_dx = _dense(given, edges, concat)
        recipe.expect(f"{name}.y", y, second=second_y)
        recipe.expect(f"{name}.dx", dx, second=second_dx)


def _numbers(recipe, name, seed, concat):
    """Sixteenths, so that every processor has the same."""
    draw = np.random.default_rng(seed)
    shapes = {"x": (6, 3), "cotangent": (6, 8 if concat else 4), "bias": (8 if concat else 4,)}
    if name == "gatv2":
        shapes |= {"weight_sender": (8, 3), "weight_receiver": (8, 3), "attention_vector": (2, 4)}
    else:
        shapes |= {"weight": (8, 3), "attention_sender": (2, 4), "attention_receiver": (2, 4)}
    return {key: recipe.given(f"{name}.{key}", draw.integers(-16, 16, shape) / 16) for key, shape in shapes.items()}


def _dense(given, edges, concat):
    """Output and gradient: every pair of nodes concatenated, its score, and a softmax weighted by the edges' count."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    n = 6
    count = np.zeros((n, n))
    np.add.at(count, (edges[1], edges[0]), 1)
    np.fill_diagonal(count, 1)

    def leaky(value):
        return jnp.maximum(value, 0) + 0.3 * jnp.minimum(value, 0)

    def layer(x):
        heads = []
        for head in range(2):
            rows = slice(4 * head, 4 * head + 4)
            pairs = jnp.concatenate([jnp.repeat(x[:, None], n, 1), jnp.repeat(x[None], n, 0)], axis=2)  # i, j
            if "weight" in given:
                w = given["weight"][rows]
                mixed = jnp.concatenate([pairs[..., :3] @ w.T, pairs[..., 3:] @ w.T], axis=2)
                a = np.concatenate([given["attention_receiver"][head], given["attention_sender"][head]])
                scores, sent = leaky(mixed @ a), x @ w.T
            else:
                w = np.concatenate([given["weight_receiver"][rows], given["weight_sender"][rows]], axis=1)
                scores = leaky(pairs @ w.T) @ given["attention_vector"][head]
                sent = x @ given["weight_sender"][rows].T
            weights = jax.nn.softmax(jnp.where(count > 0, scores + np.log(np.maximum(count, 1)), -jnp.inf), axis=1)
            heads.append(weights @ sent)
        joined = jnp.concatenate(heads, axis=1) if concat else (heads[0] + heads[1]) / 2
        return joined + given["bias"]

    value, pull_back = jax.vjp(layer, jnp.asarray(given["x"]))
    return np.asarray(value), np.asarray(pull_back(jnp.asarray(given["cotangent"]))[0])
