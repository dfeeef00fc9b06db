"""Properties of latent diffusion.  Rombach et al. 2021, arXiv:2112.10752; guidance: arXiv:2207.12598."""

import pytest
import torch
from hypothesis import given
from torch import nn
from torch.nn import functional

from impl.models.ddpm import GaussianDiffusion, beta_schedule
from impl.models.latent_diffusion import AutoencoderKL, LatentDiffusion, SpatialTransformer
from spec import cost, laws
from spec.cases.ddpm import times
from spec.cases.latent_diffusion import (
    autoencoder,
    denoiser,
    latent_diffusion,
    process,
    spatial_transformer,
)
from spec.laws import double, random
from spec.properties.test_ddpm import attended, convolved, exact, group_norm
from spec.strategies import floats, permutations, seeds, sizes

pytestmark = pytest.mark.item("latent-diffusion")


def all_random(module):
    return laws.randomise(module.double()).eval()


# ---------------------------------------------------------------------------------------------- autoencoder


def residual(x, state, prefix):
    h = convolved(functional.silu(group_norm(x, state, f"{prefix}norm1")), state, f"{prefix}conv1")
    h = convolved(functional.silu(group_norm(h, state, f"{prefix}norm2")), state, f"{prefix}conv2")
    return h + (convolved(x, state, f"{prefix}shortcut") if f"{prefix}shortcut.weight" in state else x)


def middle(x, state, prefix, first):
    x = attended(residual(x, state, f"{prefix}.{first}."), state, f"{prefix}.{first + 1}.")
    return residual(x, state, f"{prefix}.{first + 2}.")


@pytest.mark.states("equivalence")
def test_encoder_and_decoder_are_their_blocks_in_order():
    """Residual blocks at each size, attention at the coarsest, sizes that halve by convolutions and double by repeats.

    Source: Rombach et al. 2021, §3.1, as released: 1 × 1 convolutions after the encoder and before the decoder.
    """
    module = all_random(autoencoder())
    state = module.state_dict()

    def encoded(x):
        x = residual(convolved(x, state, "encoder.0"), state, "encoder.1.")
        kernel, bias = state["encoder.2.weight"], state["encoder.2.bias"]
        x = functional.conv2d(functional.pad(x, (0, 1, 0, 1)), kernel, bias, stride=2)
        x = middle(residual(x, state, "encoder.3."), state, "encoder", 4)
        x = convolved(functional.silu(group_norm(x, state, "encoder.7")), state, "encoder.9")
        mu, logvar = convolved(x, state, "encoder.10").chunk(2, dim=1)
        return mu, logvar.clamp(-30, 20)

    def decoded(z):
        x = middle(convolved(convolved(z, state, "decoder.0"), state, "decoder.1"), state, "decoder", 2)
        x = residual(residual(x, state, "decoder.5."), state, "decoder.6.")
        x = convolved(functional.interpolate(x, scale_factor=2, mode="nearest"), state, "decoder.8")
        x = residual(residual(x, state, "decoder.9."), state, "decoder.10.")
        return convolved(functional.silu(group_norm(x, state, "decoder.11")), state, "decoder.13")

    laws.gradients_match(lambda x: module.encode(x), encoded, double(2, 3, 4, 6))
    laws.gradients_match(lambda z: module.decode(z), decoded, double(2, 2, 2, 3))


