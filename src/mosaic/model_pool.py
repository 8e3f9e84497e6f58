"""Which model each client runs: public facts that server and clients share."""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor, nn

from mosaic.errors import (
    MosaicError,
    first_line,
    is_number,
    kind_of,
    printable,
    require_at_least_zero,
    require_choice,
    require_kinds,
    require_whole,
    settings_of,
)
from mosaic.finite import are_finite
from mosaic.messages import StateDict
from mosaic.nets.blueprint import Blueprint, ClassifierFactory
from mosaic.nets.classifier import Classifier
from mosaic.nets.requirements import HEAD
from mosaic.nets.slicing import Places, RollingWindow, Slicing, places, require_part, take
from mosaic.seeding import seed_for, seeded

log = logging.getLogger(__name__)
PoolKind = Literal["same", "widths", "architectures"]
ClassifierRows = Literal["holders", "all"]


class ClientModels:
    """How the clients' models differ; by default all are the global network.

    Args:
        models: architectures, assigned to the clients in turn; ``global`` is the global network. Clients with another
            architecture keep their own model, and upload it where it becomes an expert.
        levels: shares of the channels, in ``(0, 1]``, assigned to the clients in turn; each client trains such a
            sub-model of the global network.
        rho: alternative to levels, with ``sigma``: client i of N has level ``(1/2)^min(sigma, floor(rho i / N))``.
        sigma: largest number of times that widths are halved.
        slicing: selects the channels of a sub-model.
        classifier_rows: ``holders`` averages a class's row of a linear head over the clients that hold the class,
            ``all`` over all clients, like every other tensor.
        evaluate_whole: whether clients that train a part of the global network, or another one, can still run the whole
            of it without training it, to judge it and to summarise their images in its features; set it to false where
            they cannot hold it.
    """

    def __init__(
        self,
        models: list[Literal["global"] | ClassifierFactory] | None = None,
        levels: list[float] | None = None,
        rho: float | None = None,
        sigma: int = 2,
        slicing: Slicing = RollingWindow(),
        classifier_rows: ClassifierRows = "holders",
        evaluate_whole: bool = True,
    ) -> None:
        if sum(given is not None for given in (models, levels, rho)) > 1:
            raise MosaicError("clients: expected one of models, levels and rho, got several")
        for key, listed in (("models", models), ("levels", levels)):
            if listed is not None and (not isinstance(listed, Sequence) or len(listed) == 0):
                raise MosaicError(f"clients.{key}: expected a list of at least one entry, got {listed!r}")
        for number, factory in enumerate(models or ()):
            if factory != "global" and (isinstance(factory, nn.Module) or not callable(factory)):
                got = repr(factory) if isinstance(factory, str) else kind_of(factory)
                raise MosaicError(
                    f"clients.models[{number}]: expected global, or a class or function that makes a network, got {got}"
                )
        wrong = [level for level in levels or () if not is_number(level) or not 0 < level <= 1]
        if wrong:
            raise MosaicError(
                f"clients.levels: expected shares of the channels in (0, 1], got {wrong[0]}, which leaves no channels "
                "or asks for more than there are"
            )
        require_whole("clients", sigma=sigma)
        require_at_least_zero("clients", rho=0.0 if rho is None else rho, sigma=sigma)
        require_kinds("clients", slicing=(slicing, Slicing), evaluate_whole=(evaluate_whole, bool))
        require_choice("clients", ClassifierRows, classifier_rows=classifier_rows)
        self.models, self.levels = models, None if levels is None else [float(level) for level in levels]
        self.rho, self.sigma = None if rho is None else float(rho), int(sigma)
        self.slicing, self.classifier_rows, self.evaluate_whole = slicing, classifier_rows, evaluate_whole

    def pool(self, blueprint: Blueprint, num_clients: int, seed: int) -> "ModelPool":
        """Assign models to N clients, given the blueprint of the global network and the run's seed.

        Raises:
            MosaicError: a model cannot classify these images, or the global network cannot be scaled.
        """
        _check(blueprint, "model.net")
        for key, given in (("models", self.models or ()), ("levels", self.levels or ())):
            if len(given) > num_clients:
                log.warning("clients.%s: %d for %d clients: the last are not used", key, len(given), num_clients)
        pool = ModelPool(
            blueprint,
            self._own(blueprint, num_clients),
            self._levels(num_clients),
            self.slicing,
            self.classifier_rows,
            seed,
            self.evaluate_whole,
        )
        if pool.kind == "widths" and self.classifier_rows == "holders" and not {*HEAD} <= blueprint.shapes.keys():
            log.warning("clients.classifier_rows: the head is not one linear layer, so it is averaged like the body")
        return pool

    def _own(self, blueprint: Blueprint, num_clients: int) -> tuple[Blueprint | None, ...]:
        kinds = [
            None if factory == "global" else blueprint.with_factory(factory) for factory in self.models or ["global"]
        ]
        for number, kind in enumerate(kinds):
            if kind is not None:
                _check(kind, f"clients.models[{number}]")
        return tuple(itertools.islice(itertools.cycle(kinds), num_clients))

    def _levels(self, num_clients: int) -> tuple[float, ...]:
        if self.rho is not None:
            stairs = (self.rho * client / num_clients for client in range(num_clients))
            return tuple(0.5 ** min(self.sigma, int(round(stair, 9))) for stair in stairs)  # 1.16 * 25 / 29 is below 1
        return tuple(itertools.islice(itertools.cycle(self.levels or [1.0]), num_clients))


