"""Batch, layer, instance and group normalization.

Ioffe & Szegedy 2015, arXiv:1502.03167; Ba, Kiros & Hinton 2016, arXiv:1607.06450; Ulyanov, Vedaldi & Lempitsky 2016,
arXiv:1607.08022; Wu & He 2018, arXiv:1803.08494.
"""

import pytest
import torch
from hypothesis import given
from torch import nn

from impl.layers.normalization import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    GroupNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LayerNorm,
)
from spec import laws
from spec.strategies import floats, permutations, seeds, sizes

# For limits ε → 0: torch's batch_norm refuses an ε of exactly 0.
TINY = 1e-30

BATCH_NORMS = [
    (BatchNorm1d, (4, 3)),
    (BatchNorm1d, (2, 3, 5)),
    (BatchNorm2d, (2, 3, 5, 4)),
    (BatchNorm3d, (2, 3, 4, 1, 5)),
]
INSTANCE_NORMS = [(InstanceNorm1d, (2, 3, 5)), (InstanceNorm2d, (2, 3, 5, 4)), (InstanceNorm3d, (2, 3, 4, 1, 5))]


def uneven(*shape, seed=0, dtype=torch.float64):
    """Normal values whose level and spread differ from sample to sample and from channel to channel."""
    generator = torch.Generator().manual_seed(seed)
    ends = (*shape[:2], *(1 for _ in shape[2:])) if len(shape) > 2 else (1, shape[1])
    level = torch.randn(ends, generator=generator, dtype=dtype)
    spread = 0.3 + torch.rand(ends, generator=generator, dtype=dtype)
    return level + spread * torch.randn(shape, generator=generator, dtype=dtype)


def standardized(x, dims, eps):
    """(x − μ)/√(σ² + ε) and σ², by torch.var."""
    variance = x.var(dims, correction=0, keepdim=True)
    return (x - x.mean(dims, keepdim=True)) / (variance + eps).sqrt(), variance


def per_channel(parameter, x):
    return parameter.reshape(-1, *(1 for _ in x.shape[2:]))


def ready(module, seed=0):
    """float64, and every parameter random so that no default of 1 or 0 hides a factor."""
    return laws.randomise(module.double(), seed)


def keys(module):
    return {name: tuple(t.shape) for name, t in module.state_dict().items()}


# ---------------------------------------------------------------------------------------------- batch norm


@pytest.mark.item("batch-norm")
@pytest.mark.parametrize(("kind", "shape"), BATCH_NORMS)
def test_batch_norm_standardizes_each_channel_over_samples_and_positions(kind, shape):
    """y = γ (x − μ)/√(σ² + ε) + β with μ, σ² of a channel over all samples and all positions.

    Source: Ioffe & Szegedy 2015, Alg. 1; §3.2 for positions.  Convention: eps inside the root, biased variance.
    """
    x = uneven(*shape)
    module = ready(kind(3, eps=0.3))
    expected, _ = standardized(x, [d for d in range(x.dim()) if d != 1], 0.3)
    laws.assert_close(module(x), expected * per_channel(module.weight, x) + per_channel(module.bias, x))


@pytest.mark.item("batch-norm")
@given(seed=seeds(), eps=floats(1e-3, 1), samples=sizes(2, 5))
def test_batch_norm_output_has_mean_beta_and_a_variance_just_below_gamma_squared(seed, eps, samples):
    """Over the batch, y has mean β and biased variance γ²·σ²/(σ² + ε): less than γ², the more so the larger ε.

    Source: Ioffe & Szegedy 2015, Alg. 1.  Convention: eps inside the root, biased variance.
    """
    x = uneven(samples, 3, 2, 5, seed=seed)
    module = ready(BatchNorm2d(3, eps=eps), seed)
    y = module(x)
    variance = x.var((0, 2, 3), correction=0)
    laws.assert_close(y.mean((0, 2, 3)), module.bias)
    laws.assert_close(y.var((0, 2, 3), correction=0), module.weight**2 * variance / (variance + eps))


@pytest.mark.item("batch-norm")
@pytest.mark.states("limiting case")
@given(a=floats(-50, 50), b=floats(-50, 50))
def test_two_values_become_plus_and_minus_one(a, b):
    """A batch of two values a ≠ b becomes ±(a − b)/2 / √((a − b)²/4 + ε): ±1 for small ε, whatever the values.

    Source: Ioffe & Szegedy 2015, Alg. 1, worked by hand for m = 2.  Convention: biased variance; unbiased gives ±1/√2.
    """
    half = (a - b) / 2
    x = torch.tensor([[a], [b]], dtype=torch.float64)
    expected = half / (half**2 + 0.01) ** 0.5
    y = BatchNorm1d(1, eps=0.01).double()(x)
    laws.assert_close(y, torch.tensor([[expected], [-expected]], dtype=torch.float64))


@pytest.mark.item("batch-norm")
@given(seed=seeds(), scale=floats(0.1, 10))
def test_batch_norm_ignores_the_scale_of_the_weights_before_it(seed, scale):
    """BN((aW)u) = BN(Wu) for a > 0, ∂BN((aW)u)/∂u = ∂BN(Wu)/∂u, and ∂BN((aW)u)/∂(aW) = 1/a · ∂BN(Wu)/∂W.

    Source: Ioffe & Szegedy 2015, §3.3.  Convention: the limit of small eps.
    """
    u, weight = uneven(5, 4, seed=seed), uneven(3, 4, seed=seed + 1)
    cotangent = torch.randn(5, 3, dtype=torch.float64)
    found = []
    for a in (1, scale):
        module = ready(BatchNorm1d(3, eps=TINY), seed)
        leaves = u.clone().requires_grad_(), (a * weight).requires_grad_()
        y = module(leaves[0] @ leaves[1].T)
        found.append((y.detach(), *torch.autograd.grad(y, leaves, cotangent)))
    (y, du, dw), (y_scaled, du_scaled, dw_scaled) = found
    laws.assert_close(y_scaled, y, what="output")
    laws.assert_close(du_scaled, du, rtol=1e-8, atol=1e-8, because="three divisions by a small spread", what="∂u")
    laws.assert_close(scale * dw_scaled, dw, rtol=1e-8, atol=1e-8, because="as for ∂u", what="a·∂(aW)")


