"""Check every reply before it is used: sender, contents, and plausible numbers."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mosaic.client.prototypes import PrototypeSettings
from mosaic.finite import MOST_GROWTH, are_finite, largest, most_after
from mosaic.messages import (
    EvaluateReply,
    EvaluateRequest,
    GeneratorReply,
    GeneratorRequest,
    PrototypeReply,
    PrototypeRequest,
    ReleaseReply,
    ReleaseRequest,
    Reply,
    Request,
    StateDict,
    TrainReply,
    TrainRequest,
)
from mosaic.model_pool import ModelPool
from mosaic.privacy.accounting import COUNTS, MEANS, MOMENTS

MOST_IMAGES = 2**31
"""No client holds more, where nobody has said how many it holds."""
_JUDGEMENT = ("correct", "total", "loss")
_MOST_STEPS = 10**7
_MOST_FIGURES, _FIGURE = 256, re.compile(r"[\w/.-]{1,60}")
_LARGEST_LOSS = 1e9
_FAR = 10.0
"""Standard deviations of noise that no noise exceeds."""
KINDS: dict[type, type] = {
    TrainRequest: TrainReply,
    GeneratorRequest: GeneratorReply,
    PrototypeRequest: PrototypeReply,
    ReleaseRequest: ReleaseReply,
    EvaluateRequest: EvaluateReply,
}
"""Which reply answers which request."""


class UnfitReplyError(ValueError):
    """A reply is not what its request asked for."""


@dataclass(frozen=True)
class Inspector:
    """Compares replies with what was asked.

    Attributes:
        pool: which client runs which model.
        images: training images that each client has announced, by client; absent where nobody knows.
        validation: most images that each client can validate on, by client; absent where nobody knows.
        prototypes: how clients summarise their images; where nobody says, any number of prototypes of any size.
        generator: gives, by images per class, a generator with the agreed names, shapes and types; ``None`` where none
            is asked for.
        features: number of public features, where a release of sums is asked for.
        noise: standard deviation of what such a release adds to each sum, by name; 0 where it is not released.
    """

    pool: ModelPool
    images: Mapping[int, int]
    validation: Mapping[int, int] = field(default_factory=dict)
    prototypes: PrototypeSettings | None = None
    generator: Callable[[Tensor], StateDict] | None = None
    features: int = 0
    noise: Mapping[str, float] = field(default_factory=dict)

    def check(self, request: Request, reply: Reply) -> None:
        """Compare one reply with its request.

        Raises:
            UnfitReplyError: sender, kind, names, shapes, types, finiteness or counts are not what they should be.
        """
        try:
            self._check(request, reply)
        except UnfitReplyError:
            raise
        except Exception as error:  # a field may hold anything
            raise UnfitReplyError(f"expected what can be read, got {type(error).__name__}: {error}") from error

    def _check(self, request: Request, reply: Reply) -> None:
        expected = KINDS[type(request)]
        _require(type(reply) is expected, f"expected a {expected.__name__}, got a {type(reply).__name__}")
        _require(reply.client == request.client, f"expected its own, got that of client {reply.client}")
        match request, reply:
            case TrainRequest(), TrainReply():
                _check_tensors("model", reply.model, self._trained(request))
                self._check_normalisation(reply)
                _check_size("model", reply.model, request.model)
                _check_whole("model", reply.model, request.model)
                self._check_counts("class_counts", reply.class_counts, request.client, at_least=1)
                _check_metrics(reply.metrics, "loss")
                loss = reply.metrics["loss"]
                _require(abs(loss) <= _LARGEST_LOSS, f"metrics.loss: expected at most {_LARGEST_LOSS:g}, got {loss:g}")
                _check_counted(reply.metrics, "steps", "validation_images")
                if request.judge:
                    self._check_judgement(request.client, reply.judgement)
                else:
                    _check_names("judgement", reply.judgement, {})
            case GeneratorRequest(), GeneratorReply():
                self._check_counts("class_counts", reply.class_counts, request.client, at_least=1)
                assert self.generator is not None, "or none would be asked for"
                _check_tensors("generator", reply.generator, self.generator(reply.class_counts))
                _check_size("generator", reply.generator, {})
                _check_metrics(reply.metrics)
                _check_counted(reply.metrics, "attempts", "steps", "discriminator_steps")
                _check_names_of_figures("curves", reply.curves)
                for name, curve in reply.curves.items():
                    _require(len(curve) <= _MOST_STEPS, f"curves.{name}: expected at most {_MOST_STEPS} values")
                    _check_tensor(f"curves.{name}", curve, torch.Size([curve.numel()]), torch.float32)
            case PrototypeRequest(), PrototypeReply():
                self._check_prototypes(request, reply)
            case ReleaseRequest(), ReleaseReply():
                self._check_release(reply)
            case EvaluateRequest(), EvaluateReply():
                self._check_judgement(request.client, reply.judgement)

    def _trained(self, request: TrainRequest) -> StateDict:
        """Return what a trained model must look like: the model that was sent, or the one that the client keeps."""
        if not request.upload:
            return {}
        keeps = self.pool.keeps_own(request.client)
        return self.pool.of(request.client).skeleton if keeps else request.model

    def _check_normalisation(self, reply: TrainReply) -> None:
        """Refuse another normalisation of pixels than all have agreed on; training only rounds it to half precision."""
        blueprint = self.pool.blueprint
        for name, agreed in (("normalize.mean", blueprint.mean), ("normalize.std", blueprint.std)):
            if (given := reply.model.get(name)) is not None:
                same = torch.allclose(given.double(), torch.tensor(agreed).double(), rtol=5e-2, atol=0)
                _require(same, f"model.{name}: expected {list(agreed)}, got {given.tolist()}")

    def _check_release(self, reply: ReleaseReply) -> None:
        """Compare noisy sums of vectors of norm 1 at most with the noisy number of such vectors."""
        classes, dim = self.pool.blueprint.num_classes, self.features
        sizes = {COUNTS: (), MEANS: (dim,), MOMENTS: (dim * (dim + 1) // 2,)}
        for name, (kind, size) in zip(("counts", "sums", "moments"), sizes.items(), strict=True):
            given = getattr(reply, name)
            _check_tensor(name, given, torch.Size([classes, *size]), torch.float32)
            _require(largest([given]) <= MOST_IMAGES, f"{name}: expected no number beyond {MOST_IMAGES}")
            if kind != COUNTS and self.noise.get(COUNTS, 0) > 0:
                most = reply.counts.clamp(min=0).double() + _FAR * (self.noise[COUNTS] + self.noise[kind])
                beyond = given.double().abs().flatten(1).amax(1) > most
                _require(not bool(beyond.any()), f"{name}: expected sums that so many images can have")

    def _check_counts(self, name: str, counts: Tensor, client: int, at_least: int = 0) -> None:
        _check_tensor(name, counts, torch.Size([self.pool.blueprint.num_classes]), torch.int64)
        most = self.images.get(client, MOST_IMAGES)
        low, high, total = int(counts.min()), int(counts.max()), sum(counts.tolist())
        _require(low >= 0 and high <= most, f"{name}: expected counts in 0..{most}, got {low}..{high}")
        _require(at_least <= total <= most, f"{name}: expected {at_least}..{most} images in all, got {total}")

    def _check_prototypes(self, request: PrototypeRequest, reply: PrototypeReply) -> None:
        found = reply.prototypes
        _require(found.dim() == 2, f"prototypes: expected shape (P, F), got {tuple(found.shape)}")
        head = request.model.get("head.weight")
        features = self.pool.blueprint.num_features if head is None else head.shape[1]
        _check_tensor("prototypes", found, torch.Size([len(found), features]), torch.float32)
        _check_size("prototypes", {"prototypes": found}, request.model)
        most, classes = self.images.get(request.client, MOST_IMAGES), self.pool.blueprint.num_classes
        settings = self.prototypes or PrototypeSettings(clusters_per_class=MOST_IMAGES, min_count=1)
        for name, values, low, high in (
            ("labels", reply.labels, 0, classes - 1),
            ("sizes", reply.sizes, settings.min_count, most),
        ):
            _check_tensor(name, values, torch.Size([len(found)]), torch.int64)
            within = len(values) == 0 or (low <= int(values.min()) and int(values.max()) <= high)
            _require(within, f"{name}: expected whole numbers in {low}..{high}")
        total, largest = sum(reply.sizes.tolist()), int(reply.labels.bincount(minlength=classes).max())
        _require(total <= most, f"sizes: expected at most {most} images in all, got {total}")
        allowed = settings.clusters_per_class
        _require(largest <= allowed, f"labels: expected at most {allowed} prototypes of a class, got {largest}")

    def _check_judgement(self, client: int, given: StateDict) -> None:
        _check_names("judgement", given, dict.fromkeys(_JUDGEMENT))
        shape = torch.Size([self.pool.blueprint.num_classes])
        correct, total, loss = (given[name] for name in _JUDGEMENT)
        for name, counts in (("correct", correct), ("total", total)):
            _check_tensor(name, counts, shape, torch.int64)
        _check_tensor("loss", loss, shape, torch.float64, finite=False)  # a model may be infinitely wrong
        fits = bool(((correct >= 0) & (correct <= total) & (total <= MOST_IMAGES)).all())
        _require(fits, "correct, total: expected 0 <= correct <= total for every class")
        most, found = self.validation.get(client, MOST_IMAGES), sum(total.tolist())
        _require(found <= most, f"total: expected at most {most} images to validate on, got {found}")
        _require(bool((loss >= 0).all()), "loss: expected at least 0 for every class")


def _check_tensors(name: str, given: StateDict, expected: StateDict) -> None:
    _check_names(name, given, expected)
    for tensor, like in expected.items():
        _check_tensor(f"{name}.{tensor}", given[tensor], like.shape, like.dtype)
        if tensor.endswith("running_var"):
            _require(bool((given[tensor] >= 0).all()), f"{name}.{tensor}: expected no negative variance")


def _check_size(name: str, given: StateDict, sent: StateDict) -> None:
    """Refuse numbers too large to come from training, which would outweigh all other uploads."""
    if (found := largest(given.values())) > MOST_GROWTH:
        most = most_after(sent.values())
        _require(found <= most, f"{name}: expected no number beyond {most:.3g}, got {found:.3g}")


def _check_whole(name: str, given: StateDict, sent: StateDict) -> None:
    """Refuse counters that no training can have reached: of all uploads the largest one is taken."""
    for tensor, after in given.items():
        before = sent.get(tensor)
        if before is None or before.is_floating_point() or before.dtype == torch.bool or before.numel() == 0:
            continue
        most = int(before.max()) + _MOST_STEPS
        _require(int(after.max()) <= most, f"{name}.{tensor}: expected whole numbers of at most {most}")


def _check_names(name: str, given: Mapping[str, object], expected: Mapping[str, object]) -> None:
    strange, missing = sorted(given.keys() - expected.keys()), sorted(expected.keys() - given.keys())
    _require(not strange, f"{name}: expected the agreed tensors, got {len(strange)} others, first {strange[:1]}")
    _require(not missing, f"{name}: expected the agreed tensors, {len(missing)} are missing, first {missing[:1]}")


def _check_tensor(name: str, given: Tensor, shape: torch.Size, dtype: torch.dtype, finite: bool = True) -> None:
    _require(
        given.shape == shape and given.dtype == dtype,
        f"{name}: expected {dtype} of shape {tuple(shape)}, got {given.dtype} of shape {tuple(given.shape)}",
    )
    _require(not finite or are_finite([given]), f"{name}: expected finite numbers, got infinite ones or NaN")


def _check_names_of_figures(name: str, given: Mapping[str, object]) -> None:
    """Refuse more figures than a client has, and names that are not fit for a log."""
    fits = len(given) <= _MOST_FIGURES and all(_FIGURE.fullmatch(each) for each in given)
    _require(fits, f"{name}: expected at most {_MOST_FIGURES} figures with names of letters and digits")


def _check_metrics(metrics: Mapping[str, float], *needed: str) -> None:
    _check_names_of_figures("metrics", metrics)
    for name in (*needed, *metrics):
        value = metrics.get(name)
        finite = isinstance(value, int | float) and math.isfinite(value)
        _require(finite, f"metrics.{name}: expected a finite number, got {value}")


def _check_counted(metrics: Mapping[str, float], *needed: str) -> None:
    """Refuse what cannot have been counted; steps are summed up over the run."""
    for name in needed:
        value = metrics.get(name)
        counted = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_STEPS
        _require(counted, f"metrics.{name}: expected a whole number in 0..{_MOST_STEPS}, got {str(value)[:20]}")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise UnfitReplyError(otherwise)
