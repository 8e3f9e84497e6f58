"""What older versions called otherwise: refused in one line, which holds what replaces it."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from mosaic.cli.main import main
from mosaic.cli.renamed import read_arguments, refuse_renamed, refuse_renamed_in_run
from mosaic.errors import MosaicError
from tests.cases import for_each
from tests.cli.test_main import refusal
from tests.small_runs import DIGITS, SharedRuns, fit_arguments

TEACHERS = "mosaic.teachers"
REFRESHES = (
    "algorithm.distillation.refreshes is gone: "
    "set algorithm.distillation.pool_size to as many images as all pools had together"
)
HARD_SAMPLES = (
    "algorithm.distillation.hard_sample_step is gone: "
    "set algorithm.distillation.noise to 0.1 on grey images, which is faster; leave it out on photographs"
)
FITTING = "algorithm.fitting is gone: leave it out: PrototypeHead's head is computed in closed form"
STACKED = "model.stack_experts is gone: leave it out: stacked experts were slower on every device that was measured"
PHASES = (
    "executor.server_phases is gone: "
    "leave it out; several devices for server phases: --executor SerialExecutor --trainer.devices N"
)
MAX_FAILED = (
    "federation.max_failed is gone: "
    "set federation.faults.quorum to 1 minus it, the share of the clients that must answer"
)


def said(values: dict[str, Any]) -> str:
    with pytest.raises(MosaicError) as caught:
        refuse_renamed(values)
    return str(caught.value)


def of_mosaic(**arguments: object) -> dict[str, Any]:
    return {"algorithm": {"class_path": "mosaic.algorithms.Mosaic", "init_args": arguments}}


@for_each(
    ("gate", "teacher"),
    [
        ({"kind": "fusion"}, {"class_path": "Fusion"}),
        ({"kind": "mean"}, {"class_path": "Mean"}),
        ({"kind": "owner"}, {"class_path": "Owner"}),
        ({"kind": "labels"}, {"class_path": "Labels"}),
        ({"space": "images"}, {"class_path": "Fusion"}),
        ({"kind": "prior", "space": "features"}, {"class_path": "Prior", "init_args": {"heads_only": True}}),
        (
            {"kind": "residual", "space": "features"},
            {"class_path": "Residual", "init_args": {"heads_only": True, "fit_on_prototypes": True}},
        ),
        (
            {"kind": "transformer", "space": "crossed", "dim": 8, "epochs": 3, "head": {"epochs": 9}},
            {
                "class_path": "Transformer",
                "init_args": {"fit_on_prototypes": True, "dim": 8, "fitting": {"epochs": 3}},
            },
        ),
        (
            {"kind": "prior", "probabilities": True, "epochs": 3, "dim": 8},
            {"class_path": "Prior", "init_args": {"probabilities": True}},
        ),
        (
            {"kind": "prototypes", "epochs": 3, "head": {"learning_rate": 0.5}},
            {"class_path": "Prototypes", "init_args": {"head": {"learning_rate": 0.5}}},
        ),
        ({"head": {"epochs": 9}}, {"class_path": "Fusion", "init_args": {"head": {"epochs": 9}}}),
    ],
    ids=str,
)
def test_a_gate_is_replaced_by_one_line_of_yaml(gate: dict[str, Any], teacher: dict[str, Any]) -> None:
    line = said(of_mosaic(gate=gate)).partition(" is now ")[2]
    expected = {**teacher, "class_path": f"{TEACHERS}.{teacher['class_path']}"}
    assert yaml.safe_load(line) == {"algorithm.teacher": expected}


def test_one_key_is_named_with_its_value() -> None:
    expected = "algorithm.gate.kind: prior is now algorithm.teacher: {class_path: mosaic.teachers.Prior}"
    assert said(of_mosaic(gate={"kind": "prior"})) == expected


@for_each(
    ("values", "line"),
    [
        (of_mosaic(distillation={"refreshes": 2}), REFRESHES),
        (of_mosaic(distillation={"hard_sample_step": 0.03}), HARD_SAMPLES),
        ({"algorithm": {"class_path": "PrototypeHead", "fitting": {"epochs": 2}}}, FITTING),
        ({"model": {"stack_experts": True}}, STACKED),
        (
            {"algorithm": {"class_path": "mosaic.algorithms.DENSE", "init_args": {"distilling_rounds": 2}}},
            "algorithm.distilling_rounds is gone: leave it out: federation.schedule says which rounds distil",
        ),
        ({"executor": {"class_path": "RanksExecutor", "init_args": {"server_phases": "all"}}}, PHASES),
        ({"federation": {"max_failed": 0.2}}, MAX_FAILED),
        (
            {"executor": "mosaic.federation.executors.RayExecutor"},
            "class_path mosaic.federation.executors.RayExecutor is now mosaic.executors.RayExecutor",
        ),
        (
            {"executor": {"class_path": "mosaic.federation.executors.ranks.RanksExecutor"}},
            "class_path mosaic.federation.executors.ranks.RanksExecutor is now mosaic.executors.RanksExecutor",
        ),
        (
            {"data": {"augmentation": {"class_path": "mosaic.augmentation.Augmentation"}}},
            "class_path mosaic.augmentation.Augmentation is now mosaic.data.Augmentation",
        ),
    ],
    ids=[
        "refreshes",
        "hard",
        "fitting",
        "stacked",
        "server phases",
        "max_failed",
        "executor",
        "module of an executor",
        "augmentation",
    ],
)
def test_what_is_gone_or_has_moved_is_named(values: dict[str, Any], line: str) -> None:
    assert said(values) == line


def test_all_that_is_wrong_stands_in_one_line() -> None:
    line = said(of_mosaic(gate={"kind": "mean"}, distillation={"refreshes": 2}))
    assert line == f"algorithm.gate.kind: mean is now algorithm.teacher: {{class_path: {TEACHERS}.Mean}}; {REFRESHES}"


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
    ],
    ids=str,
)
def test_what_is_valid_passes(values: dict[str, Any]) -> None:
    refuse_renamed(values)


def test_files_and_flags_are_stacked(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("algorithm: {init_args: {gate: {kind: prior}, generation: {steps: 3}}}")
    (tmp_path / "b.yaml").write_text("executor: mosaic.executors.SerialExecutor")
    given = [f"--config={tmp_path / 'a.yaml'}", "-c", str(tmp_path / "b.yaml"), "--executor.threads", "1"]
    more = ["--algorithm.gate.dim=8", "--algorithm.generation=Adversarial", "--data.seed", "-1"]
    assert read_arguments([*given, *more]) == {
        "algorithm": {
            "init_args": {"gate": {"kind": "prior"}, "generation": {"steps": 3}},
            "gate": {"dim": 8},
            "generation": "Adversarial",
        },
        "executor": {"class_path": "mosaic.executors.SerialExecutor", "threads": 1},
        "data": {"seed": -1},
    }


def test_what_cannot_be_read_is_left_to_the_parser(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(bytes(range(128, 256)))
    long, broken, bad = "a" * 5000, "[1, 2", str(tmp_path / "bytes.yaml")
    given = read_arguments(["--overlay", long, f"--data.a={broken}", f"--data.b={bad}", "--config", "nowhere.yaml"])
    assert given == {"data": {"a": broken, "b": bad}}
    (tmp_path / "digits.yaml").write_text(f"seed_everything: {'9' * 5000}")
    assert read_arguments(["--config", str(tmp_path / "digits.yaml")]) == {}
    with pytest.raises(MosaicError, match="expected a configuration in UTF-8"):
        read_arguments(["--config", bad])


@for_each(
    "given",
    [
        ["--algorithm.gate.kind=prior"],
        ["--algorithm.init_args.gate.kind", "prior"],
        ['--algorithm={"class_path": "mosaic.algorithms.Mosaic", "init_args": {"gate": {"kind": "prior"}}}'],
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
    section = of_mosaic(gate={"kind": "prior"})
    Path("old.yaml").write_text(yaml.safe_dump(section))
    Path("fedavg.yaml").write_text("algorithm: mosaic.algorithms.FedAvg")
    Path("section.yaml").write_text(yaml.safe_dump(section["algorithm"]))
    monkeypatch.setattr("mosaic.cli.lightning.run", lambda _: pytest.fail("it was begun"))
    line = refusal(capsys, "fit", "--config", str(DIGITS), *given)
    assert line.endswith("algorithm.gate.kind: prior is now algorithm.teacher: {class_path: mosaic.teachers.Prior}")


@pytest.mark.parametrize("option", ["--overlay", "--algorithms"])
def test_compare_refuses_them_too(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(of_mosaic(gate={"kind": "prior"})))
    line = refusal(capsys, "compare", str(DIGITS), option, f"mosaic.yaml,{tmp_path / 'old.yaml'}")
    assert "is now algorithm.teacher" in line


EVERYTHING = {
    **{"kind": "residual", "space": "features", "probabilities": True, "dim": 32, "epochs": 60, "batch_size": 64},
    **{"learning_rate": 0.001, "average_decay": 0.99},
    "head": {"epochs": 200, "batch_size": 64, "learning_rate": 0.01, "average_decay": 0.99},
}


@pytest.fixture
def old_run(shared_run: SharedRuns, tmp_path: Path) -> Path:
    """A run whose configuration an older version has written, with all that it then held."""
    run = shutil.copytree(shared_run("FedAvg"), tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config |= of_mosaic(gate=EVERYTHING, distillation={"refreshes": 0})
    config["executor"] = {"class_path": "mosaic.federation.executors.SerialExecutor"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


@pytest.mark.parametrize("where", [".", "rounds/0001"])
def test_an_old_run_does_not_go_on(where: str, old_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(old_run.rglob("*"))
    line = refusal(
        capsys, *fit_arguments(old_run, "FedAvg", f"--ckpt_path={'auto' if where == '.' else old_run / where}")
    )
    assert f"{old_run / 'config.yaml'}: " in line
    assert (
        "is now algorithm.teacher: {class_path: mosaic.teachers.Residual, init_args: {heads_only: true, fit_on" in line
    )
    assert sorted(old_run.rglob("*")) == before


def test_an_old_run_is_reported_and_exported(old_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", str(old_run)])
    main(["export", str(old_run)])
    assert (old_run / "report.html").is_file()
    assert (old_run / "global.safetensors").is_file()


def test_a_damaged_configuration_of_a_run_is_left_to_others(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(bytes(range(256)))
    refuse_renamed_in_run(tmp_path, tmp_path / "nothing")
