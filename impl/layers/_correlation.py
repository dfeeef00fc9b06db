"""Cross-correlation and its two adjoints: three maps, each of which is made of the other two when it is differentiated.

    T(x, w, y) = Σ y[b, o, p] · w[o, c, t] · x[b, c, s·p + l·t]        over all b, o, c, places p and taps t
    correlate(x, w) = ∂T/∂y        a convolution layer's output
    spread(y, w) = ∂T/∂x           its gradient to the input; the output of a transposed convolution
    weigh(x, y) = ∂T/∂w            its gradient to the weights

T is linear in each of the three, so derivatives of every order stay within the family. A tap is a matrix product, of
its weights with a slice of the image: when the rows of the image form one line, the numbers under a tap at all places
stand in a row as they are, and nothing is copied. At the end of each row the line takes along the few places where a
kernel would reach into the next row; they are dropped. A stride first parts the image into s_1·s_2 phases, and each
tap reads one of them, place by place. Where channels are few, the slices of several taps are put side by side.

Convention: no flip of the kernel; s is the stride, l the dilation, places are those where the whole kernel fits.
"""

import itertools

import torch

from ._window import pad, places

FEWEST = 8  # channels of a product; below, it moves more numbers than it multiplies


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


def _phase(size, kernel, stride, dilation):
    """Rows and columns of a phase: as many as there are places, and those that the farthest tap needs beyond."""
    fit = places(size, kernel, stride, dilation)
    return [n + (k - 1) * step // s for n, k, s, step in zip(fit, kernel, stride, dilation)]


def _taps(size, kernel, stride, dilation, channels, outputs):
    """The taps (i, j) in groups that are one product each; of each the phase that it reads, and the slice of its line.

    A tap at s·q + r from its place reads phase r, from row q_1 and column q_2 on.
    """
    rows, columns = places(size, kernel, stride, dilation)
    width = _phase(size, kernel, stride, dilation)[1]
    taps = []
    for tap in itertools.product(*map(range, kernel)):
        (row, of_row), (column, of_column) = (divmod(t * step, s) for t, step, s in zip(tap, dilation, stride))
        first = row * width + column
        taps.append((of_row, of_column, ..., slice(first, first + (rows - 1) * width + columns)))
    together = len(taps) if channels < FEWEST and outputs > 1 else 1
    return [taps[n : n + together] for n in range(0, len(taps), together)]


def _under(phases, taps):
    """What lies under the taps at all places, (B·groups, taps · channels of a group, run)."""
    return phases[taps[0]] if len(taps) == 1 else torch.cat([phases[tap] for tap in taps], dim=1)


def _to_phases(x, phase, stride, groups):
    """(B, C, H, W) → (s_1, s_2, B·groups, channels of a group, numbers of a phase in one line)."""
    b, c, *size = x.shape
    x = pad(x, [(0, n * s - now) for n, s, now in zip(phase, stride, size)])  # a negative margin cuts off
    x = x.reshape(b, c, phase[0], stride[0], phase[1], stride[1]).permute(3, 5, 0, 1, 2, 4)
    return x.reshape(*stride, b * groups, c // groups, phase[0] * phase[1])


def _from_phases(x, size, phase, groups):
    """(s_1, s_2, B·groups, channels of a group, numbers of a phase in one line) → (B, C, H, W)."""
    *stride, samples, channels, _ = x.shape
    x = x.reshape(*stride, samples // groups, groups * channels, *phase).permute(2, 3, 4, 0, 5, 1)
    x = x.reshape(samples // groups, groups * channels, phase[0] * stride[0], phase[1] * stride[1])
    return pad(x, [(0, n - now) for n, now in zip(size, x.shape[2:])])


def _to_line(y, width, groups):
    """(B, O, H', W') → (B·groups, outputs of a group, from the first place to the last); zeros between the rows."""
    b, o, rows, columns = y.shape
    line = pad(y, [(0, width - columns)]).reshape(b * groups, o // groups, rows * width)
    return line[..., : (rows - 1) * width + columns]


def _from_line(line, rows, columns, width, groups):
    """(B·groups, outputs of a group, from the first place to the last) → (B, O, H', W')."""
    samples, outputs, length = line.shape
    shape = samples // groups, groups * outputs, rows, columns
    return line.as_strided(shape, (groups * outputs * length, length, width, 1)).contiguous()


def _matrices(w, groups, samples):
    """(B·groups, outputs of a group, taps · channels of a group)."""
    o, c, *_ = w.shape
    w = w.reshape(groups, o // groups, c, -1).mT.reshape(groups, o // groups, -1)
    return w.expand(samples, *w.shape).reshape(samples * groups, *w.shape[1:])


class _Correlate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, stride, dilation, groups):
        ctx.save_for_backward(x, w)
        ctx.how = stride, dilation, groups
        how = x.shape[2:], w.shape[2:], stride, dilation
        phase = _phase(*how)
        phases, taps = _to_phases(x, phase, stride, groups), _taps(*how, w.shape[1], len(w) // groups)
        matrices = _matrices(w, groups, len(x)).split([len(some) * w.shape[1] for some in taps], dim=-1)
        y = torch.bmm(matrices[0], _under(phases, taps[0]))
        for matrix, some in zip(matrices[1:], taps[1:]):
            y.baddbmm_(matrix, _under(phases, some))
        return _from_line(y, *places(*how), phase[1], groups)

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
        how = size, w.shape[2:], stride, dilation
        phase, channels = _phase(*how), w.shape[1]
        line, taps = _to_line(y, phase[1], groups), _taps(*how, channels, len(w) // groups)
        matrices = _matrices(w, groups, len(y)).mT.split([len(some) * channels for some in taps], dim=1)
        phases = y.new_zeros(*stride, len(line), channels, phase[0] * phase[1])
        for matrix, some in zip(matrices, taps):
            if len(some) == 1 and channels > 1:  # a slice of one row is copied before torch adds a product to it
                phases[some[0]].baddbmm_(matrix, line)
            else:
                for tap, share in zip(some, torch.bmm(matrix, line).split(channels, dim=1)):
                    phases[tap].add_(share)
        return _from_phases(phases, size, phase, groups)

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
        how = x.shape[2:], kernel, stride, dilation
        phase, channels = _phase(*how), x.shape[1] // groups
        phases, line = _to_phases(x, phase, stride, groups), _to_line(y, phase[1], groups)
        w = torch.cat(
            [torch.bmm(line, _under(phases, some).mT) for some in _taps(*how, channels, line.shape[1])], dim=-1
        )
        w = w.reshape(len(x), *y.shape[1:2], -1, channels).sum(0)  # (O, taps, channels of a group)
        return w.mT.reshape(y.shape[1], channels, *kernel)

    @staticmethod
    def backward(ctx, w):
        x, y = ctx.saved_tensors
        d_x = spread(y, w, x.shape[2:], *ctx.how) if ctx.needs_input_grad[0] else None
        d_y = correlate(x, w, *ctx.how) if ctx.needs_input_grad[1] else None
        return d_x, d_y, None, None, None, None
