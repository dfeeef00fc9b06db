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
import weakref

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from spec import cost, laws, scratch

SHAPES = ((2, 3), (4,))
START = (2.0, -0.5, 0.25)
STEPS = 6
MAGNITUDES = (1e-5, 1e-3, 0.1, 0.5, 1.0, 5.0)


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


def settings_belong_to_groups(build) -> None:
    """Every numeric setting of a group is its own: two groups step as two optimizers, and the setting matters."""
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


def late_parameters_start_fresh(build) -> None:
    """A parameter without a gradient, and what state it was built with, is untouched; its first is its own step 1."""
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


def pauses_without_gradient(build) -> None:
    """While a parameter's gradient is None, it and its state are unchanged, its decay included; then it goes on."""
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


def nothing_to_do(build) -> None:
    """No gradient at all: a step changes nothing and raises nothing."""
    params = parameters()
    optimizer, before = build(params), [p.detach().clone() for p in params]
    built_with = [t.clone() for t in state_tensors(optimizer)]
    if optimizer.step() is not None:
        raise AssertionError("expected None from a step without a closure")
    _same(params, before, "parameter")
    if len(state_tensors(optimizer)) > len(built_with):
        raise AssertionError("expected no new state before the first gradient, found some")
    _same(state_tensors(optimizer), built_with, "state before the first gradient")


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


def deepcopy_independent(build) -> None:
    """A deep copy of parameters and optimizer continues by itself, bitwise equal, and leaves the original."""
    params, gradients = parameters(), script()
    optimizer = build(params)
    drive(optimizer, params, gradients[:3])
    copies, copied = copy.deepcopy((params, optimizer))
    before = [p.detach().clone() for p in params]
    drive(copied, copies, gradients[3:])
    _same(params, before, "original while its copy steps")
    drive(optimizer, params, gradients[3:])
    _same(copies, params, "copy")


def runs_the_closure(build) -> None:
    """`step(closure)` runs the closure with gradients enabled, steps with what it left, and returns its loss."""
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


def zero_gradients_change_nothing(build) -> None:
    """Without weight decay, gradients that have always been zero leave the parameters as they were."""
    params = parameters()
    optimizer, before = build(params), [p.detach().clone() for p in params]
    for group in optimizer.param_groups:
        if "weight_decay" in group:
            group["weight_decay"] = 0.0
    drive(optimizer, params, [[torch.zeros_like(p) for p in params]] * 3)
    _same(params, before, "parameter after zero gradients")


def lr_zero_freezes(build) -> None:
    """At a learning rate of zero nothing moves: a schedule that ends at zero stops the decay too."""
    params, gradients = parameters(), script()
    optimizer = build(params)
    drive(optimizer, params, gradients[:3])
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [p.detach().clone() for p in params]
    drive(optimizer, params, gradients[3:])
    _same(params, before, "parameter at a learning rate of zero")


def follows_the_scheduler(build) -> None:
    """A scheduler of torch.optim.lr_scheduler steers it as setting each step's learning rate by hand does."""
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


def commutes_with_permutations(build) -> None:
    """Coordinates have no order: permuted parameters under permuted gradients take permuted steps."""
    order = torch.tensor([4, 2, 6, 0, 1, 5, 3])
    (straight,), (start,) = parameters((7,)), parameters((7,))
    gradients = script((7,))
    permuted = nn.Parameter(start.detach()[order])
    drive(build([straight]), [straight], gradients)
    drive(build([permuted]), [permuted], [[g[order]] for (g,) in gradients])
    laws.assert_close(permuted.detach(), straight.detach()[order], what="permuted run")


def ignores_how_parameters_are_cut(build) -> None:
    """Each coordinate is by itself: rows that are parameters of their own step as in one matrix."""
    (whole,), (start,) = parameters((3, 4)), parameters((3, 4))
    gradients = script((3, 4))
    rows = [nn.Parameter(r) for r in start.detach().clone()]
    drive(build([whole]), [whole], gradients)
    drive(build(rows), rows, [list(g) for (g,) in gradients])
    laws.assert_close(torch.stack([r.detach() for r in rows]), whole.detach(), what="rows by themselves")


def maximize_negates(build) -> None:
    """To ascend along g is to descend along −g."""
    up, down, gradients = parameters(), parameters(), script()
    drive(build([{"params": up, "maximize": True}]), up, gradients)
    drive(build(down), down, [[-g for g in row] for row in gradients])
    _same(up, down, "ascent along g against descent along −g")


def keeps_dtype(build) -> None:
    """Parameters keep float64, float32 and bfloat16; the narrow runs stay close to the wide one."""
    exact = run(build, parameters(), script())
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.05)):
        for a, b in zip(run(build, parameters(dtype=dtype), script(dtype=dtype)), exact):
            if a.dtype != dtype:
                raise AssertionError(f"expected {dtype} parameters to stay so, found {a.dtype}")
            why = f"{dtype} rounds every step"
            laws.assert_close(a.double(), b, rtol=tolerance, atol=tolerance, because=why, what=f"{dtype} run")


