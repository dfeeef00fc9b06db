"""The table of tokens' vectors.  Bengio et al. 2003 (JMLR 3), §2."""

import pytest
import torch
from hypothesis import given
from torch import nn

from impl.layers.embedding import Embedding
from spec import laws
from spec.strategies import seeds, tokens

pytestmark = pytest.mark.item("positional-embedding")


@given(text=tokens(vocabulary=7), seed=seeds())
def test_looking_up_is_a_product_with_a_one_hot_vector(text, seed):
    """y_t = E[x_t] = onehot(x_t) E; the gradient of a row sums over the positions of its token.

    Source: Bengio et al. 2003, §2: C(i) is row i of the matrix C.
    """
    module = laws.randomise(Embedding(7, 5).double(), seed)
    one_hot = torch.eye(7, dtype=torch.float64)[text]
    laws.assert_close(module(text), one_hot @ module.weight)
    cotangent = torch.randn(*text.shape, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    (grad,) = torch.autograd.grad(module(text), module.weight, cotangent)
    laws.assert_close(grad, torch.einsum("btv,btd->vd", one_hot, cotangent))


def test_token_ids_of_any_shape_are_looked_up():
    """Token ids of shape (), (3,) or (2, 3, 4), int64 or int32, give vectors of that shape.

    Convention: torch.nn.Embedding.
    """
    module = Embedding(7, 5)
    ids = torch.arange(24).remainder(7).reshape(2, 3, 4)
    laws.assert_same(module(ids)[1, 2], module(ids[1, 2]))
    laws.assert_same(module(ids)[1, 2, 3], module(ids[1, 2, 3]))
    laws.assert_same(module(ids.int()), module(ids))


@pytest.mark.states("gradient routing")
def test_the_padding_vector_is_zero_and_stays_so():
    """The row of padding_idx is initialised to 0 and gets no gradient, other rows do; without it no row is special.

    Convention: torch.nn.Embedding.
    """
    laws.reseed(3)
    module = Embedding(7, 5, padding_idx=2)
    laws.assert_same(module.weight[2].detach(), torch.zeros(5))
    text = torch.tensor([[2, 4, 2], [1, 2, 4]])
    (grad,) = torch.autograd.grad(module(text).sum(), module.weight)
    expected = torch.zeros(7, 5)
    expected[1], expected[4] = 1, 2
    laws.assert_same(grad, expected)
    plain = Embedding(7, 5)
    (grad,) = torch.autograd.grad(plain(text).sum(), plain.weight)
    assert (grad[2] == 3).all() and (plain.weight != 0).all(), "expected no special row without padding"
    first = Embedding(7, 5, padding_idx=0)
    assert not first.weight[0].any() and not torch.autograd.grad(first(text * 0).sum(), first.weight)[0].any()


def test_ids_outside_of_the_table_raise():
    """A negative id or num_embeddings itself raises IndexError: −1 is not the last row.

    Convention: torch.nn.Embedding; an index in brackets would count from the end.
    """
    module = Embedding(7, 5)
    assert module(torch.tensor([0, 6])).shape == (2, 5)
    for token in (-1, 7):
        with pytest.raises(IndexError):
            module(torch.tensor([0, token]))


def test_vectors_are_initialised_standard_normal():
    """Elements are initialised as N(0, 1): of 30,000, mean within ±0.023 and standard deviation within 1 ± 0.02.

    Of right code one sample in 15,000 is refused: both bounds are at four standard errors or more.

    Convention: torch.nn.Embedding.
    """
    laws.reseed(0)
    weight = Embedding(100, 300).weight.detach().double()
    assert abs(weight.mean().item()) < 0.023 and abs(weight.std().item() - 1) < 0.02, f"found {weight.std():.4f}"


def test_state_moves_to_and_from_torch():
    """State dicts of torch.nn.Embedding and of this table are the same, and so are outputs and gradients.

    Convention: torch.nn.Embedding(num_embeddings, embedding_dim, padding_idx).
    """
    ours, theirs, text = (
        Embedding(7, 5, 3).double(),
        nn.Embedding(7, 5, 3).double(),
        torch.tensor([[1, 3, 6], [3, 0, 6]]),
    )
    for source, target in ((ours, theirs), (theirs, ours)):
        laws.randomise(source, seed=int(source is ours))
        target.load_state_dict(source.state_dict())
        laws.gradients_match(ours, theirs, text)
