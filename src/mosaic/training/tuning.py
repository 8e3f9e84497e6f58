"""Save time inside Lightning, Python's garbage collector and the C library.

``MOSAIC_TUNING=off`` leaves it out; a run gives the same bits either way. Figures are for a phase of ten steps of the
digits CNN (``benchmarks/phase_overhead.py``) on a busy core, where it takes 82 ms (23 ms on a quiet one).
"""

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count

from lightning.fabric.utilities import registry
from lightning.pytorch.plugins import Precision
from torch.optim import Optimizer

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Two parameters of mallopt, from glibc's malloc.h."""
_KEPT, _FROM_HEAP = 2**30, 2**25
"""Bytes: the most that stay free at the end of the heap, and the largest block from the heap (glibc's limit)."""
_GIVES_BACK_AFTER = 16
"""Phases after which free memory goes back to the system."""

_keeps_memory = _collects = False
_phases = count(1)


def is_on() -> bool:
    """Return whether tuning is on."""
    return os.environ.get("MOSAIC_TUNING") != "off"


@contextmanager
def tuned() -> Iterator[None]:
    """Tune this process for the phases inside the block.

    Lightning looks for plugins in the metadata of all packages once, not in every Trainer: that saves 12 ms (14 %).
    """
    if not is_on():
        yield
        return
    global _collects
    keep_freed_memory()
    gc.collect()
    gc.freeze()
    original = vars(registry)["entry_points"]
    vars(registry)["entry_points"] = cache(original)
    _collects = True
    try:
        yield
    finally:
        _collects, vars(registry)["entry_points"] = False, original
        gc.unfreeze()


@contextmanager
def freed_afterwards() -> Iterator[None]:
    """Collect the garbage of a phase, inside :func:`tuned`.

    A Trainer is full of cycles, in which the networks of a hundred clients would pile up, on GPUs too. It costs less
    than 1 ms, because the collector skips what was there before :func:`tuned`; else a full collection takes 210 ms.
    """
    aged = _collections_of_the_old()
    yield
    if not _collects:
        return
    gc.collect(1 if _collections_of_the_old() == aged else 2)  # the garbage is young, unless a collection has aged it
    if next(_phases) % _GIVES_BACK_AFTER == 0:
        give_back_freed_memory()


def _collections_of_the_old() -> int:
    return sum(generation["collections"] for generation in gc.get_stats()[1:])


def keep_freed_memory() -> bool:
    """Ask glibc to keep up to 1 GiB of freed memory for this process; return whether it does.

    By default glibc gives memory back whenever some is free at the end of the heap, and each page comes back by a
    fault. Keeping it saves nothing in a phase of ten steps of a small network, but a tenth of a run on MNIST and half
    of its evaluations (``benchmarks/kept_memory.py``). ``MALLOC_TRIM_THRESHOLD_`` and ``MALLOC_MMAP_THRESHOLD_`` take
    precedence.
    """
    global _keeps_memory
    if {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys():
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    _keeps_memory = bool(mallopt(_MMAP_THRESHOLD, _FROM_HEAP) and mallopt(_TRIM_THRESHOLD, _KEPT))
    return _keeps_memory


def give_back_freed_memory() -> bool:
    """Give back what :func:`keep_freed_memory` kept, or gaps in the heap add up; return whether there was any."""
    return _keeps_memory and bool(ctypes.CDLL(None).malloc_trim(0))


def skips_precision(plugin: Precision) -> bool:
    """Return whether steps skip the precision plugin, which does nothing in full precision: that saves 3 ms (4 %)."""
    return is_on() and type(plugin) is Precision


def allow_clipping(optimizer: Optimizer) -> None:
    """Let Lightning clip the gradients of a fused optimiser on a CPU, where gradients are never scaled.

    The switch does not apply: without this, Lightning refuses to clip in mixed precision.
    """
    vars(optimizer).pop("_step_supports_amp_scaling", None)
