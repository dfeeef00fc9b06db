"""The laws of every module, run on every record of spec/cases: what no item needs to say again."""

import inspect

import pytest

from spec import laws, scratch
from spec.cases import all_cases


def of_each(*, law: str, modules_only: bool = False):
    """Parametrize over all records that the law applies to, each spec marked with its item."""
    chosen = [c for c in all_cases() if law not in c.exempt and not (modules_only and c.is_function)]
    return pytest.mark.parametrize(
        "case", [pytest.param(c, id=f"{c.item}:{c.name}", marks=pytest.mark.item(c.item)) for c in chosen]
    )


@of_each(law="state_dict_round_trip", modules_only=True)
def test_state_dict_round_trips(case):
    """State saved, loaded with weights_only=True and put into a second instance gives the same outputs.

    Source: the contract of torch.nn.Module; every model that is trained is saved.
    """
    laws.state_dict_round_trip(case.build, case.inputs())


@of_each(law="deepcopy_independent", modules_only=True)
def test_deep_copies_are_independent(case):
    """A deep copy gives the same outputs and shares no memory with its original.

    Source: the contract of copy.deepcopy; target networks and weight averages rest on it.
    """
    laws.deepcopy_independent(case.build, case.inputs())


@of_each(law="deterministic_in_eval")
def test_evaluation_is_deterministic(case):
    """In eval mode the same inputs give the same bits.

    Source: the contract of torch.nn.Module.eval.
    """
    laws.deterministic_in_eval(case.build, case.inputs())


@of_each(law="draws_nothing_in_eval")
def test_evaluation_draws_no_random_numbers(case):
    """In eval mode the global random generator is not touched.

    Source: the contract of torch.nn.Module.eval; an evaluation in mid-training must not change the run.
    """
    laws.draws_nothing_in_eval(case.build, case.inputs())


@of_each(law="inputs_not_mutated")
def test_inputs_are_not_mutated(case):
    """The caller's tensors are unchanged after a call.

    Source: the contract of functions without a trailing underscore in torch.
    """
    laws.inputs_not_mutated(case.build, case.inputs())


@of_each(law="accepts_non_contiguous")
def test_memory_layout_is_no_information(case):
    """Strided views give the outputs of their contiguous copies.

    Source: the contract of torch operators; transposed inputs are everyday.
    """
    laws.accepts_non_contiguous(case.build, case.inputs())


@of_each(law="keeps_dtype")
def test_dtype_is_kept(case):
    """float32, float64 and bfloat16 in give the same dtype out, close to the float64 result.

    Source: the contract of torch.nn modules; 2^-8 relative is the precision of bfloat16.
    """
    laws.keeps_dtype(case.build, case.inputs())


@of_each(law="works_under_autocast")
def test_mixed_precision_is_close_to_full(case):
    """Under torch.autocast outputs are close to those of float32, and so are gradients taken outside of the region.

    Source: Micikevicius et al. 2017, arXiv:1710.03740; the contract of torch.autocast: no layer is written for it.
    """
    laws.works_under_autocast(case.build, case.inputs())


@of_each(law="batch_independent")
def test_samples_do_not_see_each_other_in_training(case):
    """In train mode a sample's output does not change with the rest of its batch.

    Source: the definition of the item; where the paper couples the batch, the record is exempt and says why.
    """
    laws.batch_independent(case.build, case.inputs(), train=True)


@of_each(law="batch_independent_in_eval")
def test_samples_do_not_see_each_other_in_evaluation(case):
    """In eval mode a sample's output does not change with the rest of its batch.

    Source: the definition of inference: one sample at a time or many, the answer is the same.
    """
    laws.batch_independent(case.build, case.inputs(), train=False)


@of_each(law="gradient_correct")
def test_gradients_equal_central_differences(case):
    """Autograd equals central differences in float64, for every input and parameter.

    Source: the definition of the derivative.
    """
    laws.gradient_correct(case.build(), *case.inputs())


@of_each(law="every_parameter_receives_gradient", modules_only=True)
def test_every_parameter_receives_gradient(case):
    """Each parameter gets a finite gradient that is not all zero.

    Source: a parameter that no gradient reaches is not learned.
    """
    laws.every_parameter_receives_gradient(case.build, case.inputs())


@of_each(law="works_on_meta")
def test_shapes_without_memory(case):
    """On device="meta" shapes and dtypes are those of a real run.

    Source: torch's meta device; published parameter counts are checked there.
    """
    laws.works_on_meta(case.build, case.inputs())


@of_each(law="compiles")
def test_compiles_as_one_graph(case):
    """torch.compile(fullgraph=True) captures forward and backward, with the outputs and gradients of eager.

    Source: the contract of torch.compile: no graph breaks.
    """
    laws.compiles(case.build, case.inputs())


@pytest.mark.project_convention("impl")
@of_each(law="transforms")
def test_func_transforms_see_through_it(case):
    """torch.func.grad gives autograd's gradients, jvp their adjoint, and vmap the results of single calls.

    Source: the contract of torch.func: it holds for whatever is made of torch's own operators.
    Convention: the reference is plain autograd; fast has backward passes of its own, which have no forward mode.
    """
    laws.transforms(case.build, case.inputs())


@of_each(law="may_be_changed_in_place")
def test_outputs_may_be_changed_in_place(case):
    """Changing the output in place, as ReLU(inplace=True) does, gives the gradients of the change out of place.

    Source: the contract of torch.nn modules, whose outputs may be changed in place.
    """
    laws.may_be_changed_in_place(case.build, case.inputs())


@of_each(law="empty_batch_is_defined")
def test_empty_batch_is_defined(case):
    """A batch of no samples gives no samples, or a ValueError that says so.

    Source: torch's convention for zero-size batches.
    """
    laws.empty_batch_is_defined(case.build, case.inputs())


@pytest.mark.project_convention
@pytest.mark.parametrize(
    ("case", "bad"),
    [
        pytest.param(case, bad, id=f"{case.item}:{case.name}:{why}", marks=pytest.mark.item(case.item))
        for case in all_cases()
        for why, bad in case.bad.items()
    ],
)
def test_bad_input_is_named(case, bad):
    """Bad input raises ValueError or TypeError that says what was expected and what came.

    Convention: the wording is this project's; other libraries raise other errors, so peers are not asked.
    """
    case.build()(*case.inputs())  # refusing everything is no answer: good input is accepted first
    laws.rejects(bad.call, bad.mentions)


@pytest.mark.project_convention
@of_each(law="from_scratch")
def test_source_is_from_scratch(case):
    """The source imports torch and names no ready-made layer, loss, initialiser, kernel or optimizer.

    Convention: tensors, autograd, elementary functions and linear algebra are given; peers are not asked.
    """
    built = case.build()
    built(*case.inputs())  # what is not written yet has no source to judge
    public = built if inspect.isfunction(built) else type(built)
    scratch.source_is_from_scratch(inspect.unwrap(public).__module__)


@pytest.mark.project_convention
@of_each(law="from_scratch")
def test_dispatch_is_from_scratch(case):
    """No ATen operator that runs forward or backward is a fused kernel of what the item explains.

    Convention: tensors, autograd, elementary functions and linear algebra are given; peers are not asked.
    """
    scratch.dispatch_is_from_scratch(case.build, case.inputs())
