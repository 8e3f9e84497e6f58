"""Figures over seeds, and what they are worth."""

import csv
import io
import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mosaic.comparison.budget import DistillationBudget
from mosaic.comparison.formats import comma_separated, latex, markdown
from mosaic.comparison.outcome import Failure, Outcome
from mosaic.comparison.table import Figure, Row, Table, comparison_table, paired_p_value
from mosaic.comparison.writing import accuracy_bands
from mosaic.errors import MosaicError


def outcome(algorithm: str, seed: int, last: float | None, rounds: Any = (), **summary: Any) -> Outcome:
    measured = [
        {"round": i + 1.0, "test_accuracy": test, "validation_accuracy": seen, "bytes": 0.0}
        for i, (test, seen) in enumerate(rounds or [(last, 0.5)])
    ]
    students = {"offered": 0, "accepted": 0}
    facts = {"test_accuracy": last, "stages": {}, "distilled": False, "students": students, "updates": {"local": 10}}
    sums = {"bytes_up": 2**20, "bytes_down": 2**21, "seconds": 3.0}
    return Outcome(algorithm, seed, {}, "0", "2026-01-01", "here", measured, {**facts, **sums, **summary})


def cell(table: Table, algorithm: str, column: str) -> str:
    row = next(row for row in table.rows if row.algorithm == algorithm)
    return str(row.cells[table.columns.index(column) - 1])


def test_mean_and_standard_deviation_over_seeds() -> None:
    table = comparison_table([outcome("a", 0, 0.9), outcome("a", 1, 0.8), outcome("b", 0, 0.7)])
    assert cell(table, "a", "test accuracy") == f"85.00 ± {statistics.stdev([90, 80]):.2f}"
    assert cell(table, "b", "test accuracy") == "70.00"
    assert (cell(table, "a", "seeds"), cell(table, "b", "seeds")) == ("2", "1")
    assert (cell(table, "a", "MiB up"), cell(table, "a", "MiB down"), cell(table, "a", "seconds")) == (
        "1.0",
        "2.0",
        "3",
    )


def test_the_validated_best_round_is_chosen_without_the_test_split() -> None:
    rounds = [(0.5, 0.6), (0.7, 0.9), (0.99, 0.8), (0.2, 0.9)]
    assert cell(comparison_table([outcome("a", 0, 0.2, rounds)]), "a", "validated best") == "70.00"


def test_rounds_without_validation_are_not_chosen() -> None:
    rounds = [(0.5, None), (0.7, 0.1), (0.9, None)]
    assert cell(comparison_table([outcome("a", 0, 0.9, rounds)]), "a", "validated best") == "70.00"


@pytest.mark.parametrize("tuned", [[], ["federation.schedule.participation=0.5"]], ids=str)
def test_rounds_with_different_judges_are_not_compared(tuned: list[str]) -> None:
    """Each round's model is judged by who takes part in the next one: the best would be that of the easiest clients."""
    whole = outcome("a", 0, 0.45, [(0.35, 0.97), (0.45, 0.94)])
    share = {} if tuned else {"federation": {"schedule": {"participation": 0.5}}}
    some = replace(whole, request={"config": share, "tuned": tuned})
    missed = replace(whole, summary={**whole.summary, "missing": 1})
    narrow = replace(whole, request={"config": {"clients": {"levels": [1.0, 0.5], "models": None}}})
    alike, unable = (
        replace(whole, request={"config": {"clients": clients}})
        for clients in ({"levels": None}, {"levels": [1.0, 0.5], "evaluate_whole": False})
    )
    assert [each.chosen for each in (whole, alike, unable)] == [0.35] * 3
    chosen = replace(alike, request={**alike.request, "tuned": ["clients.rho=0.5"]})
    assert [each.chosen for each in (some, missed, narrow, chosen)] == [None] * 4
    assert cell(comparison_table([some]), "a", "validated best") == "-"


def test_who_has_no_global_model_gets_a_dash_and_a_column_of_its_own() -> None:
    table = comparison_table([outcome("a", 0, 0.9), outcome("local", 0, None, own_test_accuracy=0.4)])
    assert cell(table, "local", "test accuracy") == cell(table, "a", "clients' own models") == "-"
    assert cell(table, "local", "clients' own models") == "40.00"
    assert "clients' own models" not in comparison_table([outcome("a", 0, 0.9)]).columns


