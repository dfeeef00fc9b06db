"""The same function in several processes that talk over gloo: what data-parallel training does, on one machine."""

import multiprocessing
import tempfile
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta

import torch
from torch import distributed

# Longer than any of these takes by far: a process that waits for one that died must end.
PATIENCE = 60


def in_processes(function: Callable[[int], object], count: int = 2) -> list:
    """Calls function(rank) in `count` processes of one group, and returns what each returned: tensors, nested.

    They are forks, so that they have the subject that this process has. A spec calls what it asks for in its own
    process too: a name that a subject lacks is then pending and no failure.

    Raises:
        AssertionError: one of them raised, or did not end.
    """
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(prefix="blueprint-group-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from Python 3.12 on, forks of a process with threads
        pipes = [context.Pipe(duplex=False) for _ in range(count)]
        workers = [
            context.Process(target=_run, args=(function, rank, count, folder, pipes[rank][1]), daemon=True)
            for rank in range(count)
        ]
        for worker in workers:
            worker.start()
        found = []
        for receive, _ in pipes:
            found.append(receive.recv() if receive.poll(PATIENCE) else (None, "did not end"))
        for worker in workers:
            worker.kill() if any(error for _, error in found) else worker.join(PATIENCE)
    for rank, (_, error) in enumerate(found):
        if error:
            raise AssertionError(f"expected process {rank} of {count} to end well, found: {error}")
    return [value for value, _ in found]


def _run(function, rank, count, folder, send):
    torch.set_num_threads(1)
    try:
        distributed.init_process_group(
            "gloo",
            init_method=f"file://{folder}/group",
            rank=rank,
            world_size=count,
            timeout=timedelta(seconds=PATIENCE),
        )
        value = function(rank)
        send.send((torch.utils._pytree.tree_map(lambda t: t.detach().numpy() if _is(t) else t, value), None))
        distributed.destroy_process_group()
    except BaseException:
        send.send((None, traceback.format_exc()))


def _is(value):
    return isinstance(value, torch.Tensor)
