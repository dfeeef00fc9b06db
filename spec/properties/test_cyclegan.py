"""Properties of CycleGAN.  Zhu, Park, Isola & Efros 2017, arXiv:1703.10593."""

import copy
import io
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from impl.models.cyclegan import CycleGAN, ImagePool, PatchGANDiscriminator, ResnetGenerator, linear_decay
from spec import cost, laws
from spec.cases.cyclegan import model, networks, patch_gan, resnet
from spec.laws import double, random
from spec.strategies import floats, seeds, sizes

pytestmark = pytest.mark.item("cyclegan")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def varied(network, factor=1.0):
    """The network in float64 with weights of random signs and magnitudes, none small against the others."""
    laws.randomise(network.double())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(factor)
    return network.eval()


# ---------------------------------------------------------------------------------------------- generator


def torch_generator(state, images, num_blocks):
    """The generator of §7.2 from torch's functions."""

    def layer(x, name, margin):
        return functional.conv2d(
            functional.pad(x, [margin] * 4, "reflect"), state[f"{name}.weight"], state[f"{name}.bias"]
        )

    def norm(x):
        return functional.instance_norm(x, eps=1e-5)

    x = norm(layer(images, "down.0", 3)).relu()
    for n in (1, 2):
        x = functional.conv2d(x, state[f"down.{n}.weight"], state[f"down.{n}.bias"], stride=2, padding=1)
        x = norm(x).relu()
    for n in range(num_blocks):
        inner = norm(layer(x, f"blocks.{n}.conv1", 1)).relu()
        x = x + norm(layer(inner, f"blocks.{n}.conv2", 1))
    for n in (0, 1):
        weight, bias = state[f"up.{n}.weight"], state[f"up.{n}.bias"]
        x = norm(functional.conv_transpose2d(x, weight, bias, stride=2, padding=1, output_padding=1)).relu()
    return layer(x, "last", 3).tanh()


def torch_discriminator(state, images):
    """The discriminator of §7.2 from torch's functions: the last two layers have stride 1."""
    count, x = len(state) // 2, images
    for n in range(count):
        stride = 2 if n < count - 2 else 1
        x = functional.conv2d(x, state[f"layers.{n}.weight"], state[f"layers.{n}.bias"], stride, padding=1)
        x = functional.instance_norm(x, eps=1e-5) if 0 < n < count - 1 else x
        x = functional.leaky_relu(x, 0.2) if n < count - 1 else x
    return x


def matches(network, reference, images):
    """Equal outputs, and equal gradients to the images and to every weight."""
    state = network.state_dict()
    names = sorted(state)

    def ours(images, *weights):
        return torch.func.functional_call(network, dict(zip(names, weights)), (images,))

    def theirs(images, *weights):
        return reference(dict(zip(names, weights)), images)

    laws.gradients_match(ours, theirs, images, *(state[name] for name in names))


@pytest.mark.states("equivalence")
@pytest.mark.parametrize(("num_blocks", "size"), [(1, (8, 12)), (3, (16, 8))])
@pytest.mark.parametrize("factor", [0.02, 0.1])
def test_generator_is_that_of_the_appendix(num_blocks, size, factor):
    """c7s1-k, d2k, d4k, R4k × n, u2k, uk, c7s1-o from torch's layers: equal outputs and gradients.

    Source: Zhu et al. 2017, §7.2.  Convention: the norms' ε is 1e-5; tanh at the end, as released.
    """
    network = varied(resnet(num_blocks=num_blocks), factor)
    matches(network, lambda state, images: torch_generator(state, images, num_blocks), double(2, 2, *size))


@given(height=sizes(2, 4), width=sizes(2, 4), inputs=sizes(1, 3), outputs=sizes(1, 3))
def test_translated_images_have_the_size_of_the_originals(height, width, inputs, outputs):
    """Images (n, c, 4·i, 4·j) become images (n, o, 4·i, 4·j) with values in (−1, 1).

    Source: Zhu et al. 2017, §7.2: two convolutions of stride 2, two of stride ½.
    """
    images = double(2, inputs, 4 * height, 4 * width)
    found = varied(resnet(inputs, outputs), 0.1)(images)
    assert found.shape == (2, outputs, 4 * height, 4 * width), f"found {tuple(found.shape)}"
    assert found.abs().max() < 1, f"expected values in (−1, 1), found {found.abs().max()}"


