"""Lightning's loggers get every round's figures, once and in order, and never end a run."""

import csv
import json
import logging
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lightning.pytorch.loggers import CometLogger, CSVLogger, Logger, MLFlowLogger, WandbLogger

import mosaic
from mosaic.algorithms import FedAvg
from mosaic.errors import MosaicError
from mosaic.runs.loggers import _IDENTITIES, RunLoggers
from mosaic.server.cohort import Cohort
from mosaic.server.context import RoundContext
from mosaic.server.state import ServerState
from tests.cases import for_each
from tests.small_runs import LinearNet, digits, parsed


class Noting(Logger):
    """Notes what it is told, and fails where it is asked to."""

    def __init__(self, id: str | None = None, fails: str = "") -> None:
        super().__init__()
        self.said: list[Any] = []
        self.id, self.fails = id, fails

    name = "noting"

    @property
    def version(self) -> str:
        return self.id or "first"

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        self._note("settings", sorted(params))

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._note("metrics", step, metrics)

    def log_image(self, key: str, images: list[Any], step: int) -> None:
        self._note("image", key, images[0].size, step)

    def finalize(self, status: str) -> None:
        self._note("closed", status)

    def _note(self, what: str, *facts: Any) -> None:
        if what == self.fails:
            raise ConnectionError("the server is away\nfor today")
        self.said.append((what, *facts))


def run(folder: Path, rounds: int, *loggers: Any, ckpt_path: str | None = None) -> mosaic.Run:
    schedule = mosaic.Schedule(rounds, local_steps=2, fine_tune_rounds=0)
    federation = mosaic.Federation(str(folder), schedule, loggers=list(loggers))
    return federation.fit(LinearNet, digits(4), FedAvg(), {"accelerator": "cpu"}, ckpt_path=ckpt_path)


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as content:
        return list(csv.DictReader(content))


def test_every_round_is_one_row_with_all_its_figures(tmp_path: Path) -> None:
    noting = Noting()
    done = run(tmp_path / "run", 2, partial(CSVLogger, tmp_path, name="logs"), noting)
    told = rows(tmp_path / "logs" / "version_0" / "metrics.csv")
    assert [row["step"] for row in told] == ["1", "2"]
    for column in ("server/test_accuracy", "clients/validation_accuracy"):
        ours = done.metrics[column.split("/")[1]]
        assert [float(row[column]) for row in told] == pytest.approx(ours.tolist())
    assert (tmp_path / "logs" / "version_0" / "hparams.yaml").is_file()
    kinds = [said[0] for said in noting.said]
    assert (kinds[0], kinds[-1]) == ("settings", "closed")
    assert noting.said[-1] == ("closed", "success")
    assert [said[1] for said in noting.said if said[0] == "image"] == ["data/partition", "server/confusion"]

    run(tmp_path / "run", 3, partial(CSVLogger, tmp_path, name="logs"), ckpt_path="last")
    later = rows(tmp_path / "logs" / "version_1" / "metrics.csv")
    assert [row["step"] for row in later if row["server/test_accuracy"]] == ["3"]
    assert len(rows(tmp_path / "logs" / "version_0" / "metrics.csv")) == 2


def test_a_logger_goes_on_with_what_an_earlier_one_has_begun(tmp_path: Path) -> None:
    RunLoggers([partial(Noting, id=None)], tmp_path / "loggers.json").begin({})
    assert json.loads((tmp_path / "loggers.json").read_text()) == {"0": {"id": "first"}}
    made: list[Noting] = []

    def keep(**given: Any) -> Noting:
        made.append(Noting(**given))
        return made[-1]

    RunLoggers([partial(keep, id=None), partial(keep, id=None)], tmp_path / "loggers.json")
    RunLoggers([partial(keep, id="mine")], tmp_path / "loggers.json")
    assert [logger.id for logger in made] == ["first", None, "mine"]


@for_each(("logger", "key"), [(MLFlowLogger, "run_id"), (CometLogger, "experiment_key"), (WandbLogger, "id")])
def test_lightnings_loggers_go_on_by_one_name_each(logger: type[Logger], key: str) -> None:
    assert [each for each in _IDENTITIES if each in signature(logger).parameters][:1] == [key]


