import dataclasses
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor

from mosaic.client.private_worker import BROKEN, FORGOTTEN, REFUSED, SPENT, PrivateWorker
from mosaic.client.program import ClientProgram
from mosaic.codec import encode
from mosaic.data import FederatedDataModule
from mosaic.errors import MosaicError
from mosaic.generation import ClassGaussians
from mosaic.messages import (
    ClientState,
    Declined,
    EvaluateRequest,
    Failed,
    GeneratorRequest,
    PrototypeRequest,
    ReleaseReply,
    ReleaseRequest,
    Reply,
    Request,
    TrainReply,
    TrainRequest,
)
from mosaic.model_pool import ClientModels
from mosaic.nets import SmallCNN
from mosaic.privacy import Privacy, Shares
from mosaic.privacy.accounting import PrivacyBudget, spent
from mosaic.privacy.dp_sgd import PoissonBatches, clipped_sums, gradient_sums, gradients_by_image
from mosaic.privacy.ledger import Ledger, booked
from mosaic.privacy.noise import SecretNoise
from mosaic.privacy.release import GRID, noisy
from mosaic.tasks.private_classification import PrivateClassificationTask
from mosaic.training.phases import PhaseRunner
from tests.client.test_worker import DIGITS, NOTHING, Given, InMemory, federation

pytest.importorskip("dp_accounting", exc_type=ImportError)
SHARES = Shares(0.05, 0.25, 0.4, 0.3)
RELEASES = Privacy(5.0)
TRAINS = Privacy(5.0, shares=SHARES, local_training="dp_sgd")
NET = partial(SmallCNN, width=2, norm="group")


def make_worker(
    phases: PhaseRunner,
    folder: Path,
    privacy: Privacy = RELEASES,
    data: FederatedDataModule | None = None,
    **more: int,
) -> PrivateWorker:
    data = data or federation(partition=Given(40, 60))
    pool = ClientModels().pool(data.blueprint(NET), data.num_clients, 0)
    program = ClientProgram(generation=ClassGaussians(coefficients=4))
    optimizer = partial(torch.optim.SGD, lr=1e3)
    return PrivateWorker(data, pool, optimizer, program, phases, 0, PrivacyBudget.of(privacy, 4), folder, **more)


def weights() -> dict[str, Tensor]:
    return federation().blueprint(NET).initial(0)


def train_request(client: int = 0, round: int = 1, **changes: Any) -> TrainRequest:
    given = TrainRequest(client, round, weights(), 2, 0.0, 0.1, keep=True, upload=True, judge=False, replay={})
    return dataclasses.replace(given, **changes)


def everything(client: int = 0) -> list[Request]:
    """Whatever a server could think of."""
    return [
        ReleaseRequest(client, 1),
        train_request(client),
        train_request(client, judge=True),
        train_request(client, epochs=1.0),
        GeneratorRequest(client, 1),
        PrototypeRequest(client, 1, weights()),
        EvaluateRequest(client, 1, weights()),
    ]


def replies(worker: PrivateWorker, client: int = 0) -> list[Reply]:
    found = [worker.handle(request, ClientState({"kept": torch.ones(1)})) for request in everything(client)]
    assert all(state.tensors.keys() == {"kept"} for _, state in found), "no state tells anything either"
    return [reply for reply, _ in found]


def test_replies_hold_what_was_booked_and_nothing_else(phases: PhaseRunner, tmp_path: Path) -> None:
    released, *others = replies(make_worker(phases, tmp_path))
    assert isinstance(released, ReleaseReply)
    assert others == [Declined(0, REFUSED)] * 6
    ((counts, means, moments),) = booked(tmp_path)
    assert [each.name for each in (counts, means, moments)] == ["counts", "means", "moments"]
    assert spent([counts, means, moments], RELEASES.delta) <= RELEASES.epsilon


