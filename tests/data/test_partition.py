import hashlib
import json
import logging
from itertools import pairwise

import numpy as np
import pytest

from mosaic.data import DirichletPartition, FlowerPartition, NaturalPartition, Partition, SklearnDigits
from mosaic.data.holdings import gather, hold_out
from mosaic.data.partitions.dirichlet import dirichlet_split, fill_up
from tests.cases import for_each
from tests.data.refusals import refused

FLOWER = "flwr_datasets.partitioner."


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """Labels of the 1,198 training digits."""
    return SklearnDigits().load().train.labels.numpy()


def assert_dealt_once(parts: list[np.ndarray], num_images: int) -> None:
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(num_images))
    assert all(np.array_equal(part, np.sort(part)) for part in parts)


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def rules() -> list[Partition]:
    return [
        DirichletPartition(8, alpha=0.3),
        DirichletPartition(8, alpha=0.3, self_balancing=True),
        DirichletPartition(1, alpha=0.3),
        FlowerPartition(8, FLOWER + "IidPartitioner"),
        FlowerPartition(8, FLOWER + "LinearPartitioner"),
        FlowerPartition(10, FLOWER + "PathologicalPartitioner", PATHOLOGICAL),
    ]


PATHOLOGICAL = {"num_classes_per_partition": 2, "class_assignment_mode": "deterministic"}


def name_of(rule: Partition) -> str:
    return getattr(rule, "partitioner", type(rule).__name__).rpartition(".")[2]


@for_each("rule", rules(), ids=name_of)
def test_every_image_goes_to_exactly_one_client(rule: Partition, digits: np.ndarray) -> None:
    parts = rule.split(digits, 0, {})
    assert len(parts) == rule.num_clients
    assert_dealt_once(parts, len(digits))


@for_each("rule", [rule for rule in rules() if rule.num_clients > 1], ids=name_of)
def test_the_seed_decides_the_partition(rule: Partition, digits: np.ndarray) -> None:
    first = rule.split(digits, 3, {})
    np.random.seed(7)  # noqa: NPY002
    assert same(rule.split(digits, 3, {}), first)
    assert not same(rule.split(digits, 4, {}), first)


@for_each("num_clients", [10, 50, 100])
@for_each("self_balancing", [False, True])
def test_strong_skew_leaves_nobody_empty(num_clients: int, self_balancing: bool, digits: np.ndarray) -> None:
    rule = DirichletPartition(num_clients, alpha=0.01, self_balancing=self_balancing)
    parts = rule.split(digits, 0, {})
    assert_dealt_once(parts, len(digits))
    assert min(map(len, parts)) >= 10


def test_alpha_goes_from_one_owner_per_class_to_equal_shares(digits: np.ndarray) -> None:
    def largest_share(alpha: float) -> float:
        parts = DirichletPartition(10, alpha, min_images=0).split(digits, 0, {})
        counts = np.stack([np.bincount(digits[part], minlength=10) for part in parts])
        return float((counts.max(0) / counts.sum(0)).mean())

    shares = [largest_share(alpha) for alpha in (0.01, 0.3, 10, 1e4)]
    assert all(skewed > flat for skewed, flat in pairwise(shares))
    assert shares[0] > 0.9
    assert shares[-1] < 0.12


@pytest.mark.parametrize("self_balancing", [False, True])
@pytest.mark.parametrize(("num_clients", "alpha"), [(10, 0.01), (100, 0.01), (7, 1.0)])
def test_the_draw_is_that_of_flwr_datasets(
    num_clients: int, alpha: float, self_balancing: bool, digits: np.ndarray
) -> None:
    arguments = {"alpha": alpha, "min_partition_size": 0, "self_balancing": self_balancing}
    for seed in range(3):
        theirs = FlowerPartition(num_clients, FLOWER + "DirichletPartitioner", arguments).split(digits, seed, {})
        assert same(dirichlet_split(digits, num_clients, alpha, seed, self_balancing), theirs)


def test_balancing_survives_a_draw_that_gives_everything_to_full_clients() -> None:
    labels = np.repeat(np.arange(200), 5)
    for seed in range(5):
        assert_dealt_once(dirichlet_split(labels, 3, 1e-4, seed, self_balancing=True), len(labels))