@given(seed=seeds())
def test_latents_are_sampled_in_training_and_means_in_evaluation(seed):
    """In training D gets μ + σ ε with σ = exp(½ log σ²), in evaluation μ; both moments come out.

    Source: Rombach et al. 2021, §3.1, a slight penalty towards a standard normal, as in a VAE.
    """
    module, x = all_random(autoencoder()), double(2, 3, 4, 6, seed=seed)
    mu, logvar = module.encode(x)
    laws.assert_all_close(list(module(x)), [module.decode(mu), mu, logvar])
    noise = torch.randn(mu.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = module.train()(x, torch.Generator().manual_seed(seed))
    laws.assert_all_close(list(found), [module.decode(mu + (logvar / 2).exp() * noise), mu, logvar])


def test_log_variances_are_kept_in_range():
    """log σ² is cut to [−30, 20], so that σ is neither 0 nor infinite; means are not.

    Source: Rombach et al. 2021, as released.
    """
    module = all_random(autoencoder())
    state = module.state_dict()
    bias = torch.tensor([1000.0, -1000.0, 1000.0, -1000.0], dtype=torch.float64)
    module.load_state_dict(state | {"encoder.10.bias": bias})
    mu, logvar = module.encode(double(2, 3, 4, 6))
    assert (logvar[:, 0] == 20).all() and (logvar[:, 1] == -30).all(), (
        f"expected 20 and −30, found {logvar[0, :, 0, 0]}"
    )
    assert (mu[:, 0] > 900).all() and (mu[:, 1] < -900).all(), "expected means as they are"


@given(seed=seeds(), weight=floats(0, 2))
def test_loss_is_the_absolute_error_and_a_little_divergence(seed, weight):
    """Mean |x − x̂| of the pixels plus the weight times ½ Σ(μ² + σ² − 1 − log σ²), for each image.

    Source: Rombach et al. 2021, §3.1 and appendix G; Kingma & Welling 2013, appendix B.
    """
    module, x = all_random(autoencoder()), double(2, 3, 4, 6, seed=seed)
    found, mu, logvar = module(x)
    divergence = (mu.square() + logvar.exp() - 1 - logvar).sum((1, 2, 3)) / 2
    laws.assert_close(module.loss(x, weight), (x - found).abs().mean((1, 2, 3)) + weight * divergence)
    laws.assert_close(module.loss(x), (x - found).abs().mean((1, 2, 3)) + 1e-6 * divergence, what="default weight")


@pytest.mark.states("gradient routing")
def test_loss_of_the_autoencoder_reaches_every_parameter():
    """Encoder and decoder learn together, in training.

    Source: Rombach et al. 2021, §3.1.
    """
    module = all_random(autoencoder()).train()
    loss = module.loss(double(2, 3, 4, 6), 0.1, torch.Generator().manual_seed(0)).sum()
    laws.gradient_reaches(loss, dict(module.named_parameters()))


@given(depth=sizes(1, 3), rows=sizes(1, 2), columns=sizes(1, 2))
def test_latents_are_smaller_by_a_power_of_two(depth, rows, columns):
    """With m + 1 sizes images of H × W have latents of H/2^m × W/2^m, and decode to their own size.

    Source: Rombach et al. 2021, §3.1: f = 2^m.
    """
    factor = 2 ** (depth - 1)
    with torch.device("meta"):
        module = AutoencoderKL(3, 2, 4, (1,) * depth, 1, 2)
        mu, _ = module.encode(torch.randn(2, 3, rows * factor, columns * factor))
        assert module.decode(mu).shape == (2, 3, rows * factor, columns * factor)
    assert module.factor == factor and mu.shape == (2, 2, rows, columns), (
        f"expected {rows} × {columns}, found {mu.shape}"
    )


# ---------------------------------------------------------------------------------------------- cross-attention


def layer_norm(x, state, name):
    return functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)


def heads_attend(q, k, v, heads):
    parts = [t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (q, k, v)]
    found = functional.scaled_dot_product_attention(*parts)
    return found.transpose(1, 2).flatten(2)


def reference(x, context, state, heads=2):
    h = functional.group_norm(x, 2, state["norm.weight"], state["norm.bias"], 1e-6).flatten(2).mT
    h = functional.linear(h, state["input.weight"], state["input.bias"])
    block = {name.removeprefix("blocks.0."): value for name, value in state.items()}
    y = layer_norm(h, block, "norm1")
    y = heads_attend(*functional.linear(y, block["self_attn.in_proj_weight"]).chunk(3, dim=2), heads)
    h = h + functional.linear(y, block["self_attn.out_proj.weight"], block["self_attn.out_proj.bias"])
    q = functional.linear(layer_norm(h, block, "norm2"), block["cross_attn.q_proj_weight"])
    k, v = (functional.linear(context, block[f"cross_attn.{name}_proj_weight"]) for name in "kv")
    y = heads_attend(q, k, v, heads)
    h = h + functional.linear(y, block["cross_attn.out_proj.weight"], block["cross_attn.out_proj.bias"])
    y = layer_norm(h, block, "norm3")
    gate, up, down = (
        lambda t, name=name: functional.linear(
            t, block[f"feed_forward.{name}_proj.weight"], block[f"feed_forward.{name}_proj.bias"]
        )
        for name in ("gate", "up", "down")
    )
    h = h + down(functional.gelu(gate(y)) * up(y))
    return x + functional.linear(h, state["output.weight"], state["output.bias"]).mT.reshape(x.shape)


