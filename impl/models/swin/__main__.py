"""Trains a Swin transformer on digits and draws what its heads learned of relative positions."""

import torch

from ...demonstration import arguments, digits, save_grid, train
from ...optim.adamw import AdamW
from . import SwinTransformer


def main(given: list[str] | None = None) -> None:
    """`python -m impl.models.swin`: arguments as those of `impl.demonstration.arguments`."""
    chosen = arguments("swin", "A Swin transformer on digits.", 300, given)
    images, labels = digits()
    images = 2 * images - 1
    generator = torch.Generator().manual_seed(chosen.seed)
    order = torch.randperm(len(labels), generator=generator)
    seen, new = order[:1300], order[1300:]
    torch.manual_seed(chosen.seed)
    model = SwinTransformer(24, (2, 2), (4, 8), window_size=2, patch_size=1, num_classes=10, channels=1)
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
        tables = torch.cat([block.attention.bias_table.T for block in model.stages[0]])  # (2 blocks · 4 heads, 9)
        low, high = tables.amin(1, keepdim=True), tables.amax(1, keepdim=True)
    pictures = ((tables - low) / (high - low).clamp(min=1e-6)).reshape(-1, 1, 3, 3)
    save_grid(pictures, chosen.out / "biases.png", columns=4, scale=24)
    print(f"{right:.3f} of new digits named rightly")
    print(
        f"{chosen.out / 'biases.png'}: how much each head of the first stage likes a key at every offset to its query,"
    )
    print("the query in the middle; upper row W-MSA, lower row SW-MSA")


if __name__ == "__main__":
    main()
