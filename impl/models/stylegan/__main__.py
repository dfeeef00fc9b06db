"""python -m impl.models.stylegan --out FOLDER: handwritten digits from styles, and rows that share the coarse ones."""

import torch

from ...demonstration import arguments, digits, save_grid, train
from ...layers.numerics import softplus
from ...optim.adamw import AdamW
from . import PathLengthPenalty, StyleGAN2Discriminator, StyleGAN2Generator, r1_penalty


def main(given: list[str] | None = None) -> None:
    """Trains StyleGAN2 on digits; writes samples, truncated samples, and mixtures of the styles of two samples."""
    options = arguments("stylegan", "Digits by StyleGAN2, from styles.", steps=800, given=given)
    torch.manual_seed(options.seed)
    model = StyleGAN2Generator(32, 32, 8, channel_base=192, channel_max=32, image_channels=1, num_layers=2)
    critic = StyleGAN2Discriminator(8, channel_base=192, channel_max=32, image_channels=1)
    path_length = PathLengthPenalty()
    settings = {"lr": 2e-3, "betas": (0.0, 0.99), "weight_decay": 0.0}
    optimizers = [AdamW(network.parameters(), **settings) for network in (model, critic)]
    generator = torch.Generator().manual_seed(options.seed)
    images = digits()[0] * 2 - 1

    def update(optimizer, loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def generated(n):
        ws = model.styles(torch.randn(n, 32, generator=generator), generator=generator)
        return ws, model.synthesis(ws, generator=generator)

    def step():
        lazy = torch.rand((), generator=generator) < 1 / 4  # at random: a run that goes on needs no count of steps
        with torch.no_grad():
            fake = generated(64)[1]
        real = images[torch.randint(len(images), (64,), generator=generator)]
        loss = softplus(critic(fake)).mean() + softplus(-critic(real)).mean()
        if lazy:
            loss = loss + r1_penalty(critic, real, gamma=0.5, interval=4)
        of_critic = update(optimizers[1], loss)
        ws, fake = generated(64)
        loss = softplus(-critic(fake)).mean()  # not saturating
        of_generator = loss.item()
        if lazy:
            loss = loss + 4 * path_length(fake, ws, generator)
        update(optimizers[0], loss)
        return {"discriminator": of_critic, "generator": of_generator, "path length": path_length.mean.item()}

    parts = {"model": model, "critic": critic, "path length": path_length}
    parts |= {"optimizer of the model": optimizers[0], "optimizer of the critic": optimizers[1]}
    train(step, parts, options.steps, generator, options.out, every=100)
    model.eval()
    with torch.no_grad():
        z = torch.randn(60, 32, generator=generator)
        for name, psi in (("samples", 1.0), ("truncated", 0.5)):
            save_grid((model(z, truncation_psi=psi) + 1) / 2, options.out / f"{name}.png")
        ws = model.styles(z)
        rows = [torch.cat([ws[row, None, :2].expand(10, -1, -1), ws[50:, 2:]], dim=1) for row in range(6)]
        save_grid((model.synthesis(torch.cat(rows)) + 1) / 2, options.out / "mixed.png")


if __name__ == "__main__":
    main()
