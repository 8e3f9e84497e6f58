import pytest
import torch

from mosaic.losses.priors import balanced_class_weights, label_prior
from tests.cases import for_each


def test_absent_classes_have_a_small_prior_and_class_zero_its_own() -> None:
    prior = label_prior(torch.tensor([6, 0, 3, 0]), epsilon=0.25)
    assert prior.tolist() == pytest.approx([0.625, 0.025, 0.325, 0.025])


@pytest.mark.parametrize("counts", [[0, 0, 0], [1, 0, 0], [10_000, 1, 7]])
def test_a_prior_is_a_distribution_without_zeros(counts: list[int]) -> None:
    prior = label_prior(torch.tensor(counts))
    assert prior.sum().item() == pytest.approx(1)
    assert prior.log().isfinite().all()


def test_an_epsilon_that_single_precision_cannot_hold_leaves_no_zeros() -> None:
    assert label_prior(torch.tensor([5, 0]), 1e-46).log().isfinite().all()


def test_a_client_without_images_knows_nothing() -> None:
    assert label_prior(torch.zeros(4)).tolist() == [0.25] * 4


def test_clients_do_not_mix() -> None:
    counts = torch.tensor([[3, 1], [0, 9]])
    assert torch.equal(label_prior(counts), torch.stack([label_prior(row) for row in counts]))


@pytest.mark.parametrize("epsilon", [0.0, -1.0])
def test_a_prior_with_zeros_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match="epsilon > 0"):
        label_prior(torch.tensor([1, 0]), epsilon)


@for_each("labels", [[0, 0, 0, 2], [1], [0, 1, 2, 3], [3, 3, 3, 0, 1, 1]])
def test_weights_give_every_present_class_the_same_sum(labels: list[int]) -> None:
    weights = balanced_class_weights(torch.tensor(labels), 4)
    totals = [labels.count(c) * weights[c].item() for c in range(4)]
    assert sum(totals) == pytest.approx(len(labels))
    assert {round(total, 4) for total in totals if total} == {round(len(labels) / len(set(labels)), 4)}
    assert all(weights[c] == 0 for c in range(4) if c not in labels)
