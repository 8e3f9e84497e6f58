import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mosaic.server.generators import GeneratedImages
from mosaic.teachers import answers
from mosaic.teachers.answers import ask_owners, ask_teacher, neutralise_unknown_classes

SHAPE = (1, 8, 8)


@pytest.mark.parametrize("chunk", [1, 4, 512])
def test_a_teacher_is_asked_in_eval_mode_without_gradient(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "images_at_once", lambda *_: chunk)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.BatchNorm1d(3)).train()
    images = torch.rand(10, *SHAPE)
    said = ask_teacher(teacher, images)
    assert not said.requires_grad
    assert not teacher.training
    assert torch.equal(teacher[2].running_mean, torch.zeros(3))
    torch.testing.assert_close(said, teacher[1](images.flatten(1)) / math.sqrt(1 + 1e-5))


# owners


def owner_nets(random: torch.Generator) -> dict[int, nn.Module]:
    """Three small classifiers that have an opinion on every class."""
    nets = {}
    for owner in range(3):
        nets[owner] = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4))
        nn.init.normal_(nets[owner][1].weight, std=2.0, generator=random)
    return nets


OWNED = torch.tensor([[5, 0, 2, 0], [0, 7, 0, 0], [1, 1, 1, 1]])


def of_owners(owners: list[int], random: torch.Generator) -> GeneratedImages:
    return GeneratedImages(
        torch.rand(len(owners), *SHAPE, generator=random), torch.tensor(owners), torch.zeros(len(owners)).long()
    )


def test_owners_judge_their_own_images_among_their_own_classes(random: torch.Generator) -> None:
    nets, source = owner_nets(random), of_owners([0, 0, 1, 2, 2, 0], random)
    said = ask_owners(nets, source, OWNED)
    assert said.shape == (6, 4)
    for image, owner, logits in zip(source.images, source.owners.tolist(), said, strict=True):
        held = OWNED[owner] > 0
        with torch.no_grad():
            alone = nets[owner].eval()(image[None])[0]
        torch.testing.assert_close(logits.softmax(-1)[held], alone[held].softmax(-1))
        assert logits.softmax(-1)[~held].sum() < 1e-9
        assert logits.isfinite().all()


def test_an_owner_without_images_is_not_asked(random: torch.Generator) -> None:
    nets = {0: owner_nets(random)[0]}
    assert ask_owners(nets, of_owners([0, 0], random), OWNED).shape == (2, 4)


def test_of_classes_that_nobody_knows_nothing_is_said() -> None:
    source = GeneratedImages(torch.zeros(3, 1, 2, 2), torch.zeros(3).long(), torch.tensor([0, 1, 2]))
    said = torch.tensor([[4.0, -30.0, 2.0], [6.0, -30.0, 0.0], [0.0, -30.0, 8.0]])
    unknown = torch.tensor([False, True, False])
    neutral = neutralise_unknown_classes(unknown, said, source, origin_counts=True)
    assert neutral.tolist() == [[4, 3, 2], [3, 3, 3], [0, 4, 8]]
    neutral = neutralise_unknown_classes(unknown, said, source, origin_counts=False)
    assert neutral.tolist() == [[4, 3, 2], [6, 3, 0], [0, 4, 8]]
    for origin_counts in (False, True):  # nobody knows any class
        assert not neutralise_unknown_classes(torch.ones(3).bool(), said, source, origin_counts).any()


class Stubborn(nn.Module):
    """Says the same of every image."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1)


@pytest.mark.parametrize(
    "logits",
    [[1.0, 9.0, 0.0, 9.0], [-40.0, 0.0, -50.0, 0.0], [-900.0, 0.0, -901.0, 900.0], [-80.0] * 4, [500.0] * 4],
    ids=["a little", "surely", "absurdly", "all low", "all high"],
)
def test_an_absent_class_never_wins_whatever_its_logit(logits: list[float], random: torch.Generator) -> None:
    said = ask_owners({0: Stubborn(logits)}, of_owners([0, 0], random), OWNED)
    expected = np.exp(np.array([logits[0], logits[2]]) - max(logits[0], logits[2]))
    np.testing.assert_allclose(said.softmax(-1)[0, [0, 2]], expected / expected.sum(), rtol=1e-4, atol=1e-9)
    assert said.isfinite().all()
    assert said.argmax(-1).tolist() == [0, 0]


def test_asking_owners_leaves_no_gradient_and_no_trace(random: torch.Generator) -> None:
    nets = owner_nets(random)
    before = [{name: tensor.clone() for name, tensor in net.state_dict().items()} for net in nets.values()]
    assert not ask_owners(nets, of_owners([0, 1, 2], random), OWNED).requires_grad
    assert all(
        torch.equal(net.state_dict()[name], tensor)
        for net, kept in zip(nets.values(), before, strict=True)
        for name, tensor in kept.items()
    )
