"""Golden values of retrieval-augmented generation: transformers' marginals, rank_bm25, faiss, torch's cross-entropy.

transformers' RAG-Sequence adds log p_η at the second symbol, so answers here have two at least. rank_bm25 has another
idf; it is given Lucene's, and its own frequencies, lengths and sums are what is compared.
"""

import numpy as np

from spec.golden import Recipe, recipe

B, K, T, V = 3, 4, 5, 6
LENGTHS = (5, 2, 3)
K1, B_LENGTH = 1.2, 0.75


def _marginals(recipe, rng):
    from types import SimpleNamespace

    import jax
    import jax.numpy as jnp
    import torch
    from transformers import RagSequenceForGeneration, RagTokenForGeneration

    scores = recipe.given("scores", 2 * rng.normal(size=(B, K)))
    logits = recipe.given("logits", 2 * rng.normal(size=(B, K, T, V)))
    target = recipe.given("target", rng.integers(1, V, size=(B, T)))
    mask = recipe.given("mask", np.arange(T)[None] < np.array(LENGTHS)[:, None])

    # Their target begins with a start token and is shifted; 0 is padding; so there is one position more.
    padded = torch.from_numpy(np.concatenate([np.full((B, 1), 1), np.where(mask, target, 0)], axis=1))
    generator = SimpleNamespace(pad_token_id=0, bos_token_id=None)
    config = SimpleNamespace(n_docs=K, bos_token_id=None, generator=generator)

    def second(kind):
        def nll(s, l):
            prior, probs = jax.nn.softmax(s, axis=1), jax.nn.softmax(l, axis=3)
            of_target = jnp.take_along_axis(probs, jnp.asarray(target)[:, None, :, None], axis=3)[..., 0]
            of_target = jnp.where(mask[:, None], of_target, 1.0)
            if kind == "sequence":
                return -jnp.log(jnp.sum(prior * jnp.prod(of_target, axis=2), axis=1))
            return -jnp.log(jnp.prod(jnp.einsum("bk,bkt->bt", prior, of_target), axis=1))

        return nll

    for kind, library in (("sequence", RagSequenceForGeneration), ("token", RagTokenForGeneration)):
        model = SimpleNamespace(config=config)
        model.marginalize = lambda *arguments, model=model: RagTokenForGeneration.marginalize(model, *arguments)
        leaves = [torch.from_numpy(t).requires_grad_() for t in (scores, logits)]
        more = torch.cat([leaves[1], torch.zeros(B, K, 1, V, dtype=torch.float64)], dim=2)
        loss = library.get_nll(model, more.flatten(0, 1), leaves[0], padded)
        slopes = torch.autograd.grad(loss.sum(), leaves)
        counterpart = second(kind)
        of_scores, of_logits = jax.grad(lambda s, l, counterpart=counterpart: counterpart(s, l).sum(), argnums=(0, 1))(
            scores, logits
        )
        recipe.expect(f"nll_{kind}", loss, second=counterpart(scores, logits))
        recipe.expect(f"slope_scores_{kind}", slopes[0], second=of_scores)
        recipe.expect(f"slope_logits_{kind}", slopes[1], second=of_logits)


def _ranking(recipe, rng):
    """BM25 of documents of numbers from 1, padded with 0."""
    import mpmath
    from rank_bm25 import BM25Okapi

    lengths = rng.integers(3, 25, size=14)
    rows = [1 + rng.zipf(1.6, size=n) % 12 for n in lengths]
    corpus = recipe.given("corpus", np.stack([np.pad(row, (0, 25 - len(row))) for row in rows]))
    queries = recipe.given("queries", np.array([[1, 5, 9], [2, 2, 11], [12, 3, 99]]))
    documents = [[int(w) for w in row if w] for row in corpus]
    count = len(documents)
    found = {w: sum(w in d for d in documents) for d in documents for w in d}

    def idf(word):
        return mpmath.log(1 + (count - found[word] + mpmath.mpf(1) / 2) / (found[word] + mpmath.mpf(1) / 2))

    ranking = BM25Okapi(documents, k1=K1, b=B_LENGTH)
    ranking.idf = {word: float(idf(word)) for word in found}
    average = mpmath.mpf(sum(map(len, documents))) / count
    by_hand = []
    for query in queries.tolist():
        by_hand.append([])
        for d in documents:
            parts = []
            for word in query:
                f, length = d.count(word), mpmath.mpf("0.25") + mpmath.mpf("0.75") * len(d) / average
                parts.append(idf(word) * f * mpmath.mpf("2.2") / (f + mpmath.mpf("1.2") * length) if f else 0)
            by_hand[-1].append(float(mpmath.fsum(parts)))
    scores = np.stack([ranking.get_scores(query) for query in queries.tolist()])
    recipe.expect("bm25", scores, second=np.array(by_hand))


def _index(recipe, rng):
    import faiss

    vectors = recipe.given("vectors", rng.normal(size=(40, 7)).astype(np.float32))
    questions = recipe.given("questions", rng.normal(size=(3, 7)).astype(np.float32))
    for metric in ("ip", "cosine"):
        x, q = (t.copy() for t in (vectors, questions))
        if metric == "cosine":
            faiss.normalize_L2(x)
            faiss.normalize_L2(q)
        index = faiss.IndexFlatIP(7)
        index.add(x)
        scores, ids = index.search(q, 6)
        exact = [t.astype(np.float64) for t in (vectors, questions)]
        if metric == "cosine":
            exact = [t / np.linalg.norm(t, axis=1, keepdims=True) for t in exact]
        every = exact[1] @ exact[0].T
        order = np.argsort(-every, axis=1)[:, :6]
        recipe.expect(f"ids_{metric}", ids, second=order)
        recipe.expect(f"scores_{metric}", scores, second=np.take_along_axis(every, order, 1).astype(np.float32))


def _contrast(recipe, rng):
    import jax
    import torch

    for name, shape in (("square", (4, 4)), ("wide", (3, 7))):
        scores = recipe.given(f"sim_{name}", 2 * rng.normal(size=shape))
        leaf, own = torch.from_numpy(scores).requires_grad_(), np.arange(shape[0])
        loss = torch.nn.functional.cross_entropy(leaf, torch.from_numpy(own))
        (slope,) = torch.autograd.grad(loss, leaf)

        def second(s, own=own):
            p = jax.numpy.exp(s)
            return -jax.numpy.log(p[own, own] / p.sum(1)).mean()

        recipe.expect(f"dpr_{name}", loss, second=second(scores))
        recipe.expect(f"slope_dpr_{name}", slope, second=jax.grad(second)(scores))


@recipe(
    "rag",
    oracle="transformers RagSequence/RagTokenForGeneration, rank_bm25.BM25Okapi, faiss.IndexFlatIP, cross_entropy",
    second="products of probabilities and their gradients in jax; BM25 in mpmath; the search in float64 NumPy",
    needs=("torch", "transformers", "rank-bm25", "faiss-cpu", "jax", "mpmath"),
)
def rag(recipe: Recipe) -> None:
    import jax

    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    for part in (_marginals, _ranking, _index, _contrast):
        part(recipe, rng)
