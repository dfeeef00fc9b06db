"""Laws that many concepts share, each with a failure that says the rule and the evidence.

A law takes a `function` (a module or any callable of tensors) and example inputs, and raises `AssertionError` when the
law does not hold. Helpers that only compute (`jacobian`, `random_like`, `floats`) return a value and assert nothing.
"""

import contextlib
import copy
import inspect
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

# Relative and absolute tolerance of two correct computations that round differently.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


# ---------------------------------------------------------------------------------------------- comparison


def assert_close(actual, expected, *, rtol=None, atol=None, because: str | None = None, what: str = "value"):
    """`actual` has the shape and dtype of `expected`, is finite where `expected` is, and is close to it.

    Args:
        rtol, atol: relative and absolute tolerance, |actual − expected| <= atol + rtol·|expected|; default `TOLERANCE`.
        because: the reason for a tolerance above the default; without one a wide tolerance is an error of the spec.
        what: the name of the quantity in the failure.
    """
    if not isinstance(actual, Tensor):
        raise AssertionError(f"{what}: expected a tensor, found {type(actual).__name__}")
    expected = torch.as_tensor(expected, dtype=actual.dtype if not isinstance(expected, Tensor) else None)
    if actual.shape != expected.shape:
        raise AssertionError(f"{what}: expected shape {tuple(expected.shape)}, found {tuple(actual.shape)}")
    if actual.dtype != expected.dtype:
        raise AssertionError(f"{what}: expected dtype {expected.dtype}, found {actual.dtype}")
    default = TOLERANCE.get(expected.dtype, 0.0)
    rtol, atol = default if rtol is None else rtol, default if atol is None else atol
    if max(rtol, atol) > default and not because:
        raise ValueError(f"{what}: tolerance {max(rtol, atol):g} above the default {default:g} needs `because=`")
    if expected.isfinite().all() and not actual.isfinite().all():
        bad = int((~actual.isfinite()).sum())
        raise AssertionError(f"{what}: expected finite numbers, found {bad} of {actual.numel()} NaN or infinite")
    torch.testing.assert_close(
        actual.detach(), expected.detach(), rtol=rtol, atol=atol, equal_nan=True, msg=lambda text: f"{what}: {text}"
    )


def assert_all_close(actual, expected, **tolerances):
    """`assert_close` for every tensor of two nested structures."""
    found, shape = tree_flatten(actual)
    wanted, wanted_shape = tree_flatten(expected)
    if shape != wanted_shape:
        raise AssertionError(f"expected the structure {wanted_shape}, found {shape}")
    for n, (a, b) in enumerate(zip(found, wanted)):
        if isinstance(b, Tensor):
            assert_close(a, b, what=f"tensor {n}", **tolerances)
        elif a != b:
            raise AssertionError(f"expected {b!r}, found {a!r}")


