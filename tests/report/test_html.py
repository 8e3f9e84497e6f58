"""The page about a run: self-contained, complete, and sensible for runs of every kind."""

import io
import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from mosaic.cli.main import main
from mosaic.errors import MosaicError
from mosaic.report.chart import line_chart, nice_ticks
from mosaic.report.contents import _read_pictures, read_run
from mosaic.report.html import report
from mosaic.report.summary import print_summary
from tests.cases import for_each
from tests.small_runs import FOUR_ROUNDS, REPOSITORY, TWO_ROUNDS, SharedRuns, tiny_fit


class Outline(HTMLParser):
    """What is on a page: headings, pictures, whatever it would load, and whether its tags are closed in order."""

    VOID = frozenset({"meta", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.pictures: list[str] = []
        self.loads: list[str] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        facts = dict(attributes)
        if tag == "img":
            self.pictures.append(facts["alt"] or "")
        self.loads += [value for key, value in attributes if key in ("src", "href") and value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Elements of a drawing that close themselves."""

    def handle_data(self, data: str) -> None:
        self.words += f" {data}"
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


@pytest.fixture(scope="session")
def run(shared_run: SharedRuns) -> Path:
    return shared_run("Mosaic", *FOUR_ROUNDS)


def outline_of(run: Path, output: Path) -> Outline:
    page = report(run, output).read_text()
    found = Outline(page)
    assert found.open == []
    assert all(address.startswith("data:image/png;base64,") for address in found.loads), "nothing comes from elsewhere"
    assert not re.search(r"@import|url\(|<script|<link", page)
    return found


def test_pictures_are_those_of_the_latest_round_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Event files are named by the clock, which may have been set back before a resume."""
    pixels = {round: np.full((4, 4, 3), 60 * round, np.uint8) for round in (1, 2)}
    for round, now in ((2, 1000.0), (1, 4600.0)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        with SummaryWriter(str(tmp_path)) as writer:
            writer.add_image("server/x", pixels[round], round, dataformats="HWC")
    assert len(names := sorted(file.name for file in tmp_path.glob("events.*"))) == 2
    assert "1000" in names[0], "the older one holds the later round"
    shown = Image.open(io.BytesIO(_read_pictures(tmp_path)["server/x"]))
    assert np.array_equal(np.asarray(shown), pixels[2])


def test_a_run_is_told_from_end_to_end(run: Path, tmp_path: Path) -> None:
    page = outline_of(run, tmp_path / "page.html")
    assert page.headings == [
        *("Mosaic", "Accuracy over rounds", "What each stage reaches", "Who holds what", "Generators"),
        *("Who speaks for which class", "Confusion", "What it took", "Configuration", "Environment"),
    ]
    assert [f"client {client}" for client in range(4)] == [name for name in page.pictures if name.startswith("client")]
    summary = read_run(run).summary
    assert f"{100 * summary['test_accuracy']:.2f} %" in page.words
    assert f"{100 * summary['stages']['gated teacher']:.2f} %" in page.words
    assert "class_path: mosaic.algorithms.Mosaic" in page.words


@pytest.mark.parametrize(("attempts", "shown"), [(["1.0"] * 4, False), (["1.0", "2.0", "1.0", "1.0"], True)])
def test_a_generator_that_was_trained_again_is_told(
    run: Path, tmp_path: Path, attempts: list[str], shown: bool
) -> None:
    """On the page and in the closing table, and only where there is one."""
    shutil.copytree(run, tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    for facts, count in zip(summary["generators"], attempts, strict=True):
        facts["attempts"] = float(count)
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary))
    closing = io.StringIO()
    print_summary(tmp_path / "run", Console(file=closing, width=200))
    words = squeezed(outline_of(tmp_path / "run", tmp_path / "page.html"))
    assert ("nearest neighbour attempts" in words) == ("trained once more" in words) == shown
    assert ("trained once more" in closing.getvalue()) == ("attempts" in closing.getvalue()) == shown
    rows = [line.split("│")[-2].strip() for line in closing.getvalue().splitlines() if line.count("│") == 7]
    assert rows == (["1", "2", "1", "1"] if shown else [])


def test_a_run_without_generators_leaves_their_parts_out(shared_run: SharedRuns, tmp_path: Path) -> None:
    page = outline_of(shared_run("FedAvg", *TWO_ROUNDS), tmp_path / "page.html")
    assert page.headings[0] == "FedAvg"
    assert not {"Generators", "What each stage reaches", "Who speaks for which class"} & set(page.headings)
    assert {"Accuracy over rounds", "Confusion", "What it took"} <= set(page.headings)


@pytest.mark.parametrize("algorithm", [pytest.param("dense", marks=pytest.mark.slow), "fedftg"])
def test_images_that_a_server_has_made_are_shown_too(algorithm: str, tmp_path: Path) -> None:
    """The round in which it distilled is marked; a model that is not tuned afterwards is not called so."""
    preset = f"--config={REPOSITORY / 'configs' / 'algorithms' / algorithm}.yaml"
    small = ["--algorithm.student_updates=2", "--algorithm.generator_updates=30"]
    arguments = [argument for argument in tiny_fit(tmp_path / "run") if not argument.startswith("--algorithm")]
    main([*arguments, preset, *small])
    page = outline_of(tmp_path / "run", tmp_path / "page.html")
    assert "Generators" in page.headings
    assert "made on the server" in page.pictures
    assert "Dashed lines mark the rounds" in page.words
    assert "after fine-tuning" not in page.words


def test_a_run_without_a_test_split_or_a_global_model_shows_what_there_is(run: Path, tmp_path: Path) -> None:
    record = read_run(run)
    shutil.copytree(run, tmp_path / "run")
    summary = (run / "summary.json").read_text()
    figure = f'"test_accuracy": {record.summary["test_accuracy"]!r}'
    assert figure in summary
    (tmp_path / "run" / "summary.json").write_text(summary.replace(figure, '"test_accuracy": null'))
    page = squeezed(outline_of(tmp_path / "run", tmp_path / "a.html"))
    assert "test accuracy of the global model" not in page
    assert "% on the clients' validation images" in page
    own = '"test_accuracy": null, "own_test_accuracy": 0.4321'
    text = re.sub(r'"own_test_accuracy": null,?', "", summary).replace(figure, own)
    (tmp_path / "run" / "summary.json").write_text(text)
    assert "43.21 % test accuracy of the clients' own" in squeezed(outline_of(tmp_path / "run", tmp_path / "b.html"))


def squeezed(page: Outline) -> str:
    return " ".join(page.words.split())


def test_an_unfinished_run_says_so(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    page = outline_of(tmp_path / "run", tmp_path / "page.html")
    assert "This run has not come to an end." in page.words
    (tmp_path / "run" / "metrics.csv").unlink()
    assert "No round has been finished." in outline_of(tmp_path / "run", tmp_path / "page.html").words
    (tmp_path / "run" / "environment.json").unlink()
    assert "No round has been finished." in outline_of(tmp_path / "run", tmp_path / "page.html").words


def test_names_from_the_run_are_text_and_not_markup(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "<b>run & co"
    shutil.copytree(run, folder)
    page = report(folder, tmp_path / "page.html").read_text()
    assert "<b>run" not in page
    assert "&lt;b&gt;run &amp; co" in page


def test_the_command_replaces_its_own_report_and_nothing_else(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = shutil.copytree(run, tmp_path / "run")
    for _ in range(2):
        main(["report", str(own)])
        assert capsys.readouterr().out == f"Report: {own / 'report.html'}\n"
    mine = tmp_path / "mine.html"
    mine.write_text("<p>mine</p>")
    with pytest.raises(SystemExit) as stop:
        main(["report", str(own), "--output", str(mine)])
    assert stop.value.code == 2
    assert "exists and is no report of mosaic: choose another --output" in capsys.readouterr().err
    assert mine.read_text() == "<p>mine</p>"


@pytest.mark.parametrize("name", ["environment.json", "summary.json", "audit.json"])
@pytest.mark.parametrize("text", ['{"python"', "[1]", "null", ""])
def test_damaged_facts_are_one_line(run: Path, tmp_path: Path, name: str, text: str) -> None:
    damaged = tmp_path / "run"
    shutil.copytree(run, damaged)
    (damaged / name).write_text(text)
    with pytest.raises(MosaicError, match=rf"{name} is damaged \(.*\): restore it from a copy"):
        report(damaged)


def test_a_table_that_has_lost_rounds_is_refused(run: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "run"
    shutil.copytree(run, damaged)
    lines = (damaged / "metrics.csv").read_text().splitlines(keepends=True)
    (damaged / "metrics.csv").write_text("".join(lines[:-1]))
    with pytest.raises(MosaicError, match=r"metrics\.csv holds \d+ rounds where .*summary\.json counts \d+"):
        report(damaged)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MosaicError, match=r"holds no run \(config\.yaml is missing\)"):
        report(tmp_path)


@for_each(("low", "high"), [(0, 1), (12, 97), (-3, 1e6), (0.0012, 0.0019), (5, 5), (0, 0), (0.1, 0.3)])
def test_ticks_are_few_round_and_enclose_the_curve(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= low
    assert ticks[-1] >= high
    steps = {round(b - a, 9) for a, b in pairwise(ticks)}
    assert len(steps) == 1
    assert f"{steps.pop():e}"[0] in "125"


@for_each(("low", "high"), [(2.0, 2.0 + 1e-12), (1e-12, 3e-12), (97.999999, 98.0), (1e9, 1e9 + 1), (-1e-12, 1e-12)])
def test_ticks_of_nearly_equal_and_of_tiny_values_can_be_told_apart(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert len({f"{tick:g}" for tick in ticks}) == len(ticks) >= 2
    assert "<polyline" in line_chart({"a": [(1, low), (2, high)]}, "nats")


@for_each("lowest", [100.0, 99.97, 12.0])
def test_an_axis_of_per_cent_ends_at_a_hundred(lowest: float) -> None:
    svg = line_chart({"a": [(1, lowest), (2, 100.0)]}, "accuracy, %")
    ticks = [float(tick) for tick in re.findall(r'text-anchor="end">([\d.]+)<', svg)]
    assert ticks[0] < 100 == ticks[-1]
    assert "100.2" in line_chart({"a": [(1, 100.0)]}, "MiB"), "which no other unit does"


def test_only_rounds_that_there_were_have_a_tick() -> None:
    for last, ticks in ((1, ["1"]), (3, ["1", "2", "3"])):
        svg = line_chart({"a": [(round, 1.0) for round in range(1, last + 1)]}, "nats")
        assert re.findall(r'text-anchor="middle">(\d+)<', svg) == ticks


def test_a_mark_before_the_first_point_is_inside_too() -> None:
    svg = line_chart({"a": [(100, 1.0), (110, 2.0)]}, "%", marked=[10])
    (mark,) = re.findall(r'class="mark" x1="([-\d.]+)"', svg)
    (first, *_) = re.findall(r'points="([-\d.]+),', svg)
    assert 0 < float(mark) < float(first)


def test_a_chart_keeps_its_points_inside_and_in_order() -> None:
    svg = line_chart({"a": [(1, 10.0), (2, 90.0), (3, 50.0)], "b": []}, "%", marked=[2], width=500)
    (points,) = re.findall(r'points="([^"]+)"', svg)
    places = [tuple(map(float, point.split(","))) for point in points.split()]
    assert all(0 <= x <= 500 and 0 <= y <= 260 for x, y in places)
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    lowest, highest, middle = (y for _, y in places)
    assert highest < middle < lowest, "upwards is towards zero"
    assert svg.count('class="mark"') == 1
    assert line_chart({"b": []}, "%") == ""
