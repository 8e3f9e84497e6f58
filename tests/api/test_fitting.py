"""Runs from Python are those of the command line, whether YAML or objects describe them."""

import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import CSVLogger
from torch.nn.functional import cross_entropy
from torch.optim import SGD

import mosaic
from mosaic.algorithms import DENSE, DistillationSettings, FedAvg, LocalOnly, Mosaic
from mosaic.api.raising import raising
from mosaic.cli.main import main
from mosaic.client.objectives import CrossEntropy
from mosaic.client.prototypes import PrototypeSettings
from mosaic.data import Augmentation, DirichletPartition, FederatedDataModule, NpzSource, ReplayPartition, SklearnDigits
from mosaic.executors import FlowerExecutor, RanksExecutor, SerialExecutor
from mosaic.generation import Adversarial, Mixture
from mosaic.nets import SmallCNN
from mosaic.privacy import Privacy
from mosaic.runs.checkpoint import same_weights
from mosaic.server.cohort import Cohort
from mosaic.server.context import RoundContext
from mosaic.server.experts import Experts
from mosaic.server.faults import Faults
from mosaic.server.generators import GeneratedImages
from mosaic.server.state import ServerState
from mosaic.tasks.global_classifier import GlobalClassifier
from mosaic.tasks.synthesis_settings import LearningSettings
from mosaic.teachers import Evidence, FitSettings, Fusion, TeacherFactory
from mosaic.training.signals import Preempted
from tests.cases import for_each
from tests.small_runs import DIGITS, TINY, LinearNet, SharedRuns, assert_same_run

ONE_ROUND = mosaic.Schedule(1, local_steps=2, fine_tune_rounds=0, learning_rate=0.1, fine_tune_learning_rate=0.01)


def overrides(*flags: str) -> dict[str, Any]:
    """Flags as Python values by key."""
    parted = (flag.removeprefix("--").partition("=") for flag in flags)
    return {key: yaml.safe_load(value) for key, _, value in parted}


def digits(**more: Any) -> FederatedDataModule:
    return FederatedDataModule(SklearnDigits(), DirichletPartition(4, 1), batch_size=32, **more)


def tiny(run_dir: Path, **more: Any) -> mosaic.Run:
    """A run of objects that is over in a moment."""
    faults = more.pop("faults", Faults())
    given = {"net": LinearNet, "data": digits(), "algorithm": FedAvg(), "trainer": {"accelerator": "cpu"}, **more}
    return mosaic.Federation(str(run_dir), ONE_ROUND, faults=faults).fit(**given)


def test_a_configuration_gives_the_commands_run_bit_for_bit(shared_run: SharedRuns, tmp_path: Path) -> None:
    values = yaml.safe_load(DIGITS.read_text())
    run = mosaic.fit([values, {"federation": {"run_dir": tmp_path / "run"}}], overrides(*TINY))
    assert run.path == tmp_path / "run"
    assert_same_run(shared_run("Mosaic"), run.path)
    ours, theirs = run.config, mosaic.load(shared_run("Mosaic")).config
    assert ours.pop("federation") | {"run_dir": ""} == theirs.pop("federation") | {"run_dir": ""}
    assert ours == theirs


def test_objects_give_the_same_run_bit_for_bit(shared_run: SharedRuns, tmp_path: Path) -> None:
    settings = DistillationSettings(steps=3, pool_size=64, batch_size=16, noise=0.1)
    algorithm = Mosaic(
        generation=Adversarial(steps=3, width=4),
        teacher=Fusion(head=FitSettings(epochs=2)),
        distillation=settings,
    )
    run = tiny(
        tmp_path / "run",
        net=partial(SmallCNN, width=16),
        algorithm=algorithm,
        optimizer=partial(SGD, weight_decay=1e-4),
        executor=mosaic.executors.SerialExecutor(threads=1),
    )
    assert_same_run(shared_run("Mosaic"), run.path)
    again = mosaic.load(run.path)
    assert again.model.state_dict().keys() == run.model.state_dict().keys()
    assert len(run.sample(client=0, count=3).labels) == 3
    with pytest.raises(mosaic.MosaicError, match="made of objects"):
        again.sample(client=0)
    assert len(mosaic.load(run.path, algorithm=algorithm).sample(client=0, count=3).labels) == 3
    assert "Mosaic" in run.report(tmp_path / "page.html").read_text()


