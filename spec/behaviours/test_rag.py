"""Finding passages of the Python manual, and a retriever that learns from answers alone."""

from collections import Counter
from functools import cache
from pydoc_data.topics import topics

import pytest
import torch
from torch import nn

from impl.models.rag import (
    BM25,
    RAG,
    DenseRetriever,
    SentenceReader,
    Vocabulary,
    chunk,
    sentences,
    train_retriever,
    words,
)
from spec.laws import reseed

pytestmark = pytest.mark.item("rag")


@cache
def excerpts(seed=0):
    """The manual's topics, each long one with twelve consecutive words cut out; those excerpts, and their topics'
    indices."""
    generator = torch.Generator().manual_seed(seed)
    corpus, queries, own = [], [], []
    for n, name in enumerate(sorted(topics)):
        document = words(topics[name])
        if len(document) >= 80:
            start = int(torch.randint(len(document) - 12, (1,), generator=generator))
            queries.append(document[start : start + 12])
            own.append(n)
            document = document[:start] + document[start + 12 :]
        corpus.append(document)
    return corpus, queries, torch.tensor(own)


def found_by_bm25(seed=0, **settings):
    corpus, queries, own = excerpts(seed)
    _, ids = BM25(corpus, **settings).search(queries, 1)
    return (ids[:, 0] == own).float().mean().item()


def found_by_counting(seed=0):
    """The fraction of excerpts whose topic holds the query's words most often."""
    corpus, queries, own = excerpts(seed)
    counts = [Counter(document) for document in corpus]
    scores = torch.tensor([[sum(c[w] for w in query) for c in counts] for query in queries])
    return (scores.argmax(1) == own).float().mean().item()


def facts(seed):
    """24 passages, each with one of 8 answers that the reader knows; a question is a noisy name of a passage."""
    generator = torch.Generator().manual_seed(seed)
    answer = torch.randint(8, (24,), generator=generator)
    passages, names = (nn.functional.normalize(torch.randn(24, 16, generator=generator), dim=1) for _ in range(2))
    return passages, names, answer


class Reader(nn.Module):
    """Frozen: given a passage, it answers with its answer with probability e⁶/(e⁶ + 7)."""

    def __init__(self, answer):
        super().__init__()
        self.log_probs = (6 * nn.functional.one_hot(answer, 8).float()).log_softmax(1)

    def forward(self, questions, passages, target):
        return self.log_probs[passages][:, :, None]


def mass_on_right_passages(model, names, answer):
    """Of p_η, averaged over questions."""
    with torch.no_grad():
        scores, ids = model.retriever.search(names, 24)
        return (scores.softmax(1) * (answer[ids] == answer[:, None])).sum(1).mean().item()


def learned_from_answers(seed=0, steps=300, marginal="sequence"):
    """The mass before and after."""
    passages, names, answer = facts(seed)
    reseed(seed)
    encoder = nn.Linear(16, 16, bias=False)
    retriever = DenseRetriever(encoder, nn.Identity(), 16).index_passages(8 * passages)
    model = RAG(retriever, Reader(answer), k=24, marginal=marginal)
    before = mass_on_right_passages(model, names, answer)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=2e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(names, answer[:, None]).mean().backward()
        optimizer.step()
    return before, mass_on_right_passages(model, names, answer)


@cache
def cloze():
    """153 passages of four sentences of the manual, and the fifth of each, which was cut out, as a question."""
    generator = torch.Generator().manual_seed(0)
    passages, questions = [], []
    every = [p for name in sorted(topics) for p in chunk([s for s in sentences(topics[name]) if len(words(s)) > 7], 5)]
    for passage in [p for p in every if len(p) == 5][::4]:
        out = int(torch.randint(5, (1,), generator=generator))
        questions.append(words(passage[out]))
        passages.append(passage[:out] + passage[out + 1 :])
    return passages, questions


def among_the_best_five(steps, seed=0):
    """The fraction of held-out sentences whose passage is among the best five, and the number of passages."""
    passages, questions = cloze()
    vocabulary = Vocabulary([words(" ".join(p)) for p in passages])
    retriever = train_retriever(passages, vocabulary, dim=32, steps=steps, batch_size=32, seed=seed)
    _, ids = retriever.search(vocabulary.encode(questions), 5)
    return (ids == torch.arange(len(passages))[:, None]).any(1).float().mean().item(), len(passages)


