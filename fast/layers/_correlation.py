"""Cross-correlation and its two adjoints: three maps, each of which is made of the other two when it is differentiated.

    T(x, w, y) = Σ y[b, o, p] · w[o, c, t] · x[b, c, s·p + l·t]        over all b, o, c, places p and taps t
    correlate(x, w) = ∂T/∂y        a convolution layer's output
    spread(y, w) = ∂T/∂x           its gradient to the input; the output of a transposed convolution
    weigh(x, y) = ∂T/∂w            its gradient to the weights

T is linear in each of the three, so derivatives of every order stay within the family. A tap is a matrix product, of
its weights with a slice of the image: when the rows of the image form one line, the numbers under a tap at all places
stand in a row as they are, and nothing is copied. At the end of each row the line takes along the few places where a
kernel would reach into the next row; they are dropped. A stride first parts the image into s_1·s_2 phases, and each
tap reads one of them, place by place. Backwards, a phase is the sum of its taps' products with slices of the line of
outputs, with zeros around it. Where channels are few, the slices of all taps are put side by side for one product.

Convention: no flip of the kernel; s is the stride, l the dilation, places are those where the whole kernel fits.
"""

import itertools

import torch

from ._autocast import as_of_products
from ._window import pad, places

FEWEST = 8  # channels of a product; below, it moves more numbers than it multiplies


def correlate(x, w, stride, dilation, groups):
    """y[b, o, p] = Σ_{c,t} w[o, c, t] x[b, c, s·p + l·t], where output o sees only the input channels of its group.

    Args:
        x: (B, C, H, W), already padded.
        w: (O, C/groups, kh, kw).
        stride, dilation: pairs, along H and along W.
    """
    return _Correlate.apply(*as_of_products(x, w), stride, dilation, groups)


def spread(y, w, size, stride, dilation, groups):
    """x[b, c, q] = Σ w[o, c, t] y[b, o, p] over o, p, t with s·p + l·t = q: outputs given back to their inputs.

    Args:
        y: (B, O, H', W').
        w: (O, C/groups, kh, kw).
        size: (H, W), of which the places are (H', W').
    """
    return _Spread.apply(*as_of_products(y, w), size, stride, dilation, groups)


def weigh(x, y, kernel, stride, dilation, groups):
    """w[o, c, t] = Σ_{b,p} y[b, o, p] x[b, c, s·p + l·t].

    Args:
        kernel: (kh, kw).
    """
    return _Weigh.apply(*as_of_products(x, y), kernel, stride, dilation, groups)


