"""Cross-correlation and its two adjoints: three functions, each differentiated by means of the other two.

    T(x, w, y) = Σ y[b, o, p] · w[o, c, t] · x[b, c, s·p + l·t]      over all b, o, c, positions p and taps t
    correlate(x, w) = ∂T/∂y        a convolution layer's output
    spread(y, w) = ∂T/∂x           its gradient to the input; the output of a transposed convolution
    weigh(x, y) = ∂T/∂w            its gradient to the weights

T is linear in each of the three, so derivatives of every order stay within the family. A tap is a matrix product of
its weights with a slice of the image: in the flattened rows of the image, the elements under a tap at all positions
are contiguous, and nothing is copied. At the end of each row the slice includes the few positions where a kernel would
reach into the next row; they are dropped. Backwards, the image is the sum of the taps' products with slices of the
flattened outputs, with zeros around them. With a stride the elements under a tap are apart, and of an image of few
channels a tap is too small a product: then what lies under all taps is gathered for one product, by autograd.

Convention: no flip of the kernel; s is the stride, l the dilation, positions are those where the whole kernel fits;
gradients of complex tensors are those of autograd, with the other factor conjugated.
"""

import itertools
import math

import torch

from ._autocast import as_of_products
from ._window import indices, pad, positions
from .numerics import at_least_float32

FEWEST = 8  # channels of a product; below, it moves more elements than it multiplies
FEW = 4  # channels of an image; below, as of colours, all taps make one product
UNIT = (1, 1)  # stride


def correlate(x, w, stride, dilation, groups):
    """y[b, o, p] = Σ_{c,t} w[o, c, t] x[b, c, s·p + l·t], where output o sees only the input channels of its group.

    Args:
        x: (B, C, H, W), already padded.
        w: (O, C/groups, kh, kw).
        stride, dilation: pairs, along H and along W.
    """
    x, w = as_of_products(x, w)
    if max(stride) > 1 or x.shape[1] < FEW:
        return _gather(x, w, stride, dilation, groups)
    return _Correlate.apply(x, w, dilation, groups)


def spread(y, w, size, stride, dilation, groups):
    """x[b, c, q] = Σ w[o, c, t] y[b, o, p] over o, p, t with s·p + l·t = q: outputs given back to their inputs.

    Args:
        y: (B, O, H', W').
        w: (O, C/groups, kh, kw).
        size: (H, W), of which the positions are (H', W').
    """
    y, w = as_of_products(y, w)
    if max(stride) > 1:
        return _scatter(y, w, size, stride, dilation, groups)
    return _Spread.apply(y, w, size, dilation, groups)


def weigh(x, y, kernel, dilation, groups):
    """w[o, c, t] = Σ_{b,p} y[b, o, p] x[b, c, p + l·t]; stride 1.

    Args:
        kernel: (kh, kw).
    """
    return _Weigh.apply(*as_of_products(x, y), kernel, dilation, groups)


