"""Training of a language model on one long text.

loss = −1/n Σ_t log p(x_t+1 | x_1 … x_t)
learning rate: a linear warm-up, then a cosine down to a tenth       Brown et al. 2020, arXiv:2005.14165, appendix B
gradient g ← g · min(1, clip/‖g‖), over all parameters together      Pascanu, Mikolov & Bengio 2012, arXiv:1211.5063
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn
from torch.optim import Optimizer


def next_token_loss(
    logits: Float[Tensor, "b t vocabulary"], targets: Int[Tensor, "b t"], counted: Bool[Tensor, "b t"] | None = None
) -> Float[Tensor, ""]:
    """−log softmax(logits)[target], in nats, averaged over all targets, or over those where `counted` is True.

    Raises:
        ValueError: targets, or `counted`, of another shape than the tokens with logits.
    """
    for name, given in (("targets", targets), ("counted", counted)):
        if given is not None and given.shape != logits.shape[:-1]:
            raise ValueError(f"expected {name} of shape {tuple(logits.shape[:-1])}, got {tuple(given.shape)}")
    chosen = logits.gather(-1, targets[..., None].long()).squeeze(-1)
    nll = logits.logsumexp(-1) - chosen
    return nll.mean() if counted is None else nll[counted].mean()


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups for an optimizer: matrices and tables, which decay, then biases and norms, which do not.

    What has one dimension or none is in the second; a parameter that requires no gradient is in neither.

    Source: Brown et al. 2020, appendix B, for the value 0.1; Loshchilov & Hutter 2017, arXiv:1711.05101, for its use.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def train(
    model: nn.Module,
    text: Int[Tensor, " n"],
    optimizer: Optimizer,
    steps: int,
    batch_size: int = 32,
    length: int | None = None,
    warmup: int = 20,
    clip: float = 1.0,
    generator: Generator | None = None,
    report: Callable[[str], object] | None = print,
    every: int = 100,
) -> list[float]:
    """Trains on random windows of a text and reports progress; returns the loss of each step, in training mode.

        model = GPT(vocab_size=len(alphabet), block_size=32, n_layer=2, n_head=4, n_embd=64, dropout=0.0)
        train(model, text, AdamW(decay_groups(model, 0.1), lr=1e-2), steps=300)

    Args:
        model: has `loss(tokens)` and `block_size`.
        text: token after token.
        optimizer: its learning rates are the peaks of the schedule; they are restored at the end.
        length: tokens of a window; default block_size + 1, of which the last is predicted only.
        warmup: steps until the peak; the first step already has a positive rate.
        clip: largest norm of the gradient.
        generator: samples the windows.
        report: called with a line every `every` steps and at the last, with the mean loss of the last `every` steps:
            "step 200 of 300: loss 2.345"; None for silence.

    Raises:
        ValueError: a text shorter than a window, steps or batch_size below 1.
    """
    length = model.block_size + 1 if length is None else length
    if len(text) < length or min(steps, batch_size) < 1:
        found = f"{len(text)} tokens, {steps} steps of {batch_size}"
        raise ValueError(f"expected a text of {length} tokens or more, and steps and batches, got {found}")
    peaks = [group["lr"] for group in optimizer.param_groups]
    windows, losses = text.unfold(0, length, 1), []
    model.train()
    for step in range(steps):
        for group, peak in zip(optimizer.param_groups, peaks):
            group["lr"] = peak * schedule(step, steps, warmup)
        start = torch.randint(len(windows), (batch_size,), generator=generator)
        loss = model.loss(windows[start.to(text.device)])
        optimizer.zero_grad()
        loss.backward()
        clip_gradients(model, clip)
        optimizer.step()
        losses.append(loss.item())
        if report is not None and ((step + 1) % every == 0 or step + 1 == steps):
            recent = losses[-every:]
            report(f"step {step + 1} of {steps}: loss {sum(recent) / len(recent):.3f}")
    for group, peak in zip(optimizer.param_groups, peaks):
        group["lr"] = peak
    return losses


def schedule(step: int, steps: int, warmup: int) -> float:
    """Fraction of the peak at a step: 1/warmup at the first, then 1 and a cosine down to 0.1."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def clip_gradients(model: nn.Module, largest: float) -> Tensor:
    """Scales all gradients by one factor so that their norm is at most `largest`; returns the norm before."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.stack([g.norm() for g in gradients]).norm()
    torch._foreach_mul_(gradients, (largest / norm).clamp(max=1))
    return norm
