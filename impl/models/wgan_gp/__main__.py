"""Trains a generator of digits against a critic; draws samples as they become digits."""

import torch
from torch import nn

from ...demonstration import arguments, digits, save_grid, train
from ...layers.activation import LeakyReLU
from ...layers.linear import Linear
from ...optim.adamw import AdamW
from . import WGANGP


class Layers(nn.Module):
    """Linear layers of the given widths, LeakyReLU between them."""

    def __init__(self, *widths: int):
        super().__init__()
        self.layers = nn.ModuleList(Linear(a, b) for a, b in zip(widths, widths[1:]))
        self.activation = LeakyReLU(0.2)

    def forward(self, x):
        *hidden, last = self.layers
        for layer in hidden:
            x = self.activation(layer(x))
        return last(x)


class Generator(Layers):
    """Images (n, 1, 8, 8) with grey values in (0, 1)."""

    def forward(self, x):
        return super().forward(x).sigmoid().view(-1, 1, 8, 8)


class Critic(Layers):
    """One number for each image."""

    def forward(self, x):
        return super().forward(x.flatten(1))


def main(given: list[str] | None = None) -> None:
    """`python -m impl.models.wgan_gp`: arguments as those of `impl.demonstration.arguments`."""
    chosen = arguments("wgan_gp", "A generator of digits by WGAN-GP.", 2000, given)
    images, _ = digits()
    generator = torch.Generator().manual_seed(chosen.seed)
    torch.manual_seed(chosen.seed)
    gan = WGANGP(Generator(16, 256, 256, 64), Critic(64, 256, 256, 1), 16)
    options = {"lr": 1e-3, "betas": (0.0, 0.9), "weight_decay": 0.0}
    of_critic, of_generator = (AdamW(part.parameters(), **options) for part in (gan.critic, gan.generator))

    def step():
        batches = [images[torch.randint(len(images), (64,), generator=generator)] for _ in range(3)]
        critic, _ = gan.train_step(batches, of_critic, of_generator, generator)
        return {"distance": -critic}

    parts = {"gan": gan, "critic optimizer": of_critic, "generator optimizer": of_generator}
    train(step, parts, chosen.steps, generator, chosen.out)
    with torch.no_grad():
        samples = gan.sample(100, torch.Generator().manual_seed(chosen.seed))
    save_grid(samples, chosen.out / "samples.png")
    print(f"{chosen.out / 'samples.png'} shows 100 samples")


if __name__ == "__main__":
    main()
