"""Trains a vision transformer on digits and draws how alike its learned positions are."""

import torch

from ...demonstration import arguments, digits, save_grid, train
from ...optim.adamw import AdamW
from . import VisionTransformer


def main(given: list[str] | None = None) -> None:
    """`python -m impl.models.vit`: arguments as those of `impl.demonstration.arguments`."""
    chosen = arguments("vit", "A vision transformer on digits.", 800, given)
    images, labels = digits()
    generator = torch.Generator().manual_seed(chosen.seed)
    order = torch.randperm(len(labels), generator=generator)
    seen, new = order[:1300], order[1300:]
    torch.manual_seed(chosen.seed)
    model = VisionTransformer(8, 2, 2, 4, 48, 96, num_classes=10, channels=1)
    optimizer = AdamW(model.parameters(), lr=3e-3)

    def step():
        k = seen[torch.randint(len(seen), (64,), generator=generator)]
        loss = -model(images[k]).log_softmax(1).gather(1, labels[k, None]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss.item()}

    train(step, {"model": model, "optimizer": optimizer}, chosen.steps, generator, chosen.out)
    with torch.no_grad():
        right = (model.eval()(images[new]).argmax(1) == labels[new]).double().mean().item()
        places = model.positions[1:] - model.positions[1:].mean(0)
        places = places / places.norm(dim=1, keepdim=True)
    alike = (places @ places.T).reshape(-1, 1, *model.grid)  # of each patch with all the others, as a picture
    save_grid((1 + alike) / 2, chosen.out / "positions.png", columns=model.grid[1], scale=12)
    print(f"{right:.3f} of new digits named rightly")
    print(f"{chosen.out / 'positions.png'} shows for each patch the cosine of its position with that of every patch")


if __name__ == "__main__":
    main()
