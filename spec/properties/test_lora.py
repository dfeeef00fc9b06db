"""Low-rank adaptation of frozen layers.  Hu et al. 2021, arXiv:2106.09685."""

import copy
import inspect
import io
import math

import pytest
import torch
from hypothesis import given
from torch import nn
from torch.nn import functional as F

from impl.layers.attention import MultiHeadAttention
from impl.layers.convolution import Conv2d
from impl.layers.embedding import Embedding
from impl.layers.lora import (
    LoRAConv2d,
    LoRAEmbedding,
    LoRALinear,
    inject_lora,
    load_lora_state_dict,
    lora_state_dict,
    mark_only_lora_as_trainable,
    merge_lora,
    merged_state_dict,
    unmerge_lora,
)
from spec import cost, laws
from spec.cases.lora import network
from spec.strategies import floats, seeds, sizes

pytestmark = pytest.mark.item("lora")

EACH = pytest.mark.parametrize("kind", ["linear", "conv", "embedding"])
SYMBOLS = torch.tensor([[0, 5, 2, 3, 3], [6, 2, 2, 1, 4]])
CONV = {"stride": (3, 1), "padding": (1, 2), "dilation": (2, 1), "groups": 2}


def random(*shape, seed: int = 0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer_of(kind, r=2, lora_alpha=5.0, seed=1):
    """An adapter with random factors and base, in float64; ranks, sizes and α all differ."""
    if kind == "linear":
        layer = LoRALinear(6, 5, r=r, lora_alpha=lora_alpha)
    elif kind == "conv":
        layer = LoRAConv2d(4, 6, (2, 3), r=r, lora_alpha=lora_alpha, **CONV)
    else:
        layer = LoRAEmbedding(7, 4, r=r, lora_alpha=lora_alpha, padding_idx=2)
    return laws.randomise(layer.double(), seed=seed)


def input_of(kind, seed: int = 0):
    shapes = {"linear": (3, 2, 6), "conv": (2, 4, 5, 7)}
    return SYMBOLS if kind == "embedding" else random(*shapes[kind], seed=seed)


class Spelled(nn.Module):
    """One dense weight W₀ + (α/r)·BA, entry by entry, in torch's own function; parameters in the adapter's order."""

    def __init__(self, kind, layer, lora_alpha, r):
        super().__init__()
        self.kind, self.scale = kind, lora_alpha / r
        for name in ("weight", "bias", "lora_A", "lora_B"):
            value = getattr(layer, name)
            setattr(self, name, None if value is None else nn.Parameter(value.detach().clone()))

    def change(self):
        a, b = self.lora_A, self.lora_B
        if self.kind == "linear":
            return torch.einsum("or,ri->oi", b, a)
        if self.kind == "embedding":
            return torch.einsum("dr,rn->nd", b, a)
        each = []
        for group in range(2):  # outputs 3·group … of 6, channels r/2·group … of r
            rows, part = slice(3 * group, 3 * group + 3), slice(len(a) // 2 * group, len(a) // 2 * (group + 1))
            each.append(torch.einsum("or,rchw->ochw", b[rows, :, 0, 0], a[part]))
        return torch.cat(each)

    def forward(self, x):
        weight = self.weight + self.scale * self.change()
        if self.kind == "linear":
            return F.linear(x, weight, self.bias)
        if self.kind == "conv":
            return F.conv2d(x, weight, self.bias, **CONV)
        return F.embedding(x, weight, padding_idx=2)


def opened(layer):
    return layer.requires_grad_()


def state_of(model):
    return {name: t.detach().clone() for name, t in model.state_dict().items()}


def adapted(r=3, lora_alpha=5.0, targets=("0", "1", "4"), seed=2, **options):
    """A network of torch's layers in float64, adapted by random factors, in eval mode."""
    model = inject_lora(network().double(), list(targets), r=r, lora_alpha=lora_alpha, **options)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora" in name:
            parameter.data.normal_(generator=generator)
    return model.eval()


# ---------------------------------------------------------------------------------------------- the equation


@EACH
def test_it_is_the_dense_layer_of_the_sum(kind):
    """h = W₀x + (α/r)·BAx: outputs and all gradients are those of one dense layer with the weight W₀ + (α/r)·BA.

    Source: Hu et al. 2021, eq. 3.  Convention: A (r, in), B (out, r); of a table the change is (BA)ᵀ, of a kernel A
    is a convolution and B is 1×1.
    """
    layer = layer_of(kind, r=4, lora_alpha=7.0)
    laws.gradients_match(opened(layer), Spelled(kind, layer, 7.0, 4), input_of(kind))


@EACH
def test_the_change_is_a_scaled_product_of_low_rank(kind):
    """ΔW = (α/r)·BA, whose rank is r or less; a group of a convolution has its share of r.

    Source: Hu et al. 2021, §4.1: B ∈ ℝ^{d×r}, A ∈ ℝ^{r×k}.
    """
    layer = layer_of(kind, r=2, lora_alpha=3.0)
    delta, spelled = layer.delta_weight(), Spelled(kind, layer, 3.0, 2)
    laws.assert_close(delta, 1.5 * spelled.change())
    assert delta.shape == layer.weight.shape
    for part in delta.split(3) if kind == "conv" else [delta]:
        rank = int(torch.linalg.matrix_rank(part.detach().flatten(1)))
        assert rank == (1 if kind == "conv" else 2), f"expected the rank of the factors, found {rank}"


@EACH
@given(seed=seeds(), factor=floats(0.25, 4))
def test_alpha_multiplies_and_the_rank_divides(kind, seed, factor):
    """For the same factors ΔW grows with α, and halves where r doubles by rows of zeros.

    Source: Hu et al. 2021, §4.1: "we then scale ΔWx by α/r".
    """
    layer = layer_of(kind, r=2, lora_alpha=3.0, seed=seed)
    other = layer_of(kind, r=2, lora_alpha=3.0 * factor, seed=seed)
    laws.assert_close(other.delta_weight(), factor * layer.delta_weight())
    wide = layer_of(kind, r=4, lora_alpha=3.0, seed=seed)
    with torch.no_grad():
        for name in ("lora_A", "lora_B"):
            new, old = getattr(wide, name), getattr(layer, name)
            new.zero_()
            if kind == "conv":  # each of two groups has 1 of 2, then 2 of 4 channels; the first is kept
                new[::2] = old if name == "lora_A" else 0
                new[:, :1] = old if name == "lora_B" else new[:, :1]
            else:
                new[tuple(slice(size) for size in old.shape)] = old
    laws.assert_close(wide.delta_weight(), layer.delta_weight() / 2)


@pytest.mark.states("symmetry")
@given(seed=seeds())
def test_factors_are_known_up_to_a_change_of_basis(seed):
    """(BM, M⁻¹A) is the same layer as (B, A): what is learned is the product.

    Source: Hu et al. 2021, eq. 3.
    """
    layer, m = layer_of("linear", r=3), random(3, 3, seed=seed) + 3 * torch.eye(3, dtype=torch.float64)
    with torch.no_grad():
        before = layer(input_of("linear"))
        layer.lora_A.copy_(torch.linalg.solve(m, layer.lora_A))
        layer.lora_B.copy_(layer.lora_B @ m)
        laws.assert_close(layer(input_of("linear")), before, atol=1e-8, because="M may be nearly singular")


@pytest.mark.states("limiting case")
def test_full_rank_reaches_every_weight():
    """At r = min(d, k) every ΔW is reached, by the singular value decomposition: fine-tuning in full is a special case.

    Source: Hu et al. 2021, §4.1, "A Generalization of Full Fine-tuning".
    """
    layer, target, x = layer_of("linear", r=5, lora_alpha=2.0), random(5, 6, seed=4), input_of("linear")
    u, s, v = torch.linalg.svd(target, full_matrices=False)
    with torch.no_grad():
        layer.lora_B.copy_(u * s * 2.5)
        layer.lora_A.copy_(v)
    laws.assert_close(layer(x), F.linear(x, layer.weight + target, layer.bias).detach())


@EACH
def test_second_derivatives_are_right(kind):
    """The gradient of the gradient equals central differences, for the input and every parameter.

    Source: the definition of the derivative.
    """
    laws.gradient_correct(opened(layer_of(kind)), *small_input(kind), second_order=True)


def small_input(kind):
    """A table has no gradient where it is padded, although its value changes: tokens without padding."""
    if kind == "embedding":
        return (torch.tensor([[0, 5], [3, 3]]),)
    return (random(2, 6) if kind == "linear" else random(1, 4, 1, 2),)


def test_the_adapter_sees_what_the_kernel_sees():
    """An output of the adapted convolution depends on the inputs under its kernel, in its group, and on no others.

    Source: Hu et al. 2021, §4.1: ΔW has the shape of W₀.
    """
    x = random(1, 4, 3, 4)
    base = nn.Conv2d(4, 6, (2, 3), **CONV).double()
    nn.init.uniform_(base.weight, 0.5, 1)
    laws.depends_only_on(layer_of("conv"), x, laws.jacobian(base, x).reshape(-1, x.numel()) != 0)


def test_padding_gets_no_gradient():
    """The padding token's column of A and row of the table get no gradient; its change still counts in the output.

    Source: Hu et al. 2021, eq. 3.  Convention: padding_idx as in torch.nn.Embedding.
    """
    layer = opened(layer_of("embedding"))
    layer(SYMBOLS).square().sum().backward()
    for grad in (layer.weight.grad, layer.lora_A.grad.T):
        assert (grad[2] == 0).all() and (grad[[0, 1, 3, 4, 5, 6]] != 0).any(1).all(), f"found {grad}"


# ---------------------------------------------------------------------------------------------- initialisation


@pytest.mark.states("limiting case")
def test_a_new_adapter_computes_as_the_base_layer():
    """Before training the adapted layer's output is bitwise the base layer's, whatever A is, because B is zero.

    Source: Hu et al. 2021, §4.1: "ΔW = BA is zero at the beginning of training".
    Convention: eighths, whose sums are exact in every order.
    """
    laws.reseed(3)
    pairs = [
        (LoRALinear(6, 5, r=3), nn.Linear(6, 5), random(2, 6)),
        (LoRAConv2d(4, 6, (2, 3), r=2, **CONV), nn.Conv2d(4, 6, (2, 3), **CONV), random(2, 4, 5, 7)),
        (LoRAEmbedding(7, 4, r=3, padding_idx=2), nn.Embedding(7, 4, padding_idx=2), SYMBOLS),
    ]
    for layer, base, x in pairs:
        x = x if x is SYMBOLS else (8 * x).round().float() / 8
        for parameter in base.parameters():
            parameter.data.mul_(16).round_().div_(8)
        missing, unexpected = layer.load_state_dict(base.state_dict(), strict=False)
        assert sorted(missing) == ["lora_A", "lora_B"] and not unexpected, f"found {missing}, {unexpected}"
        laws.assert_same(layer(x).detach(), base(x).detach())
        layer.lora_A.data.add_(0 if x is SYMBOLS else 5)
        laws.assert_same(layer(x).detach(), base(x).detach())


@EACH
def test_only_one_factor_learns_at_first(kind):
    """Initially ∂L/∂A = 0 and ∂L/∂B ≠ 0, as B = 0 and A ≠ 0; of a table the other way round. W₀ and b get none.

    Source: Hu et al. 2021, §4.1.  Convention: A of a table is initialised to zero and B normal, as in loralib and peft.
    """
    laws.reseed(0)
    layer = layer_of(kind)
    layer.reset_lora_parameters()
    assert {n for n, p in layer.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}
    loss = layer(input_of(kind)).square().sum()
    first, second = ("lora_A", "lora_B") if kind == "embedding" else ("lora_B", "lora_A")
    laws.gradient_reaches(loss, {first: getattr(layer, first)}, {second: getattr(layer, second)})
    assert (getattr(layer, first) == 0).all(), f"expected {first} = 0"


def test_a_new_factor_has_the_variance_of_a_linear_layer():
    """A is uniform in ±1/√k, of variance 1/(3k), whatever r is (k counts a kernel's taps); a table's B is normal.

    Source: Hu et al. 2021, §4.1: "random Gaussian initialization for A".
    Convention: loralib and peft draw A uniformly as torch.nn.Linear draws its weight. 4096 elements and more each: a
    standard deviation within 5 % has a false alarm below 1e-5.
    """
    laws.reseed(0)
    for layer, k in ((LoRALinear(256, 9, r=32), 256), (LoRAConv2d(30, 12, (3, 5), r=16, groups=2), 225)):
        a = layer.lora_A.detach()
        assert 0.95 < a.abs().max() * math.sqrt(k) <= 1, f"expected up to {k**-0.5:g}, found {a.abs().max():g}"
        assert 0.95 < a.std() * math.sqrt(3 * k) < 1.05, f"expected {(3 * k) ** -0.5:g}, found {a.std():g}"
        assert (layer.lora_B == 0).all()
    table = LoRAEmbedding(9, 256, r=32)
    assert 0.95 < table.lora_B.std() < 1.05 and (table.lora_A == 0).all()


@EACH
def test_an_adapter_can_be_reset(kind):
    """`reset_lora_parameters` makes ΔW = 0 again, from a new random sample; the base is unchanged.

    Source: Hu et al. 2021, §4.1.
    """
    layer = layer_of(kind)
    before, drawn = state_of(layer), "lora_B" if kind == "embedding" else "lora_A"
    layer.reset_lora_parameters()
    assert (layer.delta_weight() == 0).all() and layer.lora_A.requires_grad and layer.lora_B.requires_grad
    laws.assert_differs(getattr(layer, drawn).detach(), before[drawn], by=0.1)
    laws.assert_same(layer.weight.detach(), before["weight"])


def test_the_defaults_are_named():
    """r = 8, α = 16, no dropout, a bias.

    Convention: α = 2r, as in the authors' examples; loralib's α = 1 and peft's α = 8 at r = 8 differ.
    """
    for made in (LoRALinear, LoRAConv2d, LoRAEmbedding, inject_lora):
        defaults = {n: p.default for n, p in inspect.signature(made).parameters.items()}
        assert (defaults["r"], defaults["lora_alpha"]) == (8, 16), f"found {defaults}"
        assert defaults.get("lora_dropout", 0.0) == 0.0 and defaults.get("bias", True) is True
    assert LoRALinear(3, 2).lora_A.shape == (8, 3) and LoRALinear(3, 2).bias is not None
    layer = LoRALinear(3, 2)
    with torch.no_grad():
        layer.lora_B.fill_(1)
    laws.assert_close(layer.delta_weight(), 2 * layer.lora_A.detach().sum(0).expand(2, 3))


# ---------------------------------------------------------------------------------------------- dropout


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_dropout_is_on_the_adapters_input_alone(kind):
    """y = W₀x + b + (α/r)·BA·drop(x): with W₀ = b = 0 and A, B picking single features, an output is 0 or x/(1 − p).

    Source: Hu et al. 2021, appendix D: dropout before the adapter, as in loralib's and peft's forward.
    """
    p, x = 0.75, random(50, 6) if kind == "linear" else random(4, 6, 3, 4)
    layer = LoRALinear(6, 6, 6, 6.0, p) if kind == "linear" else LoRAConv2d(6, 6, 1, 6, 6.0, p)
    layer = layer.double()
    with torch.no_grad():
        for parameter in (layer.weight, layer.bias):
            parameter.zero_()
        for factor in (layer.lora_A, layer.lora_B):
            factor.copy_(torch.eye(6).view(factor.shape))
        y = layer.train()(x)
        laws.assert_close(layer.eval()(x), x)
        kept = y != 0
        laws.assert_close(y[kept], 4 * x[kept])
        assert 0.1 < kept.double().mean() < 0.4, f"expected a quarter kept, found {kept.double().mean():.2f}"
        layer.weight.copy_(torch.eye(6).view(layer.weight.shape))
        layer.lora_B.zero_()
        laws.assert_close(layer.train()(x), x)


# ---------------------------------------------------------------------------------------------- merging


@EACH
def test_merged_and_apart_are_one_function(kind):
    """W = W₀ + ΔW as one matrix gives the outputs, and the gradient to the input, of W₀ and BA apart.

    Source: Hu et al. 2021, §4.1, "No Additional Inference Latency".
    """
    layer, x = layer_of(kind).eval(), input_of(kind)
    apart, merged = [], []
    for into in (apart, merged):
        leaf = x if kind == "embedding" else x.clone().requires_grad_()
        y = layer(leaf)
        gradient = torch.zeros(1) if kind == "embedding" else torch.autograd.grad(y.square().sum(), leaf)[0]
        into += [y.detach(), gradient]
        assert layer.merged is (into is merged)
        layer.merge()
    laws.assert_all_close(merged, apart)
    laws.assert_close(layer(x).detach(), Spelled(kind, layer, 5.0, 2)(x).detach())


@EACH
def test_unmerging_is_bitwise_exact(kind):
    """After any number of merges, in float32 and bfloat16 too, `unmerge` leaves W₀, A and B bitwise unchanged.

    Source: Hu et al. 2021, §4.1: "we can recover W₀ by subtracting BA".
    Convention: exact, where subtraction would leave a rounding error each time.
    """
    for dtype in (torch.float32, torch.bfloat16):
        layer = layer_of(kind).to(dtype).eval()
        before, x = state_of(layer), input_of(kind)
        x = x if kind == "embedding" else x.to(dtype)
        y = layer(x).detach()
        for _ in range(3):
            layer.merge()
            layer.unmerge()
        assert not layer.merged
        for name, value in state_of(layer).items():
            laws.assert_same(value, before[name], what=name)
        laws.assert_same(layer(x).detach(), y)


@EACH
def test_merging_twice_is_merging_once(kind):
    """`merge` of a merged layer adds nothing to W₀ + ΔW; one `unmerge` undoes both, and a second one does nothing.

    Source: Hu et al. 2021, §4.1: W = W₀ + BA.
    """
    layer, x = layer_of(kind).eval(), input_of(kind)
    layer.merge()
    once = layer(x).detach()
    layer.merge()
    laws.assert_same(layer(x).detach(), once)
    layer.unmerge()
    layer.unmerge()
    laws.assert_close(layer(x).detach(), once)


def test_merging_takes_the_factors_as_they_are():
    """What is merged stays as it was merged while A changes, until it is merged again.

    Source: Hu et al. 2021, §4.1: one adaptation is taken out and another put in.
    """
    layer, x = layer_of("linear").eval(), input_of("linear")
    layer.merge()
    first = layer(x).detach()
    layer.lora_A.data.neg_()
    laws.assert_same(layer(x).detach(), first)
    layer.merge()
    second = layer(x).detach()
    base = F.linear(x, layer.weight, layer.bias)
    laws.assert_close(second - base, base - first)
    assert not layer(x).requires_grad, "expected no gradient to the factors of a merged layer"


def test_modes_and_merging():
    """`train()` unmerges, for merged factors would not learn; `eval()` and `train(False)` change nothing.

    Convention: merging is explicit, as in peft; loralib merges in eval().
    """
    layer = layer_of("linear")
    assert not layer.eval().merged and not layer.train().merged
    layer.eval().merge()
    assert layer.eval().merged and layer.train(False).merged and not layer.train().merged
    assert layer.training and layer(input_of("linear")).requires_grad
    model = adapted()
    merge_lora(model)
    model.train()
    assert not any(m.merged for m in model.modules() if hasattr(m, "merge"))


@EACH
def test_a_state_does_not_tell_whether_it_was_merged(kind):
    """A merged layer saves W₀, A and B; what it loads while it is merged counts at once.

    Convention: a merged weight saved with A and B would be changed twice when it is loaded.
    """
    layer, other, x = layer_of(kind).eval(), layer_of(kind, seed=7).eval(), input_of(kind)
    before = state_of(layer)
    layer.merge()
    assert list(layer.state_dict()) == list(before)
    for name, value in layer.state_dict().items():
        laws.assert_same(value, before[name], what=name)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other.merge()
    other.load_state_dict(torch.load(file, weights_only=True))
    laws.assert_close(other(x).detach(), layer(x).detach())


# ---------------------------------------------------------------------------------------------- cost and memory


@given(d_in=sizes(3, 9), d_out=sizes(3, 9), r=sizes(1, 3), tokens=sizes(1, 7))
def test_an_adapter_costs_its_two_factors(d_in, d_out, r, tokens):
    """Apart: at most 2·r·(d_in + d_out) operations a token more than the base's 2·d_in·d_out; merged: none more.

    Source: Hu et al. 2021, §4.1, "No Additional Inference Latency".
    """
    layer, x = LoRALinear(d_in, d_out, r=r), torch.rand(tokens, d_in)
    base = 2 * tokens * d_in * d_out
    assert cost.flops(layer, x) <= base + 2 * tokens * r * (d_in + d_out)
    layer.eval().merge()
    assert cost.flops(layer, x) <= base


@pytest.mark.parametrize("width", [90, 140])
def test_a_convolutions_adapter_costs_its_two_factors(width):
    """Apart: at most 2·r·(C·k² + O) operations a position more than the base's 2·O·C·k²; merged: none more.

    Up to 3 % more is right, too: a formulation may compute positions over the ends of the rows and drop them. With a
    full update in place of two factors it would be 50 % more.

    Source: Hu et al. 2021, §4.1.
    """
    layer, x, positions = LoRAConv2d(5, 7, 3, r=2), torch.rand(2, 5, 6, width), 2 * 4 * (width - 2)
    base, added = 2 * positions * 7 * 5 * 9, 2 * positions * 2 * (5 * 9 + 7)
    apart = cost.flops(layer, x)
    assert apart <= 1.03 * (base + added), f"expected at most {base + added}, found {apart}"
    layer.eval().merge()
    merged = cost.flops(layer, x)
    assert merged <= 1.03 * base, f"expected at most {base}, found {merged}"


def test_training_moves_the_factors_and_nothing_else():
    """Adam with weight decay on all parameters has a state of r·(d + k) elements a layer and leaves the base unchanged.

    Source: Hu et al. 2021, §4.2: "we do not need to store the optimizer states for the frozen parameters".
    """
    laws.reseed(0)
    model = inject_lora(network(), ["1", "4"], r=2, lora_alpha=3.0)
    before, optimizer = state_of(model), torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        model(SYMBOLS).square().sum().backward()
        optimizer.step()
    assert sum(s["exp_avg"].numel() for s in optimizer.state.values()) == 2 * (6 + 5) + 2 * (5 + 4)
    for name, value in model.state_dict().items():
        if "lora" in name:
            laws.assert_differs(value, before[name], by=1e-3, what=name)
        else:
            laws.assert_same(value, before[name], what=name)


# ---------------------------------------------------------------------------------------------- injection


def test_an_injected_model_is_the_model():
    """After the injection outputs are the model's to the last bit or rounding, and factors alone are trainable.

    Source: Hu et al. 2021, §4.1 and §4.2.
    """
    plain = network().double().eval()
    model = inject_lora(copy.deepcopy(plain), ["0", "1", "4"], r=3)
    laws.assert_close(model(SYMBOLS).detach(), plain(SYMBOLS).detach())
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trainable == {f"{n}.lora_{x}" for n in "014" for x in "AB"}, f"found {trainable}"
    kinds = [type(model[n]) for n in (0, 1, 4)]
    assert kinds == [LoRAEmbedding, LoRALinear, LoRALinear]
    for n in (0, 1, 4):
        assert model[n].weight.dtype == model[n].lora_A.dtype == model[n].lora_B.dtype == torch.float64
        assert not model[n].training and len(model[n].lora_A) == 3


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["q_proj"], ["layers.0.q_proj", "layers.1.q_proj", "q_proj"]),
        (["layers.1.q_proj"], ["layers.1.q_proj"]),
        (["1.q_proj", "v_proj"], ["layers.0.v_proj", "layers.1.q_proj", "layers.1.v_proj"]),
        (r"layers\.\d\..*", ["layers.0.q_proj", "layers.0.v_proj", "layers.1.q_proj", "layers.1.v_proj"]),
        (r".*[01].v_proj", ["layers.0.v_proj", "layers.1.v_proj"]),
        ("q_proj", ["q_proj"]),
        (("q.proj", "q_proj")[1:], ["layers.0.q_proj", "layers.1.q_proj", "q_proj"]),
        (["my_q_proj"], ["my_q_proj"]),
    ],
)
def test_layers_are_chosen_by_name(targets, expected):
    """A list names layers by whole dotted names or their ends, a string by a regular expression of the whole name.

    Source: Hu et al. 2021, §4.2 and §7.1: only some matrices are adapted.  Convention: as peft's target_modules.
    """
    model = nn.ModuleDict({"q_proj": nn.Linear(3, 2), "my_q_proj": nn.Linear(3, 2)})
    model["layers"] = nn.ModuleList(
        [nn.ModuleDict({"q_proj": nn.Linear(3, 4), "v_proj": nn.Linear(3, 5)}) for _ in range(2)]
    )
    inject_lora(model, targets, r=1)
    found = sorted(n for n, m in model.named_modules() if isinstance(m, LoRALinear))
    assert found == expected, f"expected {expected}, found {found}"
    assert all(p.requires_grad is ("lora" in n) for n, p in model.named_parameters())