@pytest.mark.item("batch-norm")
@given(seed=seeds())
def test_batch_norm_gradient_is_orthogonal_to_shift_and_scale(seed):
    """Per channel Σ ∂x = 0 and Σ x̂·∂x = γ r · ε/(σ² + ε) · Σ x̂·∂y, r = 1/√(σ² + ε): the gradient goes through μ and σ².

    Source: Ioffe & Szegedy 2015, the chain rule of §3, summed over the batch.
    """
    eps, x = 0.2, uneven(3, 2, 4, seed=seed).requires_grad_()
    module = ready(BatchNorm1d(2, eps=eps), seed)
    cotangent = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(module(x), x, cotangent)
    normalized, variance = standardized(x.detach(), (0, 2), eps)
    variance = variance.flatten()
    expected = eps / (variance + eps) ** 1.5 * module.weight * (normalized * cotangent).sum((0, 2))
    laws.assert_close(gradient.sum((0, 2)), torch.zeros(2, dtype=torch.float64), what="Σ ∂x")
    laws.assert_close((normalized * gradient).sum((0, 2)), expected, what="Σ x̂·∂x")


@pytest.mark.item("batch-norm")
def test_batch_norm_couples_the_samples_of_a_batch_in_training_only():
    """∂y/∂x is non-zero between all values of a channel in training, only on the diagonal in evaluation, else zero.

    Source: Ioffe & Szegedy 2015, §3.1: in training y depends on the other examples, in inference on its input alone.
    """
    x = uneven(3, 2, 2)
    module = ready(BatchNorm1d(2, eps=0.1))
    channel = torch.arange(2).repeat_interleave(2).repeat(3)
    laws.depends_only_on(module, x, channel[:, None] == channel)
    laws.depends_only_on(module.eval(), x, torch.eye(12, dtype=torch.bool))


@pytest.mark.item("batch-norm")
@pytest.mark.states("gradient routing")
def test_a_bias_before_batch_norm_is_redundant():
    """BN(Wu + b) = BN(Wu) in training, and b gets a gradient of 0: β plays its role.

    Source: Ioffe & Szegedy 2015, §3.2: the bias b can be ignored, its effect is cancelled by the mean subtraction.
    """
    x, bias = uneven(4, 3, 2), torch.tensor([[5.0], [-3.0], [0.7]], dtype=torch.float64, requires_grad=True)
    module = ready(BatchNorm1d(3, eps=0.1))
    y = module(x + bias)
    laws.assert_close(y, module(x))
    (gradient,) = torch.autograd.grad(y, bias, torch.randn(y.shape, dtype=torch.float64))
    laws.assert_close(gradient, torch.zeros_like(gradient), what="gradient of the bias")


@pytest.mark.item("batch-norm")
@given(order=permutations(5), places=permutations(6))
def test_batch_norm_moves_with_samples_and_positions(order, places):
    """Permuting the samples, or the positions of all samples, permutes the output and changes nothing else.

    Source: Ioffe & Szegedy 2015, §3.2: locations of a feature map are normalized in the same way.
    """
    x = uneven(5, 2, 3, 2)
    module = ready(BatchNorm2d(2, eps=0.1))
    laws.equivariant(module, x, lambda t: t[order])
    laws.equivariant(module, x, lambda t: t.flatten(2)[:, :, places].unflatten(2, (3, 2)))


@pytest.mark.item("batch-norm")
@given(seed=seeds(), momentum=floats(0.05, 0.95))
def test_running_statistics_are_weighted_averages_of_unbiased_batch_statistics(seed, momentum):
    """running ← (1 − α)·running + α·new, from 0 and 1, where new is μ, and n/(n − 1)·σ² with n = N·H·W.

    Source: Ioffe & Szegedy 2015, Alg. 2, line 10: Var[x] = m/(m − 1)·E[σ²].
    Convention: α = momentum weighs the new batch, as in torch; keras and flax call 1 − α momentum.
    """
    module = ready(BatchNorm2d(2, momentum=momentum))
    mean, variance = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    for step, samples in enumerate((2, 3, 2)):
        x = uneven(samples, 2, 1, 2, seed=seed + step)
        module(x)
        mean = (1 - momentum) * mean + momentum * x.mean((0, 2, 3))
        variance = (1 - momentum) * variance + momentum * x.var((0, 2, 3), correction=1)
    laws.assert_close(module.running_mean, mean, what="running_mean")
    laws.assert_close(module.running_var, variance, what="running_var")


@pytest.mark.item("batch-norm")
@pytest.mark.states("limiting case")
@pytest.mark.parametrize("batches", [1, 4, 9])
def test_running_statistics_of_one_batch_repeated(batches):
    """After k times the same batch, running_mean = (1 − 0.9^k) μ and running_var = 0.9^k + (1 − 0.9^k)·n/(n − 1)·σ².

    Source: the geometric series of the moving averages of Ioffe & Szegedy 2015, §3.1.
    Convention: momentum = 0.1 by default, starting from 0 and 1.
    """
    x = uneven(2, 3, 4)
    module = BatchNorm1d(3).double()
    for _ in range(batches):
        module(x)
    rest = 0.9**batches
    laws.assert_close(module.running_mean, (1 - rest) * x.mean((0, 2)), what="running_mean")
    biased = x.var((0, 2), correction=0)
    laws.assert_close(module.running_var, rest + (1 - rest) * 8 / 7 * biased, what="running_var")


@pytest.mark.item("batch-norm")
def test_momentum_none_averages_all_batches():
    """With momentum=None the running statistics are plain averages of all batches so far; initial values are lost.

    Source: Ioffe & Szegedy 2015, Alg. 2, line 10: E[x] = E_B[μ_B], averaged over training mini-batches.
    Convention: momentum=None of torch.nn.BatchNorm1d.
    """
    module = BatchNorm1d(2, momentum=None).double()
    batches = [uneven(3, 2, 2, seed=seed) for seed in range(7)]
    for count, x in enumerate(batches, 1):
        module(x)
        mean = torch.stack([b.mean((0, 2)) for b in batches[:count]]).mean(0)
        variance = torch.stack([b.var((0, 2), correction=1) for b in batches[:count]]).mean(0)
        laws.assert_close(module.running_mean, mean, what=f"running_mean after {count}")
        laws.assert_close(module.running_var, variance, what=f"running_var after {count}")


