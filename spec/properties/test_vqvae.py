"""Vector-quantized auto-encoder.  van den Oord, Vinyals & Kavukcuoglu 2017, arXiv:1711.00937."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from impl.models.vqvae import VQVAE, VectorQuantizer, VectorQuantizerEMA
from spec import laws
from spec.cases.vqvae import by_averages, by_gradient, vqvae
from spec.laws import double, random
from spec.strategies import floats, permutations, seeds, sizes, varied

pytestmark = pytest.mark.item("vq-vae")

BOTH = pytest.mark.parametrize("make", [by_gradient, by_averages], ids=["gradient", "EMA"])
KINDS = st.sampled_from([by_gradient, by_averages])
MAPS = varied((2, 4, 3, 5))  # for the quantizers of spec.cases.vqvae: 7 codes of 4 dimensions


def in_rows(z):
    """(B, D, *positions) as (B·positions, D)."""
    return z.movedim(1, -1).reshape(-1, z.shape[1])


def in_maps(rows, like):
    """The inverse of `in_rows`."""
    return rows.reshape(like.shape[0], *like.shape[2:], like.shape[1]).movedim(-1, 1)


def averages(codes, **settings):
    """A VectorQuantizerEMA with these codes, N = 1 and m = e, as at first; float64, in training."""
    quantizer = VectorQuantizerEMA(*codes.shape, **settings).double()
    state = {"codebook": codes, "cluster_size": torch.ones(len(codes)), "cluster_sum": codes}
    quantizer.load_state_dict(state)
    return quantizer.train()


def two_used_codes_and_one_far_away():
    """Codes, and 8 vectors near the first two."""
    codes = torch.tensor([[0.0, 1.0], [0.0, -1.0], [50.0, 50.0]], dtype=torch.float64)
    return codes, 0.1 * double(8, 2) + codes[:2].repeat(4, 1)


# ---------------------------------------------------------------------------------------------- the nearest code


@given(z=varied((2, 4, 3, 5)), make=KINDS)
def test_each_vector_becomes_its_nearest_code(z, make):
    """z_q = e_k with k = argmin_j ‖z − e_j‖₂: no code is nearer, and the values of z_q are those of code k.

    Source: van den Oord et al. 2017, eq. 1 and 2.
    """
    quantizer = make().double().eval()
    codes = quantizer.codebook.detach()
    z_q, _, indices, _ = quantizer(z)
    assert indices.shape == (2, 3, 5) and indices.dtype == torch.int64, f"found {indices.shape} of {indices.dtype}"
    distances = (in_rows(z)[:, None] - codes).square().sum(-1)
    chosen = distances.gather(1, indices.reshape(-1, 1)).squeeze(1)
    laws.assert_close(chosen, distances.min(1).values, what="squared distance to the code that was chosen")
    laws.assert_close(z_q, in_maps(codes[indices.flatten()], z))


@given(shape=st.lists(sizes(1, 4), max_size=3), seed=seeds(), make=KINDS)
def test_vectors_lie_along_dimension_one(shape, seed, make):
    """z (B, D, *positions) is quantized as its B·positions vectors one by one, for any number of dimensions of space.

    Source: van den Oord et al. 2017, §3.1: the input of the decoder is e_k at each position, in 1-D, 2-D and 3-D.
    """
    quantizer = make().double().eval()
    z = double(3, 4, *shape, seed=seed)
    z_q, loss, indices, perplexity = quantizer(z)
    rows_q, rows_loss, rows_indices, rows_perplexity = quantizer(in_rows(z))
    laws.assert_close(z_q, in_maps(rows_q, z))
    laws.assert_same(indices, rows_indices.reshape(3, *shape), what="indices")
    laws.assert_close(loss, rows_loss)
    laws.assert_close(perplexity, rows_perplexity, rtol=1e-6, because="counts may be float32")


@BOTH
def test_quantizing_twice_is_quantizing_once(make):
    """Q(Q(z)) = Q(z), with the same indices and, the second time, no loss.

    Source: van den Oord et al. 2017, eq. 1 and 2: a code is nearest to itself.
    """
    quantizer = make().double().eval()
    z_q, _, indices, _ = quantizer(double(2, 4, 3, 5))
    again, loss, same, _ = quantizer(z_q.detach())
    laws.assert_close(again, z_q)
    laws.assert_same(same, indices, what="indices")
    laws.assert_close(loss, torch.zeros_like(loss))


@given(z=MAPS, order=permutations(7), make=KINDS)
def test_the_order_of_the_codes_is_free(z, order, make):
    """Permuting the codebook permutes the indices and changes neither z_q nor loss nor perplexity.

    Source: van den Oord et al. 2017, eq. 1 and 2.
    """
    quantizer, permuted = make().double().eval(), make().double().eval()
    permuted.load_state_dict({name: value[order] for name, value in quantizer.state_dict().items()})
    z_q, loss, indices, perplexity = quantizer(z)
    other_q, other_loss, other_indices, other_perplexity = permuted(z)
    laws.assert_same(order[other_indices], indices, what="indices")
    laws.assert_all_close([other_q, other_loss], [z_q, loss])
    laws.assert_close(other_perplexity, perplexity, rtol=1e-6, because="counts may be float32")


@pytest.mark.states("symmetry")
@given(z=MAPS, move=floats(-3, 3), scale=floats(0.2, 4), make=KINDS)
def test_distances_move_with_the_space(z, move, scale, make):
    """Q of a·z + b with the codes a·e + b is a·Q(z) + b, with the same indices: distances alone decide.

    An inner product without |e|² would not be unchanged by the translation.

    Source: van den Oord et al. 2017, eq. 1.
    """
    quantizer, moved = make().double().eval(), make().double().eval()
    state = quantizer.state_dict()
    moved.load_state_dict(state | {"codebook": scale * state["codebook"] + move})
    z_q, loss, indices, _ = quantizer(z)
    other_q, other_loss, other_indices, _ = moved(scale * z + move)
    laws.assert_same(other_indices, indices, what="indices")
    laws.assert_close(other_q, scale * z_q + move)
    laws.assert_close(other_loss, scale**2 * loss)


@pytest.mark.states("dependence")
@BOTH
def test_a_position_depends_on_its_own_vector_alone(make):
    """Changing one vector changes z_q and index at its position and nowhere else.

    Source: van den Oord et al. 2017, eq. 1 and 2: a posterior for each position.
    """
    quantizer = make().double().eval()
    z = double(2, 4, 3, 5)
    z_q, _, indices, _ = quantizer(z)
    other = z.clone()
    away = (indices[1, 2, 3] + 1) % 7
    other[1, :, 2, 3] = quantizer.codebook[away].detach()
    moved_q, _, moved, _ = quantizer(other)
    changed = (moved_q != z_q).any(1)
    expected = torch.zeros(2, 3, 5, dtype=torch.bool)
    expected[1, 2, 3] = True
    laws.assert_same(changed, expected, what="where z_q changed")
    laws.assert_same(moved != indices, expected, what="where the index changed")


@BOTH
def test_lookup_and_nearest_are_inverse(make):
    """`lookup` gives e_k along dimension 1, and `nearest` of it gives k back, for one position or many.

    Source: van den Oord et al. 2017, eq. 1 and 2.
    """
    quantizer = make().double()
    for shape in ((5,), (2, 3), (2, 3, 4)):
        indices = torch.randint(7, shape, generator=torch.Generator().manual_seed(0))
        codes = quantizer.lookup(indices)
        laws.assert_close(codes.detach(), quantizer.codebook.detach()[indices].movedim(-1, 1))
        laws.assert_same(quantizer.nearest(codes), indices, what="indices")


@pytest.mark.project_convention
@BOTH
def test_far_from_the_origin_the_nearest_code_is_found(make):
    """Vectors and codes moved by 1000 keep their indices in float32, though 1000² leaves 2⁻⁴ to a squared distance.

    Convention: distances are sums of squared differences; z_q is exactly a code, however far away z is.
    Source: van den Oord et al. 2017, eq. 1.
    """
    quantizer = make().eval()
    z = random(2, 4, 3, 5)
    indices = quantizer.nearest(z)
    quantizer.load_state_dict(quantizer.state_dict() | {"codebook": quantizer.codebook.detach() + 1000})
    laws.assert_same(quantizer.nearest(z + 1000), indices, what="indices")
    z_q, _, far, _ = quantizer(1e9 * z)
    laws.assert_same(z_q.detach(), quantizer.lookup(far).detach(), what="z_q of vectors of length 10⁹")


# ---------------------------------------------------------------------------------------------- gradients


@given(z=MAPS, seed=seeds(), make=KINDS)
def test_the_gradient_of_z_q_is_handed_to_z(z, seed, make):
    """∂⟨g, z_q⟩/∂z = g exactly, and ∂⟨g, z_q⟩/∂e = 0: straight through.

    Source: van den Oord et al. 2017, §3.2: the gradient of the decoder's input is copied to the encoder's output.
    """
    quantizer = make().double().train()
    z.requires_grad_()
    cotangent = double(2, 4, 3, 5, seed=seed)
    wanted = [z, *quantizer.parameters()]
    found = torch.autograd.grad(quantizer(z)[0], wanted, cotangent, allow_unused=True, materialize_grads=True)
    laws.assert_close(found[0], cotangent)
    for gradient in found[1:]:
        laws.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=0)


@given(z=MAPS, beta=floats(0, 3))
def test_loss_of_a_codebook_learned_by_gradient(z, beta):
    """The loss is ‖sg[z] − e‖² + β ‖z − sg[e]‖² = (1 + β) · mean((z − e)²); ∂/∂z is the second's, ∂/∂e the first's.

    ∂/∂z = 2β (z − e)/numel, ∂/∂e_k = 2 Σ_{z in k} (e_k − z)/numel, and an unused code has gradient 0.

    Source: van den Oord et al. 2017, eq. 3.  Convention: means over all elements, as in the authors' code.
    """
    quantizer = VectorQuantizer(7, 4, commitment_cost=beta).double()
    quantizer.load_state_dict(by_gradient().double().state_dict())
    _, loss, indices, _ = quantizer(z.requires_grad_())
    rows, codes = in_rows(z.detach()), quantizer.codebook.detach()
    gap = rows - codes[indices.flatten()]
    laws.assert_close(loss, (1 + beta) * gap.square().mean())
    by_z, by_codes = torch.autograd.grad(loss, (z, quantizer.codebook))
    laws.assert_close(in_rows(by_z), 2 * beta * gap / gap.numel())
    members = (indices.reshape(-1, 1) == torch.arange(7)).double()
    laws.assert_close(by_codes, -2 * members.T @ gap / gap.numel())


@given(z=MAPS, beta=floats(0, 3))
def test_loss_of_a_codebook_learned_by_averages(z, beta):
    """The loss is β ‖z − sg[e]‖² alone, ∂/∂z = 2β (z − e)/numel; the codebook has no parameter to be optimised.

    Source: van den Oord et al. 2017, appendix A.1: the averages stand in place of the second term of eq. 3.
    """
    quantizer = VectorQuantizerEMA(7, 4, commitment_cost=beta).double().eval()
    quantizer.load_state_dict(by_averages().double().state_dict())
    _, loss, indices, _ = quantizer(z.requires_grad_())
    gap = in_rows(z.detach()) - quantizer.codebook[indices.flatten()]
    laws.assert_close(loss, beta * gap.square().mean())
    if beta:
        laws.assert_close(in_rows(torch.autograd.grad(loss, z)[0]), 2 * beta * gap / gap.numel())
    assert not list(quantizer.parameters()), "expected no parameters, found some"


@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_each_term_trains_its_part(beta):
    """−log p(x|z_q) trains decoder and encoder, the second term the codebook, the third, β, the encoder.

    Source: van den Oord et al. 2017, §3.2, after eq. 3: which of the three terms optimises which part.
    """
    model = vqvae(lambda: VectorQuantizer(7, 4, commitment_cost=beta))
    parts = {
        "encoder": model.encoder[1].weight,
        "codebook": model.quantizer.codebook,
        "decoder": model.decoder[1].weight,
    }
    reconstruction, loss, _, _ = model(random(3, 1, 4, 6))

    def table(term, *reached):
        untouched = {name: part for name, part in parts.items() if name not in reached}
        laws.gradient_reaches(term, {name: parts[name] for name in reached}, untouched)

    table(reconstruction.square().sum(), "encoder", "decoder")
    table(loss, *(["codebook", "encoder"] if beta else ["codebook"]))
    with_averages = vqvae(lambda: VectorQuantizerEMA(7, 4, commitment_cost=beta)).train()
    reconstruction, loss, _, _ = with_averages(random(3, 1, 4, 6))
    encoder, decoder = with_averages.encoder[1].weight, with_averages.decoder[1].weight
    laws.gradient_reaches(reconstruction.square().sum(), {"encoder": encoder, "decoder": decoder})
    if beta:
        laws.gradient_reaches(loss, {"encoder": encoder}, {"decoder": decoder})


@pytest.mark.states("second derivative")
def test_second_derivatives_of_the_loss():
    """∂²L/∂z² = 2β/numel and ∂²L/∂e_k² = 2 n_k/numel, each diagonal: with the indices fixed the loss is quadratic.

    Source: van den Oord et al. 2017, eq. 3, differentiated twice.
    """
    quantizer, z = by_gradient().double(), double(2, 4, 3).requires_grad_()
    _, loss, indices, _ = quantizer(z)
    v, w = double(2, 4, 3, seed=1), double(7, 4, seed=2)
    by_z, by_codes = torch.autograd.grad(loss, (z, quantizer.codebook), create_graph=True)
    twice_z, twice_codes = torch.autograd.grad((by_z * v).sum() + (by_codes * w).sum(), (z, quantizer.codebook))
    laws.assert_close(twice_z, 2 * 0.4 * v / z.numel())
    used = (indices.flatten() == torch.arange(7)[:, None]).sum(1, keepdim=True)
    laws.assert_close(twice_codes, 2 * used * w / z.numel())


@BOTH
def test_a_sample_seen_twice_changes_no_loss(make):
    """A batch repeated three times has the loss and the perplexity of the batch.

    Source: van den Oord et al. 2017, eq. 3, of one image.  Convention: means over all elements.
    """
    quantizer, z = make().double().eval(), double(2, 4, 3, 5)
    laws.invariant(lambda t: quantizer(t)[1], z, lambda t: t.repeat(3, 1, 1, 1))
    counted = {"rtol": 1e-6, "because": "counts may be float32"}
    laws.invariant(lambda t: quantizer(t)[3], z, lambda t: t.repeat(3, 1, 1, 1), **counted)


# ---------------------------------------------------------------------------------------------- moving averages


@given(z=MAPS, decay=st.sampled_from([0.0, 0.3, 0.9, 1.0]), eps=st.sampled_from([1e-5, 0.1, 2.0]))
def test_one_step_of_the_averages(z, decay, eps):
    """N ← γN + (1 − γ)n, m ← γm + (1 − γ) Σz, and e = m (N + Kε)/((N_i + ε) N): sums over clusters, one by one.

    Source: van den Oord et al. 2017, eq. 6-8.  Convention: sizes are smoothed as in the authors' code; outputs are
    those of the codebook before the step.
    """
    quantizer = VectorQuantizerEMA(7, 4, decay=decay, eps=eps).double().train()
    quantizer.load_state_dict(by_averages().double().state_dict())
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    z_q, loss, indices, _ = quantizer(z)
    laws.assert_close(z_q, in_maps(before["codebook"][indices.flatten()], z), what="z_q by the codebook before")
    size, total = before["cluster_size"], before["cluster_sum"]
    for k in range(7):
        members = in_rows(z)[indices.flatten() == k]
        size[k] = decay * size[k] + (1 - decay) * len(members)
        total[k] = decay * total[k] + (1 - decay) * members.sum(0)
    laws.assert_close(quantizer.cluster_size, size, what="N")
    laws.assert_close(quantizer.cluster_sum, total, what="m")
    share = (size + eps) / (size.sum() + 7 * eps)
    expected = total / (share * size.sum())[:, None]
    laws.assert_close(quantizer.codebook, expected, what="e")


@pytest.mark.states("limiting case")
@given(z=varied((30, 3)), seed=seeds())
def test_without_memory_a_step_is_one_of_k_means(z, seed):
    """With γ = 0 and ε = 0 a step is one of Lloyd's: each code becomes the mean of its vectors; empty ones stay.

    Source: van den Oord et al. 2017, appendix A.1: online k-means with exponential moving averages; Lloyd 1982.
    """
    codes = double(6, 3, seed=seed)
    codes[5] = 100  # nobody's
    quantizer = averages(codes, decay=0.0, eps=0.0)
    _, _, indices, _ = quantizer(z)
    for k in range(6):
        members = z[indices == k]
        expected = members.mean(0) if len(members) else codes[k]
        laws.assert_close(quantizer.codebook[k], expected, what=f"code {k} of {len(members)} vectors")


def test_k_means_lowers_its_distortion_to_a_fixed_point():
    """Repeated on the same data with γ = 0 the distance to the nearest code falls at each step, until nothing moves.

    Source: Lloyd 1982, the two halves of the algorithm; van den Oord et al. 2017, appendix A.1.
    """
    z = double(60, 3)
    quantizer = averages(z[:5].clone(), commitment_cost=1.0, decay=0.0, eps=0.0)
    losses = torch.stack([quantizer(z)[1] for _ in range(40)])
    assert (losses.diff() < 1e-12).all(), f"expected a falling distance, found {losses.tolist()}"
    before = quantizer.codebook.clone()
    quantizer(z)
    laws.assert_close(quantizer.codebook, before)
    assert losses[-1] < 0.9 * losses[0], f"expected a distance well below {losses[0]:.3f}, found {losses[-1]:.3f}"


@pytest.mark.states("limiting case")
def test_full_memory_never_moves_a_code():
    """With γ = 1 the codebook is unchanged by training, from its initialisation and from any state of its own.

    Source: van den Oord et al. 2017, eq. 6-8, at γ = 1.
    """
    quantizer = VectorQuantizerEMA(7, 4, decay=1.0, eps=0.3).double().train()
    before = quantizer.codebook.clone()
    quantizer(double(2, 4, 3, 5))
    laws.assert_close(quantizer.codebook, before)
    moved = VectorQuantizerEMA(7, 4, decay=0.5, eps=0.3).double().train()
    moved(double(2, 4, 3, 5))
    quantizer.load_state_dict(moved.state_dict())
    quantizer(double(2, 4, 3, 5, seed=1))
    laws.assert_close(quantizer.codebook, moved.codebook)


def test_an_empty_cluster_is_never_a_division_by_zero():
    """Codes that no vector is near stay where they are with ε = 0, and are drawn to the origin, not to NaN, with ε > 0.

    After t steps N_i = γᵗ and m_i = γᵗ e_i; with γ = 0.1 both underflow before 400 steps, and after 100 they have not.

    Source: van den Oord et al. 2017, eq. 6-8.
    """
    codes, z = two_used_codes_and_one_far_away()
    still, drawn = averages(codes, decay=0.1, eps=0.0), averages(codes, decay=0.1, eps=1e-3)
    for _ in range(100):
        still(z), drawn(z)
    laws.assert_close(still.codebook[2], codes[2], what="an unused code, ε = 0")
    for _ in range(300):
        still(z), drawn(z)
    assert still.codebook.isfinite().all(), f"expected finite codes, found {still.codebook.tolist()}"
    laws.assert_close(drawn.codebook[2], torch.zeros(2, dtype=torch.float64), what="an unused code, ε > 0")
    means = torch.stack([z[::2].mean(0), z[1::2].mean(0)])
    laws.assert_close(still.codebook[:2], means, what="used codes")
    laws.assert_close(drawn.codebook[:2], means, rtol=1e-3, atol=0, because="ε = 0.001 of 4", what="used codes, ε > 0")


@pytest.mark.project_convention
def test_an_unused_code_outlives_the_underflow_of_its_size():
    """With ε = 0 an unused code is where it was even when N_i and m_i have lost their digits, and then underflowed.

    Source: van den Oord et al. 2017, eq. 6-8: m_i/N_i is unchanged by a step without vectors.
    """
    codes, z = two_used_codes_and_one_far_away()
    quantizer = averages(codes, decay=0.1, eps=0.0)
    for step in range(340):
        quantizer(z)
        laws.assert_close(quantizer.codebook[2], codes[2], what=f"an unused code after {step + 1} steps")


def test_averages_move_in_training_alone():
    """Calls in eval mode, `nearest`, `lookup`, and the model's `encode` and `decode` leave the state unchanged.

    Source: van den Oord et al. 2017, appendix A.1: the averages are a part of training.
    """
    model = vqvae(by_averages)
    x = random(3, 1, 4, 6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.eval()(x)
    model.train()
    model.decode(model.encode(x))
    model.quantizer.nearest(model.encoder(x))
    for name, value in model.state_dict().items():
        laws.assert_same(value, before[name], what=name)
    model(x)
    for name in ("codebook", "cluster_size", "cluster_sum"):
        laws.assert_differs(model.state_dict()[f"quantizer.{name}"], before[f"quantizer.{name}"], by=1e-3, what=name)


def test_averages_move_without_gradients_as_with_them():
    """Training under `no_grad`, or with frozen inputs, moves the averages as training with gradients does.

    Source: van den Oord et al. 2017, eq. 6-8: no gradient is in them.
    """
    z = double(2, 4, 3, 5)
    with_gradients, without = by_averages().double().train(), by_averages().double().train()
    with_gradients(z.clone().requires_grad_())[0].sum().backward()
    with torch.no_grad():
        without(z)
    for name, value in without.state_dict().items():
        laws.assert_same(value, with_gradients.state_dict()[name], what=name)
        assert not value.requires_grad, f"expected {name} without a gradient, found one"


def test_a_vector_that_is_not_finite_joins_no_cluster():
    """One vector with inf or NaN moves no code, and z_q of the others is as without it.

    Convention: one overflow in half precision, whose step a gradient scaler skips, must not stay in the codebook.
    """
    for value in (float("inf"), float("-inf"), float("nan")):
        z = double(2, 4, 3, 5)
        spoilt = z.clone()
        spoilt[1, 2, 0, 4] = value
        kept = in_rows(z)[in_rows(spoilt).isfinite().all(1)]
        found, expected = by_averages().double().train(), by_averages().double().train()
        z_q = found(spoilt)[0]
        expected(kept)
        for name, tensor in found.state_dict().items():
            laws.assert_close(tensor, expected.state_dict()[name], what=f"{name} after {value}")
        elsewhere = torch.ones(2, 4, 3, 5, dtype=torch.bool)
        elsewhere[1, :, 0, 4] = False
        assert z_q[elsewhere].isfinite().all(), f"expected {value} to stay where it was, found it elsewhere"


def test_codes_and_averages_agree_at_first():
    """At first N_i = 1 and m_i = e_i, so that the first steps already move codes by what they replaced, from e_i.

    Source: van den Oord et al. 2017, eq. 6-8: e = m/N before any step as well.
    """
    quantizer = VectorQuantizerEMA(7, 4)
    laws.assert_close(quantizer.cluster_size, torch.ones(7))
    laws.assert_close(quantizer.cluster_sum, quantizer.codebook)


@pytest.mark.parametrize("make", [VectorQuantizer, VectorQuantizerEMA])
def test_initial_codes_are_uniform(make):
    """Codes are initialised uniformly in ±1/K, no two alike: mean 0 and variance 1/(3K²).

    20 000 values; the variance within 3 %, 5 standard errors.

    Source: the authors' code.  Convention: K, not D, sets the scale.
    """
    torch.manual_seed(0)
    codes = make(400, 50).codebook.detach()
    assert codes.abs().max() <= 1 / 400, f"expected codes in ±1/400, found {codes.abs().max():.4f}"
    variance = 3 * 400**2 * codes.square().mean().item()
    assert abs(variance - 1) < 0.03, f"expected the variance of a uniform distribution, found {variance:.3f} of it"
    assert abs(codes.mean().item()) < 5e-5, f"expected a mean of 0, found {codes.mean():.2g}"


# ---------------------------------------------------------------------------------------------- use of the codes


@given(counts=st.lists(st.integers(0, 9), min_size=7, max_size=7).filter(any), make=KINDS)
def test_perplexity_is_the_exponential_of_the_entropy(counts, make):
    """Perplexity = exp(−Σ p̂ log p̂) of the frequencies p̂ of the codes in the batch, 0 log 0 = 0; it is in [1, K].

    Source: the definition of the entropy; the authors' code reports it.
    """
    quantizer = make().double().eval()
    indices = torch.repeat_interleave(torch.arange(7), torch.tensor(counts))
    found = quantizer(quantizer.lookup(indices).detach())[3]
    share = [c / sum(counts) for c in counts if c]
    expected = math.exp(-sum(p * math.log(p) for p in share))
    laws.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, because="counts may be float32")


@pytest.mark.states("limiting case")
@BOTH
def test_perplexity_of_uniform_use_and_of_collapse(make):
    """Perplexity is K where all codes are used alike and 1 where one alone is used.

    Source: the definition of the entropy.
    """
    quantizer = make().double().eval()
    for indices, expected in ((torch.arange(7).repeat(3), 7.0), (torch.full((5,), 3), 1.0)):
        found = quantizer(quantizer.lookup(indices).detach())[3]
        expected = torch.tensor(expected, dtype=torch.float64)
        laws.assert_close(found, expected, rtol=1e-6, because="counts may be float32")


@BOTH
def test_the_model_is_its_three_parts(make):
    """VQVAE(x) decodes z_q of the encoder's vectors; `encode` gives its indices, `decode` the output of any indices.

    Source: van den Oord et al. 2017, §3.1, figure 1.
    """
    model, x = vqvae(make).double().eval(), double(3, 1, 4, 6)
    reconstruction, loss, indices, perplexity = model(x)
    z_q, *others = model.quantizer(model.encoder(x))
    laws.assert_all_close([reconstruction, loss, indices, perplexity], [model.decoder(z_q), *others])
    laws.assert_same(model.encode(x), indices, what="indices")
    laws.assert_close(model.decode(indices), reconstruction)
    free = torch.randint(7, (5, 2, 3), generator=torch.Generator().manual_seed(0))
    laws.assert_close(model.decode(free), model.decoder(model.quantizer.codebook.detach()[free].movedim(-1, 1)))


@BOTH
def test_sizes_of_one_work(make):
    """One code, one dimension, one vector and a batch of one all work: index 0, perplexity 1.

    Source: van den Oord et al. 2017, eq. 1, at K = 1.
    """
    quantizer = type(make())(1, 1).double()
    z_q, loss, indices, perplexity = quantizer(double(1, 1))
    laws.assert_close(perplexity, torch.ones_like(perplexity))
    assert indices.tolist() == [0], f"expected index 0, found {indices.tolist()}"
    assert z_q.shape == (1, 1) and loss.shape == ()


@BOTH
def test_half_precision_is_summed_in_full(make):
    """In bfloat16 the loss of 20 000 vectors is that of float32 to 1 %: sums of squares are not made in 8 bits.

    Measured: 0.25 %, the rounding of the result alone; a running sum in bfloat16 stops at 256 times its terms.

    Source: Micikevicius et al. 2017, arXiv:1710.03740, §3.3: reductions in float32.
    """
    z = random(20_000, 4)
    exact, rounded = make().eval(), make().bfloat16().eval()
    loss = rounded(z.bfloat16())[1]
    assert loss.dtype == torch.bfloat16
    laws.assert_close(loss.float(), exact(z)[1].detach(), rtol=0.01, atol=0, because="bfloat16 has 8 bits")


@pytest.mark.states("equivalence")
@BOTH
def test_a_channel_last_loop_is_the_same(make):
    """Quantizing by a loop over the vectors, in NumPy's order of axes, gives the same map of codes.

    Source: van den Oord et al. 2017, eq. 1 and 2.
    """
    quantizer, z = make().double().eval(), double(2, 4, 3, 5)
    codes = quantizer.codebook.detach()
    expected = torch.empty_like(z)
    for b in range(2):
        for h in range(3):
            for w in range(5):
                distance = [sum((z[b, d, h, w] - code[d]) ** 2 for d in range(4)).item() for code in codes]
                expected[b, :, h, w] = codes[distance.index(min(distance))]
    laws.assert_close(quantizer(z)[0], expected)


def test_frozen_parts_leave_the_other_gradients_as_they_were():
    """Freezing encoder, codebook or decoder leaves the gradients of the two others unchanged.

    Source: van den Oord et al. 2017, §3.2; fine-tuning a decoder with a frozen codebook is everyday.
    """
    x = random(3, 1, 4, 6)

    def gradients(*frozen):
        model = vqvae()
        for part in frozen:
            getattr(model, part).requires_grad_(False)
        reconstruction, loss, _, _ = model(x)
        (reconstruction.square().mean() + loss).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    full = gradients()
    for part in ("encoder", "quantizer", "decoder"):
        for name, gradient in gradients(part).items():
            laws.assert_close(gradient, full[name], what=f"gradient of {name} with a frozen {part}")


def test_any_quantizer_of_that_form_fits_the_model():
    """VQVAE works with every module that returns (z_q, loss, indices, perplexity) and looks indices up.

    Source: van den Oord et al. 2017, §3.2 and appendix A.1: two ways to learn a codebook, one model.
    """

    class Rounded(nn.Module):
        def forward(self, z):
            return self.lookup(self.nearest(z)), z.new_zeros(()), self.nearest(z), z.new_ones(())

        def nearest(self, z):
            return z[:, 0].round().long()

        def lookup(self, indices):
            return indices[:, None].float()

    model, x = VQVAE(nn.Identity(), nn.Identity(), Rounded()), 3 * random(2, 1, 3, 4)
    laws.assert_close(model(x)[0], x.round())
    laws.assert_close(model.decode(model.encode(x)), x.round())
