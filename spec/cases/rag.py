"""Cases of retrieval-augmented generation: scores in, answers summed over passages out."""

import torch
from torch import nn

from impl.models.rag import (
    BM25,
    RAG,
    BagOfWords,
    DenseIndex,
    DenseRetriever,
    SentenceReader,
    Vocabulary,
    chunk,
    dpr_loss,
    rag_sequence_nll,
    rag_token_nll,
    sentences,
    train_retriever,
    words,
)
from spec.cases import Bad, Case
from spec.contract import Contract
from spec.laws import reseed

DOCUMENTS, TOKENS, LENGTH = 7, 4, 3


def _random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Table(nn.Module):
    """A generator with a table of log-probabilities for each passage (documents, positions, tokens)."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, questions, passages, target):
        # index_select, as a passage may be found for several questions.
        found = self.logits.log_softmax(-1).index_select(0, passages.flatten())
        return found.view(*passages.shape, *self.logits.shape[1:])[:, :, : target.shape[1]]


def rag(marginal="sequence", k=3):
    """Questions of 5 features, 7 passages of 6, vectors of 4, answers of 3 tokens out of 4."""
    reseed(0)
    retriever = DenseRetriever(nn.Linear(5, 4), nn.Linear(6, 4), 4).index_passages(_random(DOCUMENTS, 6, seed=1))
    return RAG(retriever, Table(_random(DOCUMENTS, LENGTH, TOKENS, seed=2)), k, marginal)


class _Answers(nn.Module):
    """A RAG whose answers are fixed, so that questions are its only input; the passages' encoder takes no part."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        model.retriever.passage_encoder = nn.Identity()

    def forward(self, questions):
        target = torch.tensor([[0, 3, 1]], device=questions.device).expand(len(questions), LENGTH)
        return self.model(questions, target)


def _retriever():
    reseed(0)
    return DenseRetriever(nn.Linear(5, 4), nn.Linear(6, 4), 4)


def _bag():
    reseed(0)
    return BagOfWords(8, 5)


def _answer():
    return _random(2, 5), _random(2, 5, 3, 4, seed=1), torch.tensor([[0, 3, 1], [2, 2, 0]])


def _nll(nll):
    return {
        "scores of other questions": Bad(call=lambda: nll(_random(3, 5), *_answer()[1:]), mentions=("(3, 5)",)),
        "other passages": Bad(call=lambda: nll(_random(2, 4), *_answer()[1:]), mentions=("(2, 4)",)),
        "an answer of another length": Bad(call=lambda: nll(*_answer()[:2], torch.zeros(2, 4).long())),
        "no positions": Bad(call=lambda: nll(_random(2, 5), _random(2, 5, 4), _answer()[2]), mentions=("(2, 5, 4)",)),
        "scores of one answer": Bad(call=lambda: nll(_random(5), *_answer()[1:]), mentions=("(5,)",)),
        "a mask of numbers": Bad(call=lambda: nll(*_answer(), torch.ones(2, 3)), mentions=("float32",)),
        "a mask of another length": Bad(call=lambda: nll(*_answer(), torch.ones(2, 4) > 0), mentions=("(2, 4)",)),
    }


def _index(*arguments):
    return lambda: DenseIndex(*arguments)


_WORDS = [["a", "b", "a"], ["b", "c"], ["c"]]
_BAD = {
    "no documents": Bad(call=lambda: BM25([]), mentions=("[]",)),
    "documents that are strings": Bad(call=lambda: BM25(["one text", "another"]), mentions=("one text",)),
    "none of the best": Bad(call=lambda: BM25(_WORDS).search([["a"]], 0), mentions=("0",)),
    "a query that is a string": Bad(call=lambda: BM25(_WORDS).search(["a b"], 2), mentions=("a b",)),
    "scores for a string": Bad(call=lambda: BM25(_WORDS).scores("a b"), mentions=("a b",)),
    "vectors of another size": Bad(call=lambda: DenseIndex(3).add(_random(2, 4)), mentions=("3", "(2, 4)")),
    "one vector without a row": Bad(call=lambda: DenseIndex(3).add(_random(3)), mentions=("(3,)",)),
    "queries of another size": Bad(
        call=lambda: DenseIndex(3).add(_random(2, 3)).search(_random(2, 4), 1), mentions=("(2, 4)",)
    ),
    "a search in nothing": Bad(call=lambda: DenseIndex(3).search(_random(2, 3), 1), mentions=("0 vectors",)),
    "none of the nearest": Bad(
        call=lambda: DenseIndex(3).add(_random(2, 3)).search(_random(2, 3), 0), mentions=("k = 0",)
    ),
    "fewer than no tokens": Bad(call=lambda: rag().generate(_random(2, 5), -1), mentions=("length", "-1")),
    "chunks that never end": Bad(call=lambda: chunk([1, 2], 3, 3), mentions=("overlap", "3")),
    "passages to read that are strings": Bad(call=lambda: SentenceReader(["A b.", "C d."]), mentions=("A b.",)),
    "a passage without a sentence to read": Bad(call=lambda: SentenceReader([["A b."], []]), mentions=("[]",)),
    "passages to learn from that are strings": Bad(
        call=lambda: train_retriever(["A b.", "A d."], Vocabulary([["a", "b"]]), batch_size=2), mentions=("A b.",)
    ),
    "a passage without a sentence to learn from": Bad(
        call=lambda: train_retriever([["A b."], []], Vocabulary([["a", "b"]]), batch_size=2), mentions=("[]",)
    ),
    "fewer passages than a batch": Bad(
        call=lambda: train_retriever([["A b."]] * 3, Vocabulary([["a", "b"]]), batch_size=4), mentions=("4", "3")
    ),
    "a batch without negatives": Bad(
        call=lambda: train_retriever([["A b."]] * 3, Vocabulary([["a", "b"]]), batch_size=1), mentions=("2",)
    ),
}
_BAD_LOSS = {
    "no questions": Bad(call=lambda: dpr_loss(_random(0, 3)), mentions=("(0, 3)",)),
    "scores of one question": Bad(call=lambda: dpr_loss(_random(3)), mentions=("(3,)",)),
    "fewer passages than questions": Bad(call=lambda: dpr_loss(_random(3, 2)), mentions=("(3, 2)",)),
    "a positive after the last passage": Bad(
        call=lambda: dpr_loss(_random(2, 3), torch.tensor([0, 3])), mentions=("3 passages", "[0, 3]")
    ),
    "a positive before the first passage": Bad(
        call=lambda: dpr_loss(_random(2, 3), torch.tensor([-1, 2])), mentions=("3 passages", "[-1, 2]")
    ),
    "other positives than questions": Bad(
        call=lambda: dpr_loss(_random(3, 5), torch.tensor([1, 0])), mentions=("3", "(2,)")
    ),
}
_MEAN = {"batch_independent": "the mean over questions", "batch_independent_in_eval": "the mean over questions"}

