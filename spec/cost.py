"""Deterministic cost: FLOPs and peak bytes, counted, never timed."""

import math
import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode


def _added_product(_, a, b, **unused) -> int:
    """Of matrices (…, m, k) and (…, k, n), or (k) for the second."""
    return 2 * math.prod(a) * (b[-1] if len(b) > 1 else 1)


def _product(a, b, **unused) -> int:
    return _added_product(None, a, b)


def _multiply_add(_, a, b, **unused) -> int:
    """Number by number, of shapes that broadcast."""
    return 2 * math.prod(torch.broadcast_shapes(a, b))


_aten = torch.ops.aten
_UNCOUNTED = dict.fromkeys((_aten.mv, _aten.dot), _product)
_UNCOUNTED |= dict.fromkeys(
    (_aten.addmm_, _aten.baddbmm_, _aten.addbmm, _aten.addbmm_, _aten.addmv, _aten.addmv_), _added_product
)
_UNCOUNTED |= dict.fromkeys((_aten.addcmul, _aten.addcmul_), _multiply_add)


def flops(function, *inputs) -> int:
    """Floating-point operations of the matrix products, convolutions and attentions that `function` runs.

    A multiply-add counts as two; other pointwise operations count nothing. Torch's own counter, and what it leaves out:
    products into a tensor that is there already, products with vectors, and multiply-adds number by number.
    """
    with FlopCounterMode(display=False, custom_mapping=_UNCOUNTED) as counter:
        function(*inputs)
    return counter.get_total_flops()


def operators(function, *inputs) -> list[str]:
    """Names of the ATen operators that `function` dispatches, in order, those of the backward pass included."""
    with _Recorder() as recorder:
        function(*inputs)
    return recorder.names


def peak_bytes(function, *inputs) -> int:
    """The most bytes of new storage alive at one time while `function` runs; its inputs do not count."""
    with _Meter([t for t in tree_flatten(inputs)[0] if isinstance(t, torch.Tensor)]) as meter:
        result = function(*inputs)
    del result
    return meter.peak


class _Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.append(operator.name().partition(".")[0])
        return operator(*args, **(kwargs or {}))


class _Meter(TorchDispatchMode):
    """Adds a storage's bytes when an operator returns it, and takes them off when the storage dies."""

    def __init__(self, inputs):
        super().__init__()
        self.now = self.peak = 0
        self.known = {t.untyped_storage()._cdata for t in inputs}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        for t in tree_flatten((args, kwargs))[0]:
            if isinstance(t, torch.Tensor):
                self._count(t.untyped_storage(), new=False)  # a parameter, say: what no operator made was there before
        result = operator(*args, **(kwargs or {}))
        for t in tree_flatten(result)[0]:
            if isinstance(t, torch.Tensor):
                self._count(t.untyped_storage(), new=True)
        return result

    def _count(self, storage, new: bool):
        key, size = storage._cdata, storage.nbytes() if new else 0
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key, size):
        self.known.discard(key)
        self.now -= size