def test_figures_wait_until_their_round_is_over_and_come_in_order(tmp_path: Path) -> None:
    noting = Noting()
    loggers = RunLoggers([noting], tmp_path / "loggers.json")
    for round, name in ((2, "a"), (1, "b"), (2, "c"), (3, "d")):
        loggers.scalar(name, 0.5, round)
    loggers.tell(before=3)
    assert noting.said == [("metrics", 1, {"b": 0.5}), ("metrics", 2, {"a": 0.5, "c": 0.5})]
    loggers.picture("x", np.zeros((4, 6, 3), np.uint8), 3)
    loggers.close("failed")
    assert noting.said[2:] == [("image", "x", (6, 4), 3), ("metrics", 3, {"d": 0.5}), ("closed", "failed")]


class FailsOnce(FedAvg):
    """Ends the second round after it has told a figure, once."""

    fails = True

    def round(self, state: ServerState, cohort: Cohort, context: RoundContext) -> ServerState:
        state = super().round(state, cohort, context)
        context.recorder.scalar("server/mine", 0.5)
        if context.plan.round == 2 and FailsOnce.fails:
            raise ValueError("not today")
        return state


def test_a_round_whose_work_is_lost_is_told_once_by_who_goes_on(tmp_path: Path) -> None:
    noting = Noting()

    def go(rounds: int, ckpt_path: str | None) -> None:
        federation = mosaic.Federation(str(tmp_path / "run"), mosaic.Schedule(rounds, local_steps=2), loggers=[noting])
        federation.fit(LinearNet, digits(4), FailsOnce(), {"accelerator": "cpu"}, ckpt_path=ckpt_path)

    with pytest.raises(ValueError, match="not today"):
        go(3, None)
    FailsOnce.fails = False
    go(3, "last")
    told = [said[1] for said in noting.said if said[0] == "metrics" and "server/mine" in said[2]]
    assert told == [1, 2, 3, 4, 5, 6]


def test_a_logger_that_fails_is_left_out_and_the_others_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = Noting(fails="metrics"), Noting()
    loggers = RunLoggers([bad, good], tmp_path / "loggers.json")
    with caplog.at_level(logging.WARNING):
        for round in (1, 2):
            loggers.scalar("a", 0.5, round)
            loggers.tell(before=round + 1)
        loggers.close("success")
    assert bad.said == []
    assert [said[0] for said in good.said] == ["metrics", "metrics", "closed"]
    (record,) = caplog.records
    assert record.getMessage() == (
        "federation.loggers[0] (Noting) fails and is left out from now on: ConnectionError: the server is away"
    )


def test_what_makes_no_logger_is_refused_before_there_is_a_folder(tmp_path: Path) -> None:
    for wrong, told in (
        (lambda: 1 / 0, r"federation.loggers\[0\]: the logger cannot be made \(ZeroDivisionError"),
        (dict, r"federation.loggers\[0\]: expected a lightning.pytorch.loggers.Logger, or what makes one, got dict"),
        (3, r"federation.loggers\[0\]: the logger cannot be made \(TypeError"),
    ):
        with pytest.raises(MosaicError, match=told):
            run(tmp_path / "run", 1, wrong)
    assert not (tmp_path / "run").exists()


def test_yaml_names_loggers_by_their_class() -> None:
    named = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "logs"}}
    (found,) = parsed(f"--federation.loggers=[{json.dumps(named)}]")["federation"]["loggers"]
    assert found["class_path"] == named["class_path"]
    assert found["init_args"]["save_dir"] == "logs"


@pytest.mark.filterwarnings("ignore")  # MLflow's own, of the packages that it uses
def test_mlflow_holds_the_rounds_and_goes_on_after_a_resume(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")  # mlflow-skinny has no local store
    address = f"sqlite:///{tmp_path}/mlflow.db"
    make = partial(MLFlowLogger, "digits", tracking_uri=address, run_id=None)
    run(tmp_path / "run", 1, make)
    run(tmp_path / "run", 2, make, ckpt_path="last")
    client = mlflow.MlflowClient(address)
    (found,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    history = client.get_metric_history(found.info.run_id, "server/test_accuracy")
    assert sorted(point.step for point in history) == [1, 2]
