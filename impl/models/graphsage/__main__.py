"""Embeds noisy digits by sampled neighbours, trained on one graph and tried on another; draws the embeddings."""

import torch

from ...demonstration import arguments, digits, nearest_neighbors, save_points, train
from ...layers.linear import Linear
from ...optim.adamw import AdamW
from . import GraphSAGE, sample_neighborhood


def main(given: list[str] | None = None) -> None:
    """`python -m impl.models.graphsage`: arguments as those of `impl.demonstration.arguments`."""
    chosen = arguments("graphsage", "GraphSAGE on graphs of similar digits.", 300, given)
    images, labels = digits()
    generator = torch.Generator().manual_seed(chosen.seed)
    order = torch.randperm(len(labels), generator=generator)
    seen, new = order[:1300], order[1300:]
    noisy = images.flatten(1) + 0.5 * torch.randn(len(labels), 64, generator=generator)
    graphs = {part: nearest_neighbors(images[nodes], 8) for part, nodes in (("seen", seen), ("new", new))}
    torch.manual_seed(chosen.seed)
    sage, head = GraphSAGE(64, 64, 32), Linear(32, 10)
    optimizer = AdamW([*sage.parameters(), *head.parameters()], lr=0.01)

    def step():
        batch = torch.randperm(len(seen), generator=generator)[:100]
        ids, sampled = sample_neighborhood(graphs["seen"], batch, [5, 5], generator)
        z = sage(noisy[seen[ids]], sampled)[:100]
        loss = -head(5 * z).log_softmax(1).gather(1, labels[seen[batch], None]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss.item()}

    train(step, {"sage": sage, "head": head, "optimizer": optimizer}, chosen.steps, generator, chosen.out)
    with torch.no_grad():
        z = sage(noisy[new], graphs["new"])
        right = (head(5 * z).argmax(1) == labels[new]).double().mean().item()
    save_points(z, labels[new], chosen.out / "embedding.png")
    print(
        f"{right:.3f} of a graph's digits that were never seen named rightly; {chosen.out / 'embedding.png'} shows them"
    )


if __name__ == "__main__":
    main()
