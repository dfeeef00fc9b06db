"""Distillation as cross-entropies: −Σ p log q by logsumexp, less the teacher's entropy; the teacher in inference."""

import torch
from torch import nn


def distillation_loss(student_logits, teacher_logits, target=None, temperature=4.0, alpha=0.5, reduction="mean"):
    if reduction == "mean" and not student_logits.numel():
        raise ValueError("expected at least one sample")
    z = student_logits / temperature
    with torch.no_grad():
        v = teacher_logits / temperature
        p = torch.softmax(v, -1)
        negative_entropy = (p * v).sum(-1) - torch.logsumexp(v, -1)
    # Differences from the teacher's expectation: logits of any size cancel before they are summed.
    soft = negative_entropy - (p * z).sum(-1) + torch.logsumexp(z, -1)
    loss = temperature * temperature * soft
    if target is not None:
        chosen = torch.arange(z.shape[-1], device=z.device) == target.unsqueeze(-1)
        hard = torch.logsumexp(student_logits, -1) - (student_logits * chosen).sum(-1)
        loss = hard + alpha * (loss - hard)
    return loss if reduction == "none" else loss.sum() / loss.numel()


class Teacher(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
        for p in model.parameters():
            p.requires_grad_(False)
        self.train(False)

    def train(self, mode=True):
        self.training = False
        self.model.eval()
        return self

    def forward(self, *inputs):
        with torch.set_grad_enabled(False):
            return self.model(*(i.detach() for i in inputs))
