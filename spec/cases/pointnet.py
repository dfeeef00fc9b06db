"""Cases of PointNet, and the clouds that its specs use."""

import torch
from torch import nn

from impl.models.pointnet import (
    PointNet,
    PointNetEncoder,
    PointNetSegmentation,
    SharedMLP,
    TNet,
    feature_transform_regularizer,
)
from spec.cases import Bad, Case
from spec.contract import Contract, affine, linear
from spec.laws import reseed


def cloud(*shape, seed: int = 0, dtype=torch.float32):
    """Standard normal points (B, n, d)."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def trained(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random parameters and running statistics, as after training, most units alive; float64, in evaluation."""
    module.double()
    generator = torch.Generator().manual_seed(seed + 1)
    state = module.state_dict()
    for name, value in state.items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator, dtype=value.dtype)
            state[name] = noise * (2 / value.shape[-1]) ** 0.5 if value.dim() == 2 else 0.5 + 0.3 * noise
        if name.endswith("running_mean"):
            state[name] = 0.3 * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        if name.endswith("running_var"):
            state[name] = 0.5 + torch.rand(value.shape, generator=generator, dtype=value.dtype)
    module.load_state_dict(state)
    return module.eval()


def _seeded(make):
    def build():
        reseed(0)
        return make()

    return build


_COUPLED = {"batch_independent": "batch normalization couples the clouds of a batch in training, as in the paper"}
_CANCELLED = {
    "every_parameter_receives_gradient": "batch normalization takes the bias before it away in training; a spec asks "
    "in evaluation, where it counts"
}
_PARTS = {"gradient_correct": "a chain of parts that have their own record; a Jacobian of thousands of columns"}
_EXEMPT = _COUPLED | _CANCELLED
_BAD = {
    "points of another width": Bad(call=lambda: PointNet(4, width=1)(cloud(2, 5, 4)), mentions=("3", "(2, 5, 4)")),
    "no points": Bad(call=lambda: PointNet(4, width=1)(cloud(2, 0, 3)), mentions=("(2, 0, 3)",)),
    "one cloud without a batch": Bad(call=lambda: PointNet(4, width=1)(cloud(5, 3)), mentions=("(5, 3)",)),
}


def _clouds():
    return (cloud(3, 7, 2),)


CASES = [
    Case(
        item="pointnet",
        name="SharedMLP",
        build=_seeded(lambda: SharedMLP((2, 5, 4))),
        inputs=_clouds,
        bad={
            "another width": Bad(call=lambda: SharedMLP((2, 5))(cloud(3, 7, 3)), mentions=("2", "3")),
            "one width": Bad(call=lambda: SharedMLP((2,)), mentions=("(2,)",)),
        },
        exempt=_EXEMPT,
    ),
    Case(
        item="pointnet",
        name="TNet",
        build=_seeded(lambda: TNet(2, width=1)),
        inputs=_clouds,
        bad={
            "another width": Bad(call=lambda: TNet(3, width=1)(cloud(3, 7, 2)), mentions=("3", "(3, 7, 2)")),
            "no points": Bad(call=lambda: TNet(3, width=1)(cloud(3, 0, 3)), mentions=("(3, 0, 3)",)),
        },
        exempt=_EXEMPT,
    ),
    Case(
        item="pointnet",
        name="PointNetEncoder, no transforms",
        build=_seeded(lambda: PointNetEncoder(2, width=1, transforms=False)),
        inputs=_clouds,
        exempt=_EXEMPT,
    ),
    Case(
        item="pointnet",
        name="PointNet, no transforms",
        build=_seeded(lambda: PointNet(4, 2, width=1, transforms=False)),
        inputs=_clouds,
        bad=_BAD,
        exempt=_EXEMPT | _PARTS,
    ),
    Case(
        item="pointnet",
        name="PointNetSegmentation",
        build=_seeded(lambda: PointNetSegmentation(4, 2, width=2)),
        inputs=_clouds,
        bad={
            "another width": Bad(
                call=lambda: PointNetSegmentation(4, width=1)(cloud(3, 7, 2)), mentions=("3", "(3, 7, 2)")
            )
        },
        exempt=_EXEMPT | _PARTS,
    ),
    Case(
        item="pointnet",
        name="feature_transform_regularizer",
        build=lambda: feature_transform_regularizer,
        inputs=lambda: (cloud(2, 3, 3),),
        bad={
            "not square": Bad(call=lambda: feature_transform_regularizer(cloud(2, 3, 4)), mentions=("(2, 3, 4)",)),
            "one matrix": Bad(call=lambda: feature_transform_regularizer(cloud(3, 3)), mentions=("(3, 3)",)),
        },
        is_function=True,
    ),
]


