"""PixelCNN.  van den Oord, Kalchbrenner & Kavukcuoglu 2016, arXiv:1601.06759; gates, two stacks, conditions: van den
Oord et al. 2016, arXiv:1606.05328."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import conv2d, cross_entropy, pad

from impl.models.pixelcnn import GatedPixelCNNLayer, MaskedConv2d, PixelCNN
from spec import cost, laws
from spec.cases.pixelcnn import layer, levels, masked, model
from spec.laws import double, random
from spec.strategies import seeds, sizes, varied

pytestmark = pytest.mark.item("pixelcnn")

MASKS = st.sampled_from(["A", "B"])


def raise_all(module, low: float = 0.02, high: float = 0.1):
    """Every parameter positive and small, so that no ReLU is off and no gate saturated; float64."""
    generator = torch.Generator().manual_seed(0)
    for parameter in laws.parameters_of(module.double()).values():
        values = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.copy_(low + (high - low) * values)
    return module


def far_from_uniform(*arguments, seed: int = 0, **settings):
    """A float64 PixelCNN whose random weights are large enough to matter."""
    net = PixelCNN(*arguments, **settings).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in laws.parameters_of(net).values():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return net


def positions(channels: int, height: int, width: int, groups: int):
    """(channel, row, column, colour) of each element of a flattened image, as four vectors."""
    found = [(c, i, j, c * groups // channels) for c in range(channels) for i in range(height) for j in range(width)]
    return torch.tensor(found).unbind(1)


def comes_before(outputs, inputs, own: bool):
    """Is input pixel and colour before the output's in the order of the image, or its own where that is allowed?"""
    (_, row, column, colour), (_, other_row, other_column, other_colour) = (
        [t[:, None] for t in outputs],
        [t[None] for t in inputs],
    )
    same = (other_row == row) & (other_column == column)
    earlier = (other_row < row) | ((other_row == row) & (other_column < column))
    return earlier | (same & ((other_colour <= colour) if own else (other_colour < colour)))


