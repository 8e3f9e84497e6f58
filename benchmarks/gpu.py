"""What a GPU makes of it: phases, experts and generators beside bare loops, and one full round on CIFAR-10.

The round is Mosaic's with ten clients, ResNet-18, generators and a student, all in one: local training, generators,
gate, distillation. Reported are seconds per phase, images per second of local training, and the share that these are of
what a large matrix product reaches on the same device in the same precision.

Needed are CIFAR-10 as two parquet files (columns ``image`` and ``label``) and the package as it is installed; where it
is not, besides torch, lightning, torchvision and torchmetrics also matplotlib, pyarrow, PyYAML, rich, safetensors and
tensorboard. The command line of the package is not used.

    PYTHONPATH=src python benchmarks/gpu.py --train train.parquet --test test.parquet [--precision bf16-mixed]
"""

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path

import generator_training
import phase_overhead
import teacher_forward
import torch
from measuring import Figure, medians, ratio, show
from rich.console import Console
from rich.table import Table
from torch.optim import SGD
from torch.utils.flop_counter import FlopCounterMode

from mosaic.algorithms import Mosaic
from mosaic.data import DirichletPartition, FederatedDataModule, ParquetSource
from mosaic.executors import SerialExecutor
from mosaic.federation.federation import Federation
from mosaic.federation.job import Job
from mosaic.federation.schedule import Schedule
from mosaic.generation import Adversarial
from mosaic.model_pool import ClientModels
from mosaic.nets import ResNet18
from mosaic.tasks.distillation import DistillationSettings
from mosaic.training.phases import PhaseRunner

SHAPE, CLASSES = (3, 32, 32), 10


def ratios(phases: PhaseRunner, pairs: int, steps: int, experts: int, width: int) -> list[Figure]:
    """Return figures (a), (d) and (e) of ``make bench`` on this device."""
    seconds = phase_overhead.measure(ResNet18(SHAPE, CLASSES, width=width), 64, steps, pairs, phases)
    over = ratio(seconds, "phase", "bare")
    found = [Figure(f"(a) a phase of {steps} steps, ResNet-18, over a bare loop", over, 1.03, True, medians(seconds))]
    found += teacher_forward.figures(
        pairs, [min(10, experts), experts], 512 if phases.device.type != "cpu" else 8, str(phases.device)
    )
    settings, guide = Adversarial(width=width, batch_size=64), ResNet18(SHAPE, CLASSES, width=width)
    return found + generator_training.figures(pairs, generator_training.case_of(SHAPE, guide, settings, steps, phases))


def matrix_product_flops(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Return floating-point operations per second of a large matrix product."""
    one = torch.randn(size, size, device=device, dtype=dtype)
    for _ in range(3):
        one @ one
    times = []
    for _ in range(5):
        start = time.perf_counter()
        (one @ one).sum().item()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def flops_per_image(net: torch.nn.Module) -> float:
    """Return operations of one training step for one image, forwards and backwards."""
    with FlopCounterMode(display=False) as counter:
        net(torch.rand(2, *SHAPE)).sum().backward()
    return counter.get_total_flops() / 2


def full_round(options: argparse.Namespace, phases: PhaseRunner) -> dict[str, float]:
    """Run one round and return seconds by phase."""
    source = ParquetSource(train=str(options.train), test=str(options.test))
    data = FederatedDataModule(source, DirichletPartition(num_clients=options.clients, alpha=0.1), batch_size=64)
    data.setup("fit")
    blueprint = data.blueprint(partial(ResNet18, width=options.width))
    generation = Adversarial(steps=options.steps, width=options.width, batch_size=64)
    distillation = DistillationSettings(steps=options.steps, batch_size=320, pool_size=2048)
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            algorithm=Mosaic(generation=generation, distillation=distillation),
            executor=SerialExecutor(),
            data=data,
            pool=ClientModels().pool(blueprint, data.num_clients, seed=0),
            optimizer=partial(SGD, lr=0.01, weight_decay=1e-4),
            phases=phases,
            seed=0,
            config={},
        )
        schedule = Schedule(collaborative_rounds=1, local_steps=options.steps, fine_tune_rounds=0)
        run = Federation(f"{folder}/run", schedule).run(job)
        summary = json.loads((run / "summary.json").read_text())
    if phases.device.type == "cuda":
        print(f"peak memory of the device: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    seconds: dict[str, float] = summary["seconds"]
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--accelerator", default="gpu")
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--experts", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--width", type=int, default=64, help="channels of networks and generators")
    options = parser.parse_args()
    settings = {"accelerator": options.accelerator, "devices": 1}
    plain = PhaseRunner(settings)
    console, device = Console(width=140), plain.device
    console.print(torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU")
    show(ratios(plain, options.pairs, options.steps, options.experts, options.width))
    mixed = PhaseRunner({**settings, "precision": options.precision}, channels_last=device.type == "cuda")
    seconds = full_round(options, mixed)
    table = Table("one round, phase", "seconds")
    for phase, taken in seconds.items():
        table.add_row(phase, f"{taken:.2f}")
    console.print(table)
    speed = options.clients * options.steps * 64 / seconds["local training"]
    dtype = torch.bfloat16 if "bf16" in options.precision else torch.float32
    peak = matrix_product_flops(device, dtype, 8192 if device.type == "cuda" else 512)
    share = speed * flops_per_image(ResNet18(SHAPE, CLASSES, width=options.width)) / peak
    console.print(
        f"local training: {speed:,.0f} images per second, {share:.1%} of a matrix product's {peak / 1e12:.1f} TFLOP/s"
    )


if __name__ == "__main__":
    main()
