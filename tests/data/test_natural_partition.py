import numpy as np
import pytest

from mosaic.data import NaturalPartition
from tests.cases import for_each
from tests.data.refusals import refused

SIZES = {"mnist": 60, "usps": 20, "svhn": 41}
DOMAINS = np.random.default_rng(0).permutation(np.repeat(list(SIZES), list(SIZES.values())))
LABELS = np.arange(len(DOMAINS)) % 10


def split(num_clients: int | None = None, domains: np.ndarray = DOMAINS, seed: int = 0) -> list[np.ndarray]:
    parts = NaturalPartition("domains", num_clients).split(np.zeros(len(domains), int), seed, {"domains": domains})
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(domains)))
    assert all(np.array_equal(part, np.sort(part)) for part in parts)
    return parts


@for_each("num_clients", [None, 3])
@for_each("kind", [str, object])
def test_each_client_holds_one_domain_in_sorted_order(num_clients: int | None, kind: type) -> None:
    parts = split(num_clients, DOMAINS.astype(kind))
    assert [set(DOMAINS[part]) for part in parts] == [{"mnist"}, {"svhn"}, {"usps"}]


@pytest.mark.parametrize(("num_clients", "clients"), [(6, [2, 2, 2]), (4, [2, 1, 1]), (11, [4, 4, 3])])
def test_more_clients_than_domains_share_a_domain_evenly_and_never_mix(num_clients: int, clients: list[int]) -> None:
    parts = split(num_clients)
    owners = [np.unique(DOMAINS[part]).tolist() for part in parts]
    assert [owners.count([name]) for name in ("mnist", "svhn", "usps")] == clients
    for name in SIZES:
        sizes = [len(part) for part, owner in zip(parts, owners, strict=True) if owner == [name]]
        assert max(sizes) - min(sizes) <= 1


def test_fewer_clients_than_domains_hold_whole_domains_of_like_size() -> None:
    parts = split(2)
    assert sorted(tuple(np.unique(DOMAINS[part])) for part in parts) == [("mnist",), ("svhn", "usps")]
    writers = np.repeat(np.arange(300), np.random.default_rng(1).integers(10, 60, 300))
    parts = split(20, writers)
    owners = [set(writers[part]) for part in parts]
    assert sum(map(len, owners)) == 300
    assert max(map(len, parts)) <= 1.1 * min(map(len, parts))


def test_the_seed_decides_who_of_a_domain_holds_what() -> None:
    first = split(6)
    assert all(np.array_equal(a, b) for a, b in zip(split(6), first, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(split(6, seed=1), first, strict=True))


@pytest.mark.parametrize(
    ("groups", "said"),
    [({}, "has none"), ({"writers": DOMAINS, "hospitals": DOMAINS}, "one of ['hospitals', 'writers']")],
    ids=["no groups", "another key"],
)
def test_a_key_that_the_source_does_not_know_is_refused(groups: dict[str, np.ndarray], said: str) -> None:
    with refused("data.partition.key", said, "got 'domains'", "train_KEY", "group_columns", "another data.partition"):
        NaturalPartition("domains").split(LABELS, 0, groups)


def test_a_domain_too_small_to_be_cut_is_refused() -> None:
    with refused("at least 21 images in every group by domains", "got 20 in group usps", "lower num_clients"):
        split(63)
