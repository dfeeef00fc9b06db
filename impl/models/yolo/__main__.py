"""Trains a YOLO to find and name digits of different sizes on a canvas, and draws the boxes that it predicts."""

import torch

from ...demonstration import arguments, digits, save_boxes, train
from ...layers.upsampling import bilinear
from ...optim.adamw import AdamW
from . import YOLO, decode_grid, detections, grid_targets, mean_average_precision, to_corners, yolo_loss

SIDE, GRID, MOST = 40, 5, 3
STAGES = (((3, 16, 1),), ((3, 32, 1),), ((3, 64, 1),))


def canvases(images, labels, generator, n):
    """Up to three digits, 9 to 18 pixels wide and high, apart from one another; their boxes and one-hot classes."""
    canvas, boxes = torch.zeros(n, 1, SIDE, SIDE), torch.zeros(n, MOST, 4)
    classes = torch.zeros(n, MOST, 10)
    for i in range(n):
        for j in range(MOST):
            k = int(torch.randint(len(images), (), generator=generator))
            h, w = torch.randint(9, 19, (2,), generator=generator).tolist()
            top, left = (int(torch.randint(SIDE - s + 1, (), generator=generator)) for s in (h, w))
            place = canvas[i, 0, top : top + h, left : left + w]
            if not place.any():
                place += bilinear(images[k : k + 1], (h, w))[0, 0]
                boxes[i, j] = torch.tensor([left + w / 2, top + h / 2, w, h]) / SIDE
                classes[i, j, labels[k]] = 1
    return canvas, boxes, classes


def main(given: list[str] | None = None) -> None:
    """`python -m impl.models.yolo`: arguments as those of `impl.demonstration.arguments`."""
    chosen = arguments("yolo", "A YOLO that finds digits on a canvas and names them.", 1500, given)
    images, labels = digits()
    generator = torch.Generator().manual_seed(chosen.seed)
    order = torch.randperm(len(labels), generator=generator)
    seen, new = order[:1300], order[1300:]
    torch.manual_seed(chosen.seed)
    model = YOLO(SIDE, GRID, 2, 10, STAGES, 256, 0.0, 1)
    optimizer = AdamW(model.parameters(), lr=2e-3)

    def step():
        canvas, boxes, classes = canvases(images[seen], labels[seen], generator, 32)
        loss = yolo_loss(model(canvas), grid_targets(boxes, classes, GRID)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss.item()}

    train(step, {"model": model, "optimizer": optimizer}, chosen.steps, generator, chosen.out)
    canvas, boxes, classes = canvases(images[new], labels[new], generator, 100)
    with torch.no_grad():
        predicted, scores = decode_grid(model.eval()(canvas))
    found = [detections(b, s) for b, s in zip(predicted, scores)]
    truths = [(to_corners(b[c.any(-1)]), c[c.any(-1)].argmax(-1)) for b, c in zip(boxes, classes)]
    places = [detections(b, s.sum(1, keepdim=True)) for b, s in zip(predicted, scores)]
    anything = [(b, torch.zeros_like(c)) for b, c in truths]
    print(f"average precision {mean_average_precision(places, anything):.3f} of the places of new digits, ", end="")
    print(f"{mean_average_precision(found, truths):.3f} of places and names")
    chosen_boxes = [(b[s > 0.2] * SIDE, c[s > 0.2].tolist()) for b, s, c in found[:18]]
    names = [[str(name) for name in c] for _, c in chosen_boxes]
    save_boxes(canvas[:18], [b for b, _ in chosen_boxes], names, chosen.out / "boxes.png")
    print(f"{chosen.out / 'boxes.png'} shows new canvases with the boxes whose score is above 0.2")


if __name__ == "__main__":
    main()
