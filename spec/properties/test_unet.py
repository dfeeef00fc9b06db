"""Properties of U-Net.  Ronneberger, Fischer & Brox 2015, arXiv:1505.04597."""

from math import exp, hypot, log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from impl.models.unet import Convolutions, UNet, border_weights, weighted_cross_entropy
from spec import cost, laws
from spec.cases.unet import cells, classes, unet
from spec.laws import double, random
from spec.strategies import floats, permutations, seeds, sizes, tensors, varied

pytestmark = pytest.mark.item("unet")
BOTH = pytest.mark.parametrize("padding", ["valid", "same"])


def all_random(module):
    return laws.randomise(module.double()).eval()


def smallest(depth, padding, extra=(0, 0)):
    """Height and width of a valid image, `extra` steps above the smallest."""
    if padding == "same":
        return [2**depth * (1 + k) for k in extra]
    lost = 4 * (3 * 2**depth - 2)
    first = next(n for n in range(lost + 1, lost + 1 + 2**depth) if (n - 4 * (2**depth - 1)) % 2**depth == 0)
    return [first + 2**depth * k for k in extra]


def reference(state, x, depth, padding):
    """The network by torch's functions, with the crop written out."""

    def two(x, name):
        for number in (1, 2):
            weight, bias = state[f"{name}.conv{number}.weight"], state[f"{name}.conv{number}.bias"]
            x = functional.conv2d(x, weight, bias, padding=int(padding == "same")).clamp(min=0)
        return x

    kept = []
    for level in range(depth):
        kept.append(two(x, f"contracting.{level}"))
        x = functional.max_pool2d(kept[-1], 2)
    x = two(x, f"contracting.{depth}")
    for level in range(depth - 1, -1, -1):
        x = functional.conv_transpose2d(x, state[f"up.{level}.weight"], state[f"up.{level}.bias"], stride=2)
        bridge = kept[level]
        edges = [(a - b) // 2 for a, b in zip(bridge.shape[2:], x.shape[2:])]
        bridge = bridge[:, :, edges[0] : bridge.shape[2] - edges[0], edges[1] : bridge.shape[3] - edges[1]]
        x = two(torch.cat([bridge, x], dim=1), f"expanding.{level}")
    return functional.conv2d(x, state["head.weight"], state["head.bias"])


# ---------------------------------------------------------------------------------------------- network


@pytest.mark.states("equivalence")
@BOTH
@pytest.mark.parametrize("depth", [1, 2])
def test_scores_are_those_of_the_figure(padding, depth):
    """Contraction, expansion and bridges are as in figure 1: the contracting path's features come first, then those of
    the up-convolution.

    Source: Ronneberger et al. 2015, figure 1.
    """
    model = all_random(unet(depth=depth, padding=padding))
    height, width = smallest(depth, padding, (1, 2))
    state, images = model.state_dict(), double(2, 3, height, width)
    laws.gradients_match(lambda x: model(x), lambda x: reference(state, x, depth, padding), images)


@given(depth=sizes(1, 3), up=sizes(0, 2), right=sizes(0, 2))
def test_valid_sizes_lose_their_edges(depth, up, right):
    """Without padding 4(3·2^d − 2) rows and columns fewer come out; sides that halve evenly are 2^d apart.

    Source: Ronneberger et al. 2015, figure 1: 572 → 388 with d = 4, §2: the tile's size is chosen for even maxima.
    """
    height, width = smallest(depth, "valid", (up, right))
    with torch.device("meta"):
        model = UNet(1, 2, 1, depth)
        found = tuple(model(torch.empty(2, 1, height, width)).shape)
    lost = 4 * (3 * 2**depth - 2)
    assert found == (2, 2, height - lost, width - lost), f"expected {lost} fewer of {height} × {width}, found {found}"


@pytest.mark.own_code
@given(depth=sizes(1, 3), side=st.integers(1, 100), padding=st.sampled_from(["valid", "same"]))
def test_other_sizes_are_refused(depth, side, padding):
    """A side whose maxima are not all even, or of which nothing would be left, raises ValueError; others work.

    Source: Ronneberger et al. 2015, §2: all 2 × 2 maxima are applied to layers of even size.
    """
    size, works = side, True
    for _ in range(depth):
        size -= 4 if padding == "valid" else 0
        works = works and size > 0 and size % 2 == 0
        size //= 2
    size -= 4 if padding == "valid" else 0
    works = works and size > 0
    for _ in range(depth):
        size = 2 * size - (4 if padding == "valid" else 0)
    works = works and size > 0
    model, other = UNet(1, 2, 1, depth, padding), smallest(depth, padding)[0]
    if works:
        assert model(random(1, 1, side, other)).shape[2] == size
        return
    shown = f"UNet(1, 2, 1, {depth}, {padding!r}) of an image of "
    laws.rejects(lambda: model(random(1, 1, side, other)), (str(side),), shown + f"{side} × {other}")
    laws.rejects(lambda: model(random(1, 1, other, side)), (str(side),), shown + f"{other} × {side}")


@pytest.mark.states("dependence")
def test_tiles_give_the_scores_of_the_whole_image():
    """Scores of a tile that begins at a multiple of 2^d are those of the whole image there; of others they are not.

    Source: Ronneberger et al. 2015, figure 2: the overlap-tile strategy.
    """
    model = all_random(unet(depth=2, in_channels=1))
    images = double(1, 1, 68, 72)
    whole = model(images)
    for top, left in ((0, 0), (4, 8), (12, 20), (8, 0)):
        tile = model(images[:, :, top : top + 52, left : left + 48])
        laws.assert_close(
            tile, whole[:, :, top : top + 12, left : left + 8], what=f"scores of the tile at {top}, {left}"
        )
    moved = model(images[:, :, 1:53, 2:50])
    laws.assert_differs(moved, whole[:, :, 1:13, 2:10], by=1e-6, what="scores of a tile at 1, 2")


@pytest.mark.states("symmetry")
@given(seed=seeds(), down=st.integers(0, 2), right=st.integers(0, 2))
def test_image_moved_by_whole_pools_has_its_scores_moved(seed, down, right):
    """In a border of zeros that is wide enough, an image moved by multiples of 2^d has its scores moved likewise.

    Source: Ronneberger et al. 2015, §2: a fully convolutional network.
    """
    model, size = all_random(unet(depth=1, in_channels=1)), 60
    images = torch.zeros(2, 1, size, size, dtype=torch.float64)
    images[:, :, 26:30, 26:30] = double(2, 1, 4, 4, seed=seed)
    laws.equivariant(model, images, lambda t: t.roll((2 * down, 2 * right), (2, 3)))


def test_bridges_carry_the_middle():
    """Where the up-convolutions give nothing and all kernels pass their middle on, positive pixels come out unmoved.

    Source: Ronneberger et al. 2015, §2: the cropped feature map; border pixels are lost in every convolution.
    """
    model = unet(in_channels=1, num_classes=1, base_channels=1, depth=2).double().eval()
    state = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    for name, value in state.items():
        if "conv" in name and name.endswith("weight"):
            value[0, 0, 1, 1] = 1
    state["head.weight"][0, 0] = 1
    model.load_state_dict(state)
    images = double(2, 1, 48, 52).abs()
    laws.assert_close(model(images), images[:, :, 20:28, 20:32])


@pytest.mark.states("limiting case")
@BOTH
def test_without_bridges_the_finest_details_are_those_of_the_coarse_path(padding):
    """Without weights for the bridges, only the 2^d × 2^d blocks' maxima of the deepest features reach the scores.

    The scores then are those of the deepest features alone: two images that share these share all scores.

    Source: Ronneberger et al. 2015, §2: high-resolution features are combined with the upsampled output.
    """
    model = all_random(unet(depth=1, padding=padding, base_channels=1, in_channels=1))
    state = model.state_dict()
    weight = state["expanding.0.conv1.weight"].clone()
    weight[:, :1] = 0
    for name in ("contracting.0.conv1.weight", "contracting.0.conv2.weight"):
        state[name] = torch.zeros_like(state[name])
        state[name][0, 0, 1, 1] = 1
    state |= {"contracting.0.conv1.bias": torch.zeros(1).double(), "contracting.0.conv2.bias": torch.zeros(1).double()}
    height, width = smallest(1, padding, (1, 2))
    images = double(1, 1, height, width).abs()
    first = slice(2, -2) if padding == "valid" else slice(None)  # where the first maximum looks
    other, inner = images.clone(), images[:, :, first, first]
    blocks = inner.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    other[:, :, first, first] = blocks.flip(3, 5).flatten(4, 5).flatten(2, 3)  # each block's pixels among themselves
    model.load_state_dict(state)
    laws.assert_differs(model(other), model(images), by=1e-6)
    model.load_state_dict(state | {"expanding.0.conv1.weight": weight})
    laws.assert_close(model(other), model(images), what="scores without bridges")


@pytest.mark.states("gradient routing")
@BOTH
def test_scores_reach_every_parameter(padding):
    """The scores depend on every parameter of both paths.

    Source: Ronneberger et al. 2015, figure 1.
    """
    model = all_random(unet(depth=2, padding=padding))
    images = double(2, 3, *smallest(2, padding, (1, 2)))
    laws.gradient_reaches(model(images).square().sum(), dict(model.named_parameters()))


@pytest.mark.states("cost")
@given(height=sizes(1, 3), width=sizes(1, 3))
def test_cost_is_that_of_its_convolutions(height, width):
    """A padded network of depth 1 takes 2·H·W·(9·(C·c + c² + 2c·c + c²) + 9·(2c² + 4c²)/4 + 2c·c + K·c) operations.

    Source: Ronneberger et al. 2015, figure 1: 3 × 3, up- and 1 × 1 convolutions at each size.
    """
    h, w, c = 2 * height, 2 * width, 2
    each = 9 * (3 * c + c * c + 2 * c * c + c * c) + 9 * (2 * c * c + 4 * c * c) // 4 + 2 * c * c + 5 * c
    found = cost.flops(unet(padding="same"), random(1, 3, h, w))
    assert found == 2 * h * w * each, f"expected {2 * h * w * each} operations, found {found}"


def test_weights_begin_in_scale():
    """Weights are N(0, 2/N) at first, N the number of values that an output takes in, and biases 0.

    Source: Ronneberger et al. 2015, §3: σ = √(2/N), e.g. N = 9·64 for a 3 × 3 convolution of 64 channels.
    Convention: an output of a 2 × 2 up-convolution of stride 2 takes in one pixel of each channel.
    """
    laws.reseed(0)
    state = UNet(3, 40, 24, 1).state_dict()
    incoming = {"contracting.0.conv2": 9 * 24, "contracting.1.conv1": 9 * 24, "contracting.1.conv2": 9 * 48}
    incoming |= {"up.0": 48, "expanding.0.conv1": 9 * 48, "head": 24, "contracting.0.conv1": 27}
    for name, n in incoming.items():
        weight = state[f"{name}.weight"].double()
        expected = torch.tensor((2 / n) ** 0.5).double()
        laws.assert_close(
            weight.std(), expected, rtol=0.12, because="600 samples or more, 4 standard errors", what=name
        )
        assert weight.mean().abs() < 5 * expected / weight.numel() ** 0.5, f"{name}: found a mean of {weight.mean()}"
        assert (state[f"{name}.bias"] == 0).all(), f"{name}: expected biases of 0"


@BOTH
def test_dropout_acts_where_the_contracting_path_ends(padding):
    """Features of the deepest level are dropped in training, all others never; in evaluation none is.

    Source: Ronneberger et al. 2015, §3.1: drop-out layers at the end of the contracting path.
    """
    model = all_random(unet(depth=1, padding=padding, dropout=1.0))
    images = double(2, 3, *smallest(1, padding, (1, 2)))
    state = model.state_dict()
    right = reference(state, images, 1, padding)
    laws.assert_close(model(images), right, what="scores in evaluation")
    nothing = {"contracting.1.conv2.weight": torch.zeros_like(state["contracting.1.conv2.weight"])}
    nothing |= {"contracting.1.conv2.bias": torch.zeros_like(state["contracting.1.conv2.bias"])}
    without = reference(state | nothing, images, 1, padding)
    laws.assert_close(model.train()(images), without, what="scores in training with dropout of 1")


@BOTH
def test_two_convolutions_are_rectified(padding):
    """ReLU(conv(ReLU(conv(x)))): both convolutions have a ReLU, so that features are never negative.

    Source: Ronneberger et al. 2015, §2: two 3 × 3 convolutions, each followed by a rectified linear unit.
    """
    module, x = all_random(Convolutions(2, 3, padding)), double(2, 2, 6, 7)
    state, pad = module.state_dict(), int(padding == "same")
    expected = functional.conv2d(x, state["conv1.weight"], state["conv1.bias"], padding=pad).clamp(min=0)
    expected = functional.conv2d(expected, state["conv2.weight"], state["conv2.bias"], padding=pad).clamp(min=0)
    laws.assert_close(module(x), expected)
    assert (expected == 0).any() and (expected > 0).any()


# ---------------------------------------------------------------------------------------------- weights


def by_pixels(cells, w0, sigma, balance):
    """Eq. 2 for one image, pixel by pixel."""
    height, width = cells.shape
    found = torch.zeros(height, width, dtype=torch.float64)
    inside = [(i, j) for i in range(height) for j in range(width) if cells[i, j]]
    for i in range(height):
        for j in range(width):
            found[i, j] = balance[int(cells[i, j] != 0)]
            nearest = {}
            for a, b in inside:
                k = int(cells[a, b])
                nearest[k] = min(nearest.get(k, 1e9), hypot(a - i, b - j))
            first = sorted(nearest.values())[:2]
            if not cells[i, j] and len(first) == 2:
                found[i, j] += w0 * exp(-(sum(first) ** 2) / (2 * sigma**2))
    return found


@given(
    cells=tensors((5, 6), low=0, high=3).map(lambda t: t.round().long()),
    w0=floats(0, 12),
    sigma=floats(0.5, 6),
    balance=st.tuples(floats(0, 2), floats(0, 2)),
)
def test_weights_are_those_of_equation_2(cells, w0, sigma, balance):
    """w = w_c + w₀ exp(−(d₁ + d₂)²/2σ²) at background, d₁ and d₂ the distances to the two nearest cells; w_c in cells.

    Source: Ronneberger et al. 2015, eq. 2.  Convention: to a cell's nearest pixel; without two cells w = w_c.
    """
    found = border_weights(cells, w0, sigma, torch.tensor(balance, dtype=torch.float64))
    laws.assert_close(found, by_pixels(cells, w0, sigma, balance))


def test_a_pixel_between_two_discs():
    """Where both cells are 2 pixels away, 10 exp(−16/50) = 7.2615 is added with w₀ = 10 and σ = 5; far away nothing.

    Source: Ronneberger et al. 2015, eq. 2 and its text: w₀ = 10 and σ ≈ 5 pixels.
    """
    y, x = torch.meshgrid(torch.arange(60), torch.arange(60), indexing="ij")
    cells = ((y - 30) ** 2 + (x - 20) ** 2 <= 64).long() + 2 * ((y - 30) ** 2 + (x - 40) ** 2 <= 64).long()
    assert cells[30, 28] == 1 and cells[30, 32] == 2
    found = border_weights(cells).double()
    laws.assert_close(found[30, 30], torch.tensor(1 + 10 * exp(-16 / 50)).double(), rtol=1e-6, because="float32")
    assert found[30, 20] == 1 and found[0, 0] < 1 + 1e-6, f"expected 1 in a cell and far away, found {found[0, 0]}"


@given(order=permutations(3))
def test_numbers_of_cells_are_names(order):
    """Cells numbered otherwise have the same weights, also where numbers are not consecutive or negative.

    Source: Ronneberger et al. 2015, eq. 2.
    """
    image = cells()[0]
    names = torch.tensor([0, *(torch.tensor([7, 100, -3])[order]).tolist()])
    laws.assert_close(border_weights(names[image]), border_weights(image))


def test_each_image_has_its_own_weights():
    """The weights of a batch, of any number of dimensions, are those of its images.

    Source: Ronneberger et al. 2015, eq. 2.
    """
    each = torch.stack([border_weights(image) for image in cells()])
    laws.assert_close(border_weights(cells()), each)
    laws.assert_close(border_weights(cells()[:, None]), each[:, None])
    assert border_weights(cells()[:0]).shape == (0, 7, 9), "expected weights of no image for no image"


@given(scores=varied((2, 4, 2, 3)), seed=seeds())
def test_loss_is_the_weighted_mean_of_pixels(scores, seed):
    """E = −1/(N·H·W) Σ w(x) ln(exp(a_{l(x)}(x))/Σₖ exp(aₖ(x))), and its gradient w(x)(p − 1_l)/(N·H·W).

    Source: Ronneberger et al. 2015, eq. 1, which leaves the sign out.  Convention: the mean over all pixels.
    """
    weights = double(2, 2, 3, seed=seed).abs()
    total, slope = 0.0, torch.zeros_like(scores)
    for n in range(2):
        for i in range(2):
            for j in range(3):
                powers = [exp(a) for a in scores[n, :, i, j].tolist()]
                k = int(classes()[n, i, j])
                total -= weights[n, i, j].item() * log(powers[k] / sum(powers))
                for other in range(4):
                    slope[n, other, i, j] = weights[n, i, j] * (powers[other] / sum(powers) - (other == k)) / 12
    leaf = scores.clone().requires_grad_()
    loss = weighted_cross_entropy(leaf, classes(), weights)
    laws.assert_close(loss, torch.tensor(total / 12, dtype=torch.float64))
    laws.assert_close(torch.autograd.grad(loss, leaf)[0], slope, what="gradient")


@pytest.mark.states("second derivative")
def test_loss_has_second_derivatives():
    """The gradient of the gradient to the scores equals central differences.

    Source: the definition of the derivative.
    """
    weights = double(2, 2, 3).abs()
    scores = double(2, 4, 2, 3)
    laws.gradient_correct(lambda t: weighted_cross_entropy(t, classes(), weights), scores, second_order=True)


def test_large_scores_are_no_difficulty():
    """Scores of thousands give their exact loss: 0 where the class is right, the difference where it is wrong.

    Source: eq. 1 in exact arithmetic.
    """
    scores = torch.zeros(1, 2, 1, 2)
    scores[0, 1] = 3000.0
    found = weighted_cross_entropy(scores, torch.tensor([[[1, 0]]]), torch.tensor([[[5.0, 2.0]]]))
    laws.assert_close(found, torch.tensor(3000.0))


def test_default_layout_has_23_convolutions():
    """Of its defaults 18 are 3 × 3, 4 up-convolutions 2 × 2 and one 1 × 1; channels go from 64 to 1024 and back.

    Source: Ronneberger et al. 2015, §2: in total the network has 23 convolutional layers.
    """
    with torch.device("meta"):
        shapes = [tuple(v.shape) for v in UNet(1, 2).state_dict().values() if v.dim() == 4]
    kernels = sorted(shape[2:] for shape in shapes)
    assert kernels == [(1, 1)] + 4 * [(2, 2)] + 18 * [(3, 3)], f"expected 23 convolutions, found {kernels}"
    assert max(shape[0] for shape in shapes) == 1024, f"expected 1024 channels at the bottom, found {shapes}"
