"""Golden values of RAdam: states after prescribed gradients, and the rectification term by itself."""

import numpy as np

from spec.golden import Recipe, recipe

# Signs change, magnitudes run from 1e-5 to 5, and the fourth coordinate pauses at zero. The sixth step is the first
# rectified one; twelve see seven of them.
GRADIENTS = np.array(
    [
        [0.5, -5.0, 1e-5, 0.0],
        [-0.1, -5.0, 1e-3, 2.0],
        [1.0, 0.01, -1e-5, -2.0],
        [5.0, 1.0, -1e-2, 0.0],
        [-0.3, 1e-4, 1e-2, 0.7],
        [0.2, -0.4, 5.0, -1e-3],
        [-1.0, 0.1, -0.5, 1e-2],
        [0.05, 2.0, 1e-4, -5.0],
        [-5.0, -1e-3, 0.3, 0.0],
        [1e-5, 0.6, -1.0, 0.4],
        [0.7, -0.02, 1e-2, -0.9],
        [-0.4, 5.0, -2.0, 1e-5],
    ]
)
START = np.array([2.0, -1.0, 0.5, 0.25])
LR, B1, B2, EPS, DECAY = 0.1, 0.8, 0.95, 1e-2, 0.1
AGES = (6, 7, 10, 20, 100, 300)


@recipe(
    "radam",
    oracle="torch.optim.RAdam in float64; the rectification terms: mpmath, 40 digits",
    second="mpmath, 40 digits, moments as sums; decoupled: pytorch_optimizer.RAdam; the terms: torch.optim's steps",
    needs=("torch", "mpmath", "pytorch_optimizer"),
)
def radam(recipe: Recipe) -> None:
    import torch
    from pytorch_optimizer import RAdam

    recipe.given("gradients", GRADIENTS)
    recipe.given("start", START)
    for steps in (1, 6, 12):
        theirs = _run(torch.optim.RAdam, steps, weight_decay=DECAY)
        second = _mpmath(steps)
        for name, value in theirs.items():
            recipe.expect(f"{name}_{steps}", value, second=second[name])
    theirs = _run(torch.optim.RAdam, 12, weight_decay=DECAY, decoupled_weight_decay=True)
    second = _run(RAdam, 12, weight_decay=DECAY, weight_decouple=True, degenerated_to_sgd=True)
    recipe.expect("decoupled_theta_12", theirs["theta"], second=second["theta"])
    recipe.given("ages", np.array(AGES))
    for beta2 in (0.9, 0.99, 0.999):
        recipe.expect(f"rectification_{beta2}", _terms(beta2), second=_steps_under_a_constant_gradient(beta2))


def _run(make, steps, **settings):
    import torch

    theta = torch.tensor(START, requires_grad=True)
    optimizer = make([theta], lr=LR, betas=(B1, B2), eps=EPS, **settings)
    for g in GRADIENTS[:steps]:
        theta.grad = torch.from_numpy(g.copy())
        optimizer.step()
    return {"theta": theta} | {name: optimizer.state[theta][name] for name in ("exp_avg", "exp_avg_sq")}


def _mpmath(steps):
    """Algorithm 2 with the penalty in the gradient, coordinate by coordinate, the moments as explicit sums."""
    import mpmath

    with mpmath.workdps(40):
        lr, b1, b2, eps, decay = (mpmath.mpf(repr(x)) for x in (LR, B1, B2, EPS, DECAY))
        found = []
        for n in range(4):
            theta, seen = mpmath.mpf(START[n]), []
            for t, g in enumerate(GRADIENTS[:steps, n], 1):
                seen.append(mpmath.mpf(repr(float(g))) + decay * theta)
                m = (1 - b1) * mpmath.fsum(b1 ** (t - 1 - i) * x for i, x in enumerate(seen))
                v = (1 - b2) * mpmath.fsum(b2 ** (t - 1 - i) * x**2 for i, x in enumerate(seen))
                direction = m / (1 - b1**t)
                r = _rectification(t, b2)
                if r is not None:
                    direction *= r * mpmath.sqrt(1 - b2**t) / (mpmath.sqrt(v) + eps)
                theta -= lr * direction
            found.append([theta, m, v])
        table = np.array(found, dtype=np.float64)
    return {"theta": table[:, 0], "exp_avg": table[:, 1], "exp_avg_sq": table[:, 2]}


def _rectification(t, b2):
    """r_t in the precision of b2, from the weights of the average: ρ_t is 2/(1−β₂) − 1 less twice their mean age."""
    import mpmath

    # Section 4.1: the simple average with the same centre of mass; Σ i·w_i / Σ w_i = (ρ + 1)/2 over ages i = 1 … t.
    weights = [b2 ** (i - 1) for i in range(1, t + 1)]
    length = 2 * mpmath.fsum(i * w for i, w in enumerate(weights, 1)) / mpmath.fsum(weights) - 1
    longest = 2 / (1 - b2) - 1
    if length <= 5:
        return None
    ratio = (length - 4) / (longest - 4) * (length - 2) / (longest - 2) * longest / length
    return mpmath.sqrt(ratio)


def _terms(beta2):
    import mpmath

    with mpmath.workdps(40):
        return np.array([float(_rectification(t, mpmath.mpf(repr(beta2)))) for t in AGES])


def _steps_under_a_constant_gradient(beta2):
    """There m̂ = g and l = 1/|g|, so that a step is −lr·r_t: torch.optim.RAdam at lr 1 shows its term."""
    import torch

    theta = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.RAdam([theta], lr=1.0, betas=(0.9, beta2), eps=0.0)
    steps = []
    for _ in range(max(AGES)):
        before, theta.grad = theta.item(), torch.ones(1, dtype=torch.float64)
        optimizer.step()
        steps.append(before - theta.item())
    return np.array([steps[t - 1] for t in AGES])