def test_a_difference_is_tested_from_five_seeds_on_and_over_common_ones() -> None:
    ours, theirs = [0.91, 0.92, 0.95, 0.90, 0.93], [0.90, 0.90, 0.92, 0.89, 0.93]
    results = [outcome("a", seed, share) for seed, share in enumerate(ours)]
    others = [outcome("b", seed, share) for seed, share in enumerate(theirs)]
    table = comparison_table([*results, *others, outcome("b", 77, 0.1)])
    differences = [100 * (b - a) for a, b in zip(ours, theirs, strict=True)]
    t = statistics.fmean(differences) / (statistics.stdev(differences) / math.sqrt(5))
    assert float(cell(table, "b", "p")) == pytest.approx(two_sided_with_four_degrees(t), rel=0.01)
    assert cell(table, "a", "p") == "-"
    assert cell(comparison_table([*results[:4], *others[:4]]), "b", "p") == "-"


def two_sided_with_four_degrees(t: float) -> float:
    """Student's distribution with four degrees of freedom has a closed form."""
    x = t / math.sqrt(4 + t * t)
    return 1 - abs(1.5 * x - 0.5 * x**3)


def test_pairs_count_and_not_groups() -> None:
    first, second = [0.1, 0.5, 0.9, 0.3, 0.7], [0.11, 0.52, 0.93, 0.31, 0.72]
    assert paired_p_value(first, second) < 0.02
    assert paired_p_value(first, second) == pytest.approx(paired_p_value(second, first))


def test_a_failure_says_why_and_a_refused_student_is_told() -> None:
    refused = outcome("m", 1, 0.9, students={"offered": 1, "accepted": 0})
    accepted = outcome("m", 0, 0.9, students={"offered": 1, "accepted": 1})
    table = comparison_table([accepted, refused, Failure("f", 0, "no pool"), Failure("f", 2, "no pool")])
    assert table.notes == ["m: the student was refused on seed 1", "f: failed on seeds 0, 2: no pool"]
    assert set(map(str, table.rows[1].cells)) == {"-"}


def test_refusals_are_counted_whatever_the_method_and_whatever_came_of_the_run() -> None:
    """FedFTG and DFRD go on after a student without a word; DENSE may have had one accepted and another refused."""
    results = [
        outcome("fedftg", 0, 0.9, students={"offered": 13, "accepted": 10}),
        outcome("fedftg", 1, 0.9, students={"offered": 13, "accepted": 13}),
        outcome("fedftg", 2, 0.9, students={"offered": 13, "accepted": 12}),
        outcome("dense", 0, 0.9, students={"offered": 2, "accepted": 1}),
        outcome("fedavg", 0, 0.9, students={"offered": 0, "accepted": 0}),
    ]
    assert comparison_table(results).notes == [
        "fedftg: 3 of 13 students were refused on seed 0; 1 of 13 students was refused on seed 2",
        "dense: 1 of 2 students was refused on seed 0",
    ]


def test_other_local_steps_are_told() -> None:
    table = comparison_table([outcome("a", 0, 0.9), outcome("b", 0, 0.9, updates={"local": 11})])
    assert table.notes == ["b: other local steps than the first row"]


def test_other_updates_than_the_budgets_are_told_of_those_who_distil() -> None:
    budget = DistillationBudget(600, 6000, "mosaic")
    spent = {"local": 10, "student": 600, "generator": 6000}
    results = [
        outcome("mosaic", 0, 0.9, updates=spent),
        outcome("mosaic", 1, 0.9, updates={**spent, "generator": 5400}),
        outcome("variant", 0, 0.9, updates={**spent, "student": 2000}),
        outcome("fedavg", 0, 0.9),
    ]
    notes = comparison_table(results, budget, own_budget=["variant"]).notes
    assert notes == ["mosaic: 5,400 generator updates on seed 1, where the budget is 6,000"]
    notes = comparison_table(results, budget).notes
    assert notes[1:] == ["variant: 2,000 student updates on seed 0, where the budget is 600"]
    assert comparison_table(results).notes == []


def test_who_was_told_a_budget_and_spends_nothing_says_so() -> None:
    idle = replace(outcome("dense", 0, 0.9), request={"flags": ["--algorithm.student_updates=600"]})
    assert comparison_table([idle], DistillationBudget(600, 0)).notes == [
        "dense: 0 student updates on seed 0, where the budget is 600"
    ]


