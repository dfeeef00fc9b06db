"""Trains PointNet++ to find each point's digit in clouds of four digits, and draws them with a colour for each."""

import torch

from ...demonstration import arguments, digits, save_points, train
from ...optim.adamw import AdamW
from . import PointNet2Segmentation

INK = 16  # points of a digit
LEVELS = ((24, (0.5, 1.0), (8, 16), ((16, 32), (16, 32))), (8, (1.5,), (8,), ((64, 64),)))


def clouds(images, labels, count, generator):
    """Points (count, 4 · INK, 2) of four digits at random places of a square, and the digit of each point."""
    chosen = torch.randint(len(images), (count, 4), generator=generator)
    brightest = images[chosen].flatten(2).topk(INK).indices
    points = torch.stack([brightest % 8, 7 - brightest // 8], -1) / 8
    places = torch.tensor([[0.0, 0.0], [1.4, 0.0], [0.0, 1.4], [1.4, 1.4]])[:, None]
    points = points + places + 0.4 * torch.rand(count, 4, 1, 2, generator=generator)
    return points.flatten(1, 2), labels[chosen].repeat_interleave(INK, 1)


def main(given: list[str] | None = None) -> None:
    """`python -m impl.models.pointnet2`: arguments as those of `impl.demonstration.arguments`."""
    chosen = arguments("pointnet2", "PointNet++ on clouds of four digits.", 1500, given)
    images, labels = digits()
    generator = torch.Generator().manual_seed(chosen.seed)
    order = torch.randperm(len(labels), generator=generator)
    seen, new = order[:1300], order[1300:]
    torch.manual_seed(chosen.seed)
    propagation = ((64, 64), (64, 48), (48, 48))
    model = PointNet2Segmentation(10, LEVELS, 0, (64, 96), propagation, dropout=0.0, dimensions=2)
    optimizer = AdamW(model.parameters(), lr=3e-3)

    def step():
        points, names = clouds(images[seen], labels[seen], 16, generator)
        loss = -model(points).log_softmax(2).gather(2, names[..., None]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss.item()}

    train(step, {"model": model, "optimizer": optimizer}, chosen.steps, generator, chosen.out)
    points, names = clouds(images[new], labels[new], 100, generator)
    with torch.no_grad():
        found = model.eval()(points).argmax(2)
    print(f"{(found == names).double().mean().item():.3f} of new points named rightly")
    for number in range(2):
        save_points(points[number], found[number], chosen.out / f"found_{number}.png")
        save_points(points[number], names[number], chosen.out / f"right_{number}.png")
    print(f"{chosen.out / 'found_0.png'} and right_0.png show a new cloud's points in the colours found and right")


if __name__ == "__main__":
    main()
