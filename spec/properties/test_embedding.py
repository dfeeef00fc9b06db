"""The table of symbols' vectors.  Bengio et al. 2003 (JMLR 3), §2."""

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
    """y_t = E[x_t] = onehot(x_t) E; the gradient of a row sums over the places where its symbol stands.

    Source: Bengio et al. 2003, §2: C(i) is row i of the matrix C.
    """
    module = laws.randomise(Embedding(7, 5).double(), seed)
    one_hot = torch.eye(7, dtype=torch.float64)[text]
    laws.assert_close(module(text), one_hot @ module.weight)
    cotangent = torch.randn(*text.shape, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    (grad,) = torch.autograd.grad(module(text), module.weight, cotangent)
    laws.assert_close(grad, torch.einsum("btv,btd->vd", one_hot, cotangent))


def test_any_shape_of_symbols_is_looked_up():
    """Symbols of shape (), (3,) or (2, 3, 4) give vectors of that shape; int32 will do.

    Convention: torch.nn.Embedding.
    """
    module = Embedding(7, 5)
    symbols = torch.arange(24).remainder(7).reshape(2, 3, 4)
    laws.assert_same(module(symbols)[1, 2], module(symbols[1, 2]))
    laws.assert_same(module(symbols)[1, 2, 3], module(symbols[1, 2, 3]))
    laws.assert_same(module(symbols.int()), module(symbols))


def test_the_padding_symbol_is_zero_and_stays_so():
    """The row of padding_idx starts at 0 and gets no gradient, others in the text do; without it no row is special.

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


def test_numbers_outside_of_the_table_are_no_symbols():
    """A negative number or one of num_embeddings raises IndexError: −1 is not the last symbol.

    Convention: torch.nn.Embedding; an index in brackets would count from the end.
    """
    module = Embedding(7, 5)
    assert module(torch.tensor([0, 6])).shape == (2, 5)
    for symbol in (-1, 7):
        with pytest.raises(IndexError):
            module(torch.tensor([0, symbol]))


def test_vectors_start_standard_normal():
    """Every number starts as N(0, 1): 30,000 of them, mean ±0.023 and deviation ±0.016 at 4 σ.

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
