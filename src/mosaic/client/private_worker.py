"""Answer requests within a budget of differential privacy, whatever a server asks."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mosaic.client.program import ClientProgram
from mosaic.client.worker import Worker
from mosaic.codec import encode
from mosaic.data.images import Images
from mosaic.data.module import FederatedDataModule
from mosaic.data.remote import RemoteData
from mosaic.data.sources.storage import fingerprint
from mosaic.errors import MosaicError, log_failure
from mosaic.generation.class_gaussians import ClassGaussians
from mosaic.messages import (
    ClientState,
    Declined,
    Failed,
    ReleaseReply,
    ReleaseRequest,
    Reply,
    Request,
    StateDict,
    TrainReply,
    TrainRequest,
)
from mosaic.model_pool import ModelPool
from mosaic.nets.inference import to_pixels
from mosaic.privacy.accounting import RELEASED, TRAINING, Mechanism, PrivacyBudget
from mosaic.privacy.dp_sgd import PoissonBatches
from mosaic.privacy.ledger import KEPT, ForgottenError, Ledger, OverspentError, ledger_folder
from mosaic.privacy.noise import SecretNoise
from mosaic.privacy.release import PublicFeatures, noisy, unit_weights, whole_sums
from mosaic.privacy.settings import IMAGE
from mosaic.tasks.classification import OptimizerFactory
from mosaic.tasks.private_classification import PrivateClassificationTask
from mosaic.training.deadline import DeadlinePassedError
from mosaic.training.phases import PhaseRunner
from mosaic.training.signals import is_told_to_leave

log = logging.getLogger(__name__)
REFUSED = "its privacy budget does not cover what was asked for"
SPENT = "its privacy budget is spent"
FORGOTTEN = "it has answered this before, and does not keep the answer any more"
BROKEN = "its code failed: its log says more"
_ENCODED_AT_ONCE = 512


class _Work(NamedTuple):
    """One answer: what asks for it, what it costs, and how it is made with its own noise."""

    key: str
    mechanisms: Sequence[Mechanism]
    make: Callable[[SecretNoise], Reply]


class PrivateWorker(Worker):
    """Answers requests to release sums, and to train by DP-SGD where the budget has a share for it; nothing else.

    A reply holds what its mechanisms have made and public numbers, and no reason that depends on an image. Each cost is
    in the client's ledger before its images are touched.

    Args:
        data, pool, optimizer, program, phases, seed: as for :class:`Worker`; no noise comes from the seed.
        budget: of every client.
        folder: of the clients' ledgers.
        settings: a fingerprint of whatever else decides about training, by which a ledger tells one federation from
            another.
        keep: answers of training that a ledger keeps, at least :data:`~mosaic.privacy.ledger.KEPT`.

    Raises:
        MosaicError: the budget does not fit the images, or a client on a host of its own has several ledgers, or one of
            other images.
    """

    def __init__(
        self,
        data: FederatedDataModule,
        pool: ModelPool,
        optimizer: OptimizerFactory,
        program: ClientProgram,
        phases: PhaseRunner,
        seed: int,
        budget: PrivacyBudget,
        folder: Path,
        settings: str = "",
        keep: int = KEPT,
    ) -> None:
        super().__init__(data, pool, optimizer, program, phases, seed)
        self._optimizer, self._budget, self._folder, self._kept = optimizer, budget, folder, max(keep, KEPT)
        self._settings = settings
        self._alone = isinstance(data, RemoteData)
        if (here := ledger_folder(folder, 0, self._alone)).exists():
            ledger = Ledger(here, budget)  # what is wrong with it is told before anybody asks
            ledger.bookings()
            self._claim(ledger)
        budget.privacy.check_images(max(len(train) + len(validation) for train, validation in data.splits))
        own = data.images.train
        if len(own) and (unit := budget.privacy.unit) != IMAGE and unit not in own.groups:
            named = ", ".join(sorted(own.groups)) or "no groups"
            raise MosaicError(
                f"privacy.unit: expected {IMAGE} or a group that the source names ({named}), got {unit}: choose one"
            )

    def handle(self, request: Request, state: ClientState) -> tuple[Reply, ClientState]:
        """Answer one request; no state is kept but the ledger."""
        try:
            return self._answer(request), state
        except DeadlinePassedError:
            raise
        except (Exception, SystemExit) as error:
            if is_told_to_leave(error):
                raise
            log_failure(log, request.client, error)
            return Failed(request.client, BROKEN), state  # the kind of an exception may reveal something about an image

    def stack_key(self, request: Request) -> None:
        """Return nothing: a lockstep would pass the budget by."""

    def _answer(self, request: Request) -> Reply:
        """Return the answer that is kept, or book, make and keep one."""
        if (work := self._work(request)) is None:
            return Declined(request.client, REFUSED)
        ledger = Ledger(ledger_folder(self._folder, request.client, self._alone), self._budget, self._kept)
        with ledger.open():
            self._claim(ledger)
            if (known := ledger.recall(work.key)) is not None:
                return replace(known, client=request.client)
            try:
                secret = ledger.book(work.key, work.mechanisms)
            except (OverspentError, ForgottenError) as error:
                return Declined(request.client, SPENT if isinstance(error, OverspentError) else FORGOTTEN)
            reply = work.make(SecretNoise(secret))
            ledger.keep(work.key, reply)
            return reply

    def _work(self, request: Request) -> _Work | None:
        """Return how a request can be answered within the budget; nothing where it cannot: the one list of what may."""
        mechanisms = self._budget.mechanisms
        match request:
            case ReleaseRequest() if released := [mechanisms[name] for name in RELEASED if name in mechanisms]:
                return _Work(self._release_key(), released, lambda noise: self._release(request, noise))
            case TrainRequest(judge=False, epochs=epochs, steps=steps, model=model) if (
                TRAINING in mechanisms and epochs == 0 and steps > 0 and self._is_agreed(model)
            ):
                step = replace(mechanisms[TRAINING], steps=steps)
                key = self._key(TRAINING, encode(request), self._settings)
                return _Work(key, [step], lambda noise: self._train(request, noise))
        return None

    def _is_agreed(self, model: StateDict) -> bool:
        """Whether a model has the agreed form: with another, whether training fails could depend on an image."""
        agreed = self._pool.blueprint.skeleton
        return model.keys() == agreed.keys() and all(
            (model[name].shape, model[name].dtype) == (like.shape, like.dtype) for name, like in agreed.items()
        )

    def _release_key(self) -> str:
        """Return a name of what is released: the same whoever asks, and in whichever round and run."""
        blueprint = self._pool.blueprint
        facts = blueprint.image_shape, blueprint.mean, blueprint.std, self._generation.coefficients
        return self._key("release", *facts)

    def _key(self, kind: str, *asked: object) -> str:
        """Return a name of what is asked, for which classes and at which noise: a ledger serves many federations."""
        classes, budget = self._data.images.class_names, self._budget
        return f"{kind}-{fingerprint(*asked, classes, budget.privacy, sorted(budget.mechanisms.items()))[:24]}"

    def _claim(self, ledger: Ledger) -> None:
        """Refuse the ledger of other images; those of a simulation are in its run's configuration."""
        if self._alone:
            assert isinstance(self._data, RemoteData)
            form = fingerprint(self._pool.blueprint.image_shape, self._data.images.class_names)
            ledger.claim(form, self._data.fingerprint)

    def _release(self, request: ReleaseRequest, noise: SecretNoise) -> Reply:
        images, own = self._data.images.train, self._every_image(request.client)
        blueprint = self._pool.blueprint
        features = PublicFeatures.of(blueprint, self._generation.coefficients)
        chunks = own.split(_ENCODED_AT_ONCE) if len(own) else ()
        encoded = [torch.zeros(0, features.dim).double()] + [
            features.encode(to_pixels(images.pixels[chunk])) for chunk in chunks
        ]
        weights = self._unit_weights(images, own)
        exact = whole_sums(torch.cat(encoded), images.labels[own], weights, blueprint.num_classes)
        return ReleaseReply(request.client, *noisy(exact, self._budget.mechanisms, noise))

    def _every_image(self, client: int) -> Tensor:
        """Return the indices of all of a client's images: one more would change which others are held out to validate.

        Nobody judges models with a budget, so that none need be.
        """
        data = self._data.client(client)
        return torch.cat([data.train, data.validation])

    def _unit_weights(self, images: Images, own: Tensor) -> Tensor:
        if (unit := self._budget.privacy.unit) == IMAGE:
            return torch.ones(len(own)).double()
        _, numbers = np.unique(images.groups[unit][own.numpy()], return_inverse=True)
        return unit_weights(torch.from_numpy(numbers))

    def _train(self, request: TrainRequest, noise: SecretNoise) -> Reply:
        own, blueprint, privacy = self._every_image(request.client), self._pool.blueprint, self._budget.privacy
        mechanism = self._budget.mechanisms[TRAINING]
        net = blueprint.build(request.model)
        random = torch.Generator().manual_seed(noise.seed("augmentation"))
        images = self._data.training_images(self._phases.device)
        steps = self._phases.dry_run.steps(request.steps)
        task = PrivateClassificationTask(
            net,
            self._optimizer,
            request.learning_rate,
            lambda pixels: to_pixels(self._data.augmentation(pixels, random)),
            privacy.clipping,
            mechanism.noise,
            self._data.batch_size,
            noise,
        )
        batches = PoissonBatches(images.pixels, images.labels, own, mechanism.rate, steps, noise)
        self._phases.run(
            task, batches, noise.seed("network")
        )  # a seed that the server knows would fix who is shifted how
        public = torch.ones(blueprint.num_classes, dtype=torch.long)  # all clients weigh alike
        told = {"loss": 0.0, "steps": steps, "validation_images": 0}  # nothing of a loss or a validation
        return TrainReply(request.client, net.state_dict(), public, told, {})

    @property
    def _generation(self) -> ClassGaussians:
        assert isinstance(self._program.generation, ClassGaussians), "Algorithm.check_privacy has seen to it"
        return self._program.generation
