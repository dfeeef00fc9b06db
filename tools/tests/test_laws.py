"""The specs' own library: each law accepts what is right and rejects a module planted with one defect."""

import math
import sys
from textwrap import dedent

import pytest
import torch
from hypothesis import find, given, settings
from torch import nn
from torch.autograd.gradcheck import GradcheckError

from spec import cost, laws, scratch, strategies


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Double(nn.Module):
    """y = 2 w x: the right module that the wrong ones below depart from."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 4))

    def forward(self, x):
        return 2 * self.weight * x


# ------------------------------------------------------------------------------------------------ comparison


@pytest.mark.parametrize(
    ("actual", "expected", "complaint"),
    [
        (torch.ones(2, 3), torch.ones(2, 1), "shape"),
        (torch.ones(2), torch.ones(2, dtype=torch.float64), "dtype"),
        (torch.tensor([1.0, math.nan]), torch.ones(2), "finite"),
        (torch.tensor([1.0, math.inf]), torch.ones(2), "finite"),
        (torch.tensor([1.0, 1.0001]), torch.ones(2), "not close"),
        (torch.tensor([1.0, 1 + 1e-9], dtype=torch.float64), torch.ones(2, dtype=torch.float64), "not close"),
        ([1.0, 1.0], torch.ones(2), "tensor"),
    ],
    ids=["broadcast", "dtype", "nan", "infinite", "float32 off", "float64 off", "list"],
)
def test_comparison_rejects(actual, expected, complaint):
    with pytest.raises(AssertionError, match=complaint):
        laws.assert_close(actual, expected)


def test_comparison_accepts_rounding():
    laws.assert_close(torch.tensor([1.0, 1 + 1e-6]), torch.ones(2))
    laws.assert_close(torch.tensor([1.0, 1 + 1e-12], dtype=torch.float64), torch.ones(2, dtype=torch.float64))


def test_wide_tolerance_needs_a_reason():
    a, b = torch.tensor([1.0]), torch.tensor([1.0])
    with pytest.raises(ValueError, match="because"):
        laws.assert_close(a, b, rtol=1e-3)
    laws.assert_close(a, b, rtol=1e-3, because="an estimate")


def test_comparison_of_structures():
    laws.assert_all_close([torch.ones(2), {"a": torch.zeros(1)}, 3], [torch.ones(2), {"a": torch.zeros(1)}, 3])
    for wrong in (
        [torch.ones(2)],
        [torch.ones(2), {"b": torch.zeros(1)}, 3],
        [torch.ones(2), {"a": torch.zeros(1)}, 4],
    ):
        with pytest.raises(AssertionError):
            laws.assert_all_close(wrong, [torch.ones(2), {"a": torch.zeros(1)}, 3])


def test_sameness_is_of_bits():
    laws.assert_same(torch.ones(2), torch.ones(2))
    with pytest.raises(AssertionError, match="bitwise equal"):
        laws.assert_same(torch.ones(2), torch.ones(2) + 1e-7)
    with pytest.raises(AssertionError, match="bitwise equal"):
        laws.assert_same(torch.ones(2), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("found", [1.05, math.nan])
def test_difference_is_a_number_above_the_limit(found):
    laws.assert_differs(torch.tensor([1.2]), torch.tensor([1.0]), by=0.1)
    with pytest.raises(AssertionError, match="difference above"):
        laws.assert_differs(torch.tensor([found]), torch.tensor([1.0]), by=0.1)


# ------------------------------------------------------------------------------------------------ helpers


def test_random_numbers_replace_floating_tensors_only():
    tree = {"x": torch.zeros(3), "ids": torch.arange(3), "n": 5}
    found = laws.random_like(tree)
    assert found["x"].std() > 0 and found["n"] == 5
    laws.assert_same(found["ids"], torch.arange(3))


def test_randomised_parameters_are_neither_one_nor_zero():
    module = laws.randomise(nn.Linear(7, 5), seed=3)
    for parameter in module.parameters():
        assert (parameter.abs() >= 0.5).all() and (parameter.abs() <= 1.5).all()
    assert (module.weight < 0).any() and (module.weight > 0).any()
    laws.assert_same(laws.randomise(nn.Linear(7, 5), seed=3).weight, module.weight)


# ------------------------------------------------------------------------------------------------ laws of functions


def with_gradient(forward, backward):
    """A function with a backward pass of its own: backward(x, gradient of y) → gradient of x."""

    class Planted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return forward(x)

        @staticmethod
        def backward(ctx, g):
            return backward(*ctx.saved_tensors, g)

    return Planted.apply


class Cut(torch.autograd.Function):
    """x² whose gradient 2x is right, and computed from a copy that knows nothing of x."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * x.detach() * g


