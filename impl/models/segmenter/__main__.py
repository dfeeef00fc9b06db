"""Trains a segmenter to find every digit's own pixels on a canvas of four, and draws what it found."""

import torch

from ...demonstration import arguments, digits, save_grid, train
from ...optim.adamw import AdamW
from ..vit import VisionTransformer
from . import LinearDecoder, Segmenter

COLOURS = torch.tensor(
    [
        [0.0, 0.0, 0.0],
        [0.12, 0.47, 0.71],
        [1.0, 0.5, 0.05],
        [0.17, 0.63, 0.17],
        [0.84, 0.15, 0.16],
        [0.58, 0.4, 0.74],
        [0.55, 0.34, 0.29],
        [0.89, 0.47, 0.76],
        [0.5, 0.5, 0.5],
        [0.74, 0.74, 0.13],
        [0.09, 0.75, 0.81],
    ]
)


def canvases(images, labels, generator, n):
    """Four digits each on 16 × 16 pixels; class 0 is background, 1 + d the ink of digit d."""
    k = torch.randint(len(images), (n, 2, 2), generator=generator)
    canvas = images[k, 0].permute(0, 1, 3, 2, 4).reshape(n, 1, 16, 16)
    names = labels[k].repeat_interleave(8, 1).repeat_interleave(8, 2)
    return canvas, torch.where(canvas[:, 0] > 0.3, 1 + names, 0)


def main(given: list[str] | None = None) -> None:
    """`python -m impl.models.segmenter`: arguments as those of `impl.demonstration.arguments`."""
    chosen = arguments("segmenter", "A segmenter of canvases of four digits.", 1500, given)
    images, labels = digits()
    generator = torch.Generator().manual_seed(chosen.seed)
    order = torch.randperm(len(labels), generator=generator)
    seen, new = order[:1300], order[1300:]
    torch.manual_seed(chosen.seed)
    encoder = VisionTransformer(16, 2, 3, 4, 64, 128, num_classes=None, channels=1)
    model = Segmenter(encoder, LinearDecoder(64, 11))
    optimizer = AdamW(model.parameters(), lr=2e-3)

    def step():
        canvas, classes = canvases(images[seen], labels[seen], generator, 16)
        loss = -model(canvas).log_softmax(1).gather(1, classes[:, None]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss.item()}

    train(step, {"model": model, "optimizer": optimizer}, chosen.steps, generator, chosen.out)
    canvas, classes = canvases(images[new], labels[new], generator, 100)
    with torch.no_grad():
        found = model.eval()(canvas).argmax(1)
    ink = classes > 0
    right, named = (found == classes).double().mean().item(), (found == classes)[ink].double().mean().item()
    print(f"{right:.3f} of new pixels named rightly, {named:.3f} of those with ink")
    rows = [canvas[:8].expand(-1, 3, -1, -1), *(COLOURS[c[:8]].permute(0, 3, 1, 2) for c in (found, classes))]
    save_grid(torch.cat(rows), chosen.out / "segments.png", columns=8, scale=5)
    print(
        f"{chosen.out / 'segments.png'} shows new canvases, what was found, and what is right; a colour for each digit"
    )


if __name__ == "__main__":
    main()
