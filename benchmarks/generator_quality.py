"""How good are the generators of a finished run, in the eyes of a classifier that has seen all real images?

The oracle has the run's own network class and is trained on every training image, which no client ever could; it
serves this benchmark only. Per client: the share of generated images in classes that the owner holds, how often the
oracle sees the class that a conditional generator was asked for, and the overlap of the classes that it sees with the
owner's label counts. Over all clients: the Frechet distance between generated and real training images, and for scale
that between test and training images, both on the features of the run's last global model. Other runs have other
features, so compare runs by the ratio of the two; both grow where there are few images.

    python benchmarks/generator_quality.py runs/NAME [--images 2000] [--keep NAME]

With --keep the figures stay under benchmarks/results/generators/.
"""

import argparse
import json
import statistics
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam
from torchmetrics.image.fid import FrechetInceptionDistance

from mosaic.algorithms import Mosaic
from mosaic.batches import ShuffledBatches
from mosaic.cli.lightning import MosaicCLI
from mosaic.cli.sections import MosaicParser
from mosaic.client.generator_quality import class_coverage
from mosaic.data import FederatedDataModule
from mosaic.errors import MosaicError
from mosaic.nets.blueprint import Blueprint
from mosaic.nets.classifier import Classifier
from mosaic.nets.inference import predict, to_pixels
from mosaic.runs.directory import RunDirectory
from mosaic.runs.snapshots import Snapshot, find_snapshot
from mosaic.seeding import SERVER, generator_for, seed_for
from mosaic.server.generators import GeneratorMixture, uploaded_generator
from mosaic.server.state import ServerState
from mosaic.tasks.classification import ClassificationTask
from mosaic.tasks.global_classifier import GlobalClassifier
from mosaic.teachers.answers import ask_teacher
from mosaic.training.phases import PhaseRunner
from mosaic.training.silence import expected_warnings

ORACLE_STEPS, ORACLE_BATCH, ORACLE_RATE = 1500, 64, 1e-3
KEPT = Path(__file__).resolve().parent / "results" / "generators"
FEWEST_IMAGES = 2000
"""Below which a Frechet distance says more of the number of images than of the images."""
SHARES = ("in_own_classes", "agreement", "coverage")
"""Figures of a client that are shares, and can be averaged."""
IMAGES_PER_CLIENT = 500
"""Images by which each client's generator is judged alone."""


@dataclass(frozen=True)
class FinishedRun:
    """What is needed of a run, rebuilt from its folder."""

    data: FederatedDataModule
    blueprint: Blueprint
    algorithm: Mosaic
    state: ServerState
    phases: PhaseRunner
    seed: int

    def mixture(self, clients: slice = slice(None)) -> GeneratorMixture:
        """Return some or all uploaded generators as the source of images that the server makes of them."""
        uploads = self.state.generators[clients]
        shape = self.blueprint.image_shape
        build = partial(uploaded_generator, generation=self.algorithm.program.generation, image_shape=shape)
        return GeneratorMixture(uploads, build, self.phases.device, self.algorithm.distillation.generator_balance)

    def random(self, phase: str) -> torch.Generator:
        """Return the stream of one part of the measurement."""
        return generator_for(self.seed, 0, SERVER, f"benchmark/{phase}")


@dataclass(frozen=True)
class Report:
    """The figures of one run; accuracies, agreements and coverages are shares.

    Attributes:
        clients: figures of each uploaded generator by client.
        totals: oracle accuracy on the test images, Frechet distances, and how many real images they rest on.
    """

    clients: dict[int, dict[str, float]]
    totals: dict[str, float]

    def summary(self) -> dict[str, float]:
        """Return plain means over clients, the smallest nearest-neighbour ratio, and the totals."""
        rows = list(self.clients.values())
        ratios = [row["nearest_neighbour_ratio"] for row in rows if row["nearest_neighbour_ratio"] >= 0]
        means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0] if name in SHARES}
        if ratios:
            means |= {"median_ratio": statistics.median(ratios), "smallest_ratio": min(ratios)}
        return means | self.totals


class _Loader(MosaicCLI):
    """Parses and builds as ``mosaic fit`` does, and leaves it at that."""

    def fit(self, *_: Any, **__: Any) -> None:
        """Train nothing."""

    @property
    def algorithm(self) -> Any:
        """The algorithm of the configuration."""
        return self._get(self.config_init, "algorithm")


class _Features(nn.Module):
    """A classifier's features, as FrechetInceptionDistance wants them: called like a network, of a known length."""

    def __init__(self, net: Classifier) -> None:
        super().__init__()
        self.net, self.num_features = net, net.head.in_features

    def forward(self, images: Tensor) -> Tensor:
        return self.net.features(images).float()


def read_run(path: Path) -> FinishedRun:
    """Rebuild data, partition and nets from a run's configuration and its last snapshot.

    Raises:
        MosaicError: there is no snapshot, or it holds no generators.
    """
    directory = RunDirectory(path)
    snapshot = find_snapshot("last", path)
    assert snapshot is not None
    state = Snapshot.read(snapshot).server
    if not state.generators:
        raise MosaicError(f"{path}: expected a run whose clients have uploaded generators, got none: run Mosaic")
    with expected_warnings():
        built = _Loader(
            GlobalClassifier,
            FederatedDataModule,
            args=["fit", "--config", str(directory.config)],
            parser_class=MosaicParser,
            trainer_defaults={"logger": False},
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )
    config = yaml.safe_load(directory.config.read_text())
    return FinishedRun(
        built.datamodule,
        built.datamodule.blueprint(built.model.factory),
        built.algorithm,
        state,
        PhaseRunner({"accelerator": config["trainer"]["accelerator"], "devices": 1}),
        config["seed_everything"],
    )


