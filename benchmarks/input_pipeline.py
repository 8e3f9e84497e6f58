"""How fast are whole-batch crops and flips beside torchvision's, which go image by image?

The same random crop (padding 4) and horizontal flip of 32x32x3 uint8 images through ``mosaic.data.Augmentation`` and
through torchvision's transforms, old (v1) and new (v2), on tensors and on PIL images, in turn and in one process. Only
the augmentation is timed: decoding, conversion between PIL and tensors, and collation are left out of the other side,
which favours it. Reported are images per second, medians over the pairs, and the ratio of neighbours in time.

    python benchmarks/input_pipeline.py [--pairs 15] [--threads 1]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable

import torch
from rich.console import Console
from rich.table import Table
from torchvision import transforms as v1
from torchvision.transforms import v2
from torchvision.transforms.functional import to_pil_image

from mosaic.data import Augmentation

BAR = 5.0
OURS = "mosaic, whole batch"


def variants(batch: int) -> dict[str, Callable[[], object]]:
    """One call augments one batch."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, 32, 32), dtype=torch.uint8, generator=random)
    pictures = [to_pil_image(image) for image in images]
    augmentation = Augmentation(padding=4, flip=True)
    old = v1.Compose([v1.RandomCrop(32, padding=4), v1.RandomHorizontalFlip()])
    new = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()])

    def each(transform: Callable[[object], object], of: Iterable[object]) -> Callable[[], object]:
        return lambda: [transform(image) for image in of]

    return {
        OURS: lambda: augmentation(images, random),
        "torchvision v1, PIL": each(old, pictures),
        "torchvision v1, tensor": each(old, list(images)),
        "torchvision v2, PIL": each(new, pictures),
        "torchvision v2, tensor": each(new, list(images)),
    }


def measure(runs: dict[str, Callable[[], object]], pairs: int) -> dict[str, list[float]]:
    """Return seconds per batch of every variant in every pair."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for pair in range(-2, pairs):
        shift = pair % len(runs)
        for name in [*list(runs)[shift:], *list(runs)[:shift]]:
            start = time.perf_counter()
            repeats = 20 if name == OURS else 1
            for _ in range(repeats):
                runs[name]()
            if pair >= 0:  # the first two warm up
                seconds[name].append((time.perf_counter() - start) / repeats)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table("batch", "variant", "images per second", "mosaic is faster by", f"bar {BAR:.0f} x")
    missed = False
    for batch in (64, 320):
        seconds = measure(variants(batch), options.pairs)
        for name, times in seconds.items():
            speed = f"{batch / statistics.median(times):,.0f}"
            ratio = statistics.median(a / b for a, b in zip(times, seconds[OURS], strict=True))
            verdict = ("", "") if name == OURS else (f"{ratio:.1f} x", "holds" if ratio >= BAR else "MISSED")
            missed |= name != OURS and ratio < BAR
            table.add_row(str(batch), name, speed, *verdict)
        table.add_section()
    Console().print(table)
    raise SystemExit(missed)


if __name__ == "__main__":
    main()
