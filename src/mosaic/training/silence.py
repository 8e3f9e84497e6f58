"""Keep Lightning's notices and expected warnings out of the log."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_EXPECTED_WARNINGS = (
    # frozen guides and teachers are in eval mode on purpose
    r"Found \d+ module\(s\) in eval mode at the start of training",
    # https://github.com/Lightning-AI/pytorch-lightning/issues/21326
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # every Trainer gives it where SLURM is installed, on a login node too
    r"The `srun` command is available on your system but is not used",
)
COMPILERS_WARNING = r"The \.grad attribute of a Tensor that is not a leaf"
"""The compiler causes this one itself when it looks at activations (https://github.com/pytorch/pytorch/pull/30531)."""


@contextmanager
def expected_warnings() -> Iterator[None]:
    """Ignore the warnings of Lightning that are expected here."""
    with warnings.catch_warnings():
        for message in _EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message)
        yield


@contextmanager
def silence() -> Iterator[None]:
    """Silence Lightning's notices ("GPU available", "Seed set to 0", tips) and expected warnings."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("fabric", "pytorch")]
    speaking = {logger: logger.level for logger in loggers if logger.level < logging.WARNING}
    for logger in speaking:  # setting a level clears the level caches of all loggers
        logger.setLevel(logging.WARNING)
    try:
        with expected_warnings():
            yield
    finally:
        for logger, level in speaking.items():
            logger.setLevel(level)
