"""How many rounds of FedAvg per second beside a plain PyTorch loop, written as tightly as it can be?

Ten clients of the digits, a small network, ten local steps; the same partition, batches, steps and average. The loop
does what FedAvg needs and no more: train, add up, divide, measure on the test images. The run does that through its
messages, Trainers, books and TensorBoard; snapshots and the clients' validation, which the loop does not have, come in
the last round alone, which is not timed. Both must end with the same bits.

    python benchmarks/fedavg_loop.py [--pairs 5] [--rounds 12] [--threads 1]
"""

import argparse
import contextlib
import io
import logging
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch
from measuring import Figure, show
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F
from torch.optim import SGD

from mosaic.batches import ShuffledBatches
from mosaic.cli.main import main as mosaic
from mosaic.data import DirichletPartition, FederatedDataModule, SklearnDigits
from mosaic.nets import SmallCNN
from mosaic.nets.blueprint import Blueprint
from mosaic.seeding import SERVER, seed_for

CONFIG = Path(__file__).parent.parent / "configs" / "digits.yaml"
STEPS, BATCH, RATE = 10, 32, 0.01


def ours(folder: Path, rounds: int, threads: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Return the seconds of every round but the first and the last, from one to the next, and the final model."""
    flags = [
        *("fit", f"--config={CONFIG}", "--algorithm=mosaic.algorithms.FedAvg", f"--federation.run_dir={folder}"),
        *(f"--federation.schedule.local_steps={STEPS}", "--federation.schedule.fine_tune_rounds=0"),
        *(f"--federation.schedule.collaborative_rounds={rounds}", f"--executor.threads={threads}"),
        *("--federation.snapshot_every=1000", "--federation.validate_every=1000"),
    ]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        mosaic(flags)
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    finished = [event.wall_time for event in events.Scalars("time/round_seconds")][:-1]
    seconds = [after - before for before, after in pairwise(finished)]
    state = torch.load(folder / "global.ckpt", weights_only=True)["state_dict"]
    return seconds, {name.removeprefix("net."): tensor for name, tensor in state.items()}


def loop(data: FederatedDataModule, blueprint: Blueprint, rounds: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Return the same for the plain loop."""
    net = SmallCNN((1, 8, 8), 10, width=16)
    model = blueprint.initial(seed_for(0, 0, SERVER, "init"))
    pixels, labels = data.images.train.pixels, data.images.train.labels
    test_pixels, test_labels = data.images.test.pixels.float() / 255, data.images.test.labels
    seconds = []
    for round in range(1, rounds + 1):
        start = time.perf_counter()
        sums, total = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in model.items()}, 0
        for client in range(data.num_clients):
            own = data.client(client).train
            net.load_state_dict(model)
            net.train()
            optimizer = SGD(net.parameters(), lr=RATE, weight_decay=1e-4)
            seed = seed_for(0, round, client, "train/batches")
            for images, targets in ShuffledBatches(
                pixels, labels, batch_size=BATCH, steps=STEPS, seed=seed, indices=own
            ):
                loss = F.cross_entropy(net(images.float() / 255), targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            total += len(own)
            for name, tensor in net.state_dict().items():
                sums[name].add_(tensor.double(), alpha=len(own))
        model = {name: (tensor / total).to(model[name].dtype) for name, tensor in sums.items()}
        net.load_state_dict(model)
        net.eval()
        with torch.no_grad():
            (net(test_pixels).argmax(1) == test_labels).float().mean()
        seconds.append(time.perf_counter() - start)
    return seconds[1:-1], model


def figures(pairs: int, rounds: int = 12, threads: int = 1) -> list[Figure]:
    """Return our rounds per second over the loop's."""
    torch.set_num_threads(threads)
    logging.getLogger("mosaic").setLevel(logging.ERROR)
    data = FederatedDataModule(SklearnDigits(), DirichletPartition(num_clients=10, alpha=0.05), batch_size=BATCH)
    data.setup("fit")
    blueprint = data.blueprint(lambda shape, classes: SmallCNN(shape, classes, width=16))
    ratios, times = [], []
    for _ in range(pairs):
        with tempfile.TemporaryDirectory() as folder:
            run, theirs = ours(Path(folder) / "run", rounds, threads)
        plain, mine = loop(data, blueprint, rounds)
        assert all(torch.equal(mine[name], theirs[name]) for name in mine if mine[name].is_floating_point())
        times.append((statistics.median(run), statistics.median(plain)))
        ratios.append(times[-1][1] / times[-1][0])
    run, plain = (1000 * statistics.median(of) for of in zip(*times, strict=True))
    detail = f"a round {run:.0f} ms, of the loop {plain:.0f} ms"
    return [Figure("(b) FedAvg, rounds per second over a plain loop's", statistics.median(ratios), 0.75, False, detail)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    raise SystemExit(not show(figures(options.pairs, options.rounds, options.threads)))


if __name__ == "__main__":
    main()