def test_pixels_attend_to_one_another_and_to_the_context():
    """x + W_out(block(W_in GN(x))), a block of self-attention, cross-attention and GEGLU, each after a norm.

    Source: Rombach et al. 2021, §3.3 and table 15.
    """
    module = all_random(spatial_transformer())
    state = module.state_dict()
    laws.gradients_match(
        lambda *inputs: module(*inputs),
        lambda x, context: reference(x, context, state),
        double(2, 4, 2, 3),
        double(2, 5, 3, seed=1),
    )


@pytest.mark.states("symmetry")
@given(order=permutations(5), pixels=permutations(6), seed=seeds())
def test_context_and_pixels_are_sets(order, pixels, seed):
    """The order of the context's tokens does not matter, and permuted pixels have permuted outputs.

    Source: Rombach et al. 2021, eq. of §3.3: no position in keys, values or queries.
    """
    module, x, context = (
        all_random(spatial_transformer()),
        double(2, 4, 2, 3, seed=seed),
        double(2, 5, 3, seed=seed + 1),
    )
    found = module(x, context)
    laws.assert_close(module(x, context[:, order]), found)
    moved = module(x.flatten(2)[:, :, pixels].reshape(x.shape), context)
    laws.assert_close(moved, found.flatten(2)[:, :, pixels].reshape(x.shape))


@given(seed=seeds(), real=sizes(1, 4))
def test_padding_of_the_context_counts_nothing(seed, real):
    """Tokens that the mask hides change nothing, each sample by its own mask.

    Source: the definition of masked attention.
    """
    module, x, context = (
        all_random(spatial_transformer()),
        double(2, 4, 2, 3, seed=seed),
        double(2, 5, 3, seed=seed + 1),
    )
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1, real:] = False
    found = module(x, context, key_mask=mask)
    laws.assert_close(found[:1], module(x[:1], context[:1]))
    laws.assert_close(found[1:], module(x[1:], context[1:, :real]))


@pytest.mark.states("limiting case")
def test_a_single_token_is_handed_to_every_pixel():
    """With one token cross-attention adds W_O W_V τ to every pixel, whatever the pixel asks for.

    Source: Rombach et al. 2021, §3.3: a softmax over one key is 1.
    """
    module, x, context = all_random(spatial_transformer()), double(2, 4, 2, 3), double(2, 1, 3, seed=1)
    state = module.state_dict()
    other = double(4, 4, seed=2)
    expected = module(x, context)
    module.load_state_dict(state | {"blocks.0.cross_attn.q_proj_weight": other})
    laws.assert_close(module(x, context), expected, what="output with other queries")


def test_fresh_transformer_is_the_identity():
    """At first the image passes as it is.

    Source: Rombach et al. 2021, as released: the last map starts at 0.
    """
    x = random(2, 4, 2, 3)
    laws.assert_close(spatial_transformer()(x, random(2, 5, 3)), x)


@pytest.mark.states("dependence")
def test_every_pixel_depends_on_every_pixel_and_token():
    """Outputs depend on all pixels and all tokens of their own sample.

    Source: Rombach et al. 2021, §3.3.
    """
    module, x, context = all_random(spatial_transformer()), double(1, 4, 2, 3), double(1, 5, 3, seed=1)
    pixels = laws.jacobian(lambda x: module(x, context), x).reshape(4, 6, 4, 6).abs().amax((0, 2))
    tokens = laws.jacobian(lambda c: module(x, c), context).reshape(4, 6, 5, 3).abs().amax((0, 3))
    assert (pixels > 0).all() and (tokens > 0).all(), "expected outputs to depend on all pixels and tokens"


@pytest.mark.states("second derivative")
def test_transformer_has_second_derivatives():
    """The gradient of the gradient to image and context equals central differences.

    Source: the definition of the derivative.
    """
    laws.reseed(0)
    module = all_random(SpatialTransformer(2, 1, 1, groups=1))
    laws.gradient_correct(module, double(1, 2, 1, 2), double(1, 2, 1, seed=1), second_order=True)