def accepts_every_shape(build) -> None:
    """Zero-size parameters and scalars are parameters."""
    shapes = ((0, 3), (), (2, 3))
    params = parameters(*shapes)
    drive(build(params), params, script(*shapes))
    flat = parameters(*shapes)[1].detach().reshape(1)
    single = nn.Parameter(flat.clone())
    drive(build([single]), [single], [[row[1].reshape(1)] for row in script(*shapes)])
    laws.assert_close(params[1].detach().reshape(1), single.detach(), what="a scalar parameter")


def ignores_memory_layout(build) -> None:
    """Transposed, strided and expanded parameters and gradients step as their contiguous copies."""
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


def leaves_gradients_alone(build) -> None:
    """A step neither writes into the gradients nor keeps their memory, nor the parameters', as its state."""
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


def holds_no_graph(build) -> None:
    """Gradients that carry a graph leave leaves as leaves and a state that needs no gradient."""
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


def holds_no_cycles(build) -> None:
    """Dropped, an optimizer and its parameters are freed at once, without the garbage collector."""
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


def autograd_notices_steps(build) -> None:
    """A backward pass through a graph that a step has overtaken raises, instead of using the new weights."""
    (parameter,) = parameters((3,))
    loss = (parameter**2).sum()
    drive(build([parameter]), [parameter], script((3,), steps=1))
    try:
        loss.backward()
    except RuntimeError:
        return
    raise AssertionError("expected an error from a backward pass with overtaken weights, found none")


def accepts_new_groups(build) -> None:
    """A group added in mid-run steps as a fresh optimizer's, and disturbs nobody."""
    params, gradients = parameters(), script()
    optimizer = build(params[:1])
    drive(optimizer, params[:1], [row[:1] for row in gradients[:3]])
    optimizer.add_param_group({"params": params[1:]})
    drive(optimizer, params, gradients[3:])
    first, second = parameters()[:1], parameters()[1:]
    drive(build(first), first, [row[:1] for row in gradients])
    drive(build(second), second, [row[1:] for row in gradients[3:]])
    _same(params, first + second, "parameter")


def uses_no_randomness(build) -> None:
    """A step leaves the global random generator where it was."""
    params = parameters()
    optimizer, before = build(params), torch.get_rng_state()
    drive(optimizer, params, script())
    if not torch.equal(torch.get_rng_state(), before):
        raise AssertionError("expected the global generator untouched, found that it moved")


def state_stays_small(build) -> None:
    """The state after six steps is no larger than after one."""
    params, gradients = parameters(), script()
    optimizer = build(params)
    drive(optimizer, params, gradients[:1])
    first = sum(t.numel() for t in state_tensors(optimizer))
    drive(optimizer, params, gradients[1:])
    last = sum(t.numel() for t in state_tensors(optimizer))
    if last > first:
        raise AssertionError(f"expected a state of {first} elements as after one step, found {last}")


def state_lives_with_parameters(build, device: str) -> None:
    """State of a parameter's shape is on the parameter's device and has its dtype."""
    for dtype in (torch.float64, torch.bfloat16):
        parameter = nn.Parameter(torch.ones(2, 3, device=device, dtype=dtype))
        parameter.grad = torch.ones_like(parameter)
        optimizer = build([parameter])
        optimizer.step()
        for t in state_tensors(optimizer, parameter):
            if t.shape == parameter.shape and (t.device, t.dtype) != (parameter.device, dtype):
                raise AssertionError(f"expected state on {parameter.device} in {dtype}, found {t.device}, {t.dtype}")


def learning_rate_may_be_a_tensor(build) -> None:
    """A learning rate in a tensor of one element steps as the number does, follows a scheduler, and may be refilled."""
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


def loads_an_older_state(build) -> None:
    """A state dict of an older version, which lacks every flag that is off and counts in integers, is continued."""
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


def agrees_with_torch(build, library, steps: int) -> None:
    """Two groups, descending and ascending, are after `steps` scripted steps where torch's are, state included."""
    for maximize in (False, True):
        ours, theirs, gradients = parameters(), parameters(), script(steps=steps)
        common = {"maximize": maximize}
        found, expected = (
            make([{"params": p[:1], "weight_decay": 0.2, **common}, {"params": p[1:], "lr": 0.05, **common}])
            for make, p in ((build, ours), (library, theirs))
        )
        drive(found, ours, gradients)
        drive(expected, theirs, gradients)
        _agree(found, ours, expected, theirs)


def defaults_are_torchs(build, library) -> None:
    """Every setting that both constructors name has torch's default, and ten steps without any setting agree."""
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


def zero_is_a_setting(build, library) -> None:
    """Any number among the settings may be zero, each β by itself too, and the run is then torch's."""
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


def trades_states_with_torch(build, library) -> None:
    """A state dict of ours continues in torch's optimizer and one of torch's in ours, each made without settings."""
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


def dispatch_is_from_scratch(build) -> None:
    """No operator that a step dispatches is a fused kernel of what the item explains."""
    params = parameters()
    found = {name for name in cost.operators(run, build, params, script()) if _fused(name)}
    if found:
        raise AssertionError(f"expected elementary operators only, found {', '.join(sorted(found))}")


def _fused(name: str) -> bool:
    return scratch.explains_itself(name.rpartition("::")[2])
