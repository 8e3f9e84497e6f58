"""Pages link what is there, and hold what programs made; the site is built in the slow suite."""

import importlib.util
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.small_runs import DIGITS, REPOSITORY, dry_run

PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"), *REPOSITORY.glob("*/*.md")])


@pytest.fixture(autouse=True)
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are programs beside the package: they import one another by name."""
    monkeypatch.syspath_prepend(REPOSITORY / "docs" / "tools")


def test_links_lead_somewhere() -> None:
    import outside

    made = {REPOSITORY / "docs" / page for page in outside.PAGES}
    made |= {REPOSITORY / "docs/notebooks" / f"{path.stem}.md" for path in (REPOSITORY / "notebooks").glob("*.ipynb")}
    lost = []
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)|(?:src|srcset)=\"([^\"]+)\"", text):
            path = (page.parent / "".join(target)).resolve()
            if not "".join(target).startswith(("http", "mailto")) and not path.exists() and path not in made:
                lost.append(f"{page.relative_to(REPOSITORY)}: {''.join(target)}")
    assert lost == []


def test_the_readme_is_one_screen() -> None:
    assert (REPOSITORY / "README.md").stat().st_size <= 7000


def test_drawings_are_what_their_program_draws() -> None:
    import draw_concepts

    drawn = {f"{(drawing := draw()).name}.svg": drawing.svg() for draw in draw_concepts.PICTURES}
    assert drawn == {path.name: path.read_text(encoding="utf-8") for path in draw_concepts.FOLDER.glob("*.svg")}


def test_every_deviation_is_a_line_of_the_table(tmp_path: Path) -> None:
    import deviations

    said = sum(path.read_text(encoding="utf-8").count("**Deviation") for path in (REPOSITORY / "src").rglob("*.py"))
    assert len(deviations.table(REPOSITORY / "src")) - 2 == said > 0
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text(
        'class Step:\n    """Makes steps.\n\n    **Deviation:** it waits. **Deviation:** it\n    is slow.\n\n'
        '    Args:\n        rate: of :class:`~a.Step`. **Deviation:** one | none.\n    """\n'
    )
    assert deviations.table(tmp_path)[2:] == [
        "| `package.module.Step` | it waits. |",
        "| `package.module.Step` | it is slow. |",
        "| `package.module.Step.rate` | one \\| none. |",
    ]


def test_what_would_come_from_another_host_is_found(tmp_path: Path) -> None:
    import outside

    (tmp_path / "page.html").write_text(
        '<a href="https://a.org">a link</a><img src="b.png"><link rel="canonical" href="https://c.org">'
        '<script defer src="//d.org/e.js"></script><link href="https://f.org/g.css" rel="stylesheet">'
    )
    (tmp_path / "look.css").write_text("p { background: url('https://h.org/i.png') } q { background: url(j.png) }")
    found = ["look.css: https://h.org/i.png", "page.html: //d.org/e.js", "page.html: https://f.org/g.css"]
    assert outside.fetched(tmp_path) == found


def test_pages_from_elsewhere_link_pages_of_the_site() -> None:
    import outside

    pages = outside.pages(REPOSITORY)
    assert "[Architecture](architecture.md)" in pages["contributing.md"]
    assert "[benchmarks/results.md](speed.md)" in pages["contributing.md"]
    assert "tests/README.md says" in pages["contributing.md"], "the site has no such page"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "flags"),
    [
        ("start", "--model.net flowers_net.FlowersNet"),
        *((f"how_to/{page}", "") for page in ("algorithm", "gate", "network")),
    ],
)
def test_what_users_copy_runs(page: str, flags: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the flags that the page gives, or these."""
    text = (REPOSITORY / "docs" / f"{page}.md").read_text(encoding="utf-8")
    for name, block in re.findall(r'^ *```python title="([\w.]+)"\n(.*?)^ *```$', text, flags=re.DOTALL | re.MULTILINE):
        (tmp_path / name).write_text(textwrap.dedent(block))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for given in [flags] if flags else re.findall(r"python -m mosaic fit --config configs/digits\.yaml (.+)", text):
        assert "ClassificationTask" in dry_run("fit", "--config", DIGITS, *shlex.split(given))
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocstrings") is None, reason="needs the extra `docs`")
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert "Deviations" in (tmp_path / "site" / "method" / "index.html").read_text(encoding="utf-8")
