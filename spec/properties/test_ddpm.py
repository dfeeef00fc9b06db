"""Properties of DDPM.  Ho, Jain & Abbeel 2020, arXiv:2006.11239; DDIM: Song, Meng & Ermon 2020, arXiv:2010.02502."""

from math import cos, exp, log, pi, sin, sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from impl.models.ddpm import (
    AttentionBlock,
    DDPMUNet,
    GaussianDiffusion,
    ResidualBlock,
    beta_schedule,
    guide,
    timestep_embedding,
)
from spec import cost, laws
from spec.cases.ddpm import BETAS, PREDICTS, attention_block, diffusion, residual_block, times, unet
from spec.laws import double, random
from spec.strategies import floats, permutations, seeds, sizes, varied

pytestmark = pytest.mark.item("ddpm")
BARS = [0.9, 0.9 * 0.75, 0.9 * 0.75 * 0.5, 0.9 * 0.75 * 0.5 * 0.6]
ALL = pytest.mark.parametrize("predicts", PREDICTS)
TIMES = st.lists(st.integers(0, 3), min_size=2, max_size=2)


def column(values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def bars(t):
    """ᾱ at the times and one before, where the first is 1."""
    return column([BARS[k] for k in t]), column([BARS[k - 1] if k else 1.0 for k in t])


# ---------------------------------------------------------------------------------------------- schedules


@given(steps=st.integers(20, 400))
def test_linear_schedule_is_a_line(steps):
    """β rises evenly from 10⁻⁴ to 0.02 for 1000 steps, and from 1000/T times as much for T.

    Source: Ho et al. 2020, §4.  Convention: the scale 1000/T is that of Nichol & Dhariwal's code.
    """
    found = beta_schedule("linear", steps)
    expected = [1000 / steps * (1e-4 + (0.02 - 1e-4) * k / (steps - 1)) for k in range(steps)]
    laws.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@given(steps=st.integers(1, 300))
def test_cosine_schedule_has_the_bars_of_a_cosine(steps):
    """ᾱ_t = f(t)/f(0) with f(t) = cos²((t/T + 0.008)/1.008 · π/2), up to the last β, which is 0.999.

    Source: Nichol & Dhariwal 2021, eq. 17 and §3.2: β is clipped at 0.999.
    """
    found = beta_schedule("cosine", steps)
    assert found.dtype == torch.float64 and found.shape == (steps,), f"expected {steps} float64 values, found {found}"
    kept = (1 - found).cumprod(0)
    for t in range(1, steps):
        f = [cos((k / steps + 0.008) / 1.008 * pi / 2) ** 2 for k in (0, t)]
        laws.assert_close(kept[t - 1], torch.tensor(f[1] / f[0], dtype=torch.float64), what=f"ᾱ at {t} of {steps}")
    laws.assert_close(found[-1], torch.tensor(0.999, dtype=torch.float64))


# ---------------------------------------------------------------------------------------------- forward process


@given(x0=varied((2, 3)), noise=varied((2, 3)), t=TIMES)
def test_noise_is_added_at_once(x0, noise, t):
    """x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε, each sample at its own time.

    Source: Ho et al. 2020, eq. 4.
    """
    a, _ = bars(t)
    laws.assert_close(diffusion().add_noise(x0, times(*t), noise), a.sqrt() * x0 + (1 - a).sqrt() * noise)


@pytest.mark.states("equivalence")
@pytest.mark.parametrize("last", [0, 1, 2, 3])
def test_small_steps_compose(last):
    """Steps N(√(1 − β) x, β) one after the other have the mean √ᾱ_t x_0 and the variance 1 − ᾱ_t of the jump.

    Source: Ho et al. 2020, eq. 2 and 4.
    """
    mean, variance = 1.0, 0.0
    for k in range(last + 1):
        mean, variance = mean * sqrt(1 - BETAS[k]), (1 - BETAS[k]) * variance + BETAS[k]
    process, one, zero = diffusion(), double(1).abs() + 1, torch.zeros(1, dtype=torch.float64)
    laws.assert_close(process.add_noise(one, times(last), zero), mean * one)
    laws.assert_close(process.add_noise(zero, times(last), one) ** 2, variance * one**2)


@given(x0=floats(-2, 2), xt=floats(-2, 2), t=st.integers(0, 3))
def test_posterior_is_bayes_rule(x0, xt, t):
    """q(x_{t−1}|x_t, x_0) ∝ q(x_t|x_{t−1}) q(x_{t−1}|x_0): precisions add, and means by their precisions.

    Source: Ho et al. 2020, eq. 6 and 7.
    """
    mean, variance = diffusion().posterior(column([x0]), column([xt]), times(t))
    if t == 0:
        laws.assert_close(mean, column([x0]), what="mean before the first step")
        laws.assert_close(variance, torch.zeros(1, dtype=torch.float64), what="variance before the first step")
        return
    beta, before = BETAS[t], BARS[t - 1]
    precisions = (1 - beta) / beta, 1 / (1 - before)
    expected = (precisions[0] * xt / sqrt(1 - beta) + precisions[1] * sqrt(before) * x0) / sum(precisions)
    laws.assert_close(mean, column([expected]))
    laws.assert_close(variance, torch.tensor([1 / sum(precisions)], dtype=torch.float64))


# ---------------------------------------------------------------------------------------------- predictions, loss


@ALL
@given(x0=varied((2, 3)), noise=varied((2, 3)), t=TIMES, seed=seeds())
def test_predictions_are_three_views_of_one(predicts, x0, noise, t, seed):
    """The right prediction gives back x_0 and ε, and for any the two give x_t: x_t = √ᾱ x̂_0 + √(1 − ᾱ) ε̂.

    v = √ᾱ ε − √(1 − ᾱ) x_0.

    Source: Ho et al. 2020, eq. 4; Salimans & Ho 2022, arXiv:2202.00512, appendix D.
    """
    process, t, (a, _) = diffusion(predicts), times(*t), bars(t)
    xt = process.add_noise(x0, t, noise)
    right = {"noise": noise, "x0": x0, "v": a.sqrt() * noise - (1 - a).sqrt() * x0}[predicts]
    laws.assert_close(process.target(x0, noise, t), right, what="target")
    for found, expected in zip(process.x0_and_noise(xt, t, right), (x0, noise)):
        laws.assert_close(found, expected)
    other = double(2, 3, seed=seed)
    found = process.x0_and_noise(xt, t, other)
    laws.assert_close(a.sqrt() * found[0] + (1 - a).sqrt() * found[1], xt, what="x_t of another prediction")
    if predicts != "v":
        laws.assert_same(found[1] if predicts == "noise" else found[0], other, what="the prediction itself")


@ALL
@given(x0=varied((2, 3, 2)), noise=varied((2, 3, 2)), t=TIMES)
def test_loss_is_the_mean_squared_error_of_each_sample(predicts, x0, noise, t):
    """L = mean over the elements of (f(x_t, t) − target)², one number for each sample; conditions reach the network.

    Source: Ho et al. 2020, eq. 14.  Convention: mean, not sum.
    """
    process, seen = diffusion(predicts), []

    def model(x, at, factor):
        seen.append((x, at))
        return factor * x

    found = process.loss(model, x0, times(*t), noise, factor=3.0)
    a = bars(t)[0][:, None]
    xt = a.sqrt() * x0 + (1 - a).sqrt() * noise
    target = {"noise": noise, "x0": x0, "v": a.sqrt() * noise - (1 - a).sqrt() * x0}[predicts]
    laws.assert_close(seen[0][0], xt, what="x_t that the network sees")
    assert seen[0][1].tolist() == t, f"expected times {t}, found {seen[0][1]}"
    laws.assert_close(found, torch.stack([(3 * b - c).square().mean() for b, c in zip(xt, target)]))


def test_times_and_noise_are_drawn():
    """Without arguments times are uniform over all T and noise is standard normal.

    Source: Ho et al. 2020, algorithm 1: t ~ Uniform({1 … T}), ε ~ N(0, I).
    """
    laws.reseed(0)
    process, seen = diffusion("x0"), {}
    x0 = 0 * double(20000, 1)

    def model(x, t):
        seen["x"], seen["t"] = x[:, 0], t
        return x

    process.loss(model, x0)
    for k in range(4):
        here = seen["t"] == k
        share = here.double().mean()
        assert abs(share - 0.25) < 0.02, f"expected a quarter of the times at {k}, found {share}"
        spread = seen["x"][here].std() / (1 - BARS[k]) ** 0.5
        assert abs(spread - 1) < 0.05, f"expected standard noise at {k}, found a spread of {spread}"
        assert abs(seen["x"][here].mean()) < 0.05, f"expected a mean of 0 at {k}"


@pytest.mark.states("gradient routing")
@ALL
def test_loss_reaches_the_network_and_not_its_target(predicts):
    """The gradient of the loss to the prediction is 2(f − target)/numbers, and the loss reaches every parameter.

    Source: Ho et al. 2020, algorithm 1: a gradient step on ∇_θ ‖ε − ε_θ‖².
    """
    process, model = diffusion(predicts), laws.randomise(unet().double())
    x0, noise, t = double(2, 3, 4, 6), double(2, 3, 4, 6, seed=1), times(1, 3)
    laws.gradient_reaches(process.loss(model, x0, t, noise).mean(), dict(model.named_parameters()))
    prediction = double(2, 3, 4, 6, seed=2).requires_grad_()
    (slope,) = torch.autograd.grad(process.loss(lambda x, t: prediction, x0, t, noise).sum(), prediction)
    laws.assert_close(slope, 2 * (prediction - process.target(x0, noise, t)) / 72)


@given(x0=varied((2, 3)))
def test_prior_term_is_a_divergence_of_normals(x0):
    """L_T = ½ Σ(1 − ᾱ + ᾱ x_0² − 1 − ln(1 − ᾱ)) at the last time, as torch.distributions has it.

    Source: Ho et al. 2020, eq. 5.
    """
    a, unit = BARS[-1], torch.ones_like(x0)
    last = torch.distributions.Normal(sqrt(a) * x0, sqrt(1 - a) * unit)
    expected = torch.distributions.kl_divergence(last, torch.distributions.Normal(0 * x0, unit)).sum(1)
    laws.assert_close(diffusion().prior_kl(x0), expected)


# ---------------------------------------------------------------------------------------------- steps


@ALL
@pytest.mark.parametrize("variance", ["large", "small"])
@given(xt=varied((2, 3)), t=TIMES, seed=seeds())
def test_ancestral_step_is_the_posterior_at_the_prediction(predicts, variance, xt, t, seed):
    """x_{t−1} = μ̃(x_t, x̂_0) + σ z with σ² = β or β̃; at the first time no noise is added.

    Source: Ho et al. 2020, eq. 7 and 11, §3.2, algorithm 2.
    """
    process, prediction, noise = diffusion(predicts, variance), double(2, 3, seed=seed), double(2, 3, seed=seed + 1)
    x0, _ = process.x0_and_noise(xt, times(*t), prediction)
    mean, small = process.posterior(x0, xt, times(*t))
    sigma = column([sqrt(BETAS[k]) if variance == "large" else sqrt(s) for k, s in zip(t, small.tolist())])
    sigma = sigma * column([float(k > 0) for k in t])
    laws.assert_close(process.step(xt, times(*t), prediction, noise), mean + sigma * noise)


@given(xt=varied((2, 3)), t=TIMES, noise=varied((2, 3)))
def test_ancestral_mean_is_that_of_equation_11(xt, t, noise):
    """With predicted noise the mean is (x_t − β/√(1 − ᾱ) ε̂)/√(1 − β).

    Source: Ho et al. 2020, eq. 11.
    """
    beta, (a, _) = column([BETAS[k] for k in t]), bars(t)
    expected = (xt - beta / (1 - a).sqrt() * noise) / (1 - beta).sqrt()
    laws.assert_close(diffusion().step(xt, times(*t), noise, torch.zeros_like(xt)), expected)


@ALL
@given(xt=varied((2, 3)), t=TIMES, seed=seeds())
def test_ddim_with_eta_1_is_the_ancestral_step(predicts, xt, t, seed):
    """With η = 1 and the time just before, the step is the ancestral one with σ² = β̃.

    Source: Song et al. 2020, §4.1: η = 1 is DDPM.
    """
    process, prediction, noise = diffusion(predicts, "small"), double(2, 3, seed=seed), double(2, 3, seed=seed + 1)
    expected = process.step(xt, times(*t), prediction, noise)
    found = process.ddim_step(xt, times(*t), times(*t) - 1, prediction, 1.0, noise)
    laws.assert_close(found, expected)


@given(xt=varied((2, 3)), t=TIMES, eta=floats(0, 1), back=st.integers(1, 4), seed=seeds())
def test_ddim_step_is_equation_12(xt, t, eta, back, seed):
    """x_τ = √ᾱ_τ x̂_0 + √(1 − ᾱ_τ − σ²) ε̂ + σ z, σ = η √((1 − ᾱ_τ)/(1 − ᾱ_t)) √(1 − ᾱ_t/ᾱ_τ), for any earlier τ.

    Source: Song et al. 2020, eq. 12 and 16; ᾱ is their α.
    """
    prediction, noise = double(2, 3, seed=seed), double(2, 3, seed=seed + 1)
    before = [max(k - back, -1) for k in t]
    a = bars(t)[0]
    earlier = column([BARS[k] if k >= 0 else 1.0 for k in before])
    x0 = (xt - (1 - a).sqrt() * prediction) / a.sqrt()
    sigma = eta * ((1 - earlier) / (1 - a)).sqrt() * (1 - a / earlier).sqrt()
    expected = earlier.sqrt() * x0 + (1 - earlier - sigma**2).clamp(min=0).sqrt() * prediction + sigma * noise
    found = diffusion().ddim_step(xt, times(*t), times(*before), prediction, eta, noise)
    laws.assert_close(found, expected, rtol=1e-8, atol=1e-8, because="a root of a difference that may vanish")


@ALL
@given(xt=varied((2, 3)), t=TIMES, seed=seeds())
def test_clipping_cuts_the_predicted_data(predicts, xt, t, seed):
    """With a range, x̂_0 is cut to it before the step, and in DDIM ε̂ is what then leads from x̂_0 to x_t.

    Source: Ho et al. 2020, as released: clip_denoised; Song et al. 2020, eq. 12.
    """
    process, prediction, zero = diffusion(predicts), 3 * double(2, 3, seed=seed), torch.zeros(2, 3).double()
    x0 = process.x0_and_noise(xt, times(*t), prediction)[0].clamp(-0.5, 0.7)
    mean, _ = process.posterior(x0, xt, times(*t))
    laws.assert_close(process.step(xt, times(*t), prediction, zero, clip=(-0.5, 0.7)), mean)
    a, before = bars(t)
    expected = before.sqrt() * x0 + (1 - before).sqrt() * (xt - a.sqrt() * x0) / (1 - a).sqrt()
    found = process.ddim_step(xt, times(*t), times(*t) - 1, prediction, clip=(-0.5, 0.7))
    laws.assert_close(found, expected)


# ---------------------------------------------------------------------------------------------- samplers


def exact(process, mean, spread):
    """The best prediction of noise for data N(mean, spread²): √(1 − ᾱ)(x − √ᾱ μ)/(ᾱ s² + 1 − ᾱ)."""

    def model(x, t):
        a = process.alpha_bars[t].reshape(-1, *[1] * (x.dim() - 1))
        return (1 - a).sqrt() * (x - a.sqrt() * mean) / (a * spread**2 + 1 - a)

    return model


def affine_map(process, model, **options):
    """(A, B) of a deterministic sampler that maps x_T to A x_T + B."""
    ends = process.ddim_sample(model, torch.tensor([[0.0], [1.0]], dtype=torch.float64), **options)[:, 0].tolist()
    return ends[1] - ends[0], ends[0]


@pytest.mark.parametrize(
    ("steps", "slope", "offset"), [(10, 0.28178, 1.49305), (50, 0.373745606872768, 1.4956924395056201)]
)
def test_few_steps_use_the_bars_of_their_own_times(steps, slope, offset):
    """For data N(1.5, 0.4²) and the best prediction, DDIM at times 0, 1000/S, … is the affine map that follows by hand.

    Coefficients of adjacent times in place of those of the chosen ones are right with 1000 steps, and give 0.95 and
    0.12 with 50.

    Source: Song et al. 2020, eq. 12 and §4.2; the map is the product of its S affine steps.
    """
    process = GaussianDiffusion(beta_schedule("linear"))
    found = affine_map(process, exact(process, 1.5, 0.4), steps=steps)
    a, b, chosen = 1.0, 0.0, list(range(0, 1000, 1000 // steps))
    for k in reversed(range(steps)):
        bar, earlier = process.alpha_bars[chosen[k]].item(), process.alpha_bars[chosen[k - 1]].item() if k else 1.0
        share = sqrt(1 - bar) / (bar * 0.16 + 1 - bar)  # ε̂ = share · (x − √ᾱ · 1.5)
        x0 = (1 - sqrt(1 - bar) * share) / sqrt(bar), sqrt(1 - bar) * share * 1.5
        a, b = (
            (sqrt(earlier) * x0[0] + sqrt(1 - earlier) * share) * a,
            (sqrt(earlier) * x0[0] + sqrt(1 - earlier) * share) * b
            + sqrt(earlier) * x0[1]
            - sqrt(1 - earlier) * share * sqrt(bar) * 1.5,
        )
    laws.assert_close(torch.tensor(found), torch.tensor([a, b]), rtol=1e-6, because="a chain of float64 steps")
    assert abs(found[0] - slope) < 2e-5 and abs(found[1] - offset) < 2e-5, f"expected {slope}, {offset}, found {found}"


def test_many_steps_approach_the_probability_flow():
    """With the best prediction DDIM's map tends to that of the flow, slope s/√(ᾱ s² + 1 − ᾱ), an error like 1/S.

    Source: Song et al. 2020, §4.3: DDIM is an Euler step of an ordinary differential equation.
    """
    process = GaussianDiffusion(beta_schedule("linear"))
    a = process.alpha_bars[-1].item()
    slope = 0.4 / sqrt(a * 0.16 + 1 - a)
    offset = 1.5 * (1 - slope * sqrt(a))
    errors = []
    for steps in (50, 100, 500, 1000):
        found = affine_map(process, exact(process, 1.5, 0.4), steps=steps)
        errors.append(abs(found[0] - slope))
    assert all(a > 1.05 * b for a, b in zip(errors, errors[1:])), f"expected errors that fall, found {errors}"
    assert errors[-1] < 2e-3 and abs(found[1] - offset) < 1e-4, f"expected {slope}, {offset}, found {found}"


@pytest.mark.parametrize(("variance", "expected"), [("large", (1.49999, 0.40085)), ("small", (1.49999, 0.39619))])
def test_both_variances_bracket_the_right_one(variance, expected):
    """For data N(1.5, 0.4²) and the best prediction, samples have a spread of 0.4009 with β and 0.3962 with β̃.

    The mean and the variance of the samples follow step by step, without drawing one.

    Source: Ho et al. 2020, §3.2: the two are the best for x_0 ~ N(0, I) and for a single point.
    """
    process = GaussianDiffusion(beta_schedule("linear"), variance=variance)
    model, mean, spread = exact(process, 1.5, 0.4), 0.0, 1.0
    probe = torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64)
    noise = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)
    for k in reversed(range(1000)):
        t = torch.full((3,), k)
        at = process.step(probe, t, model(probe, t), noise)[:, 0].tolist()
        slope, sigma = at[1] - at[0], at[2] - at[0]
        mean, spread = slope * mean + at[0], sqrt(slope**2 * spread**2 + sigma**2)
    assert abs(mean - expected[0]) < 2e-5 and abs(spread - expected[1]) < 2e-5, f"found {mean}, {spread}"


@pytest.mark.states("limiting case")
@ALL
@pytest.mark.parametrize("sampler", ["ancestral", "small", "ddim"])
def test_a_single_point_is_found_again(predicts, sampler):
    """Where all data are one point and the prediction knows it, samples are that point, whatever the noise.

    Source: Ho et al. 2020, §3.2; eq. 7 at t = 1 is x̂_0.
    """
    process = diffusion(predicts, "small" if sampler == "small" else "large")
    point = double(1, 3)

    def model(x, t):
        a = process.alpha_bars[t][:, None]
        noise = (x - a.sqrt() * point) / (1 - a).sqrt()
        return process.target(point.expand_as(x), noise, t)

    laws.reseed(0)
    x = double(4, 3, seed=1)
    found = process.ddim_sample(model, x, 2, eta=0.5) if sampler == "ddim" else process.sample(model, x)
    laws.assert_close(found, point.expand(4, 3), rtol=1e-8, because="a chain of steps")


def test_samplers_visit_their_times():
    """Ancestral sampling asks the network at all times from the last to 0, DDIM at 0, k, 2k, … or at those given.

    Source: Ho et al. 2020, algorithm 2; Song et al. 2020, §4.2: a subsequence τ.
    """
    process, seen = GaussianDiffusion(beta_schedule("cosine", 7)), []

    def model(x, t, shift):
        assert (t == t[0]).all() and t.shape == (2,), f"expected one time for each sample, found {t}"
        seen.append(t[0].item())
        return 0 * x + shift

    process.sample(model, double(2, 3), shift=1.0)
    assert seen == [6, 5, 4, 3, 2, 1, 0], f"expected all times, found {seen}"
    for steps, expected in ((3, [4, 2, 0]), (7, [6, 5, 4, 3, 2, 1, 0]), ([1, 2, 5], [5, 2, 1]), (1, [0])):
        seen.clear()
        process.ddim_sample(model, double(2, 3), steps, shift=1.0)
        assert seen == expected, f"{steps} steps: expected times {expected}, found {seen}"


def test_ddim_draws_nothing_and_its_last_step_ends_at_the_data():
    """With η = 0 samples depend on x_T alone; with η > 0 on the generator too; no step leaves noise at the end.

    Source: Song et al. 2020, §4.1; ᾱ before the first time is 1.
    """
    process, x = diffusion(), double(2, 3)

    def model(x, t):
        return 0.5 * x

    state = torch.random.get_rng_state()
    first = process.ddim_sample(model, x, 4)
    assert torch.equal(state, torch.random.get_rng_state()), "expected no draw with eta 0"
    laws.reseed(1)
    laws.assert_close(process.ddim_sample(model, x, 4), first)
    noisy = process.ddim_sample(model, x, 4, eta=1.0)
    laws.assert_differs(noisy, first, by=1e-3)
    a = BARS[0]
    laws.assert_close(process.ddim_sample(model, x, [0]), (x - sqrt(1 - a) * 0.5 * x) / sqrt(a), what="one step")


def test_sampling_keeps_no_graph_and_needs_no_gradient():
    """Samples of a network with parameters have no history.

    Source: Ho et al. 2020, algorithm 2: sampling does not train.
    """
    model, process = laws.randomise(unet()), diffusion()
    for found in (process.sample(model, random(2, 3, 4, 6)), process.ddim_sample(model, random(2, 3, 4, 6), 2)):
        assert not found.requires_grad and found.shape == (2, 3, 4, 6) and found.dtype == torch.float32
        assert found.isfinite().all(), "expected finite samples"


# ---------------------------------------------------------------------------------------------- guidance


@given(a=varied((2, 3)), b=varied((2, 3)), scale=floats(-1, 5))
def test_guidance_is_a_line_through_both(a, b, scale):
    """ε̂ = ε_u + s(ε_c − ε_u): s = 0 is the unconditional prediction, s = 1 the conditional, and s = 1 + w.

    Source: Ho & Salimans 2022, eq. 6: (1 + w) ε_c − w ε_u.
    """
    laws.assert_close(guide(a, b, scale), scale * a + (1 - scale) * b)
    laws.assert_close(guide(a, b, 0.0), b, what="with s = 0")


@given(scale=floats(0, 4), step=st.integers(0, 9))
def test_guidance_between_normals_is_a_shift(scale, step):
    """For N(μ_c, v) and N(μ_u, v) the guided prediction is the best one for N(μ_u + s(μ_c − μ_u), v), at every time.

    Source: Ho & Salimans 2022, eq. 6: noise that is affine in the mean.
    """
    process = GaussianDiffusion(beta_schedule("cosine", 10))
    x, t = double(3, 2), torch.full((3,), step)
    found = guide(exact(process, 2.0, 0.5)(x, t), exact(process, -1.0, 0.5)(x, t), scale)
    laws.assert_close(found, exact(process, -1.0 + 3 * scale, 0.5)(x, t))


# ---------------------------------------------------------------------------------------------- network


@given(t=st.lists(st.integers(0, 1000), min_size=2, max_size=3), half=st.integers(2, 5), stable=st.booleans())
def test_time_is_embedded_by_sines_and_cosines(t, half, stable):
    """Sines of t·10000^(−i/(k − 1)) come first, then cosines; Stable Diffusion divides by k and has cosines first.

    Source: Ho et al. 2020, appendix B, as released.
    """
    options = {"shift": 0.0, "cosine_first": True} if stable else {}
    rows = []
    for one in t:
        angles = [one * exp(-log(10000) * i / (half - (not stable))) for i in range(half)]
        parts = [[sin(a) for a in angles], [cos(a) for a in angles]]
        rows.append(sum(reversed(parts) if stable else parts, []))
    found = timestep_embedding(torch.tensor(t), 2 * half, **options)
    laws.assert_close(found.double(), torch.tensor(rows).double(), rtol=1e-5, atol=1e-6, because="float32 numbers")


def group_norm(x, state, name, groups=2, eps=1e-6):
    return functional.group_norm(x, groups, state[f"{name}.weight"], state[f"{name}.bias"], eps)


def convolved(x, state, name, **options):
    weight = state[f"{name}.weight"]
    return functional.conv2d(x, weight, state[f"{name}.bias"], padding=(weight.shape[2] - 1) // 2, **options)


def residual(x, e, state, prefix):
    h = convolved(functional.silu(group_norm(x, state, f"{prefix}norm1")), state, f"{prefix}conv1")
    h = (
        h
        + functional.linear(functional.silu(e), state[f"{prefix}time.weight"], state[f"{prefix}time.bias"])[
            ..., None, None
        ]
    )
    h = convolved(functional.silu(group_norm(h, state, f"{prefix}norm2")), state, f"{prefix}conv2")
    return h + (convolved(x, state, f"{prefix}shortcut") if f"{prefix}shortcut.weight" in state else x)


def attended(x, state, prefix):
    pixels = group_norm(x, state, f"{prefix}norm").flatten(2).mT
    weight, bias = state[f"{prefix}attention.in_proj_weight"], state[f"{prefix}attention.in_proj_bias"]
    q, k, v = functional.linear(pixels, weight, bias).chunk(3, dim=-1)
    h = (q @ k.mT / sqrt(q.shape[-1])).softmax(-1) @ v
    h = functional.linear(h, state[f"{prefix}attention.out_proj.weight"], state[f"{prefix}attention.out_proj.bias"])
    return x + h.mT.reshape(x.shape)


@pytest.mark.parametrize("after", [4, 6])
def test_residual_block_adds_the_time_between_its_convolutions(after):
    """x + conv(SiLU(GN(conv(SiLU(GN(x))) + W SiLU(e)))), with a 1 × 1 convolution of x where channels change.

    Source: Ho et al. 2020, appendix B.
    """
    module, x, e = laws.randomise(residual_block(after).double()), double(2, 4, 2, 3), double(2, 5, seed=1)
    state = module.state_dict()
    laws.gradients_match(lambda *inputs: module(*inputs), lambda x, e: residual(x, e, state, ""), x, e)


@pytest.mark.states("symmetry")
@given(order=permutations(6))
def test_attention_is_that_of_one_head_over_all_pixels(order):
    """x + W_O softmax(Q Kᵀ/√c) V of the normalized pixels, which it treats as a set.

    Source: Ho et al. 2020, appendix B: self-attention at 16 × 16.
    """
    module, x = laws.randomise(attention_block().double()), double(2, 4, 2, 3)
    laws.assert_close(module(x), attended(x, module.state_dict(), ""))
    moved = x.flatten(2)[:, :, order].reshape(x.shape)
    laws.assert_close(module(moved), module(x).flatten(2)[:, :, order].reshape(x.shape))


@pytest.mark.parametrize("classes", [None, 3])
def test_network_is_the_u_of_its_blocks(classes):
    """Two sizes down and up, joined in the reverse order, with attention at the coarse one, and the middle between.

    Labels are added to e; the coarse size comes of a convolution of stride 2 with zeros at the right and below, the
    fine one of repeated pixels and a convolution.

    Source: Ho et al. 2020, appendix B, as released; Nichol & Dhariwal 2021, §2.
    """
    model = laws.randomise(unet(num_classes=classes).double()).eval()
    state, x, t = model.state_dict(), double(2, 3, 4, 6), times(7, 900)
    labels = None if classes is None else times(3, 1)

    def reference(x):
        e = timestep_embedding(t, 4).double()
        e = functional.linear(e, state["time1.weight"], state["time1.bias"])
        e = functional.linear(functional.silu(e), state["time2.weight"], state["time2.bias"])
        e = e if labels is None else e + state["classes.weight"][labels]
        first = convolved(x, state, "first")
        second = residual(first, e, state, "down.0.blocks.0.")
        small = functional.conv2d(
            functional.pad(second, (0, 1, 0, 1)), state["down.0.resize.weight"], state["down.0.resize.bias"], stride=2
        )
        third = attended(residual(small, e, state, "down.1.blocks.0."), state, "down.1.attentions.0.")
        h = attended(residual(third, e, state, "middle1."), state, "middle_attention.")
        h = residual(h, e, state, "middle2.")
        for number, kept in ((0, third), (1, small)):
            h = residual(torch.cat([h, kept], 1), e, state, f"up.0.blocks.{number}.")
            h = attended(h, state, f"up.0.attentions.{number}.")
        h = convolved(functional.interpolate(h, scale_factor=2, mode="nearest"), state, "up.0.resize")
        for number, kept in ((0, second), (1, first)):
            h = residual(torch.cat([h, kept], 1), e, state, f"up.1.blocks.{number}.")
        return convolved(functional.silu(group_norm(h, state, "norm")), state, "last")

    arguments = (t,) if labels is None else (t, labels)
    laws.gradients_match(lambda x: model(x, *arguments), reference, x, rtol=1e-8, because="float32 sines of times")


def test_fresh_network_predicts_nothing():
    """At first the prediction is 0, every residual block passes its input on, and attention adds nothing.

    Source: Ho et al. 2020, as released: the last layers of branches start at 0.
    """
    assert (unet()(random(2, 3, 4, 6), times(0, 3)) == 0).all(), "expected a prediction of 0"
    x = random(2, 4, 2, 3)
    laws.assert_close(residual_block(4)(x, random(2, 5)), x)
    laws.assert_close(attention_block()(x), x)


@pytest.mark.states("dependence")
def test_every_pixel_sees_the_whole_image_its_time_and_its_label():
    """Through attention each output depends on every pixel, and on the time and the label of its own sample alone.

    Source: Ho et al. 2020, §3 and appendix B.
    """
    model = laws.randomise(unet(num_classes=3).double()).eval()
    x, t, labels = double(2, 3, 4, 6), times(3, 700), times(0, 2)
    rows = laws.jacobian(lambda x: model(x, t[:1], labels[:1]), x[:1]).reshape(72, 72)
    assert (rows != 0).all(), "expected every output to depend on every pixel"
    found = model(x, t, labels)
    for other_t, other_labels in ((times(4, 700), labels), (t, times(3, 2))):
        changed = model(x, other_t, other_labels)
        laws.assert_differs(changed[0], found[0], by=1e-6)
        laws.assert_close(changed[1], found[1])


def test_dropout_acts_between_the_convolutions():
    """With a probability of 1 a block in training is its second convolution of zeros: its bias, and the shortcut.

    Source: Ho et al. 2020, appendix B: dropout of 0.1 on CIFAR-10.
    """
    laws.reseed(0)
    module = laws.randomise(ResidualBlock(4, 4, 5, 2, dropout=1.0).double())
    x, e = double(2, 4, 2, 3), double(2, 5)
    bias = module.state_dict()["conv2.bias"][:, None, None]
    laws.assert_close(module.train()(x, e), x + bias)
    laws.assert_close(module.eval()(x, e), residual(x, e, module.state_dict(), ""))


@pytest.mark.states("second derivative")
def test_blocks_have_second_derivatives():
    """The gradient of the gradient of a residual block and of attention equals central differences.

    Source: the definition of the derivative.
    """
    laws.reseed(0)
    block, attention = ResidualBlock(2, 2, 1, groups=1), AttentionBlock(2, groups=1)
    block, attention = laws.randomise(block.double()), laws.randomise(attention.double())
    laws.gradient_correct(block, double(1, 2, 1, 2), double(1, 1, seed=1), second_order=True)
    laws.gradient_correct(attention, double(1, 2, 1, 2), second_order=True)


@pytest.mark.states("cost")
@given(h=sizes(1, 3), w=sizes(1, 3))
def test_attention_costs_the_square_of_the_pixels(h, w):
    """A block of c channels takes 2·(4 h w c² + 2 (h w)² c) operations.

    Source: Vaswani et al. 2017, arXiv:1706.03762, table 1.
    """
    pixels = h * w
    expected = 2 * (4 * pixels * 16 + 2 * pixels**2 * 4)
    found = cost.flops(AttentionBlock(4, 2), random(1, 4, h, w))
    assert found == expected, f"expected {expected} operations, found {found}"


def test_attention_of_another_kind_gets_its_arguments():
    """Modules that `attention` makes stand at the listed sizes and in the middle, and get the call's keywords.

    Source: the contract: keyword arguments of the call go to it.
    """
    seen = []

    class Shift(torch.nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.channels = channels

        def forward(self, x, by):
            seen.append(self.channels)
            return x + by

    laws.reseed(0)
    model = DDPMUNet(3, None, 4, (1, 2), 1, (0,), groups=2, attention=Shift)
    model(random(2, 3, 4, 6), times(0, 1), by=1.0)
    assert seen == [4, 8, 4, 4], f"expected attention at the fine size and in the middle, found {seen}"
