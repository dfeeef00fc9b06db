"""Golden values of pruning by magnitude."""

import numpy as np

from spec.golden import Recipe, recipe


@recipe(
    "lottery-ticket",
    oracle="torch.nn.utils.prune.l1_unstructured and global_unstructured; exact counts in fractions",
    second="NumPy: thresholds by partition, and the closed form of the counts",
    needs=("torch", "numpy"),
)
def lottery_ticket(recipe: Recipe) -> None:
    _masks(recipe)
    _lenet(recipe)


def _masks(recipe):
    """Three rounds at 30 % over three layers of unequal scale, weights anew in each round."""
    import torch
    from torch.nn.utils import prune

    generator = np.random.default_rng(0)
    shapes = {"first": (6, 5), "second": (4, 9), "third": (3, 2, 4)}
    scales = {"first": 1.0, "second": 0.4, "third": 1.2}
    weights = {
        name: [recipe.given(f"{name}.{n}", scales[name] * generator.standard_normal(shape)) for n in range(3)]
        for name, shape in shapes.items()
    }
    for scope in ("layer", "global"):
        modules = {name: torch.nn.Module() for name in shapes}
        for name, module in modules.items():
            module.register_parameter("weight", torch.nn.Parameter(torch.zeros(shapes[name], dtype=torch.float64)))
        left = {name: np.ones(shape, dtype=bool) for name, shape in shapes.items()}
        for n in range(3):
            for name, module in modules.items():
                parameter = module.weight_orig if n else module.weight
                parameter.data.copy_(torch.from_numpy(weights[name][n]))
                if n:  # the library ranks weight, which its hook has made of the last round's
                    module.weight = module.weight_orig.detach() * module.weight_mask
            if scope == "layer":
                for module in modules.values():
                    prune.l1_unstructured(module, "weight", amount=0.3)
            else:
                everything = [(module, "weight") for module in modules.values()]
                prune.global_unstructured(everything, pruning_method=prune.L1Unstructured, amount=0.3)
            left = _by_partition({name: weights[name][n] for name in shapes}, left, 0.3, scope)
            for name, module in modules.items():
                recipe.expect(f"{scope}.{n}.{name}", module.weight_mask.bool(), second=left[name])


def _by_partition(weights, left, amount, scope):
    """A threshold between the last that goes and the first that stays."""
    found = {}
    for names in [[name] for name in weights] if scope == "layer" else [list(weights)]:
        magnitudes = np.concatenate([np.abs(weights[name][left[name]]) for name in names])
        count = round(amount * len(magnitudes))
        lower, upper = np.partition(magnitudes, [count - 1, count])[[count - 1, count]]
        found |= {name: left[name] & (np.abs(weights[name]) > (lower + upper) / 2) for name in names}
    return found


def _lenet(recipe):
    """What 18 rounds leave of LeNet-300-100's layers, 20 % a round and 10 % of the output layer."""
    from fractions import Fraction

    sizes, shares = [784 * 300, 300 * 100, 100 * 10], [Fraction(1, 5), Fraction(1, 5), Fraction(1, 10)]
    left, rows = list(sizes), []
    for _ in range(18):
        left = [n - round(p * n) for n, p in zip(left, shares)]
        rows.append(list(left))
    # The other way: complements in floating point, where no product is exactly a half.
    again, rows_again = np.array(sizes), []
    for _ in range(18):
        again = again - np.rint(again * np.array([0.2, 0.2, 0.1])).astype(int)
        rows_again.append(again)
    recipe.expect("lenet.left", np.array(rows), second=np.array(rows_again))