# Question → words that its answer in the manual has; three were made stricter and one question reworded after a first
# run, which had nine right.
QUESTIONS = {
    "Which method is called to create a new instance of a class?": "called to create a new instance",
    "How are default parameter values evaluated?": "from left to right",
    "What is the value of the conditional expression if it is true?": "is evaluated and its value is returned",
    "When is the finally clause executed?": '"finally" clause is',
    "What does the pass statement do when it is executed?": "nothing happens",
    "Which operator has the lowest precedence?": "lowest precedence",
    "When is a break statement allowed?": "nested in a",
    "What is raised when a name is not found at all?": "nameerror",
    "What does the lambda expression yield?": "yields a function object",
    "What must the object after from in a raise statement be?": "must be another exception",
    "Is the empty string true or false?": "empty sequences",
    "Does the continue statement go on with the next cycle of the loop?": "next cycle",
}


@cache
def manual():
    """Passages of six sentences of a topic, of which the first two end the passage before."""
    found = []
    for name in sorted(topics):
        found += chunk([s for s in sentences(topics[name]) if len(words(s)) >= 6], 6, 2)
    return found


def answered(k=5, shuffled=False):
    """The fraction of the questions whose answer has the words; with `shuffled`, from passages retrieved for others."""
    passages = manual()
    ranking, reader = BM25([words(" ".join(p)) for p in passages]), SentenceReader(passages)
    asked = [words(question) for question in QUESTIONS]

    class Elsewhere:
        def search(self, questions, k):
            return [t.flip(0) for t in ranking.search(questions, k)]

    model = RAG(Elsewhere() if shuffled else ranking, reader, k)
    said = [reader.sentences[n].lower() for n in model.generate(asked).flatten().tolist()]
    return sum(phrase in sentence for phrase, sentence in zip(QUESTIONS.values(), said)) / len(said)


def test_rare_words_and_lengths_find_the_source_of_an_excerpt():
    """BM25 finds the topic of the manual, among 79, from which twelve words were cut out, in at least a quarter of the
    cases.

    Measured: 31.9 to 44.9 % right; 11.6 to 18.8 % with b = 0, where long topics win; 1.4 to 4.3 % by counting words
    (4 seeds; 44.9, 18.8 and 2.9 in the one that runs).

    Source: Robertson & Zaragoza 2009, §3.4: idf, saturation and length normalisation each matter.
    """
    found, flat, counted = found_by_bm25(), found_by_bm25(b=0.0), found_by_counting()
    assert found >= 0.25, f"expected at least a quarter, found {found:.3f}"
    assert flat <= 0.25 and counted <= 0.08, f"expected 0.25 and 0.08 at most, found {flat:.3f} and {counted:.3f}"
    assert found_by_bm25(k1=0.0) < found


@pytest.mark.parametrize("marginal", ["sequence", "token"])
def test_the_retriever_learns_from_answers_alone(marginal):
    """Trained by −log p(y|x) of a frozen reader alone, p_η moves onto the passages that hold the answer.

    Measured: of p_η on right passages 0.12 to 0.17 before and 0.9975 to 0.9981 after 300 steps (6 seeds); a retriever
    whose scores are cut from the graph stays where it was. A reader that learns too may agree with the retriever on a
    code of its own, so that is not asked.

    Source: Lewis et al. 2020, §2.4: "without any direct supervision on what document should be retrieved".
    """
    before, after = learned_from_answers(marginal=marginal)
    assert before <= 0.3 and after >= 0.9, f"expected from 0.3 or less to 0.9 or more, found {before}, {after}"


def test_two_encoders_learn_to_find_passages():
    """After 100 steps of the inverse cloze task a held-out sentence finds its passage, which lacks it, among the best
    five.

    Measured: 54.2 to 58.8 % of 153 sentences, 18.3 to 20.3 % before training, where both encoders are one bag of words
    (4 seeds); five of 153 drawn at random are 3.3 %.

    Source: Karpukhin et al. 2020, §3.2; Lee et al. 2019, arXiv:1906.00300, "Inverse Cloze Task".
    """
    after, count = among_the_best_five(100)
    before, _ = among_the_best_five(0)
    assert count == 153 and before < 0.3
    assert after >= 0.45, f"expected at least 45 %, found {after:.3f}"


def test_the_manual_answers_questions():
    """Of twelve questions to the Python manual at least half are answered by a sentence with the right words.

    Measured: 8 of 12; none where each question gets the passages of another.

    Source: Lewis et al. 2020, §2.1: what is generated depends on the question and on what was found for it.
    """
    assert answered() >= 0.5, f"expected half of the answers, found {answered():.2f}"
    assert answered(shuffled=True) <= 0.1
