"""The audit of a whole run: a client of eight images is found out, and the report says so."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml
from rich.console import Console

from mosaic.audit import attacks, client
from mosaic.audit.finding import CLASSIFIER, GENERATOR, PROTOTYPES, SEARCH, Finding, require_own_file, write_findings
from mosaic.cli import client as command
from mosaic.cli.audit import audit
from mosaic.cli.main import main
from mosaic.deployment.resident import Resident
from mosaic.errors import MosaicError
from mosaic.report.audit_table import audit_head, audit_rows, audit_table, verdict
from mosaic.training.signals import Preempted
from tests.remote_clients import HandedOverExecutor, deployed, resident_arguments, start_residents, write_parts
from tests.small_runs import TWO_ROUNDS, SharedRuns, final_model, fit_other


def findings(run: Path) -> list[Finding]:
    return [Finding(**each) for each in json.loads((run / "audit.json").read_text())["findings"]]


def finding(client: int, auc: float, attack: str = GENERATOR, members: int = 10) -> Finding:
    return Finding(client, attack, members, 200, auc, 0.25, 0.5)


def test_a_row_for_each_client_the_smallest_first() -> None:
    found = [finding(0, 0.6, members=50), finding(1, 0.9), finding(1, 0.55, CLASSIFIER, members=12)]
    assert audit_head(found) == ("client", "images", "draws", "loss drop", "null"), "and no column for other attacks"
    assert audit_rows(found) == [
        ("1", "12", "0.90  25 %", "0.55  25 %", "0.50-0.50"),
        ("0", "50", "0.60  25 %", "-", "0.50-0.50"),
    ]


@pytest.mark.parametrize("rate", [0.25, None])
def test_where_others_are_few_a_dash_stands_for_the_share(rate: float | None) -> None:
    few = replace(finding(0, 0.6), others=20, rate=rate)
    assert audit_rows([few]) == [("0", "10", "0.60     -", "0.50-0.50")]


def test_the_table_fits_a_terminal() -> None:
    """On 80 columns nothing is cut off, with every attack that one run can face."""
    attacks = (GENERATOR, SEARCH, PROTOTYPES, CLASSIFIER)
    found = [replace(finding(100, 0.6, attack, members=500), rate=1.0) for attack in attacks]
    with (console := Console(width=80)).capture() as shown:
        console.print(audit_table(found))
    assert shown.get().strip().splitlines()[-1].split() == ["100", "500", *["0.60", "100", "%"] * 4, "0.50-0.50"]


def test_the_verdict_names_who_is_found_out() -> None:
    said = verdict([finding(3, 0.9), finding(4, 0.65), finding(5, 0.5), finding(5, 0.5, PROTOTYPES)])
    assert f"{GENERATOR}: tells much of client 3 and something of client 4" in said
    assert f"{PROTOTYPES}: hardly more than chance" in said
    assert SEARCH not in said


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack a few images, with little effort."""
    monkeypatch.setattr(attacks, "SEARCH_STEPS", 2)
    monkeypatch.setattr(client, "DRAWS", 20)
    monkeypatch.setattr(client, "MOST_OTHERS", 40)
    monkeypatch.setattr(client, "MOST_MEMBERS", 40)


def test_every_upload_of_a_run_is_attacked(tmp_path: Path, capsys: pytest.CaptureFixture[str], quick: None) -> None:
    run = fit_other(tmp_path / "run", "Mosaic")
    before = final_model(run)
    main(["audit", str(run)])
    told = json.loads((run / "audit.json").read_text())
    assert told["same_run"] is True
    assert {each.attack for each in findings(run)} == {GENERATOR, SEARCH, PROTOTYPES, CLASSIFIER}
    assert {each.client for each in findings(run)} == {0, 1, 2, 3}
    assert "Can a client's images be told from others?" in capsys.readouterr().out
    assert all((final_model(run)[name] == tensor).all() for name, tensor in before.items())
    main(["report", str(run)])
    assert "What uploads reveal about a client" in (run / "report.html").read_text()


