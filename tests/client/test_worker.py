import copy
import dataclasses
import itertools
import math
import random as python_random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mosaic.client.objectives import CrossEntropy, LocalContext
from mosaic.client.program import ClientProgram
from mosaic.client.prototypes import PrototypeSettings
from mosaic.client.worker import Worker
from mosaic.codec import decode, encode
from mosaic.data import Augmentation, FederatedDataModule, Partition, SklearnDigits, Source
from mosaic.data.images import Images, ImageSet
from mosaic.generation import Adversarial
from mosaic.generation.adversarial import RETRY
from mosaic.messages import (
    ClientState,
    Declined,
    EvaluateReply,
    EvaluateRequest,
    GeneratorReply,
    GeneratorRequest,
    PrototypeReply,
    PrototypeRequest,
    Reply,
    Request,
    StateDict,
    TrainReply,
    TrainRequest,
)
from mosaic.model_pool import ClientModels
from mosaic.nets import MLP, SmallCNN
from mosaic.nets.blueprint import Blueprint
from mosaic.nets.classifier import Classifier
from mosaic.nets.dcgan import Generator
from mosaic.server.generators import GeneratedImages, GeneratorMixture, uploaded_generator
from mosaic.tasks.classification import LocalLoss
from mosaic.tasks.generation import GenerationTask
from mosaic.training.phases import PhaseRunner

DIGITS = SklearnDigits().load()
NOTHING = ClientState({})
TINY_GAN = Adversarial(steps=2, batch_size=8, latent_dim=4, width=4)


class InMemory(Source):
    """The digits, or what a test has made of them."""

    def __init__(self, train: Images = DIGITS.train) -> None:
        self.train = train

    def load(self) -> ImageSet:
        return ImageSet(self.train, DIGITS.test, DIGITS.class_names)


class ByRemainder(Partition):
    """Client 0 holds the digits 0, 3, 6 and 9, client 1 holds 1, 4 and 7, client 2 the rest: by their true labels."""

    def __init__(self) -> None:
        super().__init__(3)

    def split(self, labels: np.ndarray, seed: int, groups: object) -> list[np.ndarray]:
        return [np.flatnonzero(DIGITS.train.labels.numpy() % 3 == client) for client in range(3)]


class Given(Partition):
    """Each client holds a stated number of images, one client after the other."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(len(sizes))
        self.sizes = sizes

    def split(self, labels: np.ndarray, seed: int, groups: object) -> list[np.ndarray]:
        return np.split(np.arange(sum(self.sizes)), np.cumsum(self.sizes)[:-1])


class Holding(Partition):
    """One client that holds so many images of each of these digits."""

    def __init__(self, counts: dict[int, int]) -> None:
        super().__init__(1)
        self.counts = counts

    def split(self, labels: np.ndarray, seed: int, groups: object) -> list[np.ndarray]:
        return [np.concatenate([np.flatnonzero(labels == digit)[:count] for digit, count in self.counts.items()])]


def federation(
    source: Source | None = None, partition: Partition | None = None, **settings: Any
) -> FederatedDataModule:
    settings = {"validation_share": 0.2, "batch_size": 16, "mean": [0.3], "std": [0.4], **settings}
    return FederatedDataModule(source or InMemory(), partition or ByRemainder(), **settings)


def blueprint_of(data: FederatedDataModule) -> Blueprint:
    return data.blueprint(partial(SmallCNN, width=2))


def make_worker(
    phases: PhaseRunner,
    data: FederatedDataModule | None = None,
    program: ClientProgram | None = None,
    seed: int = 0,
    clients: ClientModels | None = None,
) -> Worker:
    data = data or federation()
    program = program or ClientProgram(generation=TINY_GAN, share_curves=True)
    optimizer = partial(torch.optim.SGD, lr=1e3)
    pool = (clients or ClientModels()).pool(blueprint_of(data), data.num_clients, seed)
    return Worker(data, pool, optimizer, program, phases, seed)


COST = {"attempts", "steps", "discriminator_steps"}
"""What the reply with a generator always tells."""


def weights(seed: int = 0) -> StateDict:
    return blueprint_of(federation()).initial(seed)


def net_with(model: StateDict) -> Classifier:
    return blueprint_of(federation()).build(model)


def train_request(client: int = 0, **changes: Any) -> TrainRequest:
    request = TrainRequest(
        client, 1, weights(), steps=2, epochs=0.0, learning_rate=0.1, keep=False, upload=True, judge=False, replay={}
    )
    return dataclasses.replace(request, **changes)


def requests(client: int) -> list[tuple[Request, ClientState]]:
    """One of each kind, with what the client remembers by then."""
    return [
        (train_request(client), NOTHING),
        (GeneratorRequest(client, 1), ClientState(weights(seed=5))),
        (PrototypeRequest(client, 1, weights()), NOTHING),
        (EvaluateRequest(client, 1, weights()), NOTHING),
    ]


def dry_phases() -> PhaseRunner:
    return PhaseRunner({"accelerator": "cpu", "devices": 1, "fast_dev_run": True})


KINDS = pytest.mark.parametrize("kind", range(4), ids=["train", "generator", "prototypes", "evaluate"])


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a message by name."""
    if dataclasses.is_dataclass(value):
        value = {"type": type(value).__name__, **vars(value)}
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flat(item, f"{name}/{key}")
    else:
        yield name, value


