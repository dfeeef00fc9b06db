"""Golden values of the normalizations: torch's kernels, confirmed by flax, jax and sums written out in NumPy."""

import math

import numpy as np

from spec.golden import Recipe, recipe

NEEDS = ("torch", "flax", "jax")
SECOND = "flax.linen with jax's derivatives"
# Large next to the variances below, so that its place inside the root shows in the third digit and not in the ninth.
EPS = 0.1


def _data(shape, seed, channel_axis=1):
    """Numbers whose mean and spread differ from sample to sample and from channel to channel."""
    rng = np.random.default_rng(seed)
    ends = [shape[0], *(1 for _ in shape[1:])], [1 if d != channel_axis else shape[d] for d in range(len(shape))]
    mean, spread = (rng.normal(size=e) for e in ends), (rng.uniform(0.3, 1.5, size=e) for e in ends)
    return sum(mean) + math.prod(spread) * rng.normal(size=shape)


def _affine(recipe, tag, shape, seed):
    rng = np.random.default_rng(seed)
    weight = recipe.given(f"weights_{tag}.weight", rng.uniform(0.5, 1.5, size=shape) * rng.choice([-1, 1], size=shape))
    return weight, recipe.given(f"weights_{tag}.bias", rng.normal(size=shape))


def _derivatives(recipe, tag, module, second, x, weight=None, bias=None):
    """Freeze output, gradients and a product with the second derivative; `second(x, weight, bias)` is jax's."""
    import jax
    import jax.numpy as jnp
    import torch

    rng = np.random.default_rng(list(tag.encode()))  # another for each, or equal ∂β would check one thing twice
    cotangent = recipe.given(f"cotangent_{tag}", rng.normal(size=x.shape))
    tangent = recipe.given(f"tangent_{tag}", rng.normal(size=x.shape))

    leaf = torch.from_numpy(x).requires_grad_()
    output = module(leaf)
    leaves = [leaf, *module.parameters()]
    grads = torch.autograd.grad(output, leaves, torch.from_numpy(cotangent), create_graph=True)
    (curvature,) = torch.autograd.grad(grads[0], leaf, torch.from_numpy(tangent))

    arguments = (x,) if weight is None else (x, weight, bias)
    counterpart, pull = jax.vjp(second, *arguments)

    def slope_along_tangent(t):
        return jnp.vdot(jax.vjp(lambda s: second(s, *arguments[1:]), t)[1](cotangent)[0], tangent)

    recipe.expect(f"y_{tag}", output, second=counterpart)
    for name, first, other in zip(("dx", "dweight", "dbias"), grads, pull(cotangent)):
        recipe.expect(f"{name}_{tag}", first, second=other)
    recipe.expect(f"curvature_{tag}", curvature, second=jax.grad(slope_along_tangent)(x))


def _flax(layer, channels_last=True):
    """A flax module as a function of (x, scale, bias), in torch's order of dimensions."""
    import jax.numpy as jnp

    def call(x, weight=None, bias=None):
        params = {} if weight is None else {"params": {"scale": weight, "bias": bias}}
        x = jnp.asarray(x)
        output = layer.apply(params, jnp.moveaxis(x, 1, -1) if channels_last else x)
        return jnp.moveaxis(output, -1, 1) if channels_last else output

    return call


def _exact():
    """flax with float64 and the centred variance, which it does not use by default."""
    import jax

    jax.config.update("jax_enable_x64", True)
    return {"epsilon": EPS, "use_fast_variance": False, "dtype": "float64"}


@recipe(
    "batch-norm",
    oracle="torch.nn.BatchNorm1d, BatchNorm2d, BatchNorm3d in float64",
    second=f"{SECOND}; running statistics as weighted sums of numpy.mean and numpy.var(ddof=1)",
    needs=NEEDS,
)
def batch_norm(recipe: Recipe) -> None:
    import flax.linen
    import jax.numpy as jnp
    import torch

    exact = _exact()
    kinds = {"0d": torch.nn.BatchNorm1d, "1d": torch.nn.BatchNorm1d, "2d": torch.nn.BatchNorm2d}
    kinds["3d"] = torch.nn.BatchNorm3d
    shapes = {"0d": (5, 3), "1d": (3, 4, 5), "2d": (2, 3, 4, 5), "3d": (3, 2, 2, 3, 4)}
    for seed, (tag, shape) in enumerate(shapes.items()):
        x = recipe.given(f"x_{tag}", _data(shape, seed))
        weight, bias = _affine(recipe, tag, shape[1], seed)
        module = kinds[tag](shape[1], eps=EPS).double()
        module.weight.data, module.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)

        def second(x, weight, bias):
            start = {"mean": jnp.zeros(len(weight)), "var": jnp.ones(len(weight))}
            layer = flax.linen.BatchNorm(use_running_average=False, **exact)
            variables = {"params": {"scale": weight, "bias": bias}, "batch_stats": start}
            output, _ = layer.apply(variables, jnp.moveaxis(jnp.asarray(x), 1, -1), mutable=["batch_stats"])
            return jnp.moveaxis(output, -1, 1)

        _derivatives(recipe, tag, module, second, x, weight, bias)

    # Three batches that differ, then an evaluation.
    batches = recipe.given("batches", np.stack([_data((2, 3, 2, 3), seed) for seed in (11, 12, 13)]))
    weight, bias = _affine(recipe, "tracked", 3, 20)
    means = np.stack([b.mean(axis=(0, 2, 3)) for b in batches])
    variances = np.stack([b.var(axis=(0, 2, 3), ddof=1) for b in batches])
    shares = {"momentum": (0.3, np.array([0.3 * 0.7**2, 0.3 * 0.7, 0.3]), 0.7**3), "average": (None, np.ones(3) / 3, 0)}
    for tag, (momentum, share, rest) in shares.items():
        module = torch.nn.BatchNorm2d(3, eps=EPS, momentum=momentum).double()
        module.weight.data, module.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)
        for batch in batches:
            module(torch.from_numpy(batch))
        running_mean, running_var = share @ means, share @ variances + rest
        recipe.expect(f"running_mean_{tag}", module.running_mean, second=running_mean)
        recipe.expect(f"running_var_{tag}", module.running_var, second=running_var)
        columns = (slice(None), None, None)
        counterpart = (batches[0] - running_mean[columns]) / np.sqrt(running_var + EPS)[columns]
        counterpart = counterpart * weight[columns] + bias[columns]
        recipe.expect(f"evaluated_{tag}", module.eval()(torch.from_numpy(batches[0])), second=counterpart)


