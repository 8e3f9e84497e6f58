"""``mosaic fit``, ``validate``, ``test`` and ``predict``: Lightning's command line with a federation behind ``fit``."""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from mosaic.algorithms.base import require_program
from mosaic.cli.complaints import complaint
from mosaic.cli.nulls import require_values
from mosaic.cli.predictions import table_for, write_predictions
from mosaic.cli.same_images import check_classes, warn_of_another_split
from mosaic.cli.sections import SECTIONS, MosaicParser, add_sections
from mosaic.cli.values import check_importable, check_rate, writable
from mosaic.client.worker import Worker
from mosaic.data import FederatedDataModule, Remote, RemoteData
from mosaic.errors import MosaicError, require_seed, users_mistake
from mosaic.executors import ClientExecutor
from mosaic.executors.agreement import agreement
from mosaic.executors.base import Recipe
from mosaic.executors.remote.executor import RemoteExecutor
from mosaic.executors.remote.wire import Terms
from mosaic.federation.federation import Federation
from mosaic.federation.job import Job, make_job
from mosaic.federation.private import check_private_run
from mosaic.privacy import Privacy
from mosaic.runs.checkpoint import read_checkpoint
from mosaic.runs.directory import RunDirectory
from mosaic.runs.snapshots import find_snapshot
from mosaic.tasks.global_classifier import GlobalClassifier
from mosaic.training.phases import PhaseRunner, check_owned_by_phases
from mosaic.training.silence import silence

C = TypeVar("C", bound="MosaicCLI")