def assert_same(actual: Tensor, expected: Tensor, what: str = "value"):
    """Bit for bit the same tensor."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype or not torch.equal(actual, expected):
        gap = (actual.double() - expected.double()).abs().max() if actual.shape == expected.shape else "another shape"
        raise AssertionError(f"{what}: expected bitwise equal values, found a difference of {gap}")


def assert_differs(actual: Tensor, expected: Tensor, *, by: float, what: str = "value"):
    """The largest difference exceeds `by`: a property that must *not* hold does not."""
    if actual.shape != expected.shape:
        raise AssertionError(f"{what}: expected shape {tuple(expected.shape)}, found {tuple(actual.shape)}")
    gap = (actual - expected).abs().max().item()
    if not gap > by:
        raise AssertionError(f"{what}: expected a difference above {by:g}, found {gap:g}")


# ---------------------------------------------------------------------------------------------- helpers


def floats(tree, dtype=torch.float64):
    """The same structure with every floating tensor cast and cut from the graph; other leaves as they are."""
    return tree_map(lambda t: t.detach().to(dtype) if isinstance(t, Tensor) and t.is_floating_point() else t, tree)


def tensors(tree) -> list[Tensor]:
    """The floating tensors of a nested structure."""
    return [t for t in tree_flatten(tree)[0] if isinstance(t, Tensor) and t.is_floating_point()]


def reseed(seed: int):
    """Puts the CPU's global generator at the start of a seed.

    `torch.manual_seed` also takes a note, with a stack trace, for each device that is absent: 2 ms at every call.
    """
    torch.default_generator.manual_seed(seed)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers, the same at every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def double(*shape: int, seed: int = 0) -> Tensor:
    """`random` in float64."""
    return random(*shape, seed=seed, dtype=torch.float64)


def random_like(tree, seed: int = 0):
    """The same structure with standard normal numbers in place of every floating tensor."""
    generator = torch.Generator().manual_seed(seed)
    return tree_map(
        lambda t: torch.randn(t.shape, generator=generator, dtype=t.dtype) if _differentiable(t) else t, tree
    )


def parameters_of(function) -> dict[str, nn.Parameter]:
    """Parameters that are learned, by name, in the order of the names: that of their registration is free."""
    named = sorted(function.named_parameters()) if isinstance(function, nn.Module) else ()
    return {name: parameter for name, parameter in named if parameter.requires_grad}


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter a random value in ±[0.5, 1.5], so that no default (1, 0) hides a factor. In place."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        size = 0.5 + torch.rand(parameter.shape, generator=generator, dtype=parameter.dtype)
        sign = torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1
        parameter.data.copy_(size * sign)
    return module


def jacobian(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """∂function(x)/∂x, shape (*output, *input)."""
    return torch.autograd.functional.jacobian(function, x)


def gradients(function, inputs: Sequence, seed: int = 0, lay_out: Callable[[Tensor], Tensor] = torch.clone):
    """Outputs, and the gradients of ⟨outputs, random cotangent⟩ for every floating input and parameter.

    Args:
        lay_out: copies an input or a cotangent into another memory layout.
    """
    inputs = tree_map(lambda t: lay_out(t.detach()).requires_grad_() if _differentiable(t) else t, list(inputs))
    outputs = function(*inputs)
    found = [t for t in tensors(outputs) if t.requires_grad]
    wanted = tensors(inputs) + list(parameters_of(function).values())
    cotangents = [lay_out(t) for t in random_like(found, seed)]
    return outputs, torch.autograd.grad(found, wanted, cotangents, allow_unused=True, materialize_grads=True)


def dropped_shares(encoder, *inputs) -> dict[str, float]:
    """What share of the numbers an encoder of one post-norm layer drops in training, place by place."""
    (layer,), seen = encoder.layers, {}
    for name, module in {"start": encoder.norm, "layer": layer, "one": layer.norm1, "two": layer.norm2}.items():
        module.register_forward_hook(lambda _, given, made, name=name: seen.update({name: (given[0], made)}))
    encoder.train()(*inputs)
    numbers = {
        "before the embeddings' norm": seen["start"][0],
        "after the embeddings' norm": seen["layer"][0],
        "attention's output": seen["one"][0] - seen["layer"][0],
        "feed-forward network's output": seen["two"][0] - seen["one"][1],
    }
    return {place: (found == 0).double().mean().item() for place, found in numbers.items()}


def dropped_weights(attention, heads: int) -> float:
    """What share of attention's weights is dropped in training: of 800 heads or more, each on a token that is alone."""
    attention = copy.deepcopy(attention).train()
    nn.init.eye_(attention.out_proj.weight)
    for name, bias in attention.named_parameters():
        if name == "out_proj.bias":
            nn.init.zeros_(bias)
    (tokens,) = random_like([attention.out_proj.weight.new_empty(400, 1, len(attention.out_proj.weight))])
    return (attention(tokens).unflatten(-1, (heads, -1)) == 0).all(-1).double().mean().item()


def _differentiable(t):
    return isinstance(t, Tensor) and t.is_floating_point()


# ---------------------------------------------------------------------------------------------- laws of functions


