"""RealNVP and what flows share.  Dinh, Sohl-Dickstein & Bengio 2016, arXiv:1605.08803."""

import math

import pytest
import torch
from hypothesis import given
from torch import nn

from impl.layers.flows import bits_per_dim, dequantize, from_logits, log_standard_normal, squeeze, to_logits, unsqueeze
from impl.models.realnvp import AffineCoupling, RealNVP, channel_mask, checkerboard_mask
from spec import cost, laws
from spec.cases.realnvp import image_coupling, model, stir, vector_coupling
from spec.strategies import floats, images, seeds, sizes, varied

pytestmark = pytest.mark.item("realnvp")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def coupling(kind: str, seed: int = 0):
    """A coupling in float64 with nothing at its default, and the shape of its samples."""
    layer, shape = (vector_coupling(), (5,)) if kind == "vectors" else (image_coupling(), (2, 3, 4))
    return stir(layer.double(), size=0.5, seed=seed), shape


def flow(in_shape, num_scales, alpha=None, seed: int = 0):
    """A RealNVP in float64 with all couplings at work, and two images that differ."""
    images = torch.rand(2, *in_shape, dtype=torch.float64, generator=seeded(seed)) * 0.9 + 0.05
    return model(in_shape, num_scales, alpha, seed).double(), images


def log_determinant(function, x):
    """log|det| of the Jacobian of one sample, by autograd and LU."""
    matrix = laws.jacobian(lambda one: function(one[None])[0], x).reshape(x.numel(), x.numel())
    return torch.linalg.slogdet(matrix).logabsdet


MODELS = [((1, 4, 4), 2, 0.05), ((3, 2, 4), 2, None), ((1, 4, 8), 3, 0.2), ((1, 3, 5), 1, None), ((2, 1, 1), 1, 0.0)]

# ---------------------------------------------------------------------------------------------- what flows share


@given(x=images(height=sizes(1, 3).map(lambda n: 2 * n), width=sizes(1, 3).map(lambda n: 2 * n)))
@pytest.mark.states("equivalence")
def test_squeeze_takes_blocks_to_channels(x):
    """Channel 4c + 2i + j of squeeze(x) at (h, w) is x[c, 2h + i, 2w + j], and `unsqueeze` takes it back.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, §3.6.  Convention: the order of torch.nn.PixelUnshuffle.
    """
    squeezed = squeeze(x)
    laws.assert_same(squeezed, nn.PixelUnshuffle(2)(x))
    laws.assert_same(unsqueeze(squeezed), x)


@given(y=varied((2, 3, 5)), alpha=floats(0, 0.9))
def test_logits_have_an_inverse(y, alpha):
    """`to_logits` after `from_logits` is y, and the two log-determinants cancel.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, §4.1.
    """
    x, back = from_logits(y, alpha)
    again, there = to_logits(x, alpha)
    laws.assert_close(again, y)
    laws.assert_close(there, -back)


@given(x=varied((2, 6)), alpha=floats(0, 0.9))
def test_logits_and_their_derivative(x, alpha):
    """y = logit(α + (1 − α) x), and the log-determinant of a sample is Σ log dy/dx.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, §4.1.  Convention: (1 − α), not (1 − 2α).
    """
    x = x.sigmoid()
    y, log_det = to_logits(x, alpha)
    laws.assert_close(y, torch.logit(alpha + (1 - alpha) * x))
    laws.assert_close(log_det[1], log_determinant(lambda t: to_logits(t, alpha)[0], x[1]))


