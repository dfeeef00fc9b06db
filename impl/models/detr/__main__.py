"""Trains a DETR to find and name the digits on a canvas, and draws its boxes."""

import torch
from torch import nn

from ...demonstration import arguments, digits, save_grid, train
from ...layers.boxes import box_iou, to_centres, to_corners
from ...layers.convolution import Conv2d
from ...layers.linear import Linear
from ...layers.normalization import GroupNorm
from ...optim.adamw import AdamW
from . import DETR

SIDE = 16
COLOURS = torch.tensor(
    [
        [0.12, 0.47, 0.71],
        [1.0, 0.5, 0.05],
        [0.17, 0.63, 0.17],
        [0.84, 0.15, 0.16],
        [0.58, 0.4, 0.74],
        [0.65, 0.44, 0.38],
        [0.89, 0.47, 0.76],
        [0.6, 0.6, 0.6],
        [0.74, 0.74, 0.13],
        [0.09, 0.75, 0.81],
    ]
)


class Backbone(nn.Module):
    """Images to 64 features a cell of 4 × 4 pixels: three convolutions with group normalization and ReLU."""

    def __init__(self):
        super().__init__()
        sizes = ((1, 32, 2), (32, 64, 1), (64, 64, 2))
        self.convolutions = nn.ModuleList(Conv2d(a, b, 3, stride, padding=1) for a, b, stride in sizes)
        self.norms = nn.ModuleList(GroupNorm(8, width) for _, width, _ in sizes)

    def forward(self, x):
        for convolution, norm in zip(self.convolutions, self.norms):
            x = norm(convolution(x)).relu()
        return x


def canvases(images, labels, generator, n):
    """One digit each, anywhere, or two next to each other or one above the other; classes (10: none), boxes of ink."""
    ink, at = images[:, 0] > 0.2, torch.arange(8)
    ends = []
    for along in (ink.any(1), ink.any(2)):  # columns, then rows
        ends.append((torch.where(along, at, 8).amin(1), torch.where(along, at, -1).amax(1) + 1))
    corners = torch.stack([ends[0][0], ends[1][0], ends[0][1], ends[1][1]], dim=1)
    k = torch.randint(len(images), (n, 2), generator=generator)
    low = torch.randint(SIDE - 7, (n, 2, 2), generator=generator)  # x and y of each digit's tile
    two, along = torch.randint(2, (2, n), generator=generator)
    here = (two[:, None, None] == 1) & (along[:, None, None] == torch.tensor([0, 1]))  # (n, 1, 2)
    low = torch.where(here, torch.tensor([[0], [8]]), low)
    canvas, rows = torch.zeros(n, SIDE, SIDE), torch.arange(n)[:, None, None]
    for digit in (0, 1):
        y, x = low[:, digit, 1, None, None] + at[:, None], low[:, digit, 0, None, None] + at
        canvas[rows, y, x] += images[k[:, digit], 0] * (two[:, None, None] if digit else 1)
    classes = torch.stack([labels[k[:, 0]], torch.where(two == 1, labels[k[:, 1]], 10)], dim=1)
    return canvas[:, None], classes, to_centres((corners[k] + low.repeat(1, 1, 2)) / SIDE)


def with_boxes(canvas, classes, boxes, zoom=6):
    """Enlarged canvases in colour, with a frame for each box whose class is a digit."""
    pictures = canvas.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3).repeat(1, 3, 1, 1)
    last = zoom * SIDE - 1
    for picture, names, frames in zip(pictures, classes.tolist(), to_corners(boxes) * zoom * SIDE):
        for name, frame in zip(names, frames.round().clamp(0, last).long().tolist()):
            if name < 10:
                x0, y0, x1, y1 = frame
                colour = COLOURS[name][:, None]
                picture[:, y0 : y1 + 1, x0] = picture[:, y0 : y1 + 1, x1] = colour
                picture[:, y0, x0 : x1 + 1] = picture[:, y1, x0 : x1 + 1] = colour
    return pictures


def main(given: list[str] | None = None) -> None:
    """`python -m impl.models.detr`: arguments as those of `impl.demonstration.arguments`."""
    chosen = arguments("detr", "A DETR that finds digits on a canvas.", 3000, given)
    images, labels = digits()
    generator = torch.Generator().manual_seed(chosen.seed)
    order = torch.randperm(len(labels), generator=generator)
    seen, new = order[:1300], order[1300:]
    torch.manual_seed(chosen.seed)
    model = DETR(Backbone(), 64, 10, 6, 64, 4, 1, 2, 128, dropout=0.0)
    names = Linear(64, 10)  # of single digits, for which the backbone is trained as well: the paper's knows ImageNet
    optimizer = AdamW([*model.parameters(), *names.parameters()], lr=2e-3)

    def step():
        canvas, classes, boxes = canvases(images[seen], labels[seen], generator, 32)
        single = seen[torch.randint(len(seen), (32,), generator=generator)]
        log_p = names(model.backbone(images[single]).mean((2, 3))).log_softmax(1)
        loss = model.loss(canvas, classes, boxes)
        optimizer.zero_grad()
        (loss - log_p.gather(1, labels[single, None]).mean()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.param_groups[0]["lr"] *= 0.9993  # to an eighth at the end
        return {"loss": loss.item()}

    parts = {"model": model, "names": names, "optimizer": optimizer}
    train(step, parts, chosen.steps, generator, chosen.out)
    canvas, classes, boxes = canvases(images[new], labels[new], generator, 200)
    with torch.no_grad():
        logits, found = model.eval()(canvas)
    certain, named = logits.softmax(2)[:, :, :10].max(2)
    named = torch.where(certain > 0.5, named, 10)
    right = named[:, None] == classes[:, :, None]  # (200, 2, 6)
    near = box_iou(to_corners(boxes)[:, :, None], to_corners(found)[:, None]) > 0.5
    real = classes < 10
    shares = [hits.any(2)[real].double().mean().item() for hits in (near & (named < 10)[:, None], near & right)]
    extra = (named < 10).sum().item() / real.sum().item()
    print(f"{shares[0]:.3f} of new digits found, {shares[1]:.3f} and named rightly, {extra:.2f} boxes a digit")
    rows = torch.cat([with_boxes(canvas, named, found)[:8], with_boxes(canvas, classes, boxes)[:8]])
    save_grid(rows, chosen.out / "boxes.png", columns=8, scale=1)
    print(f"{chosen.out / 'boxes.png'} shows boxes on new canvases, a colour for each digit; below, what is right")


if __name__ == "__main__":
    main()