def same(one: Any, other: Any) -> bool:
    """Whether two messages agree bit for bit."""
    ours, theirs = dict(flat(one)), dict(flat(other))
    assert ours.keys() == theirs.keys()
    return all(
        value.dtype == theirs[name].dtype and torch.equal(value, theirs[name])
        if isinstance(value, Tensor)
        else value == theirs[name]
        for name, value in ours.items()
    )


def ask(worker: Worker, request: Request, state: ClientState = NOTHING) -> Any:
    return worker.handle(request, state)[0]


# the same answer everywhere


@KINDS
def test_the_same_request_gets_the_same_reply(kind: int, phases: PhaseRunner) -> None:
    request, state = requests(0)[kind]
    worker = make_worker(phases)
    first = worker.handle(request, state)
    assert not isinstance(first[0], Declined)
    assert same(worker.handle(request, state)[0], first[0])
    assert same(make_worker(phases).handle(request, state)[0], first[0])


@KINDS
def test_the_random_state_of_the_process_does_not_matter(kind: int, phases: PhaseRunner) -> None:
    request, state = requests(1)[kind]
    data = federation(augmentation=Augmentation(padding=1, flip=True))
    replies = []
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)
        np.random.seed(disturbance)  # noqa: NPY002
        python_random.seed(disturbance)
        replies.append(ask(make_worker(phases, data), request, state))
    assert same(*replies)


def test_the_order_of_clients_does_not_matter(phases: PhaseRunner) -> None:
    asked = [pair for client in range(3) for pair in requests(client)]
    worker, other = make_worker(phases), make_worker(phases)
    forwards = [ask(worker, *pair) for pair in asked]
    backwards = [ask(other, *pair) for pair in reversed(asked)][::-1]
    assert all(same(one, two) for one, two in zip(forwards, backwards, strict=True))


@KINDS
def test_requests_and_states_are_left_as_they_came(kind: int, phases: PhaseRunner) -> None:
    request, state = requests(0)[kind]
    before = copy.deepcopy((request, state))
    make_worker(phases).handle(request, state)
    assert same(request, before[0])
    assert same(state, before[1])


@KINDS
def test_every_reply_can_cross_the_wire(kind: int, phases: PhaseRunner) -> None:
    reply = ask(make_worker(phases), *requests(0)[kind])
    expected = (TrainReply, GeneratorReply, PrototypeReply, EvaluateReply)[kind]
    assert reply.client == 0
    assert same(decode(encode(reply), expected), reply)


@pytest.mark.parametrize("kind", [0, 1], ids=["train", "generator"])
def test_seed_and_round_make_another_draw(kind: int, phases: PhaseRunner) -> None:
    request, state = requests(0)[kind]
    reply = ask(make_worker(phases), request, state)
    assert not same(ask(make_worker(phases, seed=1), request, state), reply)
    assert not same(ask(make_worker(phases), dataclasses.replace(request, round=2), state), reply)


class Alike(Partition):
    """Both clients hold the same first images."""

    def __init__(self, size: int) -> None:
        super().__init__(2)
        self.size = size

    def split(self, labels: np.ndarray, seed: int, groups: object) -> list[np.ndarray]:
        return [np.arange(self.size)] * 2


@pytest.mark.parametrize(("size", "padding"), [(12, 0), (1, 2)], ids=["batches", "augmentation"])
def test_clients_with_equal_images_draw_differently(size: int, padding: int, phases: PhaseRunner) -> None:
    data = federation(partition=Alike(size), validation_share=0.0, batch_size=5, augmentation=Augmentation(padding))
    one, other = (ask(make_worker(phases, data), train_request(client, steps=1)) for client in range(2))
    assert abs(one.metrics["loss"] - other.metrics["loss"]) > 1e-4


# whose data


def poisoned(victims: Tensor, shift: int = 0) -> FederatedDataModule:
    """The same federation with noise for images, and labels moved on by ``shift``, at these indices."""
    random = torch.Generator().manual_seed(1)
    pixels, labels = DIGITS.train.pixels.clone(), DIGITS.train.labels.clone()
    noise = torch.randint(0, 256, (len(victims), *pixels.shape[1:]), generator=random, dtype=torch.uint8)
    pixels[victims] = noise
    labels[victims] = (labels[victims] + shift) % 10
    return federation(InMemory(Images(pixels, labels)))


def everything_but(*own: Tensor) -> Tensor:
    return torch.from_numpy(np.setdiff1d(np.arange(1198), torch.cat(own).numpy()))


