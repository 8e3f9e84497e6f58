"""Read the folder of a run, finished or not."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mosaic.errors import MosaicError
from mosaic.runs.directory import RunDirectory
from mosaic.runs.facts import read_facts
from mosaic.runs.rounds import Round, read_rounds


@dataclass(frozen=True)
class RunContents:
    """What a report shows.

    Attributes:
        name: of the run's folder.
        config: the run's configuration as text.
        settings: the same as plain values.
        environment: versions, hardware, commit; may be empty.
        rounds: one row per round; None where nothing was measured.
        summary: final figures; empty where the run has not finished.
        audit: what ``mosaic audit`` has found; empty where nobody has asked.
        pictures: PNG files by their name in TensorBoard, the last of each.
    """

    name: str
    config: str
    settings: dict[str, Any]
    environment: dict[str, Any]
    rounds: list[Round]
    summary: dict[str, Any]
    audit: dict[str, Any]
    pictures: dict[str, bytes]


def read_run(run: Path) -> RunContents:
    """Read a run's folder.

    Raises:
        MosaicError: it holds no run, or one of its files is damaged.
    """
    directory = RunDirectory(run)
    summary, rounds = read_facts(directory.summary), read_rounds(run)
    if len(rounds) < summary.get("rounds", 0):
        raise MosaicError(
            f"{directory.metrics} holds {len(rounds)} rounds where {directory.summary} counts {summary['rounds']}: "
            "restore it from a copy"
        )
    return RunContents(
        name=run.resolve().name,
        settings=directory.read_config(),
        config=directory.config.read_text("utf-8"),
        environment=read_facts(directory.environment),
        rounds=rounds,
        summary=summary,
        audit=read_facts(directory.audit),
        pictures=_read_pictures(directory.tensorboard),
    )


def _read_pictures(folder: Path) -> dict[str, bytes]:
    """Take the pictures of the latest round out of TensorBoard's event files; a resumed run has several files."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found: dict[str, bytes] = {}
    steps: dict[str, int] = {}
    for file in sorted(folder.glob("events.*")):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name != "images" or event.step < steps.get(value.tag, 0):
                    continue
                found[value.tag], steps[value.tag] = value.tensor.string_val[2], event.step  # after width and height
    return found