def test_a_run_of_objects_goes_on_with_the_same_objects_alone(tmp_path: Path) -> None:
    run = tiny(tmp_path / "run")
    longer = mosaic.Schedule(2, local_steps=2, fine_tune_rounds=0, learning_rate=0.1, fine_tune_learning_rate=0.01)
    federation, trainer = mosaic.Federation(str(run.path), longer), {"accelerator": "cpu"}
    other_data = FederatedDataModule(SklearnDigits(), DirichletPartition(4, 2), batch_size=32)
    for net, data, changed in ((SmallCNN, digits(), "model.net"), (LinearNet, other_data, "data.partition")):
        with pytest.raises(mosaic.MosaicError, match=rf"another configuration; changed: {changed}"):
            federation.fit(net, data, FedAvg(), trainer, ckpt_path="auto")
    other_test = digits()
    other_test.images.test.pixels[:100] = 0
    with pytest.raises(mosaic.MosaicError, match=r"another configuration; changed: data\.content\.test"):
        federation.fit(LinearNet, other_test, FedAvg(), trainer, ckpt_path="auto")
    again = federation.fit(LinearNet, digits(), FedAvg(), trainer, ckpt_path="auto")
    assert again.metrics["round"].tolist() == [1, 2]


class Counts(Callback):
    """Counts the phases that it has seen."""

    phases = 0

    def on_train_start(self, *_: Any) -> None:
        self.phases += 1


def test_the_same_objects_go_on_after_they_have_been_at_work(tmp_path: Path) -> None:
    """As in a notebook after Ctrl-C."""
    counts = Counts()
    given = {"net": LinearNet, "data": digits(), "algorithm": FedAvg()}
    given |= {"trainer": {"accelerator": "cpu", "callbacks": [counts]}, "optimizer": partial(SGD, momentum=0.5)}
    run = mosaic.Federation(str(tmp_path / "run"), ONE_ROUND).fit(**given)
    assert counts.phases > 0
    longer = replace(ONE_ROUND, collaborative_rounds=2)
    again = mosaic.Federation(str(run.path), longer).fit(**given, ckpt_path="last")
    assert again.metrics["round"].tolist() == [1, 2]


@for_each(
    ("given", "told"),
    [
        ((DIGITS.with_name("none.yaml"),), "config.*does not exist"),
        ((3,), "config: expected the path of a YAML file, plain values, or a list of these, got int 3"),
        (([],), "config: expected the path of a YAML file"),
        (([3],), "config: expected the path of a YAML file, or plain values, got int 3"),
        (({"data": object()},), "data: expected what YAML can hold"),
        ((DIGITS, ["seed_everything"]), "overrides: expected values by key"),
        ((DIGITS, {"help": True}), "overrides: expected keys of a configuration"),
        ((DIGITS, {"print_config": None}), "overrides: expected keys of a configuration"),
        ((DIGITS, {"a b": 1}), "overrides: expected keys of a configuration"),
        ((DIGITS, {"nothing.of.this": 1}), "nothing.of.this"),
        ((DIGITS, {"data.batch_size": "x"}), "data.batch_size: expected a whole number, got x"),
        ((DIGITS, {"data.batch_size": 1}), "data.batch_size: expected at least 2 images"),
        ((DIGITS, {"algorithm.distillation": {"hard_sample_step": 0.03}}), "distillation.hard_sample_step is gone"),
        ((DIGITS, {"model.net": dict}), "model.net"),
        ((DIGITS, None, "nowhere"), "--ckpt_path nowhere: expected auto, last, a run directory"),
    ],
)
def test_a_bad_request_raises_the_line_that_the_command_prints(given: tuple[Any, ...], told: str) -> None:
    with pytest.raises(mosaic.MosaicError, match=told) as error:
        mosaic.fit(*given)
    assert "\n" not in str(error.value)


def test_an_executor_begins_every_run_anew(tmp_path: Path) -> None:
    """Its clients remember nothing of the run before, and faults on purpose are drawn as if it were the first."""

    def made() -> SerialExecutor:
        return SerialExecutor(threads=1, faults={"exception": 0.3})

    given: dict[str, Any] = {"algorithm": LocalOnly(), "faults": Faults(quorum=0.0)}
    used = made()
    tiny(tmp_path / "before", executor=used, seed=0, **given)
    again = tiny(tmp_path / "again", executor=used, seed=1, **given)
    fresh = tiny(tmp_path / "fresh", executor=made(), seed=1, **given)
    assert again.summary["failed"] == fresh.summary["failed"] != []
    for client in range(4):
        assert same_weights(*(run.path / "clients" / f"{client:02d}.ckpt" for run in (again, fresh)))


