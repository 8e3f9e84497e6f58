"""Decide whether a run may go on: only with the configuration that it was started with."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from mosaic.data.module import FederatedDataModule
from mosaic.data.partitions.replay import fingerprint_of, plain_holdings
from mosaic.errors import MosaicError
from mosaic.federation.schedule import Schedule
from mosaic.runs.directory import RunDirectory
from mosaic.runs.facts import read_facts
from mosaic.runs.snapshots import Snapshot
from mosaic.yaml_files import differences

FREE_TO_CHANGE = (
    *("ckpt_path", "weights_only", "executor", "data.device_cache"),
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.logger"),
    *("federation.run_dir", "federation.snapshot_every", "federation.keep_snapshots", "federation.faults"),
    "federation.loggers",
    "federation.schedule.collaborative_rounds",
    "federation.schedule.fine_tune_rounds",
    "federation.schedule.distill_rounds",
)
"""Keys that may differ between stop and resume; rounds may be added, as long as finished ones stay as they were."""


def check_same(
    directory: RunDirectory,
    config: Mapping[str, Any],
    snapshot: Snapshot,
    num_clients: int,
    sensitive_to: Collection[str],
) -> None:
    """Refuse to go on with another configuration than the one that the run was started with.

    Args:
        directory: of the run.
        config: the present one.
        snapshot: where the run stopped.
        num_clients: N.
        sensitive_to: what the algorithm reads of a round's plan, see :class:`~mosaic.algorithms.base.Algorithm`.
    """
    before = _read_config(directory, config.keys())
    changed = sorted(
        key
        for key in differences(before, dict(config))
        if not any(key == free or key.startswith(f"{free}.") for free in FREE_TO_CHANGE)
    )
    if (rounds := Schedule(**config["federation"]["schedule"]).rounds) < snapshot.round:
        changed.append(f"federation.schedule ({snapshot.round} rounds are done, and it has {rounds}: plan as many)")
    elif not _same_past(before, config, snapshot.round, num_clients, sensitive_to):
        distils = not {"distils", "distillation"}.isdisjoint(sensitive_to)
        advice = "; say explicitly which distill_rounds there are" if distils else ""
        changed.append(f"federation.schedule (rounds 1..{snapshot.round} would have been other ones{advice})")
    planned = [each["federation"]["schedule"] for each in (before, config)]
    if (config.get("privacy") or {}).get("local_training") == "dp_sgd" and planned[0] != planned[1]:
        changed.append("federation.schedule (noise was spread over the steps that were planned: more would spend more)")
    if changed:
        raise MosaicError(
            f"{directory.path} was started with another configuration; changed: {', '.join(changed)}: "
            "take these back, move the folder away, or start a new run with --federation.run_dir"
        )


def check_same_images(directory: RunDirectory, data: FederatedDataModule) -> None:
    """Refuse to go on with other images than a run's ``partition.json`` has dealt out, if it can be read.

    Clients would be judged by images that they have trained on.
    """
    before: Mapping[str, Any] = {}
    with suppress(MosaicError):  # a damaged one is made anew
        before = read_facts(directory.partition)
    if not before:
        return
    labels = data.images.train.labels.numpy()
    if before.get("images") != len(labels):
        changed = f"expected {before.get('images')} images to train on, got {len(labels)}"
    elif before.get("labels") != fingerprint_of(labels):
        changed = f"expected its {len(labels)} images to train on, got others, whose labels differ"
    elif before.get("clients") != plain_holdings(data.splits):
        changed = "expected every client to have the same images, got another partition"
    else:
        return
    raise MosaicError(
        f"{directory.path} was started with other data: {changed}: bring them back as they were, or start a new run "
        "with --federation.run_dir"
    )


def _read_config(directory: RunDirectory, sections: Collection[str]) -> dict[str, Any]:
    """Read a run's configuration, and refuse one that is missing, damaged or without these sections."""
    values = directory.read_config()
    try:
        if not values.keys() >= set(sections) - set(FREE_TO_CHANGE):
            raise ValueError("sections are missing")
        Schedule(**values["federation"]["schedule"])
    except (ValueError, TypeError, LookupError, MosaicError) as error:
        raise directory.damaged(error) from error
    return values


def _same_past(
    before: Mapping[str, Any], now: Mapping[str, Any], rounds: int, num_clients: int, sensitive_to: Collection[str]
) -> bool:
    """Whether finished rounds would be planned as they were, in what the algorithm reads of a plan."""
    read = sorted({"clients", "steps", "epochs", "learning_rate", *sensitive_to})
    old, new = (Schedule(**config["federation"]["schedule"]) for config in (before, now))
    plans = ((each.plan(r, num_clients, seed=0) for each in (old, new)) for r in range(1, rounds + 1))
    return all(getattr(was, name) == getattr(is_, name) for was, is_ in plans for name in read)
