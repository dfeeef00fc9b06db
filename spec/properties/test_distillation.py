"""Knowledge distillation.  Hinton, Vinyals & Dean 2015, arXiv:1503.02531."""

import inspect
import math

import pytest
import torch
from hypothesis import given
from torch import nn
from torch.distributions import Categorical, kl_divergence

from impl.compression.distillation import Teacher, distillation_loss
from spec import laws
from spec.strategies import floats, permutations, seeds, sizes, varied

pytestmark = pytest.mark.item("distillation")

TEMPERATURES = floats(0.5, 20)
SHAPE = (3, 5)


def logits(*shape, seed: int = 0, scale: float = 3.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape or SHAPE, generator=generator, dtype=torch.float64)


def classes(*shape, count: int = 5, seed: int = 0):
    return torch.randint(count, shape or SHAPE[:1], generator=torch.Generator().manual_seed(seed))


def soft(student, teacher, temperature):
    """T² KL(p ‖ q) a sample, by torch.distributions."""
    p, q = (Categorical(logits=t / temperature) for t in (teacher, student))
    return temperature**2 * kl_divergence(p, q)


def gradient_of(student, *arguments, **settings):
    """∂loss/∂student."""
    student = student.detach().requires_grad_()
    return torch.autograd.grad(distillation_loss(student, *arguments, **settings), student)[0]


# ---------------------------------------------------------------------------------------------- the soft term


@given(student=varied(SHAPE), teacher=varied(SHAPE), temperature=TEMPERATURES)
def test_soft_term_is_the_divergence_from_the_teacher(student, teacher, temperature):
    """Without true classes L = T² Σ_i p_i log(p_i / q_i), both at temperature T, averaged over the batch.

    Source: Hinton, Vinyals & Dean 2015, §2, eq. 1.  Convention: the divergence, in this direction, weight 1.
    """
    loss = distillation_loss(3 * student, 3 * teacher, temperature=temperature)
    laws.assert_close(loss, soft(3 * student, 3 * teacher, temperature).mean())


@given(student=varied(SHAPE), teacher=varied(SHAPE), temperature=TEMPERATURES)
def test_gradient_is_the_difference_of_the_probabilities(student, teacher, temperature):
    """∂L/∂z_i = T² · (1/T) (q_i − p_i) for each sample, over the batch size, and by nothing else.

    Source: Hinton, Vinyals & Dean 2015, eq. 2, times T².
    """
    q, p = ((t / temperature).softmax(-1) for t in (student, teacher))
    laws.assert_close(gradient_of(student, teacher, temperature=temperature), temperature * (q - p) / len(student))


@pytest.mark.states("equivalence")
@given(student=varied(SHAPE), teacher=varied(SHAPE), temperature=TEMPERATURES)
def test_cross_entropy_has_the_same_gradient(student, teacher, temperature):
    """T² KL and the paper's cross-entropy with soft targets, −T² Σ p log q, differ by a constant of the student.

    Source: Hinton, Vinyals & Dean 2015, §2.1: C is the cross-entropy.
    """
    z = student.clone().requires_grad_()
    cross_entropy = nn.functional.cross_entropy(z / temperature, (teacher / temperature).softmax(-1))
    (expected,) = torch.autograd.grad(temperature**2 * cross_entropy, z)
    laws.assert_close(gradient_of(student, teacher, temperature=temperature), expected)


@given(student=varied(SHAPE), shift=varied((3, 1)), temperature=TEMPERATURES)
def test_loss_is_zero_where_the_student_has_arrived(student, shift, temperature):
    """L = 0, with a gradient of 0, where z = v up to a constant a sample; L > 0 elsewhere.

    Source: Hinton, Vinyals & Dean 2015, eq. 2 (Gibbs' inequality).  Convention: the teacher's entropy is left out.
    """
    arrived = distillation_loss(student + shift, student, temperature=temperature)
    laws.assert_close(arrived, torch.zeros((), dtype=torch.float64))
    laws.assert_close(gradient_of(student + shift, student, temperature=temperature), torch.zeros_like(student))
    bent = student.clone()
    bent[0, 1] += 1
    # At T = 3 no probability of logits below 5 is under 0.007: the divergence cannot vanish next to rounding.
    assert distillation_loss(bent, student, temperature=3.0) > 1e-4, "expected L > 0 for other logits"


