"""Properties of MoCo.  He, Fan, Wu, Xie & Girshick 2019, arXiv:1911.05722."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from impl.models.moco import MoCo, info_nce_loss
from spec import cost, laws
from spec.cases.moco import moco
from spec.laws import double, random
from spec.parallel import in_processes
from spec.strategies import floats, permutations, seeds, sizes

pytestmark = pytest.mark.item("moco")


def model(**options):
    """f is linear, 3 → 2, with weights at random, and f_k has others; a queue of 5; momentum ¾; τ = 0.4; evaluation."""
    settings = {"queue_size": 5, "momentum": 0.75, "temperature": 0.4} | options
    made = MoCo(nn.Linear(3, 2, bias=False), 2, **settings).double()
    for seed, encoder in enumerate((made.encoder_q, made.encoder_k)):
        encoder.weight.data.copy_(double(2, 3, seed=seed))
    made.queue.copy_(unit(double(settings["queue_size"], 2, seed=2)))
    return made.eval()


def unit(x):
    return x / x.square().sum(1, keepdim=True).sqrt()


@pytest.mark.states("equivalence")
@given(n=sizes(1, 4), seed=seeds())
def test_logits_are_cosines_with_the_own_key_and_the_queue(n, seed):
    """Column 0 is q·k₊/τ, the others q·k/τ for each key of the queue in its order; all vectors have length 1.

    Source: He et al. 2019, algorithm 1 and eq. 1.
    """
    made, x_q, x_k = model(), double(n, 3, seed=seed), double(n, 3, seed=seed + 1)
    q, k = unit(x_q @ made.encoder_q.weight.T), unit(x_k @ made.encoder_k.weight.T)
    expected = torch.cat([(q * k).sum(1, keepdim=True), q @ made.queue.T], dim=1) / 0.4
    laws.assert_close(made(x_q, x_k), expected)


@given(n=sizes(1, 4), candidates=sizes(1, 5), seed=seeds())
def test_loss_is_the_cross_entropy_of_column_zero(n, candidates, seed):
    """L = mean of −log softmax(logits)₀.

    Source: He et al. 2019, eq. 1: a K + 1-way classification of q as k₊.
    """
    logits = double(n, candidates, seed=seed)
    laws.gradients_match(info_nce_loss, lambda x: -x.softmax(1)[:, 0].log().mean(), logits)


@pytest.mark.states("limiting case")
def test_loss_of_a_guess_and_of_certainty():
    """Equal logits give ln(K + 1), 11.09 for the paper's 65,537 candidates; a positive far ahead gives 0.

    Source: He et al. 2019, eq. 1 and §4.1 (K = 65536).
    """
    laws.assert_close(info_nce_loss(torch.zeros(2, 65537).double()), torch.tensor(65537.0).double().log())
    logits = torch.tensor([[900.0, 0.0, 0.0]])
    laws.assert_close(info_nce_loss(logits), torch.tensor(0.0))
    laws.assert_close(info_nce_loss(-logits), torch.tensor(900.0 + 0.6931472))


@pytest.mark.states("symmetry")
@given(seed=seeds(), data=st.data())
def test_order_of_the_queue_and_of_the_queries_has_no_meaning(seed, data):
    """Permuting the queue keeps the loss; permuting the pairs permutes the rows of the logits.

    Source: He et al. 2019, eq. 1: a sum over the queue.
    """
    made, x_q, x_k = model(), double(3, 3, seed=seed), double(3, 3, seed=seed + 1)
    logits, order = made(x_q, x_k), data.draw(permutations(3))
    laws.assert_close(made(x_q[order], x_k[order]), logits[order])
    made.queue.copy_(made.queue[data.draw(permutations(5))])
    laws.assert_close(info_nce_loss(made(x_q, x_k)), info_nce_loss(logits))


@given(seed=seeds(), scale=floats(0.01, 100))
def test_length_of_an_embedding_has_no_meaning(seed, scale):
    """Encoders whose outputs are scaled give the same logits, and the queue the same keys of length 1.

    Source: He et al. 2019, §3.3: outputs are L2-normalised.
    """
    made, x_q, x_k = model(), double(2, 3, seed=seed), double(2, 3, seed=seed + 1)
    scaled = copy.deepcopy(made)
    for encoder in (scaled.encoder_q, scaled.encoder_k):
        encoder.weight.data.mul_(scale)
    laws.assert_close(scaled(x_q, x_k), made(x_q, x_k))
    scaled.train()(x_q, x_k)
    length = scaled.queue.square().sum(1)
    laws.assert_close(length, torch.ones_like(length))


def test_the_encoder_of_the_keys_begins_as_a_copy():
    """f_k has the values of f_q at first, no memory in common with it, and no gradients.

    Source: He et al. 2019, algorithm 1: f_k.params = f_q.params.
    """
    made = moco()
    for (name, of_q), of_k in zip(made.encoder_q.named_parameters(), made.encoder_k.parameters(), strict=True):
        laws.assert_same(of_k.detach(), of_q.detach(), what=name)
        assert of_k.data_ptr() != of_q.data_ptr(), f"expected memory of its own for {name}"
        assert not of_k.requires_grad, f"expected no gradient for f_k's {name}"


@given(momentum=st.sampled_from([0.0, 0.5, 0.99]), steps=sizes(1, 4))
def test_the_encoder_of_the_keys_follows_by_momentum(momentum, steps):
    """With θ_q at rest, θ_k is θ_q + mᵗ (θ_k⁰ − θ_q) after t calls in training: m is the share that stays.

    Source: He et al. 2019, eq. 2.
    """
    made = model(momentum=momentum).train()
    of_q, start = made.encoder_q.weight.detach().clone(), made.encoder_k.weight.detach().clone()
    for step in range(steps):
        made(double(2, 3, seed=step), double(2, 3, seed=step + 9))
    laws.assert_close(made.encoder_k.weight.detach(), of_q + momentum**steps * (start - of_q))
    laws.assert_same(made.encoder_q.weight.detach(), of_q)


def test_keys_come_from_the_encoder_after_its_step():
    """In training, the keys of a call are those of θ_k as it is after the call: first the step, then the keys.

    Source: He et al. 2019, algorithm 1 as released: the momentum update stands before the keys.
    """
    made, x_q, x_k = model().train(), double(2, 3), double(2, 3, seed=1)
    logits = made(x_q, x_k)
    q, k = unit(x_q @ made.encoder_q.weight.T), unit(x_k @ made.encoder_k.weight.T)
    laws.assert_close(logits[:, 0], (q * k).sum(1) / 0.4)


def test_a_call_in_training_sees_the_queue_as_it_was():
    """The keys of a call are not among its own negatives: the queue takes them in afterwards, in their order.

    Source: He et al. 2019, algorithm 1: enqueue after the update.
    """
    made, x_q, x_k = model().train(), double(2, 3), double(2, 3, seed=1)
    before = made.queue.clone()
    logits = made(x_q, x_k)
    q, k = unit(x_q @ made.encoder_q.weight.T), unit(x_k @ made.encoder_k.weight.T)
    laws.assert_close(logits[:, 1:], q @ before.T / 0.4)
    laws.assert_close(made.queue, torch.cat([k.detach(), before[2:]]))


@given(batches=st.lists(sizes(1, 5), min_size=1, max_size=6))
def test_queue_is_first_in_first_out(batches):
    """After any batches the queue's rows are the last K keys, each in the row after its predecessor, around the end.

    Row 0 is the first to be replaced. Batches need not divide K.

    Source: He et al. 2019, §3.2: the oldest are dequeued.
    """
    made, row = model(momentum=0.0).train(), 0
    expected = made.queue.clone()
    for seed, n in enumerate(batches):
        x = double(n, 3, seed=seed)
        made(x, x)
        for key in unit(x @ made.encoder_q.weight.T).detach():
            expected[row % 5] = key
            row += 1
    laws.assert_close(made.queue, expected)


def test_evaluation_moves_nothing():
    """In evaluation neither f_k nor the queue changes, and the next call in training goes on where the last ended.

    Source: He et al. 2019, algorithm 1 is training; a queue that is filled in validation is a reported mistake.
    """
    made, other = model().train(), model().train()
    x = [(double(2, 3, seed=s), double(2, 3, seed=s + 5)) for s in range(3)]
    for m in (made, other):
        m(*x[0])
    before = {name: value.clone() for name, value in made.state_dict().items()}
    made.eval()(*x[1])
    for name, value in made.state_dict().items():
        laws.assert_same(value, before[name], what=name)
    for m in (made, other):
        m.train()(*x[2])
    laws.assert_all_close(dict(made.state_dict()), dict(other.state_dict()))


def test_training_under_no_grad_moves_the_queue_as_well():
    """A call in training under no_grad changes f_k and the queue as one with gradients does.

    Source: this project: bookkeeping does not depend on whether gradients are recorded.
    """
    with_gradient, without = model().train(), model().train()
    x = double(2, 3), double(2, 3, seed=1)
    with_gradient(*x)
    with torch.no_grad():
        without(*x)
    laws.assert_all_close(dict(without.state_dict()), dict(with_gradient.state_dict()))


def test_queue_begins_with_random_vectors_of_length_one():
    """A fresh queue has K rows of length 1 in all directions.

    2,000 rows of 3 numbers: the mean row is within 5 standard errors of 0, 0.065 a number.

    Source: He et al. 2019, as released: a normalised normal sample.
    """
    torch.manual_seed(0)
    queue = MoCo(nn.Linear(3, 3), 3, queue_size=2000).queue
    assert queue.shape == (2000, 3) and not queue.requires_grad, f"expected (2000, 3), found {tuple(queue.shape)}"
    length = queue.square().sum(1)
    laws.assert_close(length, torch.ones_like(length))
    assert queue.mean(0).abs().max() < 0.065, f"expected all directions alike, found the mean {queue.mean(0)}"


@pytest.mark.states("gradient routing")
def test_only_the_queries_learn():
    """The loss reaches f_q and the first view; not f_k, not the second view, not the queue.

    Source: He et al. 2019, algorithm 1: k.detach().
    """
    made = laws.randomise(moco().double()).train()
    x_q, x_k = (double(2, 3, 4, seed=s).requires_grad_() for s in (0, 1))
    loss = info_nce_loss(made(x_q, x_k))
    laws.gradient_reaches(loss, {"x_q": x_q, **dict(made.encoder_q.named_parameters())}, {"x_k": x_k})
    loss.backward()
    for name, parameter in made.encoder_k.named_parameters():
        assert parameter.grad is None, f"expected no gradient for f_k's {name}"


@pytest.mark.states("dependence")
def test_gradient_is_that_of_constant_keys():
    """∂L/∂θ_q equals central differences with the keys held fixed, to the second order, also after the queue moved on.

    Source: He et al. 2019, §3.2: gradients do not go to the queue.
    """
    made = model()
    x_q, x_k = double(2, 3), double(2, 3, seed=1)
    laws.gradient_correct(lambda x: info_nce_loss(made(x, x_k)), x_q)
    (expected,) = torch.autograd.grad(info_nce_loss(made(x_q, x_k)), made.encoder_q.weight)
    made = model(momentum=0.0)
    made.encoder_k.weight.data.copy_(made.encoder_q.weight)
    first = info_nce_loss(made.train()(x_q, x_k))
    made(x_k, x_q)  # the queue moves between forward and backward
    (moved,) = torch.autograd.grad(first, made.encoder_q.weight)
    made = model(momentum=0.0)
    made.encoder_k.weight.data.copy_(made.encoder_q.weight)
    (still,) = torch.autograd.grad(info_nce_loss(made.train()(x_q, x_k)), made.encoder_q.weight)
    laws.assert_close(moved, still)
    laws.assert_differs(moved, expected, by=1e-6)  # another f_k


@pytest.mark.states("second derivative")
def test_loss_has_second_derivatives():
    """The gradient of the gradient of the queries' loss equals central differences.

    Source: the definition of the derivative.
    """
    made, x_k = model(), double(2, 3, seed=1)
    laws.gradient_correct(lambda x: info_nce_loss(made(x, x_k)), double(2, 3), second_order=True)


# ---------------------------------------------------------------------------------------------- splits


class Spy(nn.Module):
    """A batch normalization that notes which rows it saw together."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3, affine=False)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        self.__dict__.setdefault("seen", []).append(x.detach().clone())
        return self.scale * self.norm(x)


