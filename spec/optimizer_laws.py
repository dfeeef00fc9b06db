"""Laws that every optimizer keeps, each driven by scripted gradients: a loss would forgive what it can climb back from.

A law takes `build`, which makes a fresh optimizer for a list of parameters or of groups, and raises `AssertionError`
when the law does not hold; where torch.optim has a counterpart, `library` makes that. Of a state only tensors of the
parameter's shape are compared: a count may be a tensor, an integer or, where the rule needs none, absent.
`spec/properties/test_optimizer_laws.py` runs the laws on every `OptimizerCase` of spec/cases.
"""

import copy
import gc
import inspect
import io
import itertools
import weakref

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from spec import cost, laws, scratch

SHAPES = ((2, 3), (4,))
START = (2.0, -0.5, 0.25)
STEPS = 6
MAGNITUDES = (1e-5, 1e-3, 0.1, 0.5, 1.0, 5.0)

OF_OPTIMIZERS: dict[str, laws.Law] = {}


# ---------------------------------------------------------------------------------------------- driving


def parameters(*shapes, dtype=torch.float64, seed: int = 0) -> list[nn.Parameter]:
    """Random normal parameters of the given shapes, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes or SHAPES]
    return [nn.Parameter(v.to(dtype)) for v in values]


def script(*shapes, steps: int = STEPS, dtype=torch.float64, seed: int = 1) -> list[list[Tensor]]:
    """Gradients for every step and shape: signs change, and magnitudes jump between 1e-5 and 5."""
    generator = torch.Generator().manual_seed(seed)

    def sample(shape):
        size = torch.tensor(MAGNITUDES, dtype=torch.float64)[torch.randint(6, shape, generator=generator)]
        return (size * (2 * torch.randint(2, shape, generator=generator) - 1)).to(dtype)

    return [[sample(shape) for shape in shapes or SHAPES] for _ in range(steps)]


def drive(optimizer, params, gradients) -> None:
    """One step for every row of `gradients`; None means a parameter without a gradient."""
    for row in gradients:
        for parameter, gradient in zip(params, row, strict=True):
            parameter.grad = None if gradient is None else gradient.clone()
        optimizer.step()


def run(build, params, gradients) -> list[Tensor]:
    """Where a fresh optimizer takes the parameters."""
    drive(build(params), params, gradients)
    return [p.detach() for p in params]


def trajectory(make, gradients, start=START, **settings):
    """θ_0 … θ_T under prescribed gradients, shape (T + 1, coordinates), and the optimizer that `make` made."""
    theta = nn.Parameter(torch.as_tensor(start, dtype=torch.float64).clone())
    optimizer = make([theta], **settings)
    path = [theta.detach().clone()]
    for gradient in gradients:
        drive(optimizer, [theta], [[torch.as_tensor(gradient, dtype=torch.float64)]])
        path.append(theta.detach().clone())
    return torch.stack(path), optimizer


def state_tensors(optimizer, parameter=None) -> list[Tensor]:
    """The tensors of an optimizer's state, or of one parameter's."""
    state = optimizer.state if parameter is None else optimizer.state.get(parameter, {})
    return [t for t in tree_flatten(dict(state))[0] if isinstance(t, Tensor)]


def _same(actual, expected, what):
    for n, (a, b) in enumerate(zip(actual, expected, strict=True)):
        laws.assert_same(a.detach(), b.detach(), what=f"{what} {n}")


# ---------------------------------------------------------------------------------------------- laws


@laws.law(
    "A complex parameter raises ValueError or TypeError, in the first group and in the last.",
    source="the papers' rules are of real numbers: a square would have to be |g|², an order does not exist",
    among=OF_OPTIMIZERS,
    own_code=True,
)
def complex_parameters_are_refused(build) -> None:
    build(parameters())  # refusing everything is no answer
    for before in ([], [{"params": parameters()}]):
        groups = [*before, {"params": parameters(dtype=torch.complex64)}]
        laws.rejects(lambda groups=groups: build(groups), ("complex64",), f"a complex parameter in group {len(before)}")


@laws.law(
    "A sparse gradient raises ValueError or TypeError at the step, and the parameter is unchanged.",
    source="the rules are of dense gradients: what is absent of a sparse one would have to decay, too",
    among=OF_OPTIMIZERS,
    own_code=True,
)
def sparse_gradients_are_refused(build) -> None:
    params = parameters((3,))
    before = params[0].detach().clone()
    optimizer = build(params)
    params[0].grad = torch.ones(3, dtype=torch.float64).to_sparse()
    laws.rejects(optimizer.step, ("dense", "sparse"), "step() with a sparse gradient")
    laws.assert_same(params[0].detach(), before, what="the parameter after the refused step")


@laws.law(
    "Two groups with different settings step exactly as two optimizers do, and every setting matters.",
    source="the contract of torch.optim's parameter groups",
    among=OF_OPTIMIZERS,
)
def settings_belong_to_groups(build) -> None:
    for name, value in build(parameters()).defaults.items():
        if isinstance(value, bool) or not isinstance(value, (float, int, tuple)) or not value:
            continue
        other = _another(build, name, value)
        gradients = script()
        params = parameters()
        drive(build([{"params": params[:1]}, {"params": params[1:], **other}]), params, gradients)
        alone, default = parameters(), parameters()
        drive(build([{"params": alone[1:], **other}]), alone[1:], [row[1:] for row in gradients])
        drive(build(default), default, gradients)
        laws.assert_same(params[0].detach(), default[0].detach(), what=f"the group next to one with another {name}")
        laws.assert_same(params[1].detach(), alone[1].detach(), what=f"the group with another {name}")
        laws.assert_differs(params[1].detach(), default[1].detach(), by=0.0, what=f"parameters under another {name}")


def _another(build, name, value) -> dict:
    """Another value of a setting: half of it, or twice where half is out of its range."""
    for factor in (0.5, 2):
        other = {name: tuple(v * factor for v in value) if isinstance(value, tuple) else value * factor}
        try:
            build([{"params": parameters(), **other}])
        except ValueError:
            continue
        return other
    raise AssertionError(f"expected half or twice of {name} = {value} to be in range, found neither is")


@laws.law(
    "A parameter without a gradient gets no state from a step; its first gradient is its own first step.",
    source="the contract of torch.optim: `grad is None` means absent, not zero",
    among=OF_OPTIMIZERS,
)
def late_parameters_start_fresh(build) -> None:
    params, gradients = parameters(), script()
    optimizer = build(params)
    before = [t.clone() for t in (params[1].detach(), *state_tensors(optimizer, params[1]))]
    drive(optimizer, params, [[row[0], None] for row in gradients[:3]])
    after = (params[1], *state_tensors(optimizer, params[1]))
    if len(after) > len(before):
        raise AssertionError("expected no new state for a parameter that never had a gradient, found some")
    _same(after, before, "parameter or state without a gradient")
    drive(optimizer, params, gradients[3:])
    alone = parameters()[1:]
    drive(build(alone), alone, [row[1:] for row in gradients[3:]])
    laws.assert_same(params[1].detach(), alone[0].detach(), what="a parameter that joined after three steps")


@laws.law(
    "While its gradient is None a parameter keeps value and state, and then goes on as if there had been no pause.",
    source="the contract of torch.optim; frozen layers and unused experts must neither decay nor age",
    among=OF_OPTIMIZERS,
)
def pauses_without_gradient(build) -> None:
    params, gradients = parameters(), script()
    optimizer = build(params)
    drive(optimizer, params, gradients[:3])
    before = [t.clone() for t in (params[1].detach(), *state_tensors(optimizer, params[1]))]
    drive(optimizer, params, [[row[0], None] for row in gradients[:2]])
    after = (params[1], *state_tensors(optimizer, params[1]))
    _same(after, before, "parameter or state during its pause")
    drive(optimizer, params, gradients[3:])
    alone = parameters()[1:]
    drive(build(alone), alone, [row[1:] for row in gradients])
    laws.assert_same(params[1].detach(), alone[0].detach(), what="a parameter that paused for two steps")


@laws.law(
    "With no gradient at all a step changes nothing, raises nothing and returns None.",
    source="the contract of torch.optim",
    among=OF_OPTIMIZERS,
)
def nothing_to_do(build) -> None:
    params = parameters()
    optimizer, before = build(params), [p.detach().clone() for p in params]
    built_with = [t.clone() for t in state_tensors(optimizer)]
    if optimizer.step() is not None:
        raise AssertionError("expected None from a step without a closure")
    _same(params, before, "parameter")
    if len(state_tensors(optimizer)) > len(built_with):
        raise AssertionError("expected no new state before the first gradient, found some")
    _same(state_tensors(optimizer), built_with, "state before the first gradient")


@laws.law(
    "A run saved after three steps and loaded with weights_only into a fresh optimizer continues bitwise equal.",
    source="the contract of Optimizer.state_dict; long runs are interrupted",
    among=OF_OPTIMIZERS,
)
def resumes_exactly(build) -> None:
    """Saved after three steps, loaded with `weights_only=True` into a fresh optimizer: bitwise equal to uninterrupted.

    The learning rate was changed on the way, so the settings must travel with the state.
    """
    params, gradients = parameters(), script()
    optimizer = build(params)
    drive(optimizer, params, gradients[:3])
    for group in optimizer.param_groups:
        group["lr"] *= 0.5
    file = io.BytesIO()
    torch.save({"weights": [p.data for p in params], "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = [nn.Parameter(w) for w in saved["weights"]]
    second = build(resumed)
    second.load_state_dict(saved["optimizer"])
    drive(optimizer, params, gradients[3:])
    drive(second, resumed, gradients[3:])
    _same(resumed, params, "resumed parameter")
    _same(state_tensors(second), state_tensors(optimizer), "resumed state")


@laws.law(
    "A deep copy of parameters and optimizer continues bitwise equal and leaves the original untouched.",
    source="the contract of copy.deepcopy",
    among=OF_OPTIMIZERS,
)
def deepcopy_independent(build) -> None:
    params, gradients = parameters(), script()
    optimizer = build(params)
    drive(optimizer, params, gradients[:3])
    copies, copied = copy.deepcopy((params, optimizer))
    before = [p.detach().clone() for p in params]
    drive(copied, copies, gradients[3:])
    _same(params, before, "original while its copy steps")
    drive(optimizer, params, gradients[3:])
    _same(copies, params, "copy")


@laws.law(
    "step(closure) runs the closure once with gradients enabled, steps with them, and returns its loss.",
    source="the contract of torch.optim.Optimizer.step",
    among=OF_OPTIMIZERS,
)
def runs_the_closure(build) -> None:
    params, expected, (row, *_) = parameters(), parameters(), script()
    optimizer = build(params)
    losses = []

    def closure():
        optimizer.zero_grad()
        losses.append(sum((p * g).sum() for p, g in zip(params, row)))
        losses[-1].backward()
        return losses[-1]

    with torch.no_grad():
        found = optimizer.step(closure)
    drive(build(expected), expected, [row])
    if len(losses) != 1 or found is not losses[0]:
        raise AssertionError(f"expected the loss of one call of the closure, found {found} after {len(losses)} calls")
    _same(params, expected, "parameter after a step with a closure")


@laws.law(
    "Without decay, parameters whose gradients were always zero stay exactly as they are.",
    source="every update rule here is a function of the gradients seen that is zero at zero",
    among=OF_OPTIMIZERS,
)
def zero_gradients_change_nothing(build) -> None:
    params = parameters()
    optimizer, before = build(params), [p.detach().clone() for p in params]
    for group in optimizer.param_groups:
        if "weight_decay" in group:
            group["weight_decay"] = 0.0
    drive(optimizer, params, [[torch.zeros_like(p) for p in params]] * 3)
    _same(params, before, "parameter after zero gradients")


@laws.law(
    "At lr = 0 no parameter moves, whatever the state and the decay.",
    source="the update is η times a direction; with decoupled decay the schedule multiplies the decay as well",
    among=OF_OPTIMIZERS,
)
def lr_zero_freezes(build) -> None:
    params, gradients = parameters(), script()
    optimizer = build(params)
    drive(optimizer, params, gradients[:3])
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [p.detach().clone() for p in params]
    drive(optimizer, params, gradients[3:])
    _same(params, before, "parameter at a learning rate of zero")


@laws.law(
    "A LambdaLR schedule is bitwise equal to setting each step's learning rate by hand, and not to a constant one.",
    source="the contract of torch.optim.lr_scheduler: the rate is read from the group at every step",
    among=OF_OPTIMIZERS,
)
def follows_the_scheduler(build) -> None:
    params, by_hand, constant, gradients = parameters(), parameters(), parameters(), script()
    optimizer, manual = build(params), build(by_hand)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 / (1 + t))
    lr = manual.param_groups[0]["lr"]
    for t, row in enumerate(gradients):
        drive(optimizer, params, [row])
        scheduler.step()
        manual.param_groups[0]["lr"] = lr * (1 / (1 + t))
        drive(manual, by_hand, [row])
    _same(params, by_hand, "parameter under a scheduler")
    drive(build(constant), constant, gradients)
    laws.assert_differs(params[0].detach(), constant[0].detach(), by=0.0, what="a schedule against a constant rate")


@laws.law(
    "Permuted parameters under permuted gradients take permuted steps.",
    source="the update rule is written for one coordinate",
    among=OF_OPTIMIZERS,
)
def commutes_with_permutations(build) -> None:
    order = torch.tensor([4, 2, 6, 0, 1, 5, 3])
    (straight,), (start,) = parameters((7,)), parameters((7,))
    gradients = script((7,))
    permuted = nn.Parameter(start.detach()[order])
    drive(build([straight]), [straight], gradients)
    drive(build([permuted]), [permuted], [[g[order]] for (g,) in gradients])
    laws.assert_close(permuted.detach(), straight.detach()[order], what="permuted run")


@laws.law(
    "The rows of a matrix, as parameters of their own, take the steps that they take in the matrix.",
    source="the update rule is written for one coordinate: no norm or mean over a tensor",
    among=OF_OPTIMIZERS,
)
def ignores_how_parameters_are_cut(build) -> None:
    (whole,), (start,) = parameters((3, 4)), parameters((3, 4))
    gradients = script((3, 4))
    rows = [nn.Parameter(r) for r in start.detach().clone()]
    drive(build([whole]), [whole], gradients)
    drive(build(rows), rows, [list(g) for (g,) in gradients])
    laws.assert_close(torch.stack([r.detach() for r in rows]), whole.detach(), what="rows by themselves")


@laws.law(
    "Ascent along g is bitwise equal to descent along −g, decay included.",
    source="the contract of torch.optim's `maximize`",
    among=OF_OPTIMIZERS,
)
def maximize_negates(build) -> None:
    up, down, gradients = parameters(), parameters(), script()
    drive(build([{"params": up, "maximize": True}]), up, gradients)
    drive(build(down), down, [[-g for g in row] for row in gradients])
    _same(up, down, "ascent along g against descent along −g")


@laws.law(
    "float32 and bfloat16 parameters keep their dtype and stay close to the float64 run.",
    source="the contract of torch.optim; 2^-8 relative is the precision of bfloat16",
    among=OF_OPTIMIZERS,
)
def keeps_dtype(build) -> None:
    exact = run(build, parameters(), script())
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.05)):
        for a, b in zip(run(build, parameters(dtype=dtype), script(dtype=dtype)), exact):
            if a.dtype != dtype:
                raise AssertionError(f"expected {dtype} parameters to stay so, found {a.dtype}")
            why = f"{dtype} rounds every step"
            laws.assert_close(a.double(), b, rtol=tolerance, atol=tolerance, because=why, what=f"{dtype} run")


@laws.law(
    "Zero-size parameters raise nothing; a scalar steps as a vector of one element.",
    source="the contract of torch operators",
    among=OF_OPTIMIZERS,
)
def accepts_every_shape(build) -> None:
    shapes = ((0, 3), (), (2, 3))
    params = parameters(*shapes)
    drive(build(params), params, script(*shapes))
    flat = parameters(*shapes)[1].detach().reshape(1)
    single = nn.Parameter(flat.clone())
    drive(build([single]), [single], [[row[1].reshape(1)] for row in script(*shapes)])
    laws.assert_close(params[1].detach().reshape(1), single.detach(), what="a scalar parameter")


@laws.law(
    "Transposed and strided parameters and gradients step as their contiguous copies do.",
    source="the contract of torch operators; tied and transposed weights are everyday",
    among=OF_OPTIMIZERS,
)
def ignores_memory_layout(build) -> None:
    (straight,), (start,) = parameters((3, 4)), parameters((3, 4))
    gradients = script((3, 4))
    turned = nn.Parameter(start.detach().T.clone().T)
    wide = torch.zeros(3, 8, dtype=torch.float64)
    spread = nn.Parameter(wide[:, ::2].copy_(start.detach()))
    drive(build([straight]), [straight], gradients)
    drive(build([turned]), [turned], gradients)
    laws.assert_close(turned.detach(), straight.detach(), what="a transposed parameter")
    optimizer = build([spread])
    for (g,) in gradients:
        spread.grad = torch.stack([g, torch.full_like(g, 7)], dim=-1)[..., 0]
        optimizer.step()
    laws.assert_close(spread.detach(), straight.detach(), what="a strided parameter")


@laws.law(
    "A step does not write into the gradients, nor keep their memory or the parameters' as its state.",
    source="the contract of torch.optim; gradients are accumulated and clipped by others",
    among=OF_OPTIMIZERS,
)
def leaves_gradients_alone(build) -> None:
    for maximize in (False, True):
        params, (row, *_) = parameters(), script()
        optimizer = build(params)
        for group in optimizer.param_groups:
            if "maximize" in group:
                group["maximize"] = maximize
        drive(optimizer, params, [row])
        _same([p.grad for p in params], row, "gradient after the step")
        taken = {t.data_ptr() for p in params for t in (p, p.grad)}
        for t in state_tensors(optimizer):
            if t.data_ptr() in taken:
                raise AssertionError("expected state in memory of its own, found a parameter's or a gradient's")


@laws.law(
    "Gradients with a graph (create_graph=True) leave the parameters leaves and the state without gradient.",
    source="the contract of torch.optim: a step is no part of the computation that is differentiated",
    among=OF_OPTIMIZERS,
)
def holds_no_graph(build) -> None:
    (parameter,) = parameters((3,))
    optimizer = build([parameter])
    for _ in range(2):
        (gradient,) = torch.autograd.grad((parameter**3).sum(), parameter, create_graph=True)
        parameter.grad = gradient
        optimizer.step()
        parameter.grad = None
    if not (parameter.is_leaf and parameter.requires_grad):
        raise AssertionError("expected a leaf that requires gradient after the step, found none")
    if any(t.requires_grad for t in state_tensors(optimizer)):
        raise AssertionError("expected a state outside the graph, found one that requires gradient")


@laws.law(
    "An optimizer that is dropped with its parameters is freed at once, with gradients and state.",
    source="CPython's reference counts; a cycle holds a model's worth of memory until some later collection",
    among=OF_OPTIMIZERS,
)
def holds_no_cycles(build) -> None:
    params = parameters()
    drive(build(params), params, script())  # what the first step imports is not its cycle
    enabled = gc.isenabled()
    gc.disable()
    try:
        params = parameters()
        optimizer = build(params)
        drive(optimizer, params, script())
        watched = [weakref.ref(t) for t in (*params, *(p.grad for p in params), *state_tensors(optimizer))]
        del params, optimizer
        alive = sum(r() is not None for r in watched)
    finally:
        if enabled:
            gc.enable()
    if alive:
        raise AssertionError(f"expected nothing alive after the optimizer, found {alive} of {len(watched)} tensors")


@laws.law(
    "A backward pass that needs weights which a step has changed raises.",
    source="torch's version counters; writing through `.data` would give silently wrong gradients",
    among=OF_OPTIMIZERS,
)
def autograd_notices_steps(build) -> None:
    (parameter,) = parameters((3,))
    loss = (parameter**2).sum()
    drive(build([parameter]), [parameter], script((3,), steps=1))
    try:
        loss.backward()
    except RuntimeError:
        return
    raise AssertionError("expected an error from a backward pass with overtaken weights, found none")


@laws.law(
    "A group added in mid-run steps as a fresh optimizer's does and disturbs no other.",
    source="the contract of Optimizer.add_param_group; layers are unfrozen one by one",
    among=OF_OPTIMIZERS,
)
def accepts_new_groups(build) -> None:
    params, gradients = parameters(), script()
    optimizer = build(params[:1])
    drive(optimizer, params[:1], [row[:1] for row in gradients[:3]])
    optimizer.add_param_group({"params": params[1:]})
    drive(optimizer, params, gradients[3:])
    first, second = parameters()[:1], parameters()[1:]
    drive(build(first), first, [row[:1] for row in gradients])
    drive(build(second), second, [row[1:] for row in gradients[3:]])
    _same(params, first + second, "parameter")


@laws.law(
    "A step leaves the global random generator untouched.",
    source="the update rule is deterministic",
    among=OF_OPTIMIZERS,
)
def uses_no_randomness(build) -> None:
    params = parameters()
    optimizer, before = build(params), torch.get_rng_state()
    drive(optimizer, params, script())
    if not torch.equal(torch.get_rng_state(), before):
        raise AssertionError("expected the global generator untouched, found that it moved")


@laws.law(
    "The state after six steps holds as many elements as after one.",
    source="the update rule is a recursion over a fixed state",
    among=OF_OPTIMIZERS,
)
def state_stays_small(build) -> None:
    params, gradients = parameters(), script()
    optimizer = build(params)
    drive(optimizer, params, gradients[:1])
    first = sum(t.numel() for t in state_tensors(optimizer))
    drive(optimizer, params, gradients[1:])
    last = sum(t.numel() for t in state_tensors(optimizer))
    if last > first:
        raise AssertionError(f"expected a state of {first} elements as after one step, found {last}")


@laws.law(
    "State of a parameter's shape has the parameter's dtype, float64 and bfloat16.",
    source="the contract of torch.optim",
    among=OF_OPTIMIZERS,
    exempted_as="state_lives_with_parameters",
)
def state_has_the_dtype(build) -> None:
    _state_lives_with_parameters(build, "cpu")


@laws.law(
    "State of a parameter's shape is on the parameter's device; a step runs on device=\"meta\".",
    source="the contract of torch.optim: models move to a device before the optimizer sees them",
    among=OF_OPTIMIZERS,
    exempted_as="state_lives_with_parameters",
    asked_of=("impl", "fast"),
)
def state_is_on_the_device(build) -> None:
    _state_lives_with_parameters(build, "meta")


def _state_lives_with_parameters(build, device: str) -> None:
    """State of a parameter's shape is on the parameter's device and has its dtype."""
    for dtype in (torch.float64, torch.bfloat16):
        parameter = nn.Parameter(torch.ones(2, 3, device=device, dtype=dtype))
        parameter.grad = torch.ones_like(parameter)
        optimizer = build([parameter])
        optimizer.step()
        for t in state_tensors(optimizer, parameter):
            if t.shape == parameter.shape and (t.device, t.dtype) != (parameter.device, dtype):
                raise AssertionError(f"expected state on {parameter.device} in {dtype}, found {t.device}, {t.dtype}")


@laws.law(
    "A learning rate in a tensor of one element steps as the number does, under a scheduler and refilled by hand.",
    source="the contract of torch.optim, whose constructors take `lr: float | Tensor`",
    among=OF_OPTIMIZERS,
)
def learning_rate_may_be_a_tensor(build) -> None:
    lr = build(parameters()).defaults["lr"]
    for shape in ((), (1,)):
        params, expected, gradients = parameters(), parameters(), script()
        rate = torch.full(shape, 2.0 * lr, dtype=torch.float64)
        optimizer, plain = build([{"params": params, "lr": rate}]), build([{"params": expected, "lr": 2.0 * lr}])
        schedulers = [torch.optim.lr_scheduler.LambdaLR(o, lambda t: 1 / (1 + t)) for o in (optimizer, plain)]
        for row in gradients[:3]:
            drive(optimizer, params, [row])
            drive(plain, expected, [row])
            for scheduler in schedulers:
                scheduler.step()
        optimizer.param_groups[0]["lr"].fill_(0.5 * lr)
        plain.param_groups[0]["lr"] = 0.5 * lr
        drive(optimizer, params, gradients[3:])
        drive(plain, expected, gradients[3:])
        for a, b in zip(params, expected):
            laws.assert_close(a.detach(), b.detach(), what=f"parameter under a learning rate of shape {shape}")


@laws.law(
    "A state dict without the flags that are off, as older versions wrote it, with integer counts, is continued.",
    source="the contract of Optimizer.load_state_dict: torch.optim fills in `maximize` and others, and converts `step`",
    among=OF_OPTIMIZERS,
)
def loads_an_older_state(build) -> None:
    params, gradients = parameters(), script()
    optimizer = build(params)
    drive(optimizer, params, gradients[:3])
    saved = copy.deepcopy(optimizer.state_dict())
    for group in saved["param_groups"]:
        for name in [name for name, value in group.items() if value is False or value is None]:
            del group[name]
    for entry in saved["state"].values():
        if "step" in entry:
            entry["step"] = int(entry["step"])
    resumed = [nn.Parameter(p.detach().clone()) for p in params]
    second = build(resumed)
    second.load_state_dict(saved)
    drive(optimizer, params, gradients[3:])
    drive(second, resumed, gradients[3:])
    _same(resumed, params, "parameter after loading an older state")


# ---------------------------------------------------------------------------------------------- next to torch.optim


@laws.law(
    "After 1, 6 and 20 scripted steps of two groups, up and down, parameters and state are torch's to 1e-12.",
    source="the optimizer of the same name in torch.optim; names and contents of its state",
    among=OF_OPTIMIZERS,
    needs="library",
)
def agrees_with_torch(build, library) -> None:
    for steps, maximize in itertools.product((1, 6, 20), (False, True)):
        ours, theirs, gradients = parameters(), parameters(), script(steps=steps)
        common = {"maximize": maximize}
        found, expected = (
            make([{"params": p[:1], "weight_decay": 0.2, **common}, {"params": p[1:], "lr": 0.05, **common}])
            for make, p in ((build, ours), (library, theirs))
        )
        drive(found, ours, gradients)
        drive(expected, theirs, gradients)
        _agree(found, ours, expected, theirs)


@laws.law(
    "Every setting has the default of torch's constructor, and ten steps without any setting agree.",
    source="the defaults of the optimizer of the same name in torch.optim",
    among=OF_OPTIMIZERS,
    needs="library",
)
def defaults_are_torchs(build, library) -> None:
    ours, theirs, gradients = parameters(), parameters(), script(steps=10)
    found, expected = (type(make(parameters()))(p) for make, p in ((build, ours), (library, theirs)))
    for name in _common_settings(build, library):
        if found.defaults[name] != expected.defaults[name]:
            raise AssertionError(
                f"expected torch's default {name} = {expected.defaults[name]}, found {found.defaults[name]}"
            )
    drive(found, ours, gradients)
    drive(expected, theirs, gradients)
    _agree(found, ours, expected, theirs)


@laws.law(
    "Each number among the settings may be zero, and nine steps then agree with torch's.",
    source="the update rules, whose limits these are: no motion, no memory, no ε, no decay; η = 0 ends a schedule",
    among=OF_OPTIMIZERS,
    needs="library",
)
def zero_is_a_setting(build, library) -> None:
    settings = {name: library(parameters()).defaults[name] for name in _common_settings(build, library)}
    numbers = {n: v for n, v in settings.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    changes = [{name: 0.0} for name in numbers]
    if "betas" in settings:
        changes += [{"betas": (0.0, settings["betas"][1])}, {"betas": (settings["betas"][0], 0.0)}]
    for change in changes:
        ours, theirs, gradients = parameters(), parameters(), script(steps=9)
        found, expected = (
            type(make(parameters()))(p, **settings | change) for make, p in ((build, ours), (library, theirs))
        )
        drive(found, ours, gradients)
        drive(expected, theirs, gradients)
        _agree(found, ours, expected, theirs)


@laws.law(
    "A state dict of ours continues in torch's optimizer, and torch's in ours, as if nothing had happened.",
    source="the contract of Optimizer.load_state_dict",
    among=OF_OPTIMIZERS,
    needs="library",
)
def trades_states_with_torch(build, library) -> None:
    for source, target in ((build, library), (library, build)):
        params, gradients = parameters(), script(steps=9)
        first = source(params)
        drive(first, params, gradients[:3])
        saved = copy.deepcopy(first.state_dict())  # torch's loading shares memory
        for entry in saved["state"].values():
            entry.setdefault("step", torch.tensor(3.0))  # torch wants a count even where the rule has none
        moved = [nn.Parameter(p.detach().clone()) for p in params]
        second = type(target(parameters()))(moved)
        second.load_state_dict(saved)
        drive(first, params, gradients[3:])
        drive(second, moved, gradients[3:])
        _agree(second, moved, first, params)


def _common_settings(build, library) -> list[str]:
    """The names that both constructors have, but for the parameters."""
    ours, theirs = (inspect.signature(type(make(parameters()))).parameters for make in (build, library))
    return [name for name in theirs if name in ours and name != "params"]


def _agree(found, params, expected, others) -> None:
    for a, b in zip(params, others, strict=True):
        laws.assert_close(a.detach(), b.detach(), rtol=1e-12, atol=1e-12, what="parameter")
        for name, value in expected.state[b].items():
            if isinstance(value, Tensor) and value.shape == b.shape:
                laws.assert_close(found.state[a].get(name), value, rtol=1e-12, atol=1e-12, what=name)


# ---------------------------------------------------------------------------------------------- from scratch


@laws.law(
    "The source imports torch and names no ready-made optimizer but the base class.",
    source="this project: tensors, elementary functions and the base class Optimizer are given",
    among=OF_OPTIMIZERS,
    exempted_as="from_scratch",
    own_code=True,
)
def source_is_from_scratch(build) -> None:
    scratch.source_is_from_scratch(type(build(parameters())).__module__)


@laws.law(
    "No ATen operator of a step is a fused optimizer kernel.",
    source="this project: tensors, elementary functions and the base class Optimizer are given",
    among=OF_OPTIMIZERS,
    exempted_as="from_scratch",
    own_code=True,
)
def dispatch_is_from_scratch(build) -> None:
    params = parameters()
    found = {name for name in cost.operators(run, build, params, script()) if _fused(name)}
    if found:
        raise AssertionError(f"expected elementary operators only, found {', '.join(sorted(found))}")


def _fused(name: str) -> bool:
    return scratch.explains_itself(name.rpartition("::")[2])
