"""What features without labels are worth, and along a graph: digits named from few labels."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..layers.convolution import Conv2d
from ..layers.normalization import BatchNorm2d
from ..optim.adamw import AdamW
from .pictures import save_points
from .training import arguments, digits, train


class Encoder(nn.Module):
    """64 features of a digit: three convolutions with batch normalization and ReLU, and the mean over the image."""

    def __init__(self):
        super().__init__()
        sizes = ((1, 32, 1), (32, 64, 2), (64, 64, 2))
        self.convolutions = nn.ModuleList(Conv2d(a, b, 3, stride, padding=1) for a, b, stride in sizes)
        self.norms = nn.ModuleList(BatchNorm2d(width) for _, width, _ in sizes)

    def forward(self, x):
        for convolution, norm in zip(self.convolutions, self.norms):
            x = norm(convolution(x)).relu()
        return x.mean((2, 3))


def accuracy_of_a_probe(
    x: Float[Tensor, "n d"], labels: Int[Tensor, " n"], known: Int[Tensor, " k"], new: Int[Tensor, " m"]
) -> float:
    """How well features tell the classes: the share of the new digits that ridge regression on the known ones names.

    Args:
        x: features of all digits; each is scaled to mean 0 and variance 1.
        known, new: numbers of the digits whose labels are learned from, and of those that are named.
    """
    x = x.double()
    x = (x - x.mean(0)) / (x.std(0) + 1e-6)
    x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
    classes = torch.eye(10, dtype=x.dtype)[labels[known]]
    kernel = x[known] @ x[known].T + 10 * torch.eye(len(known), dtype=x.dtype)
    weights = x[known].T @ torch.linalg.solve(kernel, classes)
    return ((x[new] @ weights).argmax(1) == labels[new]).double().mean().item()


def nearest_neighbors(x: Float[Tensor, "n ..."], k: int) -> Int[Tensor, "2 e"]:
    """Edges to each of n points from the k others that are nearest to it: row 0 the neighbours, row 1 the point.

    Raises:
        ValueError: k below 1, or as large as n.
    """
    if not 1 <= k < len(x):
        raise ValueError(f"expected 1 <= k < {len(x)} neighbours, got {k}")
    near = torch.cdist(x.flatten(1), x.flatten(1)).fill_diagonal_(torch.inf).topk(k, largest=False).indices
    return torch.stack([near.flatten(), torch.arange(len(x)).repeat_interleave(k)])


def name_digits_along_a_graph(
    name: str, description: str, make: Callable[[], nn.Module], given: list[str] | None
) -> None:
    """A command: from ten labelled digits of each kind a model names the others, along a graph of similar ones.

    Args:
        name, description, given: as of `arguments`.
        make: a model of (n, 64) nodes and (2, E) edges, to (n, 10) logits.
    """
    chosen = arguments(name, description, 300, given)
    images, labels = digits()
    x, edges = images.flatten(1), nearest_neighbors(images, 8)
    generator = torch.Generator().manual_seed(chosen.seed)
    order = torch.randperm(len(labels), generator=generator)
    known = torch.cat([order[labels[order] == digit][:10] for digit in range(10)])
    torch.manual_seed(chosen.seed)
    model = make()
    optimizer = AdamW(model.parameters(), lr=0.01, weight_decay=5e-4)

    def step():
        torch.manual_seed(int(torch.randint(1 << 31, (), generator=generator)))  # dropout's, from what is saved
        log_p = model.train()(x, edges)[known].log_softmax(1)
        loss = -log_p.gather(1, labels[known, None]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss.item()}

    train(step, {"model": model, "optimizer": optimizer}, chosen.steps, generator, chosen.out)
    with torch.no_grad():
        logits = model.eval()(x, edges)
    unknown = torch.ones(len(labels), dtype=torch.bool).index_fill(0, known, False)
    right = (logits.argmax(1) == labels)[unknown].double().mean().item()
    save_points(logits, labels, chosen.out / "logits.png")
    print(f"{right:.3f} of the digits without a label named rightly; {chosen.out / 'logits.png'} shows their logits")