@KINDS
@pytest.mark.parametrize("client", [0, 2])
def test_images_of_others_leave_no_trace(kind: int, client: int, phases: PhaseRunner) -> None:
    mine = federation().client(client)
    pair = requests(client)[kind]
    clean = ask(make_worker(phases), *pair)
    without_others = poisoned(everything_but(mine.train, mine.validation), shift=1)
    assert same(ask(make_worker(phases, without_others), *pair), clean)


def learnt_part(reply: Any) -> Any:
    """A reply without the one number in which a client compares its generator with its validation images."""
    if not isinstance(reply, GeneratorReply):
        return reply
    metrics = {name: value for name, value in reply.metrics.items() if name != "nearest_neighbour_ratio"}
    return dataclasses.replace(reply, metrics=metrics)


@KINDS
def test_training_sees_no_validation_image_and_the_other_way_round(kind: int, phases: PhaseRunner) -> None:
    mine = federation().client(0)
    used, unused = (mine.validation, mine.train) if kind == 3 else (mine.train, mine.validation)
    pair = requests(0)[kind]
    clean = ask(make_worker(phases), *pair)
    assert same(learnt_part(ask(make_worker(phases, poisoned(unused)), *pair)), learnt_part(clean))
    assert not same(learnt_part(ask(make_worker(phases, poisoned(used)), *pair)), learnt_part(clean))


def test_a_generator_is_compared_with_images_that_it_has_not_seen(phases: PhaseRunner) -> None:
    pair = requests(0)[1]
    clean, other = (
        ask(make_worker(phases, data), *pair).metrics["nearest_neighbour_ratio"]
        for data in (federation(), poisoned(federation().client(0).validation))
    )
    assert clean > 0
    assert other != clean


# training


def test_training_replies_with_counts_of_every_class(phases: PhaseRunner) -> None:
    for client in range(3):
        labels = DIGITS.train.labels[federation().client(client).train].tolist()
        reply = ask(make_worker(phases), train_request(client))
        assert reply.class_counts.tolist() == [labels.count(label) for label in range(10)]
        assert reply.num_examples == len(labels)
        assert [count > 0 for count in reply.class_counts.tolist()] == [label % 3 == client for label in range(10)]


def test_training_on_whole_batches_is_plain_gradient_descent(phases: PhaseRunner) -> None:
    data = federation(partition=Given(12, 20), validation_share=0.0)
    reply = ask(make_worker(phases, data), train_request(steps=3))
    net = net_with(weights()).train()
    images, labels = DIGITS.train.pixels[:12].float() / 255, DIGITS.train.labels[:12]
    losses = []
    for _ in range(3):
        loss = F.cross_entropy(net(images), labels)
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(net.parameters(), gradients, strict=True):
                parameter -= 0.1 * gradient
        losses.append(loss.item())
    assert reply.metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    for name, expected in net.state_dict().items():
        torch.testing.assert_close(reply.model[name], expected, rtol=1e-4, atol=1e-6)