@for_each(
    ("rule", "digest"),
    [
        (DirichletPartition(10, 0.05), "a91eea40a3377938"),
        (DirichletPartition(10, 0.05, self_balancing=True), "87cbf05a4a86ceb3"),
        (NaturalPartition("writers", 6), "a2ff31ed24d0c2ff"),
        (NaturalPartition("writers", 3), "74d1109ae76f03a1"),
    ],
    ids=["dirichlet", "balanced", "writers cut", "writers merged"],
)
def test_the_same_seed_gives_the_same_partition_on_any_machine(rule: Partition, digest: str) -> None:
    labels, writers = np.arange(500) * 7 % 10, np.arange(500) * 3 % 5
    holdings = rule.deal(labels, 11, {"writers": writers}, 0.1)
    text = json.dumps([[part.tolist() for part in holding] for holding in holdings])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest


def test_self_balancing_keeps_clients_near_the_average(digits: np.ndarray) -> None:
    rule = DirichletPartition(10, alpha=0.05, min_images=0, self_balancing=True)
    largest_class = np.bincount(digits).max()
    for seed in range(5):
        assert max(map(len, rule.split(digits, seed, {}))) <= len(digits) / 10 + largest_class


def test_as_many_images_as_clients_need_are_enough() -> None:
    labels = np.arange(40) % 2
    parts = DirichletPartition(4, alpha=0.01, min_images=10).split(labels, 0, {})
    assert [len(part) for part in parts] == [10] * 4
    assert_dealt_once(parts, 40)


def test_the_repair_is_logged(digits: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="mosaic"):
        DirichletPartition(50, alpha=0.01).split(digits, 0, {})
    poor = sum(len(part) < 10 for part in dirichlet_split(digits, 50, 0.01, 0))
    assert f"to {poor} of 50 clients so that each holds at least 10" in caplog.text


def test_fewer_images_than_none_are_refused() -> None:
    with refused("data.partition.min_images", "expected 0 or more", "got -1"):
        DirichletPartition(3, 1.0, min_images=-1)