def test_objects_of_other_kinds_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    for wrong, told in (
        ({"data": None}, "data: expected FederatedDataModule, got NoneType"),
        ({"data": SklearnDigits()}, "data: expected FederatedDataModule, got SklearnDigits"),
        ({"algorithm": FedAvg}, "algorithm: expected Algorithm, got the class FedAvg"),
        ({"trainer": 3}, "trainer: expected settings by name, got int"),
        ({"trainer": {"max_epochs": 3}}, "trainer.max_epochs belongs to the phases"),
        ({"trainer": {"nonsense": 3}}, "trainer: Lightning refuses these settings"),
        ({"net": SmallCNN((1, 8, 8), 10)}, "net: expected a class or function that makes it, got SmallCNN"),
        ({"net": 3}, "net: expected a class or function that makes it, got int"),
        ({"net": lambda *_: 1 / 0}, "model.net: the network cannot be built"),
        ({"optimizer": partial(torch.optim.SGD, lr=9.0)}, "optimizer: its lr would have no effect"),
        ({"optimizer": "SGD"}, "optimizer: expected a class or function that makes it, got str"),
        ({"seed": -1}, "seed: expected a whole number"),
        ({"clients": "same"}, "clients: expected ClientModels, got str"),
        ({"algorithm": FedAvg(objective=cross_entropy)}, "algorithm.objective: expected LocalObjective, got function"),
        ({"algorithm": FedAvg(objective=CrossEntropy)}, "algorithm.objective: expected .*, got the class CrossEntropy"),
        ({"algorithm": Mosaic(prototypes=None)}, "algorithm.prototypes: expected PrototypeSettings, got NoneType"),
        ({"algorithm": Mosaic(new_head="no")}, "algorithm.new_head: expected bool, got str"),
        ({"algorithm": Mosaic(teacher=Fusion(head={"epochs": 3}))}, "algorithm.teacher.head: expected FitSettings"),
        ({"algorithm": DENSE(guarded="no")}, "algorithm.guarded: expected bool, got str"),
        ({"data": digits(augmentation=None)}, "data.augmentation: expected Augmentation, got NoneType"),
        ({"algorithm": Unfinished()}, r"algorithm: expected Unfinished.__init__ to call super\(\).__init__"),
        ({"executor": RanksExecutor(workers=2)}, "executor: RanksExecutor starts processes"),
        ({"trainer": {"callbacks": [Timer]}}, r"trainer.callbacks: expected objects, .* write Timer\(...\)"),
        ({"trainer": {"callbacks": Timer}}, "trainer.callbacks: expected objects, got the class Timer"),
        ({"executor": FlowerExecutor()}, "clients on hosts of their own need a configuration"),
    ):
        with pytest.raises(mosaic.MosaicError, match=told):
            tiny(tmp_path / "run", **wrong)
    assert not any(tmp_path.iterdir())