class InfiniteIn(CrossEntropy):
    """Cross-entropy that is infinite in some steps, with finite gradients: as if a gradient scaler skipped them."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def bind(self, context: LocalContext) -> LocalLoss:
        plain, step = super().bind(context), itertools.count()

        def loss(*batch: Any) -> Tensor:
            return plain(*batch) + (math.inf if next(step) in self.steps else 0.0)

        return loss


def test_an_infinite_loss_costs_nobody_a_model_that_is_finite(phases: PhaseRunner) -> None:
    plain, skipping, never = (
        ask(make_worker(phases, program=ClientProgram(objective=InfiniteIn(*steps))), train_request())
        for steps in ((), (1,), (0, 1))
    )
    assert same(plain.model, skipping.model)
    assert math.isfinite(skipping.metrics["loss"])
    assert skipping.metrics["loss"] != plain.metrics["loss"]
    assert math.isnan(never.metrics["loss"])


def test_clients_whose_losses_are_scaled_train_alone(phases: PhaseRunner) -> None:
    """One scaler for all of them would skip a step of all, where one of them overflows."""
    plugin = {"class_path": "lightning.pytorch.plugins.MixedPrecision"}
    plugin["init_args"] = {"precision": "16-mixed", "device": "cpu"}  # type: ignore[assignment]
    scaling = PhaseRunner({"accelerator": "cpu", "devices": 1, "plugins": [plugin]})
    for request in (train_request(), GeneratorRequest(0, 1)):
        assert make_worker(phases).stack_key(request) is not None
        assert make_worker(scaling).stack_key(request) is None


def steps_taken(reply: TrainReply) -> int:
    (steps,) = {int(value) for name, value in reply.model.items() if name.endswith("num_batches_tracked")}
    return steps


def test_passes_replace_steps(phases: PhaseRunner) -> None:
    data = federation(partition=Given(40), validation_share=0.0, batch_size=8)
    worker = make_worker(phases, data)
    assert steps_taken(ask(worker, train_request(steps=3))) == 3
    assert steps_taken(ask(worker, train_request(steps=3, epochs=1.0))) == 5
    assert steps_taken(ask(worker, train_request(steps=3, epochs=0.4))) == 2


def test_a_dry_run_takes_one_step() -> None:
    assert steps_taken(ask(make_worker(dry_phases()), train_request(steps=50))) == 1


def test_a_dry_run_looks_at_eight_images() -> None:
    worker = make_worker(dry_phases())
    assert int(ask(worker, EvaluateRequest(0, 1, weights())).total.sum()) == 8
    prototypes = ask(worker, PrototypeRequest(0, 1, weights()))
    assert int(prototypes.sizes.sum()) == 8
    assert prototypes.prototypes.shape == (len(prototypes.labels), 8)


def test_training_augments_and_nothing_else_does(phases: PhaseRunner) -> None:
    plain, augmented = (make_worker(phases, federation(augmentation=Augmentation(p))) for p in (0, 2))
    differs = [not same(ask(plain, *pair), ask(augmented, *pair)) for pair in requests(0)]
    assert differs == [True, False, False, False]


def test_a_client_with_one_image_trains_in_spite_of_batch_norm(phases: PhaseRunner) -> None:
    data = federation(partition=Given(1, 20))
    reply = ask(make_worker(phases, data), train_request())
    assert reply.num_examples == 1
    assert all(bool(value.isfinite().all()) for value in reply.model.values())


def test_a_client_without_images_declines_to_train(phases: PhaseRunner) -> None:
    data = federation(partition=Given(20, 0))
    remembered = ClientState({"a": torch.ones(1)})
    reply, state = make_worker(phases, data).handle(train_request(1, keep=True), remembered)
    assert reply == Declined(1, "it holds no images to train on")
    assert same(state, remembered)


# memory


def test_keep_makes_the_client_remember_the_model_that_it_sends(phases: PhaseRunner) -> None:
    reply, state = make_worker(phases).handle(train_request(keep=True), NOTHING)
    assert same(state.tensors, reply.model)
    assert not same(state.tensors, weights())


def test_without_keep_a_model_that_nobody_has_asked_for_is_forgotten(phases: PhaseRunner) -> None:
    _, state = make_worker(phases).handle(train_request(keep=False), ClientState(weights(seed=3)))
    assert same(state, ClientState({}))


@pytest.mark.parametrize("kind", [2, 3], ids=["prototypes", "evaluate"])
def test_questions_leave_memory_as_it_was(kind: int, phases: PhaseRunner) -> None:
    _, state = make_worker(phases).handle(requests(0)[kind][0], ClientState(weights(seed=3)))
    assert same(state, ClientState(weights(seed=3)))


# models of their own


OWN = ClientModels(models=["global", partial(MLP, width=3)])
"""Client 1 has a model of its own."""


def own_blueprint() -> Blueprint:
    return blueprint_of(federation()).with_factory(partial(MLP, width=3))


def own_request(**changes: Any) -> TrainRequest:
    return train_request(1, **{"model": {}, "keep": True, **changes})


def test_a_client_without_a_model_yet_starts_one_of_its_own(phases: PhaseRunner) -> None:
    worker = make_worker(phases, clients=ClientModels(models=[partial(MLP, width=3)]))
    replies = [ask(worker, train_request(client, model={}, keep=True, steps=1)) for client in range(3)]
    assert all({n: t.shape for n, t in reply.model.items()} == own_blueprint().shapes for reply in replies)
    slow = [ask(worker, train_request(client, model={}, keep=True, learning_rate=1e-12)) for client in range(3)]
    starts = [reply.model["head.weight"] for reply in slow]
    assert not any(torch.allclose(starts[one], starts[other]) for one, other in ((0, 1), (0, 2), (1, 2)))
    again = ask(make_worker(phases, clients=OWN), own_request(learning_rate=1e-12, round=5))
    torch.testing.assert_close(again.model["head.weight"], starts[1])


def test_a_client_goes_on_with_the_model_that_it_remembers(phases: PhaseRunner) -> None:
    worker = make_worker(phases, clients=OWN)
    first, remembered = worker.handle(own_request(), NOTHING)
    assert same(remembered, ClientState(first.model))
    second, state = worker.handle(own_request(round=2), remembered)
    sent = ask(worker, own_request(round=2, model=first.model))
    assert same(second, sent)
    assert same(state, ClientState(second.model))
    assert not same(second.model, first.model)


def test_a_model_that_comes_back_replaces_the_one_that_it_remembers(phases: PhaseRunner) -> None:
    worker = make_worker(phases, clients=OWN)
    better, worse = (own_blueprint().initial(seed) for seed in (3, 4))
    reply, state = worker.handle(own_request(model=better), ClientState(worse))
    assert same(reply, ask(worker, own_request(model=better)))
    assert not same(reply.model, ask(worker, own_request(), ClientState(worse)).model)
    assert same(state, ClientState(reply.model))


def test_without_upload_the_model_stays_at_home(phases: PhaseRunner) -> None:
    worker = make_worker(phases, clients=OWN)
    loud, kept = worker.handle(own_request(), NOTHING)
    quiet, kept_too = worker.handle(own_request(upload=False), NOTHING)
    assert quiet.model == {}
    assert same(dataclasses.replace(quiet, model=loud.model), loud)
    assert same(kept, kept_too)


def test_a_model_of_its_own_is_not_lost_to_a_generator(phases: PhaseRunner) -> None:
    """Those of the others are forgotten once they have guided it."""
    worker = make_worker(phases, clients=OWN)
    _, state = worker.handle(own_request(), NOTHING)
    reply, left = worker.handle(GeneratorRequest(1, 1), state)
    assert isinstance(reply, GeneratorReply)
    assert same(left, state)
    _, left = worker.handle(GeneratorRequest(0, 1), ClientState(weights(seed=5)))
    assert left.tensors == {}


def test_a_model_of_its_own_guides_the_generator(phases: PhaseRunner) -> None:
    worker = make_worker(phases, clients=OWN)
    one, other = (ask(worker, GeneratorRequest(1, 1), ClientState(own_blueprint().initial(seed))) for seed in (1, 2))
    assert one.curves["discriminator"][0] == other.curves["discriminator"][0]
    assert one.curves["diversity"][0] != other.curves["diversity"][0]


def test_a_model_of_its_own_that_diverges_leaves_the_one_before(phases: PhaseRunner) -> None:
    worker = make_worker(phases, clients=OWN)
    _, state = worker.handle(own_request(), NOTHING)
    reply, left = worker.handle(own_request(learning_rate=1e30), state)
    assert isinstance(reply, Declined)
    assert same(left, state)


def test_a_model_with_finite_weights_that_says_nothing_has_no_image_right(phases: PhaseRunner) -> None:
    """Whoever has most images right is taken."""
    model = weights()
    broken = {**model, "head.bias": torch.full_like(model["head.bias"], -3e38)}
    broken["head.weight"] = torch.full_like(model["head.weight"], -3e38)
    reply = ask(make_worker(phases), EvaluateRequest(0, 1, broken))
    assert reply.total[0] > 0
    assert reply.correct.sum() == 0


def test_a_client_with_its_own_model_judges_the_global_one(phases: PhaseRunner) -> None:
    judged = EvaluateRequest(1, 1, weights())
    remembered = ClientState(own_blueprint().initial(0))
    reply, left = make_worker(phases, clients=OWN).handle(judged, remembered)
    assert same(reply, ask(make_worker(phases), judged))
    assert same(left, remembered)


def test_a_narrow_client_trains_the_part_that_it_is_sent(phases: PhaseRunner) -> None:
    """By plain gradient descent on a network of half the width whose hidden layers give twice as much."""
    data = federation(partition=Given(12, 12), validation_share=0.0)
    narrow = blueprint_of(data).scaled(0.5)
    start = narrow.initial(3)
    worker = make_worker(phases, data, clients=ClientModels(levels=[1.0, 0.5]))
    reply = ask(worker, train_request(1, model=start, steps=1))
    net = blueprint_of(data).with_factory(partial(SmallCNN, width=1)).build(start).train()
    for name, module in net.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and name != "head":
            module.register_forward_hook(lambda _module, _inputs, output: 2 * output)
    images, labels = DIGITS.train.pixels[12:24].float() / 255, DIGITS.train.labels[12:24]
    gradients = torch.autograd.grad(F.cross_entropy(net(images), labels), list(net.parameters()))
    for (name, parameter), gradient in zip(net.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(reply.model[name], parameter - 0.1 * gradient, rtol=1e-4, atol=1e-6)


# generators


def test_a_generator_needs_a_remembered_model(phases: PhaseRunner) -> None:
    reply, state = make_worker(phases).handle(GeneratorRequest(2, 1), NOTHING)
    assert isinstance(reply, Declined)
    assert reply.client == 2
    assert "kept no trained model" in reply.reason
    assert state.tensors == {}


def test_a_generator_can_be_rebuilt_and_draws_images(phases: PhaseRunner) -> None:
    reply, state = make_worker(phases).handle(*requests(1)[1])
    assert state.tensors == {}
    net = TINY_GAN.build_generator((1, 8, 8), 10)
    net.load_state_dict(reply.generator)
    images = net.eval()(torch.randn(5, 4), torch.tensor([1, 4, 7, 1, 4]))
    assert images.shape == (5, 1, 8, 8)
    assert 0 <= images.min() <= images.max() <= 1


def test_a_generator_comes_with_counts_and_a_curve_for_each_loss(phases: PhaseRunner) -> None:
    worker = make_worker(phases)
    reply = ask(worker, *requests(1)[1])
    assert torch.equal(reply.class_counts, ask(worker, train_request(1)).class_counts)
    assert reply.curves.keys() >= {"discriminator", "adversarial", "diversity"}
    assert all(curve.shape == (2,) for curve in reply.curves.values())
    assert reply.metrics.keys() == {"coverage", "nearest_neighbour_ratio"} | COST
    assert (reply.metrics["attempts"], reply.metrics["steps"]) == (1, 2)
    assert 0 <= reply.metrics["coverage"] <= 1


@pytest.mark.parametrize("share", [False, None])
def test_curves_and_quality_stay_where_nobody_has_asked_for_them(share: bool | None, phases: PhaseRunner) -> None:
    private = make_worker(phases, program=ClientProgram(generation=TINY_GAN, share_curves=share))
    reply, shared = (ask(worker, *requests(1)[1]) for worker in (private, make_worker(phases)))
    assert not reply.curves
    assert reply.metrics.keys() == COST
    assert same(reply.generator, shared.generator)


def test_a_generator_listens_to_the_remembered_model(phases: PhaseRunner) -> None:
    worker = make_worker(phases)
    one, other = (ask(worker, GeneratorRequest(0, 1), ClientState(weights(seed))) for seed in (1, 2))
    assert one.curves["discriminator"][0] == other.curves["discriminator"][0]
    assert one.curves["diversity"][0] != other.curves["diversity"][0]
    assert not same(one.generator, other.generator)


# clients with little data


def generator_of(
    phases: PhaseRunner, data: FederatedDataModule, settings: Adversarial = TINY_GAN, trained_for: int = 0
) -> Any:
    """What the first client replies when it is asked for a generator."""
    worker = make_worker(phases, data, ClientProgram(generation=settings))
    model = ask(worker, train_request(steps=trained_for)).model if trained_for else weights(seed=5)
    return ask(worker, GeneratorRequest(0, 1), ClientState(model))


def images_from(reply: GeneratorReply, settings: Adversarial, count: int = 300) -> GeneratedImages:
    """What the server draws."""
    build = partial(uploaded_generator, generation=settings, image_shape=(1, 8, 8))
    return GeneratorMixture([reply], build, torch.device("cpu")).draw(count, torch.Generator().manual_seed(0))


WITHOUT_REST = [
    pytest.param({3: 5, 7: 5}, {3, 7}, id="two classes"),
    pytest.param({2: 10}, {2}, id="one class"),
]
WITH_REST = [
    pytest.param({3: 9, 8: 1}, {3}, id="a single image"),
    pytest.param({0: 4, 9: 5, 6: 30}, {9, 6}, id="just too few"),
    pytest.param({4: 5, 5: 1, 6: 1, 7: 1, 8: 1, 9: 1}, {4}, id="many single images"),
]


@pytest.mark.parametrize(("held", "learnt"), [*WITHOUT_REST, *WITH_REST])
def test_a_generator_makes_no_class_of_which_there_is_next_to_nothing(
    held: dict[int, int], learnt: set[int], phases: PhaseRunner
) -> None:
    reply = generator_of(phases, federation(partition=Holding(held), validation_share=0.0))
    assert reply.class_counts.tolist() == [held.get(digit, 0) if digit in learnt else 0 for digit in range(10)]
    assert set(images_from(reply, TINY_GAN).labels.tolist()) == learnt


@pytest.mark.parametrize(("held", "learnt"), WITH_REST)
def test_classes_that_are_too_small_leave_no_trace(held: dict[int, int], learnt: set[int], phases: PhaseRunner) -> None:
    """Neither in what is trained on, nor in the prior that it aims at, nor in how good it is said to be."""
    all_of_it = federation(partition=Holding(held), validation_share=0.0)
    large_enough = {digit: count for digit, count in held.items() if digit in learnt}
    without_rest = federation(partition=Holding(large_enough), validation_share=0.0)
    assert len(without_rest.client(0).train) < len(all_of_it.client(0).train)
    assert same(generator_of(phases, all_of_it), generator_of(phases, without_rest))


def test_the_labels_of_training_are_those_of_the_classes_learnt(
    phases: PhaseRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    class Witness(GenerationTask):
        def _step(self, real: Tensor, labels: Tensor) -> None:
            seen.extend(labels.tolist())
            super()._step(real, labels)

    monkeypatch.setattr("mosaic.generation.adversarial.GenerationTask", Witness)
    generator_of(phases, federation(partition=Holding({3: 9, 8: 1, 5: 4, 0: 6}), validation_share=0.0))
    assert len(seen) == 2 * 8
    assert set(seen) == {0, 3}


@pytest.mark.parametrize(("min_count", "learnt"), [(1, {1, 2, 3}), (3, {2, 3}), (20, {3})])
def test_how_few_are_next_to_nothing_is_a_setting(min_count: int, learnt: set[int], phases: PhaseRunner) -> None:
    settings = dataclasses.replace(TINY_GAN, min_count=min_count)
    reply = generator_of(phases, federation(partition=Holding({1: 1, 2: 3, 3: 20}), validation_share=0.0), settings)
    assert set(reply.class_counts.nonzero().flatten().tolist()) == learnt


@pytest.mark.parametrize("held", [{3: 1}, dict.fromkeys(range(10), 4)], ids=["one image", "four of each"])
def test_a_client_without_a_class_that_is_large_enough_declines(held: dict[int, int], phases: PhaseRunner) -> None:
    reply = generator_of(phases, federation(partition=Holding(held), validation_share=0.0))
    assert reply == Declined(0, "it has no class with 5 images to learn a generator of")


def test_images_that_are_held_out_do_not_count(phases: PhaseRunner) -> None:
    data = federation(partition=Holding({3: 5, 4: 20}), validation_share=0.25)
    held_out = DIGITS.train.labels[data.client(0).validation]
    assert (held_out == 3).any()
    reply = generator_of(phases, data)
    assert set(reply.class_counts.nonzero().flatten().tolist()) == {4}


def share_in(images: Tensor, classes: set[int]) -> float:
    """The share that nearest neighbours among real digits, none of them the client's, put in these classes."""
    from sklearn.neighbors import KNeighborsClassifier

    pixels = DIGITS.test.pixels.flatten(1).double().numpy() / 255
    judge = KNeighborsClassifier(5).fit(pixels, DIGITS.test.labels.numpy())
    return float(np.isin(judge.predict(images.flatten(1).double().numpy()), list(classes)).mean())


