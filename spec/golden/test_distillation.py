"""Golden values of knowledge distillation.  Hinton, Vinyals & Dean 2015, arXiv:1503.02531."""

import pytest
import torch

from impl.compression.distillation import distillation_loss
from spec import laws
from spec.golden import load

pytestmark = pytest.mark.item("distillation")


def test_two_classes_by_hand():
    """At T = 2 a teacher of logits (2 log 3, 0) says (3/4, 1/4), a student of (0, 0) says ½: L = 4 (log 2 − H).

    H = log 4 − ¾ log 3, so L = 3 log 3 − 4 log 2 = 0.5232481437645480.

    Source: Hinton, Vinyals & Dean 2015, eq. 1 and §2, by hand.
    """
    teacher = torch.tensor([[3.0, 1.0]], dtype=torch.float64).log() * 2
    found = distillation_loss(torch.zeros_like(teacher), teacher, temperature=2.0)
    laws.assert_close(found, 0.5232481437645480, rtol=1e-14, atol=0)


def test_ten_classes():
    """Teacher logits 0, 1, …, 9, a uniform student, T = 4: 16 KL, summed over the ten classes.

    Source: Hinton, Vinyals & Dean 2015, eq. 1 and §2.
    """
    teacher = torch.arange(10, dtype=torch.float64)[None]
    load("distillation").check("ten_classes", distillation_loss(torch.zeros_like(teacher), teacher))


@pytest.mark.states("equivalence")
@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 0.8), (2.5, 0.3), (20.0, 0.9)])
def test_losses_and_gradients_are_the_libraries(temperature, alpha):
    """Soft and mixed losses and their gradients are those of torch.nn.functional, scipy.special and optax.

    Source: Hinton, Vinyals & Dean 2015, §2.  Convention: torch.nn.functional.kl_div with "batchmean".
    """
    golden, name = load("distillation"), f"T{temperature:g}"
    student, teacher, target = golden["student"].requires_grad_(), golden["teacher"], golden["target"]
    soft = distillation_loss(student, teacher, temperature=temperature)
    mixed = distillation_loss(student, teacher, target, temperature=temperature, alpha=alpha)
    golden.check(f"{name}.soft", soft)
    golden.check(f"{name}.mixed", mixed)
    golden.check(f"{name}.gradient", torch.autograd.grad(soft, student)[0])
    golden.check(f"{name}.mixed_gradient", torch.autograd.grad(mixed, student)[0])