def test_names_are_no_regular_expressions_in_a_list():
    """A dot in a listed name is a dot: "1.q" is not "1xq".

    Convention: as peft's target_modules.
    """
    model = nn.ModuleDict({"1xq": nn.Linear(3, 2), "1": nn.ModuleDict({"q": nn.Linear(3, 2)})})
    inject_lora(model, ["1.q"], r=1)
    assert type(model["1xq"]) is nn.Linear and type(model["1"]["q"]) is LoRALinear


def test_a_refused_injection_changes_nothing():
    """Where one of the targets is unknown or no layer to adapt, no layer is replaced and none is frozen.

    Convention: all or nothing.
    """
    for targets in (["1", "nobody"], ["1", "2"]):
        model = network()
        laws.rejects(lambda model=model, targets=targets: inject_lora(model, targets))
        assert type(model[1]) is nn.Linear and all(p.requires_grad for p in model.parameters())


def test_weights_are_used_and_not_copied():
    """The base's parameters are the same objects after the injection.

    Source: Hu et al. 2021, §4.2: no second copy of the pre-trained weights.
    """
    model = network()
    handed = [model[1].weight, model[1].bias, model[4].weight]
    inject_lora(model, ["1"], r=2)
    assert all(a is b for a, b in zip(handed, (model[1].weight, model[1].bias, model[4].weight)))


