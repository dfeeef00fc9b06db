"""Longformer at work: through a global token the end of a text tells how it began."""

import pytest
import torch
from torch import nn

from impl.models.longformer import Longformer
from spec.data import manual_text

LENGTH, MASK = 24, 1


def accuracy(position, seed, steps=60):
    """Fraction of unseen texts whose first character is predicted at their last position, with one global token or (−1)
    none."""
    text = manual_text().lower()[:200_000]
    symbols = sorted(set(text), key=text.count, reverse=True)[:30]
    number = {symbol: n + 2 for n, symbol in enumerate(symbols)}
    ids = torch.tensor([number.get(c, 32) for c in text])
    torch.manual_seed(seed)
    sizes = {"num_heads": 2, "window": 4, "num_layers": 2, "dim_feedforward": 64, "max_len": LENGTH}
    model, generator = Longformer(33, 32, **sizes, dropout=0.0, padding_idx=0), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)

    def texts(count, start, end):
        rows = ids[torch.randint(start, end - LENGTH, (count, 1), generator=generator) + torch.arange(LENGTH)]
        first = rows[:, 0].clone()
        rows[:, -1] = MASK
        return rows, first

    for _ in range(steps):
        rows, first = texts(32, 0, 180_000)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(rows, torch.full((32, 1), position))[:, -1], first).backward()
        optimizer.step()
    with torch.no_grad():
        rows, first = texts(500, 180_000, 200_000)
        told = model(rows, torch.full((500, 1), position))[:, -1].argmax(1)
    return (told == first).float().mean().item()


@pytest.mark.item("longformer")
def test_a_global_token_tells_the_end_of_a_text_how_it_began():
    """Two layers of windows of 4 reach 4 characters: the first of 24 is predicted at the last position only if it is
    global.

    Source: Beltagy et al. 2020, §3.1: global attention carries what a task needs across the whole text.
    Measured: 0.88 to 0.96 right with the global token, 0.23 to 0.29, the commonest character's share, with none;
    3 seeds.
    """
    found = accuracy(0, seed=0)
    assert found >= 0.6, f"expected 0.6 through the global token, found {found:.3f}"
    found = accuracy(-1, seed=0, steps=20)
    assert found <= 0.45, f"expected the share of the commonest character, found {found:.3f}"
