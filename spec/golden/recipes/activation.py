"""Golden values of the activation functions: torch.nn next to mpmath (30 digits), scipy and jax."""

from functools import cache

import numpy as np

from spec.golden import Recipe, recipe

GRID = np.linspace(-8, 8, 65)[1:-1]  # 0 and ±3 are on it
ENDS = 12.0  # the normal density at 12 is 2e-32


def curves(recipe: Recipe, x, module, f, kinks=(), second_order=True) -> None:
    """Value, slope and curvature of torch's module over x, next to those of f by mpmath; no derivative at the kinks."""
    import mpmath
    import torch

    mpmath.mp.dps = 30
    x = recipe.given("x", x)
    recipe.expect("y", module(torch.from_numpy(x)), second=[float(f(mpmath.mpf(t))) for t in x.tolist()])
    smooth = recipe.given("smooth_x", [t for t in x.tolist() if t not in kinks])
    leaf = torch.from_numpy(smooth).requires_grad_()
    (slope,) = torch.autograd.grad(module(leaf).sum(), leaf, create_graph=second_order)
    recipe.expect("slope", slope, second=[float(mpmath.diff(f, mpmath.mpf(t))) for t in smooth.tolist()])
    if second_order:
        (curvature,) = torch.autograd.grad(slope.sum(), leaf)
        second = [float(mpmath.diff(f, mpmath.mpf(t), 2)) for t in smooth.tolist()]
        recipe.expect("curvature", curvature, second=second)


def minimum(recipe: Recipe, f, near: float, bounds: tuple[float, float]) -> None:
    """Where f has its minimum, and how deep: Newton on f′ with 30 digits, next to scipy's bounded search."""
    import mpmath
    from scipy.optimize import minimize_scalar

    mpmath.mp.dps = 30
    place = mpmath.findroot(lambda t: mpmath.diff(f, t), near)
    found = minimize_scalar(lambda t: float(f(mpmath.mpf(t))), bounds=bounds, options={"xatol": 1e-10})
    recipe.given("argmin", [float(place)])
    recipe.expect("minimum", [float(f(place))], second=[found.fun])


def steepest(recipe: Recipe, f, near: float, bounds: tuple[float, float]) -> None:
    """Where f is steepest, and how steep: the root of f″, next to scipy's bounded search."""
    import mpmath
    from scipy.optimize import minimize_scalar

    mpmath.mp.dps = 30
    place = mpmath.findroot(lambda t: mpmath.diff(f, t, 2), near)
    found = minimize_scalar(lambda t: -float(mpmath.diff(f, mpmath.mpf(t))), bounds=bounds, options={"xatol": 1e-10})
    recipe.given("steepest_x", [float(place)])
    recipe.expect("steepest", [float(mpmath.diff(f, place))], second=[-found.fun])


@cache
def legendre(n: int) -> list:
    """The n pairs of node and weight of the Gauss-Legendre rule on [-1, 1], by Newton on P_n with 40 digits.

    numpy.polynomial.legendre.leggauss takes eigenvalues, whose last digits depend on the processor.
    """
    import mpmath

    def polynomial(x):
        """P_n(x) and P_n'(x) by the recurrence (k + 1) P_{k+1} = (2k + 1) x P_k - k P_{k-1}."""
        last, value = mpmath.mpf(1), x
        for k in range(1, n):
            last, value = value, ((2 * k + 1) * x * value - k * last) / (k + 1)
        return value, n * (x * value - last) / (x * x - 1)

    rule = []
    with mpmath.workdps(40):
        for i in range(n):
            x = -mpmath.cos(mpmath.pi * (i + mpmath.mpf(3) / 4) / (n + mpmath.mpf(1) / 2))
            for _ in range(6):  # digits double from three
                value, slope = polynomial(x)
                x -= value / slope
            rule.append((x, 2 / ((1 - x * x) * polynomial(x)[1] ** 2)))
    return rule


