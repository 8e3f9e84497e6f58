"""Configurations as people may have made them: every kind of damage is one line that names the file."""

from pathlib import Path

import pytest

from mosaic.errors import MosaicError
from mosaic.yaml_files import read_yaml

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{below}'] * 10)}]\n" for below, name in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"data:\n  seed: 1\n  seed: 2\n", "line 3: expected every key once, got seed a second time"),
        (b"seed: 1\ndata: {}\nseed: 1\n", "line 3: expected every key once, got seed a second time"),
        (b"a: &a\n  b: *a\n", "an anchor that refers to itself"),
        (b"a: &a [1, *a]\n", "an anchor that refers to itself"),
        (LAUGHS.encode(), "expected at most 100000 values, aliases included"),
        ("seed: 1\n".encode("utf-16"), "expected a configuration in UTF-8"),
        ("# gr\xfcn\nseed: 1\n".encode("latin-1"), "expected a configuration in UTF-8"),
        (bytes(range(256)), "expected a configuration in UTF-8"),
        (bytes(64), "expected a configuration in YAML"),
        (b"a: [1, 2\n", "expected a configuration in YAML"),
        (b"a:\n\tb: 1\n", "expected a configuration in YAML"),
        (b"a: 1\n---\na: 2\n", "expected a configuration in YAML"),
        (b"- 1\n- 2\n", "expected a configuration of sections, got a list"),
        (b"", "expected a configuration of sections, got nothing"),
        (b"# to be written\n", "expected a configuration of sections, got nothing"),
        (b"hello there\n", "expected a configuration of sections, got a single value"),
        (b"privacy:\n", "expected a configuration of sections, got nothing below any"),
        (b"seed: 1\nclients:\n", "line 2: expected settings below clients, got nothing"),
        (b"a: {b: {class_path: c, init_args: }}\n", "line 1: expected settings below init_args, got nothing"),
    ],
)
def test_what_a_parser_would_guess_at_or_hang_on_is_refused(data: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(data)
    with pytest.raises(MosaicError) as caught:
        read_yaml(file)
    assert str(caught.value).startswith(str(file))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        *("\ufeffseed: 1\n", "x: [1, 1]\n", "a: &a {b: 1}\nc: {<<: *a, d: 2}\n"),
        *("seed: 1\nprivacy:\n", "a: {clients: null}\n"),
    ],
)
def test_what_can_be_read_is_returned(text: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text, encoding="utf-8")
    assert read_yaml(file) == text.removeprefix("\ufeff")


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(MosaicError, match="expected a configuration, which cannot be read"):
        read_yaml(tmp_path)