@dataclass(frozen=True)
class ModelPool:
    """The model of every client.

    Attributes:
        blueprint: blueprint of the global network.
        own: blueprint of each client with its own architecture, ``None`` for the others.
        levels: share of the channels of each client.
        slicing: selects the channels.
        classifier_rows: see :class:`ClientModels`.
        seed: the run's seed.
        evaluate_whole: see :class:`ClientModels`.
    """

    blueprint: Blueprint
    own: tuple[Blueprint | None, ...]
    levels: tuple[float, ...]
    slicing: Slicing
    classifier_rows: ClassifierRows
    seed: int
    evaluate_whole: bool = True

    def __post_init__(self) -> None:
        """Refuse levels of a network whose parts cannot be cut out of it."""
        for level in sorted({*self.levels} - {1.0}):
            try:
                self._check_part(self.levels.index(level))
            except MosaicError:
                raise
            except NotImplementedError as error:
                raise MosaicError(f"clients.levels: {error}, or give every client level 1") from error
            except Exception as error:  # scaled() and the slicing are somebody's own code
                raise MosaicError(
                    f"clients.levels: no part of {level:g} of the channels can be made ({type(error).__name__}: "
                    f"{first_line(error)}): fix the network's scaled(), or give every client level 1"
                ) from error

    def _check_part(self, client: int) -> None:
        wide, narrow = self.blueprint, self.of(client)
        require_part(wide.shapes, narrow.shapes, wide.input_blocks, wide.fused)
        net = narrow.build(self.part(wide.initial(seed=0), client, round=1))
        _ask(net.train(), torch.zeros(2, *wide.image_shape), narrow, "clients.levels")

    @cached_property
    def kind(self) -> PoolKind:
        """Whether clients run the same network, networks of different widths, or different architectures."""
        if any(own is not None for own in self.own):
            return "architectures"
        return "same" if set(self.levels) == {1.0} else "widths"

    def of(self, client: int) -> Blueprint:
        """Return the blueprint of a client's model."""
        own = self.own[client]
        return own if own is not None else self._scaled[self.levels[client]]

    @cached_property
    def _scaled(self) -> dict[float, Blueprint]:
        return {level: self.blueprint.scaled(level) for level in set(self.levels)}

    def keeps_own(self, client: int) -> bool:
        """Whether a client keeps its own model instead of receiving the global one."""
        return self.own[client] is not None

    def trains_whole(self, client: int) -> bool:
        """Whether a client receives the whole global network to train it."""
        return self.own[client] is None and self.levels[client] == 1.0

    def can_run_whole(self, client: int) -> bool:
        """Whether a client can run the whole global network, at least for evaluation."""
        return self.evaluate_whole or self.trains_whole(client)

    @cached_property
    def shares_features(self) -> bool:
        """Whether all clients can run the global network, so that they can summarise their images in its features."""
        return all(self.can_run_whole(client) for client in range(len(self.levels)))

    @cached_property
    def judges_receive_whole(self) -> bool:
        """Whether all clients that can run the global network receive it for training, so that they judge it then."""
        clients = range(len(self.levels))
        return all(self.trains_whole(client) for client in clients if self.can_run_whole(client))

    def places(self, client: int, round: int) -> Places:
        """Return the indices of a client's sub-model in the global network in this round."""
        wide, narrow = self.blueprint, self.of(client)
        seed = seed_for(self.seed, round, client, "slicing")
        return places(wide.shapes, narrow.shapes, wide.input_blocks, self.slicing, round, seed)

    def part(self, model: StateDict, client: int, round: int) -> StateDict:
        """Return the tensors to send to a client: the global model, a sub-model, or none if it keeps its own model."""
        if self.keeps_own(client):
            return {}
        return model if self.levels[client] == 1.0 else take(model, self.places(client, round))


