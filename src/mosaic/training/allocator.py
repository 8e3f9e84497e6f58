"""Let the C library keep the memory that networks free: they ask for it again in their next step."""

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of two settings in glibc's malloc.h."""
_KEPT = 2**30
"""Bytes at the end of the heap that are kept at most."""
_FROM_HEAP = 2**25
"""Blocks up to this size come from the heap; glibc allows no more than these 32 MiB."""

_keeping = False
"""Whether memory is kept on our account."""


def keep_freed_memory() -> bool:
    """Ask glibc to keep up to 1 GiB of freed memory for this process; elsewhere, do nothing.

    By default it gives memory back as soon as some is free at the end of the heap, which for networks is after every
    pass, or never, as chance has it; each page of it then comes back by a fault. A run on a CPU takes a tenth less time
    without, its evaluations less than half (``benchmarks/kept_memory.py``). Whoever has set
    ``MALLOC_TRIM_THRESHOLD_`` or ``MALLOC_MMAP_THRESHOLD_`` is not overruled.

    Returns:
        Whether memory is kept on our account.
    """
    if {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys():
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return False
    global _keeping
    _keeping = bool(mallopt(_MMAP_THRESHOLD, _FROM_HEAP) and mallopt(_TRIM_THRESHOLD, _KEPT))
    return _keeping


def give_back_freed_memory() -> bool:
    """Give back what is free now and is kept on our account, which for a small network takes a millisecond.

    Between tensors that are in use, gaps build up into which no other tensor fits; called now and then, this keeps them
    from taking more and more memory with every client and every round.

    Returns:
        Whether there was any.
    """
    return _keeping and bool(ctypes.CDLL(None).malloc_trim(0))
