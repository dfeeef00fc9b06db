"""GPT: a decoder-only transformer that predicts the next token, and generates text one token after another.

Radford et al. 2018 (GPT), §3.1; Radford et al. 2019 (GPT-2), §2.3; this is the second.

    h_t = E[x_t] + P[t];   in each block h ← h + Attention(LN(h)), h ← h + FFN(LN(h));   p(x_t+1|…) = softmax(E LN(h_t))

Convention: GPT-2's: pre-norm with a final norm, learned positions, tanh-GELU of width 4·n_embd, E as both input and
output matrix, dropout after the embeddings, of attention weights and of branches; weights are initialised as
N(0, 0.02²), those that end a branch as N(0, 0.02²/(2·n_layer)), biases as 0. Parameters are named as in our blocks;
`weights_from_gpt2` and `weights_to_gpt2` convert the released checkpoints.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from ...layers.attention import KeyValueCache
from ...layers.checks import check_sizes
from ...layers.dropout import Dropout
from ...layers.embedding import Embedding
from ...layers.normalization import LayerNorm
from ...layers.positional import LearnedPositionalEmbedding, token_positions
from ...layers.transformer import FeedForward, TransformerEncoderBlock
from .checkpoint import weights_from_gpt2, weights_to_gpt2
from .sampling import check_sampling, sampling_distribution
from .training import decay_groups, next_token_loss, train

__all__ = [
    "GPT",
    "decay_groups",
    "next_token_loss",
    "sampling_distribution",
    "train",
    "weights_from_gpt2",
    "weights_to_gpt2",
]


class GPT(nn.Module):
    """GPT-2 of any size.

        small    GPT(50257, 1024, n_layer=12, n_head=12, n_embd=768)       124,439,808 parameters
        medium   GPT(50257, 1024, n_layer=24, n_head=16, n_embd=1024)      354,823,168
        large    GPT(50257, 1024, n_layer=36, n_head=20, n_embd=1280)      774,030,080
        XL       GPT(50257, 1024, n_layer=48, n_head=25, n_embd=1600)    1,557,611,200

    Args:
        vocab_size: V, number of tokens.
        block_size: the longest text, in tokens.
        n_layer: number of blocks.
        n_head: heads of each attention.
        n_embd: d, width of the tokens.
        dropout: probability of every dropout.
        bias: if True, linear layers and norms have a bias.

    Raises:
        ValueError: sizes below 1 or that do not divide, `dropout` outside [0, 1); tokens that are not integers (b, t),
            or more than block_size of them.
        IndexError: a token outside of [0, vocab_size).

    Source: Radford et al. 2019 (GPT-2), §2.3 and Table 2.
    """

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        n_layer: int,
        n_head: int,
        n_embd: int,
        dropout: float = 0.1,
        bias: bool = True,
    ):
        super().__init__()
        check_sizes(n_layer=n_layer)
        self.block_size = block_size
        self.wte = Embedding(vocab_size, n_embd)
        self.wpe = LearnedPositionalEmbedding(block_size, n_embd)
        self.drop = Dropout(dropout)
        self.blocks = nn.ModuleList(
            TransformerEncoderBlock(
                n_embd,
                n_head,
                dropout=dropout,
                norm_first=True,
                bias=bias,
                is_causal=True,
                # GPT-2 drops nothing between the two layers.
                feed_forward=FeedForward(n_embd, 4 * n_embd, "gelu_tanh", bias=bias),
            )
            for _ in range(n_layer)
        )
        self.ln_f = LayerNorm(n_embd, bias=bias)
        self._initialise(0.02, 0.02 / math.sqrt(2 * n_layer))

    @torch.no_grad()
    def _initialise(self, std, std_of_branch_ends):
        for name, parameter in self.named_parameters():
            ends_a_branch = name.endswith(("out_proj.weight", "linear2.weight"))
            if parameter.dim() > 1:
                parameter.normal_(0, std_of_branch_ends if ends_a_branch else std)
            elif name.endswith("bias"):
                parameter.zero_()

    def forward(
        self,
        tokens: Int[Tensor, "b t"],
        key_mask: Bool[Tensor, "b s"] | None = None,
        cache: list[KeyValueCache] | None = None,
    ) -> Float[Tensor, "b t vocabulary"]:
        """Logits of the token after each.

        Args:
            key_mask: over all s tokens, including those in the cache: False at padding, which is on the left when text
                is to be continued. Positions then count the tokens, so that padding does not change the result.
            cache: from `new_cache`; holds the s − t tokens before these, and stores these too.
        """
        if tokens.dim() != 2 or tokens.is_floating_point():
            raise ValueError(f"expected integer tokens (batch, tokens), got {tuple(tokens.shape)} of {tokens.dtype}")
        past = 0 if cache is None or cache[0].key is None else cache[0].key.shape[2]
        if past + tokens.shape[1] > self.block_size:
            raise ValueError(f"expected at most block_size = {self.block_size} tokens, got {past + tokens.shape[1]}")
        positions = past if key_mask is None else token_positions(key_mask)[:, past:]
        x = self.drop(self.wpe(self.wte(tokens), positions))
        for n, block in enumerate(self.blocks):
            x = block(x, key_mask=key_mask, cache=None if cache is None else cache[n])
        return self.ln_f(x) @ self.wte.weight.T

    def new_cache(self) -> list[KeyValueCache]:
        """An empty cache of keys and values for each block."""
        return [KeyValueCache() for _ in self.blocks]

    def loss(self, tokens: Int[Tensor, "b t"], key_mask: Bool[Tensor, "b t"] | None = None) -> Float[Tensor, ""]:
        """Mean cross-entropy, in nats, of every token but the first, given those before it.

        Args:
            key_mask: False at padding; neither padding nor the token after it counts.

        Raises:
            ValueError: fewer than two tokens: there is nothing to predict.
        """
        if tokens.dim() != 2 or tokens.shape[1] < 2:
            raise ValueError(f"expected (batch, tokens) of two tokens or more, got {tuple(tokens.shape)}")
        if key_mask is None:
            return next_token_loss(self(tokens[:, :-1]), tokens[:, 1:])
        seen = key_mask[:, :-1]
        return next_token_loss(self(tokens[:, :-1], seen), tokens[:, 1:], seen & key_mask[:, 1:])

    @torch.no_grad()
    def generate(
        self,
        tokens: Int[Tensor, "b t"],
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        stop_token: int | None = None,
        key_mask: Bool[Tensor, "b t"] | None = None,
        generator: Generator | None = None,
    ) -> Int[Tensor, "b longer"]:
        """The tokens, continued by the model in its present mode (training or evaluation), in their own dtype.

        A text longer than block_size is continued from its last block_size tokens.

        Args:
            temperature, top_k, top_p: as in `sampling_distribution`; temperature 0 is greedy.
            stop_token: ends a text; stop_token is then repeated until all texts have ended.
            key_mask: False at padding, which is on the left.
            generator: source of randomness; the same seed gives the same text.

        Raises:
            ValueError: no tokens, a negative max_new_tokens, padding on the right, a mask of another shape, settings
                out of range.
        """
        if tokens.dim() != 2:
            raise ValueError(f"expected tokens (batch, tokens), got shape {tuple(tokens.shape)}")
        if tokens.shape[1] < 1 or max_new_tokens < 0:
            raise ValueError(f"expected tokens and max_new_tokens >= 0, got {tokens.shape[1]} and {max_new_tokens}")
        if key_mask is not None and key_mask.shape != tokens.shape:
            raise ValueError(f"expected key_mask of shape {tuple(tokens.shape)}, got {tuple(key_mask.shape)}")
        if key_mask is not None and not key_mask[:, -1].all():
            raise ValueError("expected padding on the left, got some in the last column of key_mask")
        check_sampling(temperature, top_k, top_p)
        cache, new = self.new_cache(), tokens
        ended = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        for _ in range(max_new_tokens):
            if tokens.shape[1] <= self.block_size:
                logits = self(new, key_mask, cache)
            else:  # the window moves, and with it every position: the cache is useless
                logits = self(
                    tokens[:, -self.block_size :], None if key_mask is None else key_mask[:, -self.block_size :]
                )
            probabilities = sampling_distribution(logits[:, -1], temperature, top_k, top_p)
            new = torch.multinomial(probabilities, 1, generator=generator).to(tokens.dtype)
            if stop_token is not None:
                new = new.masked_fill(ended[:, None], stop_token)
                ended = ended | (new[:, 0] == stop_token)
            tokens = torch.cat([tokens, new], 1)
            if key_mask is not None:
                key_mask = torch.cat([key_mask, key_mask.new_ones(len(tokens), 1)], 1)
            if len(tokens) and ended.all():
                break
        return tokens