def test_gradients_that_match():
    x = numbers(2, 4).double()
    laws.gradients_match(torch.sin, lambda t: torch.sin(t), x)
    laws.gradients_match(Double().double(), Double().double(), x)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: torch.sin(x) + 1e-8,
        with_gradient(torch.sin, lambda x, g: g * x.cos() * (1 + 1e-8)),
        lambda x: torch.sin(x).detach() + 0 * x,
        lambda x: torch.sin(x).detach(),
    ],
    ids=["value", "gradient", "detached", "without a graph"],
)
def test_gradients_that_do_not_match(wrong):
    with pytest.raises(AssertionError):
        laws.gradients_match(wrong, torch.sin, numbers(2, 4).double())


def test_correct_gradients():
    laws.gradient_correct(torch.sin, numbers(2, 4), second_order=True)
    laws.gradient_correct(Double(), numbers(2, 4), second_order=True)
    laws.gradient_correct(nn.BatchNorm1d(4), numbers(3, 4))  # its running statistics are no part of the derivative
    laws.gradient_correct(nn.Dropout(0.5), numbers(3, 4))  # the same mask at every probe


@pytest.mark.parametrize(
    "wrong",
    [
        with_gradient(torch.sin, lambda x, g: g * x.cos() * 1.01),
        with_gradient(torch.sin, lambda x, g: g * x.cos().mean()),
        lambda x: torch.sin(x).detach(),
        lambda x: (torch.sin(x).detach(), x.detach()),
        lambda x: torch.sin(x.float()).to(x.dtype),
    ],
    ids=["one percent", "averaged", "without a graph", "two without a graph", "single precision inside"],
)
def test_wrong_gradients(wrong):
    with pytest.raises((AssertionError, GradcheckError)):
        laws.gradient_correct(wrong, numbers(2, 4))


def test_wrong_gradient_of_a_parameter():
    class Wrong(Double):
        def forward(self, x):
            return 2 * self.weight.detach() * x + 0 * self.weight

    with pytest.raises(GradcheckError):
        laws.gradient_correct(Wrong(), numbers(2, 4))


def test_wrong_second_derivative():
    laws.gradient_correct(Cut.apply, numbers(2, 4))
    with pytest.raises((AssertionError, RuntimeError)):
        laws.gradient_correct(Cut.apply, numbers(2, 4), second_order=True)


def test_reach_of_a_gradient():
    a, b, c = (torch.ones(2, requires_grad=True) for _ in range(3))
    loss = (a * b.detach()).sum() + 0 * c.sum()
    laws.gradient_reaches(loss, {"a": a}, {"b": b, "c": c})
    for reached, untouched in (({"b": b}, {}), ({"c": c}, {}), ({}, {"a": a}), ({"a": a, "b": b}, {})):
        with pytest.raises(AssertionError, match="expected (a|no) gradient"):
            laws.gradient_reaches(loss, reached, untouched)
    with pytest.raises(AssertionError):
        laws.gradient_reaches((a * math.nan).sum(), {"a": a})
    with pytest.raises(AssertionError):
        laws.gradient_reaches((a * math.nan).sum(), {"b": b}, {"a": a})


def test_invariance_and_equivariance():
    x = numbers(3, 4)
    laws.invariant(lambda t: t.sum(0), x, lambda t: t.flip(0))
    laws.equivariant(torch.sin, x, lambda t: t.flip(0))
    laws.equivariant(lambda t: t.sum(0), x, lambda t: 2 * t)
    laws.equivariant(lambda t: t[:2], x, lambda t: t.roll(1, 1), lambda y: y.roll(1, 1))
    with pytest.raises(AssertionError, match="T"):
        laws.invariant(lambda t: t.cumsum(0), x, lambda t: t.flip(0))
    with pytest.raises(AssertionError, match="T"):
        laws.equivariant(lambda t: t.cumsum(0), x, lambda t: t.flip(0))


def test_sparsity_of_a_jacobian():
    x = numbers(4).double()
    lower = torch.ones(4, 4).tril().bool()
    laws.depends_only_on(lambda t: t.cumsum(0), x, lower)
    with pytest.raises(AssertionError, match="must not depend"):
        laws.depends_only_on(lambda t: t.cumsum(0), x, torch.eye(4).bool())
    with pytest.raises(AssertionError, match="must depend"):
        laws.depends_only_on(torch.sin, x, lower)