def _gather(x, w, stride, dilation, groups):
    """`correlate` as one product with all that lies under the taps."""
    (b, c, *size), (o, _, *kernel) = x.shape, w.shape
    count = positions(size, kernel, stride, dilation)
    index = indices(size, count, kernel, stride, dilation, x.device)
    # Where windows overlap, the gradient to x is a sum; half precision would round it at every term.
    under = at_least_float32(x).flatten(2).gather(2, index.expand(b, c, -1)).to(x.dtype)
    taps, places = math.prod(kernel), math.prod(count)
    under = under.reshape(b, groups, c // groups * taps, places)
    return (w.reshape(groups, o // groups, c // groups * taps) @ under).reshape(b, o, *count)


def _scatter(y, w, size, stride, dilation, groups):
    """`spread` as one product, of what every output adds under every tap, summed in float32 or wider."""
    (b, o, *count), (_, c, *kernel) = y.shape, w.shape
    index = indices(size, count, kernel, stride, dilation, y.device)
    products = w.reshape(groups, o // groups, -1).mT @ y.reshape(b, groups, o // groups, math.prod(count))
    products = at_least_float32(products.reshape(b, groups * c, len(index)))
    x = products.new_zeros(b, groups * c, math.prod(size)).scatter_add(2, index.expand_as(products), products)
    return x.to(y.dtype).reshape(b, groups * c, *size)


def _taps(size, kernel, dilation):
    """Of each tap, in order, the slice of the flattened rows that it covers."""
    rows, columns = positions(size, kernel, UNIT, dilation)
    taps = []
    for row, column in itertools.product(*map(range, kernel)):
        first = row * dilation[0] * size[1] + column * dilation[1]
        taps.append(slice(first, first + (rows - 1) * size[1] + columns))
    return taps


def _under(flat, taps, outputs):
    """What lies under the taps at all positions, one tensor for each product: (B·groups, taps · C/groups, length)."""
    slices = [flat[..., tap] for tap in taps]
    return [torch.cat(slices, dim=1)] if flat.shape[1] < FEWEST and outputs > 1 else slices


def _rows(x, groups):
    """(B, C, H, W) → (B·groups, C/groups, H·W)."""
    b, c, h, w = x.shape
    return x.reshape(b * groups, c // groups, h * w)


def _flattened(y, width, groups):
    """(B, O, H', W') → (B·groups, O/groups, from the first position to the last); zeros between the rows."""
    b, o, rows, columns = y.shape
    flat = pad(y, [(0, width - columns)]).reshape(b * groups, o // groups, rows * width)
    return flat[..., : (rows - 1) * width + columns]


def _flattened_amid_zeros(y, size, groups):
    """(B, O, H', W') → (B·groups, O/groups, rows with zeros around them too), and where the first position is.

    On either side there is room for the farthest tap.
    """
    rows, columns = (n - m for n, m in zip(size, y.shape[2:]))
    around = pad(y, [(rows, rows + 1), (columns, 0)])
    samples, outputs = len(y) * groups, y.shape[1] // groups
    return around.reshape(samples, outputs, around.shape[2] * size[1]), rows * size[1] + columns


def _of_batch(flat, groups):
    """(B·groups, C/groups, length) → (groups, C/groups, B·length)."""
    return flat.unflatten(0, (-1, groups)).permute(1, 2, 0, 3).flatten(2)


def _matrices(w, groups, samples):
    """(B·groups, O/groups, taps · C/groups)."""
    o, c, *_ = w.shape
    w = w.reshape(groups, o // groups, c, -1).mT.reshape(groups, o // groups, -1)
    return w.expand(samples, *w.shape).reshape(samples * groups, *w.shape[1:])


def _sum_of_products(products, total):
    """Σ matrix @ part, added up in `total`, whatever it holds."""
    for n, (matrix, part) in enumerate(products):
        if matrix.shape[1:] == (1, 1):  # a factor for each row
            (total if n else total.zero_()).addcmul_(matrix, part)
        else:
            total.baddbmm_(matrix, part, beta=min(n, 1))


class _Correlate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, dilation, groups):
        ctx.save_for_backward(x, w)
        ctx.how = dilation, groups
        size, kernel = x.shape[2:], w.shape[2:]
        rows, columns = positions(size, kernel, UNIT, dilation)
        parts = _under(_rows(x, groups), _taps(size, kernel, dilation), len(w) // groups)
        matrices = _matrices(w, groups, len(x)).split([part.shape[1] for part in parts], dim=-1)
        samples, outputs, width = len(x) * groups, len(w) // groups, size[1]
        if rows == 1 or columns == width:
            y = x.new_empty(len(x), len(w), rows, columns)  # no view of another tensor: it may be changed in place
            _sum_of_products(zip(matrices, parts), y.view(samples, outputs, rows * columns))
            return y
        flat = x.new_empty(samples, outputs, (rows - 1) * width + columns)
        _sum_of_products(zip(matrices, parts), flat)
        length = flat.shape[2]
        return flat.as_strided((len(x), len(w), rows, columns), (len(w) * length, length, width, 1)).contiguous()

    @staticmethod
    def backward(ctx, y):
        x, w = ctx.saved_tensors
        d_x = spread(y, w.conj(), x.shape[2:], UNIT, *ctx.how) if ctx.needs_input_grad[0] else None
        d_w = weigh(x.conj(), y, w.shape[2:], *ctx.how) if ctx.needs_input_grad[1] else None
        return d_x, d_w, None, None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y, w, size, dilation, groups):
        ctx.save_for_backward(y, w)
        ctx.how = dilation, groups
        channels, length = w.shape[1], size[0] * size[1]
        flat, first = _flattened_amid_zeros(y, size, groups)
        matrices, products = _matrices(w, groups, len(y)).mT.split(channels, dim=1), []
        for matrix, tap in zip(matrices, _taps(size, w.shape[2:], dilation)):
            start = first - tap.start
            products.append((matrix, flat[..., start : start + length]))
        x = y.new_empty(len(y), channels * groups, *size)  # no view: it may be changed in place
        _sum_of_products(products, x.view(len(flat), channels, length))
        return x

    @staticmethod
    def backward(ctx, x):
        y, w = ctx.saved_tensors
        d_y = correlate(x, w.conj(), UNIT, *ctx.how) if ctx.needs_input_grad[0] else None
        d_w = weigh(x, y.conj(), w.shape[2:], *ctx.how) if ctx.needs_input_grad[1] else None
        return d_y, d_w, None, None, None


class _Weigh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, kernel, dilation, groups):
        ctx.save_for_backward(x, y)
        ctx.how = dilation, groups
        size, channels = x.shape[2:], x.shape[1] // groups
        rows, flat = _rows(x, groups), _flattened(y, size[1], groups)
        if channels >= FEWEST:
            rows = rows.mT.contiguous().mT  # the order in memory that BLAS is quickest with
        parts = _under(rows, _taps(size, kernel, dilation), flat.shape[1])
        if flat.shape[2] < flat.shape[1]:  # few positions: the results of single samples would be larger than these are
            flat, *parts = (_of_batch(t, groups) for t in (flat, *parts))
        w = torch.cat([torch.bmm(flat, part.mT) for part in parts], dim=-1)
        w = w.reshape(-1, y.shape[1], w.shape[2] // channels, channels).sum(0)  # (O, taps, C/groups)
        return w.mT.reshape(y.shape[1], channels, *kernel)

    @staticmethod
    def backward(ctx, w):
        x, y = ctx.saved_tensors
        d_x = spread(y.conj(), w, x.shape[2:], UNIT, *ctx.how) if ctx.needs_input_grad[0] else None
        d_y = correlate(x.conj(), w, UNIT, *ctx.how) if ctx.needs_input_grad[1] else None
        return d_x, d_y, None, None, None
