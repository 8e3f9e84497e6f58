"""What a server makes of generated images and its teacher's answers, before any student learns."""

from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from mosaic.server.distillation import label_images, on_the_way
from mosaic.server.generators import GeneratedImages
from mosaic.server.labelled_images import LabelledImages
from mosaic.tasks.distillation import DistillationSettings
from mosaic.training.dry_run import DryRun

LOGITS = torch.tensor([[5.0, 0.0], [0.1, 0.0]])


class OneOwner:
    """Draws an image for either class, of one client, which holds three of class 0 and one of class 1."""

    class_counts = torch.tensor([[3, 1]])

    def __init__(self, conditional: bool) -> None:
        self.conditional = conditional

    def draw(self, count: int, random: torch.Generator) -> GeneratedImages:
        return GeneratedImages(torch.zeros(count, 1, 2, 2), torch.zeros(count).long(), torch.arange(count))


def labelled(conditional: bool = False, **settings: Any) -> LabelledImages:
    context = SimpleNamespace(
        phases=SimpleNamespace(dry_run=DryRun(False)), generator_for=lambda _: torch.Generator()
    )  # fmt: skip
    source, chosen = cast(Any, OneOwner(conditional)), DistillationSettings(pool_size=2, **settings)
    return label_images(lambda _: LOGITS, source, chosen, cast(Any, context), "distillation")


def test_the_origin_counts_as_much_as_its_weight() -> None:
    found = labelled(origin_weight=0.25, origin_epsilon=0.5).teacher_logits
    torch.testing.assert_close(found, LOGITS + 0.25 * torch.tensor([1.25, 0.75]).log())


def test_the_origin_of_a_conditional_generators_image_is_its_label() -> None:
    found = labelled(conditional=True, origin_weight=1.0, origin_epsilon=0.5).teacher_logits
    torch.testing.assert_close(found, LOGITS + torch.tensor([[1.5, 0.5], [0.5, 1.5]]).log())


def test_images_of_which_the_teacher_is_unsure_are_left_out() -> None:
    assert labelled(origin_weight=0.0, min_confidence=0.9).kept.tolist() == [True, False]


def test_a_share_of_the_way_is_the_students_share() -> None:
    def weights(value: float) -> dict[str, Tensor]:
        return {"w": torch.tensor([value])}

    assert on_the_way(weights(0.0), weights(4.0), 0.25)["w"].item() == 1.0