def test_causality():
    x = numbers(2, 5, 3)
    laws.causal(lambda t: t.cumsum(1), x)
    laws.causal(lambda t: t.cumsum(2), x.transpose(1, 2), dim=2)
    for wrong in (
        lambda t: t.flip(1).cumsum(1).flip(1),  # anti-causal
        lambda t: t.cumsum(1) + 1e-3 * t.mean(1, keepdim=True),  # a small leak
        lambda t: torch.cat([t[:, 1:2], t[:, 1:]], dim=1),  # the first step sees the second
        lambda t: torch.zeros_like(t),  # sees nothing
        lambda t: torch.cat([t[:, :1], t[:, :-1]], dim=1),  # does not see its own step
    ):
        with pytest.raises(AssertionError, match="step"):
            laws.causal(wrong, x)


# ------------------------------------------------------------------------------------------------ laws of modules


class HiddenState(Double):
    """Keeps what training tells it outside of the state dict."""

    def __init__(self):
        super().__init__()
        self.seen = torch.zeros(4)

    def forward(self, x):
        if self.training:
            self.seen = self.seen + x.detach().mean(0)
        return super().forward(x) + self.seen


class UnsavedNoise(Double):
    """A random constant that is no buffer: a second instance has another."""

    def __init__(self):
        super().__init__()
        self.noise = torch.randn(4)

    def forward(self, x):
        return super().forward(x) + self.noise


class UnsavedBuffer(Double):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(4), persistent=False)

    def forward(self, x):
        if self.training:
            self.seen.add_(x.detach().mean(0))
        return super().forward(x) + self.seen


class SharesItsCopy(Double):
    def __deepcopy__(self, memo):
        counterpart = SharesItsCopy()
        counterpart.weight = self.weight
        return counterpart


class NoiseInEval(Double):
    def forward(self, x):
        return super().forward(x) + torch.randn_like(x)


class DrawsInEval(Double):
    """The same output every time; the global generator moves."""

    def forward(self, x):
        torch.rand(1)
        return super().forward(x)


class WritesItsInput(Double):
    def forward(self, x):
        return x.mul_(2 * self.weight.detach()) * 1


class WritesItsInputInEval(Double):
    def forward(self, x):
        return super().forward(x if self.training else x.add_(1))


class WritesItsGradient(nn.Module):
    """Its backward pass works in place on the gradient that it was given, which is somebody else's."""

    def forward(self, x):
        return with_gradient(lambda t: 2 * t, lambda t, g: g.mul_(2))(x)


class ReadsMemory(nn.Module):
    """Reads the tensor's storage, not the tensor."""

    def forward(self, x):
        return x + torch.as_strided(x, (1,), (1,), 1)


class ReadsGradientMemory(nn.Module):
    """Its backward pass takes the gradient for contiguous."""

    def forward(self, x):
        return with_gradient(
            lambda t: 2 * t, lambda t, g: 2 * torch.as_strided(g, t.shape, torch.empty(t.shape).stride())
        )(x)


class SinglePrecisionOut(Double):
    def forward(self, x):
        return super().forward(x).float()


class OverflowsInHalf(nn.Module):
    """(x + 1000) − 1000: fine in float32, empty in bfloat16."""

    def forward(self, x):
        return (x + 1000) - 1000 if x.dtype == torch.bfloat16 else x * 1