@pytest.mark.project_convention
def test_no_random_number_is_drawn_for_the_base():
    """An injection draws the elements of A, as a linear layer of its size does, and no others.

    Convention: this project's: a run with adapters is repeated whatever the size of its base.
    """
    model = network()
    laws.reseed(5)
    inject_lora(model, ["1"], r=2)
    drawn = torch.rand(3)
    laws.reseed(5)
    nn.Linear(6, 2, bias=False)  # A is random, and B is zero
    laws.assert_same(torch.rand(3), drawn)


def test_shared_layers_and_weights_stay_shared():
    """One layer used twice becomes one adapter; a table and a head that share a weight still do, and merging the
    head changes no token's vector.

    Source: Hu et al. 2021, §4.1.  Convention: merging keeps the sum apart from W₀.
    """
    shared, table = nn.Linear(4, 4), nn.Embedding(7, 4)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, nn.Tanh()), "table": table, "head": nn.Linear(4, 7)})
    model["head"].weight = table.weight
    inject_lora(model, ["a", "head"], r=2)
    assert model["a"] is model["b"][0] and type(model["a"]) is LoRALinear
    model["head"].lora_B.data.normal_()
    before = model["table"](SYMBOLS).detach().clone()
    merge_lora(model.eval())
    laws.assert_same(model["table"](SYMBOLS).detach(), before)
    assert model["head"].weight is model["table"].weight
    by_other_name = inject_lora(nn.ModuleList([shared := nn.Linear(4, 3), nn.Sequential(shared)]), ["1.0"], r=2)
    assert by_other_name[0] is by_other_name[1][0] and type(by_other_name[0]) is LoRALinear
    twice = inject_lora(nn.ModuleList([shared := nn.Linear(4, 3), nn.Sequential(shared)]), r"0|1\.0", r=2)
    assert twice[0] is twice[1][0] and type(twice[0]) is LoRALinear