def _check(blueprint: Blueprint, key: str) -> None:
    """Check what a network answers to blank images in training and in evaluation, and that two built alike agree."""
    net, blank = _built(blueprint, key), torch.zeros(2, *blueprint.image_shape)
    _ask(net.train(), blank, blueprint, key)
    weights, fresh = blueprint.initial(seed=0), partial(blueprint.factory, blueprint.image_shape, blueprint.num_classes)
    for name, tensor in weights.items():
        odd = tensor.is_complex() or tensor.layout is not torch.strided
        if odd or not are_finite([tensor]):
            got = "infinite ones or NaN" if not odd else "complex numbers" if tensor.is_complex() else "a sparse tensor"
            raise MosaicError(
                f"{key}: expected finite real numbers to average, got {got} in {name}: register a constant with "
                "persistent=False, or keep real and imaginary parts apart"
            )
    with torch.random.fork_rng(devices=[]):
        nets = [fresh(), fresh()]
        images = torch.rand(2, *blueprint.image_shape)
        try:
            for each in nets:
                each.load_state_dict(weights)
                each.eval()
        except RuntimeError as error:
            why = printable(str(error))
            raise MosaicError(f"{key}: expected the same network whenever it is built, got another: {why}") from error
        one, other, again = (_ask(each, images, blueprint, key) for each in (*nets, nets[0]))
    if torch.equal(one, again) and not torch.allclose(one, other, equal_nan=True):  # or it draws whenever it is asked
        raise MosaicError(
            f"{key}: expected the same logits of two networks with the same weights, got others: some weights are not "
            "in its state_dict(): keep layers in torch.nn.ModuleList or ModuleDict, and buffers persistent"
        )
    _check_forward(nets[0], images, one, blueprint, key)


def _check_forward(net: Classifier, images: Tensor, logits: Tensor, blueprint: Blueprint, key: str) -> None:
    """Warn of a forward other than ``head(features(images))``, unless it draws, or the network lacks one of the two."""
    try:
        with torch.no_grad(), seeded(0):
            expected = net.head(net.features(images))
    except Exception:  # what needs features or a head says so
        return
    if not isinstance(expected, Tensor) or expected.shape != logits.shape:
        return
    if torch.allclose(logits, expected, rtol=1e-3, atol=1e-4, equal_nan=True):
        return
    if torch.equal(logits, _ask(net, images, blueprint, key, seed=1)):  # or it draws in evaluation too
        log.warning(
            "%s: its forward is not head(features(images)), where prototypes and new heads are made: let it begin with "
            "self.features(images), which normalises, or give the last layer another name than head",
            key,
        )


def _ask(net: Classifier, images: Tensor, blueprint: Blueprint, key: str, seed: int = 0) -> Tensor:
    """Return the logits of a network, with the same randomness for the same seed."""
    try:
        with torch.no_grad(), seeded(seed):  # dropout draws
            logits = net(images)
    except Exception as error:
        size = "x".join(map(str, blueprint.image_shape))
        raise MosaicError(
            f"{key}: the network cannot take images of {size}: {error}: choose another, or resize the images with "
            f"--data.source.init_args.resize{settings_of(blueprint.factory)}"
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (2, blueprint.num_classes):
        got = f"a tensor of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise MosaicError(
            f"{key}: expected {blueprint.num_classes} logits for each image, one per class, got {got} for two images"
        )
    return logits


def _built(blueprint: Blueprint, key: str) -> Classifier:
    try:
        return blueprint.build(blueprint.initial(seed=0))
    except Exception as error:
        raise MosaicError(f"{key}: the network cannot be built: {error}{settings_of(blueprint.factory)}") from error
