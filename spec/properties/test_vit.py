"""Properties of ViT.  Dosovitskiy et al. 2020, arXiv:2010.11929."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from impl.models.vit import PatchEmbedding, VisionTransformer, resize_positions
from spec import cost, laws
from spec.cases.vit import SETTINGS, bilinear_weights, vit, without_blocks
from spec.laws import double, random
from spec.strategies import permutations, seeds, sizes

pytestmark = pytest.mark.item("vit")


def model_of(**options):
    """A model in float64 whose parameters are all random."""
    return laws.randomise(vit(**options).double()).eval()


# ---------------------------------------------------------------------------------------------- patches


def patches_by_loops(images, size):
    """(n, rows · columns, c · P · P): each patch by itself, row by row."""
    n, _, height, width = images.shape
    rows = [
        images[:, :, i : i + size, j : j + size].reshape(n, -1)
        for i in range(0, height, size)
        for j in range(0, width, size)
    ]
    return torch.stack(rows, dim=1)


@pytest.mark.states("equivalence")
@given(n=sizes(1, 2), channels=sizes(1, 3), size=sizes(1, 3), rows=sizes(1, 3), columns=sizes(1, 3), seed=seeds())
def test_each_patch_is_embedded_by_one_matrix(n, channels, size, rows, columns, seed):
    """Token i is x_pⁱ E + b: the patches in rows from the top left, the pixels of each as c, row, column.

    Source: Dosovitskiy et al. 2020, §3.1, eq. 1.
    """
    layer = laws.randomise(PatchEmbedding(channels, 5, size).double(), seed)
    images = double(n, channels, rows * size, columns * size, seed=seed)
    matrix = layer.state_dict()["projection.weight"].reshape(5, -1)

    def reference(images):
        return patches_by_loops(images, size) @ matrix.T + layer.state_dict()["projection.bias"]

    laws.gradients_match(lambda images: layer(images), reference, images)


def test_one_pixel_reaches_one_token():
    """A token of the embedding depends on the pixels of its own patch alone.

    Source: Dosovitskiy et al. 2020, §3.1.
    """
    layer = laws.randomise(PatchEmbedding(1, 5, 2).double())
    rows = laws.jacobian(layer, double(1, 1, 4, 6)).reshape(6, 5, 4, 6).abs().amax(1)  # (tokens, height, width)
    for token in range(6):
        own = torch.zeros(4, 6, dtype=torch.bool)
        i, j = 2 * (token // 3), 2 * (token % 3)
        own[i : i + 2, j : j + 2] = True
        assert ((rows[token] != 0) == own).all(), f"expected token {token} to see its patch alone, found {rows[token]}"


# ---------------------------------------------------------------------------------------------- the model


def test_tokens_are_the_class_token_and_the_patches_with_positions():
    """Where the blocks add nothing, the last states are LN(class + p₀) and LN(patch i + pᵢ).

    Source: Dosovitskiy et al. 2020, eq. 1 and 4; pre-norm blocks are the identity when their outputs are 0.
    """
    model = without_blocks(model_of())
    state = model.state_dict()
    images = double(2, 3, 4, 6)
    matrix, bias = state["patches.projection.weight"].reshape(8, -1), state["patches.projection.bias"]
    z = patches_by_loops(images, 2) @ matrix.T + bias
    z = torch.cat([state["class_token"].expand(2, 1, 8), z], dim=1) + state["positions"]
    z = (z - z.mean(-1, keepdim=True)) / (z.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
    z = z * state["norm.weight"] + state["norm.bias"]
    laws.assert_close(model.encode(images), z)
    laws.assert_close(model(images), z[:, 0] @ state["head.weight"].T + state["head.bias"])


def test_without_attention_a_patch_never_reaches_the_class():
    """Where only the attention adds nothing, the logits depend on no pixel: patches meet in the attention alone.

    Source: Dosovitskiy et al. 2020, eq. 2 and 3.
    """
    model = without_blocks(model_of(), outputs=(".out_proj.",))
    x = double(1, 3, 4, 6)
    laws.assert_close(model(x), model(x + double(1, 3, 4, 6, seed=1)))


@pytest.mark.states("dependence")
def test_one_block_sees_the_whole_image():
    """With one block already, every token depends on every pixel.

    Source: Dosovitskiy et al. 2020, §3.1: self-attention layers are global.
    """
    model = model_of(num_layers=1)
    rows = laws.jacobian(model.encode, double(1, 3, 4, 6)).reshape(7, 8, -1).abs().amax(1)
    assert (rows > 0).all(), "expected every token to depend on every pixel"


@pytest.mark.states("symmetry")
@given(seed=seeds(), data=st.data())
def test_only_positions_order_the_patches(seed, data):
    """Exchanged patches leave the logits when all positions are alike, and change them when they are not.

    Source: Dosovitskiy et al. 2020, §3.1 and appendix D.4: without positions a bag of patches.
    """
    model, order = model_of(), data.draw(permutations(6))
    x = double(2, 3, 4, 6, seed=seed)
    tiles = x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(2, 3)  # (2, 3, 6, 2, 2)
    moved = tiles[:, :, order].unflatten(2, (2, 3)).permute(0, 1, 2, 4, 3, 5).reshape(2, 3, 4, 6)
    if order.tolist() != sorted(order.tolist()):
        laws.assert_differs(model(moved), model(x), by=1e-9, what="logits of exchanged patches")
    state = model.state_dict()
    state["positions"] = torch.cat([state["positions"][:1], state["positions"][1:2].expand(6, 8)])
    model.load_state_dict(state)
    laws.assert_close(model(moved), model(x))


@pytest.mark.states("limiting case")
def test_a_new_model_prefers_no_class():
    """The logits of a new model are 0, and its class token is 0; positions have a standard deviation of 0.02.

    Source: Dosovitskiy et al. 2020, §3.2: a zero-initialized head; positions as released.
    """
    laws.reseed(0)
    model = VisionTransformer(32, 2, 1, 4, 64, 64, 10)
    laws.assert_close(model(random(2, 3, 32, 32)).detach(), torch.zeros(2, 10))
    laws.assert_close(model.state_dict()["class_token"], torch.zeros(64))
    spread = model.state_dict()["positions"].double().std()
    laws.assert_close(spread, torch.tensor(0.02).double(), rtol=0.05, because="16,448 samples")


def test_without_a_head_the_class_state_comes_out():
    """With num_classes=None the output is y, the class token's last state, and the model has no head.

    Source: Dosovitskiy et al. 2020, eq. 4.
    """
    model, x = model_of(num_classes=None), double(2, 3, 4, 6)
    laws.assert_close(model(x), model.encode(x)[:, 0])
    assert not [name for name in model.state_dict() if "head" in name], "expected a model without a head"


@pytest.mark.states("gradient routing")
def test_class_loss_reaches_every_parameter():
    """The logits depend on every parameter of the model.

    Source: Dosovitskiy et al. 2020, eq. 1 to 4.
    """
    model = model_of()
    laws.gradient_reaches(model(double(2, 3, 4, 6)).square().sum(), dict(model.named_parameters()))


@pytest.mark.states("second derivative")
def test_logits_have_second_derivatives():
    """The gradient of the gradient to the pixels equals central differences.

    Source: the definition of the derivative.
    """
    model = model_of(num_layers=1, image_size=(2, 4), channels=1)
    laws.gradient_correct(lambda images: model(images), double(1, 1, 2, 4), second_order=True)


def test_dropout_acts_on_the_embedded_tokens_and_in_training_only():
    """With dropout 0.5 and blocks that add nothing, about half of the embedded numbers are 0 in training, none else.

    Source: Dosovitskiy et al. 2020, appendix B.1: dropout directly after adding positional to patch embeddings.
    """
    model = without_blocks(model_of(dropout=0.5, hidden_dim=64, num_layers=1))
    # Without scales in the norm, the numbers that were dropped have one value in each token: −mean/spread.
    model.load_state_dict(model.state_dict() | {"norm.weight": torch.ones(64), "norm.bias": torch.zeros(64)})
    x = double(8, 3, 4, 6)
    laws.reseed(0)
    tokens = model.train().encode(x)
    common = tokens.mode(-1).values[..., None]
    share = ((tokens - common).abs() < 1e-9).double().mean()
    assert 0.4 < share < 0.6, f"expected about half of the numbers dropped, found {share:.3f}"
    laws.assert_same(model.eval().encode(x), model.encode(x))


# ---------------------------------------------------------------------------------------------- other sizes


def resized_by_loops(positions, grid, wanted):
    """Each new place between the four old ones around it, centres of patches over an image of sides 1."""
    first, second = (bilinear_weights(*sizes) for sizes in zip(grid, wanted))
    found = torch.einsum("ai,bj,ijd->abd", first, second, positions.reshape(*grid, -1))
    return found.reshape(-1, positions.shape[1])


@given(grid=st.tuples(sizes(1, 4), sizes(1, 4)), wanted=st.tuples(sizes(1, 6), sizes(1, 6)), seed=seeds())
def test_positions_are_interpolated_in_two_dimensions(grid, wanted, seed):
    """Row by row, an embedding of the new grid is the bilinear mean of the four around its centre.

    Source: Dosovitskiy et al. 2020, §3.2: 2D interpolation.  Convention: centres of patches, as align_corners=False.
    """
    positions = double(grid[0] * grid[1], 3, seed=seed)
    laws.gradients_match(
        lambda p: resize_positions(p, grid, wanted), lambda p: resized_by_loops(p, grid, wanted), positions
    )


def test_the_grid_that_was_learned_keeps_its_positions():
    """To the same grid the interpolation is the identity, bit for bit.

    Source: Dosovitskiy et al. 2020, §3.2.
    """
    positions = random(6, 5)
    laws.assert_same(resize_positions(positions, (2, 3), (2, 3)), positions)


@pytest.mark.parametrize("size", [(8, 6), (4, 12), (2, 2), (6, 4)])
def test_images_of_another_size_have_interpolated_positions(size):
    """The model equals one of that size whose patch positions are interpolated and whose class position is the same.

    Source: Dosovitskiy et al. 2020, §3.2: higher resolution, same patch size.
    """
    model, other = model_of(), model_of(image_size=size)
    state, wanted = model.state_dict(), (size[0] // 2, size[1] // 2)
    moved = resized_by_loops(state["positions"][1:], (2, 3), wanted)
    other.load_state_dict(state | {"positions": torch.cat([state["positions"][:1], moved])})
    x = double(2, 3, *size)
    laws.assert_close(model.encode(x), other.encode(x))


@pytest.mark.states("cost")
@given(rows=sizes(1, 4), columns=sizes(1, 4))
def test_cost_is_quadratic_in_tokens_only_inside_of_the_attention(rows, columns):
    """With T = 1 + N tokens a forward pass is 2·(N·P²cD + L·T·(4D² + 2DM) + 2·L·T²·D + DK) operations.

    Source: Dosovitskiy et al. 2020, eq. 1 to 4; M the MLP's width, K classes.
    """
    s = SETTINGS
    n, d, layers = rows * columns, s["hidden_dim"], s["num_layers"]
    t = n + 1
    expected = (
        n * 12 * d + layers * t * (4 * d * d + 2 * d * s["mlp_dim"]) + 2 * layers * t * t * d + d * s["num_classes"]
    )
    found = cost.flops(vit(image_size=(2 * rows, 2 * columns)), random(1, 3, 2 * rows, 2 * columns))
    assert found == 2 * expected, f"expected {2 * expected} operations, found {found}"
