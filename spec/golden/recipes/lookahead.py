"""Golden values of Lookahead: states after prescribed gradients, and variances of a noisy quadratic."""

import numpy as np

from spec.golden import Recipe, recipe

# Signs change, magnitudes run from 1e-5 to 5, and the fourth coordinate pauses at zero.
GRADIENTS = np.array(
    [
        [0.3, -5.0, 1e-5, 0.0],
        [-0.2, -4.0, 1e-3, 1.5],
        [1.0, 0.02, -1e-5, -2.0],
        [5.0, 1.0, -1e-2, 0.0],
        [-0.4, 1e-4, 1e-2, 0.6],
        [0.1, -0.7, 5.0, -1e-3],
    ]
)
START = np.array([1.5, -1.0, 0.5, 0.25])
PERIOD, ALPHA = 4, 0.3
SGD = {"lr": 0.1, "momentum": 0.8}
ADAMW = {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-2, "weight_decay": 0.1}


@recipe(
    "lookahead",
    oracle="pytorch_optimizer.Lookahead over torch.optim in float64; proposition 2 with mpmath, 30 digits",
    second="optax.lookahead over optax in float64; the recursion of second moments in NumPy",
    needs=("torch", "pytorch_optimizer", "jax", "optax", "mpmath"),
)
def lookahead(recipe: Recipe) -> None:
    recipe.given("gradients", GRADIENTS)
    recipe.given("start", START)
    for base in ("sgd", "adamw"):
        for steps in (1, 6):
            theirs, second = _pytorch_optimizer(base, steps), _optax(base, steps)
            for name, value in theirs.items():
                if steps > 1 or name not in ("slow_params", "momentum_buffer"):  # after one step these are the inputs
                    recipe.expect(f"{base}.{name}_{steps}", value, second=second[name])
    settings = recipe.given("settings", [[0.1, 5, 0.5], [0.5, 5, 0.5], [0.1, 10, 0.8]])
    recipe.expect("ratios", *([f(g, int(k), a) for g, k, a in settings] for f in (_proposition_2, _moments)))


def _pytorch_optimizer(base, steps):
    import torch
    from pytorch_optimizer import Lookahead

    theta = torch.tensor(START, requires_grad=True)
    inner = torch.optim.SGD([theta], **SGD) if base == "sgd" else torch.optim.AdamW([theta], **ADAMW)
    optimizer = Lookahead(inner, k=PERIOD, alpha=ALPHA, pullback_momentum="none")
    for g in GRADIENTS[:steps]:
        theta.grad = torch.from_numpy(g.copy())
        optimizer.step()
    names = ["momentum_buffer"] if base == "sgd" else ["exp_avg", "exp_avg_sq"]
    own = {"theta": theta, "slow_params": optimizer.state[theta]["slow_params"]}
    return own | {name: inner.state[theta][name] for name in names}


def _optax(base, steps):
    import jax
    import jax.numpy as jnp
    import optax

    jax.config.update("jax_enable_x64", True)
    if base == "sgd":
        inner = optax.sgd(SGD["lr"], momentum=SGD["momentum"])
    else:
        inner = optax.adamw(ADAMW["lr"], *ADAMW["betas"], ADAMW["eps"], weight_decay=ADAMW["weight_decay"])
    rule = optax.lookahead(inner, sync_period=PERIOD, slow_step_size=ALPHA)
    params = optax.LookaheadParams.init_synced(jnp.asarray(START))
    state = rule.init(params)
    for g in GRADIENTS[:steps]:
        updates, state = rule.update(jnp.asarray(g), state, params)
        params = optax.apply_updates(params, updates)
    own = {"theta": params.fast, "slow_params": params.slow}
    inside = state.fast_state[0]
    return own | (
        {"momentum_buffer": inside.trace} if base == "sgd" else {"exp_avg": inside.mu, "exp_avg_sq": inside.nu}
    )


def _proposition_2(gamma, k, alpha):
    """V_LA / V_SGD for a = 1."""
    import mpmath

    mpmath.mp.dps = 30
    q, alpha = 1 - mpmath.mpf(gamma), mpmath.mpf(alpha)
    share = alpha**2 * (1 - q ** (2 * k))
    return float(share / (share + 2 * alpha * (1 - alpha) * (1 - q**k)))


def _moments(gamma, k, alpha):
    """The same from the covariance of (θ, φ), followed step by step until it is constant."""
    inner, noise = np.array([[1 - gamma, 0.0], [0.0, 1.0]]), np.array([[gamma**2, 0.0], [0.0, 0.0]])
    pull = np.array([[alpha, 1 - alpha], [alpha, 1 - alpha]])
    covariance = np.zeros((2, 2))
    for _ in range(1000):
        for _ in range(k):
            covariance = inner @ covariance @ inner.T + noise
        covariance = pull @ covariance @ pull.T
    sgd = 0.0
    for _ in range(5000):
        sgd = (1 - gamma) ** 2 * sgd + gamma**2
    return covariance[1, 1] / sgd