class MeetsAnotherDtype(nn.Module):
    """Its backward pass multiplies the gradient with what was saved, as it was saved."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))

    def forward(self, x):
        return with_gradient(lambda t: t @ self.weight, lambda t, g: g @ self.weight)(x)


class LosesItsProducts(nn.Module):
    """A difference of large products: fine in float32, empty where products are bfloat16."""

    def forward(self, x):
        return (x + 1000) @ torch.eye(4, dtype=x.dtype) - 1000


class CentredOnTheBatch(Double):
    def forward(self, x):
        return super().forward(x - x.mean(0))


class SeesEarlierSamples(Double):
    """Sample n sees samples 0 … n − 1, and sample 0 nobody."""

    def forward(self, x):
        return super().forward(x.cumsum(0))


class TokensSeeEachOther(nn.Module):
    def forward(self, ids):
        return ids.float() + ids.float().sum(0)


class Unreached(Double):
    def __init__(self):
        super().__init__()
        self.decoration = nn.Parameter(torch.ones(3))


class MultipliedByZero(Double):
    def __init__(self):
        super().__init__()
        self.decoration = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return super().forward(x) + 0 * self.decoration


class InfiniteGradient(Double):
    def forward(self, x):
        return 2 * (0 * self.weight).sqrt() * x


class MakesHostTensors(Double):
    def forward(self, x):
        return super().forward(x) + torch.ones(4)


class BranchesOnValues(Double):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


class CountsItsCalls(Double):
    """Another function under the compiler than without it."""

    def forward(self, x):
        return super().forward(x) + (1 if torch.compiler.is_compiling() else 0)


class OldStyleFunction(nn.Module):
    """Its backward pass is a Function without `setup_context`."""

    def forward(self, x):
        return Cut.apply(x)


class ReturnsAView(nn.Module):
    """Its output is a view that a Function of its own makes."""

    class View(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return (2 * x).view_as(x)[:]

        @staticmethod
        def backward(ctx, g):
            return 2 * g

    def forward(self, x):
        return self.View.apply(x)


class AveragesNothing(nn.Module):
    def forward(self, x):
        return x.mean()


class AddsSamples(Double):
    def forward(self, x):
        return torch.cat([super().forward(x), self.weight[None]])


def samples():
    return (numbers(3, 4),)


def law_of(name):
    """The law as spec/properties/test_laws.py asks it."""
    return laws.OF_MODULES[name].check


LAWS = {
    "state_dict_round_trip": (HiddenState, UnsavedNoise, UnsavedBuffer),
    "deepcopy_independent": (SharesItsCopy,),
    "deterministic_in_eval": (NoiseInEval,),
    "draws_nothing_in_eval": (NoiseInEval, DrawsInEval),
    "inputs_not_mutated": (WritesItsInput, WritesItsInputInEval, WritesItsGradient),
    "accepts_non_contiguous": (ReadsMemory, ReadsGradientMemory),
    "keeps_dtype": (SinglePrecisionOut, OverflowsInHalf, MakesHostTensors),
    "works_under_autocast": (MeetsAnotherDtype, LosesItsProducts),
    "batch_independent": (CentredOnTheBatch, SeesEarlierSamples),
    "batch_independent_in_eval": (CentredOnTheBatch, SeesEarlierSamples),
    "every_parameter_receives_gradient": (Unreached, MultipliedByZero, InfiniteGradient),
    "works_on_meta": (BranchesOnValues,),
    "compiles": (BranchesOnValues, CountsItsCalls),
    "transforms": (BranchesOnValues, OldStyleFunction),
    "may_be_changed_in_place": (ReturnsAView,),
    "empty_batch_is_defined": (AveragesNothing, AddsSamples),
}


@pytest.mark.parametrize("name", LAWS)
def test_law_accepts_what_is_right(name):
    law_of(name)(Double, samples())
    law_of(name)(lambda: nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 2)), samples())


@pytest.mark.parametrize(("name", "wrong"), [(n, w) for n, planted in LAWS.items() for w in planted])
def test_law_rejects_a_planted_defect(name, wrong):
    # The compiler, the meta device and products of two dtypes refuse in words of their own.
    refusal = (
        Exception if name in ("compiles", "transforms", "works_on_meta", "works_under_autocast") else AssertionError
    )
    with pytest.raises(refusal):
        law_of(name)(wrong, samples())


@pytest.mark.parametrize("name", [n for n in LAWS if n not in ("state_dict_round_trip", "deepcopy_independent")])
def test_law_accepts_functions(name):
    if name != "every_parameter_receives_gradient":
        law_of(name)(lambda: torch.sin, samples())


def test_states_of_training_are_carried():
    laws.state_dict_round_trip(lambda: nn.BatchNorm1d(4), samples())
    laws.deepcopy_independent(lambda: nn.BatchNorm1d(4), samples())


def test_coupling_of_a_batch_is_a_matter_of_mode():
    laws.batch_independent_in_eval(lambda: nn.BatchNorm1d(4), samples())
    with pytest.raises(AssertionError, match="sample"):
        laws.batch_independent(lambda: nn.BatchNorm1d(4), samples())


@pytest.mark.parametrize("batch", [2, 3])
def test_batch_independence_of_integer_inputs(batch):
    ids = torch.arange(4 * batch).view(batch, 4)
    laws.batch_independent_in_eval(lambda: lambda t: t.float() * 2, (ids,))
    with pytest.raises(AssertionError, match="sample"):
        laws.batch_independent_in_eval(TokensSeeEachOther, (ids,))


def test_outputs_without_gradient_do_not_hide_parameters():
    class TwoOutputs(Double):
        def forward(self, x):
            return super().forward(x), x.detach() + 1

    laws.every_parameter_receives_gradient(TwoOutputs, samples())


@pytest.mark.parametrize("name", ["inputs_not_mutated", "works_on_meta", "accepts_non_contiguous", "keeps_dtype"])
def test_tensors_inside_of_structures_are_inputs(name):
    class OfList(nn.Module):
        def forward(self, features):
            return features[0] + features[1]["deep"]

    law_of(name)(OfList, ([numbers(3, 4), {"deep": numbers(3, 4, seed=1)}],))

    class WritesInside(OfList):
        def forward(self, features):
            features[1]["deep"].add_(1)
            return super().forward(features)

    if name == "inputs_not_mutated":
        with pytest.raises(AssertionError, match="input"):
            law_of(name)(WritesInside, ([numbers(3, 4), {"deep": numbers(3, 4, seed=1)}],))


def test_empty_batch_may_be_refused_in_words():
    class Refuses(Double):
        def forward(self, x):
            if not len(x):
                raise ValueError("expected a sample, got none")
            return super().forward(x)

    laws.empty_batch_is_defined(Refuses, samples())

    class Crashes(Double):
        def forward(self, x):
            return super().forward(x) * x[0]

    with pytest.raises(IndexError):
        laws.empty_batch_is_defined(Crashes, samples())


def raising(error):
    def call():
        raise error

    return call


@pytest.mark.parametrize(
    "call",
    [
        lambda: None,
        raising(ValueError("bad size 3")),
        raising(ValueError("expected 4")),
        raising(RuntimeError("expected 4, got 3")),
        raising(IndexError("expected 4, got 3")),
    ],
    ids=["no error", "no expectation", "no value", "another type", "index error"],
)
def test_rejection_must_say_what_was_expected(call):
    with pytest.raises(AssertionError):
        laws.rejects(call, mentions=("3",))


def test_rejection_in_words():
    laws.rejects(raising(ValueError("expected 4, got 3")), mentions=("3",))
    laws.rejects(raising(TypeError("Expected a tensor, got 3")), mentions=("3",))
    with pytest.raises(NotImplementedError):  # what is not written is pending
        laws.rejects(raising(NotImplementedError("expected 4, got 3")))


def test_rejection_must_be_the_code_s_own():
    from beartype import beartype
    from jaxtyping import Float, jaxtyped

    @jaxtyped(typechecker=beartype)
    def annotated(x: Float[torch.Tensor, "a b"]):
        return x

    with pytest.raises(TypeError):
        annotated(torch.ones(3))
    with pytest.raises(AssertionError, match="no error"):  # a user's run has no checked annotations
        laws.rejects(lambda: annotated(torch.ones(3)))
    with pytest.raises(TypeError):  # and they are back afterwards
        annotated(torch.ones(3))


# ------------------------------------------------------------------------------------------------ from scratch


@pytest.fixture
def source(tmp_path):
    def write(text):
        file = tmp_path / "planted.py"
        file.write_text(dedent(text), encoding="utf-8")
        return file

    return write


ALLOWED = """
    import math
    import torch
    from jaxtyping import Float
    from torch import Tensor, nn
    from . import linear
    from .linear import Linear

    class Layer(nn.Module):
        def __init__(self, options):
            super().__init__()
            self.weight = nn.Parameter(torch.empty(3).uniform_(-1, 1))
            self.layers = nn.ModuleList([nn.Sequential(Linear(3, 3))])
            self.size = getattr(options, "size", math.pi)

        def forward(self, x: Float[Tensor, "*shape"]):
            x = torch.special.erf(x).softmax(-1) @ torch.linalg.inv(x)
            return torch.where(x > 0, x.relu(), torch.logaddexp(x, torch.fft.rfft(x).real)).type(torch.float32)

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return torch._foreach_mul([x], x)[0]

    class Descent(torch.optim.Optimizer):
        pass