@pytest.mark.item("batch-norm")
@pytest.mark.parametrize("momentum", [0.0, 0.3, None])
def test_training_batches_are_counted(momentum):
    """num_batches_tracked counts the batches seen in training, and only those.

    Convention: the int64 buffer of torch.nn.BatchNorm1d, saved with the state.
    """
    module = BatchNorm1d(2, momentum=momentum)
    for training, count in ((True, 1), (False, 1), (True, 2), (True, 3)):
        module.train(training)(uneven(3, 2, dtype=torch.float32))
        laws.assert_same(module.num_batches_tracked, torch.tensor(count), what="num_batches_tracked")


@pytest.mark.item("batch-norm")
def test_evaluation_normalizes_by_the_running_statistics():
    """In evaluation y = γ (x − running_mean)/√(running_var + ε) + β: an affine map of each element by itself.

    Source: Ioffe & Szegedy 2015, Alg. 2, line 11.
    """
    x = uneven(3, 2, 4)
    module = ready(BatchNorm1d(2, eps=0.2)).eval()
    module.running_mean.copy_(torch.tensor([0.5, -2.0]))
    module.running_var.copy_(torch.tensor([0.3, 4.0]))
    mean, variance = per_channel(module.running_mean, x), per_channel(module.running_var, x)
    scale = per_channel(module.weight, x) / (variance + 0.2) ** 0.5
    laws.assert_close(module(x), scale * (x - mean) + per_channel(module.bias, x))


@pytest.mark.item("batch-norm")
@given(seed=seeds(), samples=sizes(2, 4))
def test_evaluation_on_the_training_batch_is_slightly_smaller(seed, samples):
    """After one batch with momentum 1, evaluating it gives (x − μ)/√(n/(n − 1)·σ² + ε), not the output of training.

    Source: Ioffe & Szegedy 2015, Alg. 2: inference uses the unbiased variance, Alg. 1 normalizes by the biased one.
    """
    x = uneven(samples, 2, 3, seed=seed)
    module = BatchNorm1d(2, eps=0.1, momentum=1.0).double()
    trained = module(x)
    unbiased = x.var((0, 2), correction=1, keepdim=True)
    evaluated = module.eval()(x)
    laws.assert_close(evaluated, (x - x.mean((0, 2), keepdim=True)) / (unbiased + 0.1).sqrt())
    laws.assert_differs(evaluated, trained, by=1e-3)


@pytest.mark.item("batch-norm")
def test_evaluation_leaves_the_running_statistics_alone():
    """Evaluation changes no buffer by a bit; training changes every one.

    Source: Ioffe & Szegedy 2015, Alg. 2: the statistics are fixed during inference.
    """
    module = BatchNorm2d(3).eval()
    before = {name: t.clone() for name, t in module.named_buffers()}
    module(uneven(2, 3, 4, 5, dtype=torch.float32))
    for name, buffer in module.named_buffers():
        laws.assert_same(buffer, before[name], what=f"{name} after evaluation")
    module.train()(uneven(2, 3, 4, 5, dtype=torch.float32))
    for name, buffer in module.named_buffers():
        laws.assert_differs(buffer, before[name], by=1e-3, what=f"{name} after training")


@pytest.mark.item("batch-norm")
@pytest.mark.states("gradient routing")
def test_running_statistics_are_no_part_of_the_graph():
    """The running statistics carry no gradient: training does not look at them, nor through them at earlier batches.

    Source: Ioffe & Szegedy 2015, §3.1: the moving averages track the model, they are not trained.
    """
    module = BatchNorm1d(2, eps=0.1).double()
    first = uneven(3, 2, seed=1).requires_grad_()
    module(first)
    assert not module.running_mean.requires_grad, "expected running_mean outside the graph, found it inside"
    assert not module.running_var.requires_grad, "expected running_var outside the graph, found it inside"
    x = uneven(3, 2, seed=2)
    y = module(x)
    module.running_mean.fill_(7)
    module.running_var.fill_(9)
    laws.assert_same(module(x), y, what="training output under other running statistics")


@pytest.mark.item("batch-norm")
def test_without_tracking_evaluation_uses_the_batch():
    """With track_running_stats=False there are no buffers, and evaluation normalizes by the batch as training does.

    Convention: torch.nn.BatchNorm1d(track_running_stats=False).
    """
    x = uneven(3, 2, 4)
    module = ready(BatchNorm1d(2, eps=0.1, track_running_stats=False))
    assert sorted(keys(module)) == ["bias", "weight"], f"expected weight and bias alone, found {sorted(keys(module))}"
    trained = module(x)
    laws.assert_same(module.eval()(x), trained)
    laws.assert_close(trained, standardized(x, (0, 2), 0.1)[0] * module.weight[:, None] + module.bias[:, None])


@pytest.mark.item("batch-norm")
@pytest.mark.parametrize(
    ("kind", "shape"), [(BatchNorm1d, (1, 3)), (BatchNorm1d, (1, 3, 1)), (BatchNorm2d, (1, 3, 1, 1))]
)
def test_a_single_value_has_no_statistics(kind, shape):
    """One value per channel raises in training, where its standard deviation is always 0; evaluation accepts it.

    Source: Ioffe & Szegedy 2015, Alg. 2: m/(m − 1) for m = 1.  Convention: ValueError, as in torch.
    """
    x = uneven(*shape, dtype=torch.float32)
    laws.rejects(lambda: kind(3)(x))
    laws.assert_close(kind(3, eps=0.5).eval()(x), x / 1.5**0.5)


@pytest.mark.item("batch-norm")
def test_batch_norm_of_vectors_sequences_images_and_volumes_is_one_rule():
    """The layout of positions is no information: (N, C) is (N, C, 1), and an image or a volume is its flat sequence.

    Source: Ioffe & Szegedy 2015, §3.2: B is the set of all values of a feature map, over samples and locations.
    """
    x = uneven(3, 2, 2, 4, 5)
    flat = ready(BatchNorm1d(2, eps=0.1))
    expected = flat(x.flatten(2)).reshape(x.shape)
    laws.assert_close(ready(BatchNorm3d(2, eps=0.1))(x), expected)
    laws.assert_close(ready(BatchNorm2d(2, eps=0.1))(x.flatten(3)), expected.flatten(3))
    vectors = x[:, :, 0, 0, 0]
    laws.assert_close(flat(vectors), flat(vectors[:, :, None])[:, :, 0])


