"""Derive every random stream from seed, round, client and phase, so that order and placement do not matter."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

SERVER = -1
"""Client number of the server."""


def seed_for(seed: int, round: int, client: int, phase: str) -> int:
    """Derive the seed of one phase of one client in one round.

    Args:
        seed: the run's seed.
        round: communication round; 0 is before the first.
        client: client number, or :data:`SERVER`.
        phase: name of the phase, for example ``"train"``.

    Returns:
        An integer in ``[0, 2**63)``; nearby arguments give unrelated values.

    >>> seed_for(0, 1, 2, "train") == seed_for(0, 1, 2, "train")
    True
    >>> len({seed_for(0, 1, client, "train") for client in range(1000)})
    1000
    """
    key = f"{seed}/{round}/{client}/{phase}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global CPU stream inside the block, for weight initialisation, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def generator_for(seed: int, round: int, client: int, phase: str) -> torch.Generator:
    """Return a CPU generator seeded by :func:`seed_for`."""
    return torch.Generator().manual_seed(seed_for(seed, round, client, phase))
