"""What a run says of the machine that it ran on."""

from pathlib import Path

import pytest

from mosaic.runs.environment import describe_environment


def test_where_there_is_no_git_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_environment()["git_commit"] is None
