"""The marginals next to transformers', the retriever's loss and encoder next to torch's."""

from types import SimpleNamespace

import torch
from torch import nn

from impl.models.rag import BagOfWords, dpr_loss, rag_sequence_nll, rag_token_nll
from tools.bench import Pair

BATCH, DOCUMENTS, LENGTH, SYMBOLS = 4, 5, 16, 2000


def _answers():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(BATCH, DOCUMENTS, LENGTH, SYMBOLS, generator=generator)
    return torch.randn(BATCH, DOCUMENTS, generator=generator), logits


def _target():
    return torch.randint(1, SYMBOLS, (BATCH, LENGTH), generator=torch.Generator().manual_seed(1))


def _ours(nll):
    target = _target()
    return lambda: lambda scores, logits: nll(scores, logits.log_softmax(-1), target)


def _theirs(name):
    def build():
        import transformers

        library = getattr(transformers, name)
        generator = SimpleNamespace(pad_token_id=0, bos_token_id=None)
        model = SimpleNamespace(config=SimpleNamespace(n_docs=DOCUMENTS, bos_token_id=None, generator=generator))
        model.marginalize = lambda *arguments: transformers.RagTokenForGeneration.marginalize(model, *arguments)
        target = _target()  # it begins with a start token there, and the last position is padding
        return lambda scores, logits: library.get_nll(model, logits.flatten(0, 1), scores, target)

    return build


class _Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag = nn.EmbeddingBag(4000, 64, mode="mean", padding_idx=0)

    def forward(self, x):
        return self.bag(x)


PAIRS = [
    Pair(
        item="rag",
        name="rag_sequence_nll",
        ours=_ours(rag_sequence_nll),
        theirs=_theirs("RagSequenceForGeneration"),
        inputs=_answers,
    ),
    Pair(
        item="rag",
        name="rag_token_nll",
        ours=_ours(rag_token_nll),
        theirs=_theirs("RagTokenForGeneration"),
        inputs=_answers,
    ),
    Pair(
        item="rag",
        name="dpr_loss",
        ours=lambda: dpr_loss,
        theirs=lambda: lambda scores: nn.functional.cross_entropy(scores, torch.arange(512)),
        inputs=lambda: (torch.randn(512, 1024),),
    ),
    Pair(
        item="rag",
        name="BagOfWords",
        ours=lambda: BagOfWords(4000, 64),
        theirs=_Bag,
        inputs=lambda: (torch.randint(1, 4000, (64, 128)),),
    ),
]