def test_settings_of_the_layer_are_kept():
    """Stride, padding, dilation, groups, padding mode, bias and the padding token are those of the base layer.

    Source: Hu et al. 2021, §4.1.
    """
    how = {"padding": "same", "dilation": 2, "padding_mode": "circular", "bias": False}
    for base, x in (
        (nn.Conv2d(4, 6, (2, 3), **CONV), random(2, 4, 5, 7)),
        (nn.Conv2d(2, 3, (2, 3), **how), random(2, 2, 5, 7)),
        (nn.Conv2d(2, 3, (5, 3), padding=(3, 2), padding_mode="reflect"), random(2, 2, 4, 5)),
        (nn.Conv2d(2, 3, (5, 3), padding=(3, 2), padding_mode="replicate"), random(2, 2, 2, 5)),
        (nn.Embedding(7, 4, padding_idx=2), SYMBOLS),
        (nn.Linear(3, 2, bias=False), random(4, 3)),
    ):
        base = base.double()
        layer = inject_lora(copy.deepcopy(base), "", r=2, lora_alpha=3.0)
        laws.assert_close(layer(x), base(x).detach())
        assert layer.lora_A.requires_grad and not layer.weight.requires_grad
        assert (layer.bias is None) is (getattr(base, "bias", None) is None)
    layer.lora_B.data.normal_()
    laws.assert_close(layer.delta_weight(), 1.5 * (layer.lora_B @ layer.lora_A).detach())
    dropping = inject_lora(nn.Linear(40, 2), "", r=2, lora_dropout=0.5)
    dropping.lora_B.data.normal_()
    x = random(1, 40).float()
    laws.assert_differs(dropping(x).detach(), dropping.eval()(x).detach(), by=1e-3)


