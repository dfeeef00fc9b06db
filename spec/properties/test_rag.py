"""Retrieval-augmented generation.  Lewis et al. 2020, arXiv:2005.11401; Karpukhin et al. 2020, arXiv:2004.04906;
BM25: Robertson & Zaragoza 2009."""

import itertools
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
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
from spec import cost, laws, scratch
from spec.cases.rag import DOCUMENTS, LENGTH, TOKENS, Table, rag
from spec.strategies import floats, permutations, seeds, sizes

pytestmark = pytest.mark.item("rag")

BOTH = pytest.mark.parametrize("nll", [rag_sequence_nll, rag_token_nll])
MARGINALS = pytest.mark.parametrize("marginal", ["sequence", "token"])
CORPUS = [["a", "b", "a"], ["b", "c"], ["c", "c", "d", "e"]]


def random(*shape, seed: int = 0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def answers(b=2, k=3, t=3, v=3, seed: int = 0):
    """Scores of k passages, log-probabilities of v tokens at t positions, and a target."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(v, (b, t), generator=generator)
    return random(b, k, seed=seed), random(b, k, t, v, seed=seed + 1).log_softmax(-1), target


def by_hand(nll, scores, log_probs, target):
    """Sums and products of probabilities, in Python."""
    found = []
    for score, probs, y in zip(scores.tolist(), log_probs.exp().tolist(), target.tolist()):
        each = [math.exp(s - max(score)) for s in score]
        prior = [e / sum(each) for e in each]
        if nll is rag_sequence_nll:
            p = sum(w * math.prod(of[i][s] for i, s in enumerate(y)) for w, of in zip(prior, probs))
        else:
            p = math.prod(sum(w * of[i][s] for w, of in zip(prior, probs)) for i, s in enumerate(y))
        found.append(-math.log(p))
    return torch.tensor(found, dtype=torch.float64)


# ---------------------------------------------------------------------------------------------- the two marginals


@pytest.mark.states("equivalence")
@BOTH
@given(seed=seeds(), k=sizes(1, 4), t=sizes(1, 4))
def test_marginals_are_sums_of_products(nll, seed, k, t):
    """RAG-Sequence is Σ_z p_η(z|x) Π_i p_θ(y_i|x, z, y_<i), RAG-Token Π_i Σ_z p_η(z|x) p_θ(y_i|x, z, y_<i).

    Source: Lewis et al. 2020, §2.1.
    """
    arguments = answers(k=k, t=t, seed=seed)
    laws.assert_close(nll(*arguments), by_hand(nll, *arguments))


@BOTH
@given(seed=seeds())
def test_answers_have_probabilities_that_sum_to_one(nll, seed):
    """Over all 27 answers of three tokens out of three Σ_y p(y|x) = 1: probabilities are averaged, not logits.

    Source: Lewis et al. 2020, §2.1: a marginal distribution.
    """
    every = torch.tensor(list(itertools.product(range(3), repeat=3)))
    scores, log_probs, _ = answers(b=1, k=4, seed=seed)
    found = nll(scores.expand(27, -1), log_probs.expand(27, -1, -1, -1), every)
    laws.assert_close((-found).exp().sum(), torch.ones((), dtype=torch.float64))


@pytest.mark.states("limiting case")
@given(seed=seeds(), case=st.sampled_from(["one token", "one passage", "one opinion", "one certain passage"]))
def test_where_both_marginals_are_one(seed, case):
    """Sequence and Token agree for answers of one token, for k = 1, where all passages predict the same, and where one
    passage is certain.

    Source: Lewis et al. 2020, §2.1: "if treating the target class as a sequence of length one, the models are
    equivalent".
    """
    scores, log_probs, target = answers(
        k=1 if case == "one passage" else 3, t=1 if case == "one token" else 3, seed=seed
    )
    if case == "one opinion":
        log_probs = log_probs[:, :1].expand(-1, 3, -1, -1)
    if case == "one certain passage":
        scores = scores + 1e4 * torch.eye(3, dtype=torch.float64)[:2]
    laws.assert_close(rag_sequence_nll(scores, log_probs, target), rag_token_nll(scores, log_probs, target))


@pytest.mark.states("limiting case")
def test_one_passage_is_its_generator():
    """For k = 1 both losses are Σ_i −log p_θ(y_i|x, z, y_<i), whatever the score is.

    Source: Lewis et al. 2020, §2.1.
    """
    _, log_probs, target = answers(k=1)
    expected = -log_probs[:, 0].gather(2, target[..., None]).sum((1, 2))
    for nll in (rag_sequence_nll, rag_token_nll):
        laws.assert_close(nll(random(2, 1, seed=9), log_probs, target), expected)


@BOTH
@given(seed=seeds(), shift=floats(-50, 50), order=permutations(3))
def test_order_and_offset_of_passages_are_no_information(nll, seed, shift, order):
    """As p_η ∝ exp score, neither a constant added to all scores nor another order of the passages changes the loss.

    Source: Lewis et al. 2020, §2.2.
    """
    scores, log_probs, target = answers(seed=seed)
    laws.invariant(lambda s: nll(s, log_probs, target), scores, lambda s: s + shift)
    laws.assert_close(nll(scores[:, order], log_probs[:, order], target), nll(scores, log_probs, target))


@given(seed=seeds())
def test_the_score_of_a_passage_rises_where_it_explains_the_answer(seed):
    """∂ log p(y|x)/∂ score_z = p(z|x, y) − p_η(z|x), the posterior minus the prior.

    Source: Lewis et al. 2020, §2.1, RAG-Sequence, by differentiation: how answers alone train the retriever.
    """
    scores, log_probs, target = answers(seed=seed)
    scores.requires_grad_()
    (slope,) = torch.autograd.grad(-rag_sequence_nll(scores, log_probs, target).sum(), scores)
    joint = scores.softmax(1) * log_probs.gather(3, target[:, None, :, None].expand(-1, 3, -1, 1)).sum((2, 3)).exp()
    laws.assert_close(slope, (joint / joint.sum(1, keepdim=True) - scores.softmax(1)).detach())


@BOTH
def test_the_gradient_is_shared_among_the_passages(nll):
    """Each passage's log-probabilities of the target get gradient, those of other tokens none; scores get some too.

    Source: Lewis et al. 2020, §2.4: both parts are trained by −log p(y|x).
    """
    scores, log_probs, target = answers()
    leaves = [scores.requires_grad_(), log_probs.requires_grad_()]
    of_scores, of_probs = torch.autograd.grad(nll(scores, log_probs, target).sum(), leaves)
    chosen = nn.functional.one_hot(target, 3).bool()[:, None].expand_as(log_probs)
    assert (of_probs[chosen] < 0).all() and (of_probs[~chosen] == 0).all() and (of_scores != 0).all()
    laws.assert_close(
        of_probs.sum((1, 3)), -torch.ones(2, 3, dtype=torch.float64)
    )  # −1 of responsibility a token, over the passages


@BOTH
def test_huge_scores_are_no_infinities(nll):
    """Scores of ±10⁴ and answers of probability e⁻³⁰⁰⁰ are finite, and so are their gradients.

    Source: Lewis et al. 2020, §2.1, in log space: e^10000 is infinite in float64, e^−10000 is 0.
    """
    _, log_probs, target = answers()
    scores = torch.tensor([[1e4, -1e4, 0.0], [0.0, 1e4, 1e4 - 2]], dtype=torch.float64).requires_grad_()
    log_probs = (log_probs - 1000).requires_grad_()
    loss = nll(scores, log_probs, target)
    assert loss.isfinite().all() and (loss > 2000).all()
    for grad in torch.autograd.grad(loss.sum(), (scores, log_probs)):
        assert grad.isfinite().all()
    best = log_probs[0, 0].gather(1, target[0, :, None]).sum()
    laws.assert_close(loss[0], -best)


@BOTH
@given(seed=seeds(), length=sizes(0, 3))
def test_padding_is_no_part_of_the_answer(nll, seed, length):
    """With a mask an answer is as probable as its own tokens alone; without one every position counts.

    Source: Lewis et al. 2020, §2.1: N is the length of the answer.  Convention: padding may
    hold values that are no token ids, such as the −100 of torch's cross-entropy.
    """
    scores, log_probs, target = answers(seed=seed)
    mask = torch.tensor([[n < length for n in range(3)], [True] * 3])
    found = nll(scores, log_probs, target, mask)
    laws.assert_close(found[:1], nll(scores[:1], log_probs[:1, :, :length], target[:1, :length]))
    laws.assert_close(found[1:], nll(scores[1:], log_probs[1:], target[1:]))
    broken = log_probs.masked_fill(~mask[:, None, :, None], -math.inf)
    laws.assert_close(nll(scores, broken, target, mask), found)
    laws.assert_close(nll(scores, log_probs, target.masked_fill(~mask, -100), mask), found)


@BOTH
def test_second_derivatives_of_the_marginals(nll):
    """Second derivatives with respect to scores and log-probabilities equal central differences.

    Source: the definition of the derivative.
    """
    scores, log_probs, target = answers(k=2, t=2)
    laws.gradient_correct(lambda s, p: nll(s, p, target), scores, log_probs, second_order=True)


@pytest.mark.own_code
def test_what_runs_is_from_scratch():
    """No operator that runs forward or backward is a fused kernel, and the source names no ready-made loss or layer.

    Convention: tensors, autograd, elementary functions and linear algebra are given.
    """
    model = rag()
    scratch.source_is_from_scratch(type(model).__module__)
    model.generator = Table(random(DOCUMENTS, LENGTH, TOKENS).float())
    encoder = BagOfWords(9, 4)
    model.retriever = DenseRetriever(encoder, encoder, 4).index_passages(torch.tensor([[1, 2], [3, 0]]))
    target = torch.tensor([[0, 3, 1], [2, 2, 0]])
    found = {
        n.rpartition("::")[2] for n in cost.operators(lambda: model(torch.tensor([[1], [4]]), target).sum().backward())
    }
    fused = sorted(name for name in found if scratch.explains_itself(name))
    assert not fused, f"expected elementary operators only, found {fused}"


# ---------------------------------------------------------------------------------------------- the whole


@pytest.mark.states("dependence")
@MARGINALS
def test_the_model_sums_over_the_best_passages_alone(marginal):
    """p(y|x) sums over the k passages of largest d(z)ᵀq(x), with p_η renormalised among them.

    Source: Lewis et al. 2020, §2.1: "the retrieved documents … top K", §2.2.
    """
    model, questions = rag(marginal).double(), random(2, 5)
    target = torch.tensor([[0, 3, 1], [2, 2, 0]])
    scores = model.retriever.question_encoder(questions) @ model.retriever.index.vectors.T
    best = scores.topk(3, dim=1)
    log_probs = model.generator.logits.log_softmax(-1)[best.indices]
    nll = rag_sequence_nll if marginal == "sequence" else rag_token_nll
    laws.assert_close(model(questions, target), by_hand(nll, best.values, log_probs, target))


@MARGINALS
def test_retriever_and_generator_learn_from_the_answer(marginal):
    """−log p(y|x) gives gradient to the question encoder and the generator; the passage encoder and the index get none.

    Source: Lewis et al. 2020, §2.4: "we keep the document encoder (and index) fixed".
    """
    model = rag(marginal)
    loss = model(random(2, 5).float(), torch.tensor([[0, 3, 1], [2, 2, 0]])).sum()
    encoder = model.retriever.question_encoder
    laws.gradient_reaches(
        loss,
        {"question encoder": encoder.weight, "generator": model.generator.logits},
        dict(model.retriever.passage_encoder.named_parameters()),
    )
    assert not model.retriever.index.vectors.requires_grad
    (of_bias,) = torch.autograd.grad(loss, encoder.bias)
    assert (of_bias != 0).any()


def test_the_retrievers_gradient_is_that_of_the_marginal():
    """The gradient to the question encoder equals that of the marginal written out.

    Source: Lewis et al. 2020, §2.1 and §2.2.
    """
    model, questions = rag().double(), random(2, 5)
    target, encoder = torch.tensor([[0, 3, 1], [2, 2, 0]]), model.retriever.question_encoder

    def spelled(weight):
        scores = (questions @ weight.T + encoder.bias) @ model.retriever.index.vectors.T
        best = scores.topk(3, dim=1)
        of_target = model.generator.logits.softmax(-1)[best.indices].gather(
            3, target[:, None, :, None].expand(-1, 3, -1, 1)
        )
        return -(best.values.softmax(1) * of_target.prod(2).squeeze(2)).sum(1).log().sum()

    found = torch.autograd.grad(model(questions, target).sum(), encoder.weight)[0]
    weight = encoder.weight.detach().clone().requires_grad_()
    laws.assert_close(found, torch.autograd.grad(spelled(weight), weight)[0])


@pytest.mark.parametrize("marginal", ["sequence", "token"])
@given(seed=seeds())
def test_generation_takes_the_most_probable_next_token(marginal, seed):
    """Each generated token is the arg max of p(y_i|x, y_<i) = p(y_≤i|x)/p(y_<i|x), computed from the loss itself.

    Source: Lewis et al. 2020, §2.5, RAG-Token; for RAG-Sequence the same rule with the passages' posterior.
    """
    model, questions = rag(marginal, k=3).double(), random(2, 5)
    model.generator.logits.data.copy_(3 * random(DOCUMENTS, LENGTH, TOKENS, seed=seed))
    answer = model.generate(questions, LENGTH)
    assert answer.shape == (2, LENGTH) and not answer.requires_grad
    for length in range(1, LENGTH + 1):
        every = []
        for token in range(TOKENS):
            with_token = torch.cat([answer[:, : length - 1], torch.full((2, 1), token)], dim=1)
            every.append(model(questions, with_token))
        laws.assert_same(answer[:, length - 1], torch.stack(every).argmin(0))
    assert model.generate(questions).shape == (2, 1)


def test_tokens_may_have_passages_of_their_own():
    """Where two passages each know one half of the answer, RAG-Token gives it ¼ and RAG-Sequence nothing.

    Source: Lewis et al. 2020, §2.1: "this allows the generator to choose content from several documents".
    """
    log_probs = torch.full((1, 2, 2, 2), -60.0, dtype=torch.float64)
    log_probs[0, 0, 0, 0] = log_probs[0, 0, 1, 0] = 0.0  # the first passage says 0, 0
    log_probs[0, 1, 0, 1] = log_probs[0, 1, 1, 1] = 0.0  # the second 1, 1
    scores, target = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[0, 1]])
    laws.assert_close((-rag_token_nll(scores, log_probs, target)).exp(), torch.full((1,), 0.25, dtype=torch.float64))
    assert rag_sequence_nll(scores, log_probs, target).item() > 50


def test_new_passages_change_the_answer_without_training():
    """With the index replaced, the same model retrieves the new passages: its knowledge is in the index.

    Source: Lewis et al. 2020, §4.5, "Index hot-swapping".
    """
    model, questions = rag(k=2), random(2, 5).float()
    before = model.retriever.search(questions, 2)
    passages = random(9, 6, seed=11).float()
    model.retriever.index_passages(passages, batch_size=4)
    scores, ids = model.retriever.search(questions, 2)
    expected = (model.retriever(questions, passages)).topk(2, dim=1)
    laws.assert_close(scores, expected.values)
    laws.assert_same(ids, expected.indices)
    assert len(model.retriever.index) == 9 and (before[1] != ids).any()


def test_the_defaults_of_the_model():
    """The defaults are five passages, the sequence marginal, k1 = 1.5, b = 0.75, and an index by inner product.

    Source: Lewis et al. 2020, §3: "k ∈ {5, 10}"; Robertson & Zaragoza 2009, §3.4.4: b in 0.5 … 0.8, k1 in 1.2 … 2.
    """
    model = RAG(BM25(CORPUS), nn.Identity())
    assert (model.k, model.marginal) == (5, "sequence")
    laws.assert_close(BM25(CORPUS).scores(["a", "c"]), BM25(CORPUS, k1=1.5, b=0.75).scores(["a", "c"]))
    laws.assert_differs(BM25(CORPUS).scores(["a"]), BM25(CORPUS, k1=1.2).scores(["a"]), by=1e-2)
    laws.assert_differs(BM25(CORPUS).scores(["e"]), BM25(CORPUS, b=0.5).scores(["e"]), by=1e-2)
    scores, _ = DenseIndex(2).add(random(3, 2)).search(random(1, 2, seed=1), 3)
    laws.assert_close(scores.sort().values, (random(1, 2, seed=1) @ random(3, 2).T).sort().values)


# ---------------------------------------------------------------------------------------------- BM25

TEXTS = st.lists(st.lists(st.sampled_from("abcde"), max_size=6), min_size=1, max_size=5).filter(any)


def bm25(corpus, query, k1, b):
    """The formula, document by document and word by word."""
    found, average = [], sum(map(len, corpus)) / len(corpus)
    for document in corpus:
        score = 0.0
        for word in query:
            n, f = sum(word in d for d in corpus), document.count(word)
            idf = math.log(1 + (len(corpus) - n + 0.5) / (n + 0.5))
            score += idf * f * (k1 + 1) / (f + k1 * (1 - b + b * len(document) / average)) if f else 0.0
        found.append(score)
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.states("equivalence")
@given(corpus=TEXTS, query=st.lists(st.sampled_from("abcdef"), max_size=4), k1=floats(0, 3), b=floats(0, 1))
def test_bm25_is_the_formula(corpus, query, k1, b):
    """score = Σ_t idf(t)·f(k₁ + 1)/(f + k₁(1 − b + b·|D|/avgdl)), where a word that the query repeats counts each time.

    Source: Robertson & Zaragoza 2009, eq. 3.15.
    Convention: idf = ln(1 + (N − n + ½)/(n + ½)) as in Lucene, n = documents with the word.
    """
    laws.assert_close(BM25(corpus, k1, b).scores(query), bm25(corpus, query, k1, b))


@pytest.mark.states("limiting case")
def test_presence_alone_counts_without_k1():
    """For k₁ = 0 the score is the sum of the idf of the words that are present, however often.

    Source: Robertson & Zaragoza 2009, §3.4.2: k₁ = 0 is the binary model.
    """
    a, c = math.log(1 + 2.5 / 1.5), math.log(1 + 1.5 / 2.5)
    expected = torch.tensor([a, c, c], dtype=torch.float64)
    laws.assert_close(BM25(CORPUS, k1=0).scores(["a", "c"]), expected)


def test_repetition_saturates():
    """As f → ∞ a word contributes at most idf·(k₁ + 1), and each repetition adds less than the one before.

    Source: Robertson & Zaragoza 2009, §3.4.1 and figure 3.1.
    """
    scores = [BM25([["a"] * n, ["b"], ["c"]], k1=1.2, b=0).scores(["a"])[0].item() for n in (1, 2, 3, 4, 100_000)]
    steps = [y - x for x, y in itertools.pairwise(scores[:4])]
    assert steps[0] > steps[1] > steps[2] > 0
    limit = math.log(1 + 2.5 / 1.5) * 2.2
    assert 0.9999 * limit < scores[4] < limit, f"expected just below {limit}, found {scores[4]}"


@pytest.mark.states("dependence")
def test_length_counts_by_b():
    """For b = 0 a document's other words change nothing; for b = 1 a document repeated as a whole scores the same.

    Source: Robertson & Zaragoza 2009, §3.4.3: full normalisation divides f by |D|/avgdl.
    """
    plain, padded = BM25(CORPUS, b=0), BM25([CORPUS[0] + ["x"] * 9, *CORPUS[1:]], b=0)
    laws.assert_close(padded.scores(["a", "c"]), plain.scores(["a", "c"]))
    found = BM25([*CORPUS[:1], CORPUS[0] * 3, *CORPUS[1:]], b=1).scores(["a", "b"])
    laws.assert_close(found[0], found[1])
    partly = BM25([["a", "x"], ["a", "x", "y"], ["z"]], b=0.5).scores(["a"])
    assert partly[0] > partly[1] > 0


def test_rare_words_count_more_and_none_counts_against():
    """idf falls as more documents have the word, and is above 0 even where all do.

    Source: Robertson & Zaragoza 2009, §3.1.  Convention: with "1 +"; the book's idf is negative past half of all.
    """
    corpus = [["a", "b", "c", "d"][: n + 1] for n in range(4)]
    each = [BM25(corpus, b=0).scores([word])[3].item() for word in "abcd"]
    assert 0 < each[0] < each[1] < each[2] < each[3]
    laws.assert_close(torch.tensor(each[0] * 1.0).double(), torch.tensor(math.log(1 + 0.5 / 4.5)).double())


def test_the_best_documents_come_first():
    """`search` returns the k best documents with their scores, ties in the documents' order, and all of them if k is
    larger.

    Convention: as a stable sort.
    """
    ranking = BM25([*CORPUS, ["b", "c"], ["x"]])
    scores, ids = ranking.search([["b"], ["c", "q"]], 3)
    laws.assert_same(ids, torch.tensor([[1, 3, 0], [2, 1, 3]]))
    for query, score, found in zip((["b"], ["c"]), scores, ids):
        laws.assert_close(score, ranking.scores(query)[found])
    scores, ids = ranking.search([["b"]], 99)
    assert scores.shape == ids.shape == (1, 5) and sorted(ids[0].tolist()) == [0, 1, 2, 3, 4]
    laws.assert_same(ids[0, 3:], torch.tensor([2, 4]))


def test_an_empty_batch_finds_nothing():
    """An empty batch of questions gives empty scores, indices and answers.

    Convention: torch's, for batches of size 0.
    """
    for scores, ids in (BM25(CORPUS).search([], 2), DenseIndex(3).add(random(5, 3)).search(random(0, 3), 2)):
        assert scores.shape == ids.shape == (0, 2) and scores.dtype == torch.float64 and ids.dtype == torch.int64
    model = RAG(BM25([words(" ".join(p)) for p in PASSAGES]), SentenceReader(PASSAGES), k=2)
    assert model.generate([]).shape == (0, 1) and model([], torch.zeros(0, 1).long()).shape == (0,)


def test_words_may_be_any_hashable_value():
    """Word ids work as well as words, an empty document scores 0, and the corpus is not changed.

    Convention: a document is a sequence of keys.
    """
    corpus = [[3, 5, 3], [], (5, 8)]
    scores = BM25(corpus).scores((3, 5))
    laws.assert_close(scores, bm25([list(d) for d in corpus], [3, 5], 1.5, 0.75))
    assert scores[1] == 0 and corpus == [[3, 5, 3], [], (5, 8)]
    laws.assert_same(BM25([[], []]).scores(["a"]), torch.zeros(2, dtype=torch.float64))


# ---------------------------------------------------------------------------------------------- the dense index


@pytest.mark.states("equivalence")
@given(seed=seeds(), n=sizes(1, 9), k=sizes(1, 12))
def test_the_search_is_exact(seed, n, k):
    """`search` returns the k vectors of largest inner product, best first, and all n where k is larger.

    Source: Lewis et al. 2020, §2.2: maximum inner product search; here exact.
    """
    vectors, queries = random(n, 3, seed=seed), random(2, 3, seed=seed + 1)
    scores, ids = DenseIndex(3).add(vectors).search(queries, k)
    for query, score, found in zip(queries, scores, ids):
        every = sorted(((query @ v).item(), -i) for i, v in enumerate(vectors))[::-1][:k]
        assert found.tolist() == [-i for _, i in every], f"expected {every}, found {found}"
        laws.assert_close(score, torch.tensor([s for s, _ in every], dtype=torch.float64))


def test_sizes_of_one_work():
    """Vectors of dimension 1, top-1 retrieval and a single passage per answer all work.

    Convention: 1 is the least of dim and k; training needs two passages, of which one is the other's negative.
    """
    vectors, query = torch.tensor([[1.0], [3.0], [2.0]]), torch.tensor([[2.0]])
    laws.assert_all_close(DenseIndex(1).add(vectors).search(query, 1), (torch.tensor([[6.0]]), torch.tensor([[1]])))
    assert BM25(CORPUS).search([["d"]], 1)[1].tolist() == [[2]]
    model, target = rag(k=1), torch.tensor([[0, 3, 1]])
    best = model.retriever.search(random(1, 5).float(), 1)[1]
    expected = -model.generator(None, best, target).gather(3, target[:, None, :, None]).sum((1, 2, 3))
    laws.assert_close(model(random(1, 5).float(), target), expected)
    two = train_retriever([["a b."], ["c d."]], Vocabulary([["a", "b", "c", "d"]]), dim=3, steps=2, batch_size=2)
    assert len(two.index) == 2 and len(DenseIndex(300).add(random(2, 300))) == 2


def test_equal_scores_keep_the_order_of_adding():
    """Among vectors that tie, the one that was added first comes first.

    Convention: as a stable sort.
    """
    vectors = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 5.0], [0.0, 2.0]] * 5)
    _, ids = DenseIndex(2).add(vectors).search(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), 20)
    first = [n for n in range(20) if n % 4 in (1, 2)]
    second = [n for n in range(20) if n % 4 in (0, 3)]
    assert ids.tolist() == [first + second, second + first]


@given(seed=seeds(), factor=floats(0.01, 50))
def test_the_scale_of_a_query_is_no_information(seed, factor):
    """A query times c > 0 finds the same vectors: inner products all scale by c, cosines are unchanged.

    Source: Karpukhin et al. 2020, eq. 1.
    """
    vectors, queries = random(8, 3, seed=seed), random(2, 3, seed=seed + 1)
    for metric, growth in (("ip", factor), ("cosine", 1.0)):
        index = DenseIndex(3, metric).add(vectors)
        (scores, ids), (scaled, same) = index.search(queries, 4), index.search(factor * queries, 4)
        laws.assert_same(same, ids)
        laws.assert_close(scaled, growth * scores)


def test_cosines_ignore_the_length_of_vectors():
    """By cosine (0.1, 0) is nearer to (1, 0) than (½, ½) is, by inner product it is not: both sides are normalised.

    Source: the definition of the cosine.  Convention: a zero vector's cosine is 0.
    """
    vectors = torch.tensor([[0.5, 0.5], [0.1, 0.0], [0.0, 0.0]], dtype=torch.float64)
    query = torch.tensor([[3.0, 0.0]], dtype=torch.float64)
    scores, ids = DenseIndex(2, "cosine").add(vectors).search(query, 3)
    assert ids.tolist() == [[1, 0, 2]]
    laws.assert_close(scores, torch.tensor([[1.0, 0.5**0.5, 0.0]], dtype=torch.float64))
    scores, ids = DenseIndex(2).add(vectors).search(query, 3)
    assert ids.tolist() == [[0, 1, 2]]
    laws.assert_close(scores, torch.tensor([[1.5, 0.3, 0.0]], dtype=torch.float64))


def test_cosines_have_the_gradient_of_cosines():
    """∂ cos/∂q is orthogonal to q: the gradient flows through the division by the query's norm.

    Source: the derivative of the definition.
    """
    vectors, queries = random(5, 3), random(2, 3, seed=1)
    index = DenseIndex(3, "cosine").add(vectors)

    def found(queries):
        scores, ids = index.search(queries, 5)
        return scores.gather(1, ids.argsort(1))

    laws.gradients_match(found, lambda queries: _cosines(queries, vectors), queries)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_zero_vector_scores_zero(dtype):
    """A zero vector and a zero query score 0 in every dtype, and the gradient to such a query is finite.

    Convention: 0/0 is 0.  1e-12, which libraries put under the fraction, is itself 0 in float16: zero vectors were NaN
    there, which sorts as the best of all.
    """
    index = DenseIndex(2, "cosine").add(torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=dtype))
    queries = torch.tensor([[0.5, 0.0], [0.0, 0.0]], dtype=dtype).requires_grad_()
    scores, ids = index.search(queries, 2)
    laws.assert_same(scores.detach(), torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=dtype))
    assert ids[0].tolist() == [1, 0] and torch.autograd.grad(scores.sum(), queries)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_first_vectors_decide_the_dtype_of_an_index(dtype):
    """Vectors of another dtype are rounded to that of the index, and those stored before stay bitwise equal.

    Convention: as said; an index that followed what came last lost 16 of 24 bits of all it held.
    """
    first, later = random(3, 4).float(), random(2, 4, seed=1).to(dtype)
    index = DenseIndex(4).add(first).add(later)
    laws.assert_same(index.vectors, torch.cat([first, later.float()]))


def test_adding_never_changes_what_is_there():
    """Vectors are numbered in the order in which they are added; neither later ones nor the caller's later writes
    change earlier scores.

    Convention: `add` copies, and returns the index.
    """
    vectors, query = random(5, 3), random(1, 3, seed=2)
    index, first = DenseIndex(3), vectors[:2].clone()
    assert len(index) == 0 and index.add(first) is index and len(index) == 2
    before = index.search(query, 2)
    first.zero_()
    index.add(vectors[2:4]).add(vectors[4:])
    laws.assert_close(index.vectors, vectors)
    scores, ids = index.search(query, 5)
    for score, n in zip(*(t[0] for t in before)):
        laws.assert_close(scores[0][ids[0] == n], score[None])
    learnt = vectors.clone().requires_grad_()
    assert not DenseIndex(3).add(learnt).vectors.requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_an_index_is_saved_and_loaded(dtype, metric, tmp_path):
    """`load` restores what `save` wrote bitwise, with dtype and metric, from JSON and raw values.

    Convention: no pickle, which would run what a stranger wrote.
    """
    index = DenseIndex(3, metric).add(random(5, 3).to(dtype))
    index.save(tmp_path / "a" / "b")
    index.add(random(1, 3, seed=8).to(dtype)).save(tmp_path / "a" / "b")
    DenseIndex(3, metric).add(random(5, 3).to(dtype)).save(tmp_path / "a" / "b")  # shorter than what was there
    loaded, index = DenseIndex.load(tmp_path / "a" / "b"), DenseIndex(3, metric).add(random(5, 3).to(dtype))
    laws.assert_same(loaded.vectors, index.vectors)
    assert (loaded.dim, loaded.metric, len(loaded)) == (3, metric, 5)
    query = random(2, 3, seed=1).to(dtype)
    laws.assert_all_close(loaded.search(query, 4), index.search(query, 4))
    files = sorted(f.name for f in (tmp_path / "a" / "b").iterdir())
    assert files == ["index.bin", "index.json"]
    assert json.loads((tmp_path / "a" / "b" / "index.json").read_text())["count"] == 5
    assert (tmp_path / "a" / "b" / "index.bin").stat().st_size == 15 * dtype.itemsize
    loaded.add(random(1, 3))
    assert len(DenseIndex.load(tmp_path / "a" / "b")) == 5


def test_a_loaded_index_is_no_view_of_its_file(tmp_path):
    """Overwriting the file later does not change an index that was loaded from it.

    Convention: `load` copies, as `add` does.
    """
    DenseIndex(3).add(random(5, 3)).save(tmp_path)
    loaded = DenseIndex.load(tmp_path)
    DenseIndex(3).add(random(5, 3, seed=1)).save(tmp_path)
    laws.assert_same(loaded.vectors, random(5, 3))


def test_a_truncated_index_is_refused(tmp_path):
    """A file with fewer values than its header states raises ValueError; an empty index loads.

    Convention: ValueError, before anything is searched.
    """
    DenseIndex(4).save(tmp_path)
    assert len(DenseIndex.load(tmp_path)) == 0
    DenseIndex(3).add(random(5, 3)).save(tmp_path)
    values = tmp_path / "index.bin"
    values.write_bytes(values.read_bytes()[:-8])
    laws.rejects(lambda: DenseIndex.load(tmp_path), mentions=("120", "112"))


# ---------------------------------------------------------------------------------------------- training a retriever


@given(seed=seeds(), extra=sizes(0, 2))
def test_the_loss_is_the_positives_negative_log_probability(seed, extra):
    """L = mean_i −log e^{s_ii}/Σ_j e^{s_ij}; passages without a question of their own are negatives of all.

    Source: Karpukhin et al. 2020, eq. 2 and §3.2, "In-batch negatives".
    """
    scores = 3 * random(3, 3 + extra, seed=seed)
    each = [math.exp(scores[i, i]) / sum(map(math.exp, scores[i].tolist())) for i in range(3)]
    expected = torch.tensor(-sum(map(math.log, each)) / 3, dtype=torch.float64)
    laws.assert_close(dpr_loss(scores), expected)
    order = torch.tensor([2, 0, 1])
    laws.assert_close(dpr_loss(scores[:, :3][:, order.argsort()], order), dpr_loss(scores[:, :3]))


@given(scale=floats(0.1, 20), batch=sizes(2, 5))
def test_loss_of_questions_that_are_their_passages(scale, batch):
    """For q = p orthogonal of length √s the loss is −log(e^s/(e^s + B − 1)), and log B where all scores are equal.

    Source: Karpukhin et al. 2020, eq. 2.
    """
    passages = scale**0.5 * torch.linalg.qr(random(5, 5))[0][:batch]
    expected = torch.tensor(math.log(1 + (batch - 1) * math.exp(-scale)), dtype=torch.float64)
    laws.assert_close(dpr_loss(passages @ passages.T), expected)
    equal = random(batch, 1).expand(-1, batch)
    laws.assert_close(dpr_loss(equal), torch.tensor(math.log(batch), dtype=torch.float64))


def test_the_loss_pulls_and_pushes():
    """∂L/∂s_ij = (softmax_j − [i = j])/B: descent raises the score of the own passage and lowers the others.

    Source: Karpukhin et al. 2020, eq. 2, by differentiation.
    """
    scores = random(3, 5).requires_grad_()
    (slope,) = torch.autograd.grad(dpr_loss(scores), scores)
    laws.assert_close(slope, (scores.softmax(1) - torch.eye(3, 5, dtype=torch.float64)).detach() / 3)
    huge = torch.tensor([[1e4, -1e4], [1e4, 0.0]], dtype=torch.float64)
    laws.assert_close(dpr_loss(huge), torch.tensor(5000.0, dtype=torch.float64))


def test_both_encoders_learn():
    """Scores E_Q(q)ᵀE_P(p) of every question with every passage give gradient to both encoders.

    Source: Karpukhin et al. 2020, §3.1 and §3.2.
    """
    laws.reseed(0)
    retriever = DenseRetriever(nn.Linear(5, 4), nn.Linear(6, 4), 4)
    questions, passages = random(2, 5).float(), random(3, 6).float()
    scores = retriever(questions, passages)
    for i, q in enumerate(retriever.question_encoder(questions)):
        for j, p in enumerate(retriever.passage_encoder(passages)):
            laws.assert_close(scores[i, j], q @ p)
    laws.gradient_reaches(dpr_loss(scores), dict(retriever.named_parameters()))
    (found, _), (own, _) = (r.index_passages(passages).search(questions, 1) for r in (retriever, retriever))
    laws.assert_close(found, own.detach())


def test_passages_are_indexed_in_evaluation():
    """Passages are encoded in order, without dropout, whatever mode the encoder is in, and the encoder keeps its mode.

    Source: Karpukhin et al. 2020, §3.1: passages are encoded once, offline.
    """
    for mode in (True, False):
        encoder = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5)).train(mode)
        retriever = DenseRetriever(nn.Linear(5, 4), encoder, 4)
        passages = random(5, 6).float()
        assert retriever.index_passages(passages, batch_size=2) is retriever
        laws.assert_close(retriever.index.vectors, encoder[0](passages).detach())
        assert encoder.training is mode and not retriever.index.vectors.requires_grad


def test_indexing_keeps_the_mode_of_each_submodule():
    """A submodule of the encoder that is in evaluation mode stays in it after indexing, though the encoder is in
    training.

    Source: the contract of torch.nn.Module.train: each module has a mode; statistics that are frozen are in evaluation.
    """
    encoder = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)).train()
    encoder[1].eval()
    DenseRetriever(nn.Linear(5, 4), encoder, 4).index_passages(random(9, 6).float())
    assert [m.training for m in encoder.modules()] == [True, True, False], "expected each module in its own mode"


def test_indexing_anew_keeps_the_metric():
    """New passages are searched by the metric of the index that they replace.

    Source: Lewis et al. 2020, §4.5, "Index hot-swapping": the index's contents change, nothing else.
    """
    retriever = DenseRetriever(nn.Identity(), nn.Identity(), 3)
    retriever.index = DenseIndex(3, "cosine")
    passages, questions = random(9, 3), random(2, 3, seed=1)
    scores, _ = retriever.index_passages(passages).search(questions, 9)
    laws.assert_close(scores, _cosines(questions, passages).sort(descending=True).values)


def _cosines(questions, passages):
    return nn.functional.cosine_similarity(questions[:, None], passages, dim=2)


@given(order=permutations(4))
def test_a_bag_of_words_is_a_mean(order):
    """A text's vector is the mean of its words' vectors: order and padding do not change it, repetition does.

    Convention: a text without words is at the origin.
    """
    laws.reseed(0)
    encoder, text = BagOfWords(9, 5), torch.tensor([[3, 7, 7, 1]])
    found = encoder(text)
    laws.assert_close(found, ((encoder.table[3] + 2 * encoder.table[7] + encoder.table[1]) / 4)[None])
    laws.invariant(encoder, text, lambda t: t[:, order])
    laws.assert_close(encoder(torch.tensor([[0, 3, 0, 7, 7, 1, 0]])), found)
    laws.assert_close(encoder(torch.tensor([[0, 8]])), encoder.table[8:], what="a text of one word")
    laws.assert_same(encoder(torch.tensor([[0, 0], [0, 0]])).detach(), torch.zeros(2, 5))
    assert encoder(torch.zeros(2, 0).long()).shape == (2, 5)
    assert 0.3 < BagOfWords(200, 20).table.std() < 0.7


# ---------------------------------------------------------------------------------------------- text


@given(n=sizes(0, 23), size=sizes(1, 7), overlap=sizes(0, 6))
def test_chunks_cover_and_overlap(n, size, overlap):
    """Chunks hold every item in order, each begins with the last `overlap` of the one before, and any overlap + 1
    neighbours share one.

    Source: Lewis et al. 2020, §3: documents are split into passages of 100 words, there without overlap.
    """
    items = list(range(n))
    if overlap >= size:
        laws.rejects(lambda: chunk(items, size, overlap))
        return
    chunks = chunk(items, size, overlap)
    assert sum((c[overlap:] if i else c for i, c in enumerate(chunks)), []) == items
    assert all(len(c) == size for c in chunks[:-1]) and all(overlap < len(c) <= size or n <= overlap for c in chunks)
    for a, b in itertools.pairwise(chunks):
        assert a[len(a) - overlap :] == b[:overlap]
    for start in range(n - overlap):
        run = set(items[start : start + overlap + 1])
        assert any(run <= set(c) for c in chunks), f"expected {run} in one of {chunks}"


def test_chunks_of_seven_by_three():
    """Seven items in chunks of three that overlap by one are 012, 234, 456; in fours without overlap 0123, 456.

    Source: by hand.
    """
    assert chunk("0123456", 3, 1) == ["012", "234", "456"]
    assert chunk("0123456", 4) == ["0123", "456"]
    assert chunk([0], 3, 2) == [[0]] and chunk([], 3) == []


def test_texts_become_words_and_sentences():
    """Words are letters, digits and underscores in lower case; sentences end at . ! ? before a capital, and at a line
    without words.

    Convention: as the expressions say; a line that underlines a title is empty.
    """
    text = 'It binds\ntightly. See "__pow__()", e.g. x**2! What is -1**2?\n\n-- \n\nend'
    found = sentences("The power operator\n*****************\n\n" + text)
    assert found == ["The power operator", "It binds tightly.", 'See "__pow__()", e.g. x**2!', "What is -1**2?", "end"]
    assert words(found[2]) == ["see", "__pow__", "e", "g", "x", "2"]
    assert sentences("") == [] and words("-- !") == []
    assert sentences("One.\n   \nTwo. \"Three\" b. 'Four' c. (Five) d. *Six* e? `Seven` f. lower g. 8 h.") == [
        "One.", "Two.", '"Three" b.', "'Four' c.", "(Five) d.", "*Six* e?", "`Seven` f. lower g. 8 h.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("नमस्ते दुनिया।", ["नमस्ते", "दुनिया"]),
        ("Cafe\u0301, CAFÉ", ["café", "café"]),
        ("a\u0323\u0302 x\u0303", ["\u1ead", "x\u0303"]),  # one letter of three; a letter that has no composed form
        ("co\u00adoperate \u0646\u200c\u0645 one\u200btwo", ["cooperate", "\u0646\u0645", "one", "two"]),
        ("٣ x² Ⅷ", ["٣", "x²", "ⅷ"]),
    ],
)
def test_words_are_those_of_any_script(text, found):
    """A mark belongs to its letter, composed and decomposed letters are equal, joiners do not split a word.

    Source: Unicode Standard Annex #29, §4 (Extend, Format and ZWJ do not break words); Annex #15: NFC.
    """
    assert words(text) == found, f"expected {found}, found {words(text)}"


def test_a_decomposed_query_finds_a_composed_document():
    """BM25 scores a document alike for queries in composed and in decomposed form.

    Source: Unicode Standard Annex #15: canonically equivalent texts are the same text.
    """
    ranking = BM25([words("un café noir"), words("thé vert"), words("eau")])
    found = ranking.scores(words("cafe\u0301"))
    laws.assert_same(found, ranking.scores(words("caf\u00e9")))
    assert found[0] > 0, f"expected the document to be found, its score is {found[0]}"


def test_a_vocabulary_numbers_words_from_one():
    """Words are numbered from 1 in the order of their appearance, 0 pads at the end, unknown words are left out.

    Convention: as said.
    """
    vocabulary = Vocabulary([["b", "a", "b"], ["c"]])
    assert len(vocabulary) == 4
    laws.assert_same(vocabulary.encode([["c", "x", "b"], ["a"], []]), torch.tensor([[3, 1], [2, 0], [0, 0]]))
    assert vocabulary.encode([["x"]]).shape == (1, 0) and vocabulary.encode([]).shape == (0, 0)
    assert vocabulary.encode([[]]).dtype == torch.int64


PASSAGES = [["A cat sat.", "A dog ran."], ["A dog ran.", "Birds sing."], ["Fish swim in water."]]


def test_a_reader_answers_with_a_sentence_of_its_passage():
    """p_θ(y|x, z) ∝ exp(s(x, y)/τ) over the sentences of z and 0 elsewhere, where s is the BM25 of the sentence.

    Convention: an extractive stand-in for the sequence-to-sequence generator of Lewis et al. 2020, §2.3.
    """
    reader = SentenceReader(PASSAGES, temperature=0.5)
    assert reader.sentences == ["A cat sat.", "A dog ran.", "Birds sing.", "Fish swim in water."]
    questions, passages = [["dog", "ran"], ["cat"]], torch.tensor([[1, 0, 2], [0, 2, 1]])
    found = reader(questions, passages, torch.zeros(2, 1).long())
    assert found.shape == (2, 3, 1, 4)
    laws.assert_close(found.exp().sum(-1), torch.ones(2, 3, 1, dtype=torch.float64))
    scores = bm25([words(s) for s in reader.sentences], ["dog", "ran"], 1.5, 0.75) / 0.5
    laws.assert_close(found[0, 0, 0, 1:3].exp(), scores[1:3].softmax(0))
    laws.assert_close(found[0, 1, 0, :2].exp(), scores[:2].softmax(0))
    assert (found[0, 0, 0, [0, 3]] == -math.inf).all() and found[0, 2, 0, 3] == 0
    assert found[1, 0, 0].argmax() == 0


def test_the_system_answers():
    """The system answers a question with the sentence that fits it, whose probability is the marginal over the
    passages.

    Source: Lewis et al. 2020, figure 1 and §2.1.
    """
    ranking = BM25([words(" ".join(p)) for p in PASSAGES])
    model, question = RAG(ranking, SentenceReader(PASSAGES), k=2), [["dog", "birds", "sing"], ["cat", "sat"]]
    answer = model.generate(question)
    assert [model.generator.sentences[n] for n in answer.flatten().tolist()] == ["Birds sing.", "A cat sat."]
    prior = ranking.search(question, 2)[0].softmax(1)
    scores = bm25([words(s) for s in model.generator.sentences], ["dog", "birds", "sing"], 1.5, 0.75) / 2
    laws.assert_close((-model(question, answer)).exp()[0], prior[0, 0] * scores[1:3].softmax(0)[1])
    # "A dog ran." stands in both passages that are found: its probability is a sum of two.
    shared = prior[0, 0] * scores[1:3].softmax(0)[0] + prior[0, 1] * scores[:2].softmax(0)[1]
    laws.assert_close((-model(question[:1], torch.tensor([[1]]))).exp()[0], shared)


def test_a_retriever_is_trained_from_bare_passages():
    """Training reports ten falling losses, indexes every passage, and gives the same vectors again for the same seed.

    Of 20 passages 17 are found by two of their words; by chance it were one.

    Source: Lee et al. 2019, arXiv:1906.00300, "Inverse Cloze Task".
    """
    passages = [[f"w{n} x{n} y{n}.", f"w{n} z{n}.", f"v{n} x{n}."] for n in range(20)]
    vocabulary = Vocabulary([words(" ".join(p)) for p in passages])
    seen, found = [], []
    for seed in (1, 1, 2):
        retriever = train_retriever(
            passages, vocabulary, dim=8, steps=30, batch_size=10, seed=seed, report=lambda *a: seen.append(a)
        )
        found.append(retriever.index.vectors)
    assert [step for step, _ in seen[:10]] == list(range(3, 33, 3)) and seen[9][1] < 0.5 * seen[0][1]
    laws.assert_same(found[0], found[1])
    laws.assert_differs(found[0], found[2], by=1e-2)
    own = retriever.question_encoder.table, retriever.passage_encoder.table
    laws.assert_differs(*own, by=1e-2, what="encoder of questions against that of passages")
    assert len(retriever.index) == 20
    _, ids = retriever.search(vocabulary.encode([[f"x{n}", f"z{n}"] for n in range(20)]), 1)
    assert (ids[:, 0] == torch.arange(20)).float().mean() >= 0.6
