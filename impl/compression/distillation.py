"""Knowledge distillation: a student learns from the probabilities that a teacher gives to all classes.

Hinton, Vinyals & Dean 2015, arXiv:1503.02531.

    q_i = exp(z_i/T) / Σ_j exp(z_j/T), the student's;  p_i likewise, from the teacher's logits v       (§2, eq. 1)
    L = α T² Σ_i p_i log(p_i / q_i) + (1 − α) (−log softmax(z)_y)                                     (§2)
    ∂(T² KL)/∂z_i = T (q_i − p_i)  →  (z_i − v_i) / N for T → ∞ and logits of zero mean               (eq. 2-4)

Convention: the soft term is the divergence, not the cross-entropy: they differ by the teacher's entropy, which has no
gradient, and the divergence is 0 where the student has arrived. Both terms are summed over classes and averaged over
every batch dimension; the hard term has T = 1; α weighs the soft term.
"""

import math

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn


def distillation_loss(
    student_logits: Float[Tensor, "*batch classes"],
    teacher_logits: Float[Tensor, "*batch classes"],
    target: Integer[Tensor, "*batch"] | None = None,
    temperature: float = 4.0,
    alpha: float = 0.5,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    """Soft targets of a teacher, mixed with the true classes where they are known. The teacher gets no gradient.

    Args:
        student_logits, teacher_logits: z and v.
        target: indices y of the true classes; without them the loss is the soft term alone, and α is not used.
        temperature: T, of both distributions of the soft term.
        alpha: α.
        reduction: "mean" over the batch, or "none": one value a sample.

    Raises:
        ValueError: logits of different shapes, targets of another, no sample to average, T not above 0 or infinite,
            α outside of [0, 1], another reduction.

    Source: Hinton, Vinyals & Dean 2015, §2.
    """
    if student_logits.shape != teacher_logits.shape:
        student, teacher = tuple(student_logits.shape), tuple(teacher_logits.shape)
        raise ValueError(f"expected student and teacher logits of one shape, got {student} and {teacher}")
    if target is not None and target.shape != student_logits.shape[:-1]:
        expected = tuple(student_logits.shape[:-1])
        raise ValueError(f"expected one class a sample, {expected}, got targets of shape {tuple(target.shape)}")
    if not 0 < temperature < math.inf:
        raise ValueError(f"expected a finite temperature > 0, got {temperature}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"expected 0 <= alpha <= 1, got {alpha}")
    if reduction not in ("none", "mean"):
        raise ValueError(f"expected reduction 'none' or 'mean', got {reduction!r}")
    if reduction == "mean" and student_logits.numel() == 0:
        raise ValueError(f"expected at least one sample to average, got shape {tuple(student_logits.shape)}")

    log_q = (student_logits / temperature).log_softmax(-1)
    log_p = (teacher_logits.detach() / temperature).log_softmax(-1)
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1)
    loss = temperature**2 * divergence  # T² keeps the size of its gradient comparable with the hard term's
    if target is not None:
        log_likelihood = student_logits.log_softmax(-1).gather(-1, target.long().unsqueeze(-1)).squeeze(-1)
        loss = alpha * loss - (1 - alpha) * log_likelihood
    return loss.mean() if reduction == "mean" else loss


class Teacher(nn.Module):
    """A trained network that only predicts: in evaluation mode for good, and outside of the graph.

    A teacher that is a part of a larger module goes into training mode with it; its dropout then blurs the soft
    targets, and its batch statistics drift.

    Args:
        model: the network; its parameters take no gradient any more.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True):
        return super().train(False)

    @torch.no_grad()
    def forward(self, *inputs):
        return self.model(*inputs)