@pytest.mark.states("cost")
@given(h=sizes(1, 3), w=sizes(1, 3), tokens=sizes(1, 3))
def test_cost_grows_with_the_square_of_the_pixels(h, w, tokens):
    """P pixels of c channels and S tokens of width d take 2·(20 P c² + 2 P² c + 2 S d c + 2 P S c) operations.

    Latents of factor f therefore need f² fewer for all maps, and f⁴ fewer for the pairs of pixels.

    Source: Rombach et al. 2021, §1 and §3.3; Vaswani et al. 2017, arXiv:1706.03762, table 1.
    """
    p, c, d = h * w, 4, 3
    expected = 2 * (20 * p * c * c + 2 * p * p * c + 2 * tokens * d * c + 2 * p * tokens * c)
    found = cost.flops(spatial_transformer(), random(1, c, h, w), random(1, tokens, d))
    assert found == expected, f"expected {expected} operations, found {found}"


# ---------------------------------------------------------------------------------------------- latent diffusion


class _Same(nn.Module):
    """An autoencoder whose latents are the images, with a spread."""

    def __init__(self, logvar=-30.0):
        super().__init__()
        self.weight, self.logvar = nn.Parameter(torch.ones((), dtype=torch.float64)), logvar

    def encode(self, images):
        return self.weight * images, torch.full_like(images, self.logvar)

    def decode(self, latents):
        return self.weight * latents


def model_of(autoencoder, denoiser, process, drop=0.0, null=0.0):
    return LatentDiffusion(autoencoder, denoiser, process, nn.Identity(), torch.tensor([null]).double(), drop).double()


@given(seed=seeds(), spread=floats(0.2, 5))
def test_scale_brings_latents_to_unit_spread(seed, spread):
    """After fit_scale the latents of those images have a standard deviation of 1, and images come back the same.

    Source: Rombach et al. 2021, appendix G: z is rescaled by the estimated standard deviation of the first batch.
    Convention: the spread about the mean of all elements, of all channels together.
    """
    model = model_of(_Same(), nn.Identity(), process())
    images = spread * double(3, 2, 2, 3, seed=seed) + 1
    model.fit_scale(images)
    latents = model.encode(images)
    laws.assert_close(latents.std(correction=0), torch.ones((), dtype=torch.float64))
    laws.assert_close(latents, images / images.std(correction=0))
    laws.assert_close(model.decode(latents), images, what="images decoded")


def test_scale_is_part_of_the_state():
    """The scale is 1 at first, and what `fit_scale` found is saved and loaded with the weights.

    Source: Rombach et al. 2021, as released: scale_factor is a buffer.
    """
    first, second = latent_diffusion(), latent_diffusion()
    assert first.scale == 1, f"expected a scale of 1, found {first.scale}"
    first.fit_scale(random(3, 3, 4, 6))
    assert first.scale != 1, "expected another scale"
    second.load_state_dict(first.state_dict())
    laws.assert_same(second.scale, first.scale)


@given(seed=seeds())
def test_latents_are_scaled_means_or_samples(seed):
    """`encode` is s μ, and with a generator s(μ + σ ε); `decode` divides by s.

    Source: Rombach et al. 2021, appendix G, as released.
    """
    model = model_of(_Same(logvar=-1.0), nn.Identity(), process())
    model.load_state_dict(model.state_dict() | {"scale": torch.tensor(0.18215).double()})
    images = double(2, 2, 2, 3, seed=seed)
    laws.assert_close(model.encode(images), 0.18215 * images, rtol=1e-6, because="a scale in float32")
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = model.encode(images, torch.Generator().manual_seed(seed))
    laws.assert_close(found, model.scale * (images + torch.tensor(-0.5).double().exp() * noise))
    laws.assert_close(model.decode(model.scale * images), images)


def test_loss_is_the_denoisers_on_latents_and_context():
    """L of each sample is that of ε_θ(z_t, t, τ(y)) against the noise.

    Source: Rombach et al. 2021, eq. 3.
    """
    model = laws.randomise(latent_diffusion(drop=0.0).double())
    z, y, noise, t = double(2, 2, 2, 4), double(2, 2), double(2, 2, 2, 4, seed=1), times(0, 2)
    zt = model.process.add_noise(z, t, noise)
    error = model.denoiser(zt, t, context=model.encode_condition(y)) - noise
    laws.assert_close(model.loss(z, y, t=t, noise=noise), error.square().mean((1, 2, 3)))


