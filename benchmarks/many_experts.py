"""What do a hundred experts take: one ResNet-18 for each of CIFAR-100's classes, averaged from ten clients' models?

In a fresh process: the clients' models arrive, class averages are formed, and the experts judge a few images. Reported
is the peak of resident memory above what the imports take (Linux only), against the 8 GB of a small GPU or laptop.

    python benchmarks/many_experts.py [--classes 100] [--clients 10] [--images 8]
"""

import argparse
from pathlib import Path

import torch
from memory import resident

from mosaic.messages import TrainReply
from mosaic.model_pool import ClientModels
from mosaic.nets import ResNet18
from mosaic.nets.blueprint import Blueprint
from mosaic.nets.teacher import ImageExperts
from mosaic.server.uploads import ClassMeans
from mosaic.teachers.answers import ask_teacher

BAR = 8 * 1000**3 / 2**20
"""MiB."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--images", type=int, default=8)
    options = parser.parse_args()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    blueprint = Blueprint(ResNet18, (3, 32, 32), options.classes, (0.5,) * 3, (0.5,) * 3)
    pool, sent = ClientModels().pool(blueprint, options.clients, seed=0), blueprint.initial(0)
    random = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 50, (options.clients, options.classes), generator=random)
    means = ClassMeans(pool, 1, sent)
    for client in range(options.clients):
        means.add(TrainReply(client, blueprint.initial(client), counts[client], {}, {}))
    experts = means.experts(epsilon=0.01)
    answers = ask_teacher(ImageExperts(experts.models), torch.rand(options.images, 3, 32, 32))
    peak = resident("VmHWM") - before
    print(f"{answers.shape[1]} experts: {peak:,.0f} MiB above the imports")
    print("holds" if peak <= BAR else "MISSED", f"(bar {BAR:,.0f} MiB)")
    raise SystemExit(peak > BAR)


if __name__ == "__main__":
    main()
