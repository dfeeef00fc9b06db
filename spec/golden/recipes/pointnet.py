"""Golden values of PointNet."""

import numpy as np

from spec.golden import Recipe, recipe


@recipe(
    "pointnet",
    oracle="torch.nn.functional on (B, C, n): conv1d, batch_norm, max_pool1d; torch.linalg.matrix_norm",
    second="NumPy, point by point with fused scales; the trace of (I − A Aᵀ)²",
    needs=("torch", "numpy"),
)
def pointnet(recipe: Recipe) -> None:
    """A classifier of 4 classes and a segmentation of 5, of width 1, on 2 clouds of 6 points."""
    import torch

    generator = np.random.default_rng(0)
    x = recipe.given("points", generator.standard_normal((2, 6, 3)))
    for name, shapes, run in (
        ("classifier", _classifier_shapes(), _classify),
        ("segmentation", _segmentation_shapes(), _segment),
    ):
        total = sum(int(np.prod(shape)) for shape in shapes.values())
        flat = generator.standard_normal(total)
        state, at = {}, 0
        for key in sorted(shapes):
            size = int(np.prod(shapes[key]))
            part = flat[at : at + size].reshape(shapes[key])
            part = part if part.ndim == 2 else 0.5 + part / 4
            state[key] = np.abs(part) + 0.1 if key.endswith("running_var") else part
            at += size
        packed = np.concatenate([state[key].ravel() for key in sorted(shapes)])
        recipe.given(f"{name}.weights", packed, ulps=0)
        tensors = {key: torch.from_numpy(value) for key, value in state.items()}
        logits, a = run(_Torch(tensors), torch.from_numpy(x))
        second, second_a = run(_Loops(state), x)
        recipe.expect(f"{name}.logits", logits, second=second)
        recipe.expect(f"{name}.transform", a, second=second_a)

    a = recipe.given("a", generator.standard_normal((3, 4, 4)))
    t = torch.from_numpy(a)
    norm = torch.linalg.matrix_norm(torch.eye(4, dtype=t.dtype) - t @ t.mT, ord="fro") ** 2
    gap = [np.eye(4) - np.einsum("ij,kj->ik", one, one) for one in a]
    recipe.expect("regularizer", norm, second=np.array([np.trace(g @ g) for g in gap]))


def _layers(name, widths):
    shapes = {}
    for n, (before, after) in enumerate(zip(widths, widths[1:])):
        shapes |= {f"{name}.linears.{n}.weight": (after, before), f"{name}.linears.{n}.bias": (after,)}
        shapes |= {f"{name}.norms.{n}.{key}": (after,) for key in ("weight", "bias", "running_mean", "running_var")}
    return shapes


def _last(name, after, before):
    return {f"{name}.weight": (after, before), f"{name}.bias": (after,)}


def _encoder_shapes():
    shapes = _layers("encoder.local_mlp", (3, 1, 1)) | _layers("encoder.global_mlp", (1, 1, 2, 16))
    for name, k in (("encoder.input_transform", 3), ("encoder.feature_transform", 1)):
        shapes |= _layers(f"{name}.point_mlp", (k, 1, 2, 16)) | _layers(f"{name}.cloud_mlp", (16, 8, 4))
        shapes |= _last(f"{name}.last", k * k, 4)
    return shapes


def _classifier_shapes():
    return _encoder_shapes() | _layers("cloud_mlp", (16, 8, 4)) | _last("last", 4, 4)


def _segmentation_shapes():
    return _encoder_shapes() | _layers("point_mlp", (17, 8, 4, 2, 2)) | _last("last", 5, 2)


def _encode(run, x):
    t = run.transform("encoder.input_transform", x, 3)
    local = run.mlp("encoder.local_mlp", run.product(x, t))
    a = run.transform("encoder.feature_transform", local, 1)
    local = run.product(local, a)
    return run.maximum(run.mlp("encoder.global_mlp", local)), local, a


def _classify(run, x):
    feature, _, a = _encode(run, x)
    return run.last("last", run.mlp("cloud_mlp", feature[:, None])[:, 0]), a


def _segment(run, x):
    feature, local, a = _encode(run, x)
    return run.last("last", run.mlp("point_mlp", run.join(local, feature))), a


class _Torch:
    """Channels second, as most code has it."""

    def __init__(self, state):
        self.state = state

    def mlp(self, name, x):
        from torch.nn import functional

        x, n = x.transpose(1, 2), 0
        while f"{name}.linears.{n}.weight" in self.state:
            get = lambda key, n=n: self.state[f"{name}.{key}"]  # noqa: E731
            x = functional.conv1d(x, get(f"linears.{n}.weight")[:, :, None], get(f"linears.{n}.bias"))
            norm = [get(f"norms.{n}.{key}") for key in ("running_mean", "running_var", "weight", "bias")]
            x, n = functional.relu(functional.batch_norm(x, *norm)), n + 1
        return x.transpose(1, 2)

    def last(self, name, x):
        from torch.nn import functional

        return functional.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def transform(self, name, x, k):
        feature = self.maximum(self.mlp(f"{name}.point_mlp", x))
        return self.last(f"{name}.last", self.mlp(f"{name}.cloud_mlp", feature[:, None])[:, 0]).reshape(-1, k, k)

    def product(self, x, a):
        return x.bmm(a)

    def maximum(self, x):
        from torch.nn import functional

        return functional.max_pool1d(x.transpose(1, 2), x.shape[1])[:, :, 0]

    def join(self, local, feature):
        import torch

        return torch.cat([local, feature[:, None].repeat(1, local.shape[1], 1)], 2)


class _Loops:
    """One point at a time; batch normalization as one scale and shift of each layer."""

    def __init__(self, state):
        self.state = state

    def mlp(self, name, x):
        return np.stack([np.stack([self._point(name, point) for point in cloud]) for cloud in x])

    def _point(self, name, x):
        n = 0
        while f"{name}.linears.{n}.weight" in self.state:
            get = lambda key: self.state[f"{name}.{key}"]  # noqa: E731
            scale = get(f"norms.{n}.weight") / np.sqrt(get(f"norms.{n}.running_var") + 1e-5)
            shift = scale * (get(f"linears.{n}.bias") - get(f"norms.{n}.running_mean")) + get(f"norms.{n}.bias")
            x, n = np.maximum(scale * (get(f"linears.{n}.weight") * x).sum(1) + shift, 0), n + 1
        return x

    def last(self, name, x):
        return np.einsum("...i,oi->...o", x, self.state[f"{name}.weight"]) + self.state[f"{name}.bias"]

    def transform(self, name, x, k):
        feature = self.maximum(self.mlp(f"{name}.point_mlp", x))
        rows = self.last(f"{name}.last", self.mlp(f"{name}.cloud_mlp", feature[:, None])[:, 0])
        return np.stack([[[row[i * k + j] for j in range(k)] for i in range(k)] for row in rows])

    def product(self, x, a):
        return np.stack([[sum(point[i] * m[i] for i in range(len(m))) for point in cloud] for cloud, m in zip(x, a)])

    def maximum(self, x):
        return np.stack([np.sort(cloud, axis=0)[-1] for cloud in x])

    def join(self, local, feature):
        return np.stack([[np.append(point, whole) for point in cloud] for cloud, whole in zip(local, feature)])
