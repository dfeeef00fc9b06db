"""Trains a small diffusion model of digits with classes, and draws samples with and without guidance."""

import torch

from ...demonstration import arguments, digits, save_grid, train
from ...optim.adamw import AdamW
from . import DDPMUNet, GaussianDiffusion, beta_schedule, guide


def main(given: list[str] | None = None) -> None:
    """`python -m impl.models.ddpm`: arguments as those of `impl.demonstration.arguments`."""
    chosen = arguments("ddpm", "Digits from noise, by class.", 900, given)
    images, labels = digits()
    images = 2 * images - 1
    generator = torch.Generator().manual_seed(chosen.seed)
    torch.manual_seed(chosen.seed)
    process = GaussianDiffusion(beta_schedule("cosine", 400), predicts="v")
    model = DDPMUNet(1, None, 32, (1, 2), 1, (1,), num_classes=10, groups=8)
    optimizer = AdamW(model.parameters(), lr=2e-3)

    def step():
        k = torch.randint(len(images), (32,), generator=generator)
        none = torch.rand(32, generator=generator) < 0.1  # learns the unconditional prediction as well
        t, noise = torch.randint(400, (32,), generator=generator), torch.randn(32, 1, 8, 8, generator=generator)
        loss = process.loss(model, images[k], t, noise, labels=torch.where(none, 10, labels[k])).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss.item()}

    train(step, {"model": model, "optimizer": optimizer}, chosen.steps, generator, chosen.out)
    model.eval()
    start, asked = torch.randn(20, 1, 8, 8, generator=generator), torch.arange(10).repeat(2)
    rows = []
    for scale in (0.0, 1.0, 3.0):

        def guided(x, t, scale=scale):
            return guide(model(x, t, asked), model(x, t, torch.full_like(asked, 10)), scale)

        rows.append(process.ddim_sample(guided, start, 40, clip=(-1.0, 1.0)))
    save_grid((1 + torch.cat(rows)) / 2, chosen.out / "samples.png", columns=10)
    print(f"{chosen.out / 'samples.png'} shows 0 to 9 twice without guidance, with s = 1, and with s = 3")


if __name__ == "__main__":
    main()
