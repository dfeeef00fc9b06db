"""The laws of every optimizer, run on every record of spec/cases: what no item needs to say again."""

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
    """Two groups with different settings step bit for bit as two optimizers, and every setting matters.

    Source: the contract of torch.optim's parameter groups.
    """
    optimizer_laws.settings_belong_to_groups(case.build)


@of_each("late_parameters_start_fresh")
def test_a_late_parameter_starts_fresh(case):
    """A parameter without a gradient gets no state from a step; its first gradient is its own first step.

    Source: the contract of torch.optim: `grad is None` means absent, not zero.
    """
    optimizer_laws.late_parameters_start_fresh(case.build)


@of_each("rests_without_gradient")
def test_a_parameter_without_gradient_rests(case):
    """While its gradient is None a parameter keeps value and state, and then goes on as if there had been no pause.

    Source: the contract of torch.optim; frozen layers and unused experts must neither decay nor age.
    """
    optimizer_laws.rests_without_gradient(case.build)


@of_each("nothing_to_do")
def test_a_step_without_gradients_does_nothing(case):
    """With no gradient at all a step changes nothing, raises nothing and returns None.

    Source: the contract of torch.optim.
    """
    optimizer_laws.nothing_to_do(case.build)


@of_each("resumes_bit_for_bit")
def test_a_resumed_run_is_the_uninterrupted_run(case):
    """Saved after three steps and loaded with weights_only into a fresh optimizer, the run goes on bit for bit.

    Source: the contract of Optimizer.state_dict; long runs are interrupted.
    """
    optimizer_laws.resumes_bit_for_bit(case.build)


@of_each("deepcopy_independent")
def test_a_deep_copy_goes_its_own_way(case):
    """A deep copy of parameters and optimizer continues with the same bits and leaves the original untouched.

    Source: the contract of copy.deepcopy.
    """
    optimizer_laws.deepcopy_independent(case.build)


@of_each("runs_the_closure")
def test_the_closure_is_run_and_its_loss_returned(case):
    """step(closure) runs the closure once with gradients enabled, steps with them, and returns its loss.

    Source: the contract of torch.optim.Optimizer.step.
    """
    optimizer_laws.runs_the_closure(case.build)


@of_each("zero_gradients_rest")
def test_zero_gradients_leave_parameters(case):
    """Without decay, parameters whose gradients were always zero stay as they are, bit for bit.

    Source: every update rule here is a function of the gradients seen that is zero at zero.
    """
    optimizer_laws.zero_gradients_rest(case.build)


@of_each("lr_zero_freezes")
def test_a_learning_rate_of_zero_freezes(case):
    """At lr = 0 no parameter moves, whatever the state and the decay.

    Source: the update is η times a direction; with decoupled decay the schedule multiplies the decay as well.
    """
    optimizer_laws.lr_zero_freezes(case.build)


@of_each("follows_the_scheduler")
def test_a_scheduler_steers_it(case):
    """A LambdaLR schedule gives the bits of setting each step's learning rate by hand, and not those of a constant one.

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
    """The rows of a matrix, as parameters of their own, step as in the matrix.

    Source: the update rule is written for one coordinate: no norm or mean over a tensor.
    """
    optimizer_laws.ignores_how_parameters_are_cut(case.build)


@of_each("maximize_negates")
def test_maximize_descends_along_the_negative_gradient(case):
    """Ascent along g is descent along −g, bit for bit, decay included.

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


@of_each("layout_is_no_information")
def test_memory_layout_is_no_information(case):
    """Transposed and strided parameters and gradients step as their contiguous copies.

    Source: the contract of torch operators; tied and transposed weights are everyday.
    """
    optimizer_laws.layout_is_no_information(case.build)


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
    """Dropped, optimizer, parameters, gradients and state are freed at once.

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
    """A group added in mid-run steps as a fresh optimizer's and disturbs no other.

    Source: the contract of Optimizer.add_param_group; layers are unfrozen one by one.
    """
    optimizer_laws.accepts_new_groups(case.build)


@of_each("draws_nothing")
def test_a_step_draws_no_random_numbers(case):
    """The global random generator is not touched.

    Source: the update rule is deterministic.
    """
    optimizer_laws.draws_nothing(case.build)


@of_each("state_stays_small")
def test_the_state_does_not_grow(case):
    """The state after six steps holds as many numbers as after one.

    Source: the update rule is a recursion over a fixed state.
    """
    optimizer_laws.state_stays_small(case.build)


@of_each("state_lives_with_parameters")
def test_the_state_stands_beside_the_parameter(case):
    """A parameter's moments have its device and dtype; a step runs on device="meta".

    Source: the contract of torch.optim: models move to a device before the optimizer sees them.
    """
    optimizer_laws.state_lives_with_parameters(case.build)


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