@pytest.mark.slow
@pytest.mark.parametrize(("held", "learnt"), [({3: 5, 7: 5}, {3, 7}), ({2: 9, 6: 1}, {2})], ids=["two", "one"])
def test_ten_images_are_enough_to_make_digits_and_not_noise(
    held: dict[int, int], learnt: set[int], phases: PhaseRunner, random: torch.Generator
) -> None:
    settings = Adversarial()
    data = federation(partition=Holding(held), validation_share=0.0)
    images = images_from(generator_of(phases, data, settings, trained_for=40), settings).images
    assert share_in(images, learnt) >= 0.8
    assert share_in(torch.rand(images.shape, generator=random), learnt) < 0.5


# generators that diverge


@pytest.fixture
def diverges_above(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Callable[[float], None]:
    """Let generators end up as something that is no number, or a huge one, when they are trained faster than this."""
    end = getattr(request, "param", float("nan"))

    def install(highest: float) -> None:
        class Diverging(GenerationTask):
            def trained_generator(self) -> Generator:
                generator = super().trained_generator()
                if self.settings.learning_rate > highest:
                    generator.layers[0].weight[0] = end
                return generator

        monkeypatch.setattr("mosaic.generation.adversarial.GenerationTask", Diverging)

    return install


@pytest.mark.parametrize("diverges_above", [float("nan"), 2e5], indirect=True)
def test_a_generator_that_diverged_is_trained_once_more_at_a_lower_rate(
    phases: PhaseRunner, diverges_above: Callable[[float], None]
) -> None:
    rate = TINY_GAN.learning_rate
    slower = ClientProgram(generation=dataclasses.replace(TINY_GAN, learning_rate=RETRY * rate), share_curves=True)
    expected = ask(make_worker(phases, program=slower), *requests(0)[1])
    diverges_above(rate / 2)
    reply = ask(make_worker(phases), *requests(0)[1])
    assert (expected.metrics.pop("attempts"), reply.metrics.pop("attempts")) == (1, 2)
    for steps in ("steps", "discriminator_steps"):  # both attempts are in the books
        assert reply.metrics.pop(steps) == 2 * expected.metrics.pop(steps)
    assert same(reply, expected)


def test_a_generator_that_diverges_at_the_lower_rate_too_is_not_sent(
    phases: PhaseRunner, diverges_above: Callable[[float], None]
) -> None:
    diverges_above(0.0)
    reply, state = make_worker(phases).handle(*requests(0)[1])
    assert reply == Declined(0, "its generator diverged to values that are huge or not finite, at 0.1 x the rate too")
    assert state.tensors == {}


def test_a_rate_that_no_generator_survives_is_declined(phases: PhaseRunner) -> None:
    program = ClientProgram(generation=dataclasses.replace(TINY_GAN, learning_rate=1e30))
    reply = ask(make_worker(phases, program=program), *requests(0)[1])
    assert isinstance(reply, Declined)
    assert "not finite" in reply.reason


def test_a_model_that_is_huge_is_declined_as_one_that_is_no_number(phases: PhaseRunner) -> None:
    """The server would refuse it, and name the client among those that fail."""
    assert ask(make_worker(phases), train_request(steps=1, learning_rate=1e9)) == Declined(
        0, "its model diverged to values that are huge or not finite: lower the rate"
    )


# prototypes


def trained_model(phases: PhaseRunner) -> StateDict:
    """Weights whose running statistics differ from those of any batch."""
    return ask(make_worker(phases), train_request(1)).model


@torch.no_grad()
def features_of(model: StateDict, indices: Tensor, training: bool = False) -> np.ndarray:
    net = net_with(model).train(training)
    return net.features(DIGITS.train.pixels[indices].double().div(255).float()).double().numpy()


def test_prototypes_come_from_all_training_images_in_eval_mode(phases: PhaseRunner) -> None:
    model = trained_model(phases)
    own = federation().client(0).train
    labels = DIGITS.train.labels[own].numpy()
    program = ClientProgram(prototypes=PrototypeSettings(clusters_per_class=1, min_count=1))
    reply = ask(make_worker(phases, program=program), PrototypeRequest(0, 1, model))
    assert reply.labels.tolist() == [0, 3, 6, 9]
    assert reply.sizes.tolist() == [int((labels == label).sum()) for label in (0, 3, 6, 9)]
    features, wrong = features_of(model, own), features_of(model, own, training=True)
    means = np.stack([features[labels == label].mean(0) for label in (0, 3, 6, 9)])
    np.testing.assert_allclose(reply.prototypes.numpy(), means, rtol=1e-4, atol=1e-5)
    assert np.abs(wrong - features).max() > 0.01


def test_clusters_stand_for_all_training_images_too(phases: PhaseRunner) -> None:
    model = trained_model(phases)
    own = federation().client(2).train
    reply = ask(make_worker(phases), PrototypeRequest(2, 1, model))
    assert len(reply.labels) > 3
    assert int(reply.sizes.sum()) == len(own)
    total = (reply.prototypes * reply.sizes[:, None]).sum(0)
    np.testing.assert_allclose(total.numpy(), features_of(model, own).sum(0), rtol=1e-4, atol=1e-3)


def test_prototypes_leave_training_untouched(phases: PhaseRunner) -> None:
    alone = ask(make_worker(phases), train_request(keep=True))
    worker = make_worker(phases)
    ask(worker, PrototypeRequest(0, 1, weights()))
    assert same(ask(worker, train_request(keep=True)), alone)


def test_a_client_without_images_has_no_prototypes(phases: PhaseRunner) -> None:
    data = federation(partition=Given(20, 0))
    reply = ask(make_worker(phases, data), PrototypeRequest(1, 1, weights()))
    assert [len(part) for part in (reply.prototypes, reply.labels, reply.sizes)] == [0, 0, 0]


# evaluation


@pytest.mark.parametrize("client", range(3))
def test_evaluation_counts_right_answers_on_validation_images(client: int, phases: PhaseRunner) -> None:
    model = ask(make_worker(phases), train_request(client, steps=60)).model
    held = federation().client(client).validation.tolist()
    net = net_with(model).eval()
    correct, total = [0] * 10, [0] * 10
    for index in held:
        label = int(DIGITS.train.labels[index])
        total[label] += 1
        with torch.no_grad():
            correct[label] += int(net(DIGITS.train.pixels[index : index + 1].float() / 255).argmax()) == label
    reply = ask(make_worker(phases), EvaluateRequest(client, 1, model))
    assert reply.total.tolist() == total
    assert reply.correct.tolist() == correct
    assert 0 < sum(correct) < sum(total)


@pytest.mark.parametrize("client", range(3))
def test_evaluation_sums_the_cross_entropy_of_every_class(client: int, phases: PhaseRunner) -> None:
    model = ask(make_worker(phases), train_request(client, steps=20)).model
    net, loss = net_with(model).eval(), [0.0] * 10
    for index in federation().client(client).validation.tolist():
        with torch.no_grad():
            logits = net(DIGITS.train.pixels[index : index + 1].float() / 255)[0].double().numpy()
        label = int(DIGITS.train.labels[index])
        loss[label] += np.log(np.exp(logits).sum()) - logits[label]
    reply = ask(make_worker(phases), EvaluateRequest(client, 1, model))
    np.testing.assert_allclose(reply.loss, loss, rtol=1e-4, atol=1e-6)
    assert ((reply.loss > 0) == (reply.total > 0)).all()
    assert reply.loss.dtype == torch.double


@pytest.mark.parametrize("partition", [Given(30, 30), Given(30, 0)], ids=["no share", "no images"])
def test_no_validation_images_give_zeros(partition: Partition, phases: PhaseRunner) -> None:
    data = federation(partition=partition, validation_share=0.0)
    reply: Reply = ask(make_worker(phases, data), EvaluateRequest(1, 1, weights()))
    assert reply.correct.tolist() == reply.total.tolist() == reply.loss.tolist() == [0] * 10
    assert (reply.total.dtype, reply.loss.dtype) == (torch.long, torch.double)
    assert same(decode(encode(reply), EvaluateReply), reply)


def test_augmentation_differs_from_round_to_round(phases: PhaseRunner) -> None:
    data = federation(partition=Given(1, 20), validation_share=0.0, augmentation=Augmentation(2))
    ways = {ask(make_worker(phases, data), train_request(0, steps=1, round=i)).metrics["loss"] for i in range(1, 6)}
    assert len(ways) > 1