def moments(recipe: Recipe, f, kinks, mean=None, square=None) -> None:
    """E f(z) and E f(z)² for z ~ N(0, 1): a closed form, or quadrature with 30 digits, next to scipy's quadrature.

    Freezes nodes and weights of a Gauss rule as well, piece by piece between the kinks, so that a spec only adds up.
    """
    import mpmath
    from scipy.integrate import quad

    mpmath.mp.dps = 30
    edges = [-ENDS, *kinks, ENDS]
    pieces = list(zip(edges[:-1], edges[1:]))
    nodes, weights = [], []
    for a, b in pieces:
        half, middle = (mpmath.mpf(b) - a) / 2, (mpmath.mpf(a) + b) / 2
        nodes += [half * x + middle for x, _ in legendre(160)]
        weights += [half * weight * mpmath.npdf(half * x + middle) for x, weight in legendre(160)]
    recipe.given("nodes", [float(x) for x in nodes])
    recipe.given("weights", [float(x) for x in weights])
    for name, power, closed in (("mean", 1, mean), ("mean_square", 2, square)):

        def weighted(t, power=power):
            return f(t) ** power * mpmath.npdf(t)

        exact = mpmath.quad(weighted, [-mpmath.inf, *kinks, mpmath.inf]) if closed is None else closed
        second = sum(quad(lambda t, g=weighted: float(g(mpmath.mpf(t))), a, b, epsabs=1e-14)[0] for a, b in pieces)
        recipe.expect(name, float(exact), second=second)


def left_tail(recipe: Recipe, f, in_numpy, x) -> None:
    """ln(−f) far to the left or close to 0, where float32 has digits that a careless formula loses; in float64."""
    import mpmath

    mpmath.mp.dps = 30
    x = recipe.given("tail_x", np.asarray(x, dtype=np.float32)).astype("float64")
    recipe.expect("tail", [float(mpmath.log(-f(mpmath.mpf(t)))) for t in x.tolist()], second=np.log(-in_numpy(x)))


def distance(recipe: Recipe, name: str, f, g, near: float) -> None:
    """sup |f − g|, reached where f′ = g′: Newton with 30 digits, next to a search over a fine grid."""
    import mpmath

    mpmath.mp.dps = 30

    def gap(t):
        return f(t) - g(t)

    place = mpmath.findroot(lambda t: mpmath.diff(gap, t), near)
    grid = [abs(float(gap(mpmath.mpf(float(place) + k * 1e-5)))) for k in range(-20, 21)]
    recipe.given(f"{name}_x", [float(place)])
    recipe.expect(name, [abs(float(gap(place)))], second=[max(grid)])


# ---------------------------------------------------------------------------------------------- rectifiers


@recipe(
    "leaky-relu",
    oracle="torch.nn.LeakyReLU in float64; moments in closed form",
    second="mpmath, 30 digits; scipy quadrature",
    needs=("torch", "mpmath", "scipy"),
)
def leaky_relu(recipe: Recipe) -> None:
    import mpmath
    import torch

    def f(t):
        return t if t > 0 else mpmath.mpf(0.2) * t

    mpmath.mp.dps = 30
    curves(recipe, GRID, torch.nn.LeakyReLU(0.2), f, kinks=(0.0,), second_order=False)
    a = mpmath.mpf(0.2)
    moments(recipe, f, (0,), mean=(1 - a) / mpmath.sqrt(2 * mpmath.pi), square=(1 + a**2) / 2)


@recipe(
    "prelu",
    oracle="torch.nn.PReLU in float64; moments in closed form",
    second="flax.linen.PReLU and jax.vjp in float64; scipy quadrature",
    needs=("torch", "jax", "flax", "mpmath", "scipy"),
)
def prelu(recipe: Recipe) -> None:
    import jax
    import jax.numpy as jnp
    import mpmath
    import torch
    from flax import linen

    draw = np.random.default_rng(0)
    with jax.enable_x64(True):
        for name, shape in (("features", (4, 3)), ("images", (2, 3, 4, 3))):
            x = recipe.given(f"{name}.x", draw.normal(size=shape))
            cotangent = recipe.given(f"{name}.cotangent", draw.normal(size=shape))
            weight = recipe.given(f"{name}_state.weight", np.array([0.6, -0.3, 1.4]))
            module = torch.nn.PReLU(3).double()
            module.load_state_dict({"weight": torch.from_numpy(weight)})
            leaf = torch.from_numpy(x).requires_grad_()
            y = module(leaf)
            d_x, d_weight = torch.autograd.grad(y, [leaf, module.weight], torch.from_numpy(cotangent))

            def channels(x, weight):
                # One slope a channel: flax has shared slopes only, so one call a channel.
                apply = linen.PReLU(param_dtype=jnp.float64).apply
                columns = [apply({"params": {"negative_slope": weight[c]}}, x[:, c]) for c in range(3)]
                return jnp.stack(columns, axis=1)

            again, pullback = jax.vjp(channels, jnp.asarray(x), jnp.asarray(weight))
            d_again = pullback(jnp.asarray(cotangent))
            recipe.expect(f"{name}.y", y, second=np.asarray(again))
            recipe.expect(f"{name}.d_x", d_x, second=np.asarray(d_again[0]))
            recipe.expect(f"{name}.d_weight", d_weight, second=np.asarray(d_again[1]))
    mpmath.mp.dps = 30

    def f(t):
        return t if t > 0 else t / 4

    moments(recipe, f, (0,), mean=mpmath.mpf(3) / 4 / mpmath.sqrt(2 * mpmath.pi), square=mpmath.mpf(17) / 32)