@for_each(
    ("make", "told"),
    [
        (lambda: Mosaic(experts="client"), "algorithm.experts: expected clients or class_average, got 'client'"),
        (lambda: Mosaic(expert_statistics="pool"), "algorithm.expert_statistics: expected average or pooled or"),
        (lambda: Adversarial(diversity_target="priors"), "algorithm.generation.diversity_target: expected prior or"),
        (lambda: Adversarial(loss="wgan"), "algorithm.generation.loss: expected bce or hinge, got 'wgan'"),
        (lambda: Adversarial(initialization="DCGAN"), "algorithm.generation.initialization: expected dcgan or default"),
        (lambda: SmallCNN((1, 8, 8), 10, norm="batchnorm"), "model.net.init_args.norm: expected batch or group"),
        (lambda: Privacy(1.0, local_training="dpsgd"), "privacy.local_training: expected none or dp_sgd"),
        (lambda: NpzSource("x.npz", validation="no"), "data.source.init_args.validation: expected train or leave_out"),
        (lambda: Mosaic(distillation={"steps": 3}), "algorithm.distillation: expected DistillationSettings, got dict"),
        (lambda: Mosaic(teacher="Mean"), "algorithm.teacher: expected TeacherFactory, got str"),
        (
            lambda: Mosaic(generation=Adversarial),
            "algorithm.generation: expected Generation, got the class",
        ),
        (lambda: Adversarial(betas=[]), "algorithm.generation.betas: expected two numbers, got []"),
        (lambda: DistillationSettings(interpolation=None), "algorithm.distillation.interpolation: expected shares"),
        (lambda: Privacy("8"), "privacy.epsilon: expected a number, got '8'"),
        (lambda: Privacy(True), "privacy.epsilon: expected a number, got True"),
        (lambda: Privacy(8, shares={}), "privacy.shares: expected Shares, got dict"),
        (lambda: SerialExecutor(threads="2"), "executor.threads: expected a whole number, got '2'"),
        (lambda: SerialExecutor(threads=10**12), "executor.threads: expected at least 1 and at most 4096"),
        (lambda: digits(mean="x"), "data.mean"),
        (
            lambda: mosaic.Schedule(distill_rounds=["1"]),
            "schedule.distill_rounds[0]: expected a whole number",
        ),
        (lambda: mosaic.Schedule(distill_rounds=3), "federation.schedule.distill_rounds: expected a list, got 3"),
        (lambda: mosaic.Schedule(participation="all"), "federation.schedule.participation: expected a share"),
        (lambda: mosaic.Federation(keep_snapshots=1.5), "federation.keep_snapshots: expected a whole number"),
        (lambda: mosaic.Faults(retries=1.5), "federation.faults.retries: expected a whole number, got 1.5"),
        (lambda: FitSettings(epochs=1.5), "fitting.epochs: expected a whole number, got 1.5"),
        (lambda: PrototypeSettings(2.5), "algorithm.prototypes.clusters_per_class: expected a whole number"),
        (lambda: DistillationSettings(batch_size=1), "algorithm.distillation.batch_size: expected at least 2 images"),
        (lambda: LearningSettings(batch_size="x"), "algorithm.learning.batch_size: expected a whole number, got 'x'"),
        (lambda: mosaic.ClientModels(rho=3, sigma=1.5), "clients.sigma: expected a whole number, got 1.5"),
        (lambda: NpzSource("x.npz", resize=64.7), "data.source.init_args.resize[0]: expected a whole number, got 64.7"),
        (lambda: Mixture([Adversarial(), "x"]), "algorithm.generation.parts[1]: expected Generation, got str"),
        (lambda: GlobalClassifier(compile="false"), "model.compile: expected bool, got str"),
        (lambda: Augmentation(padding=1.5), "augmentation.padding: expected a whole number, got 1.5"),
    ],
)
def test_what_a_configuration_would_refuse_python_refuses_too(make: Any, told: str) -> None:
    with pytest.raises(mosaic.MosaicError) as error:
        make()
    assert told in str(error.value)


def test_what_serves_as_well_is_taken(tmp_path: Path) -> None:
    """Paths as text, lists as tuples, numpy's truth values, tensors of numbers, arrays of rounds."""
    path = tiny(tmp_path / "first").path / "partition.json"
    data = FederatedDataModule(
        SklearnDigits(),
        ReplayPartition(path),
        augmentation=Augmentation(0, np.bool_(True)),
        mean=torch.tensor([0.3]),
        std=np.array([0.4]),
    )
    clients = mosaic.ClientModels(models=("global", "global"))
    settings = DistillationSettings(steps=2, batch_size=8, pool_size=16, interpolation=[1.0, 0.5])
    algorithm = Mosaic(distillation=settings, generation=Adversarial(steps=2, width=4, betas=[0.5, 0.99]))
    schedule = replace(ONE_ROUND, distill_rounds=(each for each in np.array([1])))
    given = {"net": LinearNet, "trainer": {"accelerator": "cpu"}, "clients": clients}
    run = mosaic.Federation(tmp_path / "run", schedule).fit(data=data, algorithm=algorithm, **given)
    assert run.summary["distilled"]