TABLE = Table(
    ("algorithm", "test accuracy", "p", "MiB up"),
    (
        Row(
            "a_b & 50 %",
            "a_b & 50 %",
            (Figure(85, 7.071), Figure(0.01, form=".3g"), Figure(1024, form=",.1f")),
            "it | said",
        ),
        Row("c|d", "c|d", (Figure(), Figure(), Figure(2, form=",.1f")), ""),
    ),
)


def test_files_go_by_their_names_where_people_read(tmp_path: Path) -> None:
    """And by all of their path where two are called alike, or where a program reads."""
    alone, first, second = "mine/gate.yaml", "a/x.yaml", "b/x.yaml"
    table = comparison_table([outcome(name, 0, 0.9) for name in ("fedavg", alone, first, second)])
    assert [row.title for row in table.rows] == ["fedavg", "gate.yaml", first, second]
    assert table.notes == [f"gate.yaml: {alone}"]
    assert "| gate.yaml | 1 |" in markdown(table)
    assert f"{alone},1,90.0" in comma_separated(table)
    assert list(accuracy_bands([outcome(alone, 0, 0.9)], "rounds")) == ["gate.yaml"]


def test_csv_has_numbers_that_a_program_can_read() -> None:
    rows = list(csv.DictReader(io.StringIO(comma_separated(TABLE))))
    assert float(rows[0]["test accuracy"]) == 85
    assert float(rows[0]["test accuracy, standard deviation"]) == 7.071
    assert float(rows[0]["MiB up"]) == 1024
    assert rows[0]["note"] == "it | said"
    assert rows[1]["test accuracy"] == ""
    assert "p, standard deviation" not in rows[0]


def test_latex_escapes_what_latex_would_read() -> None:
    text = latex(replace(TABLE, rows=(*TABLE.rows[:1], replace(TABLE.rows[1], title="c^d~"))))
    assert r"a\_b \& 50 \% & 85.00 $\pm$ 7.07" in text
    assert r"c\textasciicircum d\textasciitilde  & -" in text
    assert text.count(r"\\") == 3, "one head and two rows"
    assert r"\begin{tabular}{lrrr}" in text


def test_markdown_keeps_its_columns() -> None:
    lines = markdown(TABLE).splitlines()
    assert len(lines) == 4
    assert r"| c\|d |" in lines[3]


def test_the_two_parts_together_are_the_whole() -> None:
    reached, took = TABLE.parted()
    assert reached.columns == ("algorithm", "test accuracy", "p")
    assert took.columns == ("algorithm", "MiB up")
    assert [tuple(map(str, row.cells)) for row in took.rows] == [("1,024.0",), ("2.0",)]
    assert [r.cells + t.cells for r, t in zip(reached.rows, took.rows, strict=True)] == [r.cells for r in TABLE.rows]


def test_curves_leave_out_rounds_that_were_not_measured() -> None:
    def rows(*accuracies: float | None) -> list[dict[str, Any]]:
        told = [{"round": i, "bytes": 2**20 * i} for i in range(1, 1 + len(accuracies))]
        return [row if a is None else {**row, "test_accuracy": a} for row, a in zip(told, accuracies, strict=True)]

    first, second = outcome("fedavg", 0, 0.4), outcome("fedavg", 1, 0.6)
    found = [replace(first, rounds=rows(None, 0.2, None, 0.4)), replace(second, rounds=rows(None, 0.4, 0.5, 0.6))]
    (band,) = accuracy_bands(found, "rounds").values()
    assert band.places.tolist() == [2, 4]
    assert band.heights.tolist() == pytest.approx([30, 50])
    assert accuracy_bands([replace(first, rounds=rows(None, None))], "traffic") == {}


@pytest.mark.parametrize(
    "change",
    [
        {"rounds": []},
        {"rounds": None},
        {"summary": {}},
        {"summary": None},
        {"seed": "0"},
        {"machine": None},
        {"date": 3},
        {"date": "yesterday"},
        {"version": 1, "more": 2},
    ],
    ids=str,
)
def test_a_line_whose_figures_are_damaged_is_named(change: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "outcomes.jsonl"
    whole = outcome("a", 0, 0.9)
    whole.write(file)
    assert Outcome.read_all(file) == [whole]
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}) + "\n")
    with pytest.raises(MosaicError, match="line 1: expected the outcome of a run: remove the line"):
        Outcome.read_all(file)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "outcomes.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(MosaicError, match="line 1: expected the outcome of a run: remove the line"):
        Outcome.read_all(tmp_path / "outcomes.jsonl")
