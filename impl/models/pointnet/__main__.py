"""python -m impl.models.pointnet --out FOLDER: names digits by points of ink, and draws the points that matter."""

import torch

from ...demonstration import arguments, digits, save_grid, train
from ...optim.adamw import AdamW
from . import PointNet, feature_transform_regularizer


def ink(images):
    """Images (N, 1, 8, 8) as clouds (N, 64, 3) of row, column and grey; a pixel without ink repeats the darkest."""
    line = torch.linspace(-1, 1, 8)
    grey = images.flatten(1)
    points = torch.cat([torch.cartesian_prod(line, line).expand(len(images), -1, -1), grey[..., None]], -1)
    darkest = points[torch.arange(len(images)), grey.argmax(1)]
    return torch.where(grey[..., None] > 0, points, darkest[:, None])


def main(given: list[str] | None = None) -> None:
    """Trains on digits; writes digits, their critical points, and where ink would change nothing."""
    options = arguments("pointnet", "Digits as clouds of points.", steps=600, given=given)
    torch.manual_seed(options.seed)
    model = PointNet(10, width=12, transforms=False)
    optimizer = AdamW(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(options.seed)
    images, labels = digits()
    points = ink(images)
    known = 1297  # the others are new

    def step():
        torch.manual_seed(int(torch.randint(1 << 31, (), generator=generator)))  # dropout's, from what is saved
        chosen = torch.randint(known, (64,), generator=generator)
        logits, a = model.train()(points[chosen])
        loss = -logits.log_softmax(1).gather(1, labels[chosen, None]).mean()
        loss = loss + 0.001 * feature_transform_regularizer(a).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss.item()}

    train(step, {"model": model, "optimizer": optimizer}, options.steps, generator, options.out)
    with torch.no_grad():
        found = model.eval()(points[known:])[0].argmax(1)
        shown, new = images[known : known + 10], points[known : known + 10]
        critical = model.encoder.critical_points(new)
        places = torch.where(critical, ((new[..., :2] + 1) * 3.5).round().long() @ torch.tensor([8, 1]), 64)
        marks = torch.zeros(10, 65).scatter(1, places, 1.0)[:, :64].view(-1, 1, 8, 8)
        line, greys = torch.linspace(-1, 1, 8), torch.arange(1, 17) / 16
        everywhere = torch.cartesian_prod(line, line, greys).expand(10, -1, -1)
        free = model.encoder.within_bound(new, everywhere).view(10, 1, 8, 8, 16).float().mean(-1)
    print(f"{(found == labels[known:]).double().mean():.3f} of the new digits named rightly")
    save_grid(torch.cat([shown, shown * marks, free]), options.out / "critical_points.png")


if __name__ == "__main__":
    main()