def test_numbers_of_numpy_are_pythons(tmp_path: Path) -> None:
    """All of them give the run that Python's own give, in whatever file or message they end."""
    schedule = mosaic.Schedule(
        np.int64(1),
        np.int64(2),
        np.float32(0),
        np.int64(2),
        list(np.arange(1, 2)),
        np.int64(0),
        np.float32(0.5),
        np.float64(0.01),
        np.float32(1),
    )
    data = FederatedDataModule(
        SklearnDigits(), DirichletPartition(np.int64(4), 1), np.int64(0), batch_size=np.int64(32)
    )
    given = {"net": LinearNet, "data": data, "trainer": {"accelerator": "cpu"}, "seed": np.int64(1)}
    levels = {"clients": mosaic.ClientModels(levels=list(np.linspace(0.5, 1, 2))), "net": SmallCNN}
    steps = DistillationSettings(steps=np.int64(2), pool_size=np.int64(32), batch_size=np.int64(8))
    run = mosaic.Federation(tmp_path / "run", schedule).fit(**given, algorithm=Mosaic(distillation=steps))
    assert run.summary["updates"]["student"] == 2
    own = mosaic.Federation(tmp_path / "own", schedule).fit(**{**given, **levels}, algorithm=LocalOnly())
    assert sum(each.numel() for each in own.client_model(0).parameters()) < 10_000


def test_a_federation_takes_a_path_and_refuses_what_is_no_schedule(tmp_path: Path) -> None:
    assert mosaic.Federation(tmp_path / "run").run_dir == str(tmp_path / "run")
    for wrong, told in (
        ((3,), "federation.run_dir: expected the name of a new folder, got 3"),
        (("x", {"collaborative_rounds": 1}), "federation.schedule: expected Schedule, got dict"),
        (("x", ONE_ROUND, 1, 2, 1, {"quorum": 0.5}), "federation.faults: expected Faults, got dict"),
        (("x", ONE_ROUND, 1, 2, 1, mosaic.Faults(), "no"), "federation.judging: expected bool, got str"),
        (("x", ONE_ROUND, 1, 2, 1, mosaic.Faults(), True, CSVLogger("x")), "federation.loggers: expected a list"),
    ):
        with pytest.raises(mosaic.MosaicError, match=told):
            mosaic.Federation(*wrong)
    with pytest.raises(mosaic.MosaicError, match=r"collaborative_rounds: expected a whole number, got 1\.5"):
        mosaic.Schedule(collaborative_rounds=1.5)  # type: ignore[arg-type]
    assert type(mosaic.Schedule(collaborative_rounds=np.int64(2)).collaborative_rounds) is int


def test_a_signal_ends_a_function_as_python_is_ended() -> None:
    with pytest.raises(KeyboardInterrupt, match="interrupted"), raising():
        raise Preempted(signal.SIGINT)
    with pytest.raises(Preempted), raising():
        raise Preempted(signal.SIGTERM)
    with pytest.raises(mosaic.MosaicError, match="code 3"), raising():
        raise SystemExit(3)
    with pytest.raises(ZeroDivisionError), raising():
        _ = 1 / 0


class Unfinished(FedAvg):
    """Does not say what its clients do."""

    def __init__(self) -> None:
        self.rate = 0.1


class Forgetful(FedAvg):
    """Returns what the test says in place of a state."""

    def __init__(self, makes: Callable[[ServerState], Any]) -> None:
        super().__init__()
        self.makes = makes

    def round(self, state: ServerState, cohort: Cohort, context: RoundContext) -> Any:
        return self.makes(super().round(state, cohort, context))


@for_each(
    ("makes", "told"),
    [
        (lambda state: None, "to return a ServerState, got NoneType"),
        (lambda state: state.model, "to return a ServerState, got dict"),
        (lambda state: replace(state, model=None), "to return a ServerState"),
        (lambda state: replace(state, model={}), "of the network's tensors, got 4 that are missing"),
        (lambda state: replace(state, model={**state.model, "x": torch.ones(1)}), "got 1 that are missing, others or"),
        (
            lambda state: replace(state, model={key: tensor * torch.nan for key, tensor in state.model.items()}),
            "Forgetful.round to return a model of finite numbers",
        ),
        (lambda state: replace(state, tensors={"n": torch.eye(2).to_sparse()}), "cannot .*dense tensors of types that"),
        (lambda state: replace(state, tensors={"n": 1}), "state that snapshots can keep, .* got int under .n..: keep"),
        (lambda state: replace(state, distilled=None), "ServerState.distilled: expected .*, got NoneType"),
    ],
)
def test_what_an_algorithm_returns_is_looked_at(makes: Any, told: str) -> None:
    with TemporaryDirectory() as folder, pytest.raises(mosaic.MosaicError, match=told):
        tiny(Path(folder) / "run", algorithm=Forgetful(makes))


