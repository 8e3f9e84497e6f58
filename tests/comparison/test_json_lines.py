import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mosaic.comparison.json_lines import JsonLines
from mosaic.errors import MosaicError

KEY = ("algorithm", "seed")


def record(algorithm: str, seed: int, value: float) -> dict[str, object]:
    return {"algorithm": algorithm, "seed": seed, "value": value}


def test_records_come_back_in_the_order_of_their_keys(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "deep" / "lines.jsonl", KEY)
    assert lines.read() == []
    for each in [record("b", 10, 0.25), record("b", 9, 1 / 3), record("a", 3, 2.0)]:
        lines.put(each)
    assert lines.read() == [record("a", 3, 2.0), record("b", 9, 1 / 3), record("b", 10, 0.25)]
    assert len(lines.file.read_text().splitlines()) == 3


def test_a_record_takes_the_place_of_one_with_its_key(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "lines.jsonl", KEY)
    for value in (1.0, 2.0):
        lines.put(record("a", 0, value))
    assert lines.read() == [record("a", 0, 2.0)]


def test_writers_side_by_side_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda seed: JsonLines(file, KEY).put(record("a", seed, 0.0)), range(20)))
    assert [each["seed"] for each in JsonLines(file, KEY).read()] == list(range(20))


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "lines.jsonl", KEY)
    lines.put(record("a", 0, 1.0))
    with pytest.raises(TypeError):
        lines.put({**record("a", 1, 1.0), "value": object()})
    assert lines.read() == [record("a", 0, 1.0)]


@pytest.mark.parametrize("line", ["{cut", "[1, 2]", "3", '{"algorithm": "b"}', ""])
def test_a_line_that_holds_something_else_is_named(line: str, tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text(f"{json.dumps(record('a', 0, 1.0))}\n{line}\n")
    with pytest.raises(MosaicError, match=r"lines\.jsonl, line 2: expected an object with algorithm, seed: remove"):
        JsonLines(file, KEY).read()