def test_dequantised_grey_values_fill_their_bins():
    """x = (grey + u)/levels: ⌊levels · x⌋ is the grey value, u is uniform and independent from pixel to pixel.

    20 000 values: the mean of u has a standard error of 0.002, its variance one of 0.0005; limits 5 of them.

    Source: Theis, van den Oord & Bethge 2015, arXiv:1511.01844, §3.1.
    """
    grey = torch.randint(0, 17, (4, 5000), generator=seeded(0))
    x = dequantize(grey.double(), 17, seeded(1))
    laws.assert_close((17 * x).floor(), grey.double())
    u = 17 * x - grey
    assert abs(u.mean() - 0.5) < 0.01, f"expected a mean of 1/2, found {u.mean():.4f}"
    assert abs(u.var() - 1 / 12) < 0.0025, f"expected a variance of 1/12, found {u.var():.5f}"
    correlation = torch.corrcoef(u)[0, 1].abs()
    assert correlation < 0.07, f"expected independent rows of noise, found a correlation of {correlation:.3f}"
    laws.assert_same(dequantize(grey.double(), 17, seeded(1)), x, "the sample of the same generator")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dequantised_values_stay_below_one(dtype):
    """The lightest grey value stays below 1 in every dtype, so that its logit is finite, whatever rounding does.

    A million values of 255.  Measured on 3 seeds: in float32 3, 11 and 11 of a million (255 + u)/256 round to 1.

    Source: Theis, van den Oord & Bethge 2015, §3.1: u is in [0, 1).
    """
    x = dequantize(torch.full((1, 1_000_000), 255.0, dtype=dtype), 256, seeded(1))
    assert x.dtype == dtype, f"expected {dtype}, found {x.dtype}"
    assert (x < 1).all(), "expected all below 1, found 1"
    assert to_logits(x.float(), 0.05)[0].isfinite().all(), "expected finite logits, found infinite ones"


@given(nats=floats(-900, 900), dims=sizes(2, 9), levels=sizes(2, 300))
def test_bits_per_dimension_are_those_of_grey_values(nats, dims, levels):
    """Bits = −log₂(p(x) / levels^D)/D: the density of x in [0, 1) times the volume of a bin.

    Source: Theis, van den Oord & Bethge 2015, §3.1.
    """
    log_p = torch.tensor([nats, 0.0], dtype=torch.float64)
    expected = -(log_p - dims * math.log(levels)) / (dims * math.log(2))
    laws.assert_close(bits_per_dim(log_p, dims, levels), expected)


@given(z=varied((2, 3, 4)))
def test_prior_is_standard_normal(z):
    """log N(z; 0, I) = Σ_j log N(z_j; 0, 1), one value a sample.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, §3.1.
    """
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum((1, 2))
    laws.assert_close(log_standard_normal(z), expected)


# ---------------------------------------------------------------------------------------------- masks


@given(c=sizes(1, 3), h=sizes(1, 5), w=sizes(1, 5))
def test_checkerboard_alternates_in_both_directions(c, h, w):
    """b = 1 where row + column is odd with parity 1, even with parity 0, in each channel.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, §3.4.
    """
    expected = [[[(i + j) % 2 == 1 for j in range(w)] for i in range(h)] for _ in range(c)]
    laws.assert_same(checkerboard_mask(c, h, w).bool(), torch.tensor(expected))
    laws.assert_same(checkerboard_mask(c, h, w, parity=0).bool(), ~torch.tensor(expected))


@given(half=sizes(1, 4), h=sizes(1, 3), w=sizes(1, 3))
def test_channel_mask_is_the_first_half(half, h, w):
    """b = 1 in the first half of the channels with parity 1, in the second half with parity 0.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, §3.4.
    """
    expected = torch.tensor([c < half for c in range(2 * half)])[:, None, None].expand(2 * half, h, w)
    laws.assert_same(channel_mask(2 * half, h, w).bool(), expected)
    laws.assert_same(channel_mask(2 * half, h, w, parity=0).bool(), ~expected)


# ---------------------------------------------------------------------------------------------- one coupling


@given(x=varied((3, 5)), seed=seeds())
def test_coupling_is_its_equation(x, seed):
    """y = b ⊙ x + (1 − b) ⊙ (x ⊙ exp(s) + t) with s = scale ⊙ tanh of the network's first half, t its second.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, eq. 9 and §4.1.  Convention: s first, t second.
    """
    layer, _ = coupling("vectors", seed)
    b = layer.mask.double()
    first, t = layer.net(b * x).chunk(2, dim=1)
    s = layer.scale * first.tanh()
    y, log_det = layer(x)
    laws.assert_close(y, b * x + (1 - b) * (x * s.exp() + t))
    laws.assert_close(log_det, ((1 - b) * s).sum(1))


@pytest.mark.parametrize("kind", ["vectors", "images"])
@given(seed=seeds())
def test_coupling_has_an_inverse(kind, seed):
    """f⁻¹(f(x)) = x and f(f⁻¹(y)) = y, and the log-determinant of the inverse is −log|det| of f at the image.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, eq. 7 and 8.
    """
    layer, shape = coupling(kind, seed)
    x = torch.randn(3, *shape, dtype=torch.float64, generator=seeded(seed))
    y, there = layer(x)
    again, back = layer.inverse(y)
    laws.assert_close(again, x)
    laws.assert_close(back, -there)
    laws.assert_close(layer(layer.inverse(x)[0])[0], x)


