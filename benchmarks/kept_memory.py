"""What does it gain that freed memory stays with the process (mosaic/allocator.py)?

Each measurement is a process of its own, for glibc cannot be asked to forget; the two take turns.

    python benchmarks/kept_memory.py [--pairs 3]
"""

import argparse
import statistics
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

CASES = {
    "a generator of 28x28 images, batch 32, 60 steps": "generator",
    "ResNet-18, batch 64, 2 steps": "resnet18",
    "digits CNN, batch 32, 100 steps": "digits",
}


def measure(case: str, keep: bool) -> float:
    """Return the seconds of one phase, the best of three, in a fresh process."""
    command = [sys.executable, __file__, "--measure", case, *(["--keep"] if keep else [])]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def seconds(case: str) -> float:
    """Return the same, in this process."""
    import torch
    from phase_overhead import cross_entropy

    from mosaic.batches import ShuffledBatches
    from mosaic.nets import ResNet18, SmallCNN
    from mosaic.nets.inference import to_pixels
    from mosaic.phases import PhaseRunner
    from mosaic.tasks.base import Task
    from mosaic.tasks.classification import ClassificationTask
    from mosaic.tasks.generation import GenerationSettings, GenerationTask

    torch.set_num_threads(1)
    net, batch, steps = {
        "generator": (SmallCNN((1, 28, 28), 10), 32, 60),
        "resnet18": (ResNet18((3, 32, 32), 10), 64, 2),
        "digits": (SmallCNN((1, 8, 8), 10), 32, 100),
    }[case]
    images, labels = torch.randint(256, (640, *net.image_shape), dtype=torch.uint8), torch.randint(10, (640,))
    phases, times = PhaseRunner({"accelerator": "cpu", "devices": 1}), []
    for _ in range(4):
        task: Task
        if case == "generator":
            task = GenerationTask(GenerationSettings(), net, torch.full((10,), 0.1), num_images=640, seed=0)
        else:
            task = ClassificationTask(
                net, cross_entropy, lambda weights: torch.optim.SGD(weights, lr=0.01), 0.01, view=to_pixels
            )
        batches = ShuffledBatches(images, labels, batch_size=batch, steps=steps, seed=0)
        start = time.perf_counter()
        phases.run(task, batches, seed=0)
        times.append(time.perf_counter() - start)
    return min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--measure", choices=CASES.values())
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    if options.measure:
        if options.keep:
            from mosaic.allocator import keep_freed_memory

            assert keep_freed_memory(), "not glibc, or MALLOC_ variables are set"
        print(seconds(options.measure))
        return
    table = Table("", "given back, ms", "kept, ms", "ratio")
    for name, case in CASES.items():
        pairs = [(measure(case, False), measure(case, True)) for _ in range(options.pairs)]
        given, kept = (1000 * statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(after / before for before, after in pairs)
        table.add_row(name, f"{given:.0f}", f"{kept:.0f}", f"{ratio:.2f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