def gradients_match(function, reference, *inputs, rtol=None, atol=None, because=None):
    """Two functions agree in their outputs and in the gradients to inputs and parameters, for a random cotangent."""
    outputs, grads = gradients(function, inputs)
    expected_outputs, expected_grads = gradients(reference, inputs)
    for n, (a, b) in enumerate(zip(tensors(outputs), tensors(expected_outputs), strict=True)):
        assert_close(a, b, rtol=rtol, atol=atol, because=because, what=f"output {n}")
    for n, (a, b) in enumerate(zip(grads, expected_grads, strict=True)):
        assert_close(a, b, rtol=rtol, atol=atol, because=because, what=f"gradient {n}")


def gradient_correct(function, *inputs, second_order: bool = False):
    """Autograd equals central differences in float64, for every input and every parameter.

    Args:
        second_order: check the gradient of the gradient as well.
    """
    inputs = [floats(t) for t in inputs]
    names = list(parameters_of(function))
    leaves = [t.clone().requires_grad_() if _differentiable(t) else t for t in inputs]
    weights = [p.detach().double().clone().requires_grad_() for p in parameters_of(function).values()]

    def call(*arguments):
        arguments, values = arguments[: len(leaves)], arguments[len(leaves) :]
        reseed(0)  # a function that draws noise must draw the same at every probe
        if isinstance(function, nn.Module):
            # Buffers travel as clones: a training step must not move the statistics under the next probe.
            state = dict(zip(names, values)) | {
                n: b.double().clone() if b.is_floating_point() else b.clone() for n, b in function.named_buffers()
            }
            outputs = torch.func.functional_call(function, state, arguments)
        else:
            outputs = function(*arguments)
        return tuple(t for t in tensors(outputs) if t.requires_grad)

    if not call(*leaves, *weights):
        raise AssertionError("expected an output with a gradient, found none: it is cut from the graph")
    if not torch.autograd.gradcheck(call, (*leaves, *weights), eps=1e-6, atol=1e-6, rtol=1e-4):
        raise AssertionError("gradient differs from central differences")
    if second_order and not torch.autograd.gradgradcheck(call, (*leaves, *weights), eps=1e-6, atol=1e-5, rtol=1e-3):
        raise AssertionError("second derivative differs from central differences")


def gradient_reaches(loss: Tensor, reached: dict[str, Tensor], untouched: dict[str, Tensor] = {}):
    """Which tensors get gradient from a loss, and which must not.

    Args:
        loss: a scalar.
        reached: name → leaf that must get a gradient that is not all zero.
        untouched: name → leaf that must get none, or only zeros.
    """
    leaves = list(reached.values()) + list(untouched.values())
    grads = torch.autograd.grad(loss, leaves, allow_unused=True, retain_graph=True)
    for name, grad in zip([*reached, *untouched], grads):
        size = 0.0 if grad is None else grad.abs().max().item()
        if name in reached and not 0 < size < float("inf"):
            raise AssertionError(f"expected a gradient for {name}, found {'none' if grad is None else size}")
        if name in untouched and size != 0:
            raise AssertionError(f"expected no gradient for {name}, found one as large as {size:g}")


def invariant(function, x: Tensor, transform: Callable[[Tensor], Tensor], **tolerance):
    """function(transform(x)) = function(x)."""
    assert_close(function(transform(x)), function(x), what="f(T(x)) against f(x)", **tolerance)


def equivariant(function, x: Tensor, transform, transform_output=None, **tolerance):
    """function(transform(x)) = transform(function(x)); the output's transform may be another one."""
    moved = (transform_output or transform)(function(x))
    assert_close(function(transform(x)), moved, what="f(T(x)) against T(f(x))", **tolerance)


def depends_only_on(function, x: Tensor, allowed: Tensor):
    """The Jacobian's sparsity: output i depends on input j where `allowed[i, j]`, and nowhere else.

    Args:
        allowed: bool, shape (outputs, inputs), of the flattened tensors.
    """
    rows = jacobian(function, x).reshape(-1, x.numel())
    leaked = (rows != 0) & ~allowed
    missing = (rows == 0) & allowed
    for found, rule in ((leaked, "must not depend"), (missing, "must depend")):
        if found.any():
            i, j = found.nonzero()[0].tolist()
            raise AssertionError(
                f"output {i} {rule} on input {j}: ∂y/∂x = {rows[i, j]:g} ({int(found.sum())} such pairs)"
            )