@pytest.mark.parametrize("kind", ["vectors", "images"])
def test_log_determinant_of_a_coupling_is_that_of_its_jacobian(kind):
    """The log-determinant of each sample equals slogdet of its Jacobian, in both directions.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, eq. 6.
    """
    layer, shape = coupling(kind)
    x = torch.randn(2, *shape, dtype=torch.float64, generator=seeded(3))
    for function in (layer, layer.inverse):
        expected = torch.stack([log_determinant(lambda t, f=function: f(t)[0], one) for one in x])
        laws.assert_close(function(x)[1], expected)


@pytest.mark.states("dependence")
def test_coupling_has_a_triangular_jacobian():
    """What passes depends on itself alone; what is changed on itself, by exp(s), and on all that passes.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, eq. 6.
    """
    layer, _ = coupling("vectors")
    x = torch.randn(1, 5, dtype=torch.float64, generator=seeded(0))
    passes = layer.mask.bool()
    allowed = torch.eye(5, dtype=torch.bool) | (~passes[:, None] & passes[None])
    laws.depends_only_on(lambda t: layer(t[None])[0][0], x[0], allowed)
    diagonal = laws.jacobian(lambda t: layer(t[None])[0][0], x[0]).diagonal()
    assert (diagonal[passes] == 1).all(), f"expected derivatives of 1 where x passes, found {diagonal[passes]}"
    laws.assert_close(diagonal[~passes].log().sum()[None], layer(x)[1])


def test_masked_values_reach_no_network():
    """An infinite value in the part that changes leaves the part that passes, and s and t, finite.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, eq. 9: s and t are functions of b ⊙ x.  Convention: 0 · ∞ is 0 there.
    """
    layer, _ = coupling("vectors")
    x = torch.randn(2, 5, dtype=torch.float64, generator=seeded(0))
    y, log_det = layer(x)
    changed = x.clone()
    changed[0, 1] = math.inf
    found, found_log_det = layer(changed)
    laws.assert_close(found_log_det, log_det)
    others = torch.ones(2, 5, dtype=torch.bool)
    others[0, 1] = False
    laws.assert_close(found[others], y[others])


@pytest.mark.states("limiting case")
def test_scale_is_bounded_by_its_factor():
    """|s| <= |scale| of its channel, however large the network's output.

    6 entries of factor 0.5 and 6 of 0.1, both tanh at 1: log|det| = 3.6.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, §4.1: tanh with a learned scale.
    """
    mask = torch.zeros(2, 2, 3)
    net = nn.Conv2d(2, 4, 1)
    nn.init.zeros_(net.weight)
    net.bias.data.copy_(torch.tensor([500.0, 500.0, 0.0, 0.0]))
    layer = AffineCoupling(mask, net)
    laws.assert_close(layer.scale.detach(), torch.ones(2), what="the initial scale")
    layer.scale.data.copy_(torch.tensor([0.5, 0.1]))
    y, log_det = layer(torch.ones(2, 2, 2, 3))
    laws.assert_close(log_det, torch.full((2,), 3.6), rtol=1e-5, atol=1e-5)
    laws.assert_close(y[0, :, 0, 0], torch.tensor([0.5, 0.1]).exp())


@pytest.mark.states("gradient routing")
def test_log_likelihood_trains_scale_shift_and_factor():
    """log p reaches scale and net of a coupling; the log-determinant alone does not reach the shift.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, eq. 3.
    """
    layer, _ = coupling("vectors")
    x = torch.randn(3, 5, dtype=torch.float64, generator=seeded(0))
    parameters = dict(layer.named_parameters())
    y, log_det = layer(x)
    laws.gradient_reaches(log_standard_normal(y).sum() + log_det.sum(), parameters)
    (by_log_det,) = torch.autograd.grad(layer(x)[1].sum(), layer.net[2].bias)
    assert (by_log_det[5:] == 0).all(), f"expected no gradient to the shift, found {by_log_det[5:]}"


# ---------------------------------------------------------------------------------------------- the whole model


