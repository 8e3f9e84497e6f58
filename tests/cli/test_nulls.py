"""Null in a configuration, where a class takes none."""

from typing import Any

import pytest

from mosaic.algorithms import Algorithm
from mosaic.cli.nulls import require_values
from mosaic.data import FederatedDataModule
from mosaic.errors import MosaicError
from mosaic.federation.federation import Federation

GAN = {"class_path": "mosaic.generation.Adversarial", "init_args": {"width": None}}


def of_mosaic(**arguments: object) -> dict[str, Any]:
    return {"class_path": "mosaic.algorithms.Mosaic", "init_args": arguments}


@pytest.mark.parametrize(
    ("spec", "owner", "said"),
    [
        (of_mosaic(prior_epsilon=None), Algorithm, "section.prior_epsilon: expected float, got null"),
        (of_mosaic(distillation={"beta": None}), Algorithm, "section.distillation.beta: expected float, got null"),
        (
            of_mosaic(teacher={"class_path": "mosaic.teachers.Fusion", "init_args": {"head": {"epochs": None}}}),
            Algorithm,
            "section.teacher.head.epochs: expected int, got null",
        ),
        (of_mosaic(replay=[]), Algorithm, "section.replay: expected settings by name, "),
        (of_mosaic(generation=GAN), Algorithm, "section.generation.width: expected int, got null"),
        (
            of_mosaic(generation={"class_path": "mosaic.generation.Mixture", "init_args": {"parts": [GAN]}}),
            *(Algorithm, "section.generation.parts.width: expected int, got null"),
        ),
        ({"run_dir": None}, Federation, "section.run_dir: expected str, got null"),
        ({"batch_size": None}, FederatedDataModule, "section.batch_size: expected int, got null"),
        (
            {"class_path": "torch.optim.SGD", "init_args": {"differentiable": None}},
            *(object, "section.differentiable: expected bool, got null"),
        ),
    ],
)
def test_it_is_refused_by_its_key(spec: Any, owner: Any, said: str) -> None:
    with pytest.raises(MosaicError) as caught:
        require_values(spec, owner, "section")
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("spec", "owner"),
    [
        (of_mosaic(distillation={"view": None}), Algorithm),
        ({"schedule": {"distill_rounds": None, "expert_steps": None}}, Federation),
        ({"mean": None}, FederatedDataModule),
        ({"class_path": "torch.optim.SGD", "init_args": {"foreach": None}}, object),
        ({"class_path": "tests.cli.test_nulls.Unannotated", "init_args": {"anything": None}}, object),
        (None, Algorithm),
    ],
)
def test_where_a_type_takes_it_it_stays(spec: Any, owner: Any) -> None:
    require_values(spec, owner, "section")


class Unannotated:
    def __init__(self, anything="x"):  # type: ignore[no-untyped-def]
        self.anything = anything
