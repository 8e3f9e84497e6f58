"""All images in one place: the control at the upper end of the scale."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from mosaic.algorithms import Centralised
from mosaic.errors import MosaicError
from mosaic.federation.schedule import centralised_plan
from mosaic.nets import SmallCNN
from mosaic.seeding import SERVER, seed_for
from mosaic.server.context import RoundPlan
from tests.small_runs import (
    TWO_ROUNDS,
    SharedRuns,
    assert_same_run,
    digits,
    final_model,
    fit_other,
    pool_of_kind,
    rows_without_time,
    take_steps,
)


def local_updates(run: Path) -> int:
    return json.loads((run / "summary.json").read_text())["updates"]["local"]


# who holds what


def test_one_client_holds_what_all_have_held() -> None:
    data = digits(4)
    whole = data.gathered()
    assert whole.num_clients == 1
    assert whole.images is data.images
    for part in ("train", "validation"):
        expected = sorted(int(index) for client in range(4) for index in getattr(data.client(client), part))
        assert getattr(whole.client(0), part).tolist() == expected
    assert whole.client(0).class_counts.tolist() == data.class_counts.sum(0).tolist()
    assert len(whole.client(0).train) + len(whole.client(0).validation) == 1198
    assert data.num_clients == 4


def test_settings_of_local_training_stay() -> None:
    data = digits(4)
    whole, factory = data.gathered(), partial(SmallCNN, width=4)
    assert (whole.batch_size, whole.augmentation) == (data.batch_size, data.augmentation)
    assert whole.blueprint(factory).mean == data.blueprint(factory).mean


def test_gathering_one_client_changes_nothing() -> None:
    data = digits(1)
    assert all(np.array_equal(*pair) for pair in zip(data.splits[0], data.gathered().splits[0], strict=True))


# how many steps


@pytest.mark.parametrize(
    ("epochs", "steps"),
    [(0.0, 2 * 7), (1.0, 4 + 1), (0.5, 2 + 1)],
    ids=["steps", "passes", "half a pass: a small client takes a step all the same"],
)
def test_as_many_steps_as_the_clients_of_the_round_take_together(epochs: float, steps: int) -> None:
    """Clients 0 and 2 of three take part, with 40 and 5 images in batches of 10; client 1 has a thousand."""
    plan = RoundPlan(3, 9, (0, 2), 7, epochs, 0.1, distillation=None)
    assert centralised_plan(plan, [40, 1000, 5], batch_size=10) == RoundPlan(
        3, 9, (0,), steps, 0.0, 0.1, distillation=None
    )


def test_clients_without_images_would_not_have_trained() -> None:
    plan = RoundPlan(1, 9, (0, 1), 7, 1.0, 0.1, distillation=None)
    assert centralised_plan(plan, [20, 0], batch_size=10).steps == 2


@pytest.mark.parametrize(
    "more",
    [
        [],
        pytest.param(["--federation.schedule.local_epochs=0.5"], marks=pytest.mark.slow),
        pytest.param(["--federation.schedule.participation=0.5"], marks=pytest.mark.slow),
    ],
    ids=["steps", "passes", "some clients"],
)
def test_a_run_takes_as_many_steps_as_fedavg(more: list[str], shared_run: SharedRuns, tmp_path: Path) -> None:
    ours = fit_other(tmp_path / "ours", "Centralised", *more)
    theirs = shared_run("FedAvg", *more)
    assert local_updates(ours) == local_updates(theirs) > 2
    assert not torch.equal(final_model(ours)["net.head.weight"], final_model(theirs)["net.head.weight"])


# what is trained


def test_with_one_client_it_is_fedavg(shared_run: SharedRuns, tmp_path: Path) -> None:
    one = "--data.partition.num_clients=1"
    assert_same_run(fit_other(tmp_path / "run", "Centralised", one), shared_run("FedAvg", one))


def test_it_is_plain_training_on_all_images_and_judged_by_all_validation_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit_other(tmp_path / "run", "Centralised", *TWO_ROUNDS)
    said = "Centralised trains in one place on the images of all 4 clients: a control, not federated learning"
    assert capsys.readouterr().err.count(said) == 1
    data = digits(4)
    blueprint = data.blueprint(partial(SmallCNN, width=16))
    net = blueprint.build(blueprint.initial(seed_for(0, 0, SERVER, "init")))
    for round in (1, 2):
        take_steps(net, data.gathered(), 0, round, steps=4 * 2)
    ours = final_model(run)
    assert all(torch.equal(tensor, ours[f"net.{name}"]) for name, tensor in net.state_dict().items())
    net.eval()
    with torch.no_grad():
        hits = [(net(pixels / 255).argmax(-1) == labels).float() for pixels, labels in data.val_dataloader()]
    last = rows_without_time(run)[-1]
    assert float(last["validation_accuracy"]) == pytest.approx(float(torch.cat(hits).mean()), abs=1e-6)
    assert last["worst_validation_accuracy"] is None, "of one there is no worst"


def test_the_run_keeps_the_partition_that_it_is_compared_on(shared_run: SharedRuns) -> None:
    run = shared_run("Centralised", *TWO_ROUNDS)
    listed = json.loads((run / "partition.json").read_text())["clients"]
    assert [entry["train"] for entry in listed] == [digits(4).client(client).train.tolist() for client in range(4)]


def test_it_stops_and_goes_on(shared_run: SharedRuns, tmp_path: Path) -> None:
    stopped = fit_other(tmp_path / "stopped", "Centralised")
    fit_other(stopped, "Centralised", *TWO_ROUNDS, "--ckpt_path=auto")
    assert_same_run(stopped, shared_run("Centralised", *TWO_ROUNDS), extended=True)


def test_clients_with_other_networks_cannot_be_gathered() -> None:
    for kind in ("widths", "architectures"):
        with pytest.raises(MosaicError, match="Centralised cannot work with"):
            Centralised().check_pool(pool_of_kind(kind))