def test_keys_are_shuffled_over_the_splits_and_put_back():
    """With two splits the queries of 8 images go through in their halves, the keys in halves of a random order.

    Row i of the logits is query i with key i in any order: with an encoder that knows no batch the shuffle changes
    nothing.

    Source: He et al. 2019, §3.3: shuffling BN.
    """
    made = MoCo(Spy(), 3, queue_size=8, momentum=0.5, temperature=0.4, splits=2).double().train()
    x_q, x_k = double(8, 3), double(8, 3, seed=1)
    torch.manual_seed(1)
    logits = made(x_q, x_k)
    laws.assert_same(torch.cat(made.encoder_q.seen), x_q)
    assert [len(part) for part in made.encoder_k.seen] == [4, 4], "expected two halves of the keys"
    shuffled = torch.cat(made.encoder_k.seen)
    assert not torch.equal(shuffled, x_k), "expected the keys in another order"
    order = (shuffled[:, None] == x_k).all(2).double().argmax(1)
    laws.assert_same(order.sort().values, torch.arange(8))
    normed = torch.cat(
        [(part - part.mean(0)) / (part.var(0, correction=0) + 1e-5).sqrt() for part in made.encoder_k.seen]
    )
    k = unit(normed)[order.argsort()]
    q = unit(torch.cat([(p - p.mean(0)) / (p.var(0, correction=0) + 1e-5).sqrt() for p in made.encoder_q.seen]))
    laws.assert_close(logits[:, 0], (q * k).sum(1) / 0.4)
    plain, split = model(queue_size=8).train(), model(queue_size=8, splits=2).train()
    split.load_state_dict(plain.state_dict())
    laws.assert_close(split(x_q, x_k), plain(x_q, x_k))


