"""Real data without a download."""

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@cache
def all_digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's handwritten digits in its own order: images (1797, 64), grey values 0 to 16, float64; labels.

    The package's file is read without the package: importing scikit-learn costs a second in every process.
    """
    package = Path(importlib.util.find_spec("sklearn").origin).parent
    table = torch.from_numpy(np.loadtxt(package / "datasets/data/digits.csv.gz", delimiter=","))
    return table[:, :64], table[:, 64].long()


@cache
def digits(test: int = 500, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scikit-learn's handwritten digits in [0, 1], shuffled by `seed`.

    Returns:
        train images (1797 − test, 64) float32, train labels int64, test images (test, 64), test labels.
        Reshape to (N, 1, 8, 8) for images. Shared between callers: do not write into them.
    """
    images, labels = all_digits()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    x, y = (images[order] / 16).float(), labels[order]
    return x[test:], y[test:], x[:test], y[:test]


@cache
def karate_club() -> tuple[Tensor, Tensor]:
    """Zachary's karate club: edge_index (2, 156), both directions of 78 edges; the 34 members' factions, 0 or 1."""
    import networkx

    graph = networkx.karate_club_graph()
    one_way = torch.tensor(list(graph.edges)).T
    factions = [int(graph.nodes[n]["club"] == "Officer") for n in graph.nodes]
    return torch.cat([one_way, one_way.flip(0)], dim=1), torch.tensor(factions)


@cache
def manual_text() -> str:
    """The Python manual's help topics as one text of about 465,000 characters, in a fixed order."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))