"""


def test_source_from_scratch_passes(source):
    assert scratch.violations(source(ALLOWED)) == []


@pytest.mark.parametrize(
    "text",
    [
        "import torch.nn.functional as F",
        "from torch.nn import functional",
        "from torch.nn.functional import gelu",
        "from torch.nn import Linear",
        "from torch.nn import *",
        "from torch import *",
        "from torch.nn.modules.linear import Linear",
        "import torch\nlayer = torch.nn.Linear(3, 4)",
        "import torch.nn as anything\nlayer = anything.Conv2d(3, 4, 5)",
        "from torch import nn\ny = nn.functional.relu(1)",
        "from torch import nn\nnn.init.zeros_(1)",
        "from torch import nn\nnn.utils.clip_grad_norm_(1)",
        "import torch\ny = torch.layer_norm(1)",
        "import torch\ny = torch.rms_norm(1)",  # torch takes it apart before the dispatch, so only the source tells
        "import torch\ny = torch._scaled_dot_product_attention_math(1)",
        "import torch\ny = torch.conv2d(1, 2)",
        "import torch\ny = torch._C._nn.gelu(1)",
        "import torch\ny = torch.ops.aten.gelu(1)",
        "import torch\ny = torch.Tensor.prelu(1, 2)",
        "import torch\ny = torch.cosine_similarity(1, 2)",
        "import torch\ny = torch.fake_quantize_per_tensor_affine(1, 2)",
        "import torch\ny = torch.quantize_per_channel(1, 2)",
        "import torch\nfrom torch.ao import quantization",
        "import torch\nq = torch.quantization.fuse_modules",
        "from torch.optim import Adam",
        "import torch\nopt = torch.optim.SGD",
        "import torch\nopt = torch.optim.lr_scheduler.LambdaLR",
        "import torch\np = torch.distributions.Normal(0, 1)",
        "import torch\nf = torch.compile",
        "from torch.utils.cpp_extension import load_inline",
        "import numpy",
        "import torchvision.ops",
        "from transformers import GPT2Model",
        "import importlib",
        "import sys",
        "from impl.layers.linear import Linear",
        "import torch\ny = getattr(torch, 'ge' + 'lu')(1)",
        "import torch\ny = getattr(torch.nn, 'Lin' + 'ear')(1, 2)",
        "from torch import nn\nn = nn\ny = n.Linear(1, 2)",
        "import torch\nlibrary = torch.nn\ny = library.Linear(1, 2)",
        "from torch import nn\ny = vars(nn)['Linear'](1, 2)",
        "from torch import nn\ny = nn.__dict__['Linear'](1, 2)",
        "import operator\nimport torch\ny = operator.attrgetter('nn.functional.gelu')(torch)(1)",
        "y = eval('tor' + 'ch.nn.Linear(1, 2)')",
        "exec('from torch.nn import Linear')",
        "f = __import__('torch.nn.functional')",
        "def f(x):\n    from torch.nn import functional as g\n    return g.gelu(x)",
    ],
)
def test_source_that_calls_what_it_explains(source, text):
    found = scratch.violations(source(text))
    assert found and found[0].startswith("planted.py:"), "expected a violation, found none"


def test_source_of_what_a_module_rests_on_is_read(tmp_path, monkeypatch):
    package = tmp_path / "planted_package"
    (package / "layers").mkdir(parents=True)
    for folder in (package, package / "layers"):
        (folder / "__init__.py").write_text("", encoding="utf-8")
    (package / "layers" / "clean.py").write_text("import torch\n", encoding="utf-8")
    (package / "layers" / "foul.py").write_text("from torch.nn import Linear\n", encoding="utf-8")
    (package / "direct.py").write_text("from .layers.foul import Linear\n", encoding="utf-8")
    (package / "whole.py").write_text("from .layers import foul\n", encoding="utf-8")
    (package / "through.py").write_text("from . import direct\n", encoding="utf-8")
    (package / "late.py").write_text("def f():\n    from .layers.foul import Linear\n", encoding="utf-8")
    (package / "right.py").write_text("from .layers import clean\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    scratch.source_is_from_scratch("planted_package.right")
    for name in ("late", "direct", "whole", "through"):
        for module in [m for m in sys.modules if m.startswith("planted_package")]:
            del sys.modules[module]
        with pytest.raises(AssertionError, match="foul.py:1"):
            scratch.source_is_from_scratch(f"planted_package.{name}")


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.sin(x) @ x.T,
        lambda x: x.softmax(-1) * x.sigmoid() + x.tanh().relu(),
        lambda x: torch.logaddexp(x, 0 * x).cumsum(0),
        lambda x: torch.fft.rfft(x).abs(),
        lambda x: torch.linalg.qr(x)[0],
    ],
)
def test_elementary_operators_pass(function):
    scratch.dispatch_is_from_scratch(lambda: function, (numbers(3, 3),))


@pytest.mark.parametrize(
    "function",
    [
        nn.functional.gelu,
        nn.functional.silu,
        nn.functional.mish,
        nn.functional.softplus,
        nn.functional.hardswish,
        nn.functional.elu,
        nn.functional.selu,
        nn.functional.leaky_relu,
        lambda x: x.prelu(torch.tensor(0.25)),
        lambda x: nn.functional.glu(x[:, :2]),
        lambda x: nn.functional.layer_norm(x, (3,)),
        lambda x: nn.functional.group_norm(x, 3),
        lambda x: nn.functional.batch_norm(x, None, None, training=True),
        lambda x: nn.functional.conv1d(x[None], x[:, :, None]),
        lambda x: nn.functional.conv_transpose1d(x[None], x[:, :, None]),
        lambda x: nn.functional.embedding(torch.tensor([1]), x),
        lambda x: nn.functional.cross_entropy(x, torch.tensor([0, 1, 2])),
        lambda x: nn.functional.mse_loss(x, 0 * x),
        lambda x: nn.functional.huber_loss(x, 0 * x),
        lambda x: nn.functional.binary_cross_entropy(x.sigmoid(), x.detach().sigmoid()),
        lambda x: torch.native_dropout(x, 0.5, True)[0],
        lambda x: nn.functional.max_pool1d(x, 2),
        lambda x: nn.functional.avg_pool2d(x[None], 2),
        lambda x: nn.functional.interpolate(x[None], scale_factor=2),
        lambda x: nn.functional.grid_sample(x[None, None], torch.zeros(1, 2, 2, 2), align_corners=False),
        lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127),
        lambda x: nn.LSTM(3, 2)(x)[0],
        lambda x: getattr(torch._C._nn, "ge" + "lu")(x),
        lambda x: getattr(torch.ops.aten, "si" + "lu")(x),
        lambda x: nn.functional.pixel_shuffle(x.new_ones(1, 4, 2, 2) * x.sum(), 2),
    ],
)
def test_fused_operators_are_seen_at_dispatch(function):
    with pytest.raises(AssertionError, match="elementary"):
        scratch.dispatch_is_from_scratch(lambda: function, (numbers(3, 3).requires_grad_(),))


def test_fused_operators_in_a_backward_pass_are_seen():
    double = with_gradient(torch.sin, lambda x, g: torch.ops.aten.gelu_backward(g, x))
    with pytest.raises(AssertionError, match="gelu_backward"):
        scratch.dispatch_is_from_scratch(lambda: double, (numbers(3, 3),))


# ------------------------------------------------------------------------------------------------ cost


def test_flops_by_hand():
    a, b = numbers(3, 5), numbers(5, 7)
    assert cost.flops(lambda: a @ b) == 2 * 3 * 5 * 7
    assert cost.flops(torch.bmm, numbers(2, 3, 5), numbers(2, 5, 7)) == 2 * 2 * 3 * 5 * 7
    assert cost.flops(torch.sin, a) == 0
    # 6 positions of a kernel of 3 over 2 channels, to 4 channels, for each of 2 samples.
    assert cost.flops(torch.conv1d, numbers(2, 2, 8), numbers(4, 2, 3)) == 2 * 2 * 6 * 3 * 2 * 4


def test_flops_of_products_into_what_is_there():
    """Torch's own counter would let an implementation hide its work there."""
    a, b, v = numbers(2, 3, 5), numbers(2, 5, 7), numbers(5)
    for run in (
        lambda: numbers(2, 3, 7).baddbmm_(a, b),
        lambda: torch.baddbmm(numbers(2, 3, 7), a, b),
        lambda: torch.bmm(a, b, out=torch.empty(2, 3, 7, dtype=a.dtype)),
        lambda: numbers(3, 7).addbmm_(a, b),
        lambda: torch.addbmm(numbers(3, 7), a, b),
        lambda: [numbers(3, 7).addmm_(*pair) for pair in zip(a, b)],
    ):
        assert cost.flops(run) == 2 * 2 * 3 * 5 * 7
    for run in (
        lambda: a[0] @ v,
        lambda: torch.addmv(numbers(3), a[0], v),
        lambda: numbers(3).addmv_(a[0], v),
        lambda: [torch.dot(row, v) for row in a[0]],
    ):
        assert cost.flops(run) == 2 * 3 * 5


