"""Assignment: each row of a matrix of costs gets a column of its own, so that the sum of their costs is least.

Kuhn 1955, Naval Research Logistics Quarterly 2, "The Hungarian method"; by shortest paths, O(M²N): Jonker & Volgenant
1987, Computing 38.

    σ̂ = argmin_σ Σ_i cost[i, σ(i)],   σ an injection of M rows into N ≥ M columns
    dual: Σ u_i + Σ v_j is greatest under u_i + v_j ≤ cost[i, j], v ≤ 0;  cost − u − v is 0 along an optimal σ

Rows join one after another. A new row looks for the cheapest way to a free column, along which each row on the way
passes to the next column: a shortest path, by Dijkstra's algorithm on the reduced costs cost − u − v ≥ 0.

Convention: all problems of a batch go in step, and no branch depends on a cost. A search takes as many steps as there
are rows, which is enough; one that has found its free column remains there.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .numerics import at_least_float32


@torch.no_grad()
def hungarian_matching(cost: Float[Tensor, "b m n"]) -> Int[Tensor, "b m"]:
    """The column of each row in the assignment of least cost.

    Args:
        cost: of each row in each column, finite; no more rows than columns.

    Raises:
        ValueError: other than three dimensions, or more rows than columns.

    Source: Kuhn 1955; Jonker & Volgenant 1987.
    """
    if cost.dim() != 3 or cost.shape[1] > cost.shape[2]:
        raise ValueError(f"expected costs (batch, rows, columns), rows <= columns, got {tuple(cost.shape)}")
    batch, rows, columns = cost.shape
    cost = at_least_float32(cost)
    nobody, start = rows, columns  # a row that owns the free columns, and a column where the new row begins
    cost = torch.cat([cost, cost.new_full((batch, 1, columns), torch.inf)], dim=1)
    u, v = cost.new_zeros(batch, rows + 1), cost.new_zeros(batch, columns)
    owner = torch.full((batch, columns), nobody, device=cost.device)
    for row in range(rows):
        new = torch.full((batch, 1), row, device=cost.device)
        owner = torch.cat([owner, new], dim=1)  # (b, n + 1)
        distance = torch.full_like(v, torch.inf)
        seen = torch.zeros_like(distance, dtype=torch.bool)
        before = torch.full_like(owner, start)  # the column before each on the shortest path from the start
        column, length = torch.full_like(new, start), cost.new_zeros(batch, 1)
        for _ in range(row + 1):
            i = owner.gather(1, column)
            reduced = cost.gather(1, i[:, :, None].expand(-1, -1, columns))[:, 0] - u.gather(1, i) - v
            nearer = ~seen & (length + reduced < distance)
            distance = torch.where(nearer, length + reduced, distance)
            before = torch.cat([torch.where(nearer, column, before[:, :-1]), before[:, -1:]], dim=1)
            length, column = distance.masked_fill(seen, torch.inf).min(1, keepdim=True)
            here = torch.zeros_like(seen).scatter(1, column, True)
            seen = seen | (here & (owner[:, :-1] != nobody))
        gain = torch.where(seen, length - distance, 0)
        v = v - gain
        u = u.scatter_add(1, owner[:, :-1], gain).scatter_add(1, new, length)
        for _ in range(row + 1):  # back along the path, each column passes to the row of the one before
            last = before.gather(1, column)
            owner, column = owner.scatter(1, column, owner.gather(1, last)), last
        owner = owner[:, :-1]
    places = torch.arange(columns, device=cost.device).expand_as(owner)
    return torch.zeros(batch, rows + 1, dtype=torch.long, device=cost.device).scatter(1, owner, places)[:, :-1]
