"""What must be equal between algorithms, bit for bit."""

from pathlib import Path

import pytest
import torch

from mosaic.cli import main
from tests.runs import final_model, stages, tiny_fit


def run(path: Path, algorithm: str, *more: str) -> Path:
    arguments = [argument for argument in tiny_fit(path, *more) if not argument.startswith("--algorithm")]
    main([*arguments, f"--algorithm=mosaic.algorithms.{algorithm}"])
    return path


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("fedavg") / "run", "FedAvg")


def test_a_new_head_changes_the_head_alone(averaged: Path, tmp_path: Path) -> None:
    ours, theirs = final_model(run(tmp_path / "run", "PrototypeHead")), final_model(averaged)
    changed = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert changed == {"net.head.weight", "net.head.bias"}


def test_mosaic_without_a_distilling_round_is_fedavg(averaged: Path, tmp_path: Path) -> None:
    same_rate = "--federation.schedule.fine_tune_learning_rate=0.01"
    never = "--federation.schedule.distill_rounds=[]"
    ours = final_model(run(tmp_path / "mosaic", "Mosaic", same_rate, never))
    theirs = final_model(run(tmp_path / "fedavg", "FedAvg", same_rate, never))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_fedavg_with_one_client_is_plain_training(tmp_path: Path) -> None:
    """The average of one model is that model: what the client's own phases give when they follow one another."""
    from functools import partial

    from torch.nn import functional as F
    from torch.optim import SGD

    from mosaic.batches import ShuffledBatches
    from mosaic.data import DirichletPartition, FederatedDataModule, SklearnDigits
    from mosaic.nets import SmallCNN
    from mosaic.nets.inference import to_pixels
    from mosaic.seeding import SERVER, seed_for

    one = ["--data.partition.num_clients=1", "--federation.schedule.fine_tune_rounds=0"]
    federated = final_model(run(tmp_path / "run", "FedAvg", *one))
    data = FederatedDataModule(SklearnDigits(), DirichletPartition(1, 1.0), batch_size=32)
    blueprint = data.blueprint(partial(SmallCNN, width=16))
    net = blueprint.build(blueprint.initial(seed_for(0, 0, SERVER, "init")))
    for round in (1, 2, 3):
        optimizer = SGD(net.parameters(), lr=0.01, weight_decay=1e-4)
        own = data.client(0)
        batches = ShuffledBatches(
            *(own.images.pixels, own.images.labels),
            batch_size=32,
            steps=2,
            seed=seed_for(0, round, 0, "train/batches"),
            indices=own.train,
        )
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(net(to_pixels(images)), labels).backward()
            optimizer.step()
    assert all(torch.equal(tensor, federated[f"net.{name}"]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    "switches",
    [
        ["gate.kind=transformer", "gate.space=features", "experts=class_average", "generation.conditional=false"],
        ["gate.kind=residual", "gate.space=images", "experts=class_average"],
        ["gate.kind=prior", "gate.space=features", "experts=clients", "distillation.balanced=false"],
        ["gate.kind=fusion", "gate.space=features", "objective=mosaic.client.objectives.PriorAdjusted"],
        ["generation.loss=bce", "generation.discriminator_normalization=batch", "generation.inversion_weight=0.1"],
        ["generation.entropy_weight=0.1", "generation.diversity_target=uniform", "distillation.beta=1"],
    ],
    ids=lambda switches: switches[0],
)
def test_every_switch_runs_from_end_to_end(switches: list[str], tmp_path: Path) -> None:
    main(tiny_fit(tmp_path / "run", *(f"--algorithm.{switch}" for switch in switches)))
    assert all(tensor.isfinite().all() for tensor in final_model(tmp_path / "run").values())
    assert "student" in stages(tmp_path / "run")