@given(gain=floats(0.1, 10), shift=st.tuples(floats(-1, 1), floats(-1, 1)), seed=seeds())
def test_the_generator_ignores_brightness_and_contrast(gain, shift, seed):
    """G(a·x + b) = G(x) for every a > 0 and a b for each channel: the first norm removes both, up to its ε.

    Reflected borders have the image's own values; zeros would not become brighter with it.

    Source: derived from Zhu et al. 2017, §7.2: reflection padding and instance normalization.
    """
    network, images = varied(resnet(), 0.1), 1e4 * double(2, 2, 8, 12, seed=seed)
    other = gain * images + 1e4 * torch.tensor(shift, dtype=torch.float64)[:, None, None]
    laws.assert_close(network(other), network(images), rtol=1e-7, atol=1e-7, because="ε against a variance of 1e6")


@pytest.mark.states("limiting case")
def test_blocks_without_weights_are_the_identity():
    """Where the convolutions of the blocks are 0, one block or three give the same images: x + 0.

    Source: Zhu et al. 2017, §4: residual blocks, He et al. 2016.
    """
    few, many = varied(resnet(), 0.1), varied(resnet(num_blocks=3), 0.1)
    state = dict(few.state_dict())
    for n in range(3):
        for name in ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"):
            state[f"blocks.{n}.{name}"] = torch.zeros_like(state[f"blocks.0.{name}"])
    many.load_state_dict(state)
    few.load_state_dict({name: state[name] for name in few.state_dict()})
    images = double(2, 2, 8, 12)
    laws.assert_close(many(images), few(images))
    laws.assert_close(few(images), torch_generator(few.state_dict(), images, num_blocks=0))


def test_biases_before_a_norm_move_nothing():
    """Biases of every convolution with a normalization after it leave the output as it is; the others' move it.

    Source: derived from Zhu et al. 2017, §7.2.  Convention: the biases are there, as in the released networks.
    """
    cases = (
        (varied(resnet(), 0.1), double(2, 2, 8, 12), {"last.bias"}),
        (
            varied(patch_gan(num_layers=2), 0.3),
            double(2, 2, 16, 12),
            {"layers.0.bias", "layers.3.bias"},
        ),
    )
    for network, images, effective in cases:
        before = network(images)
        names = [name for name in network.state_dict() if name.endswith("bias")]
        assert effective < set(names), f"expected biases everywhere, found {names}"
        for name in names:
            changed = copy.deepcopy(network)
            changed.load_state_dict(network.state_dict() | {name: network.state_dict()[name] + 0.5})
            if name in effective:
                laws.assert_differs(changed(images), before, by=1e-3, what=name)
            else:
                laws.assert_close(changed(images), before, rtol=1e-8, atol=1e-8, because="a mean is taken off again")


@pytest.mark.states("symmetry")
@pytest.mark.parametrize("make", [resnet, patch_gan])
def test_transposed_kernels_translate_transposed_images(make):
    """With every kernel transposed, the transposed image has the transposed output: rows and columns are alike.

    Source: Zhu et al. 2017, §7.2: all kernels, strides and margins are square.
    """
    network, images = varied(make(), 0.1), double(2, 2, 8, 16)
    other = copy.deepcopy(network)
    other.load_state_dict({name: w.mT if w.dim() == 4 else w for name, w in network.state_dict().items()})
    laws.assert_close(other(images.mT), network(images).mT)


@pytest.mark.states("cost")
def test_a_block_costs_two_convolutions_at_a_quarter_of_the_size():
    """A block adds 2·2·9·(4k)² operations at each of h/4 · w/4 positions, and cost is proportional to the pixels.

    Source: Zhu et al. 2017, §7.2: R256 after two convolutions of stride 2.
    """
    width, blocks = 3, (1, 2)
    one, two = (cost.flops(resnet(width=width, num_blocks=n), random(2, 2, 8, 12)) for n in blocks)
    added = 2 * 2 * 9 * (4 * width) ** 2 * 2 * 2 * 3
    assert two - one == added, f"expected {added} operations more with another block, found {two - one}"
    large = cost.flops(resnet(width=width), random(2, 2, 16, 24))
    assert large == 4 * one, f"expected {4 * one} operations for four times the pixels, found {large}"


