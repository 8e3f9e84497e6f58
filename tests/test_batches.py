from collections import Counter

import pytest
import torch
from torch import Tensor

from mosaic.batches import ShuffledBatches, steps_for
from mosaic.ranks import own_share, world_size
from tests.cases import for_each


def draw(n: int, batch_size: int, steps: int, seed: int = 0) -> list[list[int]]:
    batches = ShuffledBatches(torch.arange(n), batch_size=batch_size, steps=steps, seed=seed)
    return [batch.tolist() for (batch,) in batches]


@for_each(("n", "batch_size", "steps"), [(10, 4, 7), (10, 10, 3), (7, 3, 1), (5, 2, 25), (100, 64, 3)])
def test_every_example_is_seen_equally_often(n: int, batch_size: int, steps: int) -> None:
    seen = Counter(example for batch in draw(n, batch_size, steps) for example in batch)
    times = [seen[example] for example in range(n)]
    assert sum(times) == batch_size * steps
    assert max(times) - min(times) <= 1


@for_each("n", [1, 2, 3, 5, 33])
@for_each("batch_size", [1, 2, 4, 32])
def test_a_batch_of_one_never_occurs(n: int, batch_size: int) -> None:
    batches = draw(n, batch_size, steps=2 * n)
    assert len(batches) == 2 * n
    assert {len(batch) for batch in batches} == {max(2, min(n, batch_size))}


def test_a_small_client_trains_on_batches_of_its_own_size() -> None:
    assert all(sorted(batch) == [0, 1, 2] for batch in draw(3, 64, steps=4))


def test_every_pass_is_shuffled_anew() -> None:
    passes = draw(50, 50, steps=4)
    assert len({tuple(one) for one in [*passes, list(range(50))]}) == 5


def test_the_seed_decides_the_order() -> None:
    assert draw(20, 4, 9, seed=1) == draw(20, 4, 9, seed=1) != draw(20, 4, 9, seed=2)


def test_a_second_iteration_repeats_the_first() -> None:
    batches = ShuffledBatches(torch.arange(9), batch_size=4, steps=3, seed=0)
    first, second = ([batch.tolist() for (batch,) in batches] for _ in range(2))
    assert first == second
    assert len(batches) == len(first) == 3


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    draw(20, 4, 9)
    assert torch.equal(torch.get_rng_state(), before)


def test_tensors_stay_aligned() -> None:
    examples = torch.arange(20)
    for one, other in ShuffledBatches(examples, examples**2, batch_size=6, steps=5, seed=0):
        assert torch.equal(one**2, other)


def test_only_the_given_examples_are_used() -> None:
    own = torch.tensor([3, 17, 8])
    batches = ShuffledBatches(torch.arange(20), batch_size=2, steps=6, seed=0, indices=own)
    assert {int(example) for (batch,) in batches for example in batch} == {3, 8, 17}


def test_nothing_to_draw_from_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one example"):
        ShuffledBatches(torch.arange(5), batch_size=2, steps=1, seed=0, indices=torch.tensor([], dtype=torch.long))


def shares(monkeypatch: pytest.MonkeyPatch, ranks: int, n: int, batch_size: int) -> list[list[Tensor]]:
    """What each rank would draw."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: ranks)
    result = []
    for rank in range(ranks):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        batches = ShuffledBatches(torch.arange(n), batch_size=batch_size, steps=4, seed=0)
        result.append([batch for (batch,) in batches])
    return result


@pytest.mark.parametrize("batch_size", [8, 9])
def test_ranks_share_the_batch_that_one_process_would_draw(monkeypatch: pytest.MonkeyPatch, batch_size: int) -> None:
    whole = draw(30, batch_size, steps=4)
    for step, parts in enumerate(zip(*shares(monkeypatch, 3, 30, batch_size), strict=True)):
        assert sorted(torch.cat(parts).tolist()) == sorted(whole[step])


@pytest.mark.parametrize("n", [1, 3, 5])
def test_no_rank_sees_a_batch_of_one(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    for batches in shares(monkeypatch, 2, n, batch_size=64):
        assert all(len(batch) >= 2 for batch in batches)


def test_alone_there_is_one_rank_and_it_takes_everything() -> None:
    assert world_size() == 1
    assert own_share(torch.arange(3)).tolist() == [0, 1, 2]


@for_each(
    ("epochs", "n", "batch_size", "expected"),
    [(0, 100, 10, 7), (-1, 100, 10, 7), (1, 100, 10, 10), (0.5, 100, 10, 5), (3, 4, 64, 3), (0.01, 10, 10, 1)],
)
def test_passes_become_steps(epochs: float, n: int, batch_size: int, expected: int) -> None:
    assert steps_for(7, epochs, n, batch_size) == expected