@pytest.mark.parametrize("in_shape, num_scales, alpha", MODELS)
def test_model_has_an_inverse(in_shape, num_scales, alpha):
    """f⁻¹(f(x)) = x, f(f⁻¹(z)) = z, and the two log-determinants cancel, for one scale, two and three.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, §3.3 and eq. 13-16.
    """
    model, x = flow(in_shape, num_scales, alpha)
    z, there = model(x)
    assert z.shape == (2, math.prod(in_shape)), f"expected as many dimensions of z as of x, found {tuple(z.shape)}"
    again, back = model.inverse(z)
    laws.assert_close(again, x)
    laws.assert_close(back, -there)
    z = torch.randn(z.shape, dtype=torch.float64, generator=seeded(9))
    laws.assert_close(model(model.inverse(z)[0])[0], z, rtol=1e-6, atol=1e-6, because="logits of x near 0 and 1")


@pytest.mark.parametrize("in_shape, num_scales, alpha", MODELS)
def test_log_determinant_of_the_model_is_that_of_its_jacobian(in_shape, num_scales, alpha):
    """The log-determinant of each image equals slogdet of the Jacobian of the whole network, logits included.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, eq. 2.
    """
    model, x = flow(in_shape, num_scales, alpha)
    expected = torch.stack([log_determinant(lambda t: model(t)[0], one) for one in x])
    laws.assert_close(model(x)[1], expected)


@pytest.mark.parametrize("in_shape, num_scales, alpha", MODELS[:3])
def test_log_probability_is_the_change_of_variables(in_shape, num_scales, alpha):
    """log p(x) = log N(z; 0, I) + log|det ∂z/∂x|, one value an image.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, eq. 2 and 3.
    """
    model, x = flow(in_shape, num_scales, alpha)
    z, log_det = model(x)
    laws.assert_close(model.log_prob(x), torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1) + log_det)


def test_new_model_is_a_permutation():
    """A new model with alpha=None takes x to its own entries: of two scales the first half of the squeezed channels,
    then the other half; of three scales that half is squeezed and halved again.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, §3.6, eq. 13-16.  Convention: what is factored out stands first.
    """
    x = torch.randn(2, 3, 8, 4, generator=seeded(0))
    unshuffle = nn.PixelUnshuffle(2)
    first, rest = unshuffle(x).chunk(2, dim=1)
    second, last = unshuffle(rest).chunk(2, dim=1)
    for scales, parts in ((1, [x]), (2, [first, rest]), (3, [first, second, last])):
        z, log_det = RealNVP((3, 8, 4), scales, hidden_channels=2, num_blocks=1, alpha=None)(x)
        laws.assert_close(z, torch.cat([part.flatten(1) for part in parts], dim=1))
        laws.assert_close(log_det, torch.zeros(2))


@pytest.mark.parametrize("in_shape, num_scales", [((1, 4, 4), 2), ((1, 2, 3), 1)])
def test_every_dimension_is_transformed(in_shape, num_scales):
    """No z is merely a copy of some x: each row of the Jacobian has another entry than one 1.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, §3.5: the masks alternate.
    """
    model, x = flow(in_shape, num_scales)
    rows = laws.jacobian(lambda t: model(t[None])[0][0], x[0]).flatten(1)
    copies = ((rows != 0).sum(1) == 1) & (rows.sum(1) == 1)
    assert not copies.any(), f"expected all dimensions of z transformed, found copies at {copies.nonzero()[:, 0]}"


@pytest.mark.project_convention
def test_couplings_alternate_as_in_the_paper():
    """A model of 2 scales has 3 checkerboard and 3 channel-wise couplings, then 4 checkerboard ones, masks alternating.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, §3.6.
    Convention: the couplings are modules in the order in which they are applied, each with its mask.
    """
    layers = [m for m in RealNVP((3, 4, 4), 2, 2, 1).modules() if isinstance(m, AffineCoupling)]
    assert sorted(len(m.mask) for m in layers) == [3] * 3 + [6] * 4 + [12] * 3, "expected 3, 3 and 4 couplings"
    for count, make in ((3, checkerboard_mask), (12, channel_mask), (6, checkerboard_mask)):
        masks = [m.mask.bool() for m in layers if len(m.mask) == count]
        expected = [make(*masks[0].shape, parity=(n + 1) % 2).bool() for n in range(len(masks))]
        laws.assert_all_close([m.double() for m in masks], [m.double() for m in expected])


@pytest.mark.parametrize("scales", [2, 3])
def test_model_log_probability_gives_gradient_everywhere(scales):
    """log p(x) reaches each parameter of a model whose networks are not at 0.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, §3.1: trained by maximum likelihood.
    """
    model, x = flow((1, 4, 8), scales, 0.05)
    laws.gradient_reaches(model.log_prob(x).sum(), dict(model.named_parameters()))