@for_each("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_alpha_has_to_be_a_positive_number(alpha: float) -> None:
    with refused("data.partition.alpha", "expected a number above 0", f"got {alpha}"):
        DirichletPartition(10, alpha)


@pytest.mark.parametrize("num_clients", [0, -3])
def test_a_federation_has_a_client(num_clients: int) -> None:
    with refused("data.partition.num_clients", "expected a number above 0", f"got {num_clients}"):
        DirichletPartition(num_clients, alpha=1)


def test_more_clients_than_images_allow_are_refused(digits: np.ndarray) -> None:
    with refused(
        "120 clients with at least 10 images",
        "need 1200 training images",
        "got 1198",
        "lower min_images or num_clients",
    ):
        DirichletPartition(120, alpha=1).split(digits, 0, {})
    with refused("data.partition.num_clients", "expected at most 1198", "got 1199", "lower it"):
        FlowerPartition(1199, FLOWER + "IidPartitioner").split(digits, 0, {})


def test_pathological_clients_hold_as_many_classes_as_asked(digits: np.ndarray) -> None:
    parts = FlowerPartition(10, FLOWER + "PathologicalPartitioner", PATHOLOGICAL).split(digits, 0, {})
    assert [len(np.unique(digits[part])) for part in parts] == [2] * 10


@pytest.mark.parametrize("order", ["as loaded", "sorted"])
def test_iid_clients_hold_every_class_alike_even_where_the_file_is_sorted(order: str, digits: np.ndarray) -> None:
    labels = np.sort(digits) if order == "sorted" else digits
    parts = FlowerPartition(4, FLOWER + "IidPartitioner").split(labels, 0, {})
    counts = np.stack([np.bincount(labels[part], minlength=10) for part in parts])
    assert counts.sum(1).max() - counts.sum(1).min() <= 1
    assert counts.min() >= 12  # 30 are expected
    assert counts.max() <= 50


def test_images_that_a_rule_leaves_out_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    labels = np.arange(103) % 5
    rule = FlowerPartition(4, FLOWER + "ShardPartitioner", {"shard_size": 10, "num_shards_per_partition": 2})
    with caplog.at_level(logging.WARNING, logger="mosaic"):
        holdings = rule.deal(labels, 0, {}, validation_share=0.0)
    assert [len(holding.train) for holding in holdings] == [20] * 4
    assert len(np.unique(gather(holdings).train)) == 80
    assert "dealt 23 of 103 images to nobody" in caplog.text


@for_each("path", [FLOWER + "NoSuchPartitioner", "no_such_module.Partitioner", "Partitioner", ""])
def test_a_partitioner_that_does_not_exist_is_refused(path: str, digits: np.ndarray) -> None:
    with refused("data.partition.partitioner", repr(path), "cannot be imported", "expected a class path such as"):
        FlowerPartition(4, path).split(digits, 0, {})


@for_each(
    ("name", "arguments", "reason"),
    [
        ("IidPartitioner", {"sizes": 3}, "sizes"),
        ("PathologicalPartitioner", {"num_classes_per_partition": 20}, "20 is greater than the number of unique"),
        ("DirichletPartitioner", {"alpha": 1.0, "num_partitions": 2}, "among 4 clients"),
        ("DirichletPartitioner", {"alpha": 0.01, "min_partition_size": 290}, "max number of attempts"),
    ],
)
def test_what_a_partitioner_refuses_is_passed_on(
    name: str, arguments: dict[str, object], reason: str, digits: np.ndarray
) -> None:
    with refused(f"{name} cannot split 1198 images", reason, "change data.partition.init_args"):
        FlowerPartition(4, FLOWER + name, arguments).split(digits, 0, {})


def test_filling_up_takes_no_more_than_is_missing() -> None:
    parts = [np.arange(20), np.arange(20, 22), np.arange(22, 30), np.empty(0, dtype=np.int64)]
    filled = fill_up(parts, 5, seed=0)
    assert_dealt_once(filled, 30)
    assert [len(part) for part in filled] == [12, 5, 8, 5]
    assert set(parts[1]) <= set(filled[1])


def test_filling_up_changes_nothing_where_nothing_is_missing() -> None:
    parts = [np.arange(5), np.arange(5, 12)]
    assert same(fill_up(parts, 5, seed=0), parts)


@for_each("share", [0.0, 0.1, 0.25, 0.5, 0.9, 0.999])
def test_training_and_validation_are_the_clients_images_and_stratified(share: float, digits: np.ndarray) -> None:
    own = np.arange(100, 700, 2)
    train, validation = hold_out(digits, own, share, (0, 0))
    assert_dealt_once([np.searchsorted(own, train), np.searchsorted(own, validation)], len(own))
    assert set(train) | set(validation) == set(own)
    for label in range(10):
        held, whole = (digits[validation] == label).sum(), (digits[own] == label).sum()
        assert held < whole
        assert abs(held - share * whole) <= 1


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_the_last_image_of_a_class_is_never_held_out(share: float) -> None:
    labels = np.array([0, 1, 1, 2, 2, 2, 4])
    for seed in range(50):
        train, _ = hold_out(labels, np.arange(7), share, (seed, 0))
        assert set(labels[train]) == {0, 1, 2, 4}


def test_a_rare_class_is_held_out_as_often_as_the_share_says() -> None:
    labels = np.zeros(4, dtype=np.int64)
    held = [len(hold_out(labels, np.arange(4), 0.1, (0, client))[1]) for client in range(1000)]
    assert set(held) == {0, 1}
    assert 340 < sum(held) < 460  # 400 are expected


def test_the_seed_and_the_client_decide_what_is_held_out(digits: np.ndarray) -> None:
    own = np.arange(300)
    first = hold_out(digits, own, 0.2, (1, 2))
    assert same(list(hold_out(digits, own, 0.2, (1, 2))), list(first))
    assert not np.array_equal(hold_out(digits, own, 0.2, (1, 3))[1], first[1])
    assert not np.array_equal(hold_out(digits, own, 0.2, (2, 2))[1], first[1])


def test_a_client_without_images_holds_nothing_out(digits: np.ndarray) -> None:
    train, validation = hold_out(digits, np.empty(0, dtype=np.int64), 0.1, (0, 0))
    assert (len(train), len(validation)) == (0, 0)
    assert train.dtype == validation.dtype == np.int64
