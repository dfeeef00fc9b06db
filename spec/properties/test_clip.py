"""Properties of CLIP.  Radford et al. 2021, arXiv:2103.00020."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from impl.models.clip import CLIP, clip_loss, quick_gelu
from spec import cost, laws
from spec.cases.clip import TOKENS, clip, small, text, vision
from spec.cases.vit import without_blocks
from spec.laws import double, random
from spec.parallel import in_processes
from spec.strategies import floats, permutations, seeds, shapes, sizes, tensors

pytestmark = pytest.mark.item("clip")


def unit(x):
    return x / x.square().sum(1, keepdim=True).sqrt()


def by_loops(images, texts, scale):
    """Both cross entropies, pair by pair."""
    n, total = len(images), 0
    cosine = [[(a @ b) / (a @ a).sqrt() / (b @ b).sqrt() for b in texts] for a in images]
    for i in range(n):
        rows = sum((scale * cosine[i][k]).exp() for k in range(n))
        columns = sum((scale * cosine[k][i]).exp() for k in range(n))
        total = total + (rows.log() + columns.log()) / 2 - scale * cosine[i][i]
    return total / n


# ---------------------------------------------------------------------------------------------- the loss


@pytest.mark.states("equivalence")
@given(n=sizes(1, 4), d=sizes(2, 4), seed=seeds(), scale=floats(0.5, 8))
def test_loss_is_the_mean_of_both_cross_entropies(n, d, seed, scale):
    """L = ½ (mean −log softmax of the rows at the pair + the same of the columns) of scale · cosines.

    Source: Radford et al. 2021, figure 3.
    """
    images, texts = double(n, d, seed=seed), double(n, d, seed=seed + 1)
    factor = torch.tensor(scale, dtype=torch.float64)
    laws.gradients_match(clip_loss, by_loops, images, texts, factor)


@pytest.mark.states("limiting case")
@given(n=sizes(1, 6), scale=floats(0.5, 50))
def test_loss_of_a_guess_and_of_separate_pairs(n, scale):
    """Features that are all alike cost ln N; orthonormal pairs cost ln(1 + (N − 1) e^(−scale)).

    Source: Radford et al. 2021, figure 3.
    """
    same = double(1, 3).expand(n, 3)
    laws.assert_close(clip_loss(same, same, scale), torch.tensor(n, dtype=torch.float64).log())
    pairs = torch.eye(n, dtype=torch.float64)
    expected = ((n - 1) * torch.tensor(-scale, dtype=torch.float64).exp()).log1p()
    laws.assert_close(clip_loss(pairs, pairs, scale), expected, atol=1e-12)


@pytest.mark.states("symmetry")
@given(n=sizes(2, 4), seed=seeds(), data=st.data())
def test_images_and_texts_may_change_places(n, seed, data):
    """The loss is unchanged when images and texts change places, when pairs are permuted, and under a rotation.

    Source: Radford et al. 2021, figure 3: a symmetric loss.
    """
    images, texts = double(n, 3, seed=seed), double(n, 3, seed=seed + 1)
    expected, order = clip_loss(images, texts, 3.0), data.draw(permutations(n))
    laws.assert_close(clip_loss(texts, images, 3.0), expected)
    laws.assert_close(clip_loss(images[order], texts[order], 3.0), expected)
    rotation = torch.linalg.qr(double(3, 3, seed=seed + 2)).Q
    laws.assert_close(clip_loss(images @ rotation, texts @ rotation, 3.0), expected)


@given(seed=seeds(), scales=st.lists(floats(0.01, 100), min_size=6, max_size=6))
def test_length_of_a_feature_has_no_meaning(seed, scales):
    """Each feature may be scaled by itself.

    Source: Radford et al. 2021, figure 3: l2_normalize.
    """
    images, texts = double(3, 4, seed=seed), double(3, 4, seed=seed + 1)
    factors = torch.tensor(scales, dtype=torch.float64)[:, None]
    laws.assert_close(clip_loss(images * factors[:3], texts * factors[3:], 3.0), clip_loss(images, texts, 3.0))


@pytest.mark.states("dependence")
def test_every_image_is_compared_with_every_text_both_ways():
    """Each image's gradient depends on each text and on each other image, which competes for the texts.

    Source: Radford et al. 2021, §2.3: N² − N incorrect pairings.
    """
    z = double(6, 3)
    second = torch.autograd.functional.hessian(lambda z: clip_loss(z[:3], z[3:], 2.0), z).abs().amax((1, 3))
    assert (second > 1e-6).all(), f"expected every feature to matter to every other, found {second}"


def test_a_scale_of_thousands_is_finite():
    """Logits of ±5000 in float32 give a finite loss and gradient, right to four digits.

    Source: Radford et al. 2021, §2.5: scales up to 100; logsumexp.
    """
    images, texts = random(4, 3).requires_grad_(), random(4, 3, seed=1)
    loss = clip_loss(images, texts, 5000.0)
    (gradient,) = torch.autograd.grad(loss, images)
    assert loss.isfinite() and gradient.isfinite().all(), f"expected finite numbers, found {loss} and {gradient}"
    exact = clip_loss(images.detach().double(), texts.double(), 5000.0)
    laws.assert_close(loss.detach().double(), exact, rtol=1e-4, because="float32, cosines times 5000")


def test_half_precision_has_a_loss_in_float32():
    """bfloat16 and float16 features of length 300, whose squares float16 does not have, have a float32 loss.

    Source: this project: reductions of half precision in float32 or wider.
    """
    images, texts = double(4, 3), double(4, 3, seed=1)
    for dtype in (torch.bfloat16, torch.float16):
        a, b = (300 * images).to(dtype), (300 * texts).to(dtype)
        found = clip_loss(a, b, 3.0)
        assert found.dtype == torch.float32, f"expected float32, found {found.dtype}"
        laws.assert_close(found.double(), clip_loss(a.double(), b.double(), 3.0), rtol=1e-5, because="float32")


@pytest.mark.states("second derivative")
def test_loss_has_second_derivatives():
    """The gradient of the gradient equals central differences, to features and scale.

    Source: the definition of the derivative.
    """
    scale = torch.tensor(2.0, dtype=torch.float64)
    laws.gradient_correct(clip_loss, double(3, 3), double(3, 3, seed=1), scale, second_order=True)


@pytest.mark.states("cost")
def test_loss_is_one_product():
    """N images and N texts of width d take one product: 2 N² d operations.

    Source: Radford et al. 2021, figure 3.
    """
    found = cost.flops(clip_loss, random(6, 5), random(6, 5, seed=1))
    assert found == 2 * 6 * 6 * 5, f"expected 360 operations, found {found}"


# ---------------------------------------------------------------------------------------------- the model


def test_logits_are_scaled_cosines():
    """forward gives e^t · cosine of each image with each text; features have length 1; loss is that of the pairs.

    Source: Radford et al. 2021, figure 3.
    """
    model = small().double()
    images, texts = double(2, 4), double(3, 5)
    first, second = unit(model.image_encoder(images)), unit(model.text_encoder(texts))
    scale = model.logit_scale.detach().exp()  # 2, the reciprocal of the temperature
    laws.assert_close(scale, torch.tensor(2.0).double(), rtol=1e-6, because="it began in float32")
    laws.assert_close(model.encode_image(images), first)
    laws.assert_close(model.encode_text(texts), second)
    laws.assert_close(model(images, texts), scale * first @ second.T)
    laws.assert_close(model.loss(images, texts[:2]), clip_loss(first, second[:2], scale))


def test_scale_is_learned_as_a_logarithm():
    """t begins as ln(1/0.07) = 2.6593 and is one parameter: e^t = 14.29, whose derivative is itself.

    Source: Radford et al. 2021, §2.5: "log-parameterized".
    """
    model = CLIP(nn.Linear(4, 3), nn.Linear(5, 3))
    laws.assert_close(model.logit_scale.detach().double(), torch.tensor(2.65926).double(), rtol=1e-5, because="float32")
    assert model.logit_scale.shape == () and model.logit_scale.requires_grad, "expected one number that is learned"
    model = small().double()
    images, texts = double(2, 4), double(3, 5)
    logits = model(images, texts)
    (gradient,) = torch.autograd.grad(logits.sum(), model.logit_scale)
    laws.assert_close(gradient, logits.sum().detach())


def test_scale_is_held_at_its_limit_and_may_come_back():
    """limit_scale brings e^t above max_scale back to it and leaves one below; the gradient at the limit is not blocked.

    Source: Radford et al. 2021, §2.5: clipped "to prevent scaling the logits by more than 100".
    Convention: the parameter is limited after a step, not the forward pass.
    """
    model = CLIP(nn.Linear(4, 3), nn.Linear(5, 3)).double()
    images, texts = double(2, 4), double(2, 5)
    for value, expected in ((7.0, math.log(100)), (4.6, 4.6), (-3.0, -3.0)):
        model.logit_scale.data.fill_(value)
        (gradient,) = torch.autograd.grad(model.loss(images, texts), model.logit_scale)
        assert gradient != 0, f"expected a gradient to t = {value}, found none"
        model.limit_scale()
        laws.assert_close(model.logit_scale.detach(), torch.tensor(expected, dtype=torch.float64))
    low = CLIP(nn.Linear(4, 3), nn.Linear(5, 3), max_scale=2.0)
    low.limit_scale()
    laws.assert_close(low.logit_scale.detach(), torch.tensor(math.log(2.0)))


@pytest.mark.states("gradient routing")
def test_loss_trains_both_encoders_and_the_scale():
    """The loss reaches every parameter of both encoders, and t.

    Source: Radford et al. 2021, §2.3: jointly trained.
    """
    model = small().double()
    laws.gradient_reaches(model.loss(double(3, 4), double(3, 5)), dict(model.named_parameters()))


def test_two_processes_train_as_one_with_the_whole_batch():
    """The loss of two processes with half the pairs each is that of one with all; so are the averaged gradients.

    Source: Radford et al. 2021, §2.5: similarities are sharded over devices, the batch is 32,768.
    """
    images, texts = double(6, 4), double(6, 5, seed=1)

    def gradients(model, rows):
        loss = model.loss(images[rows], texts[rows])
        return loss, list(torch.autograd.grad(loss, [p for _, p in sorted(model.named_parameters())]))

    expected_loss, expected = gradients(small().double(), slice(None))
    found = in_processes(lambda rank: gradients(small().double(), slice(3 * rank, 3 * rank + 3)))
    for loss, _ in found:
        laws.assert_close(torch.from_numpy(loss), expected_loss.detach())
    for one, other, whole in zip(*(grads for _, grads in found), expected, strict=True):
        laws.assert_close((torch.from_numpy(one) + torch.from_numpy(other)) / 2, whole)


# ---------------------------------------------------------------------------------------------- zero-shot


@given(seed=seeds())
def test_a_class_is_the_mean_of_its_prompts_features(seed):
    """Each class has the mean of its prompts' features of length 1, of length 1 again: of one prompt, its feature.

    Source: Radford et al. 2021, §3.1.4: the ensemble is over the embedding space.
    """
    model = small().double()
    prompts = [double(2, 5, seed=seed), double(1, 5, seed=seed + 1), double(3, 5, seed=seed + 2)]
    found = model.zero_shot_classifier(prompts)
    expected = torch.cat([unit(unit(model.text_encoder(p)).mean(0, keepdim=True)) for p in prompts])
    laws.assert_close(found, expected)
    laws.assert_close(found[1], model.encode_text(prompts[1])[0])
    twice = model.zero_shot_classifier([torch.cat([p, p]) for p in prompts])
    laws.assert_close(twice, found)


@given(seed=seeds(), data=st.data())
def test_classification_is_by_the_nearest_class(seed, data):
    """classify gives e^t · cosine with each class's vector; permuting the classes permutes the columns.

    Source: Radford et al. 2021, §3.1.2.
    """
    model, images = small().double(), double(3, 4, seed=seed)
    prompts, order = [double(2, 5, seed=seed + k) for k in range(1, 5)], data.draw(permutations(4))
    found = model.classify(images, model.zero_shot_classifier(prompts))
    expected = model.encode_image(images) @ model.zero_shot_classifier(prompts).T
    laws.assert_close(found, model.logit_scale.exp() * expected)
    moved = model.classify(images, model.zero_shot_classifier([prompts[k] for k in order]))
    laws.assert_close(moved, found[:, order])


# ---------------------------------------------------------------------------------------------- the encoders


@given(x=tensors(shapes()))
def test_quick_gelu_is_the_input_times_a_steep_sigmoid(x):
    """quick_gelu(x) = x/(1 + e^(−1.702 x)).

    Source: Hendrycks & Gimpel 2016, arXiv:1606.08415, §2.
    """
    laws.assert_close(quick_gelu(x), x / (1 + (-1.702 * x).exp()))


def test_a_text_is_its_end_token_and_what_stands_before():
    """Tokens after the end token, the highest id, change nothing; each one before and the end token itself do.

    Source: Radford et al. 2021, §2.4: the activations at the [EOS] token; masked self-attention.
    """
    model = laws.randomise(text().double()).eval()
    before = model(TOKENS)
    for row, tokens in enumerate(TOKENS):
        end = int(tokens.argmax())
        for place in range(5):
            changed = TOKENS.clone()
            changed[row, place] = 8 if place != end else 9
            if place == end:
                changed[row, place + 1 :] = 0  # the end is now the highest that is left
                changed[row, 0] = 1
            found = model(changed)[row]
            if place > end:
                laws.assert_close(found, before[row], what=f"text {row} with another token after its end")
            else:
                laws.assert_differs(found, before[row], by=1e-6, what=f"text {row} with another token {place}")


def test_the_first_of_two_end_tokens_counts():
    """Where padding repeats the end token, a text's feature is that of the first.

    Source: Radford et al. 2021, as released: argmax of the ids, which is the first of equal ones.
    """
    model = laws.randomise(text().double()).eval()
    padded = torch.tensor([[3, 1, 10, 10, 10]])
    laws.assert_close(model(padded), model(torch.tensor([[3, 1, 10, 0, 4]])))
    laws.assert_close(model(padded), model(torch.tensor([[3, 1, 10]])))


def test_text_positions_matter():
    """Two texts of the same tokens in another order differ.

    Source: Radford et al. 2021, §2.4.
    """
    model = laws.randomise(text().double()).eval()
    laws.assert_differs(model(torch.tensor([[3, 1, 10]])), model(torch.tensor([[1, 3, 10]])), by=1e-6)


def test_every_pixel_reaches_the_image_feature():
    """The feature depends on each pixel, and on where each patch stands; patches are disjoint squares.

    Source: Radford et al. 2021, §2.4; Dosovitskiy et al. 2020, arXiv:2010.11929, eq. 1.
    """
    model = laws.randomise(vision().double()).eval()
    x = double(1, 2, 4, 4)
    rows = laws.jacobian(model, x).reshape(3, -1)
    assert (rows != 0).all(), "expected every pixel to matter"
    moved = x.clone()
    moved[..., :2, :2], moved[..., 2:, 2:] = x[..., 2:, 2:], x[..., :2, :2]
    laws.assert_differs(model(moved), model(x), by=1e-6, what="the feature with two patches exchanged")
    model.positional_embedding.data[1:] = model.positional_embedding.data[1]
    laws.assert_close(model(moved), model(x))  # without positions the patches are a set


def test_without_blocks_working_the_image_feature_is_the_class_token():
    """Blocks whose outputs are 0 leave ln_post(ln_pre(c + p)) · W, c the class token and p its place.

    Source: Radford et al. 2021, §2.4: an additional norm before the transformer; residual blocks.
    """
    model = without_blocks(laws.randomise(vision().double()).eval())
    state = model.state_dict()

    def norm(x, name):
        x = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    token = norm(norm(state["class_embedding"] + state["positional_embedding"][0], "ln_pre"), "ln_post")
    laws.assert_close(model(double(1, 2, 4, 4))[0], token @ state["projection"])


def test_a_model_of_transformers_scores_images_and_texts():
    """Images (2, …) and texts (3, …) give logits (2, 3); a text by itself or in a batch has the same feature.

    Source: Radford et al. 2021, §2.4.
    """
    model = laws.randomise(clip().double()).eval()
    assert model(double(2, 2, 4, 4), TOKENS).shape == (2, 3)
    laws.assert_close(model.encode_text(TOKENS[1:2])[0], model.encode_text(TOKENS)[1])
