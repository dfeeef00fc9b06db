"""Properties of Glow.  Kingma & Dhariwal 2018, arXiv:1807.03039."""

import math

import pytest
import torch
from hypothesis import given

from impl.models.glow import ActNorm2d, AffineCoupling2d, Glow, InvertibleConv1x1, bits_per_dim
from spec import cost, laws
from spec.cases.glow import actnorm, conv, coupling, glow
from spec.cases.realnvp import stir
from spec.laws import double, random
from spec.strategies import seeds, sizes

pytestmark = pytest.mark.item("glow")


def log_determinant(function, x):
    """log|det| of the Jacobian of one sample, by autograd and LU."""
    matrix = laws.jacobian(lambda one: function(one[None])[0], x).reshape(x.numel(), x.numel())
    return torch.linalg.slogdet(matrix).logabsdet


LAYERS = {
    "actnorm": (actnorm, (3, 2, 3)),
    "conv": (conv, (4, 2, 3)),
    "dense conv": (lambda: conv(False), (4, 2, 3)),
    "coupling": (coupling, (4, 2, 3)),
    "model": (lambda: glow(steps=2), (1, 4, 8)),
    "model, shuffled": (lambda: glow(permutation="shuffle", in_shape=(2, 4, 4)), (2, 4, 4)),
    "model, reversed": (lambda: glow(permutation="reverse", levels=1, in_shape=(1, 6, 2)), (1, 6, 2)),
}


@pytest.mark.states("equivalence")
@pytest.mark.parametrize("name", LAYERS)
def test_log_determinant_is_that_of_the_jacobian(name):
    """Each layer's log|det|, and the whole model's, is that of the matrix of all derivatives, sample by sample.

    Source: Kingma & Dhariwal 2018, eq. 2 to 4 and table 1.
    """
    build, shape = LAYERS[name]
    layer, x = build().double(), double(2, *shape)
    found = layer(x)[1]
    for n in range(2):
        laws.assert_close(found[n], log_determinant(lambda t: layer(t)[0], x[n]), what=f"{name}, sample {n}")


@pytest.mark.states("limiting case")
@pytest.mark.parametrize("name", LAYERS)
def test_inverse_takes_back_both_ways(name):
    """inverse(forward(x)) = x and forward(inverse(y)) = y, and the two log-determinants cancel.

    Source: Kingma & Dhariwal 2018, table 1: the reverse functions.
    """
    build, shape = LAYERS[name]
    layer, x = build().double(), double(2, *shape)
    y, there = layer(x)
    again, back = layer.inverse(y)
    laws.assert_close(again, x)
    laws.assert_close(there, -back)
    if "model" in name:
        y = double(2, math.prod(shape), seed=1)
    first, back = layer.inverse(y)
    second, there = layer(first)
    laws.assert_close(second, y)
    laws.assert_close(there, -back)


# ---------------------------------------------------------------------------------------------- actnorm


@given(n=sizes(2, 3), h=sizes(2, 4), w=sizes(2, 4), seed=seeds())
def test_actnorm_begins_by_normalizing_a_batch(n, h, w, seed):
    """After initialize(x) each channel of the output has mean 0 and variance 1 over the batch and all pixels.

    Source: Kingma & Dhariwal 2018, §3.1.
    """
    layer = ActNorm2d(3).double()
    x = 5 + 3 * double(n, 3, h, w, seed=seed) * torch.tensor([0.5, 1.0, 20.0]).double()[:, None, None]
    layer.initialize(x)
    y = layer(x)[0].transpose(0, 1).flatten(1)
    laws.assert_close(y.mean(1), torch.zeros(3).double(), atol=1e-6, because="1e-6 is added to the spread")
    laws.assert_close(y.var(1, correction=0), torch.ones(3).double(), atol=1e-4, because="1e-6 is added to the spread")


def test_actnorm_is_data_dependent_once():
    """A new actnorm is the identity; a forward pass never changes scale and bias, which are trained as any parameter.

    Source: Kingma & Dhariwal 2018, §3.1: after initialization the scale and bias are independent of the data.
    """
    layer, x = ActNorm2d(3).double(), 2 + double(4, 3, 2, 2)
    laws.assert_same(layer.train()(x)[0], x)
    layer.initialize(x)
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    layer(7 * x + 1)
    for name, value in layer.state_dict().items():
        laws.assert_same(value, state[name], name)
    laws.gradient_reaches(layer(x)[0].square().sum(), dict(layer.named_parameters()))