@pytest.mark.parametrize("make", [lambda: ResnetGenerator(2, 3, 8, 1), lambda: PatchGANDiscriminator(2, 16)])
def test_initial_weights_are_small_and_normal(make):
    """Weights are from N(0, 0.02²) at first, in every layer, and biases are 0.

    Bounds are 5 standard errors for each layer: a false alarm in 1 of 100,000 runs, and the seed is fixed.

    Source: Zhu et al. 2017, §7.1.  Convention: biases 0, as released.
    """
    laws.reseed(0)
    for name, value in make().state_dict().items():
        if name.endswith("bias"):
            laws.assert_same(value, torch.zeros_like(value), what=name)
            continue
        mean, std, error = value.mean().item(), value.std().item(), 0.02 / math.sqrt(value.numel())
        assert abs(mean) < 5 * error, f"{name}: expected a mean of 0, found {mean}"
        assert abs(std - 0.02) < 5 * error / math.sqrt(2), f"{name}: expected a standard deviation of 0.02, found {std}"
        kurtosis = ((value - mean) / std).pow(4).mean().item()
        assert abs(kurtosis - 3) < 5 * math.sqrt(24 / value.numel()), (
            f"{name}: expected a kurtosis of 3, found {kurtosis}"
        )


# ---------------------------------------------------------------------------------------------- discriminator


@pytest.mark.states("equivalence")
@pytest.mark.parametrize(("num_layers", "size"), [(1, (6, 8)), (2, (12, 18)), (3, (24, 32)), (4, (48, 56))])
def test_discriminator_is_that_of_the_appendix(num_layers, size):
    """C64-C128-C256-C512 and a logit from torch's layers: equal outputs and gradients; no norm in the first and last.

    Source: Zhu et al. 2017, §7.2.  Convention: the last two convolutions have stride 1, as released.
    """
    network = varied(patch_gan(width=1 if num_layers > 2 else 2, num_layers=num_layers), 0.3)
    widths = [len(network.state_dict()[f"layers.{n}.bias"]) for n in range(num_layers + 2)]
    factors = [1, 2, 4, 8, 8][: num_layers + 1]
    assert widths == [*(f * widths[0] for f in factors), 1], f"expected widths as {factors}, found {widths}"
    matches(network, torch_discriminator, double(2, 2, *size))


