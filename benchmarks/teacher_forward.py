"""How fast does a teacher's mixture of experts judge images, beside a plain loop over its experts?

Ten and a hundred ResNet-18 for CIFAR images, asked through the teacher and in a loop as anybody would write it, in turn
and in one process; the answers must agree. The teacher is a loop too, so that the ratio is one but for the noise, of
which the bar allows 3 %. (Stacked with ``torch.func`` they took 1.3 to 3 times as long on CPUs, 1.8 on an H200.)
Not measured here: experts of classes that are spread alike over the clients are one expert, evaluated once, which a
loop over classes would not do.

    python benchmarks/teacher_forward.py [--experts 10 100] [--images 8] [--pairs 9] [--device cpu]
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import torch
from measuring import Figure, in_turn, medians, ratio, show
from torch import Tensor, nn

from mosaic.nets import ResNet18
from mosaic.nets.teacher import ImageExperts
from mosaic.teachers.answers import ask_teacher

NOISE = 0.03
"""By which two runs of the same loop may differ."""


@torch.no_grad()
def loop(experts: Sequence[nn.Module], images: Tensor) -> Tensor:
    """What anybody would write."""
    return torch.stack([expert(images) for expert in experts], dim=1)


def figures(pairs: int, counts: Sequence[int] = (10, 100), images: int = 8, device: str = "cpu") -> list[Figure]:
    """Return the loop's time over the teacher's."""
    found = []
    pixels = torch.rand(images, 3, 32, 32, device=device)
    for count in counts:
        experts = [ResNet18((3, 32, 32), 10).eval().requires_grad_(False).to(device) for _ in range(count)]
        teacher = ImageExperts(experts)
        variants = {
            "loop": partial(_answers, partial(loop, experts), pixels),
            "teacher": partial(_answers, partial(ask_teacher, teacher), pixels),
        }
        answers = [variant() for variant in variants.values()]
        assert torch.equal(answers[0], answers[1])
        seconds = in_turn(variants, pairs)
        name = f"(d) {count} experts (ResNet-18, {images} images), a loop's time over the teacher's"
        found.append(Figure(name, ratio(seconds, "loop", "teacher"), 1.0 - NOISE, False, medians(seconds)))
    return found


def _answers(ask: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
    return ask(pixels).cpu()  # waits for a GPU


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experts", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    raise SystemExit(not show(figures(options.pairs, options.experts, options.images, options.device)))


if __name__ == "__main__":
    main()