@given(student=varied(SHAPE), teacher=varied(SHAPE), a=varied((3, 1)), b=varied((3, 1)))
def test_a_constant_in_a_samples_logits_is_no_information(student, teacher, a, b):
    """L(z + a, v + b, y) = L(z, v, y) for a constant a of a sample's student and b of its teacher.

    Source: Hinton, Vinyals & Dean 2015, eq. 1: softmax.
    """
    target = classes()
    moved = distillation_loss(student + a, teacher + b, target, temperature=3.0)
    laws.assert_close(moved, distillation_loss(student, teacher, target, temperature=3.0))


@given(student=varied(SHAPE), teacher=varied(SHAPE), order=permutations(5))
def test_classes_have_no_order(student, teacher, order):
    """The same permutation of the classes of student, teacher and target leaves L unchanged.

    Source: Hinton, Vinyals & Dean 2015, eq. 1: a sum over classes.
    """
    target = classes()
    renamed = order.argsort()[target]
    moved = distillation_loss(student[:, order], teacher[:, order], renamed, temperature=3.0)
    laws.assert_close(moved, distillation_loss(student, teacher, target, temperature=3.0))
    laws.invariant(lambda both: distillation_loss(*both), torch.stack([student, teacher]), lambda t: t[:, :, order])


# ---------------------------------------------------------------------------------------------- limits of T


@pytest.mark.states("limiting case")
@pytest.mark.parametrize(("temperature", "within"), [(10.0, 0.3), (100.0, 0.03), (1000.0, 0.003)])
def test_hot_distillation_matches_logits(temperature, within):
    """For T → ∞ and logits of zero mean, ∂L/∂z_i → (z_i − v_i) / N a sample, with an error of O(1/T).

    Measured: largest error over largest gradient 0.15, 0.013 and 0.0013 for T = 10, 100, 1000; with T² missing 1.0.

    Source: Hinton, Vinyals & Dean 2015, eq. 3-4, times T².
    """
    student, teacher = (t - t.mean(-1, keepdim=True) for t in (logits(seed=1), logits(seed=2)))
    found, expected = gradient_of(student, teacher, temperature=temperature), (student - teacher) / 5 / len(student)
    error = ((found - expected).abs().max() / expected.abs().max()).item()
    assert error < within, f"expected (z − v)/N within {within:g}, found {error:.2g}"


def test_hot_loss_is_half_the_squared_distance_of_the_logits():
    """For T → ∞, T² KL → ½ Var_i(z_i − v_i), the variance over classes: the constant part does not count.

    Source: Hinton, Vinyals & Dean 2015, §2.1: distillation at high temperature minimises ½ (z_i − v_i)² / N.
    """
    student, teacher = logits(seed=1), logits(seed=2)
    expected = 0.5 * (student - teacher).var(-1, correction=0).mean()
    found = distillation_loss(student, teacher, temperature=1e4)
    laws.assert_close(found, expected, rtol=2e-3, atol=0, because="an error of O(1/T), about 3 spreads of logits / T")