# ---------------------------------------------------------------------------------------------- several processes


def test_two_processes_fill_one_queue():
    """The keys of both processes enter both queues, rank 0's first: the queues stay equal, and advance by all keys.

    Source: He et al. 2019, as released: keys are gathered before they enter the queue.
    """
    x_q, x_k = double(4, 3), double(4, 3, seed=1)

    def work(rank):
        made = model(momentum=0.0).train()
        rows = slice(2 * rank, 2 * rank + 2)
        made(x_q[rows], x_k[rows])
        made(x_k[rows][:1], x_q[rows][:1])
        return made.queue

    one = model(momentum=0.0).train()
    k = unit(torch.cat([x_k, x_q[[0, 2]]]) @ one.encoder_q.weight.T).detach()
    expected = torch.cat([k[5:], k[1:5]])  # the sixth key is in row 0 again
    for queue in in_processes(work):
        laws.assert_close(torch.from_numpy(queue), expected)


@pytest.mark.states("cost")
def test_negatives_cost_no_encoder():
    """A call takes two encoders' operations and one product of queries and queue: K adds 2·n·K·d and no key is encoded.

    Source: He et al. 2019, §3.2: the queue decouples the dictionary's size from the batch's.
    """
    encoder = 2 * (2 * 2 * 3 * 2)  # n = 2, 3 → 2, twice
    for k in (5, 50):
        made = MoCo(nn.Linear(3, 2, bias=False), 2, queue_size=k)
        found = cost.flops(made, random(2, 3), random(2, 3, seed=1))
        assert found == encoder + 2 * 2 * k * 2, f"expected {encoder + 8 * k} operations for K = {k}, found {found}"
