"""Swin: attention within windows, whose grid is shifted from block to block, on maps that halve from stage to stage.

Liu et al. 2021, arXiv:2103.14030, §3. Of a map of H × W tokens, C wide, and windows of M × M tokens:

    Attention(Q, K, V) = SoftMax(Q Kᵀ/√d + B) V                            eq. 4, within a window
    B of a query at (y, x) and a key at (y′, x′): B̂[y − y′, x − x′], learned, (2M − 1)² values a head
    z ← W-MSA(LN(z)) + z,   z ← MLP(LN(z)) + z                             eq. 3, then with SW-MSA:
        the grid of windows begins ⌊M/2⌋ further down and right, and what it cuts off at an edge attends to itself
    patch merging: (2i, 2j), (2i + 1, 2j), (2i, 2j + 1), (2i + 1, 2j + 1) become one token LN([…]) W, 4C → 2C

    W-MSA takes 4 H W C² + 2 M² H W C multiply-adds, linear in the number of tokens         eq. 2

Convention, as released: an image or map that patches, windows or pairs do not divide has zeros added at its right
and bottom, for windows after the norm and before the shift; these tokens are attended to, then cut off. A side of one
window is not shifted. Linear layers begin as those of `MultiHeadAttention` and `FeedForward`; no stochastic depth.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from ...layers.attention import MultiHeadAttention
from ...layers.checks import check_sizes, check_space
from ...layers.initialisers import trunc_normal_
from ...layers.linear import Linear
from ...layers.normalization import LayerNorm
from ...layers.patches import PatchEmbedding
from ...layers.transformer import FeedForward
from ...layers.windows import pad

__all__ = ["PatchMerging", "SwinBlock", "SwinTransformer", "WindowAttention"]


class WindowAttention(MultiHeadAttention):
    """Multi-head self-attention among the tokens of each window, with a learned bias for every relative position.

    Args:
        dim: C, width of the tokens.
        window_size: M, tokens along a window's side.
        num_heads: of the attention.

    Raises:
        ValueError: a size below 1, a width that heads do not divide; windows of another size or width.

    Source: Liu et al. 2021, arXiv:2103.14030, eq. 4; the biases begin N(0, 0.02²), as released.
    """

    def __init__(self, dim: int, window_size: int, num_heads: int):
        super().__init__(dim, num_heads)
        check_sizes(window_size=window_size)
        self.window_size = window_size
        self.bias_table = nn.Parameter(torch.empty((2 * window_size - 1) ** 2, num_heads))  # B̂, row by row
        trunc_normal_(self.bias_table.data, std=0.02)

    def bias(self) -> Float[Tensor, "heads t t"]:
        """B of every query and key of a window, M² each, row by row."""
        m = self.window_size
        place = torch.arange(m, device=self.bias_table.device)
        apart = place[:, None] - place + m - 1  # (M, M): of a query's and a key's place along one side, from 0
        index = apart[:, None, :, None] * (2 * m - 1) + apart[:, None, :]  # (y, x, y′, x′)
        return self.bias_table[index.flatten(2).flatten(0, 1)].permute(2, 0, 1)

    def forward(
        self, windows: Float[Tensor, "b t d"], mask: Bool[Tensor, "b t t"] | None = None
    ) -> Float[Tensor, "b t d"]:
        """Each token's new features.

        Args:
            windows: the M² tokens of each window, row by row.
            mask: True where a query (first t) may attend to a key; if None, everywhere.
        """
        if windows.dim() != 3 or windows.shape[1] != self.window_size**2:
            raise ValueError(f"expected windows of {self.window_size**2} tokens, got {tuple(windows.shape)}")
        bias = self.bias().expand(len(windows), -1, -1, -1)  # (b, heads, t, t)
        bias = bias if mask is None else bias.masked_fill(~mask[:, None], -torch.inf)
        return super().forward(windows, attn_mask=bias)


class SwinBlock(nn.Module):
    """W-MSA or SW-MSA and an MLP, each after a norm and with a residual branch.

    Args:
        dim: C, width of the tokens.
        num_heads: of the attention.
        window_size: M.
        shift_size: how far down and right the grid of windows begins: 0 for W-MSA, ⌊M/2⌋ for SW-MSA.
        mlp_dim: width of the MLP's hidden layer, 4C if None.

    Raises:
        ValueError: a size below 1, a width that heads do not divide, a shift outside [0, M); a map of another width.

    Source: Liu et al. 2021, arXiv:2103.14030, eq. 3, §3.2.
    """

    def __init__(self, dim: int, num_heads: int, window_size: int = 7, shift_size: int = 0, mlp_dim: int | None = None):
        super().__init__()
        if not 0 <= shift_size < window_size:
            raise ValueError(f"expected a shift in [0, {window_size}), got {shift_size}")
        self.shift_size = shift_size
        self.norm1, self.norm2 = LayerNorm(dim), LayerNorm(dim)
        self.attention = WindowAttention(dim, window_size, num_heads)
        self.mlp = FeedForward(dim, 4 * dim if mlp_dim is None else mlp_dim, "gelu")

    def forward(self, x: Float[Tensor, "n h w d"]) -> Float[Tensor, "n h w d"]:
        _check_map(x, self.attention.in_proj_weight.shape[1])
        x = x + self._attend_in_windows(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    def _attend_in_windows(self, x):
        height, width, m = *x.shape[1:3], self.attention.window_size
        rows, columns = -(-height // m), -(-width // m)
        x = pad(x, [(0, rows * m - height), (0, columns * m - width), (0, 0)])
        down, right = (self.shift_size if count > 1 else 0 for count in (rows, columns))
        x = x.roll((-down, -right), (1, 2))  # cyclic: windows of the shifted grid become those of the plain one
        mask = _may_attend(rows * m, columns * m, down, right, m, x.device).repeat(len(x), 1, 1)
        x = _join(self.attention(_cut(x, m), mask), rows, columns)
        return x.roll((down, right), (1, 2))[:, :height, :width]


class PatchMerging(nn.Module):
    """2 × 2 neighbouring tokens become one, twice as wide.

    Args:
        dim: C, width of the tokens that come.

    Raises:
        ValueError: a size below 1; a map of another width.

    Source: Liu et al. 2021, arXiv:2103.14030, §3.1; order of the four, norm and no bias as released.
    """

    def __init__(self, dim: int):
        super().__init__()
        check_sizes(dim=dim)
        self.norm = LayerNorm(4 * dim)
        self.reduction = Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Float[Tensor, "n h w d"]) -> Float[Tensor, "n rows columns e"]:
        _check_map(x, self.norm.weight.numel() // 4)
        x = pad(x, [(0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)])
        four = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduction(self.norm(torch.cat(four, dim=-1)))  # (n, h/2, w/2, 4C → 2C)


class SwinTransformer(nn.Module):
    """Images of any size to the logits of classes.

    Args:
        embed_dim: C, width of the first stage's tokens; it doubles at each stage.
        depths: blocks of each stage, W-MSA and SW-MSA in turn.
        num_heads: of each stage's attentions.
        window_size: M.
        patch_size: side of the patches that become the first tokens.
        num_classes: of the head; if None there is no head, and the mean of the last tokens comes out.
        channels: of the images.

    Raises:
        ValueError: a size below 1, no stage, as many depths as heads do not match, a width that heads do not divide;
            images of other channels, or without a pixel.

    Source: Liu et al. 2021, arXiv:2103.14030, §3.1 and §3.3.
    """

    def __init__(
        self,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        patch_size: int = 4,
        num_classes: int | None = 1000,
        channels: int = 3,
    ):
        super().__init__()
        if not depths or len(depths) != len(num_heads) or min(depths) < 1:
            raise ValueError(f"expected one depth >= 1 and one number of heads a stage, got {depths} and {num_heads}")
        self.patches = PatchEmbedding(channels, embed_dim, patch_size)
        self.embedding_norm = LayerNorm(embed_dim)
        self.stages, self.mergings = nn.ModuleList(), nn.ModuleList()
        for stage, (depth, heads) in enumerate(zip(depths, num_heads)):
            dim = embed_dim * 2**stage
            if stage:
                self.mergings.append(PatchMerging(dim // 2))
            shifts = [window_size // 2 * (number % 2) for number in range(depth)]
            self.stages.append(nn.ModuleList(SwinBlock(dim, heads, window_size, shift) for shift in shifts))
        self.norm = LayerNorm(dim)
        self.head = None if num_classes is None else Linear(dim, num_classes)

    def encode(self, images: Float[Tensor, "n c height width"]) -> Float[Tensor, "n h w d"]:
        """The last stage's tokens, normalized, where they lie."""
        check_space(images, 2)
        size = self.patches.patch_size
        images = pad(images, [(0, -images.shape[2] % size), (0, -images.shape[3] % size)])
        x = self.patches.projection(images).movedim(1, -1)  # (n, height/P, width/P, C)
        x = self.embedding_norm(x)
        for stage, blocks in enumerate(self.stages):
            if stage:
                x = self.mergings[stage - 1](x)
            for block in blocks:
                x = block(x)
        return self.norm(x)

    def forward(self, images: Float[Tensor, "n c height width"]) -> Float[Tensor, "n classes"]:
        y = self.encode(images).mean((1, 2))
        return y if self.head is None else self.head(y)


def _cut(x: Shaped[Tensor, "n h w *d"], m: int) -> Shaped[Tensor, "b t *d"]:
    """The windows of each map, row by row, and their tokens, likewise."""
    return x.unflatten(2, (-1, m)).unflatten(1, (-1, m)).transpose(2, 3).flatten(3, 4).flatten(0, 2)


def _join(windows: Float[Tensor, "b t d"], rows: int, columns: int) -> Float[Tensor, "n h w d"]:
    """The maps of windows: the inverse of `_cut`."""
    m = round(windows.shape[1] ** 0.5)
    x = windows.unflatten(1, (m, m)).unflatten(0, (-1, rows, columns))  # (n, rows, columns, M, M, d)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _may_attend(height, width, down, right, m, device) -> Bool[Tensor, "windows t t"]:
    """Whether two tokens of a window of the rolled map may attend: both, or neither, came from the opposite edge."""
    rows = torch.arange(height, device=device) >= height - down
    columns = torch.arange(width, device=device) >= width - right
    region = _cut((2 * rows[:, None] + columns.long())[None], m)  # (windows, M²)
    return region[:, :, None] == region[:, None, :]


def _check_map(x: Tensor, width: int) -> None:
    if x.dim() != 4 or 0 in x.shape[1:] or x.shape[-1] != width:
        raise ValueError(f"expected a map (n, height, width, {width}), none but the first empty, got {tuple(x.shape)}")