class Network(TeacherFactory):
    """Returns a network, as if it were asked of pixels."""

    def form(self, experts: Experts, evidence: Evidence) -> Any:
        return torch.nn.Linear(1, 1)


def test_a_teacher_that_is_a_network_is_told_how_to_ask_it(tmp_path: Path) -> None:
    told = "expected Network.form to return a function of generated images, got Linear: of a network return lambda"
    with pytest.raises(mosaic.MosaicError, match=told):
        tiny(tmp_path / "run", algorithm=Mosaic(teacher=Network()))


class FromLabels(torch.nn.Module):
    """Answers with the label of each generated image."""

    def forward(self, source: GeneratedImages) -> torch.Tensor:
        return 5 * torch.nn.functional.one_hot(source.labels, 10).float()


class Labelled(TeacherFactory):
    def form(self, experts: Experts, evidence: Evidence) -> Any:
        return FromLabels()


def test_a_teacher_may_be_a_module_that_takes_generated_images(tmp_path: Path) -> None:
    assert tiny(tmp_path / "run", algorithm=Mosaic(teacher=Labelled())).summary["distilled"]


@pytest.mark.parametrize("dry", [False, True])
def test_a_run_of_which_nothing_is_kept_names_no_way_on(
    dry: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = {"accelerator": "cpu", "fast_dev_run": dry}
    with pytest.raises(mosaic.MosaicError, match="to return a ServerState"):
        tiny(tmp_path / "run", algorithm=Forgetful(lambda state: None), trainer=trainer)
    assert ("--ckpt_path auto goes on with it" in caplog.text) != dry


def test_sums_in_double_precision_cost_no_more_than_a_model(tmp_path: Path) -> None:
    def double(state: ServerState) -> ServerState:
        return replace(state, model={key: tensor.double() for key, tensor in state.model.items()})

    plain, summed = (
        tiny(tmp_path / name, algorithm=Forgetful(makes))
        for name, makes in {"plain": lambda state: state, "summed": double}.items()
    )
    assert plain.summary["bytes_down"] == summed.summary["bytes_down"]
    sizes = {(each.path / "global.ckpt").stat().st_size for each in (plain, summed)}
    assert len(sizes) == 1


@pytest.mark.parametrize("command", ["fit", "test", "partition"])
def test_the_description_of_objects_is_no_configuration(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    described = tiny(tmp_path / "run").path / "config.yaml"
    with pytest.raises(SystemExit):
        main([command, "--config", str(described)])
    assert "expected a configuration, got the description of Python objects" in capsys.readouterr().err


def test_numbers_of_numpy_are_in_no_privacy_ledger() -> None:
    assert type(Privacy(np.float32(8), np.float64(1e-5)).epsilon) is float


def test_a_run_folder_that_is_gone_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(mosaic.MosaicError, match=r"run is gone, or a folder in it: "):
        tiny(tmp_path / "run", algorithm=Forgetful(lambda state: shutil.rmtree(tmp_path / "run") or state))


def test_other_processes_cannot_make_classes_of_the_script_that_starts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = type("OwnNet", (LinearNet,), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "OwnNet", own, raising=False)
    told = r"model.net.class_path: expected a class that other processes can import, .* got __main__.OwnNet: put"
    with pytest.raises(mosaic.MosaicError, match=told):
        mosaic.fit(
            DIGITS,
            {
                "model.net": "__main__.OwnNet",
                "executor": "RanksExecutor",
                "executor.workers": 2,
                "federation.run_dir": str(tmp_path / "run"),
            },
        )
    assert not (tmp_path / "run").exists()


def test_a_dry_run_has_nothing_to_read_and_says_so(tmp_path: Path) -> None:
    run = tiny(tmp_path / "run", trainer={"accelerator": "cpu", "fast_dev_run": True})
    for read in ("summary", "metrics", "model", "config"):
        with pytest.raises(mosaic.MosaicError, match="a dry run keeps nothing: run without fast_dev_run"):
            getattr(run, read)
    with pytest.raises(mosaic.MosaicError, match="holds no run"):
        mosaic.load(tmp_path / "mosaic-dry-run" / "typo")
