"""python -m impl.models.pixelcnn --out FOLDER: digits in four shades, each pixel from those before it and the class."""

import math

import torch

from ...demonstration import arguments, digits, save_grid, train
from ...optim.adamw import AdamW
from . import PixelCNN


def main(given: list[str] | None = None) -> None:
    """Trains on digits and their classes; writes ten samples of each class."""
    options = arguments("pixelcnn", "Digits of each class, sampled pixel by pixel.", steps=1500, given=given)
    torch.manual_seed(options.seed)
    net = PixelCNN(1, 4, channels=16, num_layers=3, first_kernel_size=5, condition_features=10)
    optimizer = AdamW(net.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(options.seed)
    images, labels = digits()
    levels, classes = (3 * images).round().long(), torch.eye(10)

    def step():
        batch = torch.randint(len(levels), (64,), generator=generator)
        loss = -net.log_prob(levels[batch], classes[labels[batch]]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"bits per pixel": loss.item() / (64 * math.log(2))}

    train(step, {"model": net, "optimizer": optimizer}, options.steps, generator, options.out)
    samples = net.sample(100, 8, classes.repeat_interleave(10, dim=0), generator)
    save_grid(samples / 3, options.out / "samples.png")


if __name__ == "__main__":
    main()
