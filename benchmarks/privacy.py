"""What a privacy budget costs, at several epsilons, and what the rules against copying images buy without one.

    python benchmarks/privacy.py run digits mnist        # what results/privacy/ lacks; half a minute to minutes a run
    python benchmarks/privacy.py run rules               # the same for results/privacy/rules/
    python benchmarks/privacy.py table                   # writes the tables of docs/privacy.md

Settings, such as shares, were chosen on images held out of the training split. Infinity draws no noise: it shows what
clipping and the method cost by themselves. Every run has noise of its own, and data, models and noise differ by seed.
"""

import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "privacy"
SEEDS = (0, 1, 2)
SUMS, SGD = "sums", "DP-SGD"
EPSILONS = {SUMS: ("10", "1", "3", "inf"), SGD: ("10",)}
Result = dict[str, Any]

os.environ["OMP_NUM_THREADS"] = "1"

IID = ["--config=configs/partitions/iid.yaml"]
MNIST = [
    "--config=configs/mnist.yaml",
    "--config=configs/data/mnist_npz.yaml",
    "--data.mean=[0.13]",
    "--data.std=[0.31]",
]
FASHION = [
    *("--config=configs/fashion_mnist.yaml", "--config=configs/data/fashion_mnist_npz.yaml"),
    *("--data.mean=[0.29]", "--data.std=[0.35]"),
]
DIGITS = ["--config=configs/digits.yaml", "--data.mean=[0.3]", "--data.std=[0.38]"]
DATA = {
    "digits": DIGITS,
    "mnist": [*MNIST, "--config=configs/data/mnist_part.yaml", *IID],
    "mnist-dirichlet": [*MNIST, "--config=configs/data/mnist_part.yaml"],
    "fashion": [*FASHION, "--config=configs/data/fashion_mnist_part.yaml", *IID],
    "mnist-60000": [*MNIST, *IID],
}
NAMES = {
    "digits": "digits, 10 clients, Dirichlet 0.05",
    "mnist": "MNIST, 10 x 1,000, IID",
    "mnist-dirichlet": "MNIST, 10 clients, 10,000 images, Dirichlet 0.1",
    "fashion": "Fashion-MNIST, 10 x 1,000, IID",
    "mnist-60000": "MNIST, 10 x 6,000, IID",
}
METHODS = {
    SUMS: [
        *("--federation.schedule.collaborative_rounds=1", "--federation.schedule.fine_tune_rounds=0"),
        *("--algorithm.distillation.noise=0", "--data.validation_share=0"),
    ],
    SGD: [
        *("--algorithm=mosaic.algorithms.FedAvg", "--model.net.norm=group", "--data.validation_share=0"),
        *("--privacy.local_training=dp_sgd", "--privacy.shares={counts: 0, means: 0, moments: 0, training: 1}"),
        *("--federation.schedule.collaborative_rounds=20", "--federation.schedule.fine_tune_rounds=0"),
        *(
            "--federation.schedule.local_steps=5",
            "--federation.schedule.learning_rate=0.5",
            "--privacy.sampling_rate=0.1",
        ),
    ],
}
RULES = {
    "as configured": [],
    "no rule: 2 images per mean and direction, no diagonal": [
        *("--algorithm.generation.images_per_class=2", "--algorithm.generation.images_per_component=2"),
        "--algorithm.generation.diagonal_share=0",
    ],
    "5 images per direction": ["--algorithm.generation.images_per_component=5"],
    "20 images per direction": ["--algorithm.generation.images_per_component=20"],
    "means of 20 images": ["--algorithm.generation.images_per_class=20"],
    "prototypes of 1 image": ["--algorithm.prototypes.min_count=1"],
    "prototypes of 10 images": ["--algorithm.prototypes.min_count=10"],
    "prototypes of 20 images": ["--algorithm.prototypes.min_count=20"],
    "a GAN": ["--algorithm.generation=mosaic.generation.Adversarial", "--algorithm.generation.steps=600"],
}
"""Changes of configs/digits.yaml."""
SIZES = ((0, 60), (61, 130), (131, sys.maxsize))
"""Fewest and most images of a client, for each figure of a cell."""


def cases(chosen: list[str]) -> Iterator[tuple[str, str, str, int]]:
    """Yield data, method, epsilon and seed; released sums first, and one seed of everything before the next."""
    for method in METHODS:
        for data in chosen:
            yield from ((data, method, epsilon, seed) for seed in SEEDS for epsilon in EPSILONS[method])


def fit_and_audit(flags: list[str], seed: int) -> tuple[Result, list[Result], float]:
    """Return a run's summary, the findings about it, and the seconds that it took."""
    from mosaic.cli.main import main

    os.chdir(ROOT)
    with tempfile.TemporaryDirectory(prefix="mosaic-privacy-") as folder:
        place, begun = Path(folder) / "run", time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
            try:
                main(
                    ["fit", *flags, f"--seed_everything={seed}", f"--data.seed={seed}", f"--federation.run_dir={place}"]
                )
                seconds = time.perf_counter() - begun
                main(["audit", str(place)])
            except SystemExit as left:
                raise RuntimeError(f"{flags}, seed {seed}: code {left.code}: {said.getvalue()[-1000:]}") from left
        told = json.loads((place / "summary.json").read_text())
        return told, json.loads((place / "audit.json").read_text())["findings"], seconds


