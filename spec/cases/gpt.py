"""Cases of the language model."""

import torch
from torch import nn

from impl.models.gpt import (
    GPT,
    decay_groups,
    next_token_loss,
    sampling_distribution,
    train,
    weights_from_gpt2,
    weights_to_gpt2,
)
from spec.cases import Bad, Case
from spec.contract import Contract, affine, linear
from spec.laws import double, reseed


def small(vocab_size=7, block_size=6, n_layer=2, n_head=2, n_embd=4, **options):
    """A model of other sizes everywhere, the same at every call."""
    reseed(0)
    return GPT(vocab_size, block_size, n_layer, n_head, n_embd, **({"dropout": 0.0} | options))


def _rejects(call, *mentions):
    return Bad(call=call, mentions=mentions)


_TARGETS = torch.zeros(4, 5, dtype=torch.long)
_TEXT, _MASK = torch.tensor([[1, 2, 3]]), torch.tensor([[True, True, False]])


def _generate(*arguments, **options):
    return lambda: small().generate(*arguments, **options)


def _train(text, steps, **options):
    def call():
        model = small()
        train(model, text, torch.optim.SGD(model.parameters(), lr=0.1), steps, report=None, **options)

    return call


BAD = {
    "heads that do not divide": _rejects(lambda: small(n_head=3), "4", "3"),
    "numbers for tokens": _rejects(lambda: small()(torch.ones(2, 3)), "(2, 3)", "float32"),
    "one text alone": _rejects(lambda: small()(torch.tensor([1, 2])), "(2,)"),
    "a text too long": _rejects(lambda: small()(torch.zeros(1, 7, dtype=torch.long)), "block_size", "6", "7"),
    "a mask of another length": _rejects(lambda: small()(_TEXT, torch.ones(1, 4, dtype=torch.bool)), "4"),
    "nothing to predict": _rejects(lambda: small().loss(_TEXT[:, :1]), "two", "(1, 1)"),
    "one text to predict": _rejects(lambda: small().loss(_TEXT[0]), "(3,)"),
    "targets of another batch": _rejects(
        lambda: next_token_loss(torch.ones(4, 5, 7), _TARGETS[:1]), "(4, 5)", "(1, 5)"
    ),
    "targets of another length": _rejects(lambda: next_token_loss(torch.ones(4, 5, 7), _TARGETS[:, :1]), "(4, 1)"),
    "a count of whole texts": _rejects(
        lambda: next_token_loss(torch.ones(4, 5, 7), _TARGETS, torch.ones(4, dtype=torch.bool)), "(4, 5)", "(4,)"
    ),
    "one text to go on from": _rejects(_generate(_TEXT[0], 2), "(3,)"),
    "a mask of a shorter text": _rejects(
        _generate(torch.zeros(1, 9, dtype=torch.long), 1, key_mask=torch.ones(1, 7, dtype=torch.bool)),
        "(1, 9)",
        "(1, 7)",
    ),
    "nothing to go on from": _rejects(_generate(_TEXT[:, :0], 2), "0"),
    "fewer than no tokens": _rejects(_generate(_TEXT, -1), "-1"),
    "padding at the right": _rejects(_generate(_TEXT, 1, key_mask=_MASK), "left"),
    "a negative temperature": _rejects(_generate(_TEXT, 0, temperature=-1.0), "temperature", "-1.0"),
    "a choice of none": _rejects(_generate(_TEXT, 0, top_k=0), "top_k", "0"),
    "more than everything": _rejects(_generate(_TEXT, 0, top_p=1.1), "top_p", "1.1"),
    "a text shorter than a window": _rejects(_train(torch.arange(6), 1), "7", "6"),
    "weights of another model": _rejects(lambda: weights_from_gpt2({"h.0.attn.q_proj.weight": _TEXT}), "q_proj"),
    "weights of another kind": _rejects(lambda: weights_from_gpt2({"ln_g.weight": _TEXT}), "ln_g"),
    "an output matrix of its own": _rejects(
        lambda: weights_from_gpt2({"wte.weight": torch.ones(3, 2), "lm_head.weight": torch.zeros(3, 2)}), "lm_head"
    ),
}

CASES = [
    Case(
        item="gpt",
        name="GPT",
        build=lambda: small(vocab_size=5, block_size=4, n_layer=1, n_head=3, n_embd=3, dropout=0.3),
        inputs=lambda: (torch.tensor([[0, 3, 1, 3], [2, 4, 2, 0]]),),
        bad=BAD,
    ),
]


class LossOfSlope(nn.Module):
    """Its loss has the derivative 3 in its one weight, whatever the tokens, which it records."""

    block_size = 4

    def __init__(self):
        super().__init__()
        self.weight, self.texts = nn.Parameter(torch.zeros(1, dtype=torch.float64)), []

    def loss(self, tokens):
        self.texts += tokens.tolist()
        return 3 * self.weight.sum()


def _training():
    model = LossOfSlope()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return {"model": model, "text": torch.arange(9), "optimizer": optimizer, "steps": 2, "report": None}


_BLOCK = {"in_proj_weight": "(3 * n_embd, n_embd)", "in_proj_bias": "(3 * n_embd,)"}
_PLAIN = {
    "next_token_loss": next_token_loss,
    "decay_groups": decay_groups,
    "weights_from_gpt2": weights_from_gpt2,
    "weights_to_gpt2": weights_to_gpt2,
}
CONTRACTS = [
    Contract(
        item="gpt",
        name="GPT",
        of=GPT,
        calls=({"vocab_size": 5, "block_size": 3, "n_layer": 1, "n_head": 1, "n_embd": 4},),
        ranges=dict.fromkeys(("vocab_size", "block_size", "n_layer", "n_head", "n_embd"), "int >= 1")
        | {"dropout": "[0, 1)"},
        state={"wte.weight": "(vocab_size, n_embd)", "wpe.weight": "(block_size, n_embd)"}
        | affine("blocks.0.norm1", "n_embd")
        | {f"blocks.0.self_attn.{key}": shape for key, shape in _BLOCK.items()}
        | linear("blocks.0.self_attn.out_proj", "n_embd", "n_embd")
        | affine("blocks.0.norm2", "n_embd")
        | linear("blocks.0.feed_forward.linear1", "4 * n_embd", "n_embd")
        | linear("blocks.0.feed_forward.linear2", "n_embd", "4 * n_embd")
        | affine("ln_f", "n_embd"),
        attributes={
            "block_size": "as given",
            "ln_f": "the final norm, called as a submodule: an identity may take its place",
        },
        remembers="nothing; a cache is the caller's",
    ),
    Contract(
        item="gpt",
        name="sampling_distribution",
        of=sampling_distribution,
        calls=({"logits": double(3, 5)},),
        ranges={"temperature": "[0, inf]", "top_k": "int >= 1 or None", "top_p": "[0, 1] or None"},
    ),
    Contract(
        item="gpt",
        name="train",
        of=train,
        calls=(_training(),),
        ranges={"steps": "int >= 1", "batch_size": "int >= 1"},
    ),
    *(Contract(item="gpt", name=name, of=of) for name, of in _PLAIN.items()),
]