@pytest.mark.states("limiting case")
def test_cold_distillation_asks_for_the_teachers_class():
    """For T → 0 the teacher is one class: T·KL → max_i z_i − z_k, where k is the teacher's choice.

    Source: Hinton, Vinyals & Dean 2015, eq. 1: T → 0 is a hard choice.
    """
    student, teacher = logits(seed=1), logits(seed=2)
    chosen = student.gather(-1, teacher.argmax(-1, keepdim=True)).squeeze(-1)
    expected = (student.amax(-1) - chosen).mean()
    found = distillation_loss(student, teacher, temperature=1e-3) / 1e-3
    laws.assert_close(
        found, expected, rtol=0, atol=1e-6, because="exp(−gap/T) and T log N remain of the softer classes"
    )
    assert expected > 0.5, "expected a student and a teacher of different minds"


@given(student=varied(SHAPE), teacher=varied(SHAPE), temperature=TEMPERATURES, scale=floats(0.2, 5))
def test_temperature_is_the_unit_of_logits(student, teacher, temperature, scale):
    """L(c·z, c·v; c·T) = c² L(z, v; T): only the factor T² of the divergence knows the unit.

    Source: Hinton, Vinyals & Dean 2015, eq. 1 and §2: gradients scale as 1/T², hence T².
    """
    scaled = distillation_loss(scale * student, scale * teacher, temperature=scale * temperature)
    laws.assert_close(scaled, scale**2 * distillation_loss(student, teacher, temperature=temperature))


def test_gradients_keep_their_size_over_temperatures():
    """Between T = 10 and T = 100 the gradient of L changes by less than a quarter; without T² it falls a hundredfold.

    Measured: ratio of the norms 1.09 (5 seeds: 1.05 to 1.13); 0.109 with one T missing, 0.0109 with T² missing.

    Source: Hinton, Vinyals & Dean 2015, §2: "it is important to multiply them by T² when using both".
    """
    student, teacher = logits(seed=1), logits(seed=2)
    warm, hot = (gradient_of(student, teacher, temperature=t).norm().item() for t in (10.0, 100.0))
    assert 0.8 < hot / warm < 1.25, f"expected gradients of one size, found a ratio of {hot / warm:.3f}"


# ---------------------------------------------------------------------------------------------- the hard term


@given(student=varied(SHAPE), teacher=varied(SHAPE), alpha=floats(0, 1), temperature=TEMPERATURES)
def test_true_classes_mix_in_at_temperature_one(student, teacher, alpha, temperature):
    """L = α T² KL + (1 − α) (−log softmax(z)_y): the hard term has the same logits at T = 1.

    Source: Hinton, Vinyals & Dean 2015, §2: "using exactly the same logits … but at a temperature of 1".
    Convention: α weighs the soft term.
    """
    target = classes()
    found = distillation_loss(student, teacher, target, temperature=temperature, alpha=alpha)
    hard = nn.functional.cross_entropy(student, target)
    laws.assert_close(found, alpha * soft(student, teacher, temperature).mean() + (1 - alpha) * hard)


@pytest.mark.states("limiting case")
@given(student=varied(SHAPE), teacher=varied(SHAPE), temperature=TEMPERATURES)
def test_the_ends_of_alpha(student, teacher, temperature):
    """α = 0 is cross-entropy with the true classes, whoever teaches; α = 1 is the soft term, whatever the classes are.

    Source: Hinton, Vinyals & Dean 2015, §2: a weighted average of two objectives.
    """
    target = classes()
    untaught = distillation_loss(student, teacher, target, temperature=temperature, alpha=0.0)
    laws.assert_close(untaught, nn.functional.cross_entropy(student, target))
    taught = distillation_loss(student, teacher, target, temperature=temperature, alpha=1.0)
    laws.assert_close(taught, soft(student, teacher, temperature).mean())


def test_without_true_classes_alpha_is_not_used():
    """Unlabelled transfer data give the soft term with weight 1, at any α.

    Source: Hinton, Vinyals & Dean 2015, §2: the transfer set may be unlabelled.  Convention: α weighs a mixture only.
    """
    student, teacher = logits(seed=1), logits(seed=2)
    for alpha in (0.0, 0.3, 1.0):
        found = distillation_loss(student, teacher, temperature=2.5, alpha=alpha)
        laws.assert_close(found, soft(student, teacher, 2.5).mean())


