"""Presets and stacks of configurations, as values."""

from pathlib import Path

import pytest
import yaml

from mosaic.comparison.configurations import find_presets, merged, read_configuration
from mosaic.errors import MosaicError


def write(path: Path, content: object) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


def test_presets_are_stacked() -> None:
    assert [preset.path.stem for preset in find_presets("mosaic_paper+reduced")] == ["mosaic_paper", "reduced"]
    assert find_presets("config") == []


def test_a_preset_may_change_the_algorithm_alone(tmp_path: Path) -> None:
    path = write(
        tmp_path / "unfair.yaml", {"algorithm": "x.Y", "federation": {"schedule": {"local_steps": 100}}, "data": {}}
    )
    with pytest.raises(MosaicError, match=r"changes data, federation too.*--overlay"):
        find_presets(str(path))


def test_an_unknown_algorithm_is_told_the_known_ones() -> None:
    with pytest.raises(MosaicError, match=r"no fedfoo.*fedavg.*mosaic"):
        find_presets("fedfoo")


def test_stacking_replaces_sections_of_another_class(tmp_path: Path) -> None:
    below = write(tmp_path / "a.yaml", {"x": {"class_path": "A", "init_args": {"p": 1}}, "y": {"p": 1, "q": 1}})
    above = write(tmp_path / "b.yaml", {"x": {"class_path": "B"}, "y": {"p": 2}})
    assert merged(map(read_configuration, (below, above))) == {"x": {"class_path": "B"}, "y": {"p": 2, "q": 1}}


def test_the_short_form_of_a_class_keeps_it(tmp_path: Path) -> None:
    below = write(tmp_path / "a.yaml", {"algorithm": "mosaic.algorithms.FedAvg"})
    above = write(tmp_path / "b.yaml", {"algorithm": {"init_args": {"objective": 1}}})
    expected = {"class_path": "mosaic.algorithms.FedAvg", "init_args": {"objective": 1}}
    assert merged(map(read_configuration, (below, above))) == {"algorithm": expected}


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", None])
def test_what_is_no_configuration_is_refused(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(MosaicError, match=r"c\.yaml: expected a configuration"):
        read_configuration(path)


def test_what_becomes_of_the_file_later_changes_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", {"a": 1})
    configuration = read_configuration(path)
    write(path, {"a": 2})
    assert configuration.values == {"a": 1}


def test_numbers_and_dates_are_what_fit_reads(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("rate: 1e-3\nname: 2026-11-24\n")
    assert read_configuration(path).values == {"rate": 1e-3, "name": "2026-11-24"}


@pytest.mark.parametrize("section", ["trainer", "model", "data", "federation", "clients"])
def test_a_section_in_a_file_of_its_own_is_refused(section: str, tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", {section: "other.yaml"})
    with pytest.raises(MosaicError, match=rf"c\.yaml: {section}: expected settings by name, got 'other\.yaml': write"):
        read_configuration(path)


def test_a_schedule_in_a_file_of_its_own_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "c.yaml", {"federation": {"schedule": "schedule.yaml"}})
    with pytest.raises(MosaicError, match=r"federation\.schedule: expected settings by name, got 'schedule\.yaml'"):
        read_configuration(path)