def test_actnorm_of_a_constant_channel_is_finite():
    """A channel of one value, and a batch of one image, are normalized to finite numbers, the channel to 0.

    Source: this project; a batch of black borders has such channels.
    """
    x = double(1, 2, 3, 3)
    x[:, 1] = 0.25
    layer = ActNorm2d(2).double()
    layer.initialize(x)
    y, log_det = layer(x)
    assert y.isfinite().all() and log_det.isfinite().all(), "expected finite numbers"
    laws.assert_close(y[:, 1], torch.zeros(1, 3, 3).double(), atol=1e-6, because="0.25 times a million")


def test_a_negative_scale_is_no_obstacle():
    """Where training has brought a scale below 0 the log-determinant has ln |s|.

    Source: Kingma & Dhariwal 2018, table 1: log|s|.
    """
    layer, x = ActNorm2d(2).double(), double(1, 2, 2, 3)
    layer.load_state_dict({"scale": torch.tensor([-2.0, 0.5]), "bias": torch.zeros(2)})
    y, log_det = layer(x)
    laws.assert_close(y, x * torch.tensor([-2.0, 0.5]).double()[:, None, None])
    laws.assert_close(log_det, torch.zeros(1).double(), atol=1e-12)


@pytest.mark.states("symmetry")
@given(h=sizes(1, 3), w=sizes(1, 3))
def test_log_determinants_grow_with_the_pixels(h, w):
    """Those of actnorm and of the 1×1 convolution are H·W times that of one pixel, whatever the image.

    Source: Kingma & Dhariwal 2018, table 1: h · w · sum(log|s|).
    """
    for layer, c in ((actnorm().double(), 3), (conv().double(), 4), (conv(False).double(), 4)):
        one, many = layer(double(1, c, 1, 1))[1], layer(double(2, c, h, w, seed=1))[1]
        laws.assert_close(many, (h * w * one).expand(2))


# ---------------------------------------------------------------------------------------------- 1×1 convolution


def test_decomposition_has_its_parts():
    """W = P L (U + diag(sign e^log_scale)): only what lies below or above the diagonal of lower and upper counts.

    Source: Kingma & Dhariwal 2018, eq. 10.
    """
    layer, x = conv().double(), double(2, 4, 2, 3)
    s = layer.state_dict()
    lower, upper = torch.eye(4).double(), torch.zeros(4, 4).double()
    for i in range(4):
        upper[i, i] = s["sign"][i] * s["log_scale"][i].exp()
        for j in range(4):
            if i > j:
                lower[i, j] = s["lower"][i, j]
            if i < j:
                upper[i, j] = s["upper"][i, j]
    expected = s["permutation"] @ lower @ upper
    laws.assert_close(layer.matrix(), expected)
    laws.assert_close(layer(x)[0], torch.einsum("ij,njhw->nihw", expected, x))
    stirred = s | {"lower": s["lower"] + 7 * torch.ones(4, 4).triu(), "upper": s["upper"] - 3 * torch.ones(4, 4).tril()}
    layer.load_state_dict(stirred)
    laws.assert_close(layer.matrix(), expected)


def test_decomposed_and_dense_are_the_same_map():
    """A dense layer with the W of a decomposed one has its outputs, log-determinants and inverse.

    Source: Kingma & Dhariwal 2018, §3.2: LU decomposition is a parameterization.
    """
    layer, other, x = conv().double(), conv(False).double(), double(2, 4, 2, 3)
    other.load_state_dict({"weight": layer.matrix().detach()})
    for found, expected in zip(other(x) + other.inverse(x), layer(x) + layer.inverse(x)):
        laws.assert_close(found, expected)