def test_flops_of_multiply_adds():
    """Number by number: a number each row is a product, however it is written."""
    a, b = numbers(4, 1), numbers(4, 7)
    for run in (lambda: numbers(4, 7).addcmul_(a, b), lambda: torch.addcmul(numbers(1), a, b)):
        assert cost.flops(run) == 2 * 4 * 7


def test_flops_of_a_backward_pass():
    a, b = numbers(3, 5).requires_grad_(), numbers(5, 7).requires_grad_()
    assert cost.flops(lambda: (a @ b).sum().backward()) == 3 * 2 * 3 * 5 * 7


def test_operators_in_order():
    x = numbers(3).requires_grad_()
    found = [name.removeprefix("aten::") for name in cost.operators(lambda: x.sin().exp().sum().backward())]
    assert [name for name in found if name in ("sin", "exp", "sum", "cos")] == ["sin", "exp", "sum", "cos"]


N = 1000
BYTES = 4 * N


@pytest.mark.parametrize(
    ("function", "arrays"),
    [
        (lambda x: x + 1, 1),
        (lambda x: (x + 1) * 2, 2),
        (lambda x: ((x + 1) * 2).exp_(), 2),
        (lambda x: (((x + 1) * 2).exp()).sin(), 2),  # no more than two alive at one time
        (lambda x: (x.sin(), x.cos(), x.exp()), 3),
        (lambda x: x.sin() + x.cos(), 3),
        (lambda x: x.view(10, 100).T, 0),
        (lambda x: x.mul_(2), 0),
        (lambda x: torch.stack([x, x, x]), 3),
        (lambda x: [x + k for k in range(5)], 5),
        (lambda x: [(x + k).sum() for k in range(5)] and None, 1 + 5 / N),
        (lambda x: x.expand(7, N), 0),
        (lambda x: x.expand(7, N).contiguous(), 7),
        (lambda x: x.double(), 2),
    ],
)
def test_peak_bytes_by_hand(function, arrays):
    with torch.no_grad():
        assert cost.peak_bytes(function, torch.ones(N)) == pytest.approx(arrays * BYTES, abs=20)