def run(data: str, method: str, epsilon: str, seed: int) -> Result:
    """Run and audit once with a budget, and return the figures."""
    budget = f"--privacy.epsilon={'.inf' if epsilon == 'inf' else epsilon}"
    told, found, seconds = fit_and_audit([*DATA[data], *METHODS[method], budget], seed)
    return {
        **{"data": data, "method": method, "epsilon": epsilon, "seed": seed},
        "test_accuracy": told["test_accuracy"],
        "spent": told["privacy"]["spent"]["epsilon"],
        "auc": statistics.mean(each["auc"] for each in found),
        "auc_largest": max(each["auc"] for each in found),
        "null_auc": statistics.mean(each["null_auc"] for each in found),
        "seconds": round(seconds, 1),
    }


def run_rule(rule: str, seed: int) -> Result:
    """Run and audit configs/digits.yaml once with a rule, and return what was found."""
    told, found, _ = fit_and_audit(["--config=configs/digits.yaml", *RULES[rule]], seed)
    return {"rule": rule, "seed": seed, "test_accuracy": told["test_accuracy"], "findings": found}


def run_all(chosen: list[str]) -> None:
    """Run what is missing, and write a file after every run."""
    jobs: dict[Path, Callable[[], Result]] = {}
    if "rules" in chosen:
        for number, rule in enumerate(RULES):
            jobs |= {RESULTS / "rules" / f"{number}_{seed}.json": partial(run_rule, rule, seed) for seed in SEEDS[:2]}
    for data, method, epsilon, seed in cases([name for name in chosen if name != "rules"]):
        name = f"{data}_{method.lower().replace('-', '_')}_{epsilon}_{seed}.json"
        jobs[RESULTS / name] = partial(run, data, method, epsilon, seed)
    for file, job in jobs.items():
        if not file.is_file():
            found = job()
            print({key: value for key, value in found.items() if key != "findings"}, flush=True)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{json.dumps(found, indent=2)}\n")


def rules_lines() -> tuple[list[str], list[list[str]]]:
    """Return a line for each rule: mean areas under the curve of attacks by size of the client, and what it costs."""
    from mosaic.audit.finding import GENERATOR, PROTOTYPES, SEARCH

    attacks = {"draws": GENERATOR, "search": SEARCH, "prototypes": PROTOTYPES}
    every: list[Result] = [json.loads(file.read_text()) for file in sorted((RESULTS / "rules").glob("*.json"))]
    lines = []
    for rule in RULES:
        runs = [each for each in every if each["rule"] == rule]
        found = [(_images_of(each["client"], one), each) for one in runs for each in one["findings"]]
        cells = []
        for attack in attacks.values():
            about = [(images, each["auc"]) for images, each in found if each["attack"] == attack]
            of_size = ([auc for images, auc in about if low <= images <= high] for low, high in SIZES)
            cells.append(" / ".join(f"{statistics.mean(aucs):.2f}" if aucs else "-" for aucs in of_size))
        if runs:
            lines.append([rule, *cells, f"{100 * statistics.mean(each['test_accuracy'] for each in runs):.2f}"])
    return ["rule", *attacks, "test accuracy, %"], lines


def _images_of(client: int, result: Result) -> int:
    """Return how many of a client's images were attacked; an attack on prototypes leaves out rare classes."""
    return max(int(each["members"]) for each in result["findings"] if each["client"] == client)


def write_table() -> None:
    """Write the tables: a line for each kind of data, method and epsilon, and one for each rule."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from tables import mean_and_error, replace_blocks, table

    found: list[Result] = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))]
    lines = []
    for data, name in NAMES.items():
        for method in METHODS:
            for epsilon in sorted(EPSILONS[method], key=float, reverse=True):
                runs = [
                    each for each in found if (each["data"], each["method"], each["epsilon"]) == (data, method, epsilon)
                ]
                if runs:
                    auc, null = (statistics.mean(each[key] for each in runs) for key in ("auc", "null_auc"))
                    cells = [mean_and_error([each["test_accuracy"] for each in runs]), f"{auc:.2f}", f"{null:.2f}"]
                    lines.append([name, method, epsilon, str(len(runs)), *cells])
    head = ["data", "what clients say", "epsilon", "runs", "test accuracy, %", "AUC of the attack", "null"]
    blocks = {"privacy budget": table(head, lines), "privacy rules": table(*rules_lines())}
    replace_blocks(ROOT / "docs" / "privacy.md", blocks)


if __name__ == "__main__":
    write_table() if sys.argv[1] == "table" else run_all(sys.argv[2:])
