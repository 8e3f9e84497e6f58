"""What older versions called otherwise: refused in one line, which holds what replaces it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from mosaic.cli.renamed import refuse_renamed
from mosaic.errors import MosaicError
from tests.cases import for_each
from tests.cli.test_main import refusal
from tests.small_runs import DIGITS

HARD_SAMPLES = (
    "algorithm.distillation.hard_sample_step is gone: "
    "set algorithm.distillation.noise to 0.1 on grey images, which is faster; leave it out on photographs"
)
FITTING = "algorithm.fitting is gone: leave it out: PrototypeHead's head is computed in closed form"
STACKED = "model.stack_experts is gone: leave it out: stacked experts were slower on every device that was measured"


def said(values: dict[str, Any]) -> str:
    with pytest.raises(MosaicError) as caught:
        refuse_renamed(values)
    return str(caught.value)


def of_mosaic(**arguments: object) -> dict[str, Any]:
    return {"algorithm": {"class_path": "mosaic.algorithms.Mosaic", "init_args": arguments}}


@for_each(
    ("values", "line"),
    [
        (of_mosaic(distillation={"hard_sample_step": 0.03}), HARD_SAMPLES),
        ({"algorithm": {"class_path": "PrototypeHead", "fitting": {"epochs": 2}}}, FITTING),
        ({"model": {"stack_experts": True}}, STACKED),
        (
            {"algorithm": {"class_path": "mosaic.algorithms.DENSE", "init_args": {"distilling_rounds": 2}}},
            "algorithm.distilling_rounds is gone: leave it out: federation.schedule says which rounds distil",
        ),
    ],
    ids=["hard", "fitting", "stacked", "rounds"],
)
def test_what_is_gone_is_named(values: dict[str, Any], line: str) -> None:
    assert said(values) == line


def test_all_that_is_wrong_stands_in_one_line() -> None:
    line = said({**of_mosaic(distillation={"hard_sample_step": 0.03}), "model": {"stack_experts": True}})
    assert line == f"{HARD_SAMPLES}; {STACKED}"


GANS = {"class_path": "mosaic.generation.Adversarial", "init_args": {"width": 4}}


@for_each(
    ("generation", "kind"),
    [
        ({"steps": 3}, "ClassGaussians"),
        ({"class_path": "ClassGaussians", "init_args": {"steps": 3}}, "ClassGaussians"),
        ({"class_path": "mosaic.generation.Mixture", "init_args": {"parts": [GANS]}, "steps": 3}, "Mixture"),
    ],
    ids=["default", "short", "mixture"],
)
def test_settings_of_gans_need_their_class(generation: dict[str, Any], kind: str) -> None:
    line = said(of_mosaic(generation=generation))
    assert line.startswith(f"algorithm.generation: steps is a setting of GANs, and generators here are {kind}: write")


@for_each(
    "values",
    [
        {},
        {"algorithm": None},
        {"algorithm": "mosaic.algorithms.FedAvg", "executor": "mosaic.executors.SerialExecutor"},
        of_mosaic(teacher={"class_path": "mosaic.teachers.Prior"}, distillation={"steps": 3}, generation=GANS),
        of_mosaic(generation={"class_path": "mosaic.generation.Mixture", "init_args": {"parts": [GANS]}}),
        of_mosaic(generation={"class_path": "mosaic.generation.ClassGaussians", "init_args": {"components": 3}}),
        of_mosaic(generation={"class_path": "theirs.Generation", "init_args": {"steps": 3}}),
        {"algorithm": {"class_path": "mosaic.algorithms.FedProx", "init_args": [{"mu": 0.1}]}},  # for others to refuse
    ],
    ids=str,
)
def test_what_is_valid_passes(values: dict[str, Any]) -> None:
    refuse_renamed(values)


@for_each(
    "given",
    [
        ["--algorithm.distillation.hard_sample_step=0.03"],
        ["--algorithm.init_args.distillation.hard_sample_step", "0.03"],
        ['--algorithm={"class_path": "Mosaic", "init_args": {"distillation": {"hard_sample_step": 0.03}}}'],
        ["--config=old.yaml"],
        ["--config", "old.yaml", "--config", "fedavg.yaml"],
        ["--algorithm", "section.yaml"],
    ],
    ids=" ".join,
)
def test_fit_refuses_them_before_it_reads_anything(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    section = of_mosaic(distillation={"hard_sample_step": 0.03})
    Path("old.yaml").write_text(yaml.safe_dump(section))
    Path("fedavg.yaml").write_text("algorithm: mosaic.algorithms.FedAvg")
    Path("section.yaml").write_text(yaml.safe_dump(section["algorithm"]))
    monkeypatch.setattr("mosaic.cli.lightning.run", lambda _: pytest.fail("it was begun"))
    line = refusal(capsys, "fit", "--config", str(DIGITS), *given)
    assert line.endswith(HARD_SAMPLES)


@pytest.mark.parametrize("option", ["--overlay", "--algorithms"])
def test_compare_refuses_them_too(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(of_mosaic(distillation={"hard_sample_step": 0.03})))
    line = refusal(capsys, "compare", str(DIGITS), option, f"mosaic.yaml,{tmp_path / 'old.yaml'}")
    assert line.endswith(HARD_SAMPLES)
