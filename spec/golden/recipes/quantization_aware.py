"""Golden values of quantization-aware training."""

import numpy as np

from spec.golden import Recipe, recipe


@recipe(
    "quantization-aware-training",
    oracle="torch.fake_quantize_per_tensor_affine and per_channel_affine; Esser et al.'s appendix A in JAX",
    second="NumPy, by the equations; the layer in JAX with stop_gradient",
    needs=("torch", "jax"),
)
def quantization_aware_training(recipe: Recipe) -> None:
    import jax
    import torch

    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(8)
    x = recipe.given("x", (3 * rng.normal(size=(4, 3, 10))).astype(np.float32))
    cotangent = recipe.given("cotangent", rng.normal(size=x.shape).astype(np.float32))
    scales = recipe.given("scales", np.array([0.21, 0.07, 0.43], np.float32))
    points = recipe.given("zero_points", np.array([3, 0, 14], np.int32))
    for name, s, z, call in (
        ("tensor", scales[:1], points[:1], lambda t, s, z: torch.fake_quantize_per_tensor_affine(t, s[0], z[0], 0, 15)),
        ("channel", scales, points, lambda t, s, z: torch.fake_quantize_per_channel_affine(t, s, z, 1, 0, 15)),
    ):
        leaf = torch.from_numpy(x).requires_grad_()
        y = call(leaf, torch.from_numpy(s), torch.from_numpy(z))
        (slope,) = torch.autograd.grad(y, leaf, torch.from_numpy(cotangent))
        s, z = s[:, None], z[:, None]
        q = np.rint(x / s) + z
        by_hand = (np.clip(q, 0, 15) - z) * s
        recipe.expect(f"y.{name}", y, second=by_hand.astype(np.float32))
        recipe.expect(f"slope.{name}", slope, second=cotangent * ((q >= 0) & (q <= 15)))
    _learned_step(recipe, rng)
    _trained_layer(recipe, rng)


def _learned_step(recipe, rng):
    """Esser et al. 2019, appendix A: gradscale, roundpass and clip, differentiated by JAX; NumPy by eq. 3 and 5."""
    import jax
    import jax.numpy as jnp

    v = recipe.given("v", rng.normal(size=(5, 7)))
    s = recipe.given("s", np.float64(0.31))
    cotangent = recipe.given("v_cotangent", rng.normal(size=v.shape))
    for name, low, high, count in (("weights", -4, 3, 35), ("activations", 0, 7, 7)):
        gain = 1 / np.sqrt(count * high)

        def quantize(v, s, low=low, high=high, gain=gain):
            s = jax.lax.stop_gradient(s * (1 - gain)) + s * gain
            clipped = jnp.clip(v / s, low, high)
            return (jax.lax.stop_gradient(jnp.round(clipped) - clipped) + clipped) * s

        y, pull = jax.vjp(quantize, v, s)
        ratio = v / s
        slope = np.where(ratio <= low, low, np.where(ratio >= high, high, np.rint(ratio) - ratio))
        recipe.expect(f"step.{name}.y", y, second=np.rint(np.clip(ratio, low, high)) * s)
        d_v, d_s = pull(cotangent)
        recipe.expect(f"step.{name}.d_v", d_v, second=cotangent * ((ratio > low) & (ratio < high)))
        recipe.expect(f"step.{name}.d_s", d_s, second=np.float64((cotangent * slope).sum() * gain))


def _trained_layer(recipe, rng):
    """A linear layer between torch's fake quantizations, with torch's observers; and the same in JAX."""
    import jax
    import jax.numpy as jnp
    import torch
    from torch.ao.quantization import observer as library

    inputs = recipe.given("inputs", rng.normal(size=(2, 6, 5)).astype(np.float32))
    weight = recipe.given("layer.weight", rng.normal(size=(4, 5)).astype(np.float32))
    bias = recipe.given("layer.bias", rng.normal(size=4).astype(np.float32))
    cotangent = recipe.given("layer_cotangent", rng.normal(size=(6, 4)).astype(np.float32))
    leaves = [torch.from_numpy(t).requires_grad_() for t in (inputs[1], weight, bias)]
    watchers = [library.MovingAverageMinMaxObserver(averaging_constant=0.01) for _ in range(2)]
    row_range = library.PerChannelMinMaxObserver(
        dtype=torch.qint8, qscheme=torch.per_channel_symmetric, quant_min=-127, quant_max=127
    )
    row_range(leaves[1])
    rows, _ = row_range.calculate_qparams()

    def activation(t, watcher):
        watcher(t.detach())
        scale, zero_point = watcher.calculate_qparams()
        return torch.fake_quantize_per_tensor_affine(t, scale, zero_point.int(), 0, 255)

    def layer(x):
        w = torch.fake_quantize_per_channel_affine(leaves[1], rows, torch.zeros(4, dtype=torch.int32), 0, -127, 127)
        return activation(activation(x, watchers[0]) @ w.T + leaves[2], watchers[1])

    layer(torch.from_numpy(inputs[0]))
    y = layer(leaves[0])
    slopes = torch.autograd.grad(y, leaves, torch.from_numpy(cotangent))

    def on_grid(t, scale, zero_point, low, high):
        q = jnp.round(t / scale) + zero_point
        inside = (q >= low) & (q <= high)
        return jax.lax.stop_gradient((jnp.clip(q, low, high) - zero_point) * scale - t * inside) + t * inside

    grids = [[float(v) for v in w.calculate_qparams()] for w in watchers]

    def in_jax(x, w, b):
        w = on_grid(w, rows.numpy()[:, None].astype(np.float64), 0, -127, 127)
        return on_grid(on_grid(x, *grids[0], 0, 255) @ w.T + b, *grids[1], 0, 255)

    second, pull = jax.vjp(in_jax, *(t.astype(np.float64) for t in (inputs[1], weight, bias)))
    recipe.expect("layer_y", y, second=np.asarray(second).astype(np.float32))
    for name, slope, other in zip(("x", "weight", "bias"), slopes, pull(cotangent.astype(np.float64)), strict=True):
        recipe.expect(f"layer_slope.{name}", slope, second=np.asarray(other).astype(np.float32))