def causal(function, x: Tensor, dim: int = 1):
    """Output t depends on inputs <= t along `dim`: changing the future changes no earlier output."""
    before = function(x)
    for t in range(1, x.shape[dim]):
        later = x.clone()
        later.narrow(dim, t, x.shape[dim] - t).normal_(generator=torch.Generator().manual_seed(t))
        after = function(later)
        assert_close(after.narrow(dim, 0, t), before.narrow(dim, 0, t), what=f"outputs before step {t}")
        assert_differs(after.narrow(dim, t, 1), before.narrow(dim, t, 1), by=0.0, what=f"output at step {t}")


# ---------------------------------------------------------------------------------------------- laws of every module
# Each takes a fresh `build()` and example `inputs`; spec/properties/test_laws.py runs them on every record of
# spec/cases that is not exempt.


@dataclass(frozen=True)
class Law:
    """What holds for every record, of modules or of optimizers.

    Attributes:
        name: of the function that checks it.
        claim, source: as in the docstring of a spec.
        check: raises AssertionError where a record breaks the law.
        modules_only: whether it is about state, which functions have none of.
        needs: what a record must give for the law to apply to it.
        exempted_as: under which name a record is exempt from it.
        asked_of: the packages whose convention it is; all subjects if empty.
        own_code: whether it is a rule for code that is written for these specs, which peers are not.
    """

    name: str
    claim: str
    source: str
    check: Callable
    modules_only: bool = False
    needs: str = ""
    exempted_as: str = ""
    asked_of: tuple[str, ...] = ()
    own_code: bool = False

    def applies_to(self, case) -> bool:
        has_enough = getattr(case, self.needs) if self.needs else not (self.modules_only and case.is_function)
        return bool(has_enough) and self.exempted_as not in case.exempt

    def marks(self) -> list:
        import pytest  # late: golden values are derived in environments without it

        marks = [pytest.mark.project_convention(*self.asked_of)] if self.asked_of else []
        return marks + ([pytest.mark.own_code] if self.own_code else [])


OF_MODULES: dict[str, Law] = {}


def law(claim: str, *, source: str, among: dict[str, Law] = OF_MODULES, **options):
    """Register the check below as a law of every module, or of another family of records.

    Args:
        claim: one sentence that stands alone.
        source: where it comes from.
        among: the family's registry.
        options: as in `Law`.
    """

    def register(check):
        name = options.pop("name", check.__name__)
        if name in among:
            raise ValueError(f"expected one law of the name {name}, found a second")
        among[name] = Law(name, claim, source, check, **({"exempted_as": name} | options))
        return check

    return register


def every(among: dict[str, Law], cases):
    """Parametrize over all pairs of a law and a record that it applies to, each marked with the record's item."""
    import pytest

    pairs = [(law, case) for law in among.values() for case in cases if law.applies_to(case)]
    return pytest.mark.parametrize(
        ("law", "case"),
        [
            pytest.param(
                law, case, id=f"{law.name}-{case.item}:{case.name}", marks=[pytest.mark.item(case.item), *law.marks()]
            )
            for law, case in pairs
        ],
    )


def _map(change, inputs):
    """The inputs with every tensor changed, those inside of lists and dictionaries too."""
    return tree_map(lambda t: change(t) if isinstance(t, Tensor) else t, list(inputs))


def _run(function, inputs):
    """Call with the global generator at a known state, so that a stochastic layer repeats itself."""
    reseed(0)
    return function(*inputs)


@law(
    "State saved, loaded with weights_only=True and put into a second instance gives the same outputs.",
    source="the contract of torch.nn.Module; every model that is trained is saved",
    modules_only=True,
)
def state_dict_round_trip(build, inputs):
    source, target = build(), build()
    randomise(source, seed=1)
    randomise(target, seed=2)
    _run(source.train(), inputs)  # running statistics are state as well
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    target.load_state_dict(loaded)
    if list(target.state_dict()) != list(source.state_dict()):
        raise AssertionError(f"expected the keys {list(source.state_dict())}, found {list(target.state_dict())}")
    for mode in (False, True):
        _same_outputs(_run(target.train(mode), inputs), _run(source.train(mode), inputs))