def test_first_stage_stays_as_it_is():
    """The loss trains the denoiser and the condition's encoder; the autoencoder has no gradient and keeps its values.

    Source: Rombach et al. 2021, §3.2: the pretrained perceptual compression model is fixed.
    """
    model = laws.randomise(latent_diffusion(drop=0.0).double())
    laws.reseed(0)
    z = model.encode(double(2, 3, 4, 8))
    assert not z.requires_grad, "expected latents without history"
    trained = {name: p for name, p in model.named_parameters() if not name.startswith("autoencoder.")}
    laws.gradient_reaches(model.loss(z, double(2, 2), t=times(1, 3)).sum(), trained)
    frozen = [p for name, p in model.named_parameters() if name.startswith("autoencoder.")]
    assert frozen and not any(p.requires_grad for p in frozen), "expected an autoencoder that asks for no gradient"


def test_conditions_are_left_out_sample_by_sample():
    """A share `drop` of the samples gets the null condition, whole and on its own; with 0 none does.

    Source: Ho & Salimans 2022, algorithm 1: c ← ∅ with probability p_uncond.
    """
    seen = []

    class Watch(nn.Module):
        def forward(self, y):
            seen.append(y)
            return y

    laws.reseed(0)
    count = 20000
    y = double(count, 2).abs() + 1
    null = torch.tensor([-1.0, -2.0]).double()
    for drop in (0.0, 0.3):
        model = LatentDiffusion(_Same(), _Zero(), process(), Watch(), null, drop).double()
        model.loss(double(count, 1), y, t=torch.zeros(count).long())
        dropped = (seen[-1] == null).all(1)
        laws.assert_close(seen[-1][~dropped], y[~dropped], what="conditions that are kept")
        share = dropped.double().mean().item()
        assert abs(share - drop) < 0.02, f"expected a share of {drop} left out, found {share:.3f}"  # 6 standard errors


class _Zero(nn.Module):
    def forward(self, z, t, context):
        return 0 * z


@pytest.mark.parametrize("guidance", [0.0, 1.0, 3.0])
def test_guidance_moves_the_mean_of_the_samples(guidance):
    """With exact predictions for N(2, v) and N(0, v) samples are those of N(2g, v), for the same start.

    Source: Ho & Salimans 2022, eq. 6: g = 0 leaves the condition out, 1 obeys it, more exaggerates it.
    """
    diffusion = GaussianDiffusion(beta_schedule("cosine", 50))

    class Exact(nn.Module):
        def forward(self, z, t, context):
            return exact(diffusion, context, 0.5)(z, t)

    model = model_of(_Same(), Exact(), diffusion)
    start, y = double(4, 1), torch.full((4, 1), 2.0, dtype=torch.float64)
    found = model.sample(start, y, guidance, steps=25)
    expected = diffusion.ddim_sample(exact(diffusion, 2 * guidance, 0.5), start, 25)
    laws.assert_close(found, expected, rtol=1e-8, because="a chain of steps")


def test_samples_are_decoded_and_keep_no_history():
    """Samples are D(z_0/s) of the sampler's z_0, without a graph; the null condition is τ(null), not zeros.

    Source: Rombach et al. 2021, §3.3; Ho & Salimans 2022, algorithm 2.
    """
    model = laws.randomise(latent_diffusion().double()).eval()
    model.load_state_dict(model.state_dict() | {"scale": torch.tensor(0.5).double(), "null": double(2, seed=5)})
    start, y = double(2, 2, 2, 4), double(2, 2, seed=1)
    found = model.sample(start, y, 1.5, steps=[0, 2, 3])
    context, nothing = model.encode_condition(y), model.encode_condition(double(2, seed=5).expand(2, 2))

    def guided(z, t):
        none = model.denoiser(z, t, context=nothing)
        return none + 1.5 * (model.denoiser(z, t, context=context) - none)

    z = model.process.ddim_sample(guided, start, [0, 2, 3])
    laws.assert_close(found, model.autoencoder.decode(z / 0.5))
    assert not found.requires_grad, "expected samples without history"


def test_context_reaches_the_denoiser_of_every_size():
    """Through cross-attention the prediction depends on every token of its own sample's context, on no other's.

    Source: Rombach et al. 2021, figure 3.
    """
    module = all_random(denoiser())
    z, context, t = double(2, 2, 2, 4), double(2, 3, 3, seed=1), times(1, 600)
    rows = laws.jacobian(lambda c: module(z, t, context=c), context).reshape(2, 16, 2, 3, 3).abs().amax(4)
    assert (rows[0, :, 0] > 0).all() and (rows[1, :, 1] > 0).all(), "expected dependence on each token"
    assert (rows[0, :, 1] == 0).all() and (rows[1, :, 0] == 0).all(), "expected samples to be independent"