def test_the_defaults_are_a_temperature_of_four_and_even_weights():
    """T = 4, α = ½, the mean over the batch, in the order student, teacher, target, temperature, alpha.

    Convention: this project's; the paper tunes both (§3: T = 20 for wide students, 2.5 to 4 for narrow ones).
    """
    student, teacher, target = logits(seed=1), logits(seed=2), classes()
    expected = 0.5 * soft(student, teacher, 4.0).mean() + 0.5 * nn.functional.cross_entropy(student, target)
    laws.assert_close(distillation_loss(student, teacher, target), expected)
    laws.assert_close(distillation_loss(student, teacher, target, 4.0, 0.5), expected)
    names = list(inspect.signature(distillation_loss).parameters)
    assert names[:5] == ["student_logits", "teacher_logits", "target", "temperature", "alpha"]


def test_targets_of_other_integer_types():
    """Classes may be int32 or uint8 as well as int64.

    Convention: indices are integers of any width.
    """
    student, teacher, target = logits(seed=1), logits(seed=2), classes()
    expected = 0.5 * soft(student, teacher, 4.0).mean() + 0.5 * nn.functional.cross_entropy(student, target)
    for dtype in (torch.int32, torch.uint8):
        laws.assert_close(distillation_loss(student, teacher, target.to(dtype)), expected)


# ---------------------------------------------------------------------------------------------- the mean


@given(student=varied(SHAPE), teacher=varied(SHAPE), times=sizes(2, 4))
def test_a_batch_twice_is_the_batch(student, teacher, times):
    """Repeating the batch leaves L unchanged; the sum over classes is not divided by their number.

    Source: Hinton, Vinyals & Dean 2015, eq. 2: one gradient a training case; torch.nn.KLDivLoss's "mean" divides by
    the classes too, its "batchmean" does not.
    """
    target = classes()
    many = distillation_loss(student.repeat(times, 1), teacher.repeat(times, 1), target.repeat(times), temperature=3.0)
    laws.assert_close(many, distillation_loss(student, teacher, target, temperature=3.0))
    wide, wider = (torch.cat([t, torch.full((3, 4), -1e4, dtype=t.dtype)], dim=1) for t in (student, teacher))
    padded = distillation_loss(wide, wider, target, temperature=3.0)  # four classes that neither ever chooses
    laws.assert_close(padded, distillation_loss(student, teacher, target, temperature=3.0))


@pytest.mark.parametrize("labelled", [False, True])
def test_tokens_count_as_samples(labelled):
    """Logits (B, T, V) give the mean over B·T tokens: what the same tokens give as (B·T, V).

    Source: Hinton, Vinyals & Dean 2015, eq. 2, case by case.  Convention: every batch dimension is averaged;
    torch.nn.KLDivLoss's "batchmean" would divide by B alone.
    """
    student, teacher, target = logits(2, 3, 5, seed=1), logits(2, 3, 5, seed=2), classes(2, 3)
    found = distillation_loss(student, teacher, target if labelled else None, alpha=0.3)
    flat = soft(student, teacher, 4.0).flatten()
    hard = nn.functional.cross_entropy(student.flatten(0, 1), target.flatten(), reduction="none")
    laws.assert_close(found, (0.3 * flat + 0.7 * hard if labelled else flat).mean())


def test_one_sample_needs_no_batch_dimension():
    """Logits (V,) with a target () are one sample.

    Convention: as torch.nn.CrossEntropyLoss.
    """
    student, teacher, target = logits(5, seed=1), logits(5, seed=2), torch.tensor(3)
    expected = 0.3 * soft(student, teacher, 4.0) + 0.7 * nn.functional.cross_entropy(student, target)
    laws.assert_close(distillation_loss(student, teacher, target, alpha=0.3), expected)


