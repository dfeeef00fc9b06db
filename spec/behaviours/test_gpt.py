"""GPT at work: it learns to write like the Python manual."""

import re
from functools import cache

import pytest
import torch

from impl.models.gpt import GPT, decay_groups, train
from spec.data import manual_text

pytestmark = pytest.mark.item("gpt")

LENGTH = 32


@cache
def manual():
    """The manual in 33 symbols, of which every tenth thousand is held out: alphabet, text to learn, text to test."""
    text = re.sub(r"[^a-z .,'()_]", "", re.sub(r"\s+", " ", manual_text().lower()))
    alphabet = sorted(set(text))
    codes = torch.tensor([alphabet.index(c) for c in text[: len(text) // 1000 * 1000]]).reshape(-1, 1000)
    held_out = torch.arange(len(codes)) % 10 == 0
    return alphabet, codes[~held_out].flatten(), codes[held_out].flatten()


@cache
def bigram_error():
    """Cross-entropy of the held-out text under counts of pairs, one tenth added to each."""
    alphabet, text, test = manual()
    counts = torch.full((len(alphabet), len(alphabet)), 0.1)
    counts.index_put_((text[:-1], text[1:]), torch.ones(len(text) - 1), accumulate=True)
    return -(counts / counts.sum(1, keepdim=True)).log()[test[:-1], test[1:]].mean().item()


def trained(seed, steps, **options):
    """A model of 2 blocks after `steps` of 32 windows, and the losses on its way."""
    alphabet, text, _ = manual()
    torch.manual_seed(seed)
    model = GPT(len(alphabet), LENGTH, n_layer=2, n_head=4, n_embd=64, dropout=0.0, **options)
    optimizer = torch.optim.AdamW(decay_groups(model, 0.01), lr=1e-2, betas=(0.9, 0.98))
    generator = torch.Generator().manual_seed(seed)
    losses = train(model, text, optimizer, steps, generator=generator, report=None)
    return model.eval(), losses


@torch.no_grad()
def error(model):
    """Cross-entropy of the held-out text, in windows one behind the other."""
    windows = manual()[2].unfold(0, LENGTH + 1, LENGTH)
    return model.loss(windows).item()
