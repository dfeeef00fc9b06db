"""Properties of MAE.  He et al. 2021, arXiv:2111.06377."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from impl.models.mae import grid_positions, patchify, random_masking, unpatchify
from spec import cost, laws
from spec.cases.mae import NOISE, SETTINGS, mae
from spec.cases.vit import without_blocks
from spec.laws import double, random
from spec.strategies import permutations, seeds, sizes

pytestmark = pytest.mark.item("mae")


def model_of(**options):
    """A model in float64 whose parameters are all random."""
    return laws.randomise(mae(**options).double()).eval()


def norm(x, state, name):
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
    return x * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


# ---------------------------------------------------------------------------------------------- masking


@given(patches=sizes(1, 20), tenths=sizes(0, 9), n=sizes(1, 3), seed=seeds())
def test_a_fixed_number_of_patches_is_kept_of_each_image(patches, tenths, n, seed):
    """Of t patches ⌊t (1 − r)⌋ are kept, each once and in the order of their noise; the mask is True at all others.

    Source: He et al. 2021, §3, "Masking" and "Simple implementation".
    """
    noise = torch.stack([torch.randperm(patches, generator=torch.Generator().manual_seed(seed + k)) for k in range(n)])
    kept, hidden = random_masking(noise / patches, tenths / 10)
    count = patches * (10 - tenths) // 10
    assert kept.shape == (n, count), f"expected {count} of {patches} kept, found {tuple(kept.shape)}"
    assert hidden.dtype == torch.bool and hidden.shape == (n, patches), "expected a Boolean for each patch"
    for row in range(n):
        order = sorted(range(patches), key=lambda k: noise[row, k])
        assert kept[row].tolist() == order[:count], f"expected {order[:count]} kept, found {kept[row].tolist()}"
        seen = {k for k in range(patches) if not hidden[row, k]}
        assert seen == set(order[:count]), f"expected the mask to be False at {order[:count]}, found {sorted(seen)}"


def test_rounding_loses_no_patch():
    """At r = 0.75 of 196 patches 49 are kept; of 10 and 0.9 one, though 10 · (1 − 0.9) < 1 in floating point.

    Source: He et al. 2021, §3 and table 1; ⌊t (1 − r)⌋ of the decimal r.
    """
    for patches, ratio, count in [(196, 0.75, 49), (10, 0.9, 1), (20, 0.9, 2), (5, 0.8, 1), (100, 0.99, 1)]:
        kept, _ = random_masking(random(2, patches), ratio)
        assert kept.shape == (2, count), f"expected {count} of {patches} kept, found {tuple(kept.shape)}"


def test_each_patch_is_hidden_equally_often_and_each_image_for_itself():
    """Of 3,000 images every patch is hidden in the share ⌈t r⌉/t; the images of a batch differ, and two calls do.

    Source: He et al. 2021, §3: uniform, without replacement.
    """
    model = model_of(num_layers=1)
    laws.reseed(0)
    with torch.no_grad():
        _, hidden = model(double(1, 3, 4, 6).expand(3000, -1, -1, -1), 0.5)
        _, again = model(double(1, 3, 4, 6).expand(3000, -1, -1, -1), 0.5)
    share = hidden.double().mean(0)
    assert (share - 0.5).abs().max() < 0.05, f"expected each patch hidden half of the time, found {share}"
    together = (hidden[:, 0] & hidden[:, 1]).double().mean()  # 1/2 · 2/5 without replacement
    assert (together - 0.2).abs() < 0.04, f"expected two patches hidden together in 0.2, found {together:.3f}"
    assert (hidden != hidden[:1]).any() and (hidden != again).any(), "expected masks to be drawn anew"


# ---------------------------------------------------------------------------------------------- patches, positions


@given(n=sizes(1, 2), c=sizes(1, 3), size=sizes(1, 3), rows=sizes(1, 3), columns=sizes(1, 3), seed=seeds())
def test_a_patch_is_its_rows_of_pixels(n, c, size, rows, columns, seed):
    """patchify lists the patches row by row, each as (row, column, channel); unpatchify is its inverse.

    Source: He et al. 2021, as released: nchpwq → nhwpqc.
    """
    images = double(n, c, rows * size, columns * size, seed=seed)
    found = patchify(images, size)
    for i in range(rows):
        for j in range(columns):
            part = images[:, :, i * size : (i + 1) * size, j * size : (j + 1) * size]
            laws.assert_same(found[:, i * columns + j], part.permute(0, 2, 3, 1).reshape(n, -1), f"patch {i}, {j}")
    laws.assert_same(unpatchify(found, size, (rows, columns)), images)


@given(rows=sizes(1, 4), columns=sizes(1, 4), quarter=sizes(1, 3))
def test_positions_are_sines_and_cosines_of_column_and_row(rows, columns, quarter):
    """Place (y, x) has [sin xω, cos xω, sin yω, cos yω], ω_i = 10000^(−i/(d/4)).

    Source: He et al. 2021, appendix A.1.  Convention: the column first, as released.
    """
    found = grid_positions(rows, columns, 4 * quarter)
    omega = [10000 ** (-i / quarter) for i in range(quarter)]
    for y in range(rows):
        for x in range(columns):
            expected = [f(p * w) for p in (x, y) for f in (math.sin, math.cos) for w in omega]
            laws.assert_close(
                found[y * columns + x].double(), torch.tensor(expected).double(), atol=1e-6, because="float32"
            )


# ---------------------------------------------------------------------------------------------- the encoder


@pytest.mark.states("dependence")
def test_encoder_sees_kept_patches_alone():
    """States and predictions depend on every pixel of the kept patches and on no pixel of the hidden ones.

    Source: He et al. 2021, §3, "MAE encoder": it operates on the visible patches only.
    """
    model, noise = model_of(num_layers=1), NOISE[:1].double()
    kept, hidden = random_masking(noise, 0.5)
    pixels = (~hidden).reshape(2, 3).repeat_interleave(2, 0).repeat_interleave(2, 1)
    for function in (lambda x: model.encode(x, kept), lambda x: model(x, 0.5, noise)[0]):
        rows = laws.jacobian(function, double(1, 3, 4, 6)).reshape(-1, 3, 4, 6).abs().amax((0, 1))
        assert ((rows > 0) == pixels).all(), f"expected to see the kept patches alone, found {rows > 0}"


@pytest.mark.states("symmetry")
@given(seed=seeds(), data=st.data())
def test_states_follow_the_order_of_the_kept_patches(seed, data):
    """Patches kept in another order have the same states in that order; by default all are kept in theirs.

    Source: He et al. 2021, §3: positions are added before patches are left out.
    """
    model, images, order = model_of(), double(2, 3, 4, 6, seed=seed), data.draw(permutations(6))
    whole = model.encode(images)
    found = model.encode(images, order.expand(2, 6))
    laws.assert_close(found[:, 0], whole[:, 0])
    laws.assert_close(found[:, 1:], whole[:, 1:][:, order])


def test_a_kept_patch_has_its_own_position():
    """Where the blocks add nothing the states are LN(class) and LN(x_i E + p_i) of the kept patches.

    Source: He et al. 2021, §3; the class token has no position.
    """
    model = without_blocks(model_of())
    state, images = model.state_dict(), double(3, 3, 4, 6)
    kept, _ = random_masking(NOISE, 0.5)
    layout = images.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).reshape(3, 6, 12)
    x = layout @ state["patches.projection.weight"].reshape(8, 12).T + state["patches.projection.bias"]
    x = x + grid_positions(2, 3, 8)
    expected = torch.stack([torch.cat([state["class_token"][None], x[n, kept[n]]]) for n in range(3)])
    laws.assert_close(model.encode(images, kept), norm(expected, state, "norm"))


# ---------------------------------------------------------------------------------------------- the decoder


def test_every_patch_is_painted_at_its_place():
    """Where the decoder's blocks add nothing, patch i is W LN(z_i + p′_i) + b, z_i its state or the mask token.

    Source: He et al. 2021, §3, "MAE decoder": mask tokens, positions for all tokens of the full set.
    """
    model = without_blocks(model_of())
    state, latent = model.state_dict(), double(3, 4, 8)
    kept, hidden = random_masking(NOISE, 0.5)
    z = linear(latent, state, "decoder_input")
    expected = state["mask_token"].expand(3, 6, 4).clone()
    for n in range(3):
        for k in range(3):
            expected[n, kept[n, k]] = z[n, 1 + k]
    expected = norm(expected + grid_positions(2, 3, 4), state, "decoder_norm")
    laws.assert_close(model.decode(latent, kept), linear(expected, state, "head"))


def test_class_token_helps_to_paint():
    """Each predicted patch depends on the state of the class token and on that of each kept patch.

    Source: He et al. 2021, §3: the decoder's input is the full set of tokens.
    """
    model = model_of()
    kept, _ = random_masking(NOISE[:1], 0.5)
    rows = laws.jacobian(lambda latent: model.decode(latent, kept), double(1, 4, 8)).reshape(6, 12, 4, 8)
    assert (rows.abs().amax((1, 3)) > 0).all(), "expected every patch to depend on every state"


def test_prediction_is_decoder_after_encoder():
    """forward is decode(encode(images, kept), kept) with the masks of `random_masking`, at r = 0.75 by default.

    Source: He et al. 2021, §3.
    """
    model, images, noise = model_of(), double(2, 3, 4, 6), double(2, 6, seed=1)
    kept, hidden = random_masking(noise, 0.75)
    prediction, found = model(images, noise=noise)
    laws.assert_same(found, hidden)
    laws.assert_close(prediction, model.decode(model.encode(images, kept), kept))


# ---------------------------------------------------------------------------------------------- targets and loss


@pytest.mark.states("equivalence")
@pytest.mark.parametrize("normalize", [False, True])
def test_loss_is_the_error_of_the_hidden_patches(normalize):
    """L = the mean over hidden patches of the mean over their numbers of (prediction − target)².

    Source: He et al. 2021, §3, "Reconstruction target": as in BERT, only on masked patches.
    """
    model, images = model_of(normalize_targets=normalize), double(3, 3, 4, 6)
    prediction, hidden = model(images, 0.3, NOISE.double())  # ⌊6 · 0.7⌋ = 4 kept, 2 hidden of each
    total, count = 0, 0
    for n in range(3):
        for t in range(6):
            if hidden[n, t]:
                i, j = 2 * (t // 3), 2 * (t % 3)
                patch = images[n, :, i : i + 2, j : j + 2].permute(1, 2, 0).flatten()
                if normalize:
                    mean = patch.sum() / 12
                    patch = (patch - mean) / (((patch - mean) ** 2).sum() / 11 + 1e-6).sqrt()
                total, count = total + ((prediction[n, t] - patch) ** 2).sum() / 12, count + 1
    assert count == 6, f"expected 2 hidden patches of each image, found {count} in all"
    laws.assert_close(model.loss(images, 0.3, NOISE.double()), total / count)


@given(seed=seeds(), scale=st.floats(0.5, 4), shift=st.floats(-3, 3))
def test_normalized_targets_know_no_brightness_or_contrast(seed, scale, shift):
    """A patch's target has mean 0, variance 1 and is that of a·patch + b too; a patch of one value has the target 0.

    Source: He et al. 2021, §3: normalized pixel values of each patch.
    """
    model, images = model_of(normalize_targets=True), double(2, 3, 4, 6, seed=seed)
    targets = model.targets(images)
    laws.assert_close(targets.mean(2), torch.zeros(2, 6).double(), atol=1e-9, because="a sum of twelve")
    laws.assert_close(
        targets.var(2), torch.ones(2, 6).double(), rtol=1e-3, because="the patch's variance has 1e-6 added"
    )
    moved = model.targets(images * scale + shift)
    laws.assert_close(moved, targets, rtol=1e-3, atol=1e-3, because="the patch's variance has 1e-6 added")
    flat = images.clone()
    flat[:, :, :2, :2] = 0.7
    laws.assert_close(
        model.targets(flat)[:, 0], torch.zeros(2, 12).double(), atol=1e-9, because="0.7 thrice has a rounding"
    )


@pytest.mark.states("limiting case")
def test_plain_targets_are_the_patches():
    """Without normalization the targets are the patches as they are, and painting them exactly costs nothing.

    Source: He et al. 2021, §3.
    """
    model, images = without_blocks(model_of()), double(2, 3, 4, 6)
    laws.assert_same(model.targets(images), patchify(images, 2))
    state = model.state_dict()
    one = double(12)
    state["head.weight"], state["head.bias"] = torch.zeros_like(state["head.weight"]), one
    model.load_state_dict(state)
    same = unpatchify(one.expand(2, 6, 12), 2, (2, 3))
    laws.assert_close(model.loss(same, 0.5, NOISE[:2].double()), torch.tensor(0.0).double())


@pytest.mark.states("gradient routing")
def test_loss_trains_encoder_decoder_and_mask_token():
    """The loss reaches every parameter.

    Source: He et al. 2021, §3: encoder and decoder are trained together.
    """
    model = model_of()
    laws.gradient_reaches(model.loss(double(3, 3, 4, 6), 0.5, NOISE.double()), dict(model.named_parameters()))


@pytest.mark.states("second derivative")
def test_loss_has_second_derivatives():
    """The gradient of the gradient to the pixels equals central differences.

    Source: the definition of the derivative.
    """
    model = model_of(num_layers=1, image_size=(2, 6), channels=1)
    noise = NOISE[:1, :3].double()
    laws.gradient_correct(lambda images: model.loss(images, 0.5, noise), double(1, 1, 2, 6), second_order=True)


@pytest.mark.states("cost")
@given(kept=sizes(1, 6))
def test_encoder_pays_for_the_kept_patches_alone(kept):
    """With T = 1 + k kept patches the encoder's blocks cost 2·L·(12 T d² + 2 T² d), the patches' embedding 2·N·P²c·d.

    Source: He et al. 2021, §3 and table 1c: mask tokens are left to the decoder.
    """
    d, t = SETTINGS["width"], kept + 1
    chosen = torch.arange(kept).expand(1, kept)
    found = cost.flops(lambda x: mae().encode(x, chosen), random(1, 3, 4, 6))
    expected = 2 * (6 * 12 * d + SETTINGS["num_layers"] * (12 * t * d * d + 2 * t * t * d))
    assert found == expected, f"expected {expected} operations, found {found}"


def test_paper_saves_three_quarters_of_the_encoder():
    """ViT-L on 50 tokens in place of 197 costs a quarter, and a decoder's token a twelfth of an encoder's.

    Source: He et al. 2021, §3 (under 10 % a token) and table 1c (3.3 times fewer operations with the decoder counted).
    """

    def blocks(layers, t, d):
        return layers * (12 * t * d * d + 2 * t * t * d)

    with torch.device("meta"):
        model = mae(
            image_size=224,
            patch_size=16,
            width=1024,
            num_layers=24,
            num_heads=16,
            decoder_width=512,
            decoder_layers=8,
            decoder_heads=16,
        )
        images, few = random(1, 3, 224, 224).to("meta"), torch.arange(49)[None]
        embedding = 2 * 196 * 768 * 1024
        masked = cost.flops(lambda x: model.encode(x, few), images) - embedding
        whole = cost.flops(model.encode, images) - embedding
        painted = cost.flops(lambda z: model.decode(z, few), torch.empty(1, 50, 1024))
    assert masked == 2 * blocks(24, 50, 1024) and whole == 2 * blocks(24, 197, 1024), (
        "expected the counts of the formula"
    )
    assert 4.0 < whole / masked < 4.1, f"expected a quarter of the operations, found {whole / masked:.3f}"
    saved = (whole + painted) / (masked + painted)
    assert 3.2 < saved < 3.4, f"expected 3.3 times fewer operations, found {saved:.3f}"