def near(outputs, inputs, height: int, width: int):
    """Does the input's pixel lie under a kernel of height × width around the output's?"""
    rows, columns = outputs[1][:, None] - inputs[1][None], outputs[2][:, None] - inputs[2][None]
    return (rows.abs() <= height // 2) & (columns.abs() <= width // 2)


def all_images(levels: int, *shape):
    values = torch.tensor(list(itertools.product(range(levels), repeat=math.prod(shape))))
    return values.view(-1, *shape)


# ---------------------------------------------------------------------------------------------- masks


@pytest.mark.states("dependence")
@given(
    groups=sizes(1, 3),
    kernel=st.sampled_from([(1, 1), (3, 3), (1, 3), (3, 5), (5, 1)]),
    mask_type=MASKS,
    per_input=sizes(1, 2),
    per_output=sizes(1, 2),
)
def test_a_mask_hides_what_comes_after(groups, kernel, mask_type, per_input, per_output):
    """An output depends on pixels before its own under the kernel, and at its own on colours before it (B: and on it).

    Source: van den Oord et al. 2016, arXiv:1601.06759, §3.4, figure 2: raster order of pixels, then R, G, B.
    Convention: channels are blocks of one colour after another.
    """
    height, width = 3, 4
    convolution = raise_all(MaskedConv2d(per_input * groups, per_output * groups, kernel, mask_type, groups))
    outputs = positions(per_output * groups, height, width, groups)
    inputs = positions(per_input * groups, height, width, groups)
    allowed = comes_before(outputs, inputs, own=mask_type == "B") & near(outputs, inputs, *kernel)
    laws.depends_only_on(lambda x: convolution(x[None])[0], double(per_input * groups, height, width), allowed=allowed)


@pytest.mark.states("equivalence")
@given(x=varied((2, 4, 3, 5)), mask_type=MASKS, bias=st.booleans())
def test_masking_is_convolution_with_zeros(x, mask_type, bias):
    """The layer is a zero-padded convolution whose hidden weights are 0, whatever they hold; their gradient is 0.

    Source: van den Oord et al. 2016, arXiv:1601.06759, §3.4.
    """
    convolution = laws.randomise(MaskedConv2d(4, 6, (5, 3), mask_type, num_groups=2, bias=bias).double())
    kept = torch.zeros(6, 4, 5, 3, dtype=torch.float64)
    for o, c, i, j in itertools.product(range(6), range(4), range(5), range(3)):
        colours = o // 3 - c // 2
        centre = (i, j) == (2, 1) and (colours > 0 or (colours == 0 and mask_type == "B"))
        kept[o, c, i, j] = i < 2 or (i == 2 and j < 1) or centre

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name, value in convolution.state_dict().items():
                self.register_parameter(name, torch.nn.Parameter(value.clone()))

        def forward(self, x):
            return conv2d(x, self.weight * kept, self.bias if bias else None, padding=(2, 1))

    laws.gradients_match(convolution, Plain(), x)


# ---------------------------------------------------------------------------------------------- one gated layer


def seen_by_a_layer(mask_type: str, kernel: int, groups: int, channels: tuple[int, int], height: int, width: int):
    """Which of v and h the two outputs of a layer depend on: (2, 2) masks of (outputs, inputs)."""
    inputs = positions(channels[0], height, width, groups)
    outputs = positions(channels[1], height, width, groups)
    rows = outputs[1][:, None] - inputs[1][None]
    columns = (outputs[2][:, None] - inputs[2][None]).abs()
    vertical = (rows >= (mask_type == "A")) & (rows <= kernel // 2) & (columns <= kernel // 2)
    same_row = (rows == 0) & (columns <= kernel // 2)
    horizontal = same_row & comes_before(outputs, inputs, own=mask_type == "B")
    return vertical, horizontal


@pytest.mark.states("dependence")
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("mask_type", ["A", "B"])
def test_stacks_see_the_rows_above_and_this_row_so_far(mask_type, groups):
    """v' depends on v in rows above (with B its own) and on no h; h' on that and on h to the left, with B at its pixel.

    Source: van den Oord et al. 2016, arXiv:1606.05328, §2.2, figure 2: the vertical stack must not see the horizontal.
    """
    channels, size = (2 if mask_type == "A" else 4, 4), (4, 5)
    net = raise_all(GatedPixelCNNLayer(4, 3, mask_type, channels[0], num_groups=groups))
    vertical, horizontal = seen_by_a_layer(mask_type, 3, groups, channels, *size)
    v, h = double(channels[0], *size), double(channels[0], *size, seed=1)
    nothing = torch.zeros_like(vertical)

    def part(k, of):
        def function(t):
            return net(*((t[None], h[None]) if of == "v" else (v[None], t[None])))[k][0]

        return function

    laws.depends_only_on(part(0, "v"), v, vertical)
    laws.depends_only_on(part(0, "h"), h, nothing)
    laws.depends_only_on(part(1, "v"), v, vertical)
    laws.depends_only_on(part(1, "h"), h, horizontal)


class ByTorch(torch.nn.Module):
    """The equations of a layer over torch's convolution, with the weights of ours, for groups of one kind."""

    def __init__(self, ours, mask_type: str, kernel: int, groups: int):
        super().__init__()
        self.weights = torch.nn.ParameterDict(
            {name.replace(".", "_"): value.clone() for name, value in ours.state_dict().items()}
        )
        self.first, self.kernel, self.groups = mask_type == "A", kernel, groups

    def masked(self, name, allowed):
        """A weight whose last tap, its own pixel, is cut to the colours that `allowed` compares."""
        weight = self.weights[f"{name}_weight"]
        of = torch.arange(weight.shape[1]) * self.groups // weight.shape[1]
        to = torch.arange(weight.shape[0]) * self.groups // weight.shape[0]
        mask = torch.ones_like(weight)
        mask[..., weight.shape[-1] // 2 + 1 :] = 0
        mask[..., weight.shape[-1] // 2] = allowed(of[None], to[:, None]).to(mask.dtype)[..., None]
        return weight * mask

    def forward(self, v, h, condition=None):
        w, side = self.weights, self.kernel // 2
        above = conv2d(pad(v, (side, side, side, 0)), w["vertical_weight"], w["vertical_bias"])[:, :, : v.shape[2]]
        colours = torch.lt if self.first else torch.le
        left = conv2d(h, self.masked("horizontal", colours), w["horizontal_bias"], padding=(0, side))
        if condition is not None:
            c = condition if condition.dim() == 4 else condition[:, :, None, None]
            above = above + torch.einsum("of,bfhw->bohw", w["condition_vertical_weight"][..., 0, 0], c)
            left = left + torch.einsum("of,bfhw->bohw", w["condition_horizontal_weight"][..., 0, 0], c)
        left = left + conv2d(above, w["to_horizontal_weight"], w["to_horizontal_bias"])
        made = conv2d(self.gate(left), self.masked("output", torch.le), w["output_bias"])
        return self.gate(above), made if self.first else made + h

    def gate(self, a):
        blocks = [torch.tanh(b[:, : b.shape[1] // 2]) * torch.sigmoid(b[:, b.shape[1] // 2 :]) for b in self.split(a)]
        return torch.cat(blocks, dim=1)

    def split(self, a):
        return a.tensor_split(self.groups, dim=1)


@pytest.mark.states("equivalence")
@given(
    mask_type=MASKS,
    groups=st.sampled_from([1, 2]),
    kernel=st.sampled_from([3, 5]),
    condition=st.sampled_from([None, (2, 3), (2, 3, 4, 5)]),
    seed=seeds(),
)
def test_a_layer_is_its_equations(mask_type, groups, kernel, condition, seed):
    """v' = gate(v̂), h' = output(gate(horizontal(h) + to_horizontal(v̂) + V_h c)) + h with B, gate = tanh ⊙ σ by halves.

    v̂ = vertical(v) + V_v c. Values and all gradients, of a second implementation over torch's convolution.

    Source: van den Oord et al. 2016, arXiv:1606.05328, eq. 2-4, figure 2.
    """
    features = condition and condition[1]
    inputs = 2 if mask_type == "A" else 4
    ours = GatedPixelCNNLayer(4, kernel, mask_type, inputs, groups, features).double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in laws.parameters_of(ours).values():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / 2)
    given_to_both = [double(2, inputs, 4, 5, seed=seed), double(2, inputs, 4, 5, seed=seed + 1)]
    given_to_both += [double(*condition, seed=seed + 2)] if condition else []
    laws.gradients_match(ours, ByTorch(ours, mask_type, kernel, groups), *given_to_both)


@pytest.mark.states("limiting case")
def test_the_residual_connection_is_in_the_horizontal_stack_alone():
    """Where `output` is 0, h' = h in a layer with mask B, and 0 in the first; v' is the gate alone, without v.

    Source: van den Oord et al. 2016, arXiv:1606.05328, §2.2, figure 2: the residual connection is the horizontal
    stack's; one in the first layer would hand the pixel to itself.
    """
    for mask_type in ("A", "B"):
        net = layer(mask_type).double()
        inputs = 2 if mask_type == "A" else 4
        net.load_state_dict({k: torch.zeros_like(v) for k, v in net.state_dict().items()})
        v, h = double(2, inputs, 3, 5), double(2, inputs, 3, 5, seed=1)
        down, along = net(v, h)
        laws.assert_close(along, h if mask_type == "B" else torch.zeros(2, 4, 3, 5, dtype=torch.float64))
        laws.assert_close(down, torch.zeros(2, 4, 3, 5, dtype=torch.float64))


@pytest.mark.states("second derivative")
def test_second_derivatives_of_a_layer():
    """The gradient of the gradient equals central differences, through both gates.

    Source: the definition of the derivative.
    """
    torch.manual_seed(0)
    net = GatedPixelCNNLayer(1, 3, "A", 1)
    laws.gradient_correct(net, double(1, 1, 2, 3), double(1, 1, 2, 3, seed=1), second_order=True)


def test_a_condition_is_a_bias():
    """V c is added before the gates: V = 0 is no condition, (B, F) is the same at every pixel, (B, F, H, W) is local.

    Source: van den Oord et al. 2016, arXiv:1606.05328, eq. 3-4: a vector is no function of the location.
    """
    net = raise_all(layer("B", 3))
    v, h, c = double(2, 4, 5, 6), double(2, 4, 5, 6, seed=1), double(2, 3, seed=2)
    everywhere = c[:, :, None, None].expand(2, 3, 5, 6)
    laws.assert_all_close(list(net(v, h, c)), list(net(v, h, everywhere)))
    state = {k: v.clone() for k, v in net.state_dict().items()}
    plain = layer("B").double()
    plain.load_state_dict({k: v for k, v in state.items() if not k.startswith("condition")})
    without = {k: torch.zeros_like(v) if k.startswith("condition") else v for k, v in state.items()}
    net.load_state_dict(without)
    laws.assert_all_close(list(net(v, h, c)), list(plain(v, h)))
    net.load_state_dict({k: v if k.startswith("condition") or "bias" in k else 0 * v for k, v in state.items()})
    nothing = torch.zeros(2, 4, 5, 6, dtype=torch.float64)
    for part in net(nothing, nothing, c):
        laws.assert_close(part, part[:, :, :1, :1].expand_as(part), what="a map of a condition alone")
    net.load_state_dict(state)
    local = everywhere.clone()
    local[1, :, 2, 3] += 1
    changed = [((a - b).abs() > 1e-9).any(1) for a, b in zip(net(v, h, local), net(v, h, everywhere))]
    expected = torch.zeros(2, 5, 6, dtype=torch.bool)
    expected[1, 2, 3] = True
    for found in changed:
        laws.assert_same(found, expected, what="where a layer saw the condition of one pixel")


# ---------------------------------------------------------------------------------------------- the whole model


@pytest.mark.parametrize("colours", [1, 2, 3])
def test_a_pixel_depends_on_all_before_it_and_on_nothing_else(colours):
    """∂ logits(i)/∂ x(j) is 0 exactly for each j that is not before i, and for no j that is: there is no blind spot.

    Source: van den Oord et al. 2016, arXiv:1601.06759, eq. 1-2; arXiv:1606.05328, §2.2, figure 1.
    """
    height, width = 4, 5
    net = raise_all(PixelCNN(colours, 2, 2 * colours, num_layers=5, first_kernel_size=3))
    outputs = inputs = positions(colours, height, width, colours)
    laws.depends_only_on(
        lambda x: net(x[None])[0, 1], 1 + double(colours, height, width).abs(), comes_before(outputs, inputs, own=False)
    )


@pytest.mark.parametrize("depth", [1, 2, 8])
@pytest.mark.parametrize("kernel", [3, 5])
def test_no_depth_sees_the_future(depth, kernel):
    """Changing a pixel changes the logits of no pixel before it, nor its own, whatever the depth and the kernel.

    Source: van den Oord et al. 2016, arXiv:1601.06759, eq. 1.
    """
    net = far_from_uniform(2, 3, channels=4, num_layers=depth, kernel_size=kernel, first_kernel_size=7)
    x = levels(1, 2, 6, 6, most=3)
    before = net(x)
    for row, column, colour in ((0, 0, 0), (2, 3, 1), (3, 0, 0), (5, 5, 1)):
        other = x.clone()
        other[0, colour, row, column] = (other[0, colour, row, column] + 1) % 3
        changed = (net(other) != before).any(1)[0]
        order = torch.arange(72).view(6, 6, 2).permute(2, 0, 1)
        future = order > order[colour, row, column]
        assert not changed[~future].any(), f"expected no change up to {(row, column, colour)}, found one"
        last = (row, column, colour) == (5, 5, 1)
        assert last or changed[future].any(), f"expected a change after {(row, column, colour)}, found none"


@pytest.mark.states("limiting case")
@pytest.mark.parametrize(
    ("colours", "values", "size", "condition"),
    [
        (1, 2, (3, 3), None),
        (1, 3, (2, 2), (1, 4)),
        (2, 3, (1, 2), (1, 4)),
        (3, 2, (2, 1), (1, 4, 2, 1)),
        (1, 9, (1, 2), None),
    ],
)
def test_probabilities_of_all_images_sum_to_one(colours, values, size, condition):
    """Σ_x p(x) = 1 over all 512 binary 3 × 3 images, and over all small images of more colours and levels.

    Measured: 1 to rounding; with mask B in the first layer 3.3, a model that sees what it predicts.

    Source: van den Oord et al. 2016, arXiv:1601.06759, eq. 1: a product of conditional distributions is normalised.
    """
    features = condition and condition[1]
    net = far_from_uniform(colours, values, channels=6, num_layers=2, first_kernel_size=3, condition_features=features)
    x = all_images(values, colours, *size)
    given_to_it = double(*condition).expand(len(x), *condition[1:]) if condition else None
    for train in (True, False):
        total = net.train(train).log_prob(x, given_to_it).exp()
        laws.assert_close(total.sum(), torch.tensor(1.0, dtype=torch.float64))
        assert total.max() > 3 / len(x), "expected probabilities far from uniform"


@given(seed=seeds())
def test_log_probability_is_minus_the_summed_cross_entropy(seed):
    """log p(x) = Σ over pixels and colours of log softmax(logits)[x], a sum and not a mean, in nats, image by image.

    Source: van den Oord et al. 2016, arXiv:1601.06759, eq. 1-2 and §3.3.
    """
    net = far_from_uniform(2, 3, channels=4, num_layers=2, first_kernel_size=3)
    x = levels(3, 2, 4, 5, most=3, seed=seed)
    logits = net(x)
    assert logits.shape == (3, 3, 2, 4, 5), f"expected (batch, levels, colours, H, W), found {tuple(logits.shape)}"
    each = cross_entropy(logits, x, reduction="none")
    laws.assert_close(net.log_prob(x), -each.sum((1, 2, 3)))
    laws.assert_close(net.log_prob(x.double()), -each.sum((1, 2, 3)), what="log p of levels as floats")


@pytest.mark.states("limiting case")
def test_an_output_of_zero_is_eight_bits_a_dimension():
    """Logits of 0 give the uniform distribution: log p(x) = −D log K, exactly 8 bits/dim of 256 levels.

    Source: van den Oord et al. 2016, arXiv:1601.06759, §5.2: bits per dimension.
    """
    net = PixelCNN(3, 256, channels=6, num_layers=2).double()
    state = net.state_dict()
    net.load_state_dict(state | {key: torch.zeros_like(v) for key, v in state.items() if key.startswith("logits")})
    bits = -net.log_prob(levels(2, 3, 4, 5, most=256)) / (60 * math.log(2))
    laws.assert_close(bits, torch.full((2,), 8.0, dtype=torch.float64))


def test_a_product_of_conditionals_is_made_by_hand():
    """exp(log p) of a 1 × 2 image of two colours is p(a) p(b|a) p(c|a, b) p(d|a, b, c), each from a prefix alone.

    Source: van den Oord et al. 2016, arXiv:1601.06759, eq. 1-2.
    """
    net = far_from_uniform(2, 3, channels=4, num_layers=2, first_kernel_size=3)
    x = levels(1, 2, 1, 2, most=3)
    prefix, total = torch.zeros_like(x), 0.0
    for column, colour in itertools.product(range(2), range(2)):
        total = total + net(prefix)[0, :, colour, 0, column].log_softmax(0)[x[0, colour, 0, column]]
        prefix[0, colour, 0, column] = x[0, colour, 0, column]
    laws.assert_close(net.log_prob(x)[0], total)


def test_log_probability_of_half_precision_is_summed_in_full():
    """A bfloat16 model whose logits are 0 gives −D log K in float32, exactly to 1e-5: no digit is lost in the sum.

    Source: Micikevicius et al. 2017, arXiv:1710.03740, §3.3: reductions in float32.  Convention: float32 at least.
    """
    net = PixelCNN(1, 5, channels=2, num_layers=1).bfloat16()
    net.load_state_dict({key: torch.zeros_like(v) for key, v in net.state_dict().items()})
    found = net.log_prob(levels(2, 1, 20, 21, most=5))
    laws.assert_close(found, torch.full((2,), -420 * math.log(5)))


@pytest.mark.states("symmetry")
def test_inside_the_image_every_pixel_is_predicted_alike():
    """Logits of a pixel whose receptive field lies inside of the image move with the image.

    Source: van den Oord et al. 2016, arXiv:1601.06759, §3.4: a fully convolutional network.
    """
    net = far_from_uniform(1, 3, channels=4, num_layers=2, first_kernel_size=3)
    x = levels(2, 1, 9, 11, most=3)
    moved = torch.zeros_like(x)
    moved[..., 1:, 2:] = x[..., :-1, :-2]
    found, expected = net(moved)[..., 4:, 5:-4], net(x)[..., 3:-1, 3:-6]
    laws.assert_close(found, expected)
    laws.assert_differs(net(moved)[..., 1:, 2:], net(x)[..., :-1, :-2], by=1e-3, what="logits at the border")


def test_who_is_reached_from_where():
    """The first pixel's first colour depends on no pixel, the last pixel's last colour on those before it alone.

    Source: van den Oord et al. 2016, arXiv:1601.06759, eq. 1-2: p(x_1) has no condition.
    """
    net = raise_all(PixelCNN(2, 3, channels=4, num_layers=3, first_kernel_size=3))
    x = (1 + double(1, 2, 3, 3).abs()).requires_grad_()
    logits = net(x)[0, 1]
    laws.gradient_reaches(logits[0, 0, 0], {"logits.bias": net.logits.bias}, {"x": x})
    laws.gradient_reaches(logits[1, 2, 2], {"logits.bias": net.logits.bias, "x": x})
    (gradient,) = torch.autograd.grad(logits[1, 2, 2], x)
    expected = torch.ones(1, 2, 3, 3, dtype=torch.bool)
    expected[0, 1, 2, 2] = False
    laws.assert_same(gradient != 0, expected, what="what the last colour of the last pixel depends on")


def test_one_pass_gives_every_conditional():
    """All conditionals of an image cost one pass: FLOPs grow as the pixels, not as their square.

    Source: van den Oord et al. 2016, arXiv:1601.06759, §3.4: all pixels of an image in parallel, in training.
    """
    net = model()
    small, large = (cost.flops(net, levels(1, 2, side, side, most=3)) for side in (6, 12))
    assert small > 0 and abs(large / small - 4) < 0.2, (
        f"expected 4 times the FLOPs of 4 times the pixels, found {large / small:.2f}"
    )


# ---------------------------------------------------------------------------------------------- samples


def chi_squared(found, probabilities):
    """Pearson's statistic of counts of outcomes; outcomes below 5 expected counts are one."""
    expected = probabilities * len(found)
    counts = torch.bincount(found, minlength=len(probabilities)).double()
    rare = expected < 5
    pairs = [(counts[~rare], expected[~rare]), (counts[rare].sum()[None], expected[rare].sum()[None])]
    return sum(((c - e).square() / e.clamp_min(1e-9)).sum().item() for c, e in pairs if e.sum() > 1)


@pytest.mark.parametrize("condition", [None, "of the image", "of each pixel"])
def test_samples_have_the_density(condition):
    """Frequencies of 1 × 2 images of two binary colours are exp(log p), each image by its own condition.

    4000 samples, 16 outcomes: χ² of 15 degrees of freedom is above 48 in 1 of 40 000 seeds; the seed is fixed.

    Source: van den Oord et al. 2016, arXiv:1601.06759, §2.1: sampling is sequential, each pixel from its conditional.
    """
    settings = {"condition_features": 2} if condition else {"seed": 1}
    net = far_from_uniform(2, 2, channels=4, num_layers=2, first_kernel_size=3, **settings)
    x = all_images(2, 2, 1, 2)
    n = 4000
    conditions = [None]
    if condition:
        conditions = [double(1, *((2,) if condition == "of the image" else (2, 1, 2)), seed=s) for s in (5, 6)]
    together = None
    if condition:  # the two alternate: no image may take its neighbour's
        together = torch.stack([c[0] for c in conditions]).repeat(n, *(1 for _ in conditions[0].shape[1:]))
    samples = net.sample(n * len(conditions), (1, 2), together, torch.Generator().manual_seed(0))
    codes = (samples.flatten(1) * torch.tensor([8, 4, 2, 1])).sum(1)
    densities = []
    for k, one in enumerate(conditions):
        density = net.log_prob(x, None if one is None else one.expand(16, *one.shape[1:])).exp().detach()
        densities.append(density)
        found = chi_squared(codes[k :: len(conditions)], density)
        assert found < 48, f"expected frequencies of the density, found χ² = {found:.0f}"
    if condition:
        laws.assert_differs(*densities, by=0.05, what="densities under the two conditions")
    else:  # a sampler that takes both colours of a pixel from one pass must not pass
        second = densities[0].view(2, 2, 2, 2).transpose(1, 2)  # first pixel's two colours, then the second's
        alone = second.sum(2, keepdim=True) * second.sum(3, keepdim=True) / second.sum((2, 3), keepdim=True)
        laws.assert_differs(second, alone, by=0.01, what="two colours of a pixel")


def test_a_sure_model_samples_its_only_image():
    """Where each conditional is certain all samples are one image, of log p = 0.

    Source: van den Oord et al. 2016, arXiv:1601.06759, eq. 1: what was sampled is what comes next's condition.
    """
    net = far_from_uniform(2, 3, channels=4, num_layers=2, first_kernel_size=3)
    state = net.state_dict()
    net.load_state_dict(state | {key: 1e6 * value for key, value in state.items() if key.startswith("logits")})
    samples = net.sample(6, (3, 4), generator=torch.Generator().manual_seed(0))
    laws.assert_same(samples, samples[:1].expand_as(samples), what="samples of a sure model")
    assert samples.unique().numel() > 1, "expected an image of several levels"
    laws.assert_close(net.log_prob(samples), torch.zeros(6, dtype=torch.float64))


def test_samples_are_levels_of_the_size_that_was_asked_for():
    """`sample(n, size)` gives int64 levels (n, colours, H, W) in [0, K), of a square if size is an integer.

    Source: van den Oord et al. 2016, arXiv:1606.05328, §3.  Convention: as torch, a pair is (height, width).
    """
    net = model()
    for size, expected in ((3, (4, 2, 3, 3)), ((2, 5), (4, 2, 2, 5)), ((1, 1), (4, 2, 1, 1))):
        samples = net.sample(4, size)
        assert samples.shape == expected and samples.dtype == torch.int64, f"found {samples.dtype} {samples.shape}"
        assert samples.min() >= 0 and samples.max() < 3, f"expected levels below 3, found {samples.max()}"
        assert not samples.requires_grad
    seeded = [net.sample(50, 3, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    before = torch.get_rng_state()
    net.sample(2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before), "expected the global generator untouched, found that it moved"
    laws.assert_same(seeded[1], seeded[0], what="samples from the same state")
    assert not torch.equal(seeded[2], seeded[0]), "expected other samples from another state"


@given(mask_type=MASKS, height=sizes(1, 3), width=sizes(1, 3))
def test_images_smaller_than_the_kernel_work(mask_type, height, width):
    """An image of any size, 1 × 1 as well, keeps it, however large the kernel is.

    Source: van den Oord et al. 2016, arXiv:1601.06759, §3.4: masks and padding keep the size.
    """
    assert masked(mask_type)(random(2, 4, height, width)).shape == (2, 6, height, width)
    inputs = 2 if mask_type == "A" else 4
    for part in GatedPixelCNNLayer(4, 7, mask_type, inputs)(*2 * [random(2, inputs, height, width)]):
        assert part.shape == (2, 4, height, width)
    net = PixelCNN(1, 2, channels=2, num_layers=2)
    assert net.log_prob(levels(2, 1, height, width, most=2)).shape == (2,)
