"""What MkDocs calls while it builds the site: it adds pages that lie elsewhere, and looks at the result."""

from pathlib import Path

import deviations
import notebooks
import outside
import pictures
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).resolve().parents[2]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add pages whose text lies outside docs/, the notebooks, and MathJax."""
    for page, text in outside.pages(ROOT).items():
        files.append(File.generated(config, page, content=text))
    for page, content in notebooks.pages(ROOT / "notebooks").items():
        files.append(File.generated(config, page, content=content))
    files.append(File.generated(config, "assets/mathjax.js", abs_src_path=str(outside.mathjax())))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Fill in the table of deviations."""
    if deviations.MARKER not in markdown:
        return markdown
    return markdown.replace(deviations.MARKER, "\n".join(deviations.table(ROOT / "src")))


def on_page_content(html: str, **_: object) -> str:
    """Put drawings into the page itself, where they follow its colours."""
    return pictures.inline(html, ROOT / "docs" / "pictures")


def on_post_page(output: str, page: Page, **_: object) -> str:
    """Load MathJax on pages with formulas alone: it is two megabytes."""
    if 'class="arithmatex"' not in output:
        return output
    names = ("assets/mathjax-settings.js", "assets/mathjax.js")
    scripts = "".join(f'<script src="{get_relative_url(name, page.url)}"></script>' for name in names)
    return output.replace("</body>", f"{scripts}</body>")


def on_post_build(config: MkDocsConfig) -> None:
    """Fail where a page would fetch something from elsewhere.

    Raises:
        PluginError: it would.
    """
    found = outside.fetched(Path(config.site_dir))
    if found:
        raise PluginError(f"pages must fetch nothing from elsewhere, got {'; '.join(found)}")
