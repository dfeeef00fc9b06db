"""Distillation by torch's losses: kl_div of log-probabilities and cross_entropy."""

import torch
import torch.nn.functional as F
from torch import nn


def distillation_loss(student_logits, teacher_logits, target=None, temperature=4.0, alpha=0.5, reduction="mean"):
    if reduction == "mean" and not student_logits.numel():
        raise ValueError("expected at least one sample")
    classes, batch = student_logits.shape[-1], student_logits.shape[:-1]
    z, v = student_logits.reshape(-1, classes), teacher_logits.detach().reshape(-1, classes)
    log_q, log_p = F.log_softmax(z / temperature, dim=1), F.log_softmax(v / temperature, dim=1)
    loss = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1) * temperature * temperature
    if target is not None:
        hard = F.cross_entropy(z, target.reshape(-1).long(), reduction="none")
        loss = alpha * loss + (1 - alpha) * hard
    return loss.mean() if reduction == "mean" else loss.reshape(batch)


class Teacher(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model.eval()
        self.training = False
        for parameter in model.parameters():
            parameter.requires_grad = False

    def train(self, mode=True):
        return self

    def forward(self, *inputs):
        with torch.no_grad():
            return self.model(*inputs)