@law(
    "A deep copy gives the same outputs and shares no memory with its original.",
    source="the contract of copy.deepcopy; target networks and weight averages rest on it",
    modules_only=True,
)
def deepcopy_independent(build, inputs):
    module = build().eval()
    if isinstance(module, nn.Module):
        randomise(module)
    before = _run(module, inputs)
    counterpart = copy.deepcopy(module)
    _same_outputs(_run(counterpart, inputs), before)
    for t in [*counterpart.parameters(), *counterpart.buffers()]:
        t.data.fill_(3)
    _same_outputs(_run(module, inputs), before)


@law(
    "In eval mode the same inputs give outputs that are bitwise equal.",
    source="the contract of torch.nn.Module.eval",
)
def deterministic_in_eval(build, inputs):
    function = _in_mode(build(), train=False)
    reseed(1)
    first = function(*inputs)
    reseed(2)
    _same_outputs(function(*inputs), first)


@law(
    "In eval mode the global random generator is not touched.",
    source="the contract of torch.nn.Module.eval; an evaluation in mid-training must not change the run",
)
def draws_nothing_in_eval(build, inputs):
    function = _in_mode(build(), train=False)
    before = torch.get_rng_state()
    function(*inputs)
    if not torch.equal(torch.get_rng_state(), before):
        raise AssertionError("expected the global generator untouched in eval, found that it moved")


@law(
    "The caller's tensors are unchanged after a call.",
    source="the contract of functions without a trailing underscore in torch",
)
def inputs_not_mutated(build, inputs):
    for train in (True, False):
        given = _map(torch.clone, inputs)
        _run(_in_mode(build(), train), given)
        for n, (a, b) in enumerate(zip(tree_flatten(given)[0], tree_flatten(inputs)[0])):
            if isinstance(b, Tensor):
                assert_same(a, b, what=f"input {n} after the call")
    cotangents = []

    def handed(t):
        cotangents.append((t, t.clone()))
        return t

    function = _in_mode(build(), train=True)
    reseed(0)
    gradients(function, inputs, lay_out=lambda t: handed(t.clone()))
    for n, (a, b) in enumerate(cotangents):
        assert_same(a.detach(), b.detach(), what=f"input or gradient of an output {n} after the backward pass")


@law(
    "Strided views give the outputs of their contiguous copies.",
    source="the contract of torch operators; transposed inputs are everyday",
)
def accepts_non_contiguous(build, inputs):
    spread = _map(_strided, inputs)
    for train in (True, False):
        function = _in_mode(build(), train)
        counterpart = copy.deepcopy(function)
        assert_all_close(_run(function, spread), _run(counterpart, inputs))
        reseed(0)
        found = gradients(function, inputs, lay_out=_strided)
        reseed(0)
        assert_all_close(found, gradients(counterpart, inputs))


def _strided(t):
    if t.dim() == 0:
        return t
    wide = torch.stack([t, torch.full_like(t, 7)], dim=-1)
    return wide[..., 0]


@law(
    "float32, float64 and bfloat16 in give the same dtype out, close to the float64 result.",
    source="the contract of torch.nn modules; 2^-8 relative is the precision of bfloat16",
)
def keeps_dtype(build, inputs):
    outputs = {}
    built = build()
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        function = copy.deepcopy(built)
        function = _in_mode(function.to(dtype) if isinstance(function, nn.Module) else function, train=False)
        outputs[dtype] = tensors(_run(function, floats(list(inputs), dtype)))
        for t in outputs[dtype]:
            if t.dtype != dtype:
                raise AssertionError(f"expected {dtype} out for {dtype} in, found {t.dtype}")
    exact = outputs[torch.float64]
    for a, b in zip(outputs[torch.float32], exact):
        assert_close(a.double(), b, rtol=1e-5, atol=1e-5, because="float32 against float64", what="float32 result")
    for a, b in zip(outputs[torch.bfloat16], exact):
        # 8 bits of mantissa: 2^-8 an operation, and a handful of operations in a row.
        tolerance = 0.05 * b.abs().max().clamp_min(1).item()
        assert_close(a.double(), b, rtol=0, atol=tolerance, because="bfloat16 has 8 bits", what="bfloat16 result")


