"""Golden values of MoCo.  He, Fan, Wu, Xie & Girshick 2019, arXiv:1911.05722."""

import pytest
import torch
from torch import nn

from impl.models.moco import MoCo, info_nce_loss
from spec.golden import load

pytestmark = pytest.mark.item("moco")


def test_four_steps_of_training():
    """Logits, loss, gradient, θ_k and queue of four steps of gradient descent, with batches of 2 and a queue of 5.

    Source: He et al. 2019, algorithm 1, m = ¾ and τ = 0.2; values of optax.
    """
    golden = load("moco")
    made = MoCo(nn.Linear(3, 2, bias=False), 2, queue_size=5, momentum=0.75, temperature=0.2).double()
    made.encoder_q.weight.data.copy_(golden["of_q"])
    made.encoder_k.weight.data.copy_(golden["of_k"])
    made.queue.copy_(golden["queue"])
    for step, (x_q, x_k) in enumerate(zip(golden["x_q"], golden["x_k"])):
        logits = made.train()(x_q, x_k)
        loss = info_nce_loss(logits)
        (gradient,) = torch.autograd.grad(loss, made.encoder_q.weight)
        golden.check(f"logits.{step}", logits)
        golden.check(f"loss.{step}", loss)
        golden.check(f"gradient.{step}", gradient)
        golden.check(f"of_k.{step}", made.encoder_k.weight)
        golden.check(f"queue.{step}", made.queue)
        with torch.no_grad():
            made.encoder_q.weight -= 0.5 * gradient
