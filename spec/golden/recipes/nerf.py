"""Golden values of neural radiance fields."""

import numpy as np

from spec.golden import Recipe, recipe


@recipe(
    "nerf",
    oracle="jax in float64 for the network and its gradients; nerfacc for the quadrature; scipy.stats.rv_histogram",
    second="NumPy: the layers written out, transmittance as a running product, numpy.interp",
    needs=("jax", "nerfacc", "scipy", "torch"),
)
def nerf(recipe: Recipe) -> None:
    """A network of three layers of 6, γ(x) again after two; three rays of five samples; quantiles of two densities."""
    import jax
    import jax.numpy as jnp
    import nerfacc
    import torch
    from scipy.stats import rv_histogram

    jax.config.update("jax_enable_x64", True)
    draw = np.random.default_rng(0)

    # ---------------------------------------------------------------- network
    sizes = {
        "layers.0": (6, 18),
        "layers.1": (6, 6),
        "layers.2": (6, 24),
        "sigma": (1, 6),
        "feature": (6, 6),
        "direction": (3, 18),
        "rgb": (3, 3),
    }
    state = {}
    for name, (rows, columns) in sizes.items():
        state[f"{name}.weight"] = recipe.given(f"state.{name}.weight", draw.integers(-16, 17, (rows, columns)) / 16)
        state[f"{name}.bias"] = recipe.given(f"state.{name}.bias", draw.integers(-8, 9, rows) / 16)
    x = recipe.given("x", draw.integers(-32, 32, (8, 3)) / 32)
    d = recipe.given("d", np.array([[0.6, 0.0, 0.8], [0.0, -0.8, 0.6], [1.0, 0.0, 0.0], [-0.48, 0.6, 0.64]] * 2))
    of_rgb = recipe.given("of_rgb", draw.integers(-8, 9, (8, 3)) / 8)
    of_sigma = recipe.given("of_sigma", draw.integers(-8, 9, 8) / 8)

    def field(state, x, d):
        def encode(p, octaves):
            angles = jnp.pi * jnp.exp2(jnp.arange(octaves))[:, None, None] * p  # octave, point, coordinate
            return jnp.stack([jnp.sin(angles), jnp.cos(angles)], 1).transpose(2, 0, 1, 3).reshape(len(p), -1)

        def through(name, h):
            return jnp.dot(h, state[f"{name}.weight"].T) + state[f"{name}.bias"]

        gamma = encode(x, 3)
        h = jax.nn.relu(through("layers.1", jax.nn.relu(through("layers.0", gamma))))
        h = jax.nn.relu(through("layers.2", jnp.concatenate([gamma, h], 1)))
        shade = jax.nn.relu(through("direction", jnp.concatenate([through("feature", h), encode(d, 2)], 1)))
        return jax.nn.sigmoid(through("rgb", shade)), jax.nn.relu(through("sigma", h))[:, 0]

    def paired(state, x):
        rgb, sigma = field(state, x, d)
        return (rgb * of_rgb).sum() + (sigma * of_sigma).sum()

    rgb, sigma = field(state, x, d)
    second_rgb, second_sigma = _network(state, x, d)
    assert (np.asarray(sigma) > 0).sum() not in (0, len(x))
    recipe.expect("rgb", rgb, second=second_rgb)
    recipe.expect("sigma", sigma, second=second_sigma)
    of_state, of_x = jax.grad(paired, argnums=(0, 1))(state, x)
    recipe.expect("gradient.x", of_x, second=_differences(lambda x: _paired(state, x, d, of_rgb, of_sigma), x))
    for name in ("layers.0.weight", "layers.2.weight", "feature.weight"):
        second = _differences(lambda w, name=name: _paired(state | {name: w}, x, d, of_rgb, of_sigma), state[name])
        recipe.expect(f"gradient.{name}", of_state[name], second=second)

    # ---------------------------------------------------------------- quadrature
    colours = recipe.given("colours", draw.integers(0, 33, (3, 5, 3)) / 32)
    density = recipe.given("density", draw.integers(0, 5, (3, 5)) / 4)
    t = recipe.given("t", np.array([[10, 14, 15, 23, 28], [9, 10, 13, 20, 22], [12, 20, 26, 27, 35]]) / 16)
    recipe.given("directions", np.array([[0.0, 0.6, 0.8], [3.0, 4.0, 0.0], [-0.25, 0.5, 0.5]]))
    length = np.array([1.0, 5.0, 0.75])[:, None]
    ends = np.concatenate([t[:, 1:], t[:, -1:] + 0.25], axis=1)
    starts, stops, sigmas = (torch.from_numpy(np.ascontiguousarray(a)) for a in (t * length, ends * length, density))
    weights, transmittance, _ = nerfacc.render_weight_from_density(starts, stops, sigmas)
    weights = weights.double()
    second = _absorbed(density, (ends - t) * length)
    recipe.expect("weights", weights, second=second)
    found = nerfacc.accumulate_along_rays(weights, torch.from_numpy(colours))
    recipe.expect("colour", found, second=np.einsum("rn, rnc -> rc", second, colours))
    opacity = nerfacc.accumulate_along_rays(weights)[:, 0]
    recipe.expect("opacity", opacity, second=1 - np.exp(-(density * (ends - t) * length).sum(1)))
    recipe.expect(
        "depth",
        nerfacc.accumulate_along_rays(weights, torch.from_numpy(t)[..., None])[:, 0],
        second=(second * t).sum(1),
    )

    # ---------------------------------------------------------------- quantiles
    edges = recipe.given("edges", np.array([[-1.0, -0.5, 0.25, 0.5, 2.0], [0.0, 3.0, 3.5, 4.0, 8.0]]))
    masses = recipe.given("masses", np.array([[0.5, 0.0, 2.0, 0.25], [0.0, 1.0, 1.0, 0.0]]))
    u = recipe.given("u", (draw.permutation(16).reshape(2, 8) + 0.375) / 16)
    found = [rv_histogram((m + 0.125, e), density=False).ppf(q) for m, e, q in zip(masses, edges, u, strict=True)]
    others = []
    for m, e, q in zip(masses, edges, u, strict=True):
        cdf = np.concatenate([[0.0], np.cumsum(m + 0.125) / (m + 0.125).sum()])
        others.append(np.interp(q, cdf, e))
    recipe.expect("quantiles", np.stack(found), second=np.stack(others))


