"""StyleGAN and StyleGAN2.  Karras, Laine & Aila 2018, arXiv:1812.04948; Karras et al. 2019, arXiv:1912.04958."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from impl.models.stylegan import (
    AdaptiveInstanceNorm2d,
    MappingNetwork,
    ModulatedConv2d,
    NoiseInjection,
    PathLengthPenalty,
    StyleGAN2Discriminator,
    StyleGAN2Generator,
    StyleGANDiscriminator,
    StyleGANGenerator,
    minibatch_stddev,
    r1_penalty,
)
from spec import cost, laws
from spec.cases.stylegan import SMALL, discriminator, generator, randn
from spec.strategies import floats, seeds

pytestmark = pytest.mark.item("stylegan")

GENERATORS = pytest.mark.parametrize("of", [StyleGANGenerator, StyleGAN2Generator])
DISCRIMINATORS = pytest.mark.parametrize("of", [StyleGANDiscriminator, StyleGAN2Discriminator])


def double(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def filled(module, seed=0):
    """In float64 with every parameter random."""
    return laws.randomise(module.double(), seed=seed)


def state_of(module):
    """A copy of its state: what is loaded later does not change it."""
    return {key: value.clone() for key, value in module.state_dict().items()}


# ---------------------------------------------------------------------------------------------- mapping


@given(seed=seeds(), factor=floats(0.1, 100))
def test_mapping_ignores_the_length_of_z(seed, factor):
    """f(c z) = f(z) for every c > 0: z is normalised to mean square 1 before the first layer.

    Source: Karras, Laine & Aila 2018, §2 and appendix C; up to the 1e-8 under the root.
    """
    mapping, z = filled(MappingNetwork(5, 6, num_layers=3, lr_multiplier=0.1)), double(2, 5, seed=seed) + 0.1
    laws.invariant(mapping, z, lambda t: factor * t, rtol=1e-5, atol=1e-7, because="1e-8 under the root")


@given(seed=seeds(), lr_multiplier=floats(0.01, 2))
def test_mapping_is_equalised_layers_with_leaky_activations(seed, lr_multiplier):
    """w = a(λ b + (λ/√fan_in) W a(…)), a(x) = √2·LeakyReLU(x; 0.2), for every layer, on z/√(mean z² + 1e-8).

    Source: Karras, Laine & Aila 2018, appendix C; Karras et al. 2017, arXiv:1710.10196, §4.1.
    """
    mapping = filled(MappingNetwork(5, 6, num_layers=2, lr_multiplier=lr_multiplier))
    x = double(3, 5, seed=seed)
    z, state = x, mapping.state_dict()
    x = x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for n, fan_in in enumerate((5, 6)):
        weight, bias = state[f"layers.{n}.weight"], state[f"layers.{n}.bias"]
        x = lr_multiplier * (x @ weight.T / math.sqrt(fan_in) + bias)
        x = math.sqrt(2) * F.leaky_relu(x, 0.2)
    laws.assert_close(mapping(z), x)


def test_learning_rate_multiplier_changes_no_initial_value():
    """Stored weights are N(0, 1/λ²), so that λ/√fan_in times them is N(0, 1/fan_in) for every λ; biases start from 0.

    20,000 weights each: limits of 5 standard errors, 2.5 %.

    Source: Karras, Laine & Aila 2018, appendix C: a learning rate 100 times lower, of the same initial network.
    """
    for lr_multiplier in (0.01, 1.0, 3.0):
        torch.manual_seed(0)
        mapping = MappingNetwork(100, 200, num_layers=2, lr_multiplier=lr_multiplier)
        state = mapping.state_dict()
        spread = state["layers.0.weight"].std().item() * lr_multiplier
        assert abs(spread - 1) < 0.025, f"expected stored weights of standard deviation 1/λ, found {spread:.3f}/λ"
        assert not state["layers.1.bias"].any(), "expected biases of 0"


def test_equalised_rate_scales_the_gradient_of_every_layer():
    """d(output)/d(stored weight) = (λ/√fan_in) d(output)/d(effective weight): small steps for many or slow inputs.

    Source: Karras et al. 2017, arXiv:1710.10196, §4.1: weights scaled at run time, not at initialisation.
    """
    mapping = filled(MappingNetwork(7, 4, num_layers=1, lr_multiplier=0.3))
    z = double(3, 7)
    mapping(z).sum().backward()
    normed = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    state = mapping.state_dict()
    before = 0.3 * (normed @ state["layers.0.weight"].T / math.sqrt(7) + state["layers.0.bias"])
    slope = math.sqrt(2) * (0.2 + 0.8 * (before > 0).double())
    gradients = dict(mapping.named_parameters())
    laws.assert_close(gradients["layers.0.weight"].grad, 0.3 / math.sqrt(7) * slope.T @ normed)
    laws.assert_close(gradients["layers.0.bias"].grad, 0.3 * slope.sum(0))


# ---------------------------------------------------------------------------------------------- AdaIN


@given(seed=seeds())
def test_adain_gives_each_channel_the_moments_of_its_style(seed):
    """Each sample's channel has mean y_b and standard deviation |y_s| over its pixels, of its own style.

    Source: Karras, Laine & Aila 2018, eq. 1.  Convention: the biased standard deviation; `style` gives y_s, then y_b.
    """
    norm = filled(AdaptiveInstanceNorm2d(3, 4), seed=seed)
    x, w = 3 * double(2, 3, 5, 6, seed=seed) + 7, double(2, 4, seed=seed + 1)
    y, state = norm(x, w), norm.state_dict()
    scale, shift = (w @ state["style.weight"].T / 2 + state["style.bias"]).chunk(2, dim=1)  # √4 = 2
    laws.assert_close(y.mean((2, 3)), shift, rtol=1e-6, atol=1e-6, because="eps of 1e-8 under the root")
    laws.assert_close(y.std((2, 3), correction=0), scale.abs(), rtol=1e-6, atol=1e-6, because="eps under the root")


@given(seed=seeds(), scale=floats(0.1, 10), shift=floats(-5, 5))
def test_adain_ignores_affine_maps_of_a_channel(seed, scale, shift):
    """AdaIN(a x + b) = AdaIN(x) for a > 0: the style replaces whatever mean and contrast came in.

    Source: Karras, Laine & Aila 2018, eq. 1; Karras et al. 2019, §2.2: this is what leaves droplets.
    """
    norm, w = filled(AdaptiveInstanceNorm2d(3, 4)), double(2, 4)
    laws.invariant(
        lambda x: norm(x, w),
        double(2, 3, 5, 6, seed=seed),
        lambda x: scale * x + shift,
        rtol=1e-5,
        atol=1e-5,
        because="eps of 1e-8 under the root",
    )


@pytest.mark.states("limiting case")
def test_adain_without_a_style_is_instance_normalization():
    """With A = 0 the initial style is y_s = 1, y_b = 0: AdaIN is instance normalization with eps inside of the root.

    Source: Karras, Laine & Aila 2018, eq. 1; the biases of the styles start from 1 and 0 (appendix C).
    """
    norm = AdaptiveInstanceNorm2d(3, 4, eps=0.5).double()
    state = state_of(norm)
    norm.load_state_dict(state | {"style.weight": torch.zeros_like(state["style.weight"])})
    x = double(2, 3, 5, 6)
    laws.assert_close(norm(x, double(2, 4)), F.instance_norm(x, eps=0.5))


# ---------------------------------------------------------------------------------------------- modulation


def per_sample(conv, x, w, demodulate=True, eps=1e-8):
    """Equations 1 to 3 as they stand: weights for each sample, one convolution each."""
    state = state_of(conv)
    weight = state["weight"] / math.sqrt(state["weight"][0].numel())
    s = w @ state["style.weight"].T / math.sqrt(w.shape[1]) + state["style.bias"]
    outputs = []
    for one, scale in zip(x, s):
        modulated = weight * scale[None, :, None, None]
        if demodulate:
            modulated = modulated / (modulated.square().sum((1, 2, 3), keepdim=True) + eps).sqrt()
        outputs.append(F.conv2d(one[None], modulated, padding=weight.shape[2] // 2))
    return torch.cat(outputs)


@pytest.mark.states("equivalence")
@pytest.mark.parametrize("demodulate", [True, False])
@given(seed=seeds(), kernel=st.sampled_from([1, 3, 5]))
def test_modulation_gives_each_sample_its_own_weights(seed, demodulate, kernel):
    """y[n] = conv(x[n], w''(s[n])) with w'_ijk = s_i w_ijk and w''_ijk = w'_ijk/√(Σ_i,k w'_ijk² + ε).

    With ε = 0.3, styles of both signs, 3 input and 4 output channels.

    Source: Karras et al. 2019, eq. 1 and 3.  Convention: w is the stored weight over √fan_in.
    """
    conv = filled(ModulatedConv2d(3, 4, kernel, 5, demodulate=demodulate, eps=0.3), seed=seed)
    x, w = double(2, 3, 6, 7, seed=seed), double(2, 5, seed=seed + 1)
    laws.assert_close(conv(x, w), per_sample(conv, x, w, demodulate, eps=0.3))


@given(seed=seeds(), factor=floats(0.1, 30))
def test_demodulation_cancels_the_length_of_a_style(seed, factor):
    """s → c s changes nothing for c > 0, nor does w_j → c w_j of an output channel, but for ε; undemodulated, both do.

    Source: Karras et al. 2019, §2.2, eq. 2 and 3: the standard deviation of the output is divided out.
    """
    x, w = double(2, 3, 6, 7, seed=seed), double(2, 5, seed=seed + 1)
    for demodulate in (True, False):
        conv = filled(ModulatedConv2d(3, 4, 3, 5, demodulate=demodulate), seed=seed)
        state = state_of(conv)
        before = conv(x, w)
        for key in (("weight",), ("style.weight", "style.bias")):
            conv.load_state_dict(state | {k: factor * state[k] for k in key})
            expected = before if demodulate else factor * before
            laws.assert_close(conv(x, w), expected, rtol=1e-4, atol=1e-5, because="ε of 1e-8 under the root")


def test_demodulated_output_has_unit_variance():
    """For x ~ N(0, 1), each pixel by itself, every output channel has variance 1, whatever the style.

    48 samples of 20 × 20 inner pixels, styles of length 0.03 to 30; each standard deviation within 4 %: over 4 of its
    standard errors.  Measured: 0.98 to 1.02.

    Source: Karras et al. 2019, eq. 2: σ_j = √(Σ_i,k w'_ijk²).
    """
    conv = filled(ModulatedConv2d(3, 4, 3, 5))
    x, directions = double(48, 3, 22, 22), double(3, 5, seed=1)
    for n, length in enumerate((0.03, 1.0, 30.0)):
        y = conv(x, length * directions[n].expand(48, 5))[:, :, 1:-1, 1:-1]
        spread = y.std((0, 2, 3))
        assert ((spread - 1).abs() < 0.04).all(), f"expected standard deviations of 1, found {spread.tolist()}"


@given(seed=seeds(), factor=floats(-5, 5))
def test_demodulation_keeps_the_contrast_that_adain_removes(seed, factor):
    """conv(c x) = c conv(x): demodulation rests on expected statistics, so that a loud input stays loud.

    Source: Karras et al. 2019, §2.2: weaker than instance normalization, as it is no function of the actual contents.
    """
    conv, x, w = filled(ModulatedConv2d(3, 4, 3, 5)), double(2, 3, 6, 7, seed=seed), double(2, 5)
    laws.equivariant(lambda t: conv(t, w), x, lambda t: factor * t)


def test_modulated_weights_start_from_a_style_of_one():
    """At the start b = 1, so that with A = 0 every style is 1, and stored weights are N(0, 1): an equalised rate.

    9,000 weights, limit 5 standard errors.

    Source: Karras et al. 2019, appendix B: style biases are initialised to one.
    """
    torch.manual_seed(0)
    state = ModulatedConv2d(25, 40, 3, 5).state_dict()
    laws.assert_close(state["style.bias"], torch.ones(25))
    spread = state["weight"].std().item()
    assert abs(spread - 1) < 0.04, f"expected stored weights of standard deviation 1, found {spread:.3f}"


def resampled(x, weight, up):
    """Zeros between the pixels, then [1, 3, 3, 1]/4 in both dimensions, then the convolution; then what lies inside."""
    height, width = (n * up for n in x.shape[2:])
    spread = torch.zeros(*x.shape[:2], height, width, dtype=x.dtype)
    spread[:, :, ::up, ::up] = x
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype) / 4
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 4, 4)
    margin = weight.shape[2] // 2
    wide = F.conv2d(F.pad(spread, (2 + margin, 1 + margin) * 2), kernel, groups=x.shape[1])
    return F.conv2d(wide, weight)


@pytest.mark.states("equivalence")
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_upsampling_filters_between_the_pixels(kernel):
    """Upsampling puts zeros between the pixels and filters by [1, 3, 3, 1]/4 in each dimension, then convolves.

    The filter's leak over the edge is seen by the convolution, as if both were infinite: no border of zeros between.

    Source: Karras et al. 2019, appendix B: bilinear filtering by [1, 3, 3, 1] in all up- and downsampling layers.
    """
    conv = filled(ModulatedConv2d(2, 3, kernel, 4, demodulate=False, up=2))
    state = state_of(conv)
    conv.load_state_dict(state | {"style.weight": 0 * state["style.weight"], "style.bias": torch.ones(2).double()})
    x = double(2, 2, 5, 6)
    expected = resampled(x, state["weight"] / math.sqrt(2 * kernel**2), 2)
    laws.assert_close(conv(x, double(2, 4)), expected)


# ---------------------------------------------------------------------------------------------- noise


def test_noise_is_one_image_for_all_channels():
    """x + strength · noise: one image, N(0, 1), for the channels of a sample, and one of its own for every sample.

    Source: Karras, Laine & Aila 2018, §2 and figure 1b: broadcast to all feature maps, with learned factors.
    """
    noise = filled(NoiseInjection(40, channels=3))
    x = double(2, 3, 40, 40)
    added = noise(x, "random", seeded(0)) - x
    image = added / noise.state_dict()["strength"][:, None, None]
    laws.assert_close(image, image[:, :1].expand_as(image))
    correlation = torch.corrcoef(image[:, 0].flatten(1))[0, 1].item()
    assert abs(correlation) < 0.12, f"expected noise of its own for each sample, found a correlation of {correlation}"
    spread = image[:, 0].std((1, 2))
    assert ((spread - 1).abs() < 0.1).all(), f"expected noise of standard deviation 1, found {spread.tolist()}"
    laws.assert_close(noise(x, "random", seeded(0)) - x, added)
    laws.assert_differs(noise(x, "random", seeded(1)) - x, added, by=0.1, what="noise of another generator")


def test_noise_of_one_strength_is_the_same_in_all_channels():
    """With one strength the difference that noise makes is equal in all channels of a sample.

    Source: Karras et al. 2019, §2.1 and appendix B: a single shared scaling factor for all feature maps.
    """
    noise, x = filled(NoiseInjection(5)), double(2, 3, 5, 5)
    added = noise(x, "random") - x
    laws.assert_close(added, added[:, :1].expand_as(added))


def test_noise_starts_from_nothing_and_has_three_modes():
    """Strengths start from 0; "const" adds the image of the state, "none" nothing, None is random in training alone.

    Source: Karras, Laine & Aila 2018, appendix C: zero-initialised factors.  Convention: the modes.
    """
    noise, x = NoiseInjection(5, channels=3).double(), double(2, 3, 5, 5)
    for mode in ("random", "const", "none"):
        laws.assert_close(noise(x, mode), x)
    filled(noise)
    state = noise.state_dict()
    fixed = x + state["strength"][:, None, None] * state["image"]
    laws.assert_close(noise(x, "const"), fixed)
    laws.assert_close(noise(x, "none"), x)
    laws.assert_close(noise.eval()(x), fixed)
    laws.assert_close(noise(x, "random", seeded(0)), noise.train()(x, generator=seeded(0)))


# ---------------------------------------------------------------------------------------------- styles


@GENERATORS
def test_truncation_moves_every_style_towards_the_mean(of):
    """w ← w̄ + ψ (w − w̄): ψ = 1 changes nothing, ψ = 0 gives w̄ to all, and in between the styles are affine in ψ.

    Source: Karras, Laine & Aila 2018, appendix B.
    """
    network, z = filled(generator(of)).eval(), double(3, 5)
    centre = double(6, seed=99)
    network.load_state_dict(network.state_dict() | {"w_avg": centre})
    w = network.mapping(z)
    for psi in (1, 0.0, 0.5, -0.7, 1.3):
        expected = (centre + psi * (w - centre))[:, None].expand(3, 4, 6)
        laws.assert_close(network.styles(z, truncation_psi=psi), expected)
    whole = network(z, truncation_psi=0)
    laws.assert_close(whole, whole[:1].expand_as(whole), what="images at ψ = 0")


@GENERATORS
def test_truncation_cutoff_spares_the_fine_layers(of):
    """Only the first `truncation_cutoff` styles are truncated; 0 truncates none.

    Source: Karras, Laine & Aila 2018, appendix B: truncation in the low resolutions only.
    """
    network, z = filled(generator(of)).eval(), double(3, 5)
    full, truncated = network.styles(z), network.styles(z, 0.4)
    for cutoff in (0, 1, 3, 4, 9):
        found = network.styles(z, 0.4, cutoff)
        laws.assert_close(found, torch.cat([truncated[:, :cutoff], full[:, cutoff:]], dim=1))


@GENERATORS
def test_mean_style_follows_training_batches_and_nothing_else(of):
    """In training w̄ ← β w̄ + (1 − β) · mean of the batch's w; evaluation does not move it, nor the mixed-in styles.

    Source: Karras, Laine & Aila 2018, appendix B: w̄ = E_z f(z).  Convention: a moving average, from 0.
    """
    network, z = generator(of, w_avg_beta=0.7).double(), double(3, 5)
    w = network.mapping(z).detach().mean(0)
    laws.assert_close(network.w_avg, torch.zeros_like(w))
    network.styles(z)
    laws.assert_close(network.w_avg, 0.3 * w)
    with torch.no_grad():
        network(z)
    laws.assert_close(network.w_avg, 0.51 * w)
    network.eval()(double(2, 5, seed=1))
    laws.assert_close(network.w_avg, 0.51 * w)
    assert not network.w_avg.requires_grad, "expected a mean outside of the graph"


@GENERATORS
def test_styles_of_evaluation_are_one_w_for_all_layers(of):
    """Without mixing every layer has w = f(z): in evaluation, and in training with mixing_prob = 0.

    Source: Karras, Laine & Aila 2018, §2 and §3.1.
    """
    network, z = generator(of, mixing_prob=0).double(), double(3, 5)
    expected = network.mapping(z)[:, None].expand(3, network.num_ws, 6)
    laws.assert_close(network.styles(z), expected)
    laws.assert_close(generator(of).double().eval().styles(z), expected)
    laws.assert_close(network.styles(z, num_ws=3), expected[:, :3])


@GENERATORS
def test_mixing_switches_once_to_the_style_of_another_sample(of):
    """A share mixing_prob of the samples has f(z) before a random crossover and one other style from that layer on.

    512 samples at 16 × 16, 6 styles, mixing_prob 0.7: the share within 0.1, over 4 standard errors.  The first style is
    always f(z), the others' crossovers are uniform over layers 1 to 5: each within 0.08 of 1/5.

    Source: Karras, Laine & Aila 2018, §3.1: two latent codes, switched at a randomly selected point.
    """
    network, z = generator(of, mixing_prob=0.7, resolution=16).double(), double(512, 5)
    first, crossovers = network.mapping(z), torch.zeros(6)
    for seed in range(1, 5):
        ws = network.styles(z, generator=seeded(seed)).detach()
        own = (ws - first[:, None]).abs().amax(-1) < 1e-9
        assert own[:, 0].all(), "expected the style of z in the first layer"
        later = own[:, 1:] & ~own[:, :-1]
        assert not later.any(), "expected no return to the first style"
        mixed = ~own[:, -1]
        share = mixed.double().mean().item()
        assert abs(share - 0.7) < 0.1, f"expected a share of 0.7 to be mixed, found {share:.3f}"
        last = ws[:, -1:].expand_as(ws)
        laws.assert_close(torch.where(own[:, :, None], last, ws), last, what="the second style")
        crossovers += torch.bincount(own.sum(1)[mixed], minlength=6).float()
        others = ws[mixed, -1]
        assert len(others.unique(dim=0)) == len(others), "expected a second style of its own for each sample"
    shares = crossovers[1:] / crossovers.sum()
    assert ((shares - 0.2).abs() < 0.08).all(), f"expected crossovers at every layer alike, found {shares.tolist()}"


@GENERATORS
def test_mixed_in_styles_come_from_the_mapping_of_normal_z(of):
    """The second style is f(z₂) with z₂ ~ N(0, I): its mean over many samples is that of f.

    4,096 samples, mixing_prob 1; limit 5 standard errors of each element.

    Source: Karras, Laine & Aila 2018, §3.1.
    """
    network = generator(of, mixing_prob=1.0).double()
    with torch.no_grad():
        found = network.styles(double(4096, 5), generator=seeded(1))[:, -1]
        expected = network.mapping(double(4096, 5, seed=2))
    error = ((found.var(0) + expected.var(0)) / 4096).sqrt()
    gap = ((found.mean(0) - expected.mean(0)).abs() / error).max().item()
    assert gap < 5, f"expected the mean of f(z) within 5 standard errors, found {gap:.1f}"
    ratio = (found.var(0) / expected.var(0)).log().abs().max().item()
    assert ratio < 0.25, f"expected the variance of f(z), found it off by a factor of {math.exp(ratio):.2f}"


# ---------------------------------------------------------------------------------------------- synthesis


@GENERATORS
def test_images_are_synthesised_from_styles(of):
    """G(z) = synthesis(styles(z)), in evaluation and in training from the same generator.

    Source: Karras, Laine & Aila 2018, figure 1b.
    """
    network, z = generator(of).double().eval(), double(3, 5)
    laws.assert_close(network(z, 0.6, 3), network.synthesis(network.styles(z, 0.6, 3)))
    random = seeded(3)
    ws = network.train().styles(z, generator=random)
    expected = network.synthesis(ws, generator=random)
    laws.assert_close(network(z, generator=seeded(3)), expected)


@GENERATORS
def test_styles_from_a_layer_on_are_those_of_the_second_image(of):
    """With a crossover at layer 0 a mixture is the second image, at num_ws the first, in between it is neither.

    Every layer has an effect of its own: each further crossover changes the image.

    Source: Karras, Laine & Aila 2018, §3.1 and figure 3.
    """
    network = filled(generator(of, resolution=16, channel_base=64)).eval()
    first, second = (network.styles(double(2, 5, seed=seed)) for seed in (0, 1))
    assert network.num_ws == 6, f"expected 2 log₂ 16 − 2 = 6 styles, found {network.num_ws}"
    images = [network.synthesis(torch.cat([first[:, :n], second[:, n:]], dim=1)) for n in range(7)]
    laws.assert_close(images[0], network.synthesis(second))
    laws.assert_close(images[6], network.synthesis(first))
    for n in range(6):
        laws.assert_differs(images[n], images[n + 1], by=1e-4, what=f"images with crossovers {n} and {n + 1}")


@GENERATORS
def test_noise_reaches_every_layer_and_starts_without_effect(of):
    """At the start images are a function of the styles alone; with strengths, noise changes them and "none" does not.

    Source: Karras, Laine & Aila 2018, §2 and figure 5; appendix C.
    """
    reset = of(**SMALL)
    ws = randn(2, 4, 6)
    laws.assert_close(reset.synthesis(ws, "random"), reset.synthesis(ws, "none"))
    network = generator(of)
    laws.assert_close(network.eval().synthesis(ws), network.train().synthesis(ws, "const"))
    laws.assert_differs(network.synthesis(ws), network.synthesis(ws), by=1e-4, what="two images in training")
    plain = network.synthesis(ws, "none")
    state = state_of(network)
    images = [key for key in state if key.endswith("noise.image")]
    assert len(images) == {StyleGANGenerator: 4, StyleGAN2Generator: 3}[of], f"expected noise at each layer: {images}"
    for key in images:
        network.load_state_dict(state | {other: 0 * state[other] for other in images if other != key})
        laws.assert_differs(network.synthesis(ws, "const"), plain, by=1e-4, what=f"the image with {key} alone")


@given(alpha=floats(0, 1))
def test_growing_generator_fades_in_the_image_of_the_next_resolution(alpha):
    """G = α · image + (1 − α) · the image of the resolution below, enlarged by its nearest pixels.

    Source: Karras, Laine & Aila 2018, §2 and appendix C; Karras et al. 2017, arXiv:1710.10196, figure 2.
    """
    network, ws = filled(generator(StyleGANGenerator, resolution=16)).eval(), double(2, 6, 6)
    for count in (4, 6):
        below = network.synthesis(ws[:, : count - 2]).repeat_interleave(2, 2).repeat_interleave(2, 3)
        whole = network.synthesis(ws[:, :count])
        found = network.synthesis(ws[:, :count], alpha=alpha)
        laws.assert_close(found, alpha * whole + (1 - alpha) * below)


def test_growing_generator_gives_every_resolution():
    """Of 2 log₂ R − 2 styles the first generator makes images of R × R, whichever R from 4 to its own.

    Mixing at a low resolution has its crossover within the layers in use: with mixing_prob = 1 the last style is never
    f(z).

    Source: Karras, Laine & Aila 2018, §2: layers 2 at each resolution; §3.1.
    """
    network, z = generator(StyleGANGenerator, resolution=16, mixing_prob=1.0), randn(3, 5)
    for n, resolution in enumerate((4, 8, 16)):
        image = network(z, resolution=resolution)
        assert image.shape == (3, 2, resolution, resolution), f"expected {resolution} pixels, found {image.shape}"
        assert network.synthesis(randn(3, 2 * n + 2, 6)).shape == image.shape
        ws = network.styles(z, num_ws=2 * n + 2)
        laws.assert_differs(ws[:, -1], network.mapping(z), by=1e-3, what="the last style and f(z)")
    network.eval()
    laws.assert_close(network(z, resolution=8), network.synthesis(network.styles(z)[:, :4]))


@given(seed=seeds())
def test_second_generators_image_is_a_sum_over_resolutions(seed):
    """The image is the 8 × 8 part plus the filtered enlargement of the 4 × 4 part, and neither is normalised.

    Scaling the weights and biases of one part's output layer by c scales this part alone; the 4 × 4 part is enlarged
    by zeros between its pixels and [1, 3, 3, 1]/4.

    Source: Karras et al. 2019, figure 7b and §4.1; ToRGB is modulated and not demodulated (appendix B).
    """
    network, ws = filled(generator(StyleGAN2Generator), seed=seed).eval(), double(2, 4, 6, seed=seed)
    state = state_of(network)

    def with_parts(coarse, fine):
        factors = {0: coarse, 1: fine}
        scaled = {
            f"to_rgb.{n}.{k}": c * state[f"to_rgb.{n}.{k}"] for n, c in factors.items() for k in ("conv.weight", "bias")
        }
        network.load_state_dict(state | scaled)
        return network.synthesis(ws)

    coarse, fine = with_parts(1, 0), with_parts(0, 1)
    laws.assert_close(with_parts(2.5, -0.5), 2.5 * coarse - 0.5 * fine)
    small = filled(generator(StyleGAN2Generator, resolution=4))
    network.load_state_dict(state)
    small.load_state_dict({key: state[key] for key in small.state_dict()})
    image = small.eval().synthesis(ws[:, :2])
    delta = torch.eye(2, dtype=torch.float64)[:, :, None, None]
    laws.assert_close(coarse, resampled(image, delta, 2))


@GENERATORS
def test_images_start_from_a_learned_constant(of):
    """The input of the first layer is a constant for all samples, and learned: it takes a gradient, z has no other way.

    Source: Karras, Laine & Aila 2018, §2: the input layer is omitted altogether.
    """
    network = filled(generator(of)).eval()
    ws = double(1, 4, 6).expand(3, 4, 6)
    images = network.synthesis(ws)
    laws.assert_close(images, images[:1].expand_as(images))
    (gradient,) = torch.autograd.grad(images.square().sum(), network.const)
    assert gradient.abs().min() > 0, "expected a gradient at each element of the constant"


# ---------------------------------------------------------------------------------------------- discriminators


@given(seed=seeds(), groups=st.integers(1, 3), size=st.integers(1, 4))
def test_minibatch_channel_is_the_mean_spread_of_the_group(seed, groups, size):
    """The added channel is the mean over channels and pixels of √(variance over the group + 1e-8), in all its samples.

    Source: Karras et al. 2017, arXiv:1710.10196, §3.  Convention: biased; sample n is in group n mod groups.
    """
    x = double(groups * size, 3, 2, 5, seed=seed)
    found = minibatch_stddev(x, size)
    laws.assert_close(found[:, :3], x)
    for n in range(groups):
        spread = (x[n::groups].var(0, correction=0) + 1e-8).sqrt().mean()
        laws.assert_close(found[n::groups, 3:], spread.expand(size, 1, 2, 5))


def test_small_batches_are_one_group():
    """A batch below the group size is one group; a batch of one adds a channel of 1e-4, with a finite gradient.

    Source: Karras et al. 2019, appendix B.  Convention: min(group_size, batch).
    """
    x = double(3, 2, 4, 4).requires_grad_()
    laws.assert_close(minibatch_stddev(x, 7), minibatch_stddev(x, 3))
    found = minibatch_stddev(x[:1], 4)
    laws.assert_close(found[:, 2:], torch.full((1, 1, 4, 4), 1e-4, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert gradient.isfinite().all(), "expected a finite gradient of a batch of one"


def activation(x):
    return math.sqrt(2) * F.leaky_relu(x, 0.2)


def equalised(state, name, x, stride=1, padding=0):
    weight = state[f"{name}.weight"]
    bias = state.get(f"{name}.bias")
    scaled = weight / math.sqrt(weight[0].numel())
    return F.linear(x, scaled, bias) if weight.dim() == 2 else F.conv2d(x, scaled, bias, stride, padding)


def smoothed(x, stride, padding):
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype) / 8
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(x, kernel, stride=stride, padding=padding, groups=x.shape[1])


def block(state, x):
    x = activation(equalised(state, "blocks.0.conv0", x, padding=1))
    return activation(equalised(state, "blocks.0.conv1", smoothed(x, 1, 2), stride=2))


def head(state, x):
    spread = (x.var(0, correction=0) + 1e-8).sqrt().mean().expand(len(x), 1, 4, 4)
    x = activation(equalised(state, "head.conv", torch.cat([x, spread], dim=1), padding=1))
    return equalised(state, "head.out", activation(equalised(state, "head.linear", x.flatten(1))))


@given(seed=seeds(), alpha=floats(0, 1))
def test_growing_discriminator_fades_in_its_largest_images(seed, alpha):
    """D = head(α · block(from_rgb(x)) + (1 − α) · from_rgb(average of 2 × 2 pixels)); small images skip the block.

    Source: Karras et al. 2017, arXiv:1710.10196, figure 2; Karras, Laine & Aila 2018, appendix C.
    """
    network = filled(discriminator(StyleGANDiscriminator), seed=seed)
    x, state = double(3, 2, 8, 8, seed=seed), state_of(network)
    small = F.avg_pool2d(x, 2)
    low = activation(equalised(state, "from_rgb.0", small))
    high = block(state, activation(equalised(state, "from_rgb.1", x)))
    laws.assert_close(network(x, alpha=alpha), head(state, alpha * high + (1 - alpha) * low))
    laws.assert_close(network(x), head(state, high))
    laws.assert_close(network(small), head(state, low))
    laws.assert_close(network(small, alpha=0.3), head(state, low), what="of the smallest images, whatever alpha")


@given(seed=seeds())
def test_residual_discriminator_adds_two_ways_at_unit_variance(seed):
    """D = head((block(y) + W y')/√2), y = from_rgb(x), y' its filtered half size: a residual block.

    Source: Karras et al. 2019, figure 7c and appendix B: 1/√2 cancels the doubled variance.
    """
    network = filled(discriminator(StyleGAN2Discriminator), seed=seed)
    x, state = double(3, 2, 8, 8, seed=seed), state_of(network)
    y = activation(equalised(state, "from_rgb", x))
    skip = equalised(state, "skips.0", smoothed(y, 2, 1))
    laws.assert_close(network(x), head(state, (block(state, y) + skip) / math.sqrt(2)))


@pytest.mark.states("dependence")
@DISCRIMINATORS
def test_discriminator_sees_the_spread_of_its_batch(of):
    """A sample's logit depends on the others of its group through their spread, and not on other groups.

    Source: Karras et al. 2017, arXiv:1710.10196, §3.
    """
    network = filled(discriminator(of))
    x = double(8, 2, 8, 8)
    changed = x.clone()
    changed[1::2] *= 3
    laws.assert_close(network(changed)[::2], network(x)[::2], what="logits of the first group, the second changed")
    changed[2] *= 3
    laws.assert_differs(network(changed)[0], network(x)[0], by=1e-5, what="a logit, another of its group changed")


# ---------------------------------------------------------------------------------------------- regularisation


class Linear(nn.Module):
    """D(x) = a · x + 3."""

    def __init__(self, a):
        super().__init__()
        self.a = nn.Parameter(a)

    def forward(self, x):
        return (x * self.a).flatten(1).sum(1, keepdim=True) + 3


@given(seed=seeds(), gamma=floats(0, 20), interval=st.integers(1, 16))
def test_r1_of_a_linear_discriminator_is_its_squared_norm(seed, gamma, interval):
    """R₁ = interval · γ/2 · ‖a‖² for D(x) = a · x + 3, whatever the images; its gradient is interval·γ·a.

    Source: Mescheder, Geiger & Nowozin 2018, eq. 9; Karras et al. 2019, §3.1: the factor of lazy regularisation.
    """
    critic = Linear(double(2, 3, 4, seed=seed))
    expected = interval * gamma / 2 * critic.a.detach().square().sum()
    for batch in (2, 5):
        penalty = r1_penalty(critic, double(batch, 2, 3, 4, seed=seed), gamma=gamma, interval=interval)
        laws.assert_close(penalty, expected)
    (gradient,) = torch.autograd.grad(penalty, critic.a)
    laws.assert_close(gradient, interval * gamma * critic.a.detach())


@pytest.mark.states("gradient routing")
@DISCRIMINATORS
def test_r1_is_the_mean_of_squared_gradients_at_each_image(of):
    """R₁ = γ/2 · mean over images of ‖∇D(x)‖², and trains the discriminator; the images stay constants.

    Source: Mescheder, Geiger & Nowozin 2018, eq. 9.
    """
    network = filled(discriminator(of, group_size=1))
    x = double(3, 2, 8, 8).requires_grad_()
    rows = [torch.autograd.grad(network(x[n : n + 1]).sum(), x)[0].square().sum() for n in range(3)]
    penalty = r1_penalty(network, x, gamma=3.0)
    laws.assert_close(penalty.detach(), 1.5 * sum(rows) / 3)
    weights = {k: p for k, p in network.named_parameters() if k.endswith("weight") and k != "from_rgb.0.weight"}
    laws.gradient_reaches(penalty, weights, {"images": x})
    with torch.no_grad():
        laws.assert_close(r1_penalty(network, x.detach(), gamma=3.0).detach(), penalty.detach(), what="under no_grad")


def path_lengths(matrix, noise):
    """‖Aᵀ y‖ of each sample and layer, of g(w) = Σ over layers of A_l w_l."""
    return torch.einsum("lpd,bp->bld", matrix, noise.flatten(1)).square().sum(-1)


@given(seed=seeds(), decay=floats(0, 0.99))
def test_path_length_of_a_linear_generator_is_known(seed, decay):
    """For g(w) = Σ_l A_l w_l the penalty is mean (ℓ − a)², ℓ² = mean over layers of ‖A_lᵀ y‖², y ~ N(0, 1/(H·W)).

    a ← decay · a + (1 − decay) · mean ℓ, from 0, before the comparison: over two calls, 3 layers, images of 2 × 4 × 5.

    Source: Karras et al. 2019, eq. 4 and appendix B.  Convention: one call samples the noise, in the images' shape.
    """
    penalty, average = PathLengthPenalty(decay).double(), 0.0
    matrix = double(3, 40, 6, seed=seed)
    for call in range(2):
        ws = double(7, 3, 6, seed=seed + call).requires_grad_()
        images = torch.einsum("lpd,bld->bp", matrix, ws).unflatten(1, (2, 4, 5))
        noise = torch.randn(7, 2, 4, 5, generator=seeded(seed), dtype=torch.float64) / math.sqrt(20)
        lengths = path_lengths(matrix, noise).mean(1).sqrt()
        average = decay * average + (1 - decay) * lengths.mean()
        found = penalty(images, ws, generator=seeded(seed))
        laws.assert_close(found.detach(), (lengths - average).square().mean())
        laws.assert_close(penalty.mean, average)


def test_path_length_penalty_vanishes_for_orthogonal_maps_of_its_scale():
    """For orthogonal A of scale c, E‖Aᵀ y‖ is c·√d/√(H·W) nearly: with a there the penalty is only the noise's spread.

    d = 60, images of 8 × 8, c = 5; 2,000 samples.  The relative spread of a length of 60 squares is 1/√120, so the
    penalty is below 1.3/120 of a²; a map of the same mean length with scales from 1 to 9 exceeds twice that.

    Source: Karras et al. 2019, §3.2 and appendix C: the prior is minimised by orthogonal Jacobians.
    """
    q = torch.linalg.qr(double(64, 60))[0]
    found = []
    for scales in (torch.full((60,), 5.0), torch.linspace(0, 8, 60)[torch.randperm(60, generator=seeded(0))]):
        ws = double(2000, 1, 60).requires_grad_()
        images = (ws[:, 0] * scales.double() @ q.T).unflatten(1, (1, 8, 8))
        penalty = PathLengthPenalty(decay=0.0).double()
        value = penalty(images, ws, generator=seeded(1)).item()
        found.append(value / penalty.mean.item() ** 2)
    orthogonal, other = found
    assert orthogonal < 1.3 / 120, f"expected a relative penalty below 0.0108, found {orthogonal:.4f}"
    assert other > 1.5 * orthogonal, f"expected more for unequal scales, found {other:.4f} and {orthogonal:.4f}"


@pytest.mark.states("gradient routing", "second derivative")
@GENERATORS
def test_path_length_trains_the_generator_and_holds_its_mean_constant(of):
    """The penalty's gradient reaches the layers and the mapping network, a is a constant of it, and eval keeps a.

    Gradient of mean (ℓ − a)²: 2 mean((ℓ − a) ∂ℓ), checked at a parameter that scales all lengths: ℓ = |t| · ℓ₁.

    Source: Karras et al. 2019, eq. 4 and §3.2: a is a moving average, found during the optimisation.
    """
    network = generator(of, mixing_prob=0.0)
    penalty = PathLengthPenalty(0.5)
    ws = network.styles(randn(3, 5))
    value = penalty(network.synthesis(ws, "const"), ws, generator=seeded(0))
    mapping = dict(network.mapping.named_parameters(prefix="mapping"))
    laws.gradient_reaches(value, mapping | {"const": network.const})
    t = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    matrix, ws = double(1, 20, 6), double(4, 1, 6).requires_grad_()
    images = (t * torch.einsum("lpd,bld->bp", matrix, ws)).unflatten(1, (1, 4, 5))
    steady = PathLengthPenalty(0.5).double()
    (gradient,) = torch.autograd.grad(steady(images, ws, generator=seeded(0)), t)
    noise = torch.randn(4, 1, 4, 5, generator=seeded(0), dtype=torch.float64) / math.sqrt(20)
    one = path_lengths(matrix, noise).mean(1).sqrt()
    average = 0.5 * 1.7 * one.mean()
    laws.assert_close(gradient, (2 * (1.7 * one - average) * one).mean())
    before = steady.mean.clone()
    steady.eval()(images, ws)
    laws.assert_close(steady.mean, before)


# ---------------------------------------------------------------------------------------------- cost and dtypes


@pytest.mark.states("cost")
def test_styles_cost_no_convolution():
    """A modulated convolution costs one convolution of the batch and products with w, not a convolution more a sample.

    FLOPs per sample, 8 and 16 channels at 8 × 8 pixels: the convolution's 2·9·8·16·64, the style's 2·5·8 and at most
    4·8·16 for the demodulation.

    Source: Karras et al. 2019, §2.2: baking the scales into the weights; eq. 1-3.
    """
    conv = ModulatedConv2d(8, 16, 3, 5)
    for batch in (2, 6):
        found = cost.flops(conv, randn(batch, 8, 8, 8), randn(batch, 5)) / batch
        convolution = 2 * 9 * 8 * 16 * 64
        assert convolution <= found <= convolution + 2 * 5 * 8 + 4 * 8 * 16, f"expected {convolution}, found {found}"


@GENERATORS
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_generators_keep_the_dtype_of_their_parameters(of, dtype):
    """Images, styles and w̄ have the dtype of the parameters, in training and in evaluation.

    Source: the contract of torch.nn modules.
    """
    network = generator(of).to(dtype)
    for train in (True, False):
        images = network.train(train)(randn(3, 5).to(dtype), truncation_psi=0.5)
        assert images.dtype == dtype and network.w_avg.dtype == dtype, f"expected {dtype}, found {images.dtype}"
        assert images.isfinite().all(), "expected finite images, found NaN or infinite ones"


def test_smallest_networks_work():
    """Widths of 1, a batch of 1, and images of 4 × 4 pixels of one channel all work.

    Source: the contract: every size from 1 on, resolutions from 4 on.
    """
    sizes = {"resolution": 4, "channel_max": 1, "image_channels": 1}
    for of, critic in ((StyleGANGenerator, StyleGANDiscriminator), (StyleGAN2Generator, StyleGAN2Discriminator)):
        images = of(1, 1, num_layers=1, **sizes)(randn(1, 1))
        logit = critic(**sizes)(images)
        assert images.shape == (1, 1, 4, 4) and logit.shape == (1, 1), f"found {images.shape}, {logit.shape}"
