"""``mosaic.Federation``: run an algorithm on Python objects, without YAML."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch.optim import SGD

from mosaic.algorithms.base import Algorithm, require_program
from mosaic.algorithms.mosaic import Mosaic
from mosaic.api.description import describe
from mosaic.api.kinds import check_kinds
from mosaic.api.raising import raising, refuse_in_children
from mosaic.api.run import Run
from mosaic.data.module import FederatedDataModule
from mosaic.data.partitions import Remote
from mosaic.errors import MosaicError, kind_of, require_seed
from mosaic.executors import ClientExecutor, SerialExecutor
from mosaic.federation import federation
from mosaic.federation.job import make_job
from mosaic.federation.private import check_private_run
from mosaic.model_pool import ClientModels
from mosaic.nets.blueprint import ClassifierFactory
from mosaic.nets.small_cnn import SmallCNN
from mosaic.privacy import Privacy
from mosaic.runs.directory import RunDirectory
from mosaic.tasks.classification import OptimizerFactory
from mosaic.tasks.global_classifier import GlobalClassifier
from mosaic.training.silence import silence

_KINDS: dict[str, Any] = {
    "data": FederatedDataModule,
    "algorithm": Algorithm,
    "executor": ClientExecutor,
    "clients": ClientModels,
    "privacy": Privacy | None,
    "trainer": Mapping | None,
}


class Federation(federation.Federation):
    """Runs an algorithm on objects; its arguments are those of ``federation:`` in YAML.

    See :class:`mosaic.federation.federation.Federation` for them.
    """

    def fit(
        self,
        net: ClassifierFactory = SmallCNN,
        data: FederatedDataModule | None = None,
        algorithm: Algorithm | None = None,
        trainer: Mapping[str, Any] | None = None,
        *,
        optimizer: OptimizerFactory = SGD,
        executor: ClientExecutor | None = None,
        clients: ClientModels | None = None,
        privacy: Privacy | None = None,
        seed: int = 0,
        channels_last: bool = False,
        compile: bool = False,
        cuda_graphs: bool = False,
        ckpt_path: str | Path | None = None,
    ) -> Run:
        """Run all rounds that are left, and return the run.

        The same settings in YAML give the same numbers. The run's folder is the same too, but its ``config.yaml``
        describes the objects and cannot be run; ``ckpt_path`` goes on with the run if they are described alike.

        Args:
            net: makes the network from image shape and number of classes: a subclass of
                :class:`mosaic.nets.Classifier`, ``functools.partial`` of one, or a function.
            data: the images and who holds them; see :func:`mosaic.data.from_datasets`.
            algorithm: one round; Mosaic with its defaults when not given.
            trainer: settings of Lightning's Trainer for every phase; one CPU or GPU when not given. Objects in it serve
                all phases; ``{"class_path": ..., "init_args": ...}`` is made anew for each.
            optimizer: makes the optimiser of local training from parameters; its rate comes from the schedule.
            executor: reaches the clients; this process, one after another, when not given.
            clients: how the clients' models differ; all are the global network when not given.
            privacy: budget of differential privacy of every client; none when not given.
            seed: of everything but the partition, whose seed is the data's.
            channels_last: whether training uses the channels-last memory format.
            compile: whether training compiles its networks with ``torch.compile``.
            cuda_graphs: whether GPUs replay the passes of classifiers as CUDA graphs.
            ckpt_path: ``auto`` goes on with the run of this name if there is one, ``last`` needs one; or the path of a
                run or of a snapshot.

        Raises:
            MosaicError: the request cannot be carried out; nothing was written.
            KeyboardInterrupt: after Ctrl-C; the last finished round is in a snapshot.
        """
        refuse_in_children()
        algorithm, executor = algorithm or Mosaic(), executor or SerialExecutor()
        clients = clients or ClientModels()
        with raising(), silence():
            _check_given(
                {
                    "net": net,
                    "data": data,
                    "algorithm": algorithm,
                    "trainer": trainer,
                    "optimizer": optimizer,
                    "executor": executor,
                    "clients": clients,
                    "privacy": privacy,
                    "seed": seed,
                }
            )
            assert data is not None, "just checked"
            require_program(algorithm)
            for key, value in (
                *(("data", data), ("algorithm", algorithm), ("algorithm", algorithm.program)),
                *(("executor", executor), ("clients", clients), ("privacy", privacy)),
            ):
                check_kinds(value, key)
            if "lr" in getattr(optimizer, "keywords", {}):
                raise MosaicError(
                    "optimizer: its lr would have no effect, since every round has a rate of its own: set "
                    "learning_rate and fine_tune_learning_rate of mosaic.Schedule"
                )
            seed = int(seed)  # numpy's numbers are in no message
            _check_processes(data, executor)
            if privacy is not None:
                check_private_run(privacy, algorithm, data, self.schedule)
            data.setup("fit")
            computed = {"channels_last": channels_last, "compile": compile, "cuda_graphs": cuda_graphs}
            model = GlobalClassifier(net, optimizer, **computed)
            phases = {"logger": False, "devices": 1, **(trainer or {})}
            config = {
                "seed_everything": seed,
                "trainer": phases,
                "model": {"net": net, "optimizer": optimizer, **computed},
                "data": {**data.settings, "content": _content(data)},
                "algorithm": algorithm,
                "executor": executor,
                "clients": clients,
                **({} if privacy is None else {"privacy": asdict(privacy)}),
                "federation": {**vars(self), "schedule": asdict(self.schedule), "faults": asdict(self.faults)},
                "from_objects": True,
            }
            described = {key: describe(value) for key, value in config.items()}
            kept = RunDirectory(self.run_dir).ledgers
            job = make_job(model, data, algorithm, executor, clients, described, phases, privacy, kept)
            folder = self.run(job, None if ckpt_path is None else str(ckpt_path))
        return Run(folder, net, algorithm)


def _content(data: FederatedDataModule) -> dict[str, object]:
    """Return what tells the images from others: all labels, and the pixels of some."""
    train, test = (
        {"labels": images.labels, "some_pixels": images.pixels[:: max(1, len(images) // 1000)]}
        for images in (data.images.train, data.images.test)
    )
    return {**train, "test": test}


def _check_given(given: Mapping[str, Any]) -> None:
    """Refuse arguments of other kinds, by name."""
    for name, kind in _KINDS.items():
        if not isinstance(given[name], kind):
            told = getattr(kind, "__name__", "settings by name")
            raise MosaicError(f"{name}: expected {told}, got {kind_of(given[name])}")
    for name in ("net", "optimizer"):
        made = hasattr(given[name], "state_dict") and not isinstance(given[name], type)
        if made or not callable(given[name]):
            raise MosaicError(f"{name}: expected a class or function that makes it, got {kind_of(given[name])}")
    callbacks = (given["trainer"] or {}).get("callbacks")
    for each in callbacks if isinstance(callbacks, list | tuple) else [callbacks]:
        if isinstance(each, type):
            raise MosaicError(f"trainer.callbacks: expected objects, got {kind_of(each)}: write {each.__name__}(...)")
    require_seed("seed", given["seed"])


def _check_processes(data: FederatedDataModule, executor: ClientExecutor) -> None:
    """Refuse clients that other processes would have to make."""
    if isinstance(data.partition, Remote) or executor.is_remote:
        raise MosaicError(
            "data.partition, executor: clients on hosts of their own need a configuration, which all parties agree on: "
            "use mosaic.fit"
        )
    if executor.starts_processes:
        raise MosaicError(
            f"executor: {type(executor).__name__} starts processes that make their objects from a configuration: use "
            "SerialExecutor or SideBySideExecutor, start this script with torchrun, or describe the run in YAML for "
            "mosaic.fit"
        )