def train_oracle(run: FinishedRun) -> Classifier:
    """Train the run's network on all training images: what no client and no server could do."""
    seed = seed_for(run.seed, 0, SERVER, "benchmark/oracle")
    images = run.data.images.train
    net = run.blueprint.build(run.blueprint.initial(seed))
    task = ClassificationTask(
        net, lambda net, x, y: F.cross_entropy(net(x), y), partial(Adam, lr=ORACLE_RATE), ORACLE_RATE, to_pixels
    )
    batches = ShuffledBatches(images.pixels, images.labels, batch_size=ORACLE_BATCH, steps=ORACLE_STEPS, seed=seed)
    run.phases.run(task, batches, seed)
    return net


def judge_client(run: FinishedRun, row: int, oracle: nn.Module) -> dict[str, float]:
    """Ask the oracle about the images of one upload."""
    client = run.state.generators[row].client
    source = run.mixture(slice(row, row + 1)).draw(IMAGES_PER_CLIENT, run.random(f"client {client}"))
    seen, counts = ask_teacher(oracle, source.images).argmax(-1).cpu(), run.data.class_counts[client]
    figures = {"in_own_classes": float((counts[seen] > 0).double().mean())}
    if run.algorithm.program.generation.conditional:
        figures["agreement"] = float((seen == source.labels.cpu()).double().mean())
    told = run.state.generators[row].metrics
    return figures | {
        "coverage": class_coverage(seen, counts),
        "nearest_neighbour_ratio": float(told.get("nearest_neighbour_ratio", float("nan"))),
    }


def frechet_distances(run: FinishedRun, images: int) -> dict[str, float]:
    """Compare generated images, and test images, with training images on the global model's features."""
    net = run.blueprint.build(run.state.model).eval()
    distance = FrechetInceptionDistance(_Features(net), reset_real_features=False, normalize=True)
    distance.to(run.phases.device)
    train, test = (
        to_pixels(part.pixels[torch.randperm(len(part), generator=run.random("real images"))[:images]])
        for part in (run.data.images.train, run.data.images.test)
    )
    _update(distance, train, real=True)
    figures = {"real_images": float(len(train))}
    unreal = {
        "frechet_distance": run.mixture().draw(images, run.random("frechet")).images,
        "frechet_distance_of_test_images": test,
    }
    for name, pixels in unreal.items():
        _update(distance, pixels, real=False)
        figures[name] = float(distance.compute())
        distance.reset()
    return figures


def _update(distance: FrechetInceptionDistance, pixels: Tensor, real: bool) -> None:
    for batch in pixels.split(512):
        distance.update(batch.to(distance.device), real=real)


def measure(path: Path, images: int = 2000) -> Report:
    """Measure every generator of a run, and all of them together.

    Args:
        path: the run's folder.
        images: generated and real images behind the Frechet distance, at least 2,000; of real ones all there are, where
            they are fewer.

    Raises:
        MosaicError: the folder holds no finished run with generators, or too few images are asked for.
    """
    if images < FEWEST_IMAGES:
        raise MosaicError(f"--images: expected at least {FEWEST_IMAGES}, of fewer a distance says little, got {images}")
    run = read_run(path)
    oracle = train_oracle(run)
    test = run.data.images.test
    guesses = predict(oracle, test.pixels, run.phases.device).argmax(-1)
    clients = {upload.client: judge_client(run, row, oracle) for row, upload in enumerate(run.state.generators)}
    totals = {"oracle_accuracy": float((guesses == test.labels).double().mean()), **frechet_distances(run, images)}
    return Report(clients, totals)


def generator_quality(run: Path, images: int = 2000) -> dict[str, float]:
    """Return means over clients, the oracle's test accuracy and the Frechet distances of a run.

    Args:
        run: its folder.
        images: generated and real images behind the Frechet distance.
    """
    return measure(run, images).summary()


def show(report: Report, images: int, console: Console) -> None:
    """Print one row per client, their means, and what holds for all of them together."""
    summary = report.summary()
    names = [name for name in next(iter(report.clients.values())) if name in SHARES]
    table = Table("client", *(f"{name.replace('_', ' ')}, %" for name in names), "nearest neighbour")
    for client, figures in report.clients.items():
        ratio = figures["nearest_neighbour_ratio"]
        table.add_row(
            str(client), *(f"{100 * figures[name]:.1f}" for name in names), f"{ratio:.2f}" if ratio >= 0 else "-"
        )
    table.add_section()
    table.add_row("mean", *(f"{100 * summary[name]:.1f}" for name in names), "")
    console.print(table)
    say = partial(console.print, highlight=False, soft_wrap=True)
    real = int(summary["real_images"])
    say(f"Oracle, trained on all training images: {100 * summary['oracle_accuracy']:.2f} % of the test images")
    say(
        f"Frechet distance to {real} training images, on the global model's features: {images} generated images "
        f"{summary['frechet_distance']:.3f}, test images {summary['frechet_distance_of_test_images']:.3f}"
    )
    if real < images:
        say(f"Note: the data set has only {real} training images; all of them are used")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished `mosaic fit`")
    parser.add_argument("--images", type=int, default=2000, help="behind the Frechet distance, at least 2000")
    parser.add_argument("--keep", help="name under which the figures are kept")
    options = parser.parse_args()
    try:
        report = measure(options.run, options.images)
    except (MosaicError, argparse.ArgumentError) as error:  # the latter: a configuration that no longer parses
        parser.error(str(error))
    show(report, options.images, Console())
    if options.keep:
        figures = {"date": str(date.today()), "summary": report.summary(), "clients": report.clients}
        KEPT.mkdir(parents=True, exist_ok=True)
        (KEPT / f"{options.keep}.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
