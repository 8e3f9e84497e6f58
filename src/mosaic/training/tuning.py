"""Speed that comes from reaching under Lightning, Python's collector and the C library, all of it in this file.

``MOSAIC_TUNING=off`` switches it off; a run gives the same bits either way. The milliseconds below are of a phase of
ten steps of the digits CNN, which takes MEASURED on one core (``benchmarks/phase_overhead.py``).
"""

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count

import torch
from lightning.fabric.utilities import registry
from lightning.pytorch.plugins import Precision
from torch.optim import Optimizer

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of two settings in glibc's malloc.h."""
_KEPT = 2**30
"""The most bytes that stay free at the end of the heap."""
_FROM_HEAP = 2**25
"""The largest block that comes from the heap: 32 MiB, the most that glibc allows."""
_GIVES_BACK_AFTER = 16
"""Phases after which free memory goes back to the system."""

_keeps_memory = _collects = False
_phases = count(1)


def is_on() -> bool:
    """Return whether tuning is wanted."""
    return os.environ.get("MOSAIC_TUNING") != "off"


@contextmanager
def tuned() -> Iterator[None]:
    """Tune this process for the phases inside the block."""
    if not is_on():
        yield
        return
    global _collects
    keep_freed_memory()
    gc.collect()
    gc.freeze()
    _collects = True
    try:
        with _looked_up_once():
            yield
    finally:
        _collects = False
        gc.unfreeze()


@contextmanager
def _looked_up_once() -> Iterator[None]:
    """Let Lightning look up plugins and devices once, not in every Trainer.

    Reading the metadata of all packages for callbacks takes ENTRY ms; looking for NVIDIA's driver three times takes
    DEVICE ms where there is none.
    """
    places = [place for place in ((registry, "entry_points"), (torch.cuda, "device_count")) if hasattr(*place)]
    originals = [getattr(*place) for place in places]
    for place, original in zip(places, originals, strict=True):
        setattr(*place, cache(original))
    try:
        yield
    finally:
        for place, original in zip(places, originals, strict=True):
            setattr(*place, original)


@contextmanager
def freed_afterwards() -> Iterator[None]:
    """Free what a phase leaves behind, inside :func:`tuned`.

    A Trainer is full of cycles that only the collector frees; without this, the networks of a hundred clients pile up,
    on GPUs too. The collector looks at what has come since :func:`tuned` began, in FREEZE ms instead of FULL.
    """
    aged = _collections_of_the_old()
    yield
    if not _collects:
        return
    gc.collect(1 if _collections_of_the_old() == aged else 2)  # garbage is young unless a collection has aged it
    if next(_phases) % _GIVES_BACK_AFTER == 0:
        give_back_freed_memory()


def _collections_of_the_old() -> int:
    return sum(generation["collections"] for generation in gc.get_stats()[1:])


def keep_freed_memory() -> bool:
    """Ask glibc to keep up to 1 GiB of freed memory for this process; do nothing elsewhere.

    By default glibc gives memory back whenever some is free at the end of the heap, and each page then comes back by a
    fault. Keeping it takes a tenth off a run on a CPU and half off its evaluations (``benchmarks/kept_memory.py``);
    KEEP ms of a phase. ``MALLOC_TRIM_THRESHOLD_`` and ``MALLOC_MMAP_THRESHOLD_`` take precedence.

    Returns:
        Whether this call made glibc keep memory.
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
    """Give back memory that is free and that :func:`keep_freed_memory` kept, or gaps in the heap would add up.

    Returns:
        Whether there was any.
    """
    return _keeps_memory and bool(ctypes.CDLL(None).malloc_trim(0))


def steps_need_no_plugin(precision: Precision) -> bool:
    """Return whether a step may skip Lightning's precision plugin, which does nothing in full precision: PLUGIN ms."""
    return is_on() and type(precision) is Precision


def allow_clipping(optimizer: Optimizer) -> None:
    """Let Lightning clip the gradients of a fused optimiser on a CPU, where gradients are never scaled.

    This has no switch: without it, Lightning refuses to clip in mixed precision, because fused optimisers claim to
    take the scale out by themselves.
    """
    vars(optimizer).pop("_step_supports_amp_scaling", None)
