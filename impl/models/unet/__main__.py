"""Trains a U-Net to find digits in noise, with a line of background kept between those that touch, and draws them."""

import torch

from ...demonstration import arguments, digits, save_grid, train
from ...optim.adamw import AdamW
from . import UNet, border_weights, weighted_cross_entropy


def canvases(images, n, generator):
    """Six digits each on 24 × 16 pixels in noise; what is ink, and the number of the digit that it belongs to."""
    k = torch.randint(len(images), (n, 3, 2), generator=generator)
    clean = images[k, 0].permute(0, 1, 3, 2, 4).reshape(n, 1, 24, 16)
    number = 1 + torch.arange(6).reshape(3, 2).repeat_interleave(8, 0).repeat_interleave(8, 1)
    cells = torch.where(clean[:, 0] > 0.4, number, 0)
    return clean + 0.35 * torch.randn(clean.shape, generator=generator), cells


def main(given: list[str] | None = None) -> None:
    """`python -m impl.models.unet`: arguments as those of `impl.demonstration.arguments`."""
    chosen = arguments("unet", "A U-Net that finds digits in noise.", 600, given)
    images, _ = digits()
    generator = torch.Generator().manual_seed(chosen.seed)
    order = torch.randperm(len(images), generator=generator)
    seen, new = images[order[:1300]], images[order[1300:]]
    torch.manual_seed(chosen.seed)
    model = UNet(1, 2, 16, 3, "same")
    optimizer = AdamW(model.parameters(), lr=2e-3)

    def step():
        noisy, cells = canvases(seen, 16, generator)
        loss = weighted_cross_entropy(model(noisy), (cells > 0).long(), border_weights(cells, 4.0, 1.5))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss.item()}

    train(step, {"model": model, "optimizer": optimizer}, chosen.steps, generator, chosen.out)
    noisy, cells = canvases(new, 100, generator)
    with torch.no_grad():
        found = model.eval()(noisy).argmax(1)
    ink = cells > 0
    overlap = 2 * (found * ink).sum().item() / (found.sum() + ink.sum()).item()
    print(f"{overlap:.3f} overlap of found ink with that of new digits, 2|A ∩ B|/(|A| + |B|)")
    weights = border_weights(cells[:8], 4.0, 1.5)[:, None] / 5
    rows = [noisy[:8].clamp(0, 1), found[:8, None].float(), ink[:8, None].float(), weights]
    save_grid(torch.cat(rows), chosen.out / "segments.png", columns=8, scale=5)
    print(
        f"{chosen.out / 'segments.png'} shows what was seen, what was found, what is right, and the weights of the loss"
    )


if __name__ == "__main__":
    main()
