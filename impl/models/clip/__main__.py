"""Trains CLIP on digits and their written names, then classifies by names alone; draws images by their nearest name."""

import torch
from torch import nn

from ...demonstration import Encoder, arguments, digits, save_grid, train
from ...layers.linear import Linear
from ...optim.adamw import AdamW
from . import CLIP, TextTransformer

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LONGEST = len("light seven") + 1


class Projected(nn.Module):
    """Features of a digit, projected to 32 numbers."""

    def __init__(self):
        super().__init__()
        self.encoder, self.projection = Encoder(), Linear(64, 32)

    def forward(self, x):
        return self.projection(self.encoder(x))


def texts(kind: str) -> torch.Tensor:
    """The names of the ten digits after a word, (10, t): letters are 1 to 26, a space is 0, the end 27, then 0."""
    rows = [[max(ord(c) - 96, 0) for c in f"{kind} {word}"] + [27] for word in WORDS]
    return torch.tensor([row + [0] * (LONGEST - len(row)) for row in rows])


def main(given: list[str] | None = None) -> None:
    """`python -m impl.models.clip`: arguments as those of `impl.demonstration.arguments`."""
    chosen = arguments("clip", "CLIP on digits and their written names.", 400, given)
    images, labels = digits()
    generator = torch.Generator().manual_seed(chosen.seed)
    order = torch.randperm(len(labels), generator=generator)
    seen, new = order[:1300], order[1300:]
    torch.manual_seed(chosen.seed)
    model = CLIP(Projected(), TextTransformer(28, LONGEST, 48, 2, 4, 32))
    optimizer = AdamW(model.parameters(), lr=2e-3)
    light, dark = texts("light"), texts("dark")

    def step():
        k = seen[torch.randint(len(seen), (64,), generator=generator)]
        inverted = torch.rand(len(k), generator=generator) < 0.5
        pictures = torch.where(inverted[:, None, None, None], 1 - images[k], images[k])
        loss = model.loss(pictures, torch.where(inverted[:, None], dark[labels[k]], light[labels[k]]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.limit_scale()
        return {"loss": loss.item(), "scale": model.logit_scale.exp().item()}

    train(step, {"model": model, "optimizer": optimizer}, chosen.steps, generator, chosen.out)
    with torch.no_grad():
        scores = model.eval()(images[new], torch.cat([light, dark]))
    right = (scores.argmax(1) == labels[new]).double().mean().item()
    print(f"{right:.3f} of new digits have their own among the 20 texts as the nearest")
    nearest = scores[:, :10].topk(10, dim=0).indices.T.flatten()  # for each name the ten digits that score highest
    save_grid(images[new[nearest]], chosen.out / "nearest.png")
    print(f"{chosen.out / 'nearest.png'} shows, row by row, the new digits nearest to 'light zero' … 'light nine'")


if __name__ == "__main__":
    main()