@law(
    "Under torch.autocast outputs are close to those of float32, and so are gradients taken outside of the region.",
    source="Micikevicius et al. 2017, arXiv:1710.03740; the contract of torch.autocast: no layer is written for it",
)
def works_under_autocast(build, inputs):
    built, found = _in_mode(build(), train=False), {}
    for mixed in (False, True):
        function = copy.deepcopy(built)
        given = _map(lambda t: t.clone().requires_grad_() if _differentiable(t) else t, inputs)
        with warnings.catch_warnings(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            warnings.simplefilter("ignore")  # torch's own layers warn where an input comes in another dtype
            outputs = tensors(_run(function, given))
        reached = [t for t in outputs if t.requires_grad]
        cotangents = [c.to(t.dtype) for c, t in zip(random_like([t.float() for t in reached]), reached)]
        wanted = tensors(given) + list(parameters_of(function).values())
        options = {"allow_unused": True, "materialize_grads": True}
        found[mixed] = [*outputs, *(torch.autograd.grad(reached, wanted, cotangents, **options) if reached else [])]
    for n, (a, b) in enumerate(zip(found[True], found[False], strict=True)):
        # As in bfloat16 throughout, but for gradients, which it rounds twice on their way.
        tolerance = (0.05 if n < len(outputs) else 0.1) * b.abs().max().clamp_min(1).item() if b.numel() else 0
        what = f"output or gradient {n}"
        assert_close(a.double(), b.double(), rtol=0, atol=tolerance, because="bfloat16 has 8 bits", what=what)


@law(
    "In train mode a sample's output does not change with the rest of its batch.",
    source="the definition of the item; where the paper couples the batch, the record is exempt and says why",
)
def batch_independent(build, inputs):
    _samples_are_apart(build, inputs, train=True)


@law(
    "In eval mode a sample's output does not change with the rest of its batch.",
    source="the definition of inference: one sample at a time or many, the answer is the same",
)
def batch_independent_in_eval(build, inputs):
    _samples_are_apart(build, inputs, train=False)


def _samples_are_apart(build, inputs, train: bool):
    function = _in_mode(build(), train)
    if isinstance(function, nn.Module):
        randomise(function)
    alone = _run(function, inputs)
    for kept in (0, -1):  # the first, which sees nobody before it, and the last, which sees nobody after it
        mixed = _run(function, _map(lambda t, kept=kept: _other_samples(t, kept) if t.dim() else t, inputs))
        for n, (a, b) in enumerate(zip(tensors(mixed), tensors(alone), strict=True)):
            assert_close(a[kept], b[kept], what=f"sample {kept} of output {n} among other samples")


def _other_samples(t, kept: int):
    if not len(t):
        return t
    # Integers may be indices of anything: what stands in one sample is valid in another.
    others = 10 * t + 1 if t.is_floating_point() else t[[kept]].expand_as(t).clone()
    others[kept] = t[kept]
    return others


@law(
    "Autograd equals central differences in float64, for every input and parameter.",
    source="the definition of the derivative",
    name="gradient_correct",
)
def _gradient_correct(build, inputs):
    gradient_correct(build(), *inputs)


@law(
    "Each parameter gets a finite gradient that is not all zero.",
    source="a parameter that no gradient reaches is not learned",
    modules_only=True,
)
def every_parameter_receives_gradient(build, inputs):
    module = build().train()
    randomise(module)
    outputs = [t for t in tensors(_run(module, inputs)) if t.requires_grad]
    if outputs:
        torch.autograd.backward(outputs, random_like(outputs))
    for name, parameter in module.named_parameters():
        size = 0.0 if parameter.grad is None else parameter.grad.abs().max().item()
        if not 0 < size < float("inf"):
            raise AssertionError(f"expected a gradient for {name}, found {size}")


@law(
    'On device="meta" shapes and dtypes are those of a real run.',
    source="torch's meta device; published parameter counts are checked there",
    asked_of=("impl", "fast"),  # a documented error may need to look at data
)
def works_on_meta(build, inputs):
    real = tensors(_run(_in_mode(build(), train=True), inputs))
    function = build()
    function = _in_mode(function.to("meta") if isinstance(function, nn.Module) else function, train=True)
    outputs = tensors(function(*_map(lambda t: t.to("meta"), inputs)))
    for a, b in zip(outputs, real, strict=True):
        if (a.shape, a.dtype, a.device.type) != (b.shape, b.dtype, "meta"):
            found = f"{a.device} {tuple(a.shape)} {a.dtype}"
            raise AssertionError(f"expected meta {tuple(b.shape)} {b.dtype}, found {found}")


@law(
    "torch.compile(fullgraph=True) captures forward and backward, with the outputs and gradients of eager.",
    source="the contract of torch.compile: no graph breaks",
    asked_of=("impl", "fast"),  # a documented error may need to look at data
)
def compiles(build, inputs):
    with without_shape_checks():  # they do not trace
        function = _in_mode(build(), train=True)
        counterpart = copy.deepcopy(function)
        torch._dynamo.reset()
        compiled = torch.compile(counterpart, backend="eager", fullgraph=True)
        reseed(0)
        expected = gradients(function, inputs)
        reseed(0)
        found = gradients(_with_parameters_of(compiled, counterpart), inputs)
        assert_all_close(found, expected)


@law(
    "torch.func.grad gives autograd's gradients, jvp their adjoint, and vmap the results of single calls.",
    source="the contract of torch.func: it holds for whatever is made of torch's own operators",
    asked_of=("impl",),  # plain autograd; what has a backward pass of its own has no forward mode
)
def transforms(build, inputs):
    function = _in_mode(build(), train=False)
    function = function.double() if isinstance(function, nn.Module) else function
    if isinstance(function, nn.Module):
        randomise(function)
    leaves, shape = tree_flatten(floats(tuple(inputs)))
    places = [n for n, t in enumerate(leaves) if _differentiable(t)]
    weights = {name: p.detach() for name, p in parameters_of(function).items()}

    def call(primals):
        given = list(leaves)
        for place, value in zip(places, primals):
            given[place] = value
        state, arguments = dict(zip(weights, primals[len(places) :])), tree_unflatten(given, shape)
        reseed(0)
        is_module = isinstance(function, nn.Module)
        outputs = torch.func.functional_call(function, state, arguments) if is_module else function(*arguments)
        return tuple(tensors(outputs))

    primals = (*(leaves[n] for n in places), *weights.values())
    with without_shape_checks(), warnings.catch_warnings():  # shape checks know no tensor of a transform
        warnings.filterwarnings("ignore", "There is a performance drop")  # an operator that vmap calls once a sample
        tracked = tuple(t.clone().requires_grad_() for t in primals)
        outputs = call(tracked)
        found = [n for n, t in enumerate(outputs) if t.requires_grad]
        cotangents = random_like([outputs[n] for n in found])
        options = {"allow_unused": True, "materialize_grads": True}
        expected = torch.autograd.grad([outputs[n] for n in found], tracked, cotangents, **options) if found else ()

        def paired(primals):
            outputs = call(primals)
            return torch.stack([(outputs[n] * c).sum() for n, c in zip(found, cotangents)]).sum()

        tangents = tuple(random_like(list(primals), seed=1))
        if found:  # what has no derivative has the transform of a batch alone
            for n, (a, b) in enumerate(zip(torch.func.grad(paired)(primals), expected)):
                assert_close(a, b, what=f"torch.func.grad {n}")
            along = torch.func.jvp(call, (primals,), (tangents,))[1]
            forward = sum((along[n] * c).sum() for n, c in zip(found, cotangents))
            backward = sum((g * v).sum() for g, v in zip(expected, tangents))
            assert_close(forward, backward, what="⟨cotangent, jvp(tangent)⟩ against ⟨gradient, tangent⟩")
        others = tuple(t + v / 100 for t, v in zip(primals, tangents))
        pairs = tuple(torch.stack(pair) for pair in zip(primals, others))
        together = torch.func.vmap(call, randomness="same")(pairs)
        for n, (a, one, other) in enumerate(zip(together, call(primals), call(others), strict=True)):
            assert_close(a, torch.stack([one, other]), what=f"torch.func.vmap, output {n}")


@law(
    "Changing the output in place, as ReLU(inplace=True) does, gives the gradients of the change out of place.",
    source="the contract of torch.nn modules, whose outputs may be changed in place",
)
def may_be_changed_in_place(build, inputs):
    """What it returns may be changed in place: gradients are those of a change out of place.

    Where that cannot be, autograd says so of torch's own operators as well: the backward pass of exp needs its output,
    parts of a chunk are views of one tensor. A view that a Function of one's own returns has no such excuse.
    """
    built, found = _in_mode(build(), train=True), {}
    if isinstance(built, nn.Module):
        randomise(built)
    for in_place in (False, True):
        function = copy.deepcopy(built)

        def followed(*given, function=function, in_place=in_place):
            outputs = [t for t in tensors(_run(function, given)) if t.requires_grad]
            factors = [1 + n / 8 for n in range(len(outputs))]
            return [t.mul_(c).add_(1) if in_place else t * c + 1 for t, c in zip(outputs, factors)]

        try:
            found[in_place] = gradients(_with_parameters_of(followed, function), inputs)
        except NotImplementedError:
            raise
        except RuntimeError as error:
            if "custom Function" in str(error):
                raise AssertionError(f"expected an output that may be changed in place, found: {error}") from error
            return
    assert_all_close(found[True], found[False])


@contextlib.contextmanager
def without_shape_checks():
    """As in a user's run: the annotations of shapes are documentation."""
    import jaxtyping

    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def _with_parameters_of(compiled, module):
    if not isinstance(module, nn.Module):
        return compiled
    return _Wrapped(compiled, module)


class _Wrapped(nn.Module):
    def __init__(self, call, module):
        super().__init__()
        self.module = module
        self.__dict__["call"] = call  # not a second registration of the same parameters

    def forward(self, *inputs):
        return self.call(*inputs)


@law(
    "A batch of no samples gives no samples, or a ValueError that says so.",
    source="torch's convention for zero-size batches",
)
def empty_batch_is_defined(build, inputs):
    empty = _map(lambda t: t[:0] if t.dim() else t, inputs)
    for train in (True, False):
        try:
            outputs = _run(_in_mode(build(), train), empty)
        except ValueError:
            continue
        for t in tensors(outputs):
            if t.dim() and t.shape[0] != 0:
                raise AssertionError(f"expected no samples out for none in, found shape {tuple(t.shape)}")
            if not t.isfinite().all():
                raise AssertionError("expected finite numbers or a ValueError for an empty batch, found NaN")


# Must messages have this project's wording? Those of impl and fast must, a stranger's are free (spec/conftest.py).
asks_wording = True


def rejects(call, mentions: Sequence[str] = (), shown: str = ""):
    """Bad input raises `ValueError` or `TypeError`; of impl and fast, one that says what was expected and what came.

    Args:
        mentions: words that the message of impl and fast holds as well as "expected": the value that came, say.
        shown: the call as a failure shows it; as it is written in the source if not given.
    """
    try:
        with without_shape_checks():  # the code itself must refuse, not the annotations that only specs check
            call()
    except NotImplementedError:
        raise
    except (ValueError, TypeError) as error:
        text = str(error)
        for word in ("expected", *mentions) if asks_wording else ():
            if word.lower() not in text.lower():
                raise AssertionError(f"expected the message to mention {word!r}, found {text!r}") from error
    except Exception as error:
        raise AssertionError(f"expected ValueError or TypeError, found {type(error).__name__}: {error}") from error
    else:
        raise AssertionError(f"expected ValueError or TypeError, found no error from {shown or source_of(call)}")


def source_of(call) -> str:
    """How a call is written in its record or spec, without the lambda."""
    try:
        text = " ".join(inspect.getsource(call).split())
    except (OSError, TypeError):
        return repr(call)
    return text.partition("lambda:")[2].strip(" ,)") or text


def _in_mode(function, train: bool):
    return function.train(train) if isinstance(function, nn.Module) else function


def _same_outputs(actual, expected):
    for n, (a, b) in enumerate(zip(tensors(actual), tensors(expected), strict=True)):
        assert_same(a, b, what=f"output {n}")
