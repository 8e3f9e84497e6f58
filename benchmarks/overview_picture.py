"""Draw the picture of README.md: who holds what, what the generators draw, and accuracy over rounds.

    python benchmarks/overview_picture.py       # half a minute; writes docs/pictures/overview-light.png and -dark.png

Clients and generators are those of one run, `runs/overview`, which is made where it is not there. The curves are those
of the table in README.md: three seeds of `digits-0.05`, as benchmarks/results.py has recorded them, each method at its
own best rates.
"""

import json
from typing import NamedTuple

import numpy as np
import results
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import mosaic

RUN = results.ROOT / "runs" / "overview"
PICTURES = results.ROOT / "docs" / "pictures"
SETTING = "digits-0.05"
DRAWN = 10
"""Images of each generator."""


class Look(NamedTuple):
    """Colours on a page; ``none`` to ``many`` tint the cells of counts."""

    ink: str
    colours: tuple[str, str]
    none: str
    many: str
    on_many: str
    on_few: str


LOOKS = {
    "light": Look("#24292f", ("#d55e00", "#0072b2"), "#f6f8fa", "#0b4f8a", "#ffffff", "#1f2430"),
    "dark": Look("#c9d1d9", ("#f08a4b", "#58a6ff"), "#161b22", "#58a6ff", "#0d1117", "#c9d1d9"),
}


def finished_run() -> mosaic.Run:
    """Return the run, after running it where it is not there."""
    if (RUN / "summary.json").is_file():
        return mosaic.load(RUN)
    tuned = dict(choice.split("=") for choice in results.of_row(SETTING, results.MOSAIC)[0].request["tuned"])
    return mosaic.fit(results.ROOT / "configs" / "digits.yaml", {**tuned, "federation.run_dir": RUN})


def drawn_images(run: mosaic.Run) -> tuple[np.ndarray, np.ndarray]:
    """Return images per client and class, shape ``(N, 10)``, and drawn ones, shape ``(N, DRAWN, 8, 8)``."""
    counts = np.array(json.loads((RUN / "partition.json").read_text())["class_counts"])
    drawn = [run.sample(client, DRAWN).images.squeeze(1).numpy() for client in range(len(counts))]
    return counts, np.stack(drawn)


def draw_counts(axes: Axes, counts: np.ndarray, look: Look) -> None:
    tints = LinearSegmentedColormap.from_list("counts", [look.none, look.many])
    axes.imshow(np.sqrt(counts), cmap=tints, aspect="auto")
    for (client, label), count in np.ndenumerate(counts):
        if count:
            ink = look.on_many if count > counts.max() / 3 else look.on_few
            axes.text(label, client, str(count), ha="center", va="center", fontsize=8, color=ink)
    axes.set(xlabel="digit", ylabel="client", xticks=range(10), yticks=range(len(counts)))


def draw_images(axes: Axes, images: np.ndarray) -> None:
    clients, count, height, width = images.shape
    framed = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    sheet = framed.transpose(0, 2, 1, 3).reshape(clients * (height + 2), count * (width + 2))
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.axis("off")


def draw_accuracy(axes: Axes, look: Look) -> None:
    for row, name, colour in zip((results.MOSAIC, "fedavg"), ("Mosaic", "FedAvg"), look.colours, strict=True):
        runs = results.of_row(SETTING, row)
        curves = 100 * np.array([[each["test_accuracy"] for each in run.rounds] for run in runs])
        rounds, mean = np.arange(1, curves.shape[1] + 1), curves.mean(0)
        error = curves.std(0, ddof=1) / len(curves) ** 0.5
        axes.plot(rounds, mean, color=colour, marker="o" if row == results.MOSAIC else "s", markersize=4)
        axes.fill_between(rounds, mean - error, mean + error, color=colour, alpha=0.2, linewidth=0)
        above = 1.5 if row == results.MOSAIC else -9.5
        axes.text(
            rounds[-1], mean[-1] + above, f"{name} {mean[-1]:.1f}", color=colour, ha="right", weight="bold", fontsize=9
        )
    axes.set(xlabel="round", ylabel="test accuracy, %", ylim=(None, 104))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)


def overview(counts: np.ndarray, images: np.ndarray, look: Look) -> Figure:
    """Draw the three panels side by side."""
    figure = Figure(figsize=(11, 3.5), dpi=130, layout="constrained")
    panels = figure.subplots(1, 3, width_ratios=[1, 0.95, 1.15])
    titles = ("Who holds how many images", "What its generator draws", "The one model that they get")
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, loc="left", color=look.ink, weight="bold", fontsize=11)
    draw_counts(panels[0], counts, look)
    draw_images(panels[1], images)
    draw_accuracy(panels[2], look)
    for axes in panels:
        axes.set_facecolor("none")
        axes.xaxis.label.set_color(look.ink)
        axes.yaxis.label.set_color(look.ink)
        axes.tick_params(colors=look.ink, labelsize=8)
        for spine in axes.spines.values():
            spine.set_color(look.ink)
    return figure


def main() -> None:
    counts, images = drawn_images(finished_run())
    for name, look in LOOKS.items():
        overview(counts, images, look).savefig(PICTURES / f"overview-{name}.png", facecolor="none")


if __name__ == "__main__":
    main()
