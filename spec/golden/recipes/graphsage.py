"""Golden values of GraphSAGE."""

import numpy as np

from spec.golden import Recipe, recipe
from spec.golden.recipes.gcn import EDGES


@recipe(
    "graphsage",
    oracle="torch_geometric.nn.SAGEConv and torch.nn.LSTMCell in float64",
    second="NumPy, node by node, with derivatives by jax",
    needs=("torch", "torch-geometric", "jax"),
)
def graphsage(recipe: Recipe) -> None:
    _mean(recipe)
    _pool_and_gcn(recipe)
    _lstm(recipe)


def _sixteenths(seed, *shape):
    return np.random.default_rng(seed).integers(-24, 24, shape) / 16


def _neighbours(i):
    return EDGES[0][EDGES[1] == i]


def _mean(recipe):
    """Output of length 1 and its gradient; the library has no σ and two matrices in place of one."""
    import jax
    import jax.numpy as jnp
    import torch
    from torch_geometric.nn import SAGEConv

    jax.config.update("jax_enable_x64", True)
    edges = recipe.given("edges", EDGES)
    x, weight = recipe.given("x", _sixteenths(0, 6, 3)), recipe.given("weight", _sixteenths(1, 4, 6))
    bias, cotangent = recipe.given("bias", _sixteenths(2, 4)), recipe.given("cotangent", _sixteenths(3, 6, 4))
    conv = SAGEConv(3, 4, normalize=True).double()
    halves = {"lin_r.weight": weight[:, :3], "lin_l.weight": weight[:, 3:], "lin_l.bias": bias}
    conv.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in halves.items()})
    leaf = torch.from_numpy(x).requires_grad_()
    y = conv(leaf, torch.from_numpy(edges))
    (dx,) = torch.autograd.grad((y * torch.from_numpy(cotangent)).sum(), leaf)

    def layer(x):
        rows = []
        for i in range(6):
            near = _neighbours(i)
            found = sum(x[j] for j in near) / len(near) if len(near) else jnp.zeros(3)
            row = jnp.concatenate([x[i], found]) @ weight.T + bias
            rows.append(row / jnp.sqrt((row * row).sum()))
        return jnp.stack(rows)

    value, pull_back = jax.vjp(layer, jnp.asarray(x))
    recipe.expect("mean.y", y, second=value)
    recipe.expect("mean.dx", dx, second=pull_back(jnp.asarray(cotangent))[0])


def _pool_and_gcn(recipe):
    """The library's layer with its own maximum and mean, fed with what the paper's aggregators feed it with."""
    import torch
    from torch_geometric.nn import SAGEConv

    x, weight, bias = recipe.inputs["x"], recipe.inputs["weight"], recipe.inputs["bias"]
    pool, pool_bias = recipe.given("pool.weight", _sixteenths(4, 3, 3)), recipe.given("pool.bias", _sixteenths(5, 3))
    sent = np.maximum(x @ pool.T + pool_bias, 0)
    conv = SAGEConv((3, 3), 4, aggr="max").double()
    halves = {"lin_r.weight": weight[:, :3], "lin_l.weight": weight[:, 3:], "lin_l.bias": bias}
    conv.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in halves.items()})
    edges = torch.from_numpy(EDGES)
    y = conv((torch.from_numpy(sent), torch.from_numpy(x)), edges)
    rows = [
        np.concatenate([x[i], sent[_neighbours(i)].max(0) if len(_neighbours(i)) else np.zeros(3)]) for i in range(6)
    ]
    recipe.expect("pool.y", y, second=np.array(rows) @ weight.T + bias)

    loops = torch.cat([edges, torch.arange(6).expand(2, 6)], dim=1)
    conv = SAGEConv(3, 4, root_weight=False).double()
    narrow = {"lin_l.weight": weight[:, :3], "lin_l.bias": bias}
    conv.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in narrow.items()})
    means = np.array([np.append(x[_neighbours(i)], x[i : i + 1], axis=0).mean(0) for i in range(6)])
    recipe.expect("gcn.y", conv(torch.from_numpy(x), loops), second=means @ weight[:, :3].T + bias)


def _lstm(recipe):
    """The LSTM's last output over a node's neighbours in the order of the edges; torch's gates are i, f, g, o too."""
    import torch

    x, weight, bias = recipe.inputs["x"], recipe.inputs["weight"], recipe.inputs["bias"]
    gates, gates_bias = (
        recipe.given("lstm.weight", _sixteenths(6, 12, 6)),
        recipe.given("lstm.bias", _sixteenths(7, 12)),
    )
    cell = torch.nn.LSTMCell(3, 3).double()
    state = {"weight_ih": gates[:, :3], "weight_hh": gates[:, 3:], "bias_ih": gates_bias, "bias_hh": np.zeros(12)}
    cell.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})

    def sigmoid(value):
        return 1 / (1 + np.exp(-value))

    found, second = [], []
    for i in range(6):
        h = c = torch.zeros(1, 3, dtype=torch.float64)
        output, memory = np.zeros(3), np.zeros(3)
        for j in _neighbours(i):
            h, c = cell(torch.from_numpy(x[None, j]), (h, c))
            enter, forget, new, leave = np.split(gates @ np.concatenate([x[j], output]) + gates_bias, 4)
            memory = sigmoid(forget) * memory + sigmoid(enter) * np.tanh(new)
            output = sigmoid(leave) * np.tanh(memory)
        found.append(h[0].detach().numpy())
        second.append(output)
    rows, others = (np.concatenate([x, np.array(part)], axis=1) @ weight.T + bias for part in (found, second))
    recipe.expect("lstm.y", rows, second=others)
