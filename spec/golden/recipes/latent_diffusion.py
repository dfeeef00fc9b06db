"""Golden values of latent diffusion."""

import numpy as np

from spec.golden import Recipe, recipe


@recipe(
    "latent-diffusion",
    oracle="diffusers: AutoencoderKL and UNet2DConditionModel in float64",
    second="guided ε̂ of two predictions in NumPy; the divergence by its sum",
    needs=("torch", "diffusers"),
)
def latent_diffusion(recipe: Recipe) -> None:
    """Moments and images of a small autoencoder, predictions of a small conditional network, and their gradients."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel

    draw = np.random.default_rng(0)

    autoencoder = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8),
        layers_per_block=1,
        latent_channels=2,
        norm_num_groups=2,
    )
    autoencoder = autoencoder.double().eval()
    recipe.fill(autoencoder, draw, "autoencoder.", scale=32)
    images = recipe.given("images", draw.integers(-16, 16, (2, 3, 4, 6)) / 16)
    leaf = torch.from_numpy(images).requires_grad_()
    posterior = autoencoder.encode(leaf).latent_dist
    recipe.expect("mean", posterior.mean)
    recipe.expect("log_variance", posterior.logvar)
    mu, logvar = posterior.mean.detach().numpy(), posterior.logvar.detach().numpy()
    second = (mu**2 + np.exp(logvar) - 1 - logvar).sum((1, 2, 3)) / 2
    recipe.expect("divergence", posterior.kl(), second=second)
    decoded = autoencoder.decode(posterior.mean).sample
    recipe.expect("decoded", decoded)
    recipe.expect("image_gradient", torch.autograd.grad(decoded.square().sum(), leaf)[0])

    class Sines(torch.nn.Module):
        """The library's embedding in float64: its float32 angles have few digits at large times."""

        def forward(self, t):
            angles = t.double()[:, None] * torch.exp(-np.log(10000) * torch.arange(2, dtype=torch.float64) / 2)
            return torch.cat([angles.cos(), angles.sin()], 1)

    network = UNet2DConditionModel(
        in_channels=2,
        out_channels=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(4, 8),
        layers_per_block=1,
        norm_num_groups=2,
        cross_attention_dim=3,
        attention_head_dim=2,
    )
    network.time_proj = Sines()
    network = network.double().eval()
    recipe.fill(network, draw, "network.", scale=32)
    latents = recipe.given("latents", draw.integers(-16, 16, (2, 2, 4, 6)) / 16)
    context = recipe.given("context", draw.integers(-16, 16, (2, 5, 3)) / 16)
    other = recipe.given("other", draw.integers(-16, 16, (2, 5, 3)) / 16)
    times = torch.from_numpy(recipe.given("times", np.array([3, 700])))
    leaf = torch.from_numpy(context).requires_grad_()
    z = torch.from_numpy(latents)
    found, none = network(z, times, leaf).sample, network(z, times, torch.from_numpy(other)).sample
    recipe.expect("predicted", found)
    recipe.expect("context_gradient", torch.autograd.grad(found.square().sum(), leaf)[0])
    a, b = found.detach().numpy(), none.detach().numpy()
    recipe.expect("guided", none + 7.5 * (found - none), second=7.5 * a - 6.5 * b)