def _phase(size, kernel, stride, dilation):
    """Rows and columns of a phase: as many as there are places, and those that the farthest tap needs beyond."""
    fit = places(size, kernel, stride, dilation)
    return [n + (k - 1) * step // s for n, k, s, step in zip(fit, kernel, stride, dilation)]


def _taps(size, kernel, stride, dilation):
    """Of each tap (i, j), in order, the phase that it reads, and the slice of its line.

    A tap at s·q + r from its place reads phase r, from row q_1 and column q_2 on.
    """
    rows, columns = places(size, kernel, stride, dilation)
    width = _phase(size, kernel, stride, dilation)[1]
    taps = []
    for tap in itertools.product(*map(range, kernel)):
        (row, of_row), (column, of_column) = (divmod(t * step, s) for t, step, s in zip(tap, dilation, stride))
        first = row * width + column
        taps.append((of_row, of_column, ..., slice(first, first + (rows - 1) * width + columns)))
    return taps


def _under(phases, taps, outputs):
    """What lies under the taps at all places, a part for each product: (B·groups, taps · channels of a group, run)."""
    slices = [phases[tap] for tap in taps]
    return [torch.cat(slices, dim=1)] if phases.shape[-2] < FEWEST and outputs > 1 else slices


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


def _to_line_amid_zeros(y, phase, groups):
    """(B, O, H', W') → (B·groups, outputs of a group, a line with zeros also around it), and where the first place is.

    On either side there is room for the farthest tap.
    """
    rows, columns = (n - m for n, m in zip(phase, y.shape[2:]))
    around = pad(y, [(rows, rows + 1), (columns, 0)])
    samples, outputs = len(y) * groups, y.shape[1] // groups
    return around.reshape(samples, outputs, around.shape[2] * phase[1]), rows * phase[1] + columns


def _from_line(line, rows, columns, width, groups):
    """(B·groups, outputs of a group, from the first place to the last) → (B, O, H', W')."""
    samples, outputs, length = line.shape
    shape = samples // groups, groups * outputs, rows, columns
    return line.as_strided(shape, (groups * outputs * length, length, width, 1)).contiguous()


def _of_batch(lines, groups):
    """(B·groups, channels of a group, run) → (groups, channels of a group, B·run)."""
    return lines.unflatten(0, (-1, groups)).permute(1, 2, 0, 3).flatten(2)


def _matrices(w, groups, samples):
    """(B·groups, outputs of a group, taps · channels of a group)."""
    o, c, *_ = w.shape
    w = w.reshape(groups, o // groups, c, -1).mT.reshape(groups, o // groups, -1)
    return w.expand(samples, *w.shape).reshape(samples * groups, *w.shape[1:])


def _total(products):
    """Σ matrix @ part, each product added to the sum in place."""
    (matrix, part), *others = products
    if matrix.shape[1:] == (1, 1):  # a number for each row
        total = part.new_zeros(part.shape).addcmul_(matrix, part)
        for matrix, part in others:
            total.addcmul_(matrix, part)
        return total
    total = torch.bmm(matrix, part)
    for matrix, part in others:
        total.baddbmm_(matrix, part)
    return total


class _Correlate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, stride, dilation, groups):
        ctx.save_for_backward(x, w)
        ctx.how = stride, dilation, groups
        how = x.shape[2:], w.shape[2:], stride, dilation
        phase = _phase(*how)
        parts = _under(_to_phases(x, phase, stride, groups), _taps(*how), len(w) // groups)
        matrices = _matrices(w, groups, len(x)).split([part.shape[1] for part in parts], dim=-1)
        return _from_line(_total(zip(matrices, parts)), *places(*how), phase[1], groups)

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
        numbers = phase[0] * phase[1]
        line, first = _to_line_amid_zeros(y, phase, groups)
        products = {place: [] for place in itertools.product(*map(range, stride))}
        for matrix, (*place, _, run) in zip(_matrices(w, groups, len(y)).mT.split(channels, dim=1), _taps(*how)):
            start = first - run.start
            products[tuple(place)].append((matrix, line[..., start : start + numbers]))
        phases = [  # of a stride beyond the kernel, some phases lie between the taps
            _total(some) if some else line.new_zeros(len(line), channels, numbers) for some in products.values()
        ]
        phases = torch.stack(phases) if len(phases) > 1 else phases[0][None]
        return _from_phases(phases.unflatten(0, stride), size, phase, groups)

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
        if channels >= FEWEST:
            phases = phases.mT.contiguous().mT  # the order in memory that BLAS is quickest with
        parts = _under(phases, _taps(*how), line.shape[1])
        if line.shape[2] < line.shape[1]:  # few places: the results of single samples would be larger than these are
            line, *parts = (_of_batch(t, groups) for t in (line, *parts))
        w = torch.cat([torch.bmm(line, part.mT) for part in parts], dim=-1)
        w = w.reshape(-1, y.shape[1], w.shape[2] // channels, channels).sum(0)  # (O, taps, channels of a group)
        return w.mT.reshape(y.shape[1], channels, *kernel)

    @staticmethod
    def backward(ctx, w):
        x, y = ctx.saved_tensors
        d_x = spread(y, w, x.shape[2:], *ctx.how) if ctx.needs_input_grad[0] else None
        d_y = correlate(x, w, *ctx.how) if ctx.needs_input_grad[1] else None
        return d_x, d_y, None, None, None, None
