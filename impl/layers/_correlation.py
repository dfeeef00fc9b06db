"""Cross-correlation and its two adjoints: three maps, each of which is made of the other two when it is differentiated.

    T(x, w, y) = Σ y[b, o, p] · w[o, c, t] · x[b, c, s·p + l·t]        over all b, o, c, places p and taps t
    correlate(x, w) = ∂T/∂y        a convolution layer's output
    spread(y, w) = ∂T/∂x           its gradient to the input; the output of a transposed convolution
    weigh(x, y) = ∂T/∂w            its gradient to the weights

T is linear in each of the three, so derivatives of every order stay within the family. A matrix product does the work:
the numbers under the kernel at each place, side by side, are the columns of a matrix (Chellapilla, Puri & Simard 2006).
They take as many times the image's memory as the kernel has taps, so they are made again rather than kept.

Convention: no flip of the kernel; s is the stride, l the dilation, places are those where the whole kernel fits.
"""

import math

import torch

from ._window import extents, places


def correlate(x, w, stride, dilation, groups):
    """y[b, o, p] = Σ_{c,t} w[o, c, t] x[b, c, s·p + l·t], where output o sees only the input channels of its group.

    Args:
        x: (B, C, H, W), already padded.
        w: (O, C/groups, kh, kw).
        stride, dilation: pairs, along H and along W.
    """
    return _Correlate.apply(x, w, stride, dilation, groups)


def spread(y, w, size, stride, dilation, groups):
    """x[b, c, q] = Σ w[o, c, t] y[b, o, p] over o, p, t with s·p + l·t = q: outputs given back to their inputs.

    Args:
        y: (B, O, H', W').
        w: (O, C/groups, kh, kw).
        size: (H, W), of which the places are (H', W').
    """
    return _Spread.apply(y, w, size, stride, dilation, groups)


def weigh(x, y, kernel, stride, dilation, groups):
    """w[o, c, t] = Σ_{b,p} y[b, o, p] x[b, c, s·p + l·t].

    Args:
        kernel: (kh, kw).
    """
    return _Weigh.apply(x, y, kernel, stride, dilation, groups)


def windows(x, kernel, stride, dilation):
    """A view of x (B, C, H, W) as (B, C, kh, kw, H', W'): what lies under each tap of the kernel at each place."""
    height, width = extents(kernel, dilation)
    view = x.unfold(2, height, stride[0]).unfold(3, width, stride[1])  # (B, C, H', W', extents)
    return view[..., :: dilation[0], :: dilation[1]].permute(0, 1, 4, 5, 2, 3)


def _columns(x, kernel, stride, dilation, groups):
    """(B, groups, channels of a group · taps, places)."""
    view = windows(x, kernel, stride, dilation)
    b, c, *_, h, w = view.shape
    return view.reshape(b, groups, c // groups * math.prod(kernel), h * w)


class _Correlate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, stride, dilation, groups):
        ctx.save_for_backward(x, w)
        ctx.how = stride, dilation, groups
        kernel = w.shape[2:]
        columns = _columns(x, kernel, stride, dilation, groups)
        y = torch.matmul(w.reshape(groups, len(w) // groups, -1), columns)
        return y.reshape(len(x), len(w), *places(x.shape[2:], kernel, stride, dilation))

    @staticmethod
    def backward(ctx, y):
        x, w = ctx.saved_tensors
        d_x = spread(y, w, x.shape[2:], *ctx.how) if ctx.needs_input_grad[0] else None
        d_w = weigh(x, y, w.shape[2:], *ctx.how) if ctx.needs_input_grad[1] else None
        return d_x, d_w, None, None, None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y, w, size, stride, dilation, groups):
        ctx.save_for_backward(y, w)
        ctx.how = stride, dilation, groups
        b, o, h, width = y.shape
        kernel, channels = w.shape[2:], groups * w.shape[1]
        of_groups = w.reshape(groups, o // groups, -1).mT
        columns = torch.matmul(of_groups, y.reshape(b, groups, o // groups, h * width))
        columns = columns.reshape(b, channels, *kernel, h, width)
        x = y.new_zeros(b, channels, *size)
        for i in range(kernel[0]):
            for j in range(kernel[1]):  # what a tap lies on at all places is a slice, each number of it once
                top, left = i * dilation[0], j * dilation[1]
                under = x[:, :, top : top + stride[0] * h : stride[0], left : left + stride[1] * width : stride[1]]
                under.add_(columns[:, :, i, j])
        return x

    @staticmethod
    def backward(ctx, x):
        y, w = ctx.saved_tensors
        d_y = correlate(x, w, *ctx.how) if ctx.needs_input_grad[0] else None
        d_w = weigh(x, y, w.shape[2:], *ctx.how) if ctx.needs_input_grad[1] else None
        return d_y, d_w, None, None, None, None


class _Weigh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, kernel, stride, dilation, groups):
        ctx.save_for_backward(x, y)
        ctx.how = stride, dilation, groups
        columns = _columns(x, kernel, stride, dilation, groups)
        y = y.reshape(len(y), groups, y.shape[1] // groups, -1)
        return torch.matmul(y, columns.mT).sum(0).reshape(groups * y.shape[2], -1, *kernel)

    @staticmethod
    def backward(ctx, w):
        x, y = ctx.saved_tensors
        d_x = spread(y, w, x.shape[2:], *ctx.how) if ctx.needs_input_grad[0] else None
        d_y = correlate(x, w, *ctx.how) if ctx.needs_input_grad[1] else None
        return d_x, d_y, None, None, None, None