@pytest.mark.parametrize("labelled", [False, True])
def test_the_mean_is_over_one_value_a_sample(labelled):
    """reduction="none" gives (B, T) values, each of its own logits alone; "mean" is their mean.

    Source: Hinton, Vinyals & Dean 2015, eq. 2, case by case.  Convention: names as torch.nn.CrossEntropyLoss.
    """
    student, teacher = logits(2, 3, 5, seed=1), logits(2, 3, 5, seed=2)
    target = classes(2, 3) if labelled else None
    found = distillation_loss(student, teacher, target, temperature=3.0, alpha=0.3, reduction="none")
    expected = soft(student, teacher, 3.0)
    if labelled:
        hard = nn.functional.cross_entropy(student.flatten(0, 1), target.flatten(), reduction="none").view(2, 3)
        expected = 0.3 * expected + 0.7 * hard
    laws.assert_close(found, expected)
    mean = distillation_loss(student, teacher, target, temperature=3.0, alpha=0.3, reduction="mean")
    laws.assert_close(mean, expected.mean())
    allowed = torch.eye(6, dtype=torch.bool).repeat_interleave(5, dim=1)
    laws.depends_only_on(lambda z: distillation_loss(z, teacher, target, reduction="none"), student, allowed)


# ---------------------------------------------------------------------------------------------- gradients and precision


@pytest.mark.parametrize("labelled", [False, True])
def test_only_the_student_learns(labelled):
    """The loss has a gradient for the student's logits and parameters, and none for the teacher's.

    Source: Hinton, Vinyals & Dean 2015, §2: soft targets are targets.
    """
    torch.manual_seed(0)
    student, teacher = nn.Linear(4, 5).double(), nn.Linear(4, 5).double()
    x = logits(3, 4)
    loss = distillation_loss(student(x), teacher(x), classes() if labelled else None)
    learner, frozen = (
        {f"{n}'s {name}": p for name, p in m.named_parameters()}
        for n, m in (("student", student), ("teacher", teacher))
    )
    laws.gradient_reaches(loss, learner, frozen)
    # One network as both: the teacher's half must be cut even there.
    z, v = logits(seed=1).requires_grad_(), logits(seed=2).requires_grad_()
    laws.gradient_reaches(distillation_loss(z, v, classes() if labelled else None), {"student": z}, {"teacher": v})


def test_a_student_that_is_its_own_teacher_stays():
    """L(z, z) is 0 with a gradient of 0: with a teacher in the graph, or the student's probabilities for the teacher's,
    nothing else would show.

    Source: Hinton, Vinyals & Dean 2015, eq. 2 at q = p.
    """
    z = logits(seed=1).requires_grad_()
    loss = distillation_loss(z, z, temperature=2.0)
    laws.assert_close(loss, torch.zeros((), dtype=torch.float64))
    laws.assert_close(torch.autograd.grad(loss, z)[0], torch.zeros_like(z))


@pytest.mark.parametrize("labelled", [False, True])
def test_second_derivatives_are_right(labelled):
    """The gradient, and the gradient of the gradient, equal central differences in the student's logits.

    Source: the definition of the derivative.
    """
    teacher, target = logits(seed=2), classes() if labelled else None
    laws.gradient_correct(
        lambda z: distillation_loss(z, teacher, target, temperature=2.5, alpha=0.3), logits(seed=1), second_order=True
    )