def test_adapters_act_inside_of_torchs_transformer():
    """In evaluation torch.nn.TransformerEncoderLayer uses its layers' weights directly; with adapters it calls them.

    Source: Hu et al. 2021, §4.2.  Convention: torch's fast path is taken only where no part has a hook.
    """
    laws.reseed(0)
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    inject_lora(block, ["linear1"], r=2)
    x = random(2, 3, 8).float()
    with torch.no_grad():
        base = block(x)
        block.linear1.lora_B.normal_()
        y = block(x)
        laws.assert_differs(y, base, by=1e-2)
        merge_lora(block)
        laws.assert_close(block(x), y)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_adapters_act_on_padded_texts_in_torchs_encoder():
    """torch.nn.TransformerEncoder packs padded texts for its fast path; with adapters inside it takes them as they are.

    Source: Hu et al. 2021, §4.2.  Convention: outputs at padding are undefined.
    """
    laws.reseed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x, padding = random(2, 4, 8).float(), torch.tensor([[False] * 4, [False] * 2 + [True] * 2])
    base = model(x, src_key_padding_mask=padding)[~padding].detach()
    inject_lora(model, ["linear1"], r=2)
    with torch.no_grad():
        laws.assert_close(model(x, src_key_padding_mask=padding)[~padding], base)
        model.layers[1].linear1.lora_B.normal_()
        laws.assert_differs(model(x, src_key_padding_mask=padding)[~padding], base, by=1e-2)