CASES = [
    *(
        Case(
            item="rag",
            name=f"RAG, {marginal}",
            build=lambda marginal=marginal: _Answers(rag(marginal)),
            inputs=lambda: (_random(3, 5, seed=5),),
            bad=_BAD if marginal == "sequence" else {},
            exempt={"from_scratch": "the class that is called is defined here; the properties ask it of the real one"},
        )
        for marginal in ("sequence", "token")
    ),
    Case(
        item="rag",
        name="DenseRetriever",
        build=_retriever,
        inputs=lambda: (_random(2, 5), _random(3, 6)),
        exempt={
            "batch_independent": "each question meets every passage",
            "batch_independent_in_eval": "each question meets every passage",
            "from_scratch": "the encoders are the caller's: these are torch's own",
        },
    ),
    Case(item="rag", name="BagOfWords", build=_bag, inputs=lambda: (torch.tensor([[3, 1, 7, 3], [2, 5, 4, 6]]),)),
    Case(
        item="rag",
        name="dpr_loss",
        build=lambda: dpr_loss,
        inputs=lambda: (_random(3, 5),),
        bad=_BAD_LOSS,
        exempt=_MEAN,
        is_function=True,
    ),
    *(
        Case(item="rag", name=name, build=lambda nll=nll: nll, inputs=_answer, bad=_nll(nll), is_function=True)
        for name, nll in (("rag_sequence_nll", rag_sequence_nll), ("rag_token_nll", rag_token_nll))
    ),
]

_PLAIN = {
    "Vocabulary": Vocabulary,
    "dpr_loss": dpr_loss,
    "rag_sequence_nll": rag_sequence_nll,
    "rag_token_nll": rag_token_nll,
    "train_retriever": train_retriever,
    "sentences": sentences,
    "words": words,
}
CONTRACTS = [
    Contract(
        item="rag",
        name="BM25",
        of=BM25,
        calls=({"corpus": _WORDS},),
        ranges={"k1": "[0, inf)", "b": "[0, 1]"},
    ),
    Contract(
        item="rag",
        name="DenseIndex",
        of=DenseIndex,
        calls=({"dim": 3},),
        ranges={"dim": "int >= 1", "metric": "'ip', 'cosine'"},
        attributes={
            "vectors": "the vectors that were added (n, dim), a buffer",
            "dim": "as given",
            "metric": "as given",
        },
        remembers="the vectors that were added",
    ),
    Contract(
        item="rag",
        name="DenseRetriever",
        of=DenseRetriever,
        calls=({"question_encoder": nn.Linear(5, 4), "passage_encoder": nn.Linear(6, 4), "dim": 4},),
        ranges={"dim": "int >= 1"},
        attributes={
            "question_encoder": "as given",
            "passage_encoder": "as given",
            "index": "the passages' DenseIndex",
        },
        remembers="the passages that were indexed",
    ),
    Contract(
        item="rag",
        name="RAG",
        of=RAG,
        calls=({"retriever": nn.Identity(), "generator": nn.Identity()},),
        ranges={"k": "int >= 1", "marginal": "'sequence', 'token'"},
        attributes=dict.fromkeys(("retriever", "generator", "k", "marginal"), "as given"),
    ),
    Contract(
        item="rag",
        name="BagOfWords",
        of=BagOfWords,
        calls=({"vocabulary_size": 8, "dim": 5},),
        state={"table": "(vocabulary_size, dim)"},
    ),
    Contract(
        item="rag",
        name="SentenceReader",
        of=SentenceReader,
        calls=({"passages": [["A word.", "Two words."], ["Three."]]},),
        ranges={"temperature": "(0, inf]"},
        attributes={"sentences": "the different sentences in order; the index of one is its token id"},
    ),
    Contract(
        item="rag",
        name="chunk",
        of=chunk,
        calls=({"items": [1, 2, 3], "size": 2},),
        ranges={"size": "int >= 1", "overlap": "int >= 0"},
    ),
    *(Contract(item="rag", name=name, of=of) for name, of in _PLAIN.items()),
]