def test_a_trained_model_comes_with_public_numbers_alone(phases: PhaseRunner, tmp_path: Path) -> None:
    released, trained, *others = replies(make_worker(phases, tmp_path, TRAINS))
    assert isinstance(released, ReleaseReply)
    assert isinstance(trained, TrainReply)
    assert trained.metrics == {"loss": 0.0, "steps": 2, "validation_images": 0}
    assert (trained.class_counts == 1).all()
    assert trained.judgement == {}
    assert others == [Declined(0, REFUSED)] * 5
    assert any(not torch.equal(trained.model[name], before) for name, before in weights().items())
    assert booked(tmp_path)[0][-1].steps == 2


@pytest.mark.parametrize("privacy", [RELEASES, TRAINS], ids=["releases", "trains"])
def test_one_image_changes_nothing_but_what_was_booked(
    privacy: Privacy, phases: PhaseRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With frozen noise, another image of another class moves sums by the least that it must, and nothing else."""
    monkeypatch.setattr("mosaic.privacy.ledger.new_secret", lambda: bytes(32))
    pixels, labels = DIGITS.train.pixels.clone(), DIGITS.train.labels.clone()
    data = federation(partition=Given(40, 60))
    victim = int(data.client(0).train[0])
    pixels[victim] = 255 - pixels[victim]
    other = federation(InMemory(dataclasses.replace(DIGITS.train, pixels=pixels)), Given(40, 60))
    before = replies(make_worker(phases, tmp_path / "a", privacy, data))
    after = replies(make_worker(phases, tmp_path / "b", privacy, other))
    for name, bound in (("counts", 0.0), ("sums", 2.0), ("moments", 2.0)):  # one image leaves, another comes
        moved = float((getattr(before[0], name) - getattr(after[0], name)).norm())
        assert moved <= bound + 1e-3, name
        assert (moved > 0.01) == (bound > 0), "the change must be seen where it is booked"
    for one, two in zip(before[1:], after[1:], strict=True):
        if isinstance(one, TrainReply):
            one, two = (dataclasses.replace(each, model={}) for each in (one, two))
        assert encode(one) == encode(two)
    assert labels.equal(DIGITS.train.labels)


def test_the_seed_of_the_run_decides_no_noise(phases: PhaseRunner, tmp_path: Path) -> None:
    """A server that knows the seed could subtract it."""
    one, two = (replies(make_worker(phases, tmp_path / name))[0] for name in "ab")
    assert not torch.equal(one.counts, two.counts)


def test_who_died_before_sending_sends_the_same_bytes(
    phases: PhaseRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets: list[bytes] = []
    monkeypatch.setattr(Ledger, "keep", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))

    def noting(secret: bytes) -> SecretNoise:
        secrets.append(secret)
        return SecretNoise(secret)

    monkeypatch.setattr("mosaic.client.private_worker.SecretNoise", noting)
    for request in (ReleaseRequest(0, 1), train_request()):
        with pytest.raises(KeyboardInterrupt):
            make_worker(phases, tmp_path, TRAINS).handle(request, NOTHING)
    monkeypatch.undo()
    paid = booked(tmp_path)
    again = make_worker(phases, tmp_path, TRAINS)
    first = [encode(again.handle(request, NOTHING)[0]) for request in (ReleaseRequest(0, 1), train_request())]
    later = make_worker(phases, tmp_path, TRAINS)  # asked again, in another round or run
    assert [encode(later.handle(request, NOTHING)[0]) for request in (ReleaseRequest(0, 7), train_request())] == first
    assert booked(tmp_path) == paid
    assert len(set(secrets)) == 2, "each answer has noise of its own"


def test_what_exceeds_the_budget_is_declined_with_a_fixed_text(phases: PhaseRunner, tmp_path: Path) -> None:
    worker = make_worker(phases, tmp_path, TRAINS)
    ask = lambda request: worker.handle(request, NOTHING)[0]  # noqa: E731
    assert isinstance(ask(ReleaseRequest(0, 1)), ReleaseReply)
    assert [type(ask(train_request(round=round))) for round in (1, 2)] == [TrainReply] * 2  # the four planned steps
    assert ask(train_request(round=3, steps=100)) == Declined(0, SPENT)
    assert spent(booked(tmp_path)[0], TRAINS.delta) <= TRAINS.epsilon
    for kept in tmp_path.rglob("*.answer"):
        kept.unlink()
    assert ask(train_request(round=1)) == Declined(0, FORGOTTEN)


@pytest.mark.parametrize(("keep", "kept"), [(1, 20), (30, 30)])
def test_answers_are_kept_as_long_as_a_server_may_go_back(
    keep: int, kept: int, phases: PhaseRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For as many rounds as there are between snapshots, and for twenty at least."""
    ledgers = Mock(wraps=Ledger)
    monkeypatch.setattr("mosaic.client.private_worker.Ledger", ledgers)
    assert isinstance(make_worker(phases, tmp_path, TRAINS, keep=keep).handle(train_request(), NOTHING)[0], TrainReply)
    assert ledgers.call_args.args[2] == kept


@pytest.mark.parametrize("spoil", ["double", "missing", "shape"])
def test_a_model_of_another_form_is_declined_unpaid(spoil: str, phases: PhaseRunner, tmp_path: Path) -> None:
    """Training with it would fail only if a batch has an image, and would reveal something for nothing."""
    worker, model = make_worker(phases, tmp_path, TRAINS), weights()
    match spoil:
        case "double":
            model["head.bias"] = model["head.bias"].double()
        case "missing":
            del model["head.bias"]
        case _:
            model["head.bias"] = torch.zeros(3)
    assert worker.handle(train_request(model=model), NOTHING)[0] == Declined(0, REFUSED)
    assert booked(tmp_path) == []


def test_code_that_fails_tells_nothing_of_why(
    phases: PhaseRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker = make_worker(phases, tmp_path)
    monkeypatch.setattr(worker._data, "client", lambda _: 1 / 0)
    assert worker.handle(ReleaseRequest(0, 1), NOTHING)[0] == Failed(0, BROKEN)
    assert "ZeroDivisionError" in caplog.text


def test_clients_are_not_trained_in_lockstep_past_their_budget(phases: PhaseRunner, tmp_path: Path) -> None:
    assert make_worker(phases, tmp_path, TRAINS).stack_key(train_request()) is None


def test_budgets_that_do_not_fit_the_images_are_refused(phases: PhaseRunner, tmp_path: Path) -> None:
    with pytest.raises(MosaicError, match=r"privacy\.delta"):
        make_worker(phases, tmp_path, Privacy(5.0, delta=0.05))
    with pytest.raises(MosaicError, match=r"privacy\.unit: .*no groups.*patient"):
        make_worker(phases, tmp_path, Privacy(5.0, unit="patient"))


def test_gradients_by_image_are_those_of_a_loop_and_their_sum_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    net, images, labels = NET((1, 8, 8), 10).double(), DIGITS.train.pixels[:5].double() / 255, DIGITS.train.labels[:5]
    found = gradients_by_image(net, images, labels)
    sums = {name: torch.zeros_like(each[0]) for name, each in found.items()}
    for image, label, place in zip(images, labels, range(5), strict=True):
        net.zero_grad()
        torch.nn.functional.cross_entropy(net(image[None]), label[None]).backward()
        alone = {name: each.grad for name, each in net.named_parameters()}
        size = float(torch.stack([each.square().sum() for each in alone.values()]).sum().sqrt())
        for name, each in alone.items():
            torch.testing.assert_close(found[name][place], each, rtol=1e-6, atol=1e-9)
            sums[name] += each / max(size, 0.7)
    clipped = clipped_sums(found, 0.7)
    for name, each in clipped.items():
        torch.testing.assert_close(each / GRID, sums[name], rtol=0, atol=6 / GRID)
    monkeypatch.setattr("mosaic.privacy.dp_sgd.AT_ONCE", 2 * sum(each.numel() for each in net.parameters()))
    in_pieces = gradient_sums(net, images, labels, 0.7)
    for name, each in clipped.items():
        torch.testing.assert_close(in_pieces[name] / GRID, each / GRID, rtol=0, atol=6 / GRID)
    one = clipped_sums({name: each[:1] for name, each in found.items()}, 0.7)
    assert float(torch.stack([each.square().sum() for each in one.values()]).sum().sqrt()) <= GRID


def test_an_image_with_a_gradient_that_is_not_finite_counts_nothing() -> None:
    broken = {"weight": torch.tensor([[torch.inf, 1.0], [0.3, 0.4]]), "bias": torch.tensor([[0.0], [torch.nan]])}
    assert all(not each.any() for each in clipped_sums(broken, 1.0).values())


def test_images_enter_batches_by_chance_and_by_the_secret() -> None:
    indices = torch.arange(100, 1100)
    batches = PoissonBatches(torch.arange(2000), torch.arange(2000), indices, 0.05, 200, SecretNoise(bytes(32)))
    found = [entered for entered, _ in batches]
    sizes = torch.tensor([float(len(each)) for each in found])
    assert len(batches) == len(found) == 200
    assert float(sizes.mean()) == pytest.approx(50, abs=2)
    assert float(sizes.var()) == pytest.approx(47.5, rel=0.3)  # binomial: n p (1 - p)
    assert torch.isin(torch.cat(found), indices).all()
    with pytest.raises(RuntimeError, match="used before"):
        list(batches)


def test_images_that_would_be_held_out_count_too(phases: PhaseRunner, tmp_path: Path) -> None:
    """Or an image more would move others in and out of the split."""
    data = federation(partition=Given(40, 60), validation_share=0.5)
    found = make_worker(phases, tmp_path, Privacy(float("inf")), data).handle(ReleaseRequest(0, 1), NOTHING)[0]
    assert found.counts.sum() == 40


def test_all_images_of_a_patient_count_as_one(
    phases: PhaseRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With frozen noise, ten other images of one patient move sums no more than one leaving and one coming may."""
    monkeypatch.setattr("mosaic.privacy.ledger.new_secret", lambda: bytes(32))
    patients = np.array(["ann"] * 10 + [f"p{number}" for number in range(len(DIGITS.train) - 10)])
    others = DIGITS.train.pixels.clone()
    others[:10] = 255 - others[:10]
    found = []
    for name, pixels in (("a", DIGITS.train.pixels), ("b", others)):
        images = dataclasses.replace(DIGITS.train, pixels=pixels, groups={"patient": patients})
        data = federation(InMemory(images), Given(40, 60), validation_share=0.0)
        worker = make_worker(phases, tmp_path / name, Privacy(5.0, unit="patient"), data)
        found.append(worker.handle(ReleaseRequest(0, 1), NOTHING)[0])
    assert torch.equal(found[0].counts, found[1].counts)
    assert 0.2 < float((found[0].sums - found[1].sums).norm()) <= 2.001
    assert 0.1 < float((found[0].moments - found[1].moments).norm()) <= 2.001


def test_the_worker_trains_and_releases_with_the_numbers_of_its_budget(
    phases: PhaseRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    class Task(PrivateClassificationTask):
        def __init__(self, *given: Any) -> None:
            seen["task"] = given[4:7]
            super().__init__(*given)

    class Batches(PoissonBatches):
        def __init__(self, pixels: Tensor, labels: Tensor, own: Tensor, rate: float, steps: int, noise: Any) -> None:
            seen["batches"] = len(own), rate, steps
            super().__init__(pixels, labels, own, rate, steps, noise)

    def released(exact: Any, mechanisms: Any, noise: SecretNoise) -> Any:
        seen["released"] = dict(mechanisms)
        return noisy(exact, mechanisms, noise)

    for name, recorder in (("PrivateClassificationTask", Task), ("PoissonBatches", Batches), ("noisy", released)):
        monkeypatch.setattr(f"mosaic.client.private_worker.{name}", recorder)
    privacy = dataclasses.replace(TRAINS, clipping=0.7, sampling_rate=0.2)
    worker, planned = make_worker(phases, tmp_path, privacy), PrivacyBudget.of(privacy, 4).mechanisms
    for request in (train_request(), ReleaseRequest(0, 1)):
        assert not isinstance(worker.handle(request, NOTHING)[0], Declined | Failed)
    assert seen["task"] == (0.7, planned["training"].noise, 16)
    assert seen["batches"] == (40, 0.2, 2), "all images, also those that would be held out"
    assert seen["released"] == planned
