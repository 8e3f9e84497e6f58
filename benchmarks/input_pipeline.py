"""How fast are whole-batch crops and flips beside torchvision's, which go image by image?

The same random crop (padding 4) and horizontal flip of 32x32x3 uint8 images through ``mosaic.data.Augmentation`` and
through torchvision's transforms, old (v1) and new (v2), on tensors and on PIL images, in turn and in one process. Only
the augmentation is timed: decoding, conversion between PIL and tensors, and collation are left out of the other side,
which favours it. Reported is the ratio of neighbours in time, that of the fastest of torchvision's.

    python benchmarks/input_pipeline.py [--pairs 15] [--threads 1]
"""

import argparse
from collections.abc import Callable, Iterable

import torch
from measuring import Figure, in_turn, medians, ratio, show
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


def figures(pairs: int) -> list[Figure]:
    """Return the time of the fastest per-image transform over ours, for a small and a large batch."""
    found = []
    for batch in (64, 320):
        runs = variants(batch)
        in_turn(runs, pairs=2)  # warms up
        seconds = in_turn(runs, pairs, repeats=10)
        lowest = min(ratio(seconds, name, OURS) for name in runs if name != OURS)
        name = f"(f) crop and flip of {batch} images, the fastest of torchvision's over ours"
        found.append(Figure(name, lowest, BAR, False, medians(seconds)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    raise SystemExit(not show(figures(options.pairs)))


if __name__ == "__main__":
    main()