def test_a_deployed_client_audits_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, output = write_parts(tmp_path), tmp_path / "audit.json"

    def serve(own: Resident, *_: object) -> NoReturn:
        start_residents(config, "Mosaic", *TWO_ROUNDS)
        HandedOverExecutor.handles[100] = own.handle
        deployed(tmp_path / "run", config, "Mosaic", *TWO_ROUNDS)
        raise Preempted("test")

    monkeypatch.setattr("mosaic.cli.client.serve", serve)
    command.client([*resident_arguments(config, 0, "Mosaic", *TWO_ROUNDS), f"--audit={output}"])
    told = json.loads(output.read_text())
    assert {each["attack"] for each in told["findings"]} == {GENERATOR, SEARCH, PROTOTYPES, CLASSIFIER}
    assert {each["client"] for each in told["findings"]} == {0}
    assert "Can a client's images be told from others?" in capsys.readouterr().out
    assert not list((tmp_path / "run").glob("audit*"))


@pytest.mark.slow
def test_a_client_of_eight_images_is_found_out_by_its_gan(tmp_path: Path) -> None:
    """An attack that cannot win proves nothing. With these settings every class of eight images is learnt by heart."""
    partition = tmp_path / "partition.json"
    eight = {"train": list(range(8)), "validation": []}
    rest = {"train": list(range(100, 400)), "validation": list(range(400, 440))}
    partition.write_text(json.dumps({"clients": [eight, rest]}))
    gan = ["--algorithm.generation=Adversarial", "--algorithm.generation.min_count=1"]
    replay = [f"--data.partition={{class_path: ReplayPartition, init_args: {{path: {partition}}}}}"]
    short = ["--federation.schedule.collaborative_rounds=3", "--federation.schedule.fine_tune_rounds=0"]
    run = tmp_path / "run"
    main(["fit", "--config", "configs/digits.yaml", *gan, *replay, *short, f"--federation.run_dir={run}"])
    main(["audit", str(run)])
    small = {each.attack: each for each in findings(run) if each.client == 0}
    assert min(small[GENERATOR].auc, small[SEARCH].auc) > 0.7
    assert all(0.3 < each.null_auc < 0.7 for each in findings(run))


class TestBadInput:
    def test_no_run(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stop:
            main(["audit", str(tmp_path)])
        assert stop.value.code == 2
        assert "holds no run" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    def test_a_run_that_has_not_finished(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "config.yaml").write_text("seed_everything: 0")
        with pytest.raises(SystemExit):
            main(["audit", str(tmp_path)])
        assert "expected a finished run" in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]

    def test_a_control_in_which_nobody_uploads_anything_of_its_own(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = fit_other(tmp_path / "run", "Centralised")
        with pytest.raises(SystemExit) as stop:
            main(["audit", str(run)])
        assert stop.value.code == 2
        assert "got Centralised, which brings all images to one place" in capsys.readouterr().err
        assert not (run / "audit.json").exists()


def test_a_run_on_several_devices_is_audited_on_one(
    shared_run: SharedRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else Lightning would start the audit once for each."""
    asked: list[dict[str, Any]] = []

    def stop(_: object, config: dict[str, Any]) -> NoReturn:
        asked.append(config)
        raise MosaicError("far enough")

    run = Path(shutil.copytree(shared_run("FedAvg"), tmp_path / "run"))
    several = yaml.safe_load((run / "config.yaml").read_text())
    several["trainer"] |= {"devices": 2, "strategy": "ddp"}
    (run / "config.yaml").write_text(yaml.safe_dump(several))
    monkeypatch.setattr("mosaic.cli.audit.parse_and_run_config", stop)
    with pytest.raises(MosaicError, match="far enough"):
        audit(run)
    assert {key: asked[0]["trainer"][key] for key in ("devices", "strategy")} == {"devices": 1, "strategy": "auto"}


def test_findings_replace_nothing_but_findings(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("{}")
    for taken in (tmp_path, tmp_path / "mine.json"):
        with pytest.raises(MosaicError, match="--audit: expected a new file, or one of earlier findings"):
            require_own_file(taken)
    write_findings(tmp_path / "audit.json", [])
    require_own_file(tmp_path / "audit.json")
    require_own_file(tmp_path / "new.json")
