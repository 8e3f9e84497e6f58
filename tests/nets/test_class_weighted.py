import pytest
import torch
from torch import Tensor, nn

from mosaic.nets import Blueprint
from mosaic.nets.class_weighted import ClassWeightedEnsemble

WEIGHTS = torch.tensor([[1.0, 0.25, 0.0], [0.0, 0.75, 0.0], [0.0, 0.0, 1.0]])
LABELS = torch.tensor([0, 1, 2, 1, 0])


@pytest.fixture
def ensemble(blueprint: Blueprint) -> ClassWeightedEnsemble:
    return ClassWeightedEnsemble([blueprint.build(blueprint.initial(seed)) for seed in range(3)], WEIGHTS)


@pytest.fixture
def images(random: torch.Generator) -> Tensor:
    return torch.rand(5, 1, 8, 8, generator=random)


def softmax(logits: Tensor) -> Tensor:
    return logits.softmax(-1)


@pytest.mark.parametrize("answer", [None, softmax], ids=["logits", "probabilities"])
def test_every_image_is_weighed_by_its_own_label(ensemble: ClassWeightedEnsemble, images: Tensor, answer) -> None:  # type: ignore[no-untyped-def]
    ours = ensemble(images, LABELS, answer)
    for image, label in enumerate(LABELS):
        opinions = [member(images[image : image + 1])[0] for member in ensemble.members]
        opinions = [softmax(logits) for logits in opinions] if answer else opinions
        expected = sum(weight * opinion for weight, opinion in zip(WEIGHTS[:, label], opinions, strict=True))
        torch.testing.assert_close(ours[image], expected)


def test_probabilities_sum_to_one_where_the_weights_do(ensemble: ClassWeightedEnsemble, images: Tensor) -> None:
    torch.testing.assert_close(ensemble(images, LABELS, softmax).sum(-1), torch.ones(5))


def test_a_member_sees_only_images_of_classes_that_it_holds(ensemble: ClassWeightedEnsemble, images: Tensor) -> None:
    seen: dict[int, int] = {}
    for number, member in enumerate(ensemble.members):
        member.register_forward_pre_hook(lambda _, inputs, number=number: seen.update({number: len(inputs[0])}))
    ensemble(images, LABELS)
    assert seen == {0: 4, 1: 2, 2: 1}
    seen.clear()
    ensemble(images[:2], torch.tensor([0, 0]))
    assert seen == {0: 2}


def test_gradient_reaches_the_images_and_no_member(ensemble: ClassWeightedEnsemble, images: Tensor) -> None:
    images.requires_grad_(True)
    ensemble(images, LABELS).square().sum().backward()
    assert images.grad is not None
    assert images.grad.flatten(1).any(1).all()
    assert all(not p.requires_grad and p.grad is None for p in ensemble.parameters())


def test_members_are_in_eval_mode(ensemble: ClassWeightedEnsemble) -> None:
    assert not any(module.training for module in ensemble.modules())


def test_members_of_different_architectures_join(images: Tensor) -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    hidden = nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.ReLU(), nn.Linear(7, 3))
    assert ClassWeightedEnsemble([linear, hidden], WEIGHTS[:2])(images, LABELS).shape == (5, 3)