@recipe("layer-norm", oracle="torch.nn.LayerNorm in float64", second=f"{SECOND}; ±1/√5, ±3/√5", needs=NEEDS)
def layer_norm(recipe: Recipe) -> None:
    import flax.linen
    import torch

    exact = _exact()
    shapes = {"one": ((3, 2, 7), 1), "two": ((3, 2, 4, 5), 2), "three": ((2, 4, 3, 2), 3)}
    for seed, (tag, (shape, trailing)) in enumerate(shapes.items()):
        x = recipe.given(f"x_{tag}", _data(shape, 30 + seed))
        weight, bias = _affine(recipe, tag, shape[-trailing:], 30 + seed)
        module = torch.nn.LayerNorm(shape[-trailing:], eps=EPS).double()
        module.weight.data, module.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)
        axes = tuple(range(-trailing, 0))
        layer = flax.linen.LayerNorm(reduction_axes=axes, feature_axes=axes, **exact)
        _derivatives(recipe, tag, module, _flax(layer, channels_last=False), x, weight, bias)
    counted = recipe.given("x_counted", np.array([[1.0, 2, 3, 4]]))
    root = 5**-0.5
    module = torch.nn.LayerNorm(4, eps=0).double()
    recipe.expect("y_counted", module(torch.from_numpy(counted)), second=[[-3 * root, -root, root, 3 * root]])


@recipe(
    "instance-norm",
    oracle="torch.nn.InstanceNorm1d, InstanceNorm2d, InstanceNorm3d in float64",
    second=f"{SECOND}; running statistics by numpy.mean and numpy.var(ddof=1)",
    needs=NEEDS,
)
def instance_norm(recipe: Recipe) -> None:
    import flax.linen
    import torch

    exact = _exact()
    kinds = {"1d": torch.nn.InstanceNorm1d, "2d": torch.nn.InstanceNorm2d, "3d": torch.nn.InstanceNorm3d}
    shapes = {"1d": (3, 4, 5), "2d": (2, 3, 4, 5), "3d": (3, 2, 2, 3, 4)}
    layer = flax.linen.InstanceNorm(**exact)
    for seed, (tag, shape) in enumerate(shapes.items()):
        x = recipe.given(f"x_{tag}", _data(shape, 50 + seed))
        weight, bias = _affine(recipe, tag, shape[1], 50 + seed)
        module = kinds[tag](shape[1], eps=EPS, affine=True).double()
        module.weight.data, module.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)
        _derivatives(recipe, tag, module, _flax(layer), x, weight, bias)
    plain = flax.linen.InstanceNorm(use_scale=False, use_bias=False, **exact)
    x = recipe.given("x_plain", _data((3, 2, 4, 3), 60))
    _derivatives(recipe, "plain", torch.nn.InstanceNorm2d(2, eps=EPS).double(), _flax(plain), x)

    batches = recipe.given("batches", np.stack([_data((2, 3, 2, 3), seed) for seed in (61, 62, 63)]))
    module = torch.nn.InstanceNorm2d(3, eps=EPS, momentum=0.3, track_running_stats=True).double()
    for batch in batches:
        module(torch.from_numpy(batch))
    share = np.array([0.3 * 0.7**2, 0.3 * 0.7, 0.3])
    mean = share @ batches.mean(axis=(3, 4)).mean(axis=1)
    variance = share @ batches.var(axis=(3, 4), ddof=1).mean(axis=1) + 0.7**3
    recipe.expect("running_mean", module.running_mean, second=mean)
    recipe.expect("running_var", module.running_var, second=variance)
    counterpart = (batches[0] - mean[:, None, None]) / np.sqrt(variance + EPS)[:, None, None]
    recipe.expect("evaluated", module.eval()(torch.from_numpy(batches[0])), second=counterpart)


@recipe("group-norm", oracle="torch.nn.GroupNorm in float64", second=SECOND, needs=NEEDS)
def group_norm(recipe: Recipe) -> None:
    import flax.linen
    import torch

    exact = _exact()
    for groups in (1, 2, 3, 4, 6, 12):
        _grouped(recipe, f"g{groups}", groups, (2, 12, 3, 2), exact, flax, torch)
    _grouped(recipe, "0d", 2, (3, 6), exact, flax, torch)
    _grouped(recipe, "1d", 3, (2, 6, 5), exact, flax, torch)
    _grouped(recipe, "3d", 2, (3, 4, 2, 3, 5), exact, flax, torch)


def _grouped(recipe, tag, groups, shape, exact, flax, torch):
    x = recipe.given(f"x_{tag}", _data(shape, 70 + groups))
    weight, bias = _affine(recipe, tag, shape[1], 70 + groups)
    module = torch.nn.GroupNorm(groups, shape[1], eps=EPS).double()
    module.weight.data, module.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)
    layer = flax.linen.GroupNorm(num_groups=groups, **exact)
    _derivatives(recipe, tag, module, _flax(layer), x, weight, bias)
