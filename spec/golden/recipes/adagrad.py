"""Golden values of AdaGrad: states after prescribed gradients."""

import numpy as np

from spec.golden import Recipe, recipe

# Signs change, magnitudes run from 1e-5 to 5, and the fourth coordinate sees its first gradient at the third step.
GRADIENTS = np.array(
    [
        [0.5, -5.0, 1e-5, 0.0],
        [-0.1, -5.0, 1e-3, 0.0],
        [1.0, 0.01, -1e-5, -2.0],
        [5.0, 1.0, -1e-2, 0.0],
        [-0.3, 1e-4, 1e-2, 0.7],
        [0.2, -0.4, 5.0, -1e-3],
    ]
)
START = np.array([2.0, -1.0, 0.5, 0.25])
SETTINGS = {"lr": 0.3, "lr_decay": 0.2, "weight_decay": 0.1, "initial_accumulator_value": 0.4, "eps": 1e-2}


@recipe(
    "adagrad",
    oracle="torch.optim.Adagrad in float64",
    second="onnx's reference evaluation of ai.onnx.preview.training.Adagrad in float64",
    needs=("torch", "onnx"),
)
def adagrad(recipe: Recipe) -> None:
    recipe.given("gradients", GRADIENTS)
    recipe.given("start", START)
    for steps in (1, 6):
        theirs, second = _torch(GRADIENTS[:steps]), _onnx(GRADIENTS[:steps])
        for name, value in theirs.items():
            recipe.expect(f"{name}_{steps}", value, second=second[name])


def _torch(gradients):
    import torch

    theta = torch.tensor(START, requires_grad=True)
    optimizer = torch.optim.Adagrad([theta], **SETTINGS)
    for g in gradients:
        theta.grad = torch.from_numpy(g.copy())
        optimizer.step()
    return {"theta": theta, "sum": optimizer.state[theta]["sum"]}


def _onnx(gradients):
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    node = helper.make_node(
        "Adagrad",
        ["R", "T", "X", "G", "H"],
        ["X_new", "H_new"],
        domain="ai.onnx.preview.training",
        decay_factor=SETTINGS["lr_decay"],
        norm_coefficient=SETTINGS["weight_decay"],
        epsilon=SETTINGS["eps"],
    )
    types = {"R": TensorProto.DOUBLE, "T": TensorProto.INT64} | dict.fromkeys("XGH", TensorProto.DOUBLE)
    graph = helper.make_graph(
        [node],
        "adagrad",
        [helper.make_tensor_value_info(n, t, [] if n in "RT" else [4]) for n, t in types.items()],
        [helper.make_tensor_value_info(n, TensorProto.DOUBLE, [4]) for n in ("X_new", "H_new")],
    )
    opset = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.preview.training", 1)]
    evaluate = ReferenceEvaluator(helper.make_model(graph, opset_imports=opset))
    theta, total = START, np.full(4, SETTINGS["initial_accumulator_value"])
    for t, g in enumerate(gradients):
        given = {"R": np.array(SETTINGS["lr"]), "T": np.array(t), "X": theta, "G": g, "H": total}
        theta, total = evaluate.run(None, given)
    return {"theta": theta, "sum": total}
