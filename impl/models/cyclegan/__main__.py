"""Translates digits into their negatives and back without a pair of both; draws them there and home again."""

import itertools

import torch

from ...demonstration import arguments, digits, save_grid, train
from ...layers.upsampling import bilinear
from ...optim.adamw import AdamW
from . import CycleGAN, PatchGANDiscriminator, ResnetGenerator


def main(given: list[str] | None = None) -> None:
    """`python -m impl.models.cyclegan`: arguments as those of `impl.demonstration.arguments`."""
    chosen = arguments("cyclegan", "Digits and negatives of other digits, translated both ways.", 800, given)
    images = bilinear(2 * digits()[0] - 1, (16, 16))
    generator = torch.Generator().manual_seed(chosen.seed)
    order = torch.randperm(len(images), generator=generator)
    x, y, new = images[order[:800]], -images[order[800:1600]], images[order[1600:]]  # no digit is in both
    torch.manual_seed(chosen.seed)
    to_x, to_y = (ResnetGenerator(1, 1, width=8, num_blocks=2) for _ in range(2))
    of_x, of_y = (PatchGANDiscriminator(1, width=16, num_layers=1) for _ in range(2))
    gan = CycleGAN(to_x, to_y, of_x, of_y, cycle_weight=3.0)
    options = {"lr": 2e-3, "betas": (0.5, 0.999), "weight_decay": 0.0}
    pairs = (to_x, to_y), (of_x, of_y)
    optimizers = [AdamW(itertools.chain(*(network.parameters() for network in pair)), **options) for pair in pairs]

    def step():
        batches = (side[torch.randint(len(side), (8,), generator=generator)] for side in (x, y))
        of_generators, of_discriminators = gan.train_step(*batches, *optimizers, generator)
        return {"generators": of_generators, "discriminators": of_discriminators}

    parts = {"gan": gan, "generators' optimizer": optimizers[0], "discriminators' optimizer": optimizers[1]}
    train(step, parts, chosen.steps, generator, chosen.out)
    with torch.no_grad():
        made = gan.to_y(new)
        back = gan.to_x(made)
        from_y = gan.to_x(-new[:10])
        returned = gan.to_y(from_y)
    wrong, lost = ((made + new).abs().mean().item() / 2, (back - new).abs().mean().item() / 2)
    rows = torch.cat([new[:10], made[:10], back[:10], -new[:10], from_y, returned])
    save_grid((rows + 1) / 2, chosen.out / "translated.png", scale=4)
    print(f"new digits are {wrong:.3f} from their negatives, {lost:.3f} from themselves when they come back")
    print(f"{chosen.out / 'translated.png'} shows digits, there, and back; negatives, there, and back")


if __name__ == "__main__":
    main()