@pytest.mark.parametrize("lu", [True, False])
@given(channels=sizes(1, 6), seed=seeds())
def test_matrix_begins_as_a_rotation(lu, channels, seed):
    """At first Wᵀ W = I, so that log|det| = 0 and lengths are kept; P is a permutation that is not learned.

    Source: Kingma & Dhariwal 2018, §3.2: a random rotation matrix, with a log-determinant of 0.
    """
    laws.reseed(seed)
    layer = InvertibleConv1x1(channels, lu)
    w = layer.matrix().detach().double()
    laws.assert_close(w.T @ w, torch.eye(channels).double(), atol=1e-5, because="float32")
    laws.assert_close(layer(random(1, channels, 2, 2))[1].detach(), torch.zeros(1), atol=1e-4, because="float32")
    if lu:
        p = layer.state_dict()["permutation"]
        assert ((p == 0) | (p == 1)).all() and (p.sum(0) == 1).all() and (p.sum(1) == 1).all(), f"found {p}"
        assert not {"permutation", "sign"} & set(dict(layer.named_parameters())), "expected P and signs to be fixed"


@pytest.mark.parametrize("lu", [True, False])
def test_rotations_are_drawn_uniformly(lu):
    """Over many seeds each element of the first matrix has a mean of 0 and a variance of 1/c: none is preferred.

    The matrix of a QR decomposition, whose signs are the algorithm's, has a mean of about −½ in its first element.

    Source: Kingma & Dhariwal 2018, §3.2: a random rotation; Mezzadri 2006, arXiv:math-ph/0609050, on QR's signs.
    """
    drawn = []
    for seed in range(400):
        laws.reseed(seed)
        layer = InvertibleConv1x1(3, lu_decomposed=lu)
        eye = torch.eye(3)[:, :, None, None]
        drawn.append(layer(eye)[0][:, :, 0, 0].detach())
    drawn = torch.stack(drawn).double()
    # 400 elements of variance 1/3: a standard error of 0.029 for means, and of about 0.015 for variances
    assert drawn.mean(0).abs().max() < 0.14, f"expected means of 0, found {drawn.mean(0)}"
    spread = (drawn.var(0) - 1 / 3).abs().max()
    assert spread < 0.09, f"expected variances of 1/3, found {drawn.var(0)}"


def test_a_permutation_is_a_special_case():
    """With W a permutation matrix the layer reorders the channels.

    Source: Kingma & Dhariwal 2018, §3.2: a generalization of a permutation operation.
    """
    layer, x, order = InvertibleConv1x1(4, False).double(), double(2, 4, 2, 3), torch.tensor([2, 0, 3, 1])
    layer.load_state_dict({"weight": torch.eye(4)[order]})
    y, log_det = layer(x)
    laws.assert_close(y, x[:, order])
    laws.assert_close(log_det, torch.zeros(2).double())


@pytest.mark.states("cost")
def test_decomposed_log_determinant_costs_no_factorization():
    """Forward, the decomposed layer runs no determinant, factorization or solution; the dense one runs a determinant.

    Source: Kingma & Dhariwal 2018, §3.2: from O(c³) to O(c).
    """
    words = ("slogdet", "linalg_det", "lu_", "solve", "linalg_inv")
    found = {
        lu: [n for n in cost.operators(conv(lu), random(1, 4, 2, 2)) if any(w in n for w in words)]
        for lu in (True, False)
    }
    assert not found[True], f"expected no factorization, found {found[True]}"
    assert found[False], "expected a determinant of the dense layer"


# ---------------------------------------------------------------------------------------------- coupling


@pytest.mark.states("dependence")
def test_second_half_passes_and_decides():
    """y_b = x_b; y_a depends on x_a at its own pixel alone, and on x_b in a neighbourhood of 5 × 5.

    Source: Kingma & Dhariwal 2018, §3.3, table 1.
    """
    layer, x = coupling(hidden=12).double(), double(1, 4, 7, 7)
    y = layer(x)[0]
    laws.assert_same(y[:, 2:], x[:, 2:])
    rows = laws.jacobian(lambda t: layer(t)[0], x).reshape(4, 7, 7, 4, 7, 7).abs()
    centre = rows[:2, 3, 3].amax(0)  # of the first half at the middle pixel: (channel, height, width)
    own = torch.zeros(7, 7, dtype=torch.bool)
    own[3, 3] = True
    assert ((centre[:2].amax(0) > 0) == own).all(), f"expected x_a at its own pixel alone, found {centre[:2].amax(0)}"
    near = torch.zeros(7, 7, dtype=torch.bool)
    near[1:6, 1:6] = True
    assert not centre[2:].amax(0)[~near].any(), "expected x_b of a neighbourhood of 5 × 5"
    assert (centre[2:].amax(0)[near] > 0).all(), f"expected x_b of all its neighbourhood, found {centre[2:].amax(0)}"