@recipe(
    "elu",
    oracle="torch.nn.ELU in float64; moments in closed form; mpmath for the tail",
    second="mpmath, 30 digits; scipy quadrature; numpy for the tail",
    needs=("torch", "mpmath", "numpy", "scipy"),
)
def elu(recipe: Recipe) -> None:
    import mpmath
    import torch

    alpha = 1.5

    def elu_of(alpha):
        return lambda t: t if t > 0 else alpha * mpmath.expm1(t)

    mpmath.mp.dps = 30
    curves(recipe, GRID, torch.nn.ELU(alpha), elu_of(alpha), kinks=(0.0,))
    root = mpmath.sqrt(mpmath.e)
    mean = 1 / mpmath.sqrt(2 * mpmath.pi) + root * mpmath.ncdf(-1) - mpmath.mpf(1) / 2
    # E[(e^z − 1)²; z < 0] = e²Φ(−2) − 2√e Φ(−1) + ½, and E[z²; z > 0] = ½.
    square = 1 + mpmath.e**2 * mpmath.ncdf(-2) - 2 * root * mpmath.ncdf(-1)
    moments(recipe, elu_of(1), (0,), mean=mean, square=square)
    left_tail(recipe, elu_of(1), np.expm1, [-1e-6, -1e-8, -1e-4, -1e-2, -3.0])


# ---------------------------------------------------------------------------------------------- smooth gates


@recipe(
    "gelu",
    oracle="torch.nn.GELU in float64; extrema, distances and moments by mpmath",
    second="mpmath, 30 digits; scipy search and quadrature",
    needs=("torch", "mpmath", "scipy"),
)
def gelu(recipe: Recipe) -> None:
    import mpmath
    import torch

    def exact(t):
        return t * mpmath.ncdf(t)

    def approximate(t):
        return t / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (t + mpmath.mpf("0.044715") * t**3)))

    def quick(t):
        return t / (1 + mpmath.exp(-mpmath.mpf("1.702") * t))

    curves(recipe, GRID, torch.nn.GELU(), exact)
    variant = Recipe()
    curves(variant, GRID, torch.nn.GELU("tanh"), approximate)
    minimum(variant, approximate, -0.75, (-1.5, -0.2))
    for name in ("y", "slope", "curvature", "minimum"):
        recipe.expect(f"tanh_{name}", variant.values[name], second=variant.seconds[name])
    recipe.given("tanh_argmin", variant.inputs["argmin"])
    minimum(recipe, exact, -0.75, (-1.5, -0.2))
    steepest(recipe, exact, 1.4, (0.5, 2.5))
    distance(recipe, "tanh_gap", exact, approximate, 2.7)
    distance(recipe, "quick_gap", exact, quick, 2.27)
    moments(recipe, exact, (0,), mean=1 / (2 * mpmath.sqrt(mpmath.pi)))


