"""GPT-2 of torch.nn's layers and losses, clipped by torch.nn.utils.clip_grad_norm_."""

import math

import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_

from ..layers.attention import KeyValueCache
from ..layers.transformer import FeedForward, TransformerEncoderBlock

__all__ = [
    "GPT",
    "decay_groups",
    "next_token_loss",
    "sampling_distribution",
    "train",
    "weights_from_gpt2",
    "weights_to_gpt2",
]

_NAMES = [
    ("norm1.", "ln_1."),
    ("norm2.", "ln_2."),
    ("self_attn.in_proj_", "attn.c_attn."),
    ("self_attn.out_proj.", "attn.c_proj."),
    ("feed_forward.linear1.", "mlp.c_fc."),
    ("feed_forward.linear2.", "mlp.c_proj."),
    ("blocks.", "h."),
]


def weights_to_gpt2(state):
    found = {"lm_head.weight": state["wte.weight"]}
    for name, tensor in state.items():
        for ours, theirs in _NAMES:
            name = name.replace(ours, theirs)
        found[f"transformer.{name}"] = tensor.t() if tensor.dim() == 2 and ".c_" in name else tensor
    return found


def weights_from_gpt2(state):
    found = {}
    for name, tensor in state.items():
        name = name.replace("transformer.", "")
        if name == "lm_head.weight" or name.split(".")[-2:] in (["attn", "bias"], ["attn", "masked_bias"]):
            continue
        tensor = tensor.t() if tensor.dim() == 2 and ".c_" in name else tensor
        for ours, theirs in _NAMES:
            name = name.replace(theirs, ours)
        found[name] = tensor
    return found


def next_token_loss(logits, targets, counted=None):
    targets = targets.long() if counted is None else targets.long().masked_fill(~counted, -100)
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def sampling_distribution(logits, temperature=1.0, top_k=None, top_p=None):
    if temperature == 0:
        return nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)
    dtype, logits = logits.dtype, logits.double()
    probabilities = nn.functional.softmin((logits.amax(-1, keepdim=True) - logits) / temperature, -1)
    if top_k is not None and top_k < logits.shape[-1]:
        kth = probabilities.kthvalue(logits.shape[-1] - top_k + 1, dim=-1, keepdim=True).values
        probabilities = torch.where(probabilities >= kth, probabilities, 0)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    if top_p is not None and top_p < 1:
        order = probabilities.argsort(dim=-1, descending=True, stable=True)
        reached = probabilities.gather(-1, order).cumsum(-1) >= top_p
        last = torch.where(reached.any(-1), reached.int().argmax(-1), logits.shape[-1] - 1)
        rank = order.argsort(-1)
        probabilities = torch.where(rank <= last[..., None], probabilities, 0)
    return (probabilities / probabilities.sum(-1, keepdim=True)).to(dtype)


def decay_groups(model, weight_decay):
    learned = [p for p in model.parameters() if p.requires_grad]
    plain = [p for p in learned if p.dim() < 2]
    matrices = [p for p in learned if p.dim() >= 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def train(
    model,
    text,
    optimizer,
    steps,
    batch_size=32,
    length=None,
    warmup=20,
    clip=1.0,
    generator=None,
    report=print,
    every=100,
):
    length, losses = length or model.block_size + 1, []

    def share(step):
        wave = (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1))) / 2
        return (step + 1) / warmup if step < warmup else 0.1 + 0.9 * wave

    peaks = [group["lr"] for group in optimizer.param_groups]
    model.train()
    for step in range(steps):
        for group, peak in zip(optimizer.param_groups, peaks):
            group["lr"] = peak * share(step)
        starts = torch.randint(len(text) - length + 1, (batch_size,), generator=generator)
        loss = model.loss(torch.stack([text[s : s + length] for s in starts.tolist()]))
        optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_([p for p in model.parameters() if p.grad is not None], clip)
        optimizer.step()
        losses.append(loss.item())
        if report is not None and ((step + 1) % every == 0 or step == steps - 1):
            last = losses[-every:]
            report(f"step {step + 1} of {steps}: loss {sum(last) / len(last):.3f}")
    for group, peak in zip(optimizer.param_groups, peaks):
        group["lr"] = peak
    return losses


class GPT(nn.Module):
    def __init__(self, vocab_size, block_size, n_layer, n_head, n_embd, dropout=0.1, bias=True):
        super().__init__()
        self.block_size = block_size
        self.wte, self.wpe = nn.Embedding(vocab_size, n_embd), nn.Embedding(block_size, n_embd)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList()
        for _ in range(n_layer):
            network = FeedForward(n_embd, 4 * n_embd, "gelu_tanh", bias=bias)
            options = {"norm_first": True, "bias": bias, "is_causal": True, "feed_forward": network}
            self.blocks.append(TransformerEncoderBlock(n_embd, n_head, dropout=dropout, **options))
        self.ln_f = nn.LayerNorm(n_embd, bias=bias)
        for name, p in self.named_parameters():
            if p.dim() > 1:
                ends = name.endswith(("out_proj.weight", "linear2.weight"))
                nn.init.normal_(p, std=0.02 / (2 * n_layer) ** 0.5 if ends else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def new_cache(self):
        return [KeyValueCache() for _ in self.blocks]

    def forward(self, tokens, key_mask=None, cache=None):
        past = cache[0].key.shape[2] if cache and cache[0].key is not None else 0
        if past + tokens.shape[1] > self.block_size:
            raise ValueError(f"expected at most {self.block_size} tokens, got {past + tokens.shape[1]}")
        places = torch.arange(past, past + tokens.shape[1], device=tokens.device)
        if key_mask is not None:
            places = (key_mask.long().cumsum(1) - 1).clamp_min(0)[:, past:]
        x = self.drop(self.wte(tokens) + self.wpe(places))
        for n, block in enumerate(self.blocks):
            x = block(x, key_mask=key_mask, cache=cache[n] if cache else None)
        return nn.functional.linear(self.ln_f(x), self.wte.weight)

    def loss(self, tokens, key_mask=None):
        mask = None if key_mask is None else key_mask[:, :-1]
        counted = None if key_mask is None else key_mask[:, :-1] & key_mask[:, 1:]
        return next_token_loss(self(tokens[:, :-1], mask), tokens[:, 1:], counted)

    @torch.no_grad()
    def generate(
        self,
        tokens,
        max_new_tokens,
        temperature=1.0,
        top_k=None,
        top_p=None,
        stop_token=None,
        key_mask=None,
        generator=None,
    ):
        cache, done, start = self.new_cache(), torch.zeros(len(tokens), dtype=torch.bool), 0
        mask = torch.ones_like(tokens, dtype=torch.bool) if key_mask is None else key_mask
        for _ in range(max_new_tokens):
            if tokens.shape[1] > self.block_size:
                logits = self(tokens[:, -self.block_size :], mask[:, -self.block_size :])
            else:
                logits = self(tokens[:, start:], mask, cache)
            start = tokens.shape[1]
            new = torch.multinomial(
                sampling_distribution(logits[:, -1], temperature, top_k, top_p), 1, generator=generator
            ).to(tokens.dtype)
            if stop_token is not None:
                new[done] = stop_token
                done |= new[:, 0] == stop_token
            tokens, mask = torch.cat([tokens, new], 1), nn.functional.pad(mask, (0, 1), value=True)
            if len(done) and done.all():
                break
        return tokens
