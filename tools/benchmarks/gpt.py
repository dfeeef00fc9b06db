"""GPT-2 next to transformers' GPT2LMHeadModel of the same size: logits and their gradients to all parameters."""

import torch

from impl.models.gpt import GPT, sampling_distribution
from tools.bench import Pair


def _ours():
    return GPT(2048, 256, n_layer=2, n_head=4, n_embd=256, dropout=0.0)


def _theirs():
    import transformers

    config = transformers.GPT2Config(
        vocab_size=2048,
        n_positions=256,
        n_embd=256,
        n_layer=2,
        n_head=4,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    model = transformers.GPT2LMHeadModel(config)
    return _Logits(model)


class _Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens):
        return self.model(tokens).logits


def _warpers():
    import transformers

    chain = [transformers.TopKLogitsWarper(50), transformers.TopPLogitsWarper(0.9)]

    def probabilities(logits):
        for warper in chain:
            logits = warper(None, logits)
        return logits.softmax(-1)

    return probabilities


PAIRS = [
    Pair(
        item="gpt",
        name="GPT, 2 layers of 256",
        ours=_ours,
        theirs=_theirs,
        inputs=lambda: (torch.randint(2048, (4, 256)),),
    ),
    Pair(
        item="gpt",
        name="sampling_distribution",
        ours=lambda: lambda z: sampling_distribution(z, top_k=50, top_p=0.9),
        theirs=_warpers,
        inputs=lambda: (torch.randn(16, 50257),),
    ),
]
