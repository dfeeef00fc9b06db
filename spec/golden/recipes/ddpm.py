"""Golden values of DDPM."""

import numpy as np

from spec.golden import Recipe, recipe


@recipe(
    "ddpm",
    oracle="diffusers: DDPMScheduler, DDIMScheduler and UNet2DModel in float64",
    second="schedules, posterior and steps in NumPy by the papers' equations",
    needs=("torch", "diffusers"),
)
def ddpm(recipe: Recipe) -> None:
    """Schedules, ancestral and DDIM steps of 1000, and a small network's prediction and gradient."""
    import torch
    from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel

    for name, theirs in (("linear", "linear"), ("cosine", "squaredcos_cap_v2")):
        scheduler = DDPMScheduler(beta_schedule=theirs)
        bars = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
        if name == "cosine":
            f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
            bars = np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))
        recipe.expect(
            f"{name}_bars",
            bars[[0, 1, 249, 499, 749, 998, 999]],
            second=scheduler.alphas_cumprod.double()[[0, 1, 249, 499, 749, 998, 999]],
        )

    draw = np.random.default_rng(0)
    x = recipe.given("x", draw.integers(-32, 32, (2, 3)) / 16)
    prediction = recipe.given("prediction", draw.integers(-32, 32, (2, 3)) / 16)
    noise = recipe.given("noise", draw.integers(-32, 32, (2, 3)) / 16)
    betas = np.linspace(1e-4, 0.02, 1000)
    bars = np.cumprod(1 - betas)
    bars_and_one = np.append(bars, 1.0)  # index −1 is the time before the first
    kinds = {"noise": "epsilon", "x0": "sample", "v": "v_prediction"}
    for kind, theirs in kinds.items():
        for t in (1, 500, 980):
            a = bars[t]
            x0 = {
                "noise": (x - np.sqrt(1 - a) * prediction) / np.sqrt(a),
                "x0": prediction,
                "v": np.sqrt(a) * x - np.sqrt(1 - a) * prediction,
            }[kind]
            before = bars_and_one[t - 1]
            mean = np.sqrt(before) * betas[t] / (1 - a) * x0 + np.sqrt(1 - betas[t]) * (1 - before) / (1 - a) * x
            scheduler = DDIMScheduler(prediction_type=theirs, clip_sample=False, set_alpha_to_one=True)
            scheduler.alphas_cumprod = torch.from_numpy(bars)
            scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
            scheduler.set_timesteps(50)
            earlier = bars_and_one[t - 20] if t >= 20 else 1.0
            eps = (x - np.sqrt(a) * x0) / np.sqrt(1 - a)
            sigma = 0.3 * np.sqrt((1 - earlier) / (1 - a) * (1 - a / earlier))
            second = np.sqrt(earlier) * x0 + np.sqrt(1 - earlier - sigma**2) * eps + sigma * noise
            step = scheduler.step(
                torch.from_numpy(prediction),
                t,
                torch.from_numpy(x),
                eta=0.3,
                variance_noise=torch.from_numpy(noise),
            )
            recipe.expect(f"ddim_{kind}_{t}", step.prev_sample, second=second)
            ancestral = DDPMScheduler(prediction_type=theirs, clip_sample=False, variance_type="fixed_small")
            ancestral.betas, ancestral.alphas = torch.from_numpy(betas), torch.from_numpy(1 - betas)
            ancestral.alphas_cumprod, ancestral.one = torch.from_numpy(bars), torch.tensor(1.0, dtype=torch.float64)
            generator = torch.Generator().manual_seed(0)
            step = ancestral.step(torch.from_numpy(prediction), t, torch.from_numpy(x), generator=generator)
            drawn = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            variance = (1 - before) / (1 - a) * betas[t]
            recipe.expect(f"mean_{kind}_{t}", step.prev_sample - np.sqrt(variance) * drawn, second=mean)

    class _Sines(torch.nn.Module):
        """The library's embedding in float64: its float32 angles have few digits at large times."""

        def forward(self, t):
            angles = t.double()[:, None] * torch.exp(-np.log(10000) * torch.arange(2, dtype=torch.float64))
            return torch.cat([angles.sin(), angles.cos()], 1)

    model = (
        UNet2DModel(
            sample_size=None,
            in_channels=3,
            out_channels=3,
            block_out_channels=(4, 8),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=2,
            norm_eps=1e-6,
            flip_sin_to_cos=False,
            freq_shift=1,
            downsample_padding=0,
            attention_head_dim=None,
        )
        .double()
        .eval()
    )
    recipe.fill(model, draw, "unet.", scale=32)
    images = recipe.given("images", draw.integers(-16, 16, (2, 3, 4, 6)) / 16)
    times = recipe.given("times", np.array([3, 700]))
    leaf = torch.from_numpy(images).requires_grad_()
    model.time_proj = _Sines()
    found = model(leaf, torch.from_numpy(times)).sample
    recipe.expect("predicted", found)
    recipe.expect("gradient", torch.autograd.grad(found.square().sum(), leaf)[0])
