"""Properties of Segmenter.  Strudel et al. 2021, arXiv:2105.05633."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from impl.models.segmenter import MaskTransformer, Segmenter
from spec import cost, laws
from spec.cases.segmenter import encoder, linear_decoder, mask_transformer, segmenter
from spec.cases.vit import bilinear_weights, without_blocks
from spec.laws import double, random
from spec.strategies import permutations, seeds, sizes

pytestmark = pytest.mark.item("segmenter")


def all_random(module):
    return laws.randomise(module.double()).eval()


def norm(x, weight, bias):
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    return x * weight + bias


def enlarged(scores, size):
    """Scores of patches (n, k, rows, columns) at the pixels, each between the centres of the patches around it."""
    first, second = (bilinear_weights(n, n * size).to(scores.dtype) for n in scores.shape[2:])
    return torch.einsum("ai,bj,nkij->nkab", first, second, scores)


# ---------------------------------------------------------------------------------------------- pixels


@pytest.mark.states("equivalence")
@pytest.mark.parametrize("size", [(4, 6), (8, 6), (2, 2), (6, 10)])
@pytest.mark.parametrize("decoder", [linear_decoder, mask_transformer])
def test_scores_of_patches_are_enlarged_to_pixels(size, decoder):
    """A pixel's scores are the bilinear means of those of the patches around it: the decoder's, in rows and columns.

    Source: Strudel et al. 2021, §3.2: bilinearly upsampled.  Convention: centres of pixels, align_corners=False.
    """
    model, images = all_random(segmenter(decoder)), double(2, 1, *size)

    def reference(images):
        scores = model.decoder(model.encoder.encode(images)[:, 1:])
        return enlarged(scores.mT.reshape(2, 3, size[0] // 2, size[1] // 2), 2)

    laws.gradients_match(lambda images: model(images), reference, images)


class _Average(nn.Module):
    """An encoder whose state of a patch is its mean, and 100 for the class token."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Module()
        self.patches.patch_size = 2

    def encode(self, images):
        means = nn.functional.avg_pool2d(images, 2).flatten(2).mT
        return torch.cat([torch.full_like(means[:, :1], 100.0), means], dim=1)