@pytest.mark.item("batch-norm")
def test_a_new_batch_norm_is_the_plain_standardization():
    """A new layer has γ = 1, β = 0, running mean 0 and variance 1; affine=False leaves γ and β out.

    Convention: the initial values of torch.nn.BatchNorm2d, eps = 1e-5 and momentum = 0.1.
    """
    x = uneven(3, 2, 4, 5, dtype=torch.float32)
    module, plain = BatchNorm2d(2), BatchNorm2d(2, affine=False)
    laws.assert_close(module(x), standardized(x, (0, 2, 3), 1e-5)[0])
    laws.assert_close(plain(x), module(x))
    assert not list(plain.parameters()), "expected no parameters with affine=False"
    laws.assert_close(BatchNorm2d(2).eval()(x), x / (1 + 1e-5) ** 0.5)
    laws.assert_close(module.running_mean, 0.19 * x.mean((0, 2, 3)), what="two batches at momentum 0.1")


@pytest.mark.project_convention
@pytest.mark.item("batch-norm")
def test_the_plain_average_works_on_meta_and_compiles():
    """With momentum=None the count of batches stays a tensor: it has shapes on "meta" and compiles as one graph.

    Convention: this project's; torch converts the count to a Python number, which neither allows.
    """
    inputs = (uneven(3, 2, 5, 4, dtype=torch.float32),)
    laws.works_on_meta(lambda: BatchNorm2d(2, momentum=None), inputs)
    laws.compiles(lambda: BatchNorm2d(2, momentum=None), inputs)


# ---------------------------------------------------------------------------------------------- layer norm


@pytest.mark.item("layer-norm")
@pytest.mark.parametrize("trailing", [1, 2, 3])
def test_layer_norm_standardizes_each_sample_over_its_trailing_dimensions(trailing):
    """y = g/√(σ² + ε) ⊙ (a − μ) + b with μ, σ² over the trailing dimensions, and g, b for every feature by itself.

    Source: Ba, Kiros & Hinton 2016, eq. 3 and 4.  Convention: eps inside the root, biased variance.
    """
    x = uneven(2, 3, 5, 4)
    module = ready(LayerNorm(x.shape[-trailing:], eps=0.3))
    normalized, _ = standardized(x, tuple(range(-trailing, 0)), 0.3)
    laws.assert_close(module(x), normalized * module.weight + module.bias)
    assert module.weight.shape == module.bias.shape == x.shape[-trailing:], "expected γ and β for every feature"


@pytest.mark.item("layer-norm")
@given(seed=seeds(), eps=floats(1e-3, 1), width=sizes(2, 9))
def test_layer_norm_output_has_mean_zero_and_a_variance_just_below_one(seed, eps, width):
    """Without gain and bias Σ y = 0 and Σ y² = H·σ²/(σ² + ε) for each sample: below H, the more so the larger ε.

    Source: Ba, Kiros & Hinton 2016, eq. 3.  Convention: eps inside the root, biased variance.
    """
    x = uneven(3, 2, width, seed=seed)
    y = LayerNorm(width, eps=eps).double()(x)
    variance = x.var(-1, correction=0)
    laws.assert_close(y.sum(-1), torch.zeros(3, 2, dtype=torch.float64), what="Σ y")
    laws.assert_close(y.square().sum(-1), width * variance / (variance + eps), what="Σ y²")


@pytest.mark.item("layer-norm")
def test_layer_norm_does_not_see_other_samples():
    """∂y/∂x is non-zero between all features of a token and zero between tokens and between samples.

    Source: Ba, Kiros & Hinton 2016, §3: statistics of the layer, not of the batch; it works with a batch of 1.
    """
    token = torch.arange(6).repeat_interleave(4)
    laws.depends_only_on(ready(LayerNorm(4, eps=0.1)), uneven(2, 3, 4), token[:, None] == token)


@pytest.mark.item("layer-norm")
def test_layer_norm_is_the_same_in_training_and_evaluation():
    """Training and evaluation are bitwise equal, and a sample alone gives what it gives among others.

    Source: Ba, Kiros & Hinton 2016, §1: exactly the same computation at training and test times.
    """
    x = uneven(3, 2, 5)
    module = ready(LayerNorm(5))
    trained = module(x)
    laws.assert_same(module.eval()(x), trained)
    laws.assert_close(module(x[:1]), trained[:1])


# Table 1 of Ba, Kiros & Hinton: does the layer's output stay the same?
INVARIANCES = {
    "weight matrix re-scaling": {"layer": True, "batch": True},
    "weight matrix re-centering": {"layer": True, "batch": False},
    "weight vector re-scaling": {"layer": False, "batch": True},
    "dataset re-scaling": {"layer": True, "batch": True},
    "dataset re-centering": {"layer": False, "batch": True},
    "single training case re-scaling": {"layer": True, "batch": False},
}


@pytest.mark.states("symmetry")
@pytest.mark.parametrize(
    "method",
    [
        pytest.param("layer", marks=pytest.mark.item("layer-norm")),
        pytest.param("batch", marks=pytest.mark.item("batch-norm")),
    ],
)
@pytest.mark.parametrize("change", INVARIANCES)
def test_table_of_invariances(method, change):
    """Of six changes of the weights and the data, layer and batch normalization each ignore the four of table 1.

    Source: Ba, Kiros & Hinton 2016, table 1 and §5.1.  Convention: the limit of small eps.
    """
    generator = torch.Generator().manual_seed(1)
    x, weight = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((5, 4), (3, 4)))
    shift = torch.tensor([0.5, -2.0, 1.0, 3.0], dtype=torch.float64)
    changed = {
        "weight matrix re-scaling": (x, 7.3 * weight),
        "weight matrix re-centering": (x, weight + shift),
        "weight vector re-scaling": (x, weight * torch.tensor([[3.0], [1], [1]])),
        "dataset re-scaling": (7.3 * x, weight),
        "dataset re-centering": (x + shift, weight),
        "single training case re-scaling": (x * torch.tensor([[3.0], [1], [1], [1], [1]]), weight),
    }
    module = LayerNorm(3, eps=TINY).double() if method == "layer" else BatchNorm1d(3, eps=TINY).double()
    after, before = (module(inputs @ matrix.T) for inputs, matrix in (changed[change], (x, weight)))
    if INVARIANCES[change][method]:
        laws.assert_close(after, before, what=f"{method} normalization under {change}")
    else:
        laws.assert_differs(after, before, by=1e-2, what=f"{method} normalization under {change}")


