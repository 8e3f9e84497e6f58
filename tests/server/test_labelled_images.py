from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mosaic.server.generators import GeneratedImages
from mosaic.server.labelled_images import LabelledBatches, LabelledImages, origin_log_prior

SHAPE = (1, 8, 8)
COUNTS = [[90, 0, 10], [0, 4, 0]]


def drawn(owners: list[int], labels: list[int]) -> GeneratedImages:
    return GeneratedImages(torch.zeros(len(owners), *SHAPE), torch.tensor(owners), torch.tensor(labels))


def test_the_origin_of_an_image_is_its_owners_prior() -> None:
    said = origin_log_prior(drawn([0, 1, 0], [0, 1, 2]), torch.tensor(COUNTS), conditional=False, epsilon=1.0)
    np.testing.assert_allclose(said.exp(), [[1.9, 1.0, 1.1], [1.0, 2.0, 1.0], [1.9, 1.0, 1.1]], rtol=1e-6)


def test_a_drawn_label_replaces_the_owners_prior() -> None:
    said = origin_log_prior(drawn([0, 0], [2, 0]), torch.tensor(COUNTS), conditional=True, epsilon=0.5)
    np.testing.assert_allclose(said.exp(), [[0.5, 0.5, 1.5], [1.5, 0.5, 0.5]], rtol=1e-6)


@pytest.mark.parametrize("conditional", [True, False])
def test_the_origin_rules_no_class_out(conditional: bool) -> None:
    said = origin_log_prior(drawn([0, 1], [2, 1]), torch.tensor(COUNTS), conditional, epsilon=0.01)
    assert said.isfinite().all()
    torch.testing.assert_close(said.exp().sum(1), torch.full((2,), 1.03))


def of_brightness(brightness: Tensor) -> GeneratedImages:
    """Images that are each as bright as told, of owners 0, 1, 0, 1 and so on."""
    count = len(brightness)
    images = brightness[:, None, None, None].expand(count, *SHAPE)
    return GeneratedImages(images, torch.arange(count) % 2, torch.zeros(count, dtype=torch.long))


def labelled(balanced: bool) -> LabelledImages:
    """Ninety images that the teacher takes for class 0 and ten for class 2; image i is i / 100 bright."""
    labels = torch.tensor([0] * 90 + [2] * 10)
    return LabelledImages(of_brightness(torch.arange(100.0) / 100), 2.0 * nn.functional.one_hot(labels, 3), balanced)


@pytest.mark.parametrize(("balanced", "share"), [(True, 0.5), (False, 0.1)])
def test_pseudo_labels_come_equally_often_or_as_they_are(balanced: bool, share: float) -> None:
    batches = LabelledBatches(labelled(balanced), batch_size=100, steps=20, seed=0)
    labels = torch.cat([batch.teacher_logits.argmax(1) for batch in batches])
    assert (labels == 2).float().mean().item() == pytest.approx(share, abs=0.05)


def test_images_keep_what_the_teacher_said_of_them() -> None:
    for images, logits in LabelledBatches(labelled(balanced=True), batch_size=16, steps=5, seed=0):
        number = (100 * images[:, 0, 0, 0]).round()
        assert torch.equal(logits.argmax(1) == 2, number >= 90)


def test_batches_are_repeatable_and_counted() -> None:
    batches = LabelledBatches(labelled(balanced=False), batch_size=16, steps=5, seed=0)
    first, second = ([batch.images.sum().item() for batch in batches] for _ in range(2))
    assert first == second
    assert len(set(first)) == len(batches) == 5
    other = LabelledBatches(labelled(balanced=False), batch_size=16, steps=5, seed=1)
    assert [batch.images.sum().item() for batch in other] != first


def test_every_rank_has_two_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """BatchNorm takes no fewer."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 6)
    for rank in range(6):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        (batch,) = LabelledBatches(labelled(balanced=True), batch_size=8, steps=1, seed=0)
        assert len(batch.images) == 2


def test_ranks_share_one_global_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    (whole,) = LabelledBatches(labelled(balanced=True), batch_size=10, steps=1, seed=0)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    parts = Counter()
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        (batch,) = LabelledBatches(labelled(balanced=True), batch_size=10, steps=1, seed=0)
        assert len(batch.images) == 5
        parts.update(batch.images[:, 0, 0, 0].tolist())
    assert parts == Counter(whole.images[:, 0, 0, 0].tolist())


# how sure the teacher is


def unsure(balanced: bool, min_confidence: float) -> LabelledImages:
    """A hundred images; image i is i / 100 bright, of class i % 3, and the teacher gives that class i / 100."""
    confidence = (torch.arange(100.0) / 100).clamp(0.4, 0.99)
    labels = torch.arange(100) % 3
    others = ((1 - confidence) / 2)[:, None].expand(100, 3)
    probabilities = others.scatter(1, labels[:, None], confidence[:, None])
    return LabelledImages(of_brightness(torch.arange(100.0) / 100), probabilities.log(), balanced, min_confidence)


def drawn_numbers(images: LabelledImages) -> Counter[int]:
    batches = LabelledBatches(images, batch_size=200, steps=20, seed=0)
    return Counter((100 * torch.cat([batch.images[:, 0, 0, 0] for batch in batches])).round().long().tolist())


@pytest.mark.parametrize("balanced", [True, False])
def test_images_that_the_teacher_is_unsure_of_are_never_drawn(balanced: bool) -> None:
    assert drawn_numbers(unsure(balanced, 0.795)).keys() == set(range(80, 100))


@pytest.mark.parametrize("balanced", [True, False])
def test_at_zero_confidence_all_are_drawn(balanced: bool) -> None:
    assert drawn_numbers(unsure(balanced, 0.0)).keys() == set(range(100))


@pytest.mark.parametrize("balanced", [True, False])
def test_where_the_teacher_is_sure_of_none_all_are_drawn(balanced: bool) -> None:
    assert drawn_numbers(unsure(balanced, 0.995)) == drawn_numbers(unsure(balanced, 0.0))


def test_pseudo_labels_are_balanced_among_those_that_are_left() -> None:
    """Above 0.895 there are four images of class 0 (90, 93, 96, 99) and three of each other class."""
    shares = Counter[int]()
    for number, times in drawn_numbers(unsure(True, 0.895)).items():
        shares[number % 3] += times
    assert [shares[label] / 4000 for label in range(3)] == pytest.approx([1 / 3] * 3, abs=0.03)


def test_a_class_of_which_nothing_is_left_is_not_drawn() -> None:
    logits = torch.tensor([[9.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 0.1, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 0.1]])
    images = LabelledImages(of_brightness(torch.arange(5.0)), logits, balanced=True, min_confidence=0.9)
    (batch,) = LabelledBatches(images, batch_size=400, steps=1, seed=0)
    assert set(batch.images.flatten().tolist()) == {0.0, 3.0}


def test_one_generator_draws_all_batches() -> None:
    first = labelled(balanced=True)
    random = torch.Generator().manual_seed(3)
    expected = [torch.multinomial(first.weights, 16, replacement=True, generator=random) for _ in range(5)]
    batches = list(LabelledBatches(first, batch_size=16, steps=5, seed=3))
    assert len(batches) == 5
    for batch, numbers in zip(batches, expected, strict=True):
        assert torch.equal(batch.images, first.images[numbers])
        assert torch.equal(batch.teacher_logits, first.teacher_logits[numbers])