def test_coupling_is_scaled_by_a_sigmoid_and_shifted():
    """y_a = σ(h + 2) ⊙ x_a + t, h and t the halves of three convolutions of x_b with ReLU between.

    Source: Kingma & Dhariwal 2018, table 1, §3.3.  Convention: σ(h + 2), as released, for exp(h).
    """
    from torch.nn import functional

    layer, x = coupling().double(), double(2, 4, 3, 5)
    s = layer.state_dict()
    hidden = functional.conv2d(x[:, 2:], s["first.weight"], s["first.bias"], padding=1).relu()
    hidden = functional.conv2d(hidden, s["second.weight"], s["second.bias"]).relu()
    out = functional.conv2d(hidden, s["last.weight"], s["last.bias"], padding=1)
    scale = 1 / (1 + (-out[:, :2] - 2).exp())
    y, log_det = layer(x)
    laws.assert_close(y[:, :2], scale * x[:, :2] + out[:, 2:])
    laws.assert_close(log_det, scale.log().sum((1, 2, 3)))


def test_coupling_begins_alike_everywhere():
    """At first y_a = σ(2) x_a: log|det| = H W C/2 · ln 0.8808 = −0.0634 H W C.

    Source: Kingma & Dhariwal 2018, §3.3: zero initialization of the last convolution.
    """
    layer, x = AffineCoupling2d(4, 3).double(), double(2, 4, 3, 5)
    y, log_det = layer(x)
    laws.assert_close(y[:, :2], x[:, :2] / (1 + math.exp(-2)))
    laws.assert_close(log_det, torch.full((2,), -30 * math.log1p(math.exp(-2)), dtype=torch.float64))


def test_far_scales_have_finite_logarithms():
    """Where h = ±1000 the log-determinant is finite: 0 for a large h, and h + 2 for a small one.

    Source: Kingma & Dhariwal 2018, table 1; ln σ without σ.
    """
    layer, x = AffineCoupling2d(2, 1), random(1, 2, 1, 1)
    for h, expected in ((1000.0, 0.0), (-1000.0, -998.0)):
        layer.load_state_dict(layer.state_dict() | {"last.bias": torch.tensor([h, 0.0])})
        laws.assert_close(layer(x)[1].detach(), torch.tensor([expected]))


# ---------------------------------------------------------------------------------------------- the model


def test_z_leaves_level_by_level():
    """z has the channels that leave at each level, flattened, in order; the last level's are all of what is left.

    Source: Kingma & Dhariwal 2018, figure 2b.
    """
    model, x = Glow((1, 4, 8), levels=2, steps=1, hidden_channels=2, permutation="reverse").double(), double(1, 1, 4, 8)
    shift, factor = x - 0.5, 1 / (1 + math.exp(-2))

    def squeezed(t):
        return torch.nn.functional.pixel_unshuffle(t, 2)

    def step(t):
        t = t.flip(1)
        a, b = t.chunk(2, dim=1)
        return torch.cat([factor * a, b], dim=1)

    h = step(squeezed(shift))
    first, h = h.chunk(2, dim=1)
    expected = torch.cat([first.flatten(1), step(squeezed(h)).flatten(1)], dim=1)
    laws.assert_close(model(x)[0], expected)


