"""Cross-correlation and its two adjoints: three functions, each differentiated by means of the other two.

    T(x, w, y) = Σ y[b, o, p] · w[o, c, t] · x[b, c, s·p + l·t]      over all b, o, c, positions p and taps t
    correlate(x, w) = ∂T/∂y        a convolution layer's output
    spread(y, w) = ∂T/∂x           its gradient to the input; the output of a transposed convolution
    weigh(x, y) = ∂T/∂w            its gradient to the weights

T is linear in each of the three, so derivatives of every order stay within the family. A tap is a matrix product of
its weights with a slice of the image: in the flattened rows of the image, the elements under a tap at all positions
are contiguous, and nothing is copied. At the end of each row the slice includes the few positions where a kernel would
reach into the next row; they are dropped. A stride first splits the image into its s_1·s_2 polyphase components, and
each tap reads one of them. Backwards, a component is the sum of its taps' products with slices of the flattened
outputs, with zeros around them. Where channels are few, the slices of all taps are concatenated for one product.

Convention: no flip of the kernel; s is the stride, l the dilation, positions are those where the whole kernel fits;
gradients of complex tensors are those of autograd, with the other factor conjugated.
"""

import itertools

import torch

from ._autocast import as_of_products
from ._window import pad, positions

FEWEST = 8  # channels of a product; below, it moves more elements than it multiplies


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
        size: (H, W), of which the positions are (H', W').
    """
    return _Spread.apply(*as_of_products(y, w), size, stride, dilation, groups)


def weigh(x, y, kernel, stride, dilation, groups):
    """w[o, c, t] = Σ_{b,p} y[b, o, p] x[b, c, s·p + l·t].

    Args:
        kernel: (kh, kw).
    """
    return _Weigh.apply(*as_of_products(x, y), kernel, stride, dilation, groups)


def _component(size, kernel, stride, dilation):
    """Rows and columns of a polyphase component: as many as positions, and those that the farthest tap needs beyond."""
    fit = positions(size, kernel, stride, dilation)
    return [n + (k - 1) * step // s for n, k, s, step in zip(fit, kernel, stride, dilation)]


def _taps(size, kernel, stride, dilation):
    """Of each tap (i, j), in order, the component that it reads, and the slice of its flattened rows.

    A tap at s·q + r from its position covers component r, from row q_1 and column q_2 on.
    """
    rows, columns = positions(size, kernel, stride, dilation)
    width = _component(size, kernel, stride, dilation)[1]
    taps = []
    for tap in itertools.product(*map(range, kernel)):
        (row, of_row), (column, of_column) = (divmod(t * step, s) for t, step, s in zip(tap, dilation, stride))
        first = row * width + column
        taps.append((of_row, of_column, ..., slice(first, first + (rows - 1) * width + columns)))
    return taps


def _under(components, taps, outputs):
    """What lies under the taps at all positions, one tensor for each product: (B·groups, taps · C/groups, length)."""
    slices = [components[tap] for tap in taps]
    return [torch.cat(slices, dim=1)] if components.shape[-2] < FEWEST and outputs > 1 else slices


def _to_components(x, component, stride, groups):
    """(B, C, H, W) → (s_1, s_2, B·groups, C/groups, elements of a component)."""
    b, c, *size = x.shape
    x = pad(x, [(0, n * s - now) for n, s, now in zip(component, stride, size)])  # a negative margin cuts off
    x = x.reshape(b, c, component[0], stride[0], component[1], stride[1]).permute(3, 5, 0, 1, 2, 4)
    return x.reshape(*stride, b * groups, c // groups, component[0] * component[1])


def _from_components(x, size, component, groups):
    """(s_1, s_2, B·groups, C/groups, elements of a component) → (B, C, H, W)."""
    *stride, samples, channels, _ = x.shape
    x = x.reshape(*stride, samples // groups, groups * channels, *component).permute(2, 3, 4, 0, 5, 1)
    x = x.reshape(samples // groups, groups * channels, component[0] * stride[0], component[1] * stride[1])
    return pad(x, [(0, n - now) for n, now in zip(size, x.shape[2:])])


def _flattened(y, width, groups):
    """(B, O, H', W') → (B·groups, O/groups, from the first position to the last); zeros between the rows."""
    b, o, rows, columns = y.shape
    flat = pad(y, [(0, width - columns)]).reshape(b * groups, o // groups, rows * width)
    return flat[..., : (rows - 1) * width + columns]


def _flattened_amid_zeros(y, component, groups):
    """(B, O, H', W') → (B·groups, O/groups, rows with zeros around them too), and where the first position is.

    On either side there is room for the farthest tap.
    """
    rows, columns = (n - m for n, m in zip(component, y.shape[2:]))
    around = pad(y, [(rows, rows + 1), (columns, 0)])
    samples, outputs = len(y) * groups, y.shape[1] // groups
    return around.reshape(samples, outputs, around.shape[2] * component[1]), rows * component[1] + columns


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
    def forward(ctx, x, w, stride, dilation, groups):
        ctx.save_for_backward(x, w)
        ctx.how = stride, dilation, groups
        how = x.shape[2:], w.shape[2:], stride, dilation
        component, (rows, columns) = _component(*how), positions(*how)
        parts = _under(_to_components(x, component, stride, groups), _taps(*how), len(w) // groups)
        matrices = _matrices(w, groups, len(x)).split([part.shape[1] for part in parts], dim=-1)
        samples, outputs, width = len(x) * groups, len(w) // groups, component[1]
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
        d_x = spread(y, w.conj(), x.shape[2:], *ctx.how) if ctx.needs_input_grad[0] else None
        d_w = weigh(x.conj(), y, w.shape[2:], *ctx.how) if ctx.needs_input_grad[1] else None
        return d_x, d_w, None, None, None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y, w, size, stride, dilation, groups):
        ctx.save_for_backward(y, w)
        ctx.how = stride, dilation, groups
        how = size, w.shape[2:], stride, dilation
        component, channels = _component(*how), w.shape[1]
        length = component[0] * component[1]
        flat, first = _flattened_amid_zeros(y, component, groups)
        products = {offset: [] for offset in itertools.product(*map(range, stride))}
        for matrix, (*offset, _, run) in zip(_matrices(w, groups, len(y)).mT.split(channels, dim=1), _taps(*how)):
            start = first - run.start
            products[tuple(offset)].append((matrix, flat[..., start : start + length]))
        if max(stride) == 1:
            x = y.new_empty(len(y), channels * groups, *component)  # no view: it may be changed in place
            _sum_of_products(products[0, 0], x.view(len(flat), channels, length))
            return x
        components = y.new_zeros(*stride, len(flat), channels, length)
        for offset, some in products.items():  # of a stride beyond the kernel, some components lie between the taps
            _sum_of_products(some, components[offset])
        return _from_components(components, size, component, groups)

    @staticmethod
    def backward(ctx, x):
        y, w = ctx.saved_tensors
        d_y = correlate(x, w.conj(), *ctx.how) if ctx.needs_input_grad[0] else None
        d_w = weigh(x, y.conj(), w.shape[2:], *ctx.how) if ctx.needs_input_grad[1] else None
        return d_y, d_w, None, None, None, None


class _Weigh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, kernel, stride, dilation, groups):
        ctx.save_for_backward(x, y)
        ctx.how = stride, dilation, groups
        how = x.shape[2:], kernel, stride, dilation
        component, channels = _component(*how), x.shape[1] // groups
        components, flat = _to_components(x, component, stride, groups), _flattened(y, component[1], groups)
        if channels >= FEWEST:
            components = components.mT.contiguous().mT  # the order in memory that BLAS is quickest with
        parts = _under(components, _taps(*how), flat.shape[1])
        if flat.shape[2] < flat.shape[1]:  # few positions: the results of single samples would be larger than these are
            flat, *parts = (_of_batch(t, groups) for t in (flat, *parts))
        w = torch.cat([torch.bmm(flat, part.mT) for part in parts], dim=-1)
        w = w.reshape(-1, y.shape[1], w.shape[2] // channels, channels).sum(0)  # (O, taps, C/groups)
        return w.mT.reshape(y.shape[1], channels, *kernel)

    @staticmethod
    def backward(ctx, w):
        x, y = ctx.saved_tensors
        d_x = spread(y.conj(), w, x.shape[2:], *ctx.how) if ctx.needs_input_grad[0] else None
        d_y = correlate(x.conj(), w, *ctx.how) if ctx.needs_input_grad[1] else None
        return d_x, d_y, None, None, None, None