def test_peak_bytes_counts_what_autograd_keeps():
    x = torch.ones(N, requires_grad=True)

    def chain(x):
        for _ in range(6):
            x = x.sin().exp()  # exp keeps its output for its gradient; sin keeps its input, which is the same array
        return x

    with torch.no_grad():
        assert cost.peak_bytes(chain, x) == 3 * BYTES  # the last x, its sine, and the exponential of that
    assert cost.peak_bytes(chain, x) == 7 * BYTES  # six exponentials, and the sine on its way into the last


def test_peak_bytes_leaves_out_parameters():
    layer = nn.Linear(N, 3, bias=False)
    with torch.no_grad():
        assert cost.peak_bytes(layer, torch.ones(1, N)) == 4 * 3
        assert cost.peak_bytes(lambda x: x @ layer.weight.T, torch.ones(1, N)) == 4 * 3


def test_peak_bytes_leaves_out_inputs_in_structures():
    assert cost.peak_bytes(lambda xs: xs["a"][0].view(-1), {"a": [torch.ones(N)]}) == 0


def test_peak_bytes_is_the_same_every_time():
    def work(x):
        return (torch.outer(x, x).softmax(-1) @ x).sum()

    found = {cost.peak_bytes(work, torch.ones(50)) for _ in range(3)}
    assert len(found) == 1 and found.pop() >= 2 * 4 * 50 * 50


