import itertools

import torch

from mosaic.seeding import SERVER, generator_for, seed_for

PINNED = 7_430_812_320_188_517_729
"""Of seed 0, round 1, client 2, train: old runs can only be resumed while it stays."""


def test_every_argument_matters() -> None:
    grid = list(itertools.product(range(5), range(20), range(SERVER, 20), ("train", "augment", "generator/noise")))
    assert len({seed_for(*key) for key in grid}) == len(grid)


def test_digits_do_not_run_together() -> None:
    assert seed_for(1, 11, 1, "a") != seed_for(11, 1, 1, "a") != seed_for(1, 1, 11, "a")


def test_seeds_fit_what_torch_accepts() -> None:
    seeds = [seed_for(0, round, 0, "train") for round in range(200)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62


def test_seeds_are_the_same_in_every_process_and_release() -> None:
    assert seed_for(0, 1, 2, "train") == PINNED


def test_a_generator_is_its_own_stream() -> None:
    before = torch.get_rng_state()
    first = torch.randn(5, generator=generator_for(0, 1, 2, "train"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    assert torch.equal(torch.randn(5, generator=generator_for(0, 1, 2, "train")), first)
    assert not torch.equal(torch.randn(5, generator=generator_for(0, 1, 3, "train")), first)