class MosaicCLI(LightningCLI):
    """``fit`` runs a federation; ``validate`` and ``test`` are Lightning's own; ``predict`` writes a table.

    Attributes:
        description: of the command.
        federation, job, ckpt_path: what ``fit`` is to run.
    """

    description = "run a federation; the Trainer's keys that every phase sets itself, such as max_epochs, are refused"
    federation: Federation
    job: Job
    ckpt_path: str | None
    _checkpoint: Mapping[str, Any]

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add algorithm, executor and federation beside model, data and trainer."""
        add_sections(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse without Lightning's warning about a process that has arguments of its own, as notebooks do."""
        if "fit" in self.subcommands():
            self._parser("fit").description = self.description
        self.config = parser.parse_args(args)
        chosen = self.config[self.config.subcommand]
        if self.config.subcommand == "fit":
            check_owned_by_phases(chosen.trainer)
        for section in SECTIONS:
            if section != "privacy" and section in chosen and chosen[section] is None:
                raise MosaicError(f"{section}: expected settings, got nothing: leave it out")
        if chosen.seed_everything is not None:
            require_seed("seed_everything", chosen.seed_everything)
        elif self.config.subcommand == "fit":
            raise MosaicError("seed_everything: expected a whole number, got nothing: give one, or leave it out")

    def _parse_ckpt_path(self) -> None:
        """Check a checkpoint and read no hyper-parameters out of it; ``fit`` takes snapshots instead."""
        command = self.config.subcommand
        ckpt_path = self.config[command].get("ckpt_path")
        if command != "fit" and ckpt_path is None:
            raise MosaicError(f"mosaic {command}: expected --ckpt_path with the global.ckpt of a run, got none")
        if command != "fit":
            self._checkpoint = read_checkpoint(Path(ckpt_path), "--ckpt_path")

    def instantiate_classes(self) -> None:
        """Make model, data and trainer."""
        chosen = self.config[self.config.subcommand]
        for section, owner in SECTIONS.items():
            if chosen.get(section) is not None:
                require_values(chosen[section].as_dict(), owner, section)
        try:
            super().instantiate_classes()
        except ValueError as error:
            if "Does not validate against" not in str(error) or users_mistake(error):
                raise
            raise MosaicError(f"the configuration holds what cannot be made: {complaint(str(error))}") from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Make Lightning's Trainer; ``fit``, whose phases make their own, needs only the class."""
        return cast(Trainer, Trainer) if self.subcommand == "fit" else super().instantiate_trainer(**kwargs)

    def fit(  # takes the options that the command has from Trainer.fit
        self,
        model: GlobalClassifier,
        datamodule: FederatedDataModule,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Gather what the configuration describes, and leave it to the caller to run it."""
        self.federation = self._get(self.config_init, "federation")
        self.job, self.ckpt_path = self._job(model, datamodule), ckpt_path

    def _job(self, model: GlobalClassifier, datamodule: FederatedDataModule) -> Job:
        """Gather what a federation works on."""
        config = self._written()
        check_rate(config["model"]["optimizer"])
        algorithm, clients = (self._get(self.config_init, key) for key in ("algorithm", "clients"))
        require_program(algorithm)
        privacy = self._privacy(datamodule)
        executor: ClientExecutor = self._get(self.config_init, "executor")
        if isinstance(datamodule.partition, Remote):
            self._require_one_process()
            datamodule = self._remote(datamodule, executor, config)
        if executor.starts_processes:
            check_importable(config)
        executor.recipe = Recipe(config, make_worker)
        kept, trainer = self._ledgers(config), self.config.fit.trainer.as_dict()  # with values of the classes' types
        return make_job(model, datamodule, algorithm, executor, clients, config, trainer, privacy, kept)

    def _require_one_process(self) -> None:
        """Refuse several devices where clients are elsewhere: Lightning would start this command anew for each."""
        executor: ClientExecutor = self._get(self.config_init, "executor")
        if (processes := PhaseRunner(executor.trainer(self.config.fit.trainer.as_dict())).processes) > 1:
            raise MosaicError(
                "trainer.devices: expected 1 at the server and at each client with data.partition mosaic.data.Remote, "
                f"got {processes}, of which each would be a party of its own: set --trainer.devices 1"
            )

    def _privacy(self, datamodule: FederatedDataModule) -> Privacy | None:
        """Return the privacy budget, if there is one; refuse, before an image is read, what it cannot cover."""
        privacy: Privacy | None = self._get(self.config_init, "privacy")
        if privacy is not None:
            federation: Federation = self._get(self.config_init, "federation")
            check_private_run(privacy, self._get(self.config_init, "algorithm"), datamodule, federation.schedule)
        return privacy

    def _ledgers(self, config: Mapping[str, Any]) -> Path:
        """Return the folder where clients that work here keep what they have spent."""
        return RunDirectory(config["federation"]["run_dir"]).ledgers

    def _written(self) -> dict[str, Any]:
        """Return the configuration as plain values."""
        command = self.config.subcommand
        try:
            dumped = self._parser(command).dump(self.config[command], format="yaml", skip_none=False)
        except (ValueError, TypeError) as error:
            raise MosaicError(f"a value cannot be written into config.yaml: {complaint(str(error))}") from error
        written: dict[str, Any] = writable(yaml.safe_load(dumped))
        if written.get("privacy") is None:
            written.pop("privacy", None)
        return written

    def _remote(self, given: FederatedDataModule, executor: ClientExecutor, config: dict[str, Any]) -> RemoteData:
        """Return what the server may know of the data; ask the clients for what the configuration does not say."""
        if not isinstance(executor, RemoteExecutor):
            raise MosaicError(
                "executor: expected one for clients on hosts of their own, since data.partition is mosaic.data.Remote, "
                f"got {type(executor).__name__}: set --executor mosaic.executors.FlowerExecutor"
            )
        data = RemoteData(given)
        shape, names = data.partition.image_shape, data.partition.class_names
        private = config.get("privacy") is not None
        executor.terms = Terms(agreement(config), data.num_clients, len(names), shape, private=private)
        found = data.statistics or _statistics_of_run(config) or executor.pixel_statistics()
        data.mean, data.std = map(list, found)
        config["data"] |= {"mean": data.mean, "std": data.std}
        executor.terms = replace(executor.terms, mean=tuple(data.mean), std=tuple(data.std))
        return data

    def _check_images(self, *held_out_by: str) -> None:
        """Refuse images of other classes than the checkpoint's; warn if these keys of ``data`` are not its run's."""
        check_classes(self._checkpoint, self.datamodule.images.class_names)
        checkpoint = Path(self.config[self.config.subcommand].ckpt_path)
        with suppress(MosaicError):  # what cannot be written cannot be compared
            warn_of_another_split(checkpoint, self._written()["data"], ("source", *held_out_by))

    before_test = before_predict = _check_images

    def before_validate(self) -> None:
        """Check the images, as those of the clients, too."""
        self._check_images("partition", "seed", "validation_share")

    def predict(self, model: GlobalClassifier, datamodule: FederatedDataModule, **options: Any) -> None:
        """Predict the test images and write guesses and probabilities beside the checkpoint."""
        if (devices := self.trainer.world_size) > 1:
            raise MosaicError(f"mosaic predict: expected one device, got {devices}: set --trainer.devices 1")
        path = table_for(Path(options["ckpt_path"]))
        batches = cast(list[torch.Tensor], self.trainer.predict(model, datamodule=datamodule, **options))
        told = ", which replaces an older table" if path.exists() else ""
        labels = datamodule.images.test.labels.tolist()
        write_predictions(path, labels, torch.cat(batches).tolist(), datamodule.images.class_names)
        print(f"Predictions of the test images: {path}{told}")


def _statistics_of_run(config: Mapping[str, Any]) -> tuple[list[float], list[float]] | None:
    """Return the mean and standard deviation with which a run was started that is to go on, if there is one."""
    run_dir = Path(config["federation"]["run_dir"])
    found = find_snapshot(config.get("ckpt_path"), run_dir)
    run = RunDirectory(run_dir if found is None else found.parent.parent)  # it may have no snapshot yet
    data = (run.read_config().get("data") or {}) if run.config.is_file() else {}
    return (data["mean"], data["std"]) if data.get("mean") and data.get("std") else None


class CheckedCLI(MosaicCLI):
    """Makes what the configuration names, and runs nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def make_worker(config: Mapping[str, Any]) -> Worker:
    """Make the worker of a configuration of ``mosaic fit``, in whatever process."""
    return parse_and_run_config(MosaicCLI, config).job.worker()


def parse_and_run_config(cli: type[C], config: Mapping[str, Any]) -> C:
    """Parse and run ``fit`` with a configuration that is no file yet."""
    with tempfile.TemporaryDirectory(prefix="mosaic-worker-") as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(yaml.safe_dump(dict(config), sort_keys=False))
        return parse_and_run(cli, ["fit", "--config", str(path)])


def run(args: Sequence[str] | None) -> Path | None:
    """Carry out one of Lightning's subcommands, from arguments that begin with it, or those of the process.

    Returns:
        The folder of the run that ``fit`` has made; of a dry run, nothing is there any more.
    """
    with silence():
        cli = parse_and_run(MosaicCLI, args)
        return cli.federation.run(cli.job, cli.ckpt_path) if cli.subcommand == "fit" else None


def parse_and_run(cli: type[C], args: Sequence[str] | None) -> C:
    """Parse arguments and run their command; only its parser is built: all four would take four times as long."""
    given = sys.argv[1:] if args is None else args
    commands = {name: skipped for name, skipped in cli.subcommands().items() if name in given[:1]}
    if commands:
        cli = type(cli.__name__, (cli,), {"subcommands": staticmethod(lambda: commands)})
    with silence():
        return cli(
            GlobalClassifier,
            FederatedDataModule,
            args=None if args is None else list(args),
            parser_class=MosaicParser,
            seed_everything_default=0,
            trainer_defaults={"logger": False, "devices": 1},
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )
