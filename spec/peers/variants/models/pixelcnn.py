"""PixelCNN over torch's convolution, without a mask of space: images are shifted, and kernels have past taps alone."""

import torch
from torch import nn
from torch.nn.functional import conv2d, log_softmax, pad


def colours_of(channels, groups):
    return torch.arange(groups).repeat_interleave(channels // groups)


def one_by_one(x, weight, bias, groups, strictly=False):
    """At a pixel, by a matrix whose entries from later colours are 0."""
    to, of = (colours_of(n, groups).to(weight.device) for n in weight.shape[:2])
    keep = to[:, None] > of if strictly else to[:, None] >= of
    return torch.einsum("oi,bihw->bohw", weight * keep, x) + (0 if bias is None else bias[:, None, None])


class MaskedConv2d(nn.Module):
    def __init__(self, in_channels, out_channels, kernel_size, mask_type="B", num_groups=1, bias=True):
        super().__init__()
        height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        plain = nn.Conv2d(in_channels, out_channels, (height, width), bias=bias)
        self.weight, self.bias = plain.weight, plain.bias
        self.strictly, self.num_groups = mask_type == "A", num_groups

    def forward(self, x):
        row, column = self.weight.shape[2] // 2, self.weight.shape[3] // 2
        centre = self.weight[:, :, row, column]
        y = one_by_one(x, centre, self.bias, self.num_groups, self.strictly)
        if column:
            left = self.weight[:, :, row : row + 1, :column]
            y = y + conv2d(pad(x, (column, 0))[..., :-1], left)
        if row:
            above = self.weight[:, :, :row]
            y = y + conv2d(pad(x, (column, column, row, 0))[:, :, :-1], above)
        return y


class GatedPixelCNNLayer(nn.Module):
    def __init__(self, channels, kernel_size, mask_type="B", in_channels=None, num_groups=1, condition_features=None):
        super().__init__()
        inputs, wide, side = in_channels or channels, 2 * channels, kernel_size // 2
        self.first, self.side, self.num_groups = mask_type == "A", side, num_groups
        self.vertical = nn.Conv2d(inputs, wide, (side + (not self.first), kernel_size))
        self.to_horizontal = nn.Conv2d(wide, wide, 1)
        self.horizontal = MaskedConv2d(inputs, wide, (1, kernel_size), mask_type, num_groups)
        self.output = MaskedConv2d(channels, channels, 1, "B", num_groups)
        self.conditional = condition_features is not None
        if self.conditional:
            self.condition_vertical = nn.Conv2d(condition_features, wide, 1, bias=False)
            self.condition_horizontal = nn.Conv2d(condition_features, wide, 1, bias=False)

    def forward(self, v, h, condition=None):
        above = self.vertical(pad(v, (self.side, self.side, self.side, -1 if self.first else 0)))
        if self.conditional:
            condition = condition[:, :, None, None] if condition.dim() == 2 else condition
            above = above + self.condition_vertical(condition)
        along = self.horizontal(h) + self.to_horizontal(above)
        if self.conditional:
            along = along + self.condition_horizontal(condition)
        made = self.output(self.gate(along))
        return self.gate(above), made if self.first else h + made

    def gate(self, a):
        halves = a.reshape(a.shape[0], self.num_groups, 2, a.shape[1] // (2 * self.num_groups), *a.shape[2:])
        return (torch.tanh(halves[:, :, 0]) * torch.sigmoid(halves[:, :, 1])).flatten(1, 2)


class PixelCNN(nn.Module):
    def __init__(
        self,
        in_channels,
        num_levels=256,
        channels=120,
        num_layers=15,
        kernel_size=3,
        first_kernel_size=7,
        condition_features=None,
    ):
        super().__init__()
        self.colours, self.levels = in_channels, num_levels
        self.layers = nn.ModuleList()
        for n in range(num_layers):
            kind = (kernel_size, "B", channels) if n else (first_kernel_size, "A", in_channels)
            self.layers.append(GatedPixelCNNLayer(channels, *kind, in_channels, condition_features))
        self.hidden = MaskedConv2d(channels, channels, 1, "B", in_channels)
        self.logits = MaskedConv2d(channels, in_channels * num_levels, 1, "B", in_channels)

    def forward(self, x, condition=None):
        x = x if x.is_floating_point() else x.to(self.hidden.weight.dtype)
        v = h = (x - (self.levels - 1) / 2) / ((self.levels - 1) / 2)
        for layer in self.layers:
            v, h = layer(v, h, condition)
        y = self.logits(torch.relu(self.hidden(torch.relu(h))))
        return y.reshape(len(y), self.colours, self.levels, *y.shape[2:]).movedim(2, 1)

    def log_prob(self, x, condition=None):
        logits = self(x, condition)
        each = log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=1)
        return torch.take_along_dim(each, x.long().unsqueeze(1), dim=1).sum((1, 2, 3, 4))

    @torch.no_grad()
    def sample(self, n, size, condition=None, generator=None):
        height, width = (size, size) if isinstance(size, int) else size
        x = torch.zeros(n, self.colours, height, width, dtype=torch.int64)
        for place in range(height * width * self.colours):
            pixel, colour = divmod(place, self.colours)
            row, column = divmod(pixel, width)
            share = self(x, condition)[:, :, colour, row, column].softmax(1)
            # The inverse of the distribution function at a uniform number.
            uniform = torch.rand(n, 1, generator=generator, dtype=share.dtype)
            x[:, colour, row, column] = (share.cumsum(1)[:, :-1] <= uniform).sum(1)
        return x
