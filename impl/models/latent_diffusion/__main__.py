"""Trains an autoencoder of digits and a diffusion of its latents by class, and draws samples with more guidance."""

import torch
from torch import nn

from ...demonstration import arguments, digits, save_grid, train
from ...layers.embedding import Embedding
from ...optim.adamw import AdamW
from ..ddpm import DDPMUNet, GaussianDiffusion, beta_schedule
from . import AutoencoderKL, LatentDiffusion, SpatialTransformer


class Classes(nn.Module):
    """Two tokens for each class; the eleventh for none."""

    def __init__(self):
        super().__init__()
        self.rows = Embedding(11, 2 * 24)

    def forward(self, labels):
        return self.rows(labels).unflatten(1, (2, 24))


def main(given: list[str] | None = None) -> None:
    """`python -m impl.models.latent_diffusion`: arguments as those of `impl.demonstration.arguments`."""
    chosen = arguments("latent_diffusion", "Digits from noise in latents, by class.", 500, given)
    images, labels = digits()
    images = 2 * images - 1
    generator = torch.Generator().manual_seed(chosen.seed)
    torch.manual_seed(chosen.seed)
    first = AutoencoderKL(1, 4, 16, (1, 2), 1, 4)
    network = DDPMUNet(
        4, None, 32, (1, 2), 1, (1,), groups=8, attention=lambda channels: SpatialTransformer(channels, 4, 24, groups=8)
    )
    process = GaussianDiffusion(beta_schedule("cosine", 400), predicts="v")
    model = LatentDiffusion(first, network, process, Classes(), torch.tensor(10))
    first.requires_grad_(True)
    optimizer = AdamW(first.parameters(), lr=3e-3)

    def step_of_the_first_stage():
        k = torch.randint(len(images), (32,), generator=generator)
        loss = first.loss(images[k], 1e-4, generator).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"error of a pixel": loss.item()}

    folder = chosen.out / "first_stage"
    folder.mkdir(exist_ok=True)
    parts = {"model": first, "optimizer": optimizer}
    train(step_of_the_first_stage, parts, chosen.steps, generator, folder)
    first.requires_grad_(False)
    model.fit_scale(images)
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)

    def step():
        torch.manual_seed(int(torch.randint(1 << 31, (), generator=generator)))  # the conditions that are left out
        k = torch.randint(len(images), (32,), generator=generator)
        z = model.encode(images[k], generator)
        t, noise = torch.randint(400, (32,), generator=generator), torch.randn(z.shape, generator=generator)
        loss = model.loss(z, labels[k], t=t, noise=noise).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss.item()}

    train(step, {"model": model, "optimizer": optimizer}, chosen.steps, generator, chosen.out)
    model.eval()
    with torch.no_grad():
        rows = [images[:10], first(images[:10])[0]]
    start, asked = torch.randn(10, 4, 4, 4, generator=generator), torch.arange(10)
    rows += [model.sample(start, asked, guidance, 40) for guidance in (0.0, 1.0, 2.0, 4.0)]
    save_grid(((1 + torch.cat(rows)) / 2).clamp(0, 1), chosen.out / "samples.png", columns=10)
    print(f"the latents' scale is {model.scale.item():.3f}")
    print(f"{chosen.out / 'samples.png'} shows digits, their reconstructions, and 0 to 9 with guidance 0, 1, 2 and 4")


if __name__ == "__main__":
    main()