def test_density_is_that_of_the_change_of_variables():
    """log p(x) = log N(z; 0, I) + log|det|; bits per dimension add the levels of grey.

    Source: Kingma & Dhariwal 2018, eq. 2 to 4.
    """
    model, x = glow().double(), torch.rand(3, 1, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z, log_det = model(x)
    expected = (-(z**2) / 2 - math.log(2 * math.pi) / 2).sum(1) + log_det
    laws.assert_close(model.log_prob(x), expected)
    bits = bits_per_dim(model.log_prob(x), 32, 17)
    laws.assert_close(bits, -(expected / 32 - math.log(17)) / math.log(2))


def test_bits_of_a_closed_form():
    """A new model, initialized by a batch, of one pixel a channel is a Gaussian whose log p(x) has a closed form.

    With one step of reversed channels z = c (x − mean)/std, c = σ(2) for the two channels that the coupling scales.

    Source: Kingma & Dhariwal 2018, eq. 2 to 4.
    """
    model = Glow((1, 2, 2), levels=1, steps=1, hidden_channels=1, permutation="reverse").double()
    x = 0.3 + double(50, 1, 2, 2)
    model.initialize(x)
    pixels = x.flatten(1)  # row by row: the channels of the squeezed image
    c = torch.tensor([1.0, 1.0, 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-2))], dtype=torch.float64)
    z = c * (pixels - pixels.mean(0)) / (pixels.std(0, correction=0) + 1e-6)
    density = -(z**2) / 2 - math.log(2 * math.pi) / 2 + (c / (pixels.std(0, correction=0) + 1e-6)).log()
    laws.assert_close(model.log_prob(x), density.sum(1))


@pytest.mark.parametrize("steps", [1, 3])
def test_initialize_normalizes_every_step_in_turn(steps):
    """After initialize(x) a new model gives z of mean 0 on that batch, and of variance σ(2)² or 1, channel by channel.

    Each step ends with a coupling that only scales its first half by σ(2); an actnorm that was set by other inputs than
    those that reach it would leave the product of all scales before it.

    Source: Kingma & Dhariwal 2018, §3.1; zero initialization of couplings, §3.3.
    """
    model = Glow((1, 4, 8), levels=2, steps=steps, hidden_channels=2, permutation="reverse").double()
    x = 3 + 2 * double(64, 1, 4, 8)
    model.initialize(x)
    z = model(x)[0]
    first, last = z[:, :16].reshape(64, 2, 8), z[:, 16:].reshape(64, 8, 2)  # two channels of 2 × 4, eight of 1 × 2
    small = 1 / (1 + math.exp(-2)) ** 2
    for name, part, variances in (("level 1", first, [small] * 2), ("level 2", last, [small] * 4 + [1.0] * 4)):
        rows = part.transpose(0, 1).flatten(1)
        zero = torch.zeros(len(rows), dtype=torch.float64)
        laws.assert_close(rows.mean(1), zero, atol=1e-5, because="1e-6 is added to the spread", what=name)
        expected = torch.tensor(variances, dtype=torch.float64)
        found = rows.var(1, correction=0)
        laws.assert_close(found, expected, rtol=1e-4, because="1e-6 is added to the spread", what=name)


def test_temperature_scales_the_noise():
    """sample(n, T) is f⁻¹(T ε) of the same ε; T = 0 gives the image of z = 0 every time.

    Source: Kingma & Dhariwal 2018, §5: sampling from a model of reduced temperature.
    """
    model = glow().double()
    noise = torch.randn(3, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    for temperature in (1.0, 0.7, 0.0):
        found = model.sample(3, temperature, torch.Generator().manual_seed(5))
        laws.assert_close(found, model.inverse(temperature * noise)[0])
    laws.assert_same(found[0], found[1])


@pytest.mark.states("gradient routing")
def test_likelihood_reaches_every_parameter():
    """log p depends on every parameter of every step.

    Source: Kingma & Dhariwal 2018, eq. 1: trained by maximum likelihood.
    """
    model = glow(steps=2, hidden_channels=4).double()
    laws.gradient_reaches(model.log_prob(double(3, 1, 4, 8)).sum(), dict(model.named_parameters()))


@pytest.mark.states("second derivative")
def test_flow_has_second_derivatives():
    """The gradient of the gradient of a layer's output and log-determinant equals central differences.

    Source: the definition of the derivative.
    """
    layer = stir(coupling(channels=2, hidden=2).double())
    laws.gradient_correct(lambda x: layer(x), double(1, 2, 1, 2), second_order=True)
