"""The how-to pages: each block that says bash or yaml, executed as it is printed; every page is in the site's list."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.test_extend import BLOCK, run

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LEFT = {  # what a page must have left behind
    "first-run": "runs/debug/seed1_*/eval.csv",
    "own-suite": "runs/mine/seed1_*/eval.csv",
    "resume": "runs/first/seed1_*/checkpoints/*.ckpt",
    "brc": "runs/brc/seed1_*/eval.csv",
}
HOW_TO = (
    "first-run", "own-task", "own-suite", "scale", "gpu-check", "humanoidbench", "resume", "tensorboard", "report",
    "deploy", "data", "brc", "newt",
)  # fmt: skip


@pytest.mark.parametrize("page", LEFT)
def test_every_block_does_what_it_says(page: str, tmp_path: Path) -> None:
    for language, text in BLOCK.findall((DOCS / f"{page}.md").read_text(encoding="utf-8")):
        if language == "yaml":
            file = tmp_path / text.split()[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        else:
            run(tmp_path, language, text)
    assert list(tmp_path.glob(LEFT[page])), page


def test_the_site_has_a_page_for_each() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("nav:")[1].split("exclude_docs")[0]
    listed = re.findall(r"^\s+- (\S+\.md)$", nav, re.MULTILINE)
    assert [f"{name}.md" for name in HOW_TO] == listed[1 : 1 + len(HOW_TO)]
    assert {path.name for path in DOCS.glob("*.md")} <= set(listed) and len(listed) == len(set(listed))


def test_every_page_of_the_table_of_gpu_check_is_a_part() -> None:
    from benchmarks.gpu_check.parts import PARTS

    text = (DOCS / "gpu-check.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(PARTS)


def test_the_counts_of_the_page_are_those_that_are_known() -> None:
    import json

    known = json.loads((ROOT / "benchmarks/gpu_check/counts.json").read_text(encoding="utf-8"))["counts"]
    text = (DOCS / "gpu-check.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .*(?:simulators|targets|Hard).* \| ([\d,]+) \| (\d) \| ([\d,]+) \|$", text, re.MULTILINE)
    said = [tuple(int(number.replace(",", "")) for number in row) for row in rows]
    order = [known[preset][what] for what in ("search", "update") for preset in ("medium", "hard")]
    assert said == [(each["kernels"], each["waits"], round(each["megabytes"])) for each in order]
