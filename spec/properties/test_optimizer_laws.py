"""The laws of every optimizer, run on every record of spec/cases: what no item needs to repeat."""

import pytest

from spec import laws, optimizer_laws, scratch
from spec.cases import all_optimizer_cases


def of_each(law: str):
    """Parametrize over all optimizers that the law applies to, each spec marked with its item."""
    chosen = [c for c in all_optimizer_cases() if law not in c.exempt]
    return pytest.mark.parametrize(
        "case", [pytest.param(c, id=f"{c.item}:{c.name}", marks=pytest.mark.item(c.item)) for c in chosen]
    )


@of_each("settings_belong_to_groups")
def test_settings_belong_to_their_group(case):
    """Two groups with different settings step exactly as two optimizers do, and every setting matters.

    Source: the contract of torch.optim's parameter groups.
    """
    optimizer_laws.settings_belong_to_groups(case.build)


@of_each("late_parameters_start_fresh")
def test_a_late_parameter_starts_fresh(case):
    """A parameter without a gradient gets no state from a step; its first gradient is its own first step.

    Source: the contract of torch.optim: `grad is None` means absent, not zero.
    """
    optimizer_laws.late_parameters_start_fresh(case.build)


@of_each("pauses_without_gradient")
def test_a_parameter_without_gradient_is_unchanged(case):
    """While its gradient is None a parameter keeps value and state, and then goes on as if there had been no pause.

    Source: the contract of torch.optim; frozen layers and unused experts must neither decay nor age.
    """
    optimizer_laws.pauses_without_gradient(case.build)


@of_each("nothing_to_do")
def test_a_step_without_gradients_does_nothing(case):
    """With no gradient at all a step changes nothing, raises nothing and returns None.

    Source: the contract of torch.optim.
    """
    optimizer_laws.nothing_to_do(case.build)


@of_each("resumes_exactly")
def test_a_resumed_run_is_the_uninterrupted_run(case):
    """A run saved after three steps and loaded with weights_only into a fresh optimizer continues bitwise equal.

    Source: the contract of Optimizer.state_dict; long runs are interrupted.
    """
    optimizer_laws.resumes_exactly(case.build)


@of_each("deepcopy_independent")
def test_a_deep_copy_goes_its_own_way(case):
    """A deep copy of parameters and optimizer continues bitwise equal and leaves the original untouched.

    Source: the contract of copy.deepcopy.
    """
    optimizer_laws.deepcopy_independent(case.build)


@of_each("runs_the_closure")
def test_the_closure_is_run_and_its_loss_returned(case):
    """step(closure) runs the closure once with gradients enabled, steps with them, and returns its loss.

    Source: the contract of torch.optim.Optimizer.step.
    """
    optimizer_laws.runs_the_closure(case.build)


@of_each("zero_gradients_change_nothing")
def test_zero_gradients_leave_parameters(case):
    """Without decay, parameters whose gradients were always zero stay exactly as they are.

    Source: every update rule here is a function of the gradients seen that is zero at zero.
    """
    optimizer_laws.zero_gradients_change_nothing(case.build)


@of_each("lr_zero_freezes")
def test_a_learning_rate_of_zero_freezes(case):
    """At lr = 0 no parameter moves, whatever the state and the decay.

    Source: the update is η times a direction; with decoupled decay the schedule multiplies the decay as well.
    """
    optimizer_laws.lr_zero_freezes(case.build)


@of_each("follows_the_scheduler")
def test_a_scheduler_steers_it(case):
    """A LambdaLR schedule is bitwise equal to setting each step's learning rate by hand, and not to a constant one.

    Source: the contract of torch.optim.lr_scheduler: the rate is read from the group at every step.
    """
    optimizer_laws.follows_the_scheduler(case.build)


@of_each("commutes_with_permutations")
def test_coordinates_have_no_order(case):
    """Permuted parameters under permuted gradients take permuted steps.

    Source: the update rule is written for one coordinate.
    """
    optimizer_laws.commutes_with_permutations(case.build)


@of_each("ignores_how_parameters_are_cut")
def test_coordinates_do_not_see_each_other(case):
    """The rows of a matrix, as parameters of their own, take the steps that they take in the matrix.

    Source: the update rule is written for one coordinate: no norm or mean over a tensor.
    """
    optimizer_laws.ignores_how_parameters_are_cut(case.build)


@of_each("maximize_negates")
def test_maximize_descends_along_the_negative_gradient(case):
    """Ascent along g is bitwise equal to descent along −g, decay included.

    Source: the contract of torch.optim's `maximize`.
    """
    optimizer_laws.maximize_negates(case.build)


@of_each("keeps_dtype")
def test_dtype_is_kept(case):
    """float32 and bfloat16 parameters keep their dtype and stay close to the float64 run.

    Source: the contract of torch.optim; 2^-8 relative is the precision of bfloat16.
    """
    optimizer_laws.keeps_dtype(case.build)


@of_each("accepts_every_shape")
def test_empty_and_scalar_parameters_are_parameters(case):
    """Zero-size parameters raise nothing; a scalar steps as a vector of one element.

    Source: the contract of torch operators.
    """
    optimizer_laws.accepts_every_shape(case.build)


@of_each("ignores_memory_layout")
def test_memory_layout_is_no_information(case):
    """Transposed and strided parameters and gradients step as their contiguous copies do.

    Source: the contract of torch operators; tied and transposed weights are everyday.
    """
    optimizer_laws.ignores_memory_layout(case.build)


@of_each("leaves_gradients_alone")
def test_gradients_are_only_read(case):
    """A step does not write into the gradients, nor keep their memory or the parameters' as its state.

    Source: the contract of torch.optim; gradients are accumulated and clipped by others.
    """
    optimizer_laws.leaves_gradients_alone(case.build)


