"""What lies outside docs/: pages of the repository, MathJax, and what the site must not fetch."""

import re
from importlib import metadata
from pathlib import Path

PAGES = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "speed.md": "benchmarks/results.md",
    "other_speed.md": "benchmarks/other_results.md",
}
"""Pages of the site, and the files of the repository that hold them."""
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#|mailto:)([^)#]+)(#[^)]*)?\)")
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\s(?:src|srcset)=["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|icon|preload|preconnect))[^>]*?\shref=["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|url\(["']?((?:https?:)?//[^"')]+)|@import\s+["']((?:https?:)?//[^"']+)"""
)


def pages(root: Path) -> dict[str, str]:
    """Return the text of each page, with links as the site has them."""
    return {page: _page(root, file) for page, file in PAGES.items()}


def _page(root: Path, file: str) -> str:
    return LINK.sub(lambda link: _as_on_site(link, root, file), (root / file).read_text(encoding="utf-8"))


def _as_on_site(link: re.Match[str], root: Path, file: str) -> str:
    """Return a link to a page of the site, or its words where the site has no such page."""
    words, target, anchor = link[1], link[2], link[3] or ""
    path = (root / file).parent.joinpath(target).resolve().relative_to(root)
    on_site = {source: page for page, source in PAGES.items()}.get(path.as_posix())
    if path.parts[0] == "docs":
        on_site = path.relative_to("docs").as_posix()
    return f"[{words}]({on_site}{anchor})" if on_site else words


def mathjax() -> Path:
    """Return the one file of MathJax that draws formulas as pictures, so that it needs no fonts."""
    name = "mathjax/static/mathjax/es5/tex-svg.js"
    return Path(str(metadata.distribution("django-static-mathjax").locate_file(name)))


def fetched(site: Path) -> list[str]:
    """Return what pages and style sheets would fetch from other hosts, each as page: address."""
    found = []
    for path in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        text = path.read_text(encoding="utf-8")
        found += [f"{path.relative_to(site)}: {next(filter(None, hit.groups()))}" for hit in FETCHED.finditer(text)]
    return found
