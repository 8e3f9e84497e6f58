import pytest
import torch
from torch import Tensor, nn

from mosaic.nets import Blueprint, Classifier
from mosaic.nets.gates import FusionGate, MeanGate
from mosaic.nets.teacher import (
    ExpertsAndMixtures,
    FeatureExperts,
    ImageExperts,
    MixtureOfExperts,
    NoOpinion,
)


@pytest.fixture
def experts(blueprint: Blueprint) -> list[Classifier]:
    return [blueprint.build(blueprint.initial(seed)).eval() for seed in range(3)]


@pytest.fixture
def images(random: torch.Generator) -> Tensor:
    return torch.rand(5, 1, 8, 8, generator=random)


def test_each_expert_looks_at_the_image(experts: list[Classifier], images: Tensor) -> None:
    opinions = ImageExperts(experts)(images)
    assert opinions.shape == (5, 3, 3)
    assert all(torch.equal(opinions[:, i], expert(images)) for i, expert in enumerate(experts))


def test_experts_of_different_architectures_sit_side_by_side(images: Tensor) -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 3))
    assert ImageExperts([linear, pooled])(images).shape == (5, 2, 3)


def test_heads_speak_about_the_features_of_one_trunk(experts: list[Classifier], images: Tensor) -> None:
    trunk = experts[0]
    opinions = FeatureExperts(trunk, [expert.head for expert in experts])(images)
    for i, expert in enumerate(experts):
        torch.testing.assert_close(opinions[:, i], expert.head(trunk.features(images)))


def test_bodies_of_feature_experts_are_not_kept(experts: list[Classifier]) -> None:
    def size(net: nn.Module) -> int:
        return sum(parameter.numel() for parameter in net.parameters())

    kept = size(FeatureExperts(experts[0], (expert.head for expert in experts)))
    assert kept == size(experts[0]) + 3 * size(experts[0].head)


def test_training_and_use_see_the_same_space(experts: list[Classifier], images: Tensor) -> None:
    pool = FeatureExperts(experts[0], [expert.head for expert in experts])
    assert torch.equal(pool.from_features(experts[0].features(images)), pool(images))


def mixtures(experts: list[Classifier]) -> list[nn.Module]:
    fusion = FusionGate(torch.ones(3, 3), torch.zeros(3, 3))
    for expert in experts:
        expert.train()
    return [
        MixtureOfExperts(ImageExperts(experts), MeanGate()),
        MixtureOfExperts(ImageExperts(experts), fusion, nn.Sequential(nn.Flatten(), nn.Linear(64, 3))),
    ]


@pytest.mark.parametrize("which", [0, 1], ids=["gate", "fusion"])
def test_a_mixture_is_frozen_and_in_eval_mode(experts: list[Classifier], images: Tensor, which: int) -> None:
    teacher = mixtures(experts)[which]
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    assert teacher(images).shape == (5, 3)
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_a_mixture_of_one_expert_is_that_expert(experts: list[Classifier], images: Tensor) -> None:
    teacher = MixtureOfExperts(ImageExperts(experts[:1]), MeanGate())
    torch.testing.assert_close(teacher(images), experts[0](images).log_softmax(-1))


def test_side_by_side_asks_experts_once_and_says_what_they_and_their_mixtures_say(random: torch.Generator) -> None:
    asked: list[int] = []
    experts = ImageExperts([nn.Sequential(nn.Flatten(), nn.Linear(4, 3)) for _ in range(2)])
    meta = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    plain = MixtureOfExperts(experts, MeanGate())
    fused = MixtureOfExperts(experts, FusionGate(torch.tensor([[3, 2, 0], [0, 2, 5]]), torch.zeros(2, 3)), meta)
    images = torch.rand(5, 1, 2, 2, generator=random)
    expected = torch.cat([experts(images), plain(images)[:, None], fused(images)[:, None]], dim=1)
    experts.experts[0].register_forward_hook(lambda *_: asked.append(1))
    assert torch.equal(ExpertsAndMixtures(experts, [plain, fused])(images), expected)
    assert len(asked) == 1


def test_no_opinion_holds_all_classes_for_alike(images: Tensor) -> None:
    opinion = NoOpinion(3)(images)
    assert torch.equal(opinion.softmax(-1), torch.full((5, 3), 1 / 3))
    assert NoOpinion(3)(images.double()).dtype == torch.double
    assert list(NoOpinion(3).parameters()) == []


def test_without_a_meta_model_experts_alone_decide_by_hand(random: torch.Generator) -> None:
    """One expert that knows two of three classes, of 4 images each, and says that they differ by 2.

    The pair counts 4 * 4 / (4 + 4) = 2, kappa is a third of that. Like springs: 2 pulls the pair to a difference of 2,
    2 / 3 on the direct way and 1 / 3 by way of the third class pull it to 0, so that 2 * 2 / (2 + 1) is left.
    """

    class Knows(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.tensor([1.5, -0.5, 100.0]).expand(len(images), 3)

    gate = FusionGate(torch.tensor([[4, 4, 0]]), torch.zeros(1, 3))
    teacher = MixtureOfExperts(ImageExperts([Knows()]), gate, NoOpinion(3))
    said = teacher(torch.rand(2, 1, 2, 2, generator=random))
    torch.testing.assert_close(said, torch.tensor([[2 / 3, -2 / 3, 0.0]]).expand(2, 3), rtol=1e-4, atol=1e-5)