@pytest.mark.item("layer-norm")
def test_layer_norm_projects_out_the_mean_and_the_radius():
    """A sample's H×H Jacobian has rank H − 2: it kills the directions 1 and x − μ and scales all others by 1/σ.

    Source: Ba, Kiros & Hinton 2016, eq. 3, differentiated; §5.2 on the geometry.  Convention: the limit of small eps.
    """
    x = uneven(1, 6)[0]
    matrix = laws.jacobian(LayerNorm(6, eps=TINY).double(), x)
    sigma = x.std(correction=0)
    expected = torch.tensor([1.0, 1, 1, 1, 0, 0], dtype=torch.float64) / sigma
    laws.assert_close(torch.linalg.svdvals(matrix), expected, what="singular values")
    for direction in (torch.ones(6, dtype=torch.float64), x - x.mean()):
        laws.assert_close(matrix @ direction, torch.zeros(6, dtype=torch.float64), what="Jacobian · direction")


@pytest.mark.item("layer-norm")
@pytest.mark.states("symmetry")
@given(order=permutations(6))
def test_layer_norm_moves_with_the_features(order):
    """Permuting the features together with their gains and biases permutes the output.

    Source: Ba, Kiros & Hinton 2016, eq. 3: μ and σ are symmetric sums over the hidden units.
    """
    x = uneven(3, 6)
    module, permuted = ready(LayerNorm(6, eps=0.1)), ready(LayerNorm(6, eps=0.1))
    permuted.load_state_dict({name: t[order] for name, t in module.state_dict().items()})
    laws.assert_close(permuted(x[:, order]), module(x)[:, order])


@pytest.mark.item("layer-norm")
def test_layer_norm_without_bias_or_without_both():
    """bias=False leaves the gain alone, elementwise_affine=False neither; γ is initialised to 1 and β to 0.

    Convention: torch.nn.LayerNorm(normalized_shape, eps, elementwise_affine, bias), eps = 1e-5.
    """
    x = uneven(3, 2, 4, dtype=torch.float32)
    expected = standardized(x, (1, 2), 1e-5)[0]
    variants = {
        ("weight", "bias"): LayerNorm((2, 4)),
        ("weight",): LayerNorm((2, 4), bias=False),
        (): LayerNorm((2, 4), elementwise_affine=False),
    }
    for names, module in variants.items():
        assert keys(module) == dict.fromkeys(names, (2, 4)), f"expected {names} of shape (2, 4), found {keys(module)}"
        laws.assert_close(module(x), expected, what=f"output with {names}")
    module = laws.randomise(variants["weight",])
    laws.assert_close(module(x), expected * module.weight, what="output with a gain and no bias")