@pytest.mark.states("dependence")
@pytest.mark.parametrize(("num_layers", "patch"), [(1, 16), (2, 34), (3, 70)])
def test_a_logit_sees_a_patch(num_layers, patch):
    """A logit depends on 70 × 70 pixels, the next one on those 8 pixels further; 34 and 4, 16 and 2 with fewer layers.

    Norms see all of an image, so one bright column is moved through an image: moved by 8, it leaves every mean and
    variance as it was.  A logit has another value than for a column far away at 70 positions in a row, no others.
    Rows are as columns: a spec of its own.

    Source: Zhu et al. 2017, §4: 70 × 70 PatchGANs.
    """
    stride, side = 2**num_layers, 6 * 2 ** (num_layers - 1)
    total = -(-4 * patch // stride) * stride
    columns = torch.arange(patch, total - patch)
    images = double(1, 1, side, 1).expand(len(columns), 1, side, 1) * functional.one_hot(columns, total)[:, None, None]
    network = varied(patch_gan(1, 1, num_layers))
    logits = network(images)[:, 0, 0].detach()  # (columns, logits)
    middle = logits.shape[1] // 2
    far = logits[:stride, middle].repeat(-(-len(columns) // stride))[: len(columns)]
    seen = ((logits[:, middle] - far).abs() > 1e-9).nonzero().flatten()
    assert len(seen) == patch, f"expected a patch of {patch} columns, found {len(seen)}"
    assert seen[-1] - seen[0] == patch - 1, f"expected neighbouring columns, found {seen}"
    laws.assert_close(logits[stride:, middle + 1], logits[:-stride, middle], rtol=1e-9, atol=1e-9, because="two norms")


def test_the_discriminator_sees_brightness():
    """D(a·x + b) differs from D(x): the first layer has no normalization.

    Source: Zhu et al. 2017, §7.2: "we do not use InstanceNorm for the first C64 layer".
    """
    network, images = varied(patch_gan()), double(2, 2, 8, 12)
    laws.assert_differs(network(images + 3), network(images), by=1e-2)
    laws.assert_differs(network(2 * images), network(images), by=1e-2)


# ---------------------------------------------------------------------------------------------- losses


class Recorded(nn.Module):
    """A function, and what it was called with."""

    def __init__(self, function=lambda images: images):
        super().__init__()
        self.function, self.seen = function, []

    def forward(self, images):
        self.seen.append(images.detach().clone())
        return self.function(images)


def pairs(seed=0):
    """Three images of X, two of Y, as many made ones."""
    return [double(n, 2, 1, 3, seed=seed + k) for k, n in enumerate((3, 2, 2, 3))]


def constant(value):
    return Recorded(lambda images: torch.full((len(images), 1, 2, 2), value, dtype=images.dtype))


def of_functions(to_x=lambda y: y, to_y=lambda x: x, logit_x=0.5, logit_y=0.5, **options):
    """CycleGAN of given functions, with discriminators that are constant."""
    return CycleGAN(Recorded(to_x), Recorded(to_y), constant(logit_x), constant(logit_y), **options)


@given(a=floats(-2, 2), b=floats(-2, 2))
def test_adversarial_losses_are_least_squares(a, b):
    """For D_X ≡ a and D_Y ≡ b generators have (a − 1)² + (b − 1)², discriminators ½ ((a − 1)² + a² + (b − 1)² + b²).

    Source: Zhu et al. 2017, §4: E[(D(G(x)) − 1)²], E[(D(y) − 1)²] + E[D(G(x))²]; §7.1: divided by 2.
    """
    gan, images = of_functions(logit_x=a, logit_y=b), pairs()
    expected = torch.tensor((a - 1) ** 2 + (b - 1) ** 2, dtype=torch.float64)
    laws.assert_close(gan.adversarial_loss(*images[2:]), expected)
    expected = torch.tensor(((a - 1) ** 2 + a**2 + (b - 1) ** 2 + b**2) / 2, dtype=torch.float64)
    laws.assert_close(gan.discriminator_loss(*images), expected)


@pytest.mark.states("limiting case")
def test_a_discriminator_that_cannot_tell_says_one_half():
    """Where real and made images are alike, L_D is least for D = ½, with ¼ for each domain.

    Source: Mao et al. 2016, arXiv:1611.04076, eq. 5: D = p/(p + q) for targets 1 and 0.
    """
    same = double(3, 2, 1, 3)
    bias = torch.full((2,), 0.5, dtype=torch.float64, requires_grad=True)
    gan = CycleGAN(nn.Identity(), nn.Identity(), *(Recorded(lambda x, n=n: bias[n].expand(len(x), 1)) for n in (0, 1)))
    found = gan.discriminator_loss(same, same, same, same)
    laws.assert_close(found, torch.tensor(0.5, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(found, bias)
    laws.assert_close(gradient, torch.zeros_like(bias))


@given(seed=seeds())
def test_each_discriminator_judges_its_own_domain(seed):
    """D_X sees images of X and made ones of X, D_Y those of Y; each loss is a mean over its logits.

    Source: Zhu et al. 2017, §3.1, eq. 1.
    """
    gan, (x, y, fake_x, fake_y) = model().double(), pairs(seed)
    of_x, of_y = gan.discriminator_x, gan.discriminator_y
    expected = (of_x(fake_x) - 1).square().mean() + (of_y(fake_y) - 1).square().mean()
    laws.assert_close(gan.adversarial_loss(fake_x, fake_y), expected)
    expected = (of_x(x) - 1).square().mean() + of_x(fake_x).square().mean()
    expected = expected + (of_y(y) - 1).square().mean() + of_y(fake_y).square().mean()
    laws.assert_close(gan.discriminator_loss(x, y, fake_x, fake_y), expected / 2)


def test_forward_makes_an_image_of_each_domain():
    """forward(x, y) = (F(y), G(x)): first what belongs to X, then what belongs to Y.

    Source: Zhu et al. 2017, §3: G: X → Y and F: Y → X.
    """
    gan, (x, y, *_) = model().double(), pairs()
    fake_x, fake_y = gan(x, y)
    laws.assert_close(fake_x, gan.to_x(y))
    laws.assert_close(fake_y, gan.to_y(x))


@pytest.mark.states("limiting case")
@given(seed=seeds(), factor=floats(0.2, 5), shift=floats(-3, 3))
def test_inverse_generators_have_no_cycle_loss(seed, factor, shift):
    """L_cyc = 0 for F = G⁻¹, whatever G makes: G(x) = a·x + b, F(y) = (y − b)/a.

    Source: Zhu et al. 2017, eq. 2: x → G(x) → F(G(x)) ≈ x.
    """
    gan = of_functions(lambda y: (y - shift) / factor, lambda x: factor * x + shift)
    x, y, *_ = pairs(seed)
    laws.assert_close(gan.cycle_loss(x, y, *gan(x, y)), torch.zeros((), dtype=torch.float64), atol=1e-10)


@given(seed=seeds())
def test_cycle_loss_is_the_distance_of_what_comes_back(seed):
    """L_cyc = mean|F(G(x)) − x| + mean|G(F(y)) − y|, each a mean over its own images.

    Source: Zhu et al. 2017, eq. 2: L1, forward and backward.
    """
    gan, (x, y, *_) = model().double(), pairs(seed)
    fake_x, fake_y = gan(x, y)
    found = gan.cycle_loss(x, y, fake_x, fake_y)
    laws.assert_close(found, (gan.to_x(fake_y) - x).abs().mean() + (gan.to_y(fake_x) - y).abs().mean())


def test_cycle_loss_has_the_gradient_of_an_absolute_value():
    """For F(y) = y + c and G(x) = x + 2c with c > 0, ∂L_cyc/∂c = 6 whatever c is: distances, not squares.

    Source: Zhu et al. 2017, eq. 2: the L1 norm.
    """
    for size in (0.1, 3.0):
        c = torch.tensor(size, dtype=torch.float64, requires_grad=True)
        gan = of_functions(lambda y, c=c: y + c, lambda x, c=c: x + 2 * c)
        x, y, *_ = pairs()
        found = gan.cycle_loss(x, y, *gan(x, y))
        laws.assert_close(found, 6 * c)
        laws.assert_close(torch.autograd.grad(found, c)[0], torch.tensor(6.0, dtype=torch.float64))


@pytest.mark.states("symmetry")
@given(seed=seeds(), weight=floats(0, 2))
def test_the_two_domains_may_change_places(seed, weight):
    """All losses are those of the same networks with X and Y exchanged.

    Source: Zhu et al. 2017, eq. 3: L is symmetric in (X, F, D_X) and (Y, G, D_Y).
    """
    one = model(cycle_weight=3.0, identity_weight=weight).double()
    parts = one.to_y, one.to_x, one.discriminator_y, one.discriminator_x
    other = CycleGAN(*parts, cycle_weight=3.0, identity_weight=weight)
    x, y, fake_x, fake_y = pairs(seed)
    laws.assert_close(other.generator_loss(y, x, fake_y, fake_x), one.generator_loss(x, y, fake_x, fake_y))
    laws.assert_close(other.discriminator_loss(y, x, fake_y, fake_x), one.discriminator_loss(x, y, fake_x, fake_y))


@pytest.mark.states("limiting case")
@given(seed=seeds())
def test_identity_loss_is_of_images_that_are_there_already(seed):
    """L_id = mean|G(y) − y| + mean|F(x) − x|: G gets y, not x, and the loss is 0 where both are the identity there.

    Source: Zhu et al. 2017, §5.2: "when real samples of the target domain are provided as the input".
    """
    x, y, *_ = pairs(seed)
    gan = of_functions()
    laws.assert_close(gan.identity_loss(x, y), torch.zeros((), dtype=torch.float64))
    laws.assert_same(torch.cat(gan.to_y.seen), y, what="what G was given")
    laws.assert_same(torch.cat(gan.to_x.seen), x, what="what F was given")
    gan = model().double()
    laws.assert_close(gan.identity_loss(x, y), (gan.to_y(y) - y).abs().mean() + (gan.to_x(x) - x).abs().mean())


@given(seed=seeds(), cycle=floats(0, 20), identity=floats(0, 2))
def test_the_full_objective_weighs_its_parts(seed, cycle, identity):
    """L = L_GAN + λ L_cyc + λ·w L_id; λ is 10 and w is 0 if not given.

    Source: Zhu et al. 2017, eq. 3, and §5.2 with w = 0.5.
    """
    images = pairs(seed)
    for options, (a, b) in (({"cycle_weight": cycle, "identity_weight": identity}, (cycle, identity)), ({}, (10, 0))):
        gan = model(**options).double()
        expected = gan.adversarial_loss(*images[2:]) + a * gan.cycle_loss(*images)
        laws.assert_close(gan.generator_loss(*images), expected + a * b * gan.identity_loss(*images[:2]))


def test_domains_of_other_channels_need_no_identity():
    """With identity_weight 0 generators see their own domain alone, so that grey and coloured images can be paired.

    Source: Zhu et al. 2017, eq. 3; §5.2 adds the identity loss for some pairs of domains.
    """
    mean, spread = (lambda y: y.mean(1, keepdim=True)), (lambda x: x.expand(-1, 3, -1, -1))
    gan = of_functions(mean, spread)
    x, y = double(2, 1, 3, 4), double(2, 3, 3, 4, seed=1)
    gan.generator_loss(x, y, *gan(x, y))
    channels = {s.shape[1] for s in gan.to_y.seen}, {s.shape[1] for s in gan.to_x.seen}
    assert channels == ({1}, {3}), f"expected G to see 1 channel and F to see 3, found {channels}"


@pytest.mark.states("gradient routing")
def test_each_loss_trains_its_own_networks():
    """L of the generators reaches both, also through the image that came back; L_D reaches discriminators alone.

    The cycle loss of x trains G through F as well: its gradient to G is not that of a constant G(x).

    Source: Zhu et al. 2017, eq. 3.
    """
    gan, (x, y, *_) = model(identity_weight=0.5).double(), pairs()
    leaves = dict(gan.named_parameters())
    generators = {name: p for name, p in leaves.items() if name.startswith("to_")}
    critics = {name: p for name, p in leaves.items() if name.startswith("discriminator_")}
    fake_x, fake_y = gan(x, y)
    laws.gradient_reaches(gan.generator_loss(x, y, fake_x, fake_y), generators)
    laws.gradient_reaches(gan.adversarial_loss(fake_x, fake_y), generators)
    laws.gradient_reaches(gan.discriminator_loss(x, y, fake_x, fake_y), critics, generators)
    forward = (gan.to_x(gan.to_y(x)) - x).abs().mean() + (gan.to_y(gan.to_x(y)) - y).abs().mean()
    wanted = list(generators.values())
    found = torch.autograd.grad(gan.cycle_loss(x, y, fake_x, fake_y), wanted)
    for name, a, b in zip(generators, found, torch.autograd.grad(forward, wanted)):
        laws.assert_close(a, b, what=name)


# ---------------------------------------------------------------------------------------------- history


def histories(pool, batches, generator):
    """For each image: its number, that of what came back, and whether the pool was full before; images are numbers."""
    count = 0
    for size in batches:
        given_ = torch.arange(count, count + size, dtype=torch.float64)
        found = pool(given_[:, None, None, None].expand(-1, 1, 2, 3), generator)
        assert found.shape == (size, 1, 2, 3), f"expected {size} images, found {tuple(found.shape)}"
        values = found.flatten(1)
        assert (values == values[:, :1]).all(), "expected whole images, found mixed ones"
        yield from zip(range(count, count + size), values[:, 0].long().tolist())
        count += size


@given(pool_size=sizes(1, 5), batches=st.lists(sizes(1, 4), min_size=1, max_size=12), seed=seeds())
def test_an_image_comes_back_or_is_exchanged_for_a_kept_one(pool_size, batches, seed):
    """The first pool_size images are kept and come back; each later one comes back, or takes the place of a kept one.

    What is exchanged is gone: it comes back once.  What came back when the pool was full was not kept.

    Source: Zhu et al. 2017, §4: an image buffer; Shrivastava et al. 2016.  Convention: as in the released code.
    """
    kept = set()
    for number, found in histories(ImagePool(pool_size), batches, seeded(seed)):
        if len(kept) < pool_size:
            assert found == number, f"expected image {number} while {len(kept)} of {pool_size} are kept, found {found}"
            kept.add(number)
        elif found != number:
            assert found in kept, f"expected image {number} or one of {sorted(kept)}, found {found}"
            kept = kept - {found} | {number}


def test_half_of_the_images_are_old_and_every_kept_one_is_as_likely():
    """Of 6,000 images half are exchanged, and each of five kept ones is as likely to be; 50 are kept if not said.

    Bounds are 5 standard errors: 0.032 of the half, 0.037 of each fifth.  The seed is fixed.

    Source: Zhu et al. 2017, §4: "a buffer that stores the 50 previously created images"; ½ as released.
    """
    kept, places, exchanged = [], torch.zeros(5), 0
    for number, found in histories(ImagePool(5), [3] * 2000, seeded()):
        if len(kept) < 5:
            kept.append(number)
        elif found != number:
            place = kept.index(found)
            kept[place], exchanged = number, exchanged + 1
            places[place] += 1
    share, of_each = exchanged / 5995, places / exchanged
    assert abs(share - 0.5) < 0.032, f"expected half of the images exchanged, found {share}"
    assert (of_each - 0.2).abs().max() < 0.037, f"expected a fifth for each, found {of_each}"
    by_default = [number == found for number, found in histories(ImagePool(), [5] * 40, seeded())]
    assert all(by_default[:50]), "expected the first 50 images to come back"
    assert not all(by_default[50:70]), "expected some of the next 20 to be exchanged"


def test_a_pool_of_no_images_lets_all_pass():
    """With pool_size 0 images come back as they are, without gradient, and nothing is drawn.

    Source: Zhu et al. 2017, §4; a discriminator without history.
    """
    pool, images, generator = ImagePool(0), double(3, 1, 2, 2).requires_grad_(), seeded()
    before = generator.get_state()
    for _ in range(3):
        found = pool(images, generator)
        laws.assert_same(found, images.detach())
        assert not found.requires_grad, "expected images without gradient"
    laws.assert_same(generator.get_state(), before, what="the generator's state")


def test_kept_images_have_no_gradient_and_no_shared_memory():
    """Images come back without a graph, and the caller may change what they gave and what they got.

    Source: Zhu et al. 2017, §4: images that earlier generators made; no gradient goes to a generator.
    """
    pool, generator = ImagePool(2), seeded(1)
    first = double(2, 1, 2, 2)
    values = {tuple(image.flatten().tolist()) for image in first}
    leaf = first.clone().requires_grad_()
    given_ = 1 * leaf
    found = pool(given_, generator)
    assert not found.requires_grad, "expected images without gradient"
    with torch.no_grad():
        given_.zero_()
        found.zero_()
    seen = torch.cat([pool(torch.full((2, 1, 2, 2), 9.0).double(), generator) for _ in range(8)])
    old = {tuple(image.flatten().tolist()) for image in seen if image.flatten()[0] != 9}
    assert old == values, f"expected the kept images {values}, found {old}"


@given(seed=seeds(), count=sizes(0, 7))
def test_a_pool_goes_on_where_its_state_was_saved(seed, count):
    """A pool that loads another's state, saved with few images, with all or none, gives what the other gives.

    Source: this project: a run that was interrupted goes on as one that was not.
    """
    pool, other = ImagePool(5), ImagePool(5)
    list(histories(pool, [1] * count, seeded(seed)))
    file = io.BytesIO()
    torch.save(pool.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    images = double(9, 1, 2, 3)
    laws.assert_same(other(images, seeded(seed)), pool(images, seeded(seed)))
    laws.assert_same(other(images, seeded(seed)), pool(images, seeded(seed)), what="the second call")


# ---------------------------------------------------------------------------------------------- training


def optimizers(gan, rate=0.1):
    generators = [*gan.to_x.parameters(), *gan.to_y.parameters()]
    critics = [*gan.discriminator_x.parameters(), *gan.discriminator_y.parameters()]
    return torch.optim.SGD(generators, lr=rate), torch.optim.SGD(critics, lr=rate)


def _descend(loss, parameters):
    gradients = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients):
            parameter -= 0.1 * gradient


def test_a_training_step_is_one_of_the_generators_then_one_of_the_discriminators():
    """Two steps equal those by hand: G and F along ∇L, D_X and D_Y along ∇L_D on the images made before G's step.

    Source: Zhu et al. 2017, §4, with gradient descent for Adam; generators first, as released.
    """
    options = {"cycle_weight": 3.0, "identity_weight": 0.5, "pool_size": 0}
    gan, plain = model(**options).double(), model(**options).double()
    both = optimizers(gan)
    generators = [*plain.to_x.parameters(), *plain.to_y.parameters()]
    critics = [*plain.discriminator_x.parameters(), *plain.discriminator_y.parameters()]
    for number in range(2):
        x, y, *_ = pairs(10 * number)
        found = gan.train_step(x, y, *both)
        fake_x, fake_y = plain.to_x(y), plain.to_y(x)
        loss = plain.generator_loss(x, y, fake_x, fake_y)
        _descend(loss, generators)
        judged = plain.discriminator_loss(x, y, fake_x.detach(), fake_y.detach())
        _descend(judged, critics)
        laws.assert_all_close(dict(gan.named_parameters()), dict(plain.named_parameters()))
        laws.assert_close(
            torch.tensor(found).double(), torch.stack([loss, judged]).detach(), rtol=1e-6, because="floats"
        )


def is_one_of(image, images):
    return any(torch.equal(image, other) for other in images)


def test_discriminators_are_shown_a_history_and_generators_are_not():
    """D's steps see made images of earlier steps, of their own domain; the generators are judged on their newest.

    Images of X are positive and those of Y negative.

    Source: Zhu et al. 2017, §4: "we update the discriminators using a history of generated images".
    """
    shift = nn.Parameter(torch.zeros((), dtype=torch.float64))
    to_x, to_y = (Recorded(lambda images, a=a: a * images + 0 * shift) for a in (-2, -3))
    critics = [Recorded(lambda images: images.mean((2, 3)) + 0 * shift) for _ in range(2)]
    gan = CycleGAN(to_x, to_y, *critics, pool_size=3)
    optimizer = torch.optim.SGD([shift], lr=0.0)
    made, old = ([], []), [0, 0]
    for number in range(6):
        x, y = double(2, 1, 2, 2, seed=number).abs(), -double(2, 1, 2, 2, seed=number + 10).abs()
        gan.train_step(x, y, optimizer, optimizer, seeded(number))
        for side, (real, new) in enumerate([(x, -2 * y), (y, -3 * x)]):
            made[side].extend(new)
            shown = [image for images in critics[side].seen for image in images if not is_one_of(image, real)]
            critics[side].seen.clear()
            assert len(shown) == 4, f"expected 2 images for each of two steps, found {len(shown)}"
            assert all(is_one_of(image, made[side]) for image in shown), "expected made images of this domain"
            assert sum(is_one_of(image, new) for image in shown) >= 2, "expected the generators to be judged on both"
            old[side] += sum(not is_one_of(image, new) for image in shown)
    assert min(old) > 0, f"expected images of earlier steps among those of six, found {old}"


def test_the_state_of_a_training_holds_its_history():
    """After loading the state of another CycleGAN, in mid-training, the next steps are bitwise those of the other.

    Source: this project: a run that was interrupted goes on as one that was not.
    """
    one, other = model(pool_size=4).double(), model(pool_size=4).double()
    for number in range(4):
        one.train_step(*pairs(number)[:2], *optimizers(one), seeded(number))
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for number in range(4, 8):
        for gan in (one, other):
            gan.train_step(*pairs(number)[:2], *optimizers(gan), seeded(number))
    for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        laws.assert_same(a.detach(), b.detach(), what=name)


def test_networks_are_kept_as_they_were_given():
    """to_x, to_y, discriminator_x and discriminator_y are the caller's networks, in that order.

    Source: Zhu et al. 2017, §3: F: Y → X and G: X → Y, D_X and D_Y.
    """
    parts = networks()
    gan = CycleGAN(*parts)
    found = gan.to_x, gan.to_y, gan.discriminator_x, gan.discriminator_y
    assert all(a is b for a, b in zip(found, parts, strict=True)), "expected the networks that were given"


@given(constant_=st.integers(0, 20), decay=st.integers(1, 20), epoch=floats(0, 60))
def test_learning_rate_is_constant_and_then_falls_along_a_line(constant_, decay, epoch):
    """The factor is 1 up to the last constant epoch, (constant + decay − epoch)/decay after it, and 0 from the end on.

    Source: Zhu et al. 2017, §4: "keep the same learning rate for the first 100 epochs and linearly decay the rate to
    zero over the next 100 epochs".
    """
    if epoch <= constant_:
        expected = 1.0
    else:
        expected = max(0.0, (constant_ + decay - epoch) / decay)
    found = linear_decay(epoch, constant_, decay)
    assert abs(found - expected) < 1e-12, f"expected {expected}, found {found}"


def test_learning_rate_of_the_paper():
    """0.0002 for 100 epochs, 0.0001 after 150, 0 after 200 and later, through torch's LambdaLR.

    Source: Zhu et al. 2017, §4.
    """
    optimizer = torch.optim.Adam([nn.Parameter(double(2))], lr=2e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, linear_decay)
    rates = []
    for _ in range(231):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    found = torch.tensor([rates[n] for n in (0, 50, 100, 101, 150, 199, 200, 230)], dtype=torch.float64)
    expected = torch.tensor([2e-4, 2e-4, 2e-4, 1.98e-4, 1e-4, 2e-6, 0, 0], dtype=torch.float64)
    laws.assert_close(found, expected, atol=1e-12)