@recipe(
    "silu",
    oracle="torch.nn.SiLU in float64; extrema and moments by mpmath",
    second="mpmath, 30 digits; scipy search and quadrature; jax.grad",
    needs=("torch", "jax", "mpmath", "scipy"),
)
def silu(recipe: Recipe) -> None:
    import jax
    import jax.numpy as jnp
    import mpmath
    import torch

    def f(t):
        return t / (1 + mpmath.exp(-t))

    curves(recipe, GRID, torch.nn.SiLU(), f)
    minimum(recipe, f, -1.28, (-2.5, -0.5))
    steepest(recipe, f, 2.4, (1.0, 4.0))
    moments(recipe, f, (0,))
    left_tail(recipe, f, lambda x: x / (1 + np.exp(-x)), [-10, -20, -50, -80])

    # Swish with another β, by torch's SiLU and by jax's sigmoid: value, slope and ∂/∂β of the sum.
    beta = recipe.given("swish_state.beta", np.array(-0.75))
    x = torch.from_numpy(GRID.copy()).requires_grad_()
    b = torch.tensor(float(beta), dtype=torch.float64, requires_grad=True)
    y = torch.nn.functional.silu(b * x) / b
    d_x, d_beta = torch.autograd.grad(y.sum(), [x, b])
    with jax.enable_x64(True):

        def swish(x, beta):
            return x * jax.nn.sigmoid(beta * x)

        grads = jax.grad(lambda x, beta: swish(x, beta).sum(), (0, 1))(jnp.asarray(GRID), jnp.asarray(beta))
        recipe.expect("swish.y", y, second=np.asarray(swish(jnp.asarray(GRID), jnp.asarray(beta))))
        recipe.expect("swish.d_x", d_x, second=np.asarray(grads[0]))
        recipe.expect("swish.d_beta", d_beta, second=np.asarray(grads[1]))


@recipe(
    "mish",
    oracle="torch.nn.Mish in float64; extrema and moments by mpmath",
    second="mpmath, 30 digits; scipy search and quadrature",
    needs=("torch", "mpmath", "scipy"),
)
def mish(recipe: Recipe) -> None:
    import mpmath
    import torch

    def f(t):
        return t * mpmath.tanh(mpmath.log1p(mpmath.exp(t)))

    curves(recipe, GRID, torch.nn.Mish(), f)
    minimum(recipe, f, -1.19, (-2.5, -0.5))
    steepest(recipe, f, 1.5, (0.5, 3.0))
    moments(recipe, f, (0,))
    left_tail(recipe, f, lambda x: x * np.tanh(np.log1p(np.exp(x))), [-10, -20, -50, -80])


# ---------------------------------------------------------------------------------------------- hard gates


def hard(recipe: Recipe, module, function, f) -> None:
    """Value and slope of torch's module next to jax's and mpmath's, at its kinks by torch alone; moments of f.

    torch's slope of Hardsigmoid is 1/6 rounded to float32 even in float64; mpmath's comes first.
    """
    import jax
    import jax.numpy as jnp
    import mpmath
    import torch

    mpmath.mp.dps = 30
    x = torch.from_numpy(recipe.given("x", GRID)).requires_grad_()
    y = module(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    with jax.enable_x64(True):
        recipe.expect("y", y, second=np.asarray(function(jnp.asarray(GRID))))
    smooth = recipe.given("smooth", np.abs(GRID) != 3)
    exact = [float(mpmath.diff(f, mpmath.mpf(t))) for t in GRID[smooth].tolist()]
    recipe.expect("slope", exact, second=slope[torch.from_numpy(smooth)])
    recipe.expect("slope_at_minus_3_and_3", slope[torch.from_numpy(~smooth)])
    moments(recipe, f, (-3, 3))


@recipe(
    "hard-sigmoid",
    oracle="torch.nn.Hardsigmoid in float64; slope, moments and distance by mpmath",
    second="jax.nn.hard_sigmoid in float64; torch for the slope; scipy quadrature",
    needs=("torch", "jax", "mpmath", "scipy"),
)
def hard_sigmoid(recipe: Recipe) -> None:
    import jax
    import mpmath
    import torch

    def f(t):
        return min(max(t + 3, 0), 6) / mpmath.mpf(6)

    hard(recipe, torch.nn.Hardsigmoid(), jax.nn.hard_sigmoid, f)
    distance(recipe, "sigmoid_gap", lambda t: 1 / (1 + mpmath.exp(-t)), f, 1.3)


@recipe(
    "hard-swish",
    oracle="torch.nn.Hardswish in float64; slope and moments by mpmath",
    second="jax.nn.hard_swish in float64; torch for the slope; scipy search and quadrature",
    needs=("torch", "jax", "mpmath", "scipy"),
)
def hard_swish(recipe: Recipe) -> None:
    import jax
    import mpmath
    import torch

    def f(t):
        return t * min(max(t + 3, 0), 6) / mpmath.mpf(6)

    hard(recipe, torch.nn.Hardswish(), jax.nn.hard_swish, f)
    minimum(recipe, f, -1.5, (-2.9, -0.2))