def test_new_model_learns_from_its_first_step():
    """At initialisation the last layer of each network gets gradient: s and t start at 0, their derivatives do not.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, §4.1.
    """
    torch.manual_seed(0)
    model = RealNVP((1, 4, 4), 2, 3, 1)
    model.log_prob(torch.rand(3, 1, 4, 4, generator=seeded(0))).sum().backward()
    moved = sum(bool(p.grad.abs().max() > 0) for p in model.parameters() if p.grad is not None)
    assert moved >= 20, f"expected weight and bias of ten last layers to learn, found {moved} parameters with gradient"


def test_samples_are_the_inverse_of_normal_noise():
    """`sample` gives f⁻¹(z), z ~ N(0, I): f of 4000 samples has mean 0 and variance 1 in each dimension.

    Standard errors 0.016 and 0.022; limits 4.5 of them.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, §3.1.
    """
    model, _ = flow((1, 2, 4), 2)
    z = model(model.sample(4000, seeded(0)))[0].detach()
    assert z.mean(0).abs().max() < 0.072, f"expected means of 0, found {z.mean(0)}"
    assert (z.var(0) - 1).abs().max() < 0.1, f"expected variances of 1, found {z.var(0)}"
    off_diagonal = torch.corrcoef(z.T) - torch.eye(8, dtype=torch.float64)
    assert off_diagonal.abs().max() < 0.08, f"expected independent dimensions, found {off_diagonal.abs().max():.3f}"
    first = model.sample(3, seeded(1))
    torch.manual_seed(5)  # a sample that ignores its generator would differ
    laws.assert_same(model.sample(3, seeded(1)), first, "samples of the same generator")


def test_bfloat16_keeps_its_dtype():
    """z, log-determinants, samples and inverses of a bfloat16 model are bfloat16 and finite.

    Source: the contract of torch.nn modules.
    """
    model, x = flow((1, 4, 4), 2, 0.05)
    model = model.to(torch.bfloat16)
    for value in (*model(x.to(torch.bfloat16)), *model.inverse(torch.zeros(2, 16).bfloat16()), model.sample(2)):
        assert value.dtype == torch.bfloat16, f"expected bfloat16, found {value.dtype}"
        assert value.isfinite().all(), "expected finite values, found others"


@pytest.mark.states("cost")
def test_inverse_costs_what_forward_costs():
    """f⁻¹ runs as many operations as f: neither inverts a network, and no determinant is O(D³).

    Source: Dinh, Sohl-Dickstein & Bengio 2016, §3.3: sampling is as efficient as inference.
    """
    for in_shape in ((1, 2, 2), (1, 4, 2)):
        model, x = flow(in_shape, 2)
        z = model(x)[0].detach()
        there, back = cost.flops(model, x), cost.flops(model.inverse, z)
        assert there == back > 0, f"expected equal operations, found {there} and {back}"


@pytest.mark.states("second derivative")
def test_second_derivatives_of_a_coupling():
    """Autograd's second derivatives of a coupling equal central differences.

    Source: the definition of the derivative.
    """
    layer, _ = coupling("vectors")
    laws.gradient_correct(layer, torch.randn(2, 5, dtype=torch.float64, generator=seeded(0)), second_order=True)


@given(seed=seeds())
@pytest.mark.states("symmetry")
def test_permuted_vectors_with_a_permuted_mask(seed):
    """Log-likelihood is unchanged if data, mask, scale and network are permuted alike: no order of dimensions counts.

    Source: Dinh, Sohl-Dickstein & Bengio 2016, §3.4: b is any binary mask.
    """
    layer, _ = coupling("vectors", seed)
    order = torch.randperm(5, generator=seeded(seed))
    back = order.argsort()

    def net(x):
        return torch.cat([half[:, order] for half in layer.net(x[:, back]).chunk(2, dim=1)], dim=1)

    other = AffineCoupling(layer.mask[order], net).double()
    other.scale.data.copy_(layer.scale.data[order])
    x = torch.randn(3, 5, dtype=torch.float64, generator=seeded(seed))
    y, log_det = layer(x)
    found, found_log_det = other(x[:, order])
    laws.assert_close(found, y[:, order])
    laws.assert_close(found_log_det, log_det)
