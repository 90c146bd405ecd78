"""Brings files from outside ``docs/`` into the site: notes and pictures of ``results/``, CHANGELOG.md, CONTRIBUTING.md.

The pages link to these files as they lie in the repository, for example ``../results/report/dmc_walker-walk.png``. In
the site they lie one folder deeper.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = (
    "results/*.gif",
    "results/*/*.png",
    "results/notes/*.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of the site, with those from outside ``docs/``."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The text of a page, with its links as the site needs them."""
    source = page.file.src_uri
    if source.startswith("results/"):
        return markdown
    return markdown.replace("](../", "](") if source not in OUTSIDE else markdown.replace("](docs/", "](")
