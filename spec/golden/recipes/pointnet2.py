"""Golden values of PointNet++."""

import numpy as np

from spec.golden import Recipe, recipe


@recipe(
    "pointnet2",
    oracle="fpsample's sampling, scipy's cKDTree, torch_geometric's PointNetConv, scikit-learn's weighted neighbors",
    second="greedy sampling, balls, maxima and means point by point in NumPy",
    needs=("torch", "torch-geometric", "fpsample", "scipy", "scikit-learn"),
)
def pointnet2(recipe: Recipe) -> None:
    """Samples and balls of 40 points, one level's features and their gradient, and interpolated features."""
    import fpsample
    import torch
    from scipy.spatial import cKDTree
    from sklearn.neighbors import KNeighborsRegressor
    from torch_geometric.nn import PointNetConv

    draw = np.random.default_rng(0)
    points = recipe.given("points", draw.integers(-64, 64, (40, 3)) / 64)
    features = recipe.given("features", draw.integers(-16, 16, (40, 2)) / 16)
    index = fpsample.fps_sampling(points, 8, start_idx=0).astype(np.int64)
    distances = np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))
    chosen = [0]
    while len(chosen) < 8:
        chosen.append(int(distances[:, chosen].min(1).argmax()))
    recipe.expect("samples", index, second=np.array(chosen))

    radius, most = 0.7, 6
    inside = cKDTree(points).query_ball_point(points[index], radius, return_sorted=True)
    balls = np.array([ball[:most] + [ball[0]] * (most - len(ball[:most])) for ball in inside])
    second = []
    for i in chosen:
        near = [j for j in range(40) if distances[i, j] <= radius][:most]
        second.append(near + [near[0]] * (most - len(near)))
    recipe.expect("balls", balls, second=np.array(second))

    shapes = {"linears.0.weight": (4, 5), "linears.0.bias": (4,), "linears.1.weight": (3, 4), "linears.1.bias": (3,)}
    for number, width in ((0, 4), (1, 3)):
        shapes |= {f"norms.{number}.{name}": (width,) for name in ("weight", "bias", "running_mean")}
    weights = {name: recipe.given(name, draw.integers(-16, 16, shape) / 16) for name, shape in shapes.items()}
    for number, width in ((0, 4), (1, 3)):
        name = f"norms.{number}.running_var"
        weights[name] = recipe.given(name, draw.integers(8, 32, (width,)) / 16)
    w = {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}

    def network(x):
        for number in (0, 1):
            x = x @ w[f"linears.{number}.weight"].T + w[f"linears.{number}.bias"]
            norm = {name: w[f"norms.{number}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")}
            x = torch.nn.functional.batch_norm(x, **norm).relu()
        return x

    class Shared(torch.nn.Module):
        def forward(self, x):
            return network(torch.cat([x[:, 2:], x[:, :2]], dim=1))  # PointNetConv has features, then coordinates

    places, leaf = torch.from_numpy(points), torch.from_numpy(features).requires_grad_()
    edges = [(j, i) for i, ball in enumerate(balls) for j in set(ball)]
    convolution = PointNetConv(Shared(), add_self_loops=False)
    found = convolution((leaf, None), (places, places[index]), torch.tensor(edges).T)
    (gradient,) = torch.autograd.grad(found.square().sum(), leaf)
    rows = []
    for i, ball in zip(chosen, second):
        x = np.array([np.concatenate([points[j] - points[i], features[j]]) for j in ball])
        for number in (0, 1):
            x = x @ weights[f"linears.{number}.weight"].T + weights[f"linears.{number}.bias"]
            mean, var = (weights[f"norms.{number}.running_{name}"] for name in ("mean", "var"))
            x = (x - mean) / np.sqrt(var + 1e-5) * weights[f"norms.{number}.weight"] + weights[f"norms.{number}.bias"]
            x = np.maximum(x, 0)
        rows.append(x.max(0))
    recipe.expect("abstraction", found, second=np.array(rows))
    recipe.expect("gradient", gradient)

    known = recipe.given("known", draw.integers(-16, 16, (8, 3)) / 16)
    neighbors = KNeighborsRegressor(3, weights=lambda d: 1 / np.maximum(d**2, 1e-10), algorithm="brute")
    others = recipe.given("others", (draw.integers(-64, 64, (10, 3)) * 2 + 1) / 128)  # none of them is a known point
    means = neighbors.fit(known, features[:8]).predict(others)
    rows = []
    for x in others:
        squares = ((known - x) ** 2).sum(1)
        near = squares.argsort(kind="stable")[:3]
        rows.append((features[near] / squares[near, None]).sum(0) / (1 / squares[near]).sum())
    recipe.expect("interpolated", means, second=np.array(rows))
