"""Properties of SimCLR.  Chen, Kornblith, Norouzi & Hinton 2020, arXiv:2002.05709."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from impl.models.simclr import SimCLR, gather_embeddings, nt_xent_loss, random_crop, random_shades
from spec import cost, laws
from spec.cases.simclr import simclr
from spec.laws import double, random
from spec.parallel import in_processes
from spec.strategies import floats, images, permutations, seeds, sizes

pytestmark = pytest.mark.item("simclr")


def views(n=4, d=3, seed=0):
    return double(n, d, seed=seed), double(n, d, seed=seed + 1)


def by_loops(first, second, temperature):
    """Eq. 1 for each of the 2N views, one after another, with cosines by hand."""
    z, n = torch.cat([first, second]), len(first)

    def similarity(a, b):
        return (a @ b) / (a @ a).sqrt() / (b @ b).sqrt()

    total = 0
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        others = sum((similarity(z[i], z[k]) / temperature).exp() for k in range(2 * n) if k != i)
        total = total - similarity(z[i], z[j]) / temperature + others.log()
    return total / (2 * n)


@pytest.mark.states("equivalence")
@given(n=sizes(1, 4), d=sizes(2, 4), seed=seeds(), temperature=floats(0.2, 3))
def test_loss_is_equation_one_for_each_view(n, d, seed, temperature):
    """L = 1/2N Σ_i −log exp(s_ij/τ) / Σ_{k≠i} exp(s_ik/τ), s the cosine, j the other view of i's image.

    The sum has the positive and 2N − 2 negatives, and leaves out i itself.

    Source: Chen et al. 2020, eq. 1 and algorithm 1.
    """
    first, second = views(n, d, seed)
    laws.gradients_match(
        lambda a, b: nt_xent_loss(a, b, temperature), lambda a, b: by_loops(a, b, temperature), first, second
    )


@pytest.mark.states("limiting case")
@given(n=sizes(1, 6), temperature=floats(0.1, 3))
def test_loss_of_views_that_are_all_alike(n, temperature):
    """Where all 2N views are one vector the loss is ln(2N − 1): a guess among 2N − 1 others.

    Source: Chen et al. 2020, eq. 1.
    """
    same = double(1, 3).expand(n, 3)
    expected = torch.tensor(2 * n - 1, dtype=torch.float64).log()
    laws.assert_close(nt_xent_loss(same, same, temperature), expected)


@given(seed=seeds())
def test_one_pair_alone_has_no_loss(seed):
    """With N = 1 there is no negative and the loss is 0, for any two views.

    Source: Chen et al. 2020, eq. 1: the positive is the only term of the sum.
    """
    first, second = views(1, 3, seed)
    laws.assert_close(nt_xent_loss(first, second, 0.3), torch.zeros((), dtype=torch.float64), atol=1e-12)


@given(temperature=floats(0.1, 2))
def test_loss_of_perfect_pairs_that_are_orthogonal(temperature):
    """N orthonormal images whose views agree have the loss ln(1 + (2N − 2) e^(−1/τ)); for N = 4, τ = ½ 0.5944.

    Source: Chen et al. 2020, eq. 1.
    """
    same = torch.eye(4, dtype=torch.float64)
    expected = (6 * torch.tensor(-1 / temperature, dtype=torch.float64).exp()).log1p()
    laws.assert_close(nt_xent_loss(same, same, temperature), expected)


@pytest.mark.states("symmetry")
@given(n=sizes(2, 4), seed=seeds(), data=st.data())
def test_order_of_pairs_and_of_views_has_no_meaning(n, seed, data):
    """Permuting the pairs, exchanging all first with all second views, or those of one image, keeps the loss.

    Source: Chen et al. 2020, algorithm 1: both orders of each pair count.
    """
    first, second = views(n, 3, seed)
    expected, order = nt_xent_loss(first, second), data.draw(permutations(n))
    laws.assert_close(nt_xent_loss(first[order], second[order]), expected)
    laws.assert_close(nt_xent_loss(second, first), expected)
    mixed, other = first.clone(), second.clone()
    mixed[0], other[0] = second[0], first[0]
    laws.assert_close(nt_xent_loss(mixed, other), expected)


@given(seed=seeds(), scales=st.lists(floats(0.01, 100), min_size=8, max_size=8))
def test_length_of_an_embedding_has_no_meaning(seed, scales):
    """Each of the vectors may be scaled by itself: the loss knows angles alone, and no gradient is along a vector.

    Source: Chen et al. 2020, algorithm 1: s is the cosine.
    """
    first, second = (t.requires_grad_() for t in views(4, 3, seed))
    factors = torch.tensor(scales, dtype=torch.float64)[:, None]
    loss = nt_xent_loss(first, second)
    laws.assert_close(nt_xent_loss(first * factors[:4], second * factors[4:]), loss)
    for z, gradient in zip((first, second), torch.autograd.grad(loss, (first, second))):
        laws.assert_close((z * gradient).sum(1), torch.zeros(4, dtype=torch.float64))


@given(seed=seeds())
def test_rotation_of_all_embeddings_keeps_the_loss(seed):
    """An orthogonal matrix on all vectors changes nothing; permuting the numbers of only some of them does.

    Source: Chen et al. 2020, algorithm 1.
    """
    first, second = views(4, 3, seed)
    rotation = torch.linalg.qr(double(3, 3, seed=seed + 2)).Q
    laws.assert_close(nt_xent_loss(first @ rotation, second @ rotation), nt_xent_loss(first, second))
    laws.assert_differs(nt_xent_loss(first.roll(1, 1), second), nt_xent_loss(first, second), by=1e-9)


@pytest.mark.states("dependence")
def test_every_pair_is_a_negative_of_every_other():
    """Each of the 2N views gets a gradient from the loss, and each moves the gradient of each other.

    Source: Chen et al. 2020, §2.1: the other 2(N − 1) views within a minibatch are negatives.
    """
    z = double(6, 3)
    second = torch.autograd.functional.hessian(lambda z: nt_xent_loss(z[:3], z[3:], 0.7), z)
    size = second.abs().amax((1, 3))
    assert (size > 1e-6).all(), f"expected every view to matter to every other, found {size}"


def test_a_temperature_far_below_one_is_finite():
    """τ = 0.001 in float32, where exp(1/τ) has no value, gives 0 for separate pairs and a finite loss and gradient.

    Source: Chen et al. 2020, eq. 1; logsumexp.
    """
    same = torch.eye(4)
    laws.assert_close(nt_xent_loss(same, same, 1e-3), torch.tensor(0.0))
    first, second = random(4, 3).requires_grad_(), random(4, 3, seed=1)
    loss = nt_xent_loss(first, second, 1e-3)
    (gradient,) = torch.autograd.grad(loss, first)
    assert loss.isfinite() and gradient.isfinite().all(), f"expected finite numbers, found {loss} and {gradient}"
    exact = nt_xent_loss(first.detach().double(), second.double(), 1e-3)
    laws.assert_close(loss.detach().double(), exact, rtol=1e-4, because="float32, cosines times 1000")


def test_half_precision_is_computed_in_float32():
    """bfloat16 and float16 embeddings, also of length 300, whose squares float16 does not have, give a float32 loss.

    Source: this project: reductions of half precision in float32.
    Convention: the loss comes in float32 or wider, as torch's autocast has cross_entropy.
    """
    first, second = views(4, 3)
    for dtype in (torch.bfloat16, torch.float16):
        a, b = (300 * first).to(dtype), (300 * second).to(dtype)
        found = nt_xent_loss(a, b)
        assert found.dtype == torch.float32, f"expected float32, found {found.dtype}"
        laws.assert_close(found.double(), nt_xent_loss(a.double(), b.double()), rtol=1e-5, because="float32")


def test_a_vector_of_zeros_has_a_cosine_of_zero():
    """An embedding that is 0 has similarity 0 to all: finite loss, finite gradients.

    Source: Chen et al. 2020, algorithm 1.  Convention: 0/‖0‖ is 0.
    """
    first, second = views(3, 4)
    first[1] = 0
    first.requires_grad_()
    loss = nt_xent_loss(first, second)
    (gradient,) = torch.autograd.grad(loss, first)
    assert loss.isfinite() and gradient.isfinite().all(), f"expected finite numbers, found {loss} and {gradient}"


@given(seed=seeds())
def test_gradient_weighs_negatives_by_their_softmax(seed):
    """∂ℓ_i/∂s_ik = softmax of the 2N − 1 others at k, over τ, less 1/τ for the positive: hard negatives pull most.

    Source: Chen et al. 2020, §5.1 and table 2: gradients of NT-Xent.
    """
    angles = double(6, seed=seed)
    z = torch.stack([angles.cos(), angles.sin()], dim=1)  # unit vectors: the gradient to z is that to s, projected
    z.requires_grad_()
    (found,) = torch.autograd.grad(nt_xent_loss(z[:3], z[3:], 0.4), z)
    s = (z @ z.T).detach()
    weights = (s / 0.4).masked_fill(torch.eye(6, dtype=torch.bool), -torch.inf).softmax(1)
    weights = (weights - torch.eye(6).roll(3, 1)) / 0.4 / 6
    of_z = (weights + weights.T) @ z.detach()
    laws.assert_close(found, of_z - (of_z * z.detach()).sum(1, keepdim=True) * z.detach())


# ---------------------------------------------------------------------------------------------- the model


def test_projection_is_a_hidden_layer_of_the_features_width():
    """z = W₂ ReLU(W₁ h + b₁) + b₂ with W₁ of features × features: 2 matrices, one ReLU, h itself untouched.

    From 2048 features to 128: 4,458,624 numbers besides the encoder's.

    Source: Chen et al. 2020, §2.1: g(h) = W⁽²⁾ σ(W⁽¹⁾ h).
    Convention: with biases.
    """
    with torch.device("meta"):
        model = SimCLR(nn.Identity(), 2048, 128)
    found = sum(p.numel() for p in model.parameters())
    assert found == 2048 * 2048 + 2048 + 2048 * 128 + 128, f"expected 4,458,624 numbers, found {found}"
    model = SimCLR(nn.Identity(), 3, 2).double()
    shapes = sorted(tuple(p.shape) for p in model.parameters())
    assert shapes == [(2,), (2, 3), (3,), (3, 3)], f"expected two matrices and two biases, found {shapes}"
    first, second = (p for p in model.parameters() if p.dim() == 2)
    bias = next(p for p in model.parameters() if p.shape == (3,))
    last = next(p for p in model.parameters() if p.shape == (2,))
    first, second = (first, second) if len(first) == 3 else (second, first)
    x = double(5, 3)
    h, z = model(x)
    laws.assert_same(h, x)
    laws.assert_close(z, (x @ first.T + bias).relu() @ second.T + last)


def test_model_loss_is_that_of_its_projections():
    """`loss` of two views is nt_xent_loss of their z, with the temperature that was given; both are one batch.

    The encoder has a batch normalization: it sees the 2N views together, as algorithm 1 does.

    Source: Chen et al. 2020, algorithm 1.
    """
    torch.manual_seed(0)
    model = SimCLR(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)), 5, 3).double().train()
    first, second = views(4, 4)
    z = model(torch.cat([first, second]))[1]
    laws.assert_close(model.loss(first, second, temperature=0.3), nt_xent_loss(z[:4], z[4:], 0.3))
    laws.assert_close(model.loss(first, second), nt_xent_loss(z[:4], z[4:], 0.5))


@pytest.mark.states("gradient routing")
def test_loss_trains_encoder_and_projection_by_both_views():
    """The loss reaches every parameter of encoder and projection, and both views.

    Source: Chen et al. 2020, algorithm 1: no stop-gradient.
    """
    model = laws.randomise(simclr().double())
    first, second = (double(3, 3, 4, seed=s).requires_grad_() for s in (0, 1))
    laws.gradient_reaches(
        model.loss(first, second), {"first": first, "second": second, **dict(model.named_parameters())}
    )


@pytest.mark.states("second derivative")
def test_loss_has_second_derivatives():
    """The gradient of the gradient equals central differences.

    Source: the definition of the derivative.
    """
    laws.gradient_correct(lambda a, b: nt_xent_loss(a, b, 0.7), *views(3, 3), second_order=True)


@pytest.mark.states("cost")
def test_loss_is_one_product_of_all_pairs():
    """2N views of width d take one product of (2N, d) and (d, 2N): 2·(2N)²·d operations.

    Source: Chen et al. 2020, algorithm 1: all pairwise similarities.
    """
    found = cost.flops(nt_xent_loss, random(6, 5), random(6, 5, seed=1))
    assert found == 2 * 12 * 12 * 5, f"expected 1440 operations, found {found}"


# ---------------------------------------------------------------------------------------------- several processes


def test_gathered_rows_come_in_the_order_of_the_ranks():
    """Each of two processes gets the rows of both, rank 0's first; the gradient of a row sums what both losses say.

    Process r weighs the sum of all rows by r + 1: each row's gradient is 1 + 2 in both.

    Source: Chen et al. 2020, §2.2: all positives and negatives across devices.
    """

    def work(rank):
        x = (torch.arange(6.0).view(3, 2) + 10 * rank).requires_grad_()
        rows = gather_embeddings(x)
        (gradient,) = torch.autograd.grad(((rank + 1) * rows).sum(), x)
        return rows, gradient

    alone = torch.arange(6.0).view(3, 2)
    laws.assert_same(gather_embeddings(alone), alone)
    expected = torch.cat([alone, alone + 10])
    for rows, gradient in in_processes(work):
        laws.assert_same(torch.from_numpy(rows), expected)
        laws.assert_same(torch.from_numpy(gradient), torch.full((3, 2), 3.0))


def test_two_processes_train_as_one_with_the_whole_batch():
    """The loss of two processes with half the images each is that of one with all; so are the averaged gradients.

    Without gathering each process would have N/2 images' negatives, and another loss.

    Source: Chen et al. 2020, §2.2: large batches over many devices.
    """
    first, second = double(6, 3, 4), double(6, 3, 4, seed=1)

    def gradients(model, rows):
        loss = model.loss(first[rows], second[rows], temperature=0.3)
        return loss, list(torch.autograd.grad(loss, [p for _, p in sorted(model.named_parameters())]))

    expected_loss, expected = gradients(simclr().double(), slice(None))
    found = in_processes(lambda rank: gradients(simclr().double(), slice(3 * rank, 3 * rank + 3)))
    for loss, _ in found:
        laws.assert_close(torch.from_numpy(loss), expected_loss.detach())
    for one, other, whole in zip(*(grads for _, grads in found), expected, strict=True):
        laws.assert_close(torch.from_numpy(one + other) / 2, whole)


# ---------------------------------------------------------------------------------------------- augmentation


@given(x=images(height=sizes(3, 6), width=sizes(3, 6)), seed=seeds())
def test_a_crop_keeps_shape_and_range(x, seed):
    """A crop has the shape and dtype of the images, and values between an image's least and largest alone.

    Source: Chen et al. 2020, appendix A.
    """
    found = random_crop(x, generator=torch.Generator().manual_seed(seed))
    assert found.shape == x.shape and found.dtype == x.dtype, f"expected {x.shape}, found {found.shape} {found.dtype}"
    low, high = (x.flatten(2).amin(2), x.flatten(2).amax(2))
    inside = (found.flatten(2).amin(2) >= low - 1e-9) & (found.flatten(2).amax(2) <= high + 1e-9)
    assert inside.all(), f"expected values between {low} and {high}, found {found}"


def test_a_crop_is_a_rectangle_stretched_to_the_image():
    """Of an image whose values are its own coordinates, a crop has evenly spaced ones within the image.

    400 crops of a ramp of 16 × 12 in both directions: away from the edges rows differ by one step that is the share of
    the height, and all columns of a row agree; area shares lie in [0.4, 1] and fill it, ratios lie in [3/4, 4/3].

    Source: Chen et al. 2020, appendix A: area and aspect ratio of the crop are random.
    """
    height, width = 16, 12
    ramp = torch.stack(torch.meshgrid(torch.arange(16.0), torch.arange(12.0), indexing="ij")).double()
    found = random_crop(ramp.expand(400, 2, height, width), generator=torch.Generator().manual_seed(0))
    down, across = (
        found[:, 0, :, 0],
        found[:, 1, 0],
    )  # the vertical coordinate of each row, the horizontal of each column
    laws.assert_close(found[:, 0], down[:, :, None].expand(-1, -1, width))
    laws.assert_close(found[:, 1], across[:, None].expand(-1, height, -1))
    tall, wide = down[:, 8] - down[:, 7], across[:, 6] - across[:, 5]
    laws.assert_close(down[:, 3:13].diff(dim=1), tall[:, None].expand(-1, 9))
    area = tall * wide
    assert area.min() > 0.35 and area.min() < 0.45 and area.max() > 0.9, f"found areas {area.min()} to {area.max()}"
    assert (tall <= 1 + 1e-9).all() and (wide <= 1 + 1e-9).all(), "expected crops within the image"
    free = (tall < 0.999) & (wide < 0.999)
    ratio = (tall / wide)[free]
    assert ratio.min() < 0.8 and ratio.max() > 1.25, f"found ratios {ratio.min()} to {ratio.max()}"
    assert ratio.min() > 3 / 4 - 1e-6 and ratio.max() < 4 / 3 + 1e-6, f"found ratios {ratio.min()} to {ratio.max()}"
    start = (down[:, 7] + down[:, 8]) / 2 - 7.5  # from the image's centre to the crop's
    room = (1 - tall) * height / 2
    assert (start.abs() <= room + 1e-6).all(), "expected crops within the image"
    assert (start / room)[room > 0.5].std() > 0.45, "expected crops everywhere in the image"  # uniform: 0.577


def test_shades_change_brightness_and_contrast_of_each_image():
    """Each image becomes a (x − mean) + b · mean, a and b between 1 − strength and 1 + strength, for each image anew.

    Source: Chen et al. 2020, appendix A: colour distortion, of grey images.
    """
    x = double(300, 1, 4, 5).abs() + 0.5
    found = random_shades(x, generator=torch.Generator().manual_seed(0), strength=0.3)
    mean, new_mean = x.mean((1, 2, 3)), found.mean((1, 2, 3))
    brightness = new_mean / mean
    contrast = found.std((1, 2, 3)) / x.std((1, 2, 3))
    laws.assert_close(
        found, contrast.view(-1, 1, 1, 1) * (x - mean.view(-1, 1, 1, 1)) + (brightness * mean).view(-1, 1, 1, 1)
    )
    for factor in (brightness, contrast):
        assert 0.7 - 1e-9 <= factor.min() < 0.72 and 1.28 < factor.max() <= 1.3 + 1e-9, f"found {factor.aminmax()}"
    laws.assert_close(random_shades(x, strength=0.0), x)


@pytest.mark.parametrize("change", [random_crop, random_shades])
def test_views_repeat_with_their_generator(change):
    """One state of the generator gives one view, another state another; torch's global generator does not move.

    Source: this project: randomness comes from the generator that is given.
    """
    x, before = double(2, 1, 5, 4), torch.get_rng_state()
    one, same, other = (change(x, generator=torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    laws.assert_same(one, same)
    laws.assert_differs(one, other, by=1e-3)
    laws.assert_same(torch.get_rng_state(), before)