# ------------------------------------------------------------------------------------------------ strategies


@settings(database=None)
@given(x=strategies.tensors((3, 2), low=0.1, high=0.9))
def test_tensors_keep_their_bounds(x):
    assert x.shape == (3, 2) and x.dtype == torch.float64
    assert (x >= 0.1).all() and (x <= 0.9).all()
    assert torch.equal(x.float().double(), x), "expected numbers that float32 holds"


@settings(database=None)
@given(x=strategies.tensors((3,), low=-0.9, high=-0.1))
def test_negative_tensors_keep_their_bounds(x):
    assert (x >= -0.9).all() and (x <= -0.1).all()


@settings(database=None)
@given(v=strategies.floats(-2, 3, away_from_zero=0.5), m=strategies.multiples_of(4, 2, 3))
def test_numbers_keep_their_bounds(v, m):
    assert -2 <= v <= 3 and abs(v) >= 0.5
    assert m in (8, 12)


@settings(database=None)
@given(x=strategies.images(channels=strategies.multiples_of(3)), ids=strategies.tokens(vocabulary=5))
def test_images_and_tokens(x, ids):
    assert x.dim() == 4 and x.shape[0] >= 2 and x.shape[1] % 3 == 0 and x.std() > 0
    assert ids.dtype == torch.int64 and (ids >= 0).all() and (ids < 5).all()


@settings(database=None)
@given(graph=strategies.graphs(), p=strategies.permutations(5))
def test_graphs_and_permutations(graph, p):
    nodes, edges = graph
    assert edges.shape[0] == 2 and (edges < nodes).all() and (edges[0] != edges[1]).all()
    assert len(edges.unique(dim=1).T) == len(edges.T)
    assert sorted(p.tolist()) == list(range(5))


@settings(database=None)
@given(gradients=strategies.gradient_sequences(steps=4, size=2))
def test_gradient_sequences(gradients):
    assert gradients.shape == (4, 2) and (gradients.abs() <= 5).all()


def test_gradient_sequences_reach_every_kind_of_step():
    for wanted in (
        lambda g: (g == 0).any(),
        lambda g: (g[0] * g[1] < 0).any(),
        lambda g: ((g != 0) & (g.abs() < 1e-4)).any(),
        lambda g: (g.abs() == 5).any(),
    ):
        find(strategies.gradient_sequences(), wanted, settings=settings(database=None, max_examples=2000))
