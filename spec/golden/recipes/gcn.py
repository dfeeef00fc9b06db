"""Golden values of graph convolutions."""

import numpy as np

from spec.golden import Recipe, recipe

# Edges from row 0 to row 1: a repeated one, a loop, some one way only, and node 5 has none.
EDGES = np.array([[0, 1, 0, 2, 2, 3, 1, 2, 4], [1, 0, 1, 1, 2, 0, 2, 3, 3]])


def dense(edges, weights, n):
    """The matrix whose entry (i, j) is the sum of the weights of the edges from j to i."""
    matrix = np.zeros((n, n))
    np.add.at(matrix, (edges[1], edges[0]), weights)
    return matrix


@recipe(
    "gcn",
    oracle="torch_geometric.nn.GCNConv in float64; numpy.linalg.eigvalsh; scipy.sparse.csgraph.laplacian",
    second="dense matrices in NumPy with derivatives by hand; the power method and traces",
    needs=("torch", "torch-geometric", "networkx", "scipy"),
)
def gcn(recipe: Recipe) -> None:
    _layer(recipe)
    _karate(recipe)


def _layer(recipe):
    """One layer with weights of edges: output and gradients of ⟨output, cotangent⟩."""
    import torch
    from torch_geometric.nn import GCNConv

    draw = np.random.default_rng(0)
    n = 6
    edges = recipe.given("edges", EDGES)
    strength = recipe.given("strength", draw.integers(8, 32, EDGES.shape[1]) / 16)
    x, weight, bias, cotangent = (
        recipe.given(name, draw.integers(-32, 32, shape) / 16)
        for name, shape in (("x", (n, 3)), ("weight", (4, 3)), ("bias", (4,)), ("cotangent", (n, 4)))
    )
    conv = GCNConv(3, 4).double()
    conv.load_state_dict({"lin.weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    leaves = [torch.from_numpy(a).requires_grad_() for a in (x, strength)]
    y = conv(leaves[0], torch.from_numpy(edges), leaves[1])
    gradients = torch.autograd.grad((y * torch.from_numpy(cotangent)).sum(), [*leaves, conv.lin.weight, conv.bias])

    # By hand: Â = S Ã S with S = diag(d^−½); node 2 has a loop already.
    matrix = dense(edges, strength, n)
    matrix += np.diag((np.diag(matrix) == 0).astype(float))
    degree = matrix.sum(1)
    scale = degree**-0.5
    normal = scale[:, None] * matrix * scale
    of_matrix = cotangent @ (x @ weight.T).T  # ∂/∂Â
    of_scale = (of_matrix * normal).sum(1) + (of_matrix * normal).sum(0)  # times ∂ log s
    of_strength = scale[:, None] * of_matrix * scale + (-0.5 * of_scale / degree)[:, None]
    recipe.expect("y", y, second=normal @ x @ weight.T + bias)
    recipe.expect("dx", gradients[0], second=normal.T @ cotangent @ weight)
    recipe.expect("dstrength", gradients[1], second=of_strength[edges[1], edges[0]])
    recipe.expect("dweight", gradients[2], second=cotangent.T @ normal @ x)
    recipe.expect("dbias", gradients[3], second=cotangent.sum(0))


def _karate(recipe):
    """Â of the karate club, its weights left out: numbers that a wrong degree or a missing loop changes."""
    import networkx
    from scipy.sparse import csgraph

    graph = networkx.karate_club_graph()
    adjacency = networkx.to_numpy_array(graph, weight=None)
    # scipy's normalised Laplacian of A is I − D^−½ A D^−½ without loops: scaled by both roots of degrees it gives Â.
    laplacian, root = csgraph.laplacian(adjacency, normed=True, return_diag=True)
    plain = np.eye(34) - laplacian
    ratio = root / np.sqrt(root**2 + 1)
    normal = ratio[:, None] * plain * ratio + np.diag(1 / (root**2 + 1))
    full = adjacency + np.eye(34)
    second = full / np.sqrt(np.outer(full.sum(1), full.sum(1)))
    recipe.expect("karate.normal", normal, second=second)
    values = np.linalg.eigvalsh(normal)
    recipe.expect("karate.largest", values[-1], second=1.0)
    recipe.expect("karate.trace", values.sum(), second=(1 / full.sum(1)).sum())
    recipe.expect("karate.smallest", values[0], second=1 - _largest(np.eye(34) - second))
    vector = np.sqrt(full.sum(1) / full.sum())  # the eigenvector of 1
    recipe.expect("karate.second", values[-2], second=_largest(np.eye(34) + second - 2 * np.outer(vector, vector)) - 1)


def _largest(matrix):
    """The largest eigenvalue of a positive semidefinite matrix by the power method."""
    vector = np.random.default_rng(1).normal(size=len(matrix))
    for _ in range(5000):
        vector = matrix @ vector
        vector /= np.linalg.norm(vector)
    return vector @ matrix @ vector
