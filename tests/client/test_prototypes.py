import pytest
import torch
from torch import Tensor

from mosaic.client.prototypes import PrototypeSettings, class_prototypes


def cloud(random: torch.Generator, sizes: dict[int, int], width: int = 4) -> tuple[Tensor, Tensor]:
    labels = torch.cat([torch.full((size,), label) for label, size in sizes.items()])
    return torch.randn(len(labels), width, generator=random) + labels[:, None], labels


def sent_by_class(labels: Tensor) -> dict[int, int]:
    names, counts = labels.unique(return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


@pytest.mark.parametrize(("clusters", "min_count"), [(3, 5), (10, 5), (60, 2), (1, 1), (7, 20)])
@pytest.mark.parametrize("sizes", [{0: 40, 1: 4, 3: 77}, {0: 1, 2: 5}, {5: 200}])
def test_every_centre_stands_for_enough_images(random: torch.Generator, sizes, clusters: int, min_count: int) -> None:
    features, labels = cloud(random, sizes)
    _, names, counts = class_prototypes(features, labels, PrototypeSettings(clusters, min_count), seed=0)
    assert (counts >= min_count).all()
    for label, centres in sent_by_class(names).items():
        assert centres <= min(clusters, sizes[label] // min_count)
        assert counts[names == label].sum() == sizes[label]
    assert set(names.tolist()) == {label for label, size in sizes.items() if size >= min_count}


def test_a_class_with_fewer_images_than_min_count_sends_nothing(random: torch.Generator) -> None:
    features, labels = cloud(random, {0: 5, 1: 4, 2: 1})
    _, names, _ = class_prototypes(features, labels, PrototypeSettings(10, 5), seed=0)
    assert names.tolist() == [0]


def test_a_client_of_small_classes_sends_an_empty_reply_of_the_right_shape(random: torch.Generator) -> None:
    centres, names, counts = class_prototypes(*cloud(random, {0: 4, 1: 4}), PrototypeSettings(10, 5), seed=0)
    assert (centres.shape, names.shape, counts.shape) == ((0, 4), (0,), (0,))
    assert (centres.dtype, names.dtype, counts.dtype) == (torch.float32, torch.long, torch.long)


def test_more_than_ten_centres_are_sent_when_asked_for() -> None:
    places = 100 * torch.arange(25).repeat_interleave(5)
    features = places[:, None].float() + torch.linspace(-1, 1, 5).repeat(25)[:, None]
    centres, _, counts = class_prototypes(features, torch.zeros(125).long(), PrototypeSettings(60, 5), seed=0)
    assert len(centres) > 10
    assert counts.sum() == 125


def test_the_centres_are_the_means_of_separate_groups(random: torch.Generator) -> None:
    groups = [torch.randn(8, 2, generator=random) + shift for shift in (0.0, 50.0, -50.0)]
    centres, _, counts = class_prototypes(
        torch.cat(groups), torch.zeros(24).long(), PrototypeSettings(clusters_per_class=3, min_count=8), seed=0
    )
    found = centres[centres[:, 0].argsort()]
    torch.testing.assert_close(found, torch.stack([groups[2].mean(0), groups[0].mean(0), groups[1].mean(0)]))
    assert counts.tolist() == [8, 8, 8]


def test_weighted_by_size_the_centres_have_the_mean_of_the_class(random: torch.Generator) -> None:
    features, labels = cloud(random, {0: 33, 1: 58})
    centres, names, counts = class_prototypes(features, labels, PrototypeSettings(6, 5), seed=0)
    for label in (0, 1):
        own = names == label
        mean = (centres[own] * counts[own, None]).sum(0) / counts[own].sum()
        torch.testing.assert_close(mean, features[labels == label].mean(0))


def test_an_outlier_is_merged_and_never_sent_alone() -> None:
    features = torch.cat([torch.linspace(0, 1, 9)[:, None], torch.tensor([[1e4]])])
    centres, _, counts = class_prototypes(features, torch.zeros(10).long(), PrototypeSettings(2, 5), seed=0)
    assert counts.tolist() == [10]
    assert centres.item() == pytest.approx(features.mean().item())


def test_a_small_cluster_joins_the_nearest() -> None:
    features = torch.tensor([[0.0]] * 10 + [[10.0]] * 10 + [[13.0]] * 2 + [[14.0]] * 1)
    centres, _, counts = class_prototypes(features, torch.zeros(23).long(), PrototypeSettings(3, 5), seed=0)
    assert sorted(zip(centres.flatten().tolist(), counts.tolist(), strict=True)) == [
        (0.0, 10),
        (pytest.approx(140 / 13), 13),
    ]


def test_equal_images_give_one_centre() -> None:
    centres, _, counts = class_prototypes(
        torch.ones(20, 3), torch.full((20,), 2), PrototypeSettings(clusters_per_class=4, min_count=5), seed=0
    )
    assert counts.sum() == 20
    assert torch.equal(centres, torch.ones(len(centres), 3))


def test_classes_do_not_influence_each_other(random: torch.Generator) -> None:
    features, labels = cloud(random, {0: 30, 1: 30})
    settings = PrototypeSettings(4, 5)
    both, names, _ = class_prototypes(features, labels, settings, seed=0)
    alone, _, _ = class_prototypes(features[labels == 1], labels[labels == 1], settings, seed=0)
    assert torch.equal(both[names == 1], alone)


@pytest.mark.parametrize("seed", [0, 2**62 + 12345])
def test_the_same_seed_gives_the_same_centres(random: torch.Generator, seed: int) -> None:
    features, labels = cloud(random, {0: 60})
    first, again = (class_prototypes(features, labels, PrototypeSettings(5, 5), seed)[0] for _ in range(2))
    assert torch.equal(first, again)
