"""Refuse settings that a privacy budget does not cover, and summarise what was promised and spent."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mosaic.algorithms.base import Algorithm
from mosaic.data.module import FederatedDataModule
from mosaic.errors import MosaicError, printable
from mosaic.federation.schedule import Schedule
from mosaic.model_pool import ModelPool
from mosaic.nets.blueprint import Blueprint
from mosaic.privacy.accounting import PrivacyBudget, accounting_library, spent
from mosaic.privacy.dp_sgd import gradients_by_image
from mosaic.privacy.ledger import booked
from mosaic.privacy.settings import IMAGE, Privacy
from mosaic.seeding import seeded
from mosaic.training.phases import PhaseRunner

NOT_COVERED = (
    "the choice of settings, if it was made by the same images",
    "the public numbers: data.mean, data.std, the classes, and which clients there are",
    "the time that answers take, and that noise is made of 53 random bits for each number",
    "the same person's images at several clients, each of which has a budget of its own",
    "the files of a simulation, which say whose each image is",
)
"""What the promise does not say anything about."""


def check_private_run(privacy: Privacy, algorithm: Algorithm, data: FederatedDataModule, schedule: Schedule) -> None:
    """Refuse, before an image is read, settings that would reveal images or cannot be counted.

    Raises:
        MosaicError: one does.
    """
    algorithm.check_privacy(privacy)
    accounting_library()
    if data.mean is None or data.std is None:
        raise MosaicError(
            "data.mean, data.std: expected public numbers for each channel with a privacy budget, since measured ones "
            "reveal something about images, got none: set both, for example to 0.5 and 0.25"
        )
    if privacy.trains and schedule.local_epochs > 0:
        raise MosaicError(
            "federation.schedule.local_epochs: expected 0 with privacy.local_training dp_sgd, since passes over the "
            f"images tell how many there are, got {schedule.local_epochs}: set local_steps"
        )


def check_private_models(privacy: Privacy, pool: ModelPool, phases: PhaseRunner) -> None:
    """Refuse models and devices with which the promise would not hold.

    Raises:
        MosaicError: clients' models differ, or a layer lets images see each other or remembers them.
    """
    if pool.kind != "same":
        raise MosaicError("clients: expected one model for all clients with a privacy budget: leave out this section")
    if not privacy.trains:
        return
    if pool.blueprint.batch_norms:
        raise MosaicError(
            f"model.net: expected no BatchNorm with privacy.local_training dp_sgd, since it lets images of a batch see "
            f"each other, got {pool.blueprint.batch_norms[0]}: use GroupNorm, as SmallCNN with norm: group"
        )
    if phases.scales_losses:
        raise MosaicError(
            "trainer.precision: expected bf16-mixed or 32-true with privacy.local_training dp_sgd, whose gradients of "
            "single images are clipped as they are, got 16-mixed: set it"
        )
    if phases.processes > 1:
        raise MosaicError(
            f"trainer.devices: expected 1 with privacy.local_training dp_sgd, got {phases.processes}: set it"
        )
    _require_gradients_by_image(pool.blueprint)


def _require_gradients_by_image(blueprint: Blueprint) -> None:
    """Take gradients of single blank images, since a client that cannot take them has already paid for them.

    Raises:
        MosaicError: the network has none, or remembers something of the images that it is trained on.
    """
    net, images = blueprint.build(blueprint.initial(seed=0)).train(), torch.zeros(2, *blueprint.image_shape)
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    try:
        with seeded(0):  # dropout draws
            gradients_by_image(net, images, torch.zeros(2, dtype=torch.long))
        changed = [name for name, buffer in net.named_buffers() if not torch.equal(buffer, before[name])]
        found = f"one that changes {changed[0]} in training" if changed else ""
    except Exception as error:
        found = f"{type(error).__name__}: {printable(str(error))}"
    if found:
        raise MosaicError(
            "model.net: expected gradients of single images, and nothing that is remembered of them, with "
            f"privacy.local_training dp_sgd, got {found}: use layers without running statistics, such as GroupNorm"
        )


def privacy_facts(budget: PrivacyBudget, ledgers: Path) -> dict[str, Any]:
    """Return what the summary says: what is promised, what was spent, by which mechanisms, and what is not covered.

    Args:
        budget: of every client.
        ledgers: of the clients that have worked here; where they are elsewhere, nobody here knows what they have spent.
    """
    privacy, clients = budget.privacy, booked(ledgers)
    most = max((spent(mechanisms, privacy.delta) for mechanisms in clients), default=None)
    group = "" if privacy.unit == IMAGE else f", all images of which at one client count as one {privacy.unit}"
    return {
        "promised": {"epsilon": privacy.epsilon, "delta": privacy.delta},
        "spent": None if most is None else {"epsilon": most, "clients": len(clients)},
        "unit": privacy.unit,
        "neighbouring": f"one {privacy.unit} of a client added or removed{group}",
        "local_training": privacy.local_training,
        "mechanisms": [asdict(mechanism) for mechanism in budget.mechanisms.values()],
        "accountant": accounting_library(),
        "not_covered": list(NOT_COVERED),
    }