@pytest.mark.item("layer-norm")
@pytest.mark.states("limiting case")
def test_layer_norm_of_equal_features_is_the_bias():
    """A sample whose features are all equal has x̂ = 0, so y = b; other samples are unchanged and gradients finite.

    Source: Ba, Kiros & Hinton 2016, eq. 4 at σ = 0, which ε keeps from 0/0.
    """
    x = uneven(3, 5)
    x[1] = 4.0
    x.requires_grad_()
    module = ready(LayerNorm(5, eps=0.01))
    y = module(x)
    laws.assert_close(y[1], module.bias)
    laws.assert_close(y[::2], module(x[::2]))
    cotangent = torch.randn(3, 5, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(y, x, cotangent)
    g = cotangent[1] * module.weight
    laws.assert_close(gradient[1], (g - g.mean()) / 0.1, what="∂x of equal features")


# ---------------------------------------------------------------------------------------------- instance norm


@pytest.mark.item("instance-norm")
@pytest.mark.parametrize(("kind", "shape"), INSTANCE_NORMS)
def test_instance_norm_standardizes_each_channel_of_each_sample(kind, shape):
    """y = (x − μ)/√(σ² + ε) with μ, σ² of one channel of one sample over its positions.

    Source: Ulyanov, Vedaldi & Lempitsky 2016, the equation of §2.  Convention: eps inside the root, biased variance.
    """
    x = uneven(*shape)
    expected, variance = standardized(x, tuple(range(2, x.dim())), 0.3)
    laws.assert_close(kind(3, eps=0.3).double()(x), expected)
    module = ready(kind(3, eps=0.3, affine=True))
    laws.assert_close(module(x), expected * per_channel(module.weight, x) + per_channel(module.bias, x))


@pytest.mark.item("instance-norm")
@given(seed=seeds(), eps=floats(1e-3, 1))
def test_instance_norm_output_has_mean_zero_and_a_variance_just_below_one(seed, eps):
    """For each sample and channel y has mean 0 and biased variance σ²/(σ² + ε).

    Source: Ulyanov, Vedaldi & Lempitsky 2016, the equation of §2.  Convention: eps inside the root, biased variance.
    """
    x = uneven(2, 3, 4, 5, seed=seed)
    y = InstanceNorm2d(3, eps=eps).double()(x)
    variance = x.var((2, 3), correction=0)
    laws.assert_close(y.mean((2, 3)), torch.zeros(2, 3, dtype=torch.float64), what="mean")
    laws.assert_close(y.var((2, 3), correction=0), variance / (variance + eps), what="variance")


@pytest.mark.item("instance-norm")
@given(seed=seeds(), smallest=floats(0.1, 2))
def test_instance_norm_ignores_the_contrast_of_each_channel(seed, smallest):
    """IN(a_nc·x + b_nc) = IN(x) for every a > 0 and b of each sample and channel; a < 0 flips the sign.

    Source: Ulyanov, Vedaldi & Lempitsky 2016, §2: the stylized image should not depend on the content image's contrast.
    """
    x = uneven(2, 3, 4, 5, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    scale = smallest + torch.rand(2, 3, 1, 1, generator=generator, dtype=torch.float64)
    shift = 5 * torch.randn(2, 3, 1, 1, generator=generator, dtype=torch.float64)
    module = InstanceNorm2d(3, eps=TINY).double()
    laws.invariant(module, x, lambda t: scale * t + shift)
    laws.equivariant(module, x, lambda t: shift - scale * t, lambda t: -t)


@pytest.mark.item("instance-norm")
def test_instance_norm_does_not_see_other_samples_or_channels():
    """∂y/∂x is non-zero between all positions of a channel of a sample, and zero elsewhere.

    Source: Ulyanov, Vedaldi & Lempitsky 2016, the equation of §2: sums run over l and m, not over t or i.
    """
    plane = torch.arange(6).repeat_interleave(4)
    laws.depends_only_on(InstanceNorm2d(3, eps=0.1).double(), uneven(2, 3, 2, 2), plane[:, None] == plane)


@pytest.mark.item("instance-norm")
def test_instance_norm_is_the_same_in_training_and_evaluation():
    """Training and evaluation are bitwise equal, and nothing is remembered: it has no state by default.

    Source: Ulyanov, Vedaldi & Lempitsky 2016, §2: the layer is applied at test time as well.
    Convention: affine=False and track_running_stats=False by default, as in torch.
    """
    x = uneven(2, 3, 4, 5)
    module = InstanceNorm2d(3).double()
    trained = module(x)
    laws.assert_same(module.eval()(x), trained)
    laws.assert_close(module(x[1:]), trained[1:])
    assert not keys(module), f"expected no state, found {sorted(keys(module))}"


@pytest.mark.item("instance-norm")
@given(order=permutations(20), channels=permutations(3))
def test_instance_norm_moves_with_positions_and_channels(order, channels):
    """Permuting positions or channels permutes the output: no neighbourhood and no other channel is looked at.

    Source: Ulyanov, Vedaldi & Lempitsky 2016, the equation of §2: symmetric sums over the positions of one channel.
    """
    x = uneven(2, 3, 4, 5)
    module = InstanceNorm2d(3, eps=0.1).double()
    laws.equivariant(module, x, lambda t: t.flatten(2)[:, :, order].unflatten(2, (4, 5)))
    laws.equivariant(module, x, lambda t: t[:, channels])


@pytest.mark.item("instance-norm")
@pytest.mark.states("limiting case")
def test_instance_norm_is_batch_norm_of_a_batch_of_one():
    """IN(x) is batch normalization of x reshaped to one sample of N·C channels, and group normalization with C groups.

    Source: Wu & He 2018, §3.1, "Relation to prior work"; Ulyanov, Vedaldi & Lempitsky 2016, §2.
    """
    x = uneven(2, 3, 4, 5)
    module = InstanceNorm2d(3, eps=0.3).double()
    batch_norm = nn.BatchNorm2d(6, eps=0.3).double()
    laws.assert_close(module(x), batch_norm(x.reshape(1, 6, 4, 5)).reshape(x.shape), what="against BatchNorm2d")
    laws.assert_close(module(x), nn.GroupNorm(3, 3, eps=0.3).double()(x), what="against GroupNorm")


@pytest.mark.item("instance-norm")
def test_instance_norm_needs_more_than_one_position():
    """A single position raises, in training and evaluation: it would always become 0.

    Source: Ulyanov, Vedaldi & Lempitsky 2016, §2, at H = W = 1.  Convention: ValueError, as in torch.
    """
    for train in (True, False):
        laws.rejects(lambda train=train: InstanceNorm2d(3).train(train)(torch.randn(2, 3, 1, 1)))
    laws.assert_close(InstanceNorm2d(1, eps=TINY)(torch.tensor([[[[3.0, 5.0]]]])), torch.tensor([[[[-1.0, 1.0]]]]))


@pytest.mark.item("instance-norm")
@given(seed=seeds(), momentum=floats(0.05, 0.95))
def test_tracked_instance_statistics_average_over_the_batch(seed, momentum):
    """With tracking, running ← (1 − α)·running + α·mean over samples of μ, and of n/(n − 1)·σ² with n = H·W.

    Source: not in the paper.  Convention: torch.nn.InstanceNorm2d(track_running_stats=True).
    """
    module = InstanceNorm2d(3, momentum=momentum, track_running_stats=True).double()
    mean, variance = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    for step in range(3):
        x = uneven(2, 3, 1, 3, seed=seed + step)
        laws.assert_close(module(x), standardized(x, (2, 3), 1e-5)[0], what="training output")
        mean = (1 - momentum) * mean + momentum * x.mean((0, 2, 3))
        variance = (1 - momentum) * variance + momentum * x.var((2, 3), correction=1).mean(0)
    laws.assert_close(module.running_mean, mean, what="running_mean")
    laws.assert_close(module.running_var, variance, what="running_var")
    x = uneven(2, 3, 4, 1, seed=seed)
    before = {name: t.clone() for name, t in module.named_buffers()}
    expected = (x - per_channel(mean, x)) / (per_channel(variance, x) + 1e-5).sqrt()
    laws.assert_close(module.eval()(x), expected, what="evaluation")
    for name, buffer in module.named_buffers():
        laws.assert_same(buffer, before[name], what=f"{name} after evaluation")


@pytest.mark.project_convention
@pytest.mark.item("instance-norm")
@pytest.mark.parametrize("tracked", [False, True])
def test_an_empty_batch_of_images_has_no_statistics(tracked):
    """An empty batch raises ValueError wherever per-image statistics are needed, and no running statistic is spoiled.

    Convention: this project's; torch raises IndexError, or returns no images.
    """
    module = InstanceNorm2d(3, affine=True, track_running_stats=tracked)
    empty = torch.zeros(0, 3, 4, 5)
    laws.rejects(lambda: module(empty), mentions=("(0, 3, 4, 5)",))
    for name, buffer in module.named_buffers():
        assert buffer.isfinite().all(), f"expected a finite {name} after an empty batch, found {buffer}"
    if tracked:
        assert module.eval()(empty).shape == empty.shape, "expected an empty batch out of evaluation for an empty one"
    else:
        laws.rejects(lambda: module.eval()(empty))


# ---------------------------------------------------------------------------------------------- group norm


def grouped(x, groups, eps):
    """x̂ of group normalization, by a loop over groups of neighbouring channels."""
    return torch.cat([standardized(part, tuple(range(1, x.dim())), eps)[0] for part in x.chunk(groups, dim=1)], dim=1)


@pytest.mark.item("group-norm")
@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("shape", [(3, 6), (2, 6, 5), (2, 6, 3, 4), (2, 6, 1, 3, 2)], ids=str)
def test_group_norm_standardizes_groups_of_neighbouring_channels(groups, shape):
    """y = γ (x − μ)/√(σ² + ε) + β with μ, σ² over C/G neighbouring channels and all positions, γ and β per channel.

    Source: Wu & He 2018, eq. 1, 2, 3 and 7.  Convention: eps inside the root, biased variance.
    """
    x = uneven(*shape)
    module = ready(GroupNorm(groups, 6, eps=0.3))
    expected = grouped(x, groups, 0.3) * per_channel(module.weight, x) + per_channel(module.bias, x)
    laws.assert_close(module(x), expected)


@pytest.mark.item("group-norm")
@given(seed=seeds(), eps=floats(1e-3, 1))
def test_group_norm_output_has_mean_zero_and_a_variance_just_below_one(seed, eps):
    """For each sample and group y has mean 0 and biased variance σ²/(σ² + ε).

    Source: Wu & He 2018, eq. 1 and 2.  Convention: eps inside the root, biased variance.
    """
    x = uneven(2, 6, 3, 4, seed=seed)
    y = GroupNorm(2, 6, eps=eps).double()(x).reshape(2, 2, -1)
    variance = x.reshape(2, 2, -1).var(-1, correction=0)
    laws.assert_close(y.mean(-1), torch.zeros(2, 2, dtype=torch.float64), what="mean")
    laws.assert_close(y.var(-1, correction=0), variance / (variance + eps), what="variance")


@pytest.mark.item("group-norm")
def test_groups_are_neighbouring_channels():
    """Channel i depends on channel j of its sample where ⌊i/(C/G)⌋ = ⌊j/(C/G)⌋ and nowhere else: G blocks.

    Source: Wu & He 2018, eq. 7 and fig. 3: contiguous groups, not interleaved; G is their number, not their size.
    """
    group = torch.arange(2 * 3).repeat_interleave(4 * 2)
    laws.depends_only_on(GroupNorm(3, 12, eps=0.1).double(), uneven(2, 12, 2), group[:, None] == group)


@pytest.mark.item("group-norm")
@given(seed=seeds(), smallest=floats(0.1, 2))
def test_group_norm_ignores_per_group_affine_maps_of_the_input(seed, smallest):
    """GN(a_ng·x + b_ng) = GN(x) for every a > 0 and b of each sample and group, but not of each channel.

    Source: Wu & He 2018, eq. 1, 2 and 7.  Convention: the limit of small eps.
    """
    x = uneven(2, 6, 4, 3, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    scale = smallest + torch.rand(2, 2, 1, 1, generator=generator, dtype=torch.float64)
    shift = 5 * torch.randn(2, 2, 1, 1, generator=generator, dtype=torch.float64)
    module = GroupNorm(2, 6, eps=TINY).double()
    a, b = (t.repeat_interleave(3, dim=1) for t in (scale, shift))
    laws.invariant(module, x, lambda t: a * t + b)
    laws.assert_differs(module(x + torch.arange(6.0).reshape(6, 1, 1)), module(x), by=1e-2, what="a shift per channel")


@pytest.mark.item("group-norm")
def test_group_norm_does_not_see_other_samples():
    """f([x₁, x₂]) = [f(x₁), f(x₂)], in training as in evaluation: no statistic crosses the batch, none is remembered.

    Source: Wu & He 2018, §3.1: computation independent of batch sizes.
    """
    x = uneven(3, 6, 4, 5)
    module = ready(GroupNorm(3, 6, eps=0.1))
    together = module(x)
    laws.assert_close(torch.cat([module(x[:1]), module(x[1:])]), together)
    laws.assert_same(module.eval()(x), together, what="evaluation")
    assert keys(module) == {"weight": (6,), "bias": (6,)}, f"expected γ and β per channel alone, found {keys(module)}"


@pytest.mark.item("group-norm")
@pytest.mark.states("limiting case")
def test_one_group_is_layer_norm_and_as_many_groups_as_channels_instance_norm():
    """G = 1 is layer normalization over (C, H, W), G = C is instance normalization; γ and β stay per channel.

    Source: Wu & He 2018, §3.1, "Relation to prior work".
    """
    x = uneven(2, 6, 4, 5)
    whole, each = ready(GroupNorm(1, 6, eps=0.3)), ready(GroupNorm(6, 6, eps=0.3))
    gain, bias = per_channel(whole.weight, x), per_channel(whole.bias, x)
    layer_norm = nn.LayerNorm((6, 4, 5), eps=0.3, elementwise_affine=False)
    laws.assert_close(whole(x), layer_norm(x) * gain + bias, what="G = 1")
    laws.assert_close(each(x), nn.InstanceNorm2d(6, eps=0.3)(x) * gain + bias, what="G = C")


@pytest.mark.item("group-norm")
@given(inside=permutations(3), groups=permutations(2))
def test_group_norm_moves_with_channels_inside_a_group_and_with_whole_groups(inside, groups):
    """Permuting the channels of a group, or whole groups, permutes the output; moving a channel across groups does not.

    Source: Wu & He 2018, eq. 7: S_i is a set of channels.
    """
    x = uneven(2, 6, 4, 5)
    module = GroupNorm(2, 6, eps=0.1).double()
    laws.equivariant(module, x, lambda t: torch.cat([t[:, inside], t[:, 3:]], dim=1))
    laws.equivariant(module, x, lambda t: t.unflatten(1, (2, 3))[:, groups].flatten(1, 2))
    across = torch.tensor([3, 1, 2, 0, 4, 5])
    laws.assert_differs(module(x[:, across]), module(x)[:, across], by=1e-2, what="channels 0 and 3 exchanged")


@pytest.mark.item("group-norm")
def test_a_new_group_norm_is_the_plain_standardization():
    """γ is initialised to 1 and β to 0, C of each, and there are none with affine=False.

    Source: Wu & He 2018, eq. 7.  Convention: eps = 1e-5, as in torch.
    """
    x = uneven(2, 6, 5, dtype=torch.float32)
    expected = grouped(x, 3, 1e-5)
    laws.assert_close(GroupNorm(3, 6)(x), expected)
    plain = GroupNorm(3, 6, affine=False)
    laws.assert_close(plain(x), expected)
    assert not keys(plain), f"expected no state with affine=False, found {sorted(keys(plain))}"


# ---------------------------------------------------------------------------------------------- arithmetic of all four

ALL = [
    pytest.param(lambda **kw: BatchNorm2d(4, **kw), (0, 2, 3), id="batch", marks=pytest.mark.item("batch-norm")),
    pytest.param(lambda **kw: LayerNorm((4, 3, 2), **kw), (1, 2, 3), id="layer", marks=pytest.mark.item("layer-norm")),
    pytest.param(lambda **kw: InstanceNorm2d(4, **kw), (2, 3), id="instance", marks=pytest.mark.item("instance-norm")),
    pytest.param(lambda **kw: GroupNorm(1, 4, **kw), (1, 2, 3), id="group", marks=pytest.mark.item("group-norm")),
]


@pytest.mark.parametrize(("build", "dims"), ALL)
def test_second_derivatives_go_through_the_statistics(build, dims):
    """The derivative of the gradient equals central differences of it: μ and σ² are functions of x there, too.

    Source: the chain rule of Ioffe & Szegedy 2015, §3, differentiated once more; gradient penalties need it.
    """
    laws.gradient_correct(ready(build(eps=0.1)), uneven(2, 4, 3, 2), second_order=True)


@pytest.mark.parametrize(("build", "dims"), ALL)
def test_eps_is_one_hundred_thousandth_by_default(build, dims):
    """Values of variance about 10⁻⁵ come out with about half the variance: ε = 10⁻⁵ where none is given.

    Source: Wu & He 2018, eq. 2: ε as a small constant.  Convention: torch's 1e-5; keras has 1e-3, BERT 1e-12.
    """
    x = uneven(2, 4, 3, 2) * 1e-5**0.5
    laws.assert_close(build().double()(x), standardized(x, dims, 1e-5)[0])


@pytest.mark.parametrize(("build", "dims"), ALL)
def test_a_large_offset_does_not_swamp_the_variance(build, dims):
    """float32 values of spread 1 around 10⁴ come out within 1e-2 of the exact result: σ² is that of centred values.

    Source: numerical analysis: E[x²] − E[x]² loses all digits where μ²/σ² = 10⁸ meets float32's 2⁻²⁴.
    Measured: largest error 1.5e-3 here, 9e-4 in torch.nn; above 700, or NaN, with E[x²] − E[x]².
    """
    x = 1e4 + uneven(2, 4, 3, 2, dtype=torch.float32)
    expected = standardized(x.double(), dims, 1e-5)[0].float()
    laws.assert_close(build()(x), expected, rtol=0, atol=1e-2, because="one unit in the last place of 10⁴ is 1e-3")


@pytest.mark.parametrize(("build", "dims"), ALL[1::2])
def test_low_precision_inputs_have_float32_statistics(build, dims):
    """bfloat16 in and out, but μ, σ² and x̂ in float32: the result is the exact one, rounded.

    Source: Micikevicius et al. 2018, arXiv:1710.03740, §3.3: statistics are accumulated in float32.
    Convention: layer and group norm; torch's own batch and instance norm round in between on a CPU.
    Measured: largest error 4e-3, and 1.5e-2 with statistics in bfloat16.
    """
    x = (3 * uneven(2, 4, 3, 2) + 30).bfloat16()
    expected = standardized(x.double(), dims, 1e-5)[0]
    y = build().bfloat16()(x)
    assert y.dtype == torch.bfloat16, f"expected bfloat16 out, found {y.dtype}"
    laws.assert_close(y.double(), expected, rtol=2**-8, atol=2**-8, because="rounding to 8 bits")


EVERY_ONE = [
    *[pytest.param(kind, shape, marks=pytest.mark.item("batch-norm")) for kind, shape in BATCH_NORMS],
    *[pytest.param(kind, shape, marks=pytest.mark.item("instance-norm")) for kind, shape in INSTANCE_NORMS],
    pytest.param(
        lambda n: InstanceNorm2d(n, affine=True, track_running_stats=True),
        (2, 3, 5, 4),
        marks=pytest.mark.item("instance-norm"),
        id="InstanceNorm2d, tracked",
    ),
    pytest.param(lambda n: LayerNorm((n, 5)), (2, 3, 5), marks=pytest.mark.item("layer-norm"), id="LayerNorm"),
    pytest.param(lambda n: GroupNorm(1, n), (2, 3, 5), marks=pytest.mark.item("group-norm"), id="GroupNorm"),
]


@pytest.mark.parametrize(("build", "shape"), EVERY_ONE)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("train", [True, False], ids=["training", "evaluation"])
def test_a_float32_norm_returns_the_dtype_of_a_half_precision_input(build, shape, dtype, train):
    """A float32 module turns bfloat16 into bfloat16 and float16 into float16, in training and evaluation alike.

    Source: Micikevicius et al. 2018, arXiv:1710.03740, §3: activations are in half precision, weights in float32.
    """
    x = (2 * uneven(*shape) + 3).to(dtype)
    module = laws.randomise(build(3)).train(train)
    y = module(x)
    assert y.dtype == dtype, f"expected {dtype} out, found {y.dtype}"
    expected = laws.randomise(build(3)).train(train)(x.float())
    size = 2**-6 * expected.abs().max().item()
    laws.assert_close(
        y.float(), expected, rtol=0, atol=size, because="bfloat16 has 8 bits, and torch rounds in between"
    )


@pytest.mark.project_convention
@pytest.mark.parametrize(("build", "shape"), EVERY_ONE)
@pytest.mark.parametrize("train", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64], ids=["complex", "integers"])
def test_what_is_not_of_floating_point_is_refused(build, shape, train, dtype):
    """Complex and integer inputs raise ValueError: (x − μ)² is no variance of complex values, x̂ is no integer.

    Convention: ValueError; torch raises other errors, so peers are not asked.
    """
    laws.rejects(lambda: build(3).train(train)((10 * uneven(*shape)).to(dtype)), mentions=(str(dtype),))


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda: BatchNorm2d(3), id="batch", marks=pytest.mark.item("batch-norm")),
        pytest.param(
            lambda: InstanceNorm2d(3, affine=True, track_running_stats=True),
            id="instance",
            marks=pytest.mark.item("instance-norm"),
        ),
    ],
)
def test_a_state_without_the_count_of_batches_loads(build):
    """A state dict without num_batches_tracked loads, inside of a model too; the count stays, all else must be there.

    Convention: torch.nn's: checkpoints from before torch 0.4.1 have no such entry.
    """
    source, target = build(), build()
    for seed in range(2):
        source(uneven(2, 3, 5, 4, seed=seed, dtype=torch.float32))
    state = {name: t for name, t in source.state_dict().items() if name != "num_batches_tracked"}
    nn.Sequential(target).load_state_dict({f"0.{name}": t for name, t in state.items()})
    for name, t in state.items():
        laws.assert_same(target.state_dict()[name], t, what=name)
    laws.assert_same(target.num_batches_tracked, torch.tensor(0), what="num_batches_tracked")
    del state["running_mean"]
    with pytest.raises(RuntimeError, match="running_mean"):
        target.load_state_dict(state)