def mlp(name: str, *widths: str) -> dict[str, str]:
    """State of a SharedMLP of that name, of widths that are expressions."""
    state, name = {}, f"{name}." if name else ""
    for n, (before, after) in enumerate(zip(widths, widths[1:])):
        state |= linear(f"{name}linears.{n}", after, before) | affine(f"{name}norms.{n}", after)
        state |= {f"{name}norms.{n}.running_{what}": f"({after},)" for what in ("mean", "var")}
        state |= {f"{name}norms.{n}.num_batches_tracked": "()"}
    return state


def _tnet(name: str, k: str) -> dict[str, str]:
    state = mlp(f"{name}point_mlp", k, "width", "2 * width", "16 * width")
    return (
        state
        | mlp(f"{name}cloud_mlp", "16 * width", "8 * width", "4 * width")
        | linear(f"{name}last", f"{k}**2", "4 * width")
    )


def _encoder(name: str, transforms: bool = True) -> dict[str, str]:
    state = mlp(f"{name}local_mlp", "in_channels", "width", "width")
    state |= mlp(f"{name}global_mlp", "width", "width", "2 * width", "16 * width")
    if transforms:
        state |= _tnet(f"{name}input_transform.", "in_channels") | _tnet(f"{name}feature_transform.", "width")
    return state


_SIZES = {"in_channels": "int >= 1", "width": "int >= 1"}
_SETS = {
    "critical_points": "critical_points(points): C_S as booleans (B, n), at most one point for each maximum",
    "within_bound": "within_bound(points, others): which of others (B, m, d) belong to N_S, as booleans (B, m)",
}
_ENCODER = {"encoder": "the PointNetEncoder", "last": "the linear layer to the logits"}

CONTRACTS = [
    Contract(
        item="pointnet",
        name="SharedMLP",
        of=SharedMLP,
        calls=({"widths": (3, 5, 4)},),
        state=mlp("", "widths[0]", "widths[1]", "widths[2]"),
    ),
    Contract(
        item="pointnet",
        name="TNet",
        of=TNet,
        calls=({"k": 3, "width": 2},),
        ranges={"k": "int >= 1", "width": "int >= 1"},
        state=_tnet("", "k"),
        attributes={
            "point_mlp": "h, a SharedMLP",
            "cloud_mlp": "γ up to the last layer, a SharedMLP",
            "last": "the linear layer to k² elements",
        },
    ),
    Contract(
        item="pointnet",
        name="PointNetEncoder",
        of=PointNetEncoder,
        calls=({"in_channels": 3, "width": 2},),
        ranges=_SIZES,
        state=_encoder(""),
        attributes=_SETS
        | {
            "input_transform": "the TNet of the points; None without transforms",
            "feature_transform": "the TNet of the features; None without transforms",
        },
    ),
    Contract(
        item="pointnet",
        name="PointNet",
        of=PointNet,
        calls=({"num_classes": 4, "in_channels": 3, "width": 2},),
        ranges=_SIZES | {"num_classes": "int >= 1", "dropout": "[0, 1)"},
        state=_encoder("encoder.")
        | mlp("cloud_mlp", "16 * width", "8 * width", "4 * width")
        | linear("last", "num_classes", "4 * width"),
        attributes=_ENCODER | {"cloud_mlp": "γ up to the last layer, a SharedMLP"},
    ),
    Contract(
        item="pointnet",
        name="PointNetSegmentation",
        of=PointNetSegmentation,
        calls=({"num_classes": 4, "in_channels": 3, "width": 2},),
        ranges=_SIZES | {"num_classes": "int >= 1"},
        state=_encoder("encoder.")
        | mlp("point_mlp", "17 * width", "8 * width", "4 * width", "2 * width", "2 * width")
        | linear("last", "num_classes", "2 * width"),
        attributes=_ENCODER | {"point_mlp": "the SharedMLP of local and global features"},
    ),
    Contract(item="pointnet", name="feature_transform_regularizer", of=feature_transform_regularizer),
]
