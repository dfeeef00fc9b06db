"""Frozen values of retrieval-augmented generation."""

import pytest
import torch

from impl.models.rag import BM25, DenseIndex, dpr_loss, rag_sequence_nll, rag_token_nll
from spec import laws
from spec.golden import load

pytestmark = pytest.mark.item("rag")

BOTH = pytest.mark.parametrize(("kind", "nll"), [("sequence", rag_sequence_nll), ("token", rag_token_nll)])


@BOTH
def test_marginals_are_those_of_transformers(kind, nll):
    """−log p(y|x) of answers of 5, 2 and 3 tokens, and its gradients to scores and logits, are transformers'.

    Source: Lewis et al. 2020, §2.1; RagSequenceForGeneration and RagTokenForGeneration.
    """
    golden = load("rag")
    leaves = [golden["scores"].requires_grad_(), golden["logits"].requires_grad_()]
    loss = nll(leaves[0], leaves[1].log_softmax(-1), golden["target"], golden["mask"])
    golden.check(f"nll_{kind}", loss)
    slopes = torch.autograd.grad(loss.sum(), leaves)
    golden.check(f"slope_scores_{kind}", slopes[0])
    golden.check(f"slope_logits_{kind}", slopes[1])


def test_two_passages_and_two_tokens_by_hand():
    """For p_η = (.6, .4), p(y₁) = (.9, .1), p(y₂) = (.2, .8), Sequence gives .6·.18 + .4·.08 = .14 and Token .58·.44 =
    .2552.

    Source: Lewis et al. 2020, §2.1, by hand.
    """
    scores = torch.tensor([[0.6, 0.4]], dtype=torch.float64).log()
    probs = torch.tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.1, 0.9], [0.8, 0.2]]], dtype=torch.float64)[None]
    target = torch.zeros(1, 2).long()
    sequence, token = (nll(scores, probs.log(), target) for nll in (rag_sequence_nll, rag_token_nll))
    laws.assert_close((-sequence).exp(), torch.tensor([0.14], dtype=torch.float64))
    laws.assert_close((-token).exp(), torch.tensor([0.2552], dtype=torch.float64))


def test_bm25_is_that_of_rank_bm25():
    """Scores of 14 documents of 3 to 24 words for three queries, with a repeated and an unknown word, are rank_bm25's.

    Source: Robertson & Zaragoza 2009, eq. 3.15; rank_bm25.BM25Okapi with Lucene's idf.
    """
    golden = load("rag")
    documents = [[w for w in row if w] for row in golden["corpus"].tolist()]
    ranking = BM25(documents, k1=1.2, b=0.75)
    golden.check("bm25", torch.stack([ranking.scores(query) for query in golden["queries"].tolist()]))


def test_three_documents_by_hand():
    """(a b a), (b c), (c c d e) score 1.348640223, 0.544214729 and 0.590861705 for the query (a c) at k₁ = 1.2, b =
    0.75.

    Source: Robertson & Zaragoza 2009, eq. 3.15, with idf(a) = ln(1 + 2.5/1.5), idf(c) = ln(1 + 1.5/2.5).
    """
    found = BM25([["a", "b", "a"], ["b", "c"], ["c", "c", "d", "e"]], k1=1.2, b=0.75).scores(["a", "c"])
    expected = torch.tensor([1.348640223, 0.544214729, 0.590861705], dtype=torch.float64)
    laws.assert_close(found, expected, rtol=0, atol=6e-10, because="nine places are printed")


@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_the_index_finds_what_faiss_finds(metric):
    """The six nearest of 40 vectors by inner product and by cosine, indices and scores, are faiss's.

    Source: faiss.IndexFlatIP, after faiss.normalize_L2 for cosines.
    """
    golden = load("rag")
    scores, ids = DenseIndex(7, metric).add(golden["vectors"]).search(golden["questions"], 6)
    golden.check(f"ids_{metric}", ids)
    golden.check(f"scores_{metric}", scores)


@pytest.mark.parametrize("name", ["square", "wide"])
def test_the_retrievers_loss_is_a_cross_entropy(name):
    """The loss with in-batch negatives, and with four passages more, is torch's cross-entropy to the diagonal, with its
    gradient.

    Source: Karpukhin et al. 2020, eq. 2.
    """
    golden = load("rag")
    scores = golden[f"sim_{name}"].requires_grad_()
    loss = dpr_loss(scores)
    golden.check(f"dpr_{name}", loss)
    golden.check(f"slope_dpr_{name}", torch.autograd.grad(loss, scores)[0])