@of_each("holds_no_graph")
def test_no_graph_is_held(case):
    """Gradients with a graph (create_graph=True) leave the parameters leaves and the state without gradient.

    Source: the contract of torch.optim: a step is no part of the computation that is differentiated.
    """
    optimizer_laws.holds_no_graph(case.build)


@of_each("holds_no_cycles")
def test_no_cycle_keeps_memory_alive(case):
    """An optimizer that is dropped with its parameters is freed at once, with gradients and state.

    Source: CPython's reference counts; a cycle holds a model's worth of memory until some later collection.
    """
    optimizer_laws.holds_no_cycles(case.build)


@of_each("autograd_notices_steps")
def test_autograd_notices_a_step(case):
    """A backward pass that needs weights which a step has changed raises.

    Source: torch's version counters; writing through `.data` would give silently wrong gradients.
    """
    optimizer_laws.autograd_notices_steps(case.build)


@of_each("accepts_new_groups")
def test_groups_may_join_later(case):
    """A group added in mid-run steps as a fresh optimizer's does and disturbs no other.

    Source: the contract of Optimizer.add_param_group; layers are unfrozen one by one.
    """
    optimizer_laws.accepts_new_groups(case.build)


@of_each("uses_no_randomness")
def test_a_step_uses_no_randomness(case):
    """A step leaves the global random generator untouched.

    Source: the update rule is deterministic.
    """
    optimizer_laws.uses_no_randomness(case.build)


@of_each("state_stays_small")
def test_the_state_does_not_grow(case):
    """The state after six steps holds as many elements as after one.

    Source: the update rule is a recursion over a fixed state.
    """
    optimizer_laws.state_stays_small(case.build)


@of_each("state_lives_with_parameters")
def test_the_state_has_the_dtype_of_the_parameter(case):
    """State of a parameter's shape has the parameter's dtype, float64 and bfloat16.

    Source: the contract of torch.optim.
    """
    optimizer_laws.state_lives_with_parameters(case.build, "cpu")


@pytest.mark.project_convention
@of_each("state_lives_with_parameters")
def test_the_state_is_on_the_device_of_the_parameter(case):
    """State of a parameter's shape is on the parameter's device; a step runs on device="meta".

    Source: the contract of torch.optim: models move to a device before the optimizer sees them.
    Convention: no branch on values, which "meta" does not have; a peer may need one.
    """
    optimizer_laws.state_lives_with_parameters(case.build, "meta")


@of_each("learning_rate_may_be_a_tensor")
def test_the_learning_rate_may_be_a_tensor(case):
    """A learning rate in a tensor of one element steps as the number does, under a scheduler and refilled by hand.

    Source: the contract of torch.optim, whose constructors take `lr: float | Tensor`.
    """
    optimizer_laws.learning_rate_may_be_a_tensor(case.build)


@of_each("loads_an_older_state")
def test_an_older_state_is_continued(case):
    """A state dict without the flags that are off, as older versions wrote it, with integer counts, is continued.

    Source: the contract of Optimizer.load_state_dict: torch.optim fills in `maximize` and others, and converts `step`.
    """
    optimizer_laws.loads_an_older_state(case.build)


@pytest.mark.parametrize("steps", [1, 6, 20])
@of_each("agrees_with_torch")
def test_agrees_with_torch(case, steps):
    """After 1, 6 and 20 scripted steps of two groups, up and down, parameters and state are torch's to 1e-12.

    Convention: the optimizer of the same name in torch.optim; names and contents of its state.
    """
    optimizer_laws.agrees_with_torch(case.build, case.library, steps)


@of_each("defaults_are_torchs")
def test_the_defaults_are_torchs(case):
    """Every setting has the default of torch's constructor, and ten steps without any setting agree.

    Convention: the defaults of the optimizer of the same name in torch.optim.
    """
    optimizer_laws.defaults_are_torchs(case.build, case.library)


@of_each("zero_is_a_setting")
def test_zero_is_a_setting(case):
    """Each number among the settings may be zero, and nine steps then agree with torch's.

    Source: the update rules, whose limits these are: no motion, no memory, no ε, no decay; η = 0 ends a schedule.
    """
    optimizer_laws.zero_is_a_setting(case.build, case.library)


@of_each("trades_states_with_torch")
def test_a_run_moves_to_torch_and_back(case):
    """A state dict of ours continues in torch's optimizer, and torch's in ours, as if nothing had happened.

    Source: the contract of Optimizer.load_state_dict.  Convention: names of state and settings are torch.optim's.
    """
    optimizer_laws.trades_states_with_torch(case.build, case.library)


@pytest.mark.project_convention
@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(bad, id=f"{case.item}:{case.name}:{why}", marks=pytest.mark.item(case.item))
        for case in all_optimizer_cases()
        for why, bad in case.bad.items()
    ],
)
def test_bad_setting_is_named(bad):
    """A bad setting or gradient raises ValueError or TypeError that says what was expected and what came.

    Convention: the wording is this project's; other libraries raise other errors, so peers are not asked.
    """
    laws.rejects(bad.call, bad.mentions)


@pytest.mark.project_convention
@of_each("from_scratch")
def test_source_is_from_scratch(case):
    """The source imports torch and names no ready-made optimizer but the base class.

    Convention: tensors, elementary functions and the base class Optimizer are given; peers are not asked.
    """
    scratch.source_is_from_scratch(type(case.build(optimizer_laws.parameters())).__module__)


@pytest.mark.project_convention
@of_each("from_scratch")
def test_dispatch_is_from_scratch(case):
    """No ATen operator of a step is a fused optimizer kernel.

    Convention: tensors, elementary functions and the base class Optimizer are given; peers are not asked.
    """
    optimizer_laws.dispatch_is_from_scratch(case.build)