@pytest.mark.project_convention
def test_adapters_act_inside_of_our_layers():
    """Our linear, convolution and embedding layers are adapted like torch's, inside of attention too.

    Source: Hu et al. 2021, §4.2: W_o of the self-attention module.
    """
    laws.reseed(0)
    model = nn.Sequential(Embedding(7, 6), MultiHeadAttention(6, 2), nn.Unflatten(1, (1, 5)), Conv2d(1, 2, 3)).eval()
    before = model(SYMBOLS).detach()
    inject_lora(model, ["out_proj", "0", "3"], r=2)
    laws.assert_close(model(SYMBOLS).detach(), before)
    assert [type(m) for m in (model[0], model[1].out_proj, model[3])] == [LoRAEmbedding, LoRALinear, LoRAConv2d]
    for layer in (model[0], model[1].out_proj, model[3]):
        before = model(SYMBOLS).detach()
        laws.randomise(layer)
        laws.assert_differs(model(SYMBOLS).detach(), before, by=1e-2)


# ---------------------------------------------------------------------------------------------- state


def test_an_adapter_is_saved_and_loaded_by_itself():
    """A and B of every adapted layer, and nothing else, carry an adaptation into a freshly injected base model.

    Source: Hu et al. 2021, §4.2: a task is switched by swapping the LoRA weights alone.
    """
    model, x = adapted(), SYMBOLS
    state = lora_state_dict(model)
    assert set(state) == {f"{n}.lora_{x}" for n in "014" for x in "AB"}
    assert sum(t.numel() for t in state.values()) == 3 * (7 + 6) + 3 * (6 + 5) + 3 * (5 + 4)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    fresh = adapted(seed=9)
    laws.assert_differs(fresh(x).detach(), model(x).detach(), by=1e-2)
    merge_lora(fresh)
    load_lora_state_dict(fresh, torch.load(file, weights_only=True))
    laws.assert_same(fresh(x).detach(), model(x).detach())