def test_what_is_in_a_patch_shows_at_its_pixels():
    """With patches' means as states and scores, light in one patch shows there alone, brightest in its middle.

    Source: Strudel et al. 2021, §3: the sequence is rearranged into a map of patches; the class token is left out.
    """
    model, light = Segmenter(_Average(), nn.Identity()), double(1).abs().item() + 0.5
    for i in range(3):
        for j in range(4):
            images = torch.zeros(1, 1, 6, 8, dtype=torch.float64)
            images[0, 0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = light
            found = model(images)[0, 0] / light
            assert found.shape == (6, 8), f"expected a score for each pixel, found {tuple(found.shape)}"
            own = found[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            assert (own >= 0.5).all() and found.max() <= 1 + 1e-12, f"expected light at patch {i}, {j}, found {found}"
            outside = found.clone()
            outside[max(2 * i - 1, 0) : 2 * i + 3, max(2 * j - 1, 0) : 2 * j + 3] = 0
            assert (outside == 0).all(), f"expected light around patch {i}, {j} alone, found {found}"


@given(height=sizes(1, 6), width=sizes(1, 6), seed=seeds())
def test_any_size_is_padded_at_the_right_and_bottom(height, width, seed):
    """An image of any size gives the scores of the image with zeros to the next patch, cut to its own size.

    Source: Strudel et al. 2021, as released: padding before the encoder, unpadding after the upsampling.
    """
    model, images = all_random(segmenter()), double(2, 1, height, width, seed=seed)
    whole = torch.zeros(2, 1, height + height % 2, width + width % 2, dtype=torch.float64)
    whole[:, :, :height, :width] = images
    found = model(images)
    assert found.shape == (2, 3, height, width), f"expected a score for each pixel, found {tuple(found.shape)}"
    laws.assert_close(found, model(whole)[:, :, :height, :width])


def test_linear_scores_may_be_taken_before_or_after_enlarging():
    """With the linear decoder the enlarged scores are the scores of the enlarged states: weights of a mean sum to 1.

    Source: Strudel et al. 2021, §3.2, "Linear".
    """
    model, images = all_random(segmenter()), double(2, 1, 4, 6)
    states = enlarged(model.encoder.encode(images)[:, 1:].mT.reshape(2, 4, 2, 3), 2)
    after = model.decoder(states.flatten(2).mT).mT.reshape(2, 3, 4, 6)
    laws.assert_close(model(images), after)


@pytest.mark.states("dependence")
@pytest.mark.parametrize("decoder", [linear_decoder, mask_transformer])
def test_every_pixel_is_named_in_view_of_the_whole_image(decoder):
    """Each score depends on each pixel of the image.

    Source: Strudel et al. 2021, §1: global context at every layer.
    """
    model = all_random(segmenter(decoder))
    rows = laws.jacobian(model, double(1, 1, 4, 6)).reshape(3 * 24, 24)
    assert (rows != 0).all(), "expected every score to depend on every pixel"


# ---------------------------------------------------------------------------------------------- mask transformer


@given(seed=seeds(), scale=st.floats(0.1, 10))
def test_scores_are_cosines_normalized_over_the_classes(seed, scale):
    """Scores are cosines in [−1, 1], normalized over the classes; no length counts.

    Source: Strudel et al. 2021, eq. 5: L2-normalized patches and classes.  Convention: LN over them, as released.
    """
    module, states = all_random(mask_transformer()), double(2, 5, 4, seed=seed)
    cosines, state = module.cosines(states), module.state_dict()
    assert (cosines.abs() <= 1 + 1e-12).all() and cosines.std() > 0.01, f"expected cosines, found {cosines}"
    laws.assert_close(module(states), norm(cosines, state["score_norm.weight"], state["score_norm.bias"]))
    for name in ("patch_projection", "class_projection"):
        module.load_state_dict(state | {name: state[name] * scale})
        laws.assert_close(module.cosines(states), cosines, what=f"cosines with another length of {name}")


def test_without_blocks_a_cosine_is_that_of_the_projections():
    """Where the blocks add nothing, cosine (i, k) is that of LN(z_i W₀ + b₀) P and LN(cls_k) C.

    Source: Strudel et al. 2021, eq. 5.
    """
    module, states = without_blocks(all_random(mask_transformer())), double(2, 5, 4)
    state = module.state_dict()
    patches = norm(states @ state["input.weight"].T + state["input.bias"], state["norm.weight"], state["norm.bias"])
    classes = norm(state["classes"], state["norm.weight"], state["norm.bias"])
    patches, classes = patches @ state["patch_projection"], classes @ state["class_projection"]
    expected = torch.zeros(2, 5, 3, dtype=torch.float64)
    for n in range(2):
        for t in range(5):
            for k in range(3):
                a, b = patches[n, t], classes[k]
                expected[n, t, k] = (a @ b) / (a @ a).sqrt() / (b @ b).sqrt()
    laws.assert_close(module.cosines(states), expected)


@pytest.mark.states("symmetry")
@given(seed=seeds(), data=st.data())
def test_classes_and_patches_are_sets(seed, data):
    """Permuted patches have permuted scores; permuted class embeddings, with their norm's parameters, permuted classes.

    Source: Strudel et al. 2021, §3.2: class embeddings are processed jointly with patches; no position among them.
    """
    module, states = all_random(mask_transformer()), double(2, 5, 4, seed=seed)
    expected, state = module(states), module.state_dict()
    order = data.draw(permutations(5))
    laws.assert_close(module(states[:, order]), expected[:, order])
    order = data.draw(permutations(3))
    names = ("classes", "score_norm.weight", "score_norm.bias")
    module.load_state_dict(state | {name: state[name][order] for name in names})
    laws.assert_close(module(states), expected[:, :, order])


def test_classes_see_the_patches_and_one_another():
    """A score of one class depends on the embedding of each class, and on the state of each patch.

    Source: Strudel et al. 2021, §3.2: patch and class embeddings jointly.
    """
    module, states = all_random(mask_transformer()), double(1, 4, 4)
    rows = laws.jacobian(module.cosines, states).reshape(4, 3, 4, 4).abs().amax(3)
    assert (rows > 0).all(), "expected every cosine to depend on every patch"
    (gradient,) = torch.autograd.grad(module.cosines(states)[0, 0, 0], module.classes)
    assert (gradient.abs().amax(1) > 0).all(), "expected a class's cosine to depend on every class"


@pytest.mark.states("limiting case")
def test_a_patch_along_a_class_scores_highest():
    """Where a patch's projection is a positive multiple of one class's, their cosine is 1 and that score the highest.

    Source: Strudel et al. 2021, eq. 5.
    """
    module = without_blocks(all_random(mask_transformer(width=6)))
    state = module.state_dict()
    state |= {"input.weight": torch.eye(6).double(), "input.bias": torch.zeros(6).double()}
    state |= {"class_projection": state["patch_projection"]}
    state |= {"score_norm.weight": torch.ones(3).double(), "score_norm.bias": torch.zeros(3).double()}
    module.load_state_dict(state)
    states = 3 * state["classes"][None]
    laws.assert_close(
        module.cosines(states)[0].diagonal(),
        torch.ones(3).double(),
        rtol=1e-4,
        because="ε of LN counts less for longer",
    )
    assert module(states)[0].argmax(1).tolist() == [0, 1, 2], "expected each patch to be named by its class"


def test_class_embeddings_begin_small_and_projections_in_scale():
    """Class embeddings have a standard deviation of 0.02 at first, both projections one of 1/√width.

    Source: Strudel et al. 2021, as released.
    """
    laws.reseed(0)
    state = MaskTransformer(4, 60, 64).state_dict()
    for name, expected in (("classes", 0.02), ("patch_projection", 0.125), ("class_projection", 0.125)):
        found = state[name].double().std()
        laws.assert_close(found, torch.tensor(expected).double(), rtol=0.08, because="some thousand samples")


@pytest.mark.states("gradient routing")
@pytest.mark.parametrize("decoder", [linear_decoder, mask_transformer])
def test_scores_reach_encoder_and_decoder(decoder):
    """The scores depend on every parameter of both.

    Source: Strudel et al. 2021, §3: trained end to end.
    """
    model = all_random(segmenter(decoder))
    laws.gradient_reaches(model(double(2, 1, 4, 6)).square().sum(), dict(model.named_parameters()))


@pytest.mark.states("second derivative")
def test_scores_have_second_derivatives():
    """The gradient of the gradient to the states equals central differences.

    Source: the definition of the derivative.
    """
    module = all_random(mask_transformer())
    laws.gradient_correct(lambda states: module(states), double(1, 2, 4), second_order=True)


@pytest.mark.states("cost")
@given(n=sizes(1, 3), patches=sizes(1, 4))
def test_mask_transformer_is_a_transformer_of_patches_and_classes(n, patches):
    """With T = N + K tokens of width d it takes 2·(N·D·d + L·(12 T d² + 2 T² d) + T d² + N·K·d) operations an image.

    Source: Strudel et al. 2021, §3.2.
    """
    d, k, t = 6, 3, patches + 3
    expected = 2 * n * (patches * 4 * d + 12 * t * d * d + 2 * t * t * d + t * d * d + patches * k * d)
    found = cost.flops(mask_transformer(), random(n, patches, 4))
    assert found == expected, f"expected {expected} operations, found {found}"


def test_encoder_is_used_as_it_was_given():
    """The states that the decoder gets are those of the encoder without the class token.

    Source: Strudel et al. 2021, §3.1.
    """
    given, seen = all_random(encoder()), []

    class Watching(nn.Module):
        def forward(self, states):
            seen.append(states)
            return states

    images = double(2, 1, 4, 6)
    Segmenter(given, Watching())(images)
    laws.assert_close(seen[0], given.encode(images)[:, 1:])