def _network(state, x, d):
    """Point by point, coordinate by coordinate."""

    def encode(p, octaves):
        found = []
        for k in range(octaves):
            found += [np.sin(2.0**k * np.pi * value) for value in p]
            found += [np.cos(2.0**k * np.pi * value) for value in p]
        return np.array(found)

    def through(name, h):
        return state[f"{name}.weight"] @ h + state[f"{name}.bias"]

    colours, densities = [], []
    for point, toward in zip(x, d, strict=True):
        gamma = encode(point, 3)
        h = np.maximum(through("layers.0", gamma), 0)
        h = np.maximum(through("layers.1", h), 0)
        h = np.maximum(through("layers.2", np.concatenate([gamma, h])), 0)
        shade = np.maximum(through("direction", np.concatenate([through("feature", h), encode(toward, 2)])), 0)
        colours.append(0.5 * (1 + np.tanh(through("rgb", shade) / 2)))
        densities.append(np.maximum(through("sigma", h), 0)[0])
    return np.array(colours), np.array(densities)


def _paired(state, x, d, of_rgb, of_sigma):
    rgb, sigma = _network(state, x, d)
    return (rgb * of_rgb).sum() + (sigma * of_sigma).sum()


def _differences(function, at, step=1e-4):
    """Central differences with Richardson's extrapolation, to the sixth order in the step."""
    found = np.zeros_like(at)
    for place in np.ndindex(at.shape):

        def slope(h, place=place):
            moved = [at.copy(), at.copy()]
            moved[0][place] += h
            moved[1][place] -= h
            return (function(moved[0]) - function(moved[1])) / (2 * h)

        a, b, c = slope(step), slope(step / 2), slope(step / 4)
        found[place] = (64 * c - 20 * b + a) / 45
    return found


def _absorbed(density, length):
    """What each segment takes of the light that is left."""
    left, found = np.ones(len(density)), []
    for sigma, delta in zip(density.T, length.T, strict=True):
        found.append(left * -np.expm1(-sigma * delta))
        left = left * np.exp(-sigma * delta)
    return np.stack(found, axis=1)