def test_an_adapter_that_does_not_fit_is_refused():
    """A factor missing, one too many or of another rank is an error that leaves the model as it was.

    Convention: load_state_dict(strict=False) alone would say nothing of a name that it does not know.
    """
    model = adapted()
    before = state_of(model)
    good = {name: t + 1 for name, t in lora_state_dict(model).items()}
    one, *others = good
    for bad in (
        {name: good[name] for name in others},
        good | {"3.lora_A": good[one]},
        good | {one: good[one][:2]},
        {"base." + name: t for name, t in good.items()},
    ):
        laws.rejects(lambda bad=bad: load_lora_state_dict(model, bad))
    for name, value in state_of(model).items():
        laws.assert_same(value, before[name], what=name)


@pytest.mark.parametrize(
    ("bias", "also"), [("none", set()), ("lora_only", {"1.bias"}), ("all", {"1.bias", "2.bias", "4.bias"})]
)
def test_biases_may_be_trained_as_well(bias, also):
    """Biases of no, of the adapted, or of all layers are trained, saved and loaded with A and B.

    Source: Hu et al. 2021, §4.2: "we leave the empirical investigation of … biases".  Convention: loralib's names.
    """
    model = inject_lora(network(), ["0", "1"], r=2)
    wanted = {f"{n}.lora_{x}" for n in "01" for x in "AB"} | also
    mark_only_lora_as_trainable(model, bias)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == wanted
    state = {name: t + 1 for name, t in lora_state_dict(model, bias).items()}
    assert set(state) == wanted
    before = state_of(model)
    load_lora_state_dict(model, state, bias)
    for name, value in state_of(model).items():
        laws.assert_same(value, before[name] + 1 if name in wanted else before[name], what=name)
    attention = inject_lora(nn.ModuleList([nn.Linear(3, 2), nn.MultiheadAttention(4, 2), nn.LSTM(2, 1)]), "0", r=1)
    inside = {"1.in_proj_bias", "1.out_proj.bias", "2.bias_ih_l0", "2.bias_hh_l0"}
    named = {"none": set(), "lora_only": {"0.bias"}, "all": {"0.bias"} | inside}[bias]
    assert set(lora_state_dict(attention, bias)) == {"0.lora_A", "0.lora_B"} | named
    shared = nn.ModuleList([nn.Linear(3, 2), norm := nn.LayerNorm(2), nn.Sequential(norm)])
    twice = {"none": set(), "lora_only": {"0.bias"}, "all": {"0.bias", "1.bias", "2.0.bias"}}[bias]
    assert set(lora_state_dict(inject_lora(shared, "0", r=1), bias)) == {"0.lora_A", "0.lora_B"} | twice


