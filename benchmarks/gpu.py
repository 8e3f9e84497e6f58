"""What a GPU makes of it: steps and phases beside bare loops, clients side by side, one full round on CIFAR-10.

Steps are those of local training, with their images on the GPU: a bare loop, a phase, and a phase whose passes are CUDA
graphs, short and long, so that what a phase costs and what its steps cost stand apart. How long the GPU works for it
comes from PyTorch's profiler, in a run of its own. The round is Mosaic's with ten clients, ResNet-18, generators and a
student, all in one: local training, generators, gate, distillation. Reported are seconds per phase, images per second
of local training, and the share that these are of what a large matrix product reaches on the same device in the same
precision.

Needed are CIFAR-10 as two parquet files (columns ``image`` and ``label``) and the package as it is installed; where it
is not, besides torch, lightning, torchvision and torchmetrics also matplotlib, pyarrow, PyYAML, rich, safetensors and
tensorboard. The command line of the package is not used.

    PYTHONPATH=src python benchmarks/gpu.py --train train.parquet --test test.parquet [--precision bf16-mixed]
"""

import argparse
import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import generator_training
import phase_overhead
import teacher_forward
import torch
from measuring import Figure, in_turn, medians, ratio, show
from rich.console import Console
from rich.table import Table
from side_by_side import datasets, seconds_of_rounds
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.optim import SGD
from torch.utils.flop_counter import FlopCounterMode

import mosaic
from mosaic.algorithms import Mosaic
from mosaic.batches import ShuffledBatches
from mosaic.data import DirichletPartition, FederatedDataModule, ParquetSource
from mosaic.executors import SerialExecutor, SideBySideExecutor
from mosaic.federation.federation import Federation
from mosaic.federation.job import Job
from mosaic.federation.schedule import Schedule
from mosaic.generation import Adversarial
from mosaic.model_pool import ClientModels
from mosaic.nets import Classifier, ResNet18, SmallCNN
from mosaic.tasks.distillation import DistillationSettings
from mosaic.training.phases import PhaseRunner, many_phases

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


def working(run: partial[None]) -> float:
    """Return the seconds that the GPU spends in kernels, copies between machine and GPU left out."""
    gpu = torch.profiler.ProfilerActivity.CUDA
    with torch.profiler.profile(activities=[gpu] if torch.cuda.is_available() else None, acc_events=True) as profile:
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    on_gpu = [event for event in profile.events() if event.device_type == DeviceType.CUDA]
    kernels = [one for one in on_gpu if not one.is_user_annotation and not one.name.startswith("Memcpy")]
    return float(sum(kernel.time_range.elapsed_us() for kernel in kernels)) / 1e6


def steps_of_local_training(settings: dict[str, object], pairs: int, width: int, short: int, long: int) -> Table:
    """Return what a phase and its steps cost, batches of 64."""
    mixed = {**settings, "precision": "bf16-mixed"}
    cases: dict[str, tuple[Classifier, dict[str, object], bool]] = {
        "ResNet-18, bf16, channels last": (ResNet18(SHAPE, CLASSES, width=width), mixed, True),
        "SmallCNN of width 32, float32": (SmallCNN(SHAPE, CLASSES, width=32), settings, False),
    }
    table = Table("", "ms per step", "ms per phase besides", f"phase of {long} steps / bare loop", "the GPU works")
    for name, (net, trainer, last) in cases.items():
        plain, graphs = (PhaseRunner(trainer, channels_last=last, cuda_graphs=on) for on in (False, True))
        runs = {
            "bare loop": partial(phase_overhead.bare, phases=plain),
            "phase": partial(phase_overhead.phase, phases=plain),
            "phase, CUDA graphs": partial(phase_overhead.phase, phases=graphs),
        }
        images = torch.randint(256, (640, *SHAPE), dtype=torch.uint8, device=plain.device)
        labels = torch.randint(CLASSES, (640,), device=plain.device)
        lengths = {
            steps: ShuffledBatches(images, labels, batch_size=64, steps=steps, seed=0) for steps in (short, long)
        }
        for run in (*runs.values(), *runs.values()):
            run(net, lengths[short])
        seconds = {}
        for steps, batches in lengths.items():
            variants = {kind: partial(run, net, batches) for kind, run in runs.items()}
            seconds[steps] = in_turn(variants, pairs, inside=phase_overhead.around)
        for kind, run in runs.items():
            shorter, longer = (statistics.median(seconds[steps][kind]) for steps in (short, long))
            step = (longer - shorter) / (long - short)
            with many_phases():
                share = working(partial(run, net, lengths[short])) * long / short / longer
            over = ratio(seconds[long], kind, "bare loop")
            cells = (f"{1000 * step:.2f}", f"{1000 * (shorter - short * step):.0f}", f"{over:.2f}", f"{share:.0%}")
            table.add_row(f"{name}: {kind}", *cells)
    return table


def side_by_side(settings: dict[str, object], rounds: int, steps: int) -> list[Figure]:
    """Return how many times as fast ten small clients train in lockstep as one after another."""
    sets, net = datasets(10, SHAPE), partial(SmallCNN, width=32)
    schedule = mosaic.Schedule(collaborative_rounds=rounds, fine_tune_rounds=0, local_steps=steps)
    executors = {"one after another": SerialExecutor(), "side by side": SideBySideExecutor(clients_at_once=10)}
    found = []
    for graphs in (False, True):
        seconds = {
            name: seconds_of_rounds(executor, sets, schedule, net, 64, settings, time.perf_counter, graphs)
            for name, executor in executors.items()
        }
        over = ratio(seconds, "one after another", "side by side")
        name = f"(g) ten clients, SmallCNN of width 32, {steps} steps of 64 images: one after another over side by side"
        found.append(Figure(name + ", CUDA graphs" * graphs, over, 4.0, False, medians(seconds)))
    return found


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
    return float(counter.get_total_flops() / 2)


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
    parser.add_argument("--lengths", type=int, nargs=2, default=[20, 200], help="steps of a short and a long phase")
    options = parser.parse_args()
    settings: dict[str, object] = {"accelerator": options.accelerator, "devices": 1}
    plain = PhaseRunner(settings)
    console, device = Console(width=140), plain.device
    console.print(torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU")
    console.print(steps_of_local_training(settings, options.pairs, options.width, *options.lengths))
    show(side_by_side(settings, options.pairs + 1, options.lengths[0]))
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