@given(seed=seeds())
def test_sure_teachers_and_sure_students_are_finite(seed):
    """Logits of ±1e4, whose probabilities are 0 and 1 in float32, give finite losses and gradients that are right.

    Source: p log p → 0 for p → 0; log-probabilities, not logarithms of probabilities.
    """
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (1e4 * torch.randn(3, 5, generator=generator) for _ in range(2))
    z = student.requires_grad_()
    loss = distillation_loss(z, teacher, classes(), temperature=2.0, alpha=0.3)
    (gradient,) = torch.autograd.grad(loss, z)
    log_p, log_q = ((t.detach().double() / 2).log_softmax(-1) for t in (teacher, student))
    exact = 0.3 * 4 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    exact = exact + 0.7 * nn.functional.cross_entropy(student.double(), classes())
    laws.assert_close(loss.double(), exact.detach(), rtol=1e-5, atol=1e-5, because="float32 against float64")
    expected = 0.3 * 2.0 * ((student / 2).softmax(-1) - (teacher / 2).softmax(-1))
    expected = expected + 0.7 * (student.softmax(-1) - nn.functional.one_hot(classes(), 5))
    laws.assert_close(gradient, expected.detach() / 3)


def test_small_probabilities_of_many_classes():
    """Over 50 000 classes in float32 the loss is that of float64 within 1e-4, at T = 1 and T = 20.

    Measured: 4e-6 and 3e-6 relative (4 seeds: up to 2e-5).

    Source: the definition; vocabularies of language models are as large.
    """
    student, teacher = logits(2, 50_000, seed=1), logits(2, 50_000, seed=2)
    for temperature in (1.0, 20.0):
        found = distillation_loss(student.float(), teacher.float(), temperature=temperature)
        expected = soft(student, teacher, temperature).mean()
        laws.assert_close(found.double(), expected, rtol=1e-4, atol=0, because="float32 sums of 50 000 terms")


# ---------------------------------------------------------------------------------------------- the teacher


def network(seed: int = 0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 5)).double()


def test_a_teacher_answers_as_in_evaluation():
    """Inside a module that trains, the teacher stays in eval mode: no dropout, no batch statistics, no drift of them.

    Source: Hinton, Vinyals & Dean 2015, §2: the soft targets are the trained network's; Ioffe & Szegedy 2015 for the
    statistics.
    """
    model, x = network(), logits(3, 4)
    expected = network().eval()(x)
    laws.assert_close(Teacher(network())(x), expected.detach())  # as it is wrapped, before any call of train or eval
    pair = nn.ModuleList([nn.Linear(4, 5), Teacher(model)])
    for mode in (True, False):
        assert pair.train(mode) is pair and pair[1].train(mode) is pair[1]
        laws.assert_close(pair[1](x), expected.detach())
    laws.assert_close(model[1].running_mean, torch.zeros(6, dtype=torch.float64), atol=0, rtol=0)
    assert int(model[1].num_batches_tracked) == 0
    assert not any(m.training for m in pair[1].modules()), "expected every part of the teacher in eval mode"


def test_a_teacher_is_outside_of_the_graph():
    """Its answers carry no graph, and its parameters ask for no gradient: an optimizer of the pair leaves them alone.

    Source: Hinton, Vinyals & Dean 2015, §2: the cumbersome model is trained before.
    """
    model = network()
    teacher, student = Teacher(model), nn.Linear(4, 5).double()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    x = logits(3, 4).requires_grad_()
    answers = teacher(x)
    assert not answers.requires_grad and not any(p.requires_grad for p in model.parameters())
    optimizer = torch.optim.AdamW([*student.parameters(), *teacher.parameters()], lr=0.1, weight_decay=0.5)
    distillation_loss(student(x), answers, classes()).backward()
    optimizer.step()
    for name, p in model.named_parameters():
        laws.assert_same(p.detach(), before[name], what=name)


def test_a_teacher_takes_whatever_its_network_takes():
    """All positional inputs go through to the network, unchanged.

    Convention: the wrapper adds a mode and no interface.
    """

    class Two(nn.Module):
        def forward(self, a, b):
            return a - 2 * b

    a, b = logits(2, 3, seed=1), logits(2, 3, seed=2)
    before = a.clone()
    laws.assert_close(Teacher(Two())(a, b), a - 2 * b)
    laws.assert_same(a, before)
    assert math.isfinite(a.sum().item())