@pytest.mark.parametrize("merged", [False, True])
def test_an_adapted_model_becomes_a_plain_one(merged):
    """`merged_state_dict` loads into the model as it was before the injection, which then is the adapted one.

    Source: Hu et al. 2021, §4.1: "we can explicitly compute and store W = W₀ + BA".
    """
    model, plain = adapted(), network().double().eval()
    y = model(SYMBOLS).detach()
    laws.assert_differs(plain(SYMBOLS).detach(), y, by=1e-2)
    if merged:
        merge_lora(model)
    before = state_of(model)
    plain.load_state_dict(merged_state_dict(model))
    laws.assert_close(plain(SYMBOLS).detach(), y)
    for name, value in state_of(model).items():
        laws.assert_same(value, before[name], what=name)
    bare = layer_of("linear")
    plain = nn.Linear(6, 5).double()
    plain.load_state_dict(merged_state_dict(bare))
    laws.assert_close(plain(input_of("linear")).detach(), bare(input_of("linear")).detach())


def test_models_are_merged_as_a_whole():
    """`merge_lora` and `unmerge_lora` reach every adapted layer, and the model computes the same before and after.

    Source: Hu et al. 2021, §4.1.
    """
    model, plain = adapted(), network().double().eval()
    y, layers = model(SYMBOLS).detach(), [model[n] for n in (0, 1, 4)]
    merge_lora(model)
    assert [m.merged for m in layers] == [True] * 3
    laws.assert_close(model(SYMBOLS).detach(), y)
    unmerge_lora(model)
    assert [m.merged for m in layers] == [False] * 3
    laws.assert_same(model(SYMBOLS).detach(), y)
    for n in (0, 1, 4):
        laws.assert_same(model[n].weight.detach(), plain[n].weight.detach())


def test_a_checkpoint_of_the_base_loads_into_the_adapted_model():
    """W₀ and b keep the names that they have in torch.nn: a base's state leaves nothing but A and B to be missing.

    Convention: names as in loralib: weight, bias, lora_A, lora_B.
    """
    model, plain = adapted(targets=("0", "1")), network().double()
    laws.randomise(plain, seed=8)
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert set(missing) == {f"{n}.lora_{x}" for n in "01" for x in "AB"} and not unexpected
    for n in (0, 1):
        laws.assert_same(model[n].weight.detach(), plain[n].weight.detach())
