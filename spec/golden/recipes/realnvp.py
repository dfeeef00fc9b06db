"""Golden values of RealNVP."""

import numpy as np

from spec.golden import Recipe, recipe


@recipe(
    "realnvp",
    oracle="normflows' MaskedAffineFlow, nflows' SqueezeTransform, and mpmath with 30 digits",
    second="NumPy in float64 with the determinant of a Jacobian by complex steps, or by hand",
    needs=("torch", "normflows", "nflows", "mpmath"),
)
def realnvp(recipe: Recipe) -> None:
    _couplings(recipe)
    _squeeze(recipe)
    _logits(recipe)


def _couplings(recipe):
    """Two couplings of opposite masks, networks of one hidden layer; log-determinants also from whole Jacobians."""
    import torch
    from normflows.flows import MaskedAffineFlow

    generator = np.random.default_rng(0)
    x = recipe.given("x", generator.normal(size=(3, 5)).round(3))
    layers = []
    for n, mask in enumerate(([1.0, 0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0, 1.0])):
        b = np.array(mask)
        weights = {
            "net.0.weight": generator.normal(size=(4, 5)),
            "net.0.bias": generator.normal(size=4),
            "net.2.weight": generator.normal(size=(10, 4)),
            "net.2.bias": generator.normal(size=10),
            "scale": generator.uniform(0.3, 1.4, size=5),
        }
        weights = {key: recipe.given(f"{n}.{key}", value.round(3)) for key, value in weights.items()}
        layers.append((recipe.given(f"{n}.mask", b), weights))

    class Half(torch.nn.Module):
        """s or t as normflows wants it: a network of its own."""

        def __init__(self, weights, scaled):
            super().__init__()
            self.weights, self.scaled = {k: torch.from_numpy(v) for k, v in weights.items()}, scaled

        def forward(self, v):
            w = self.weights
            hidden = torch.tanh(torch.nn.functional.linear(v, w["net.0.weight"], w["net.0.bias"]))
            rows = slice(0, 5) if self.scaled else slice(5, 10)
            out = torch.nn.functional.linear(hidden, w["net.2.weight"][rows], w["net.2.bias"][rows])
            return w["scale"] * torch.tanh(out) if self.scaled else out

    flows = [MaskedAffineFlow(torch.from_numpy(b), t=Half(w, False), s=Half(w, True)) for b, w in layers]
    y, log_det = torch.from_numpy(x), 0.0
    for one in flows:
        y, part = one(y)
        log_det = log_det + part
    back, back_log_det = torch.from_numpy(x), 0.0
    for one in reversed(flows):
        back, part = one.inverse(back)
        back_log_det = back_log_det + part

    def forward(v):
        """One sample, entry by entry."""
        for b, w in layers:
            hidden = np.tanh(w["net.0.weight"] @ (b * v) + w["net.0.bias"])
            out = w["net.2.weight"] @ hidden + w["net.2.bias"]
            s, t = w["scale"] * np.tanh(out[:5]), out[5:]
            v = np.array([v[j] if b[j] else v[j] * np.exp(s[j]) + t[j] for j in range(5)])
        return v

    def inverse(v):
        for b, w in reversed(layers):
            hidden = np.tanh(w["net.0.weight"] @ (b * v) + w["net.0.bias"])
            out = w["net.2.weight"] @ hidden + w["net.2.bias"]
            s, t = w["scale"] * np.tanh(out[:5]), out[5:]
            v = np.array([v[j] if b[j] else (v[j] - t[j]) / np.exp(s[j]) for j in range(5)])
        return v

    def by_jacobian(function, v):
        """log|det| of a Jacobian by complex steps: exact to rounding, and without a logarithm of any s."""
        columns = [np.imag(_complex(function, v, j)) / 1e-30 for j in range(5)]
        return np.linalg.slogdet(np.stack(columns, axis=1))[1]

    recipe.expect("y", y, second=np.stack([forward(v) for v in x]))
    recipe.expect("log_det", log_det, second=np.array([by_jacobian(forward, v) for v in x]))
    recipe.expect("back", back, second=np.stack([inverse(v) for v in x]))
    recipe.expect("back_log_det", back_log_det, second=np.array([by_jacobian(inverse, v) for v in x]))


def _complex(function, v, j):
    stepped = v.astype(complex)
    stepped[j] += 1e-30j
    return function(stepped)


def _squeeze(recipe):
    import torch
    from nflows.transforms import SqueezeTransform

    x = recipe.given("squeeze.x", np.arange(2 * 3 * 4 * 6, dtype=float).reshape(2, 3, 4, 6))
    by_loops = np.empty((2, 12, 2, 3))
    for c in range(3):
        for i in range(2):
            for j in range(2):
                by_loops[:, 4 * c + 2 * i + j] = x[:, c, i::2, j::2]
    recipe.expect("squeeze.y", SqueezeTransform()(torch.from_numpy(x))[0], second=by_loops)


def _logits(recipe):
    """Grey values 0, 1, 128 and 255.5 of 256 at α = 0.05 and 0.2, one pixel a sample."""
    import mpmath

    mpmath.mp.dps = 30
    x = recipe.given("logits.x", np.array([[0.0], [1.0], [128.0], [255.5]]) / 256)
    for alpha in (0.05, 0.2):

        def logit(v, alpha=alpha):
            p = alpha + (1 - mpmath.mpf(alpha)) * v
            return mpmath.log(p / (1 - p))

        y = np.array([[float(logit(mpmath.mpf(v)))] for v in x[:, 0]])
        slope = np.array([float(mpmath.log(mpmath.diff(logit, mpmath.mpf(v)))) for v in x[:, 0]])
        p = alpha + (1 - alpha) * x
        recipe.expect(f"logits.{alpha}.y", y, second=2 * np.arctanh(2 * p - 1))
        recipe.expect(f"logits.{alpha}.log_det", slope, second=np.log((1 - alpha) / (p * (1 - p)))[:, 0])
