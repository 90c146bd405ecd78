"""``ezm report``: what it writes, what its page shows, and that a mistake is one line that writes nothing."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ezm_lightning.commands import report
from ezm_lightning.report import folder
from ezm_lightning.report.markdown import BEGIN, END
from tests.report.folders import make_run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WALK, RUN = "dmc/walker-walk", "dmc/walker-run"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two groups: three seeds of two tasks, finished; one unfinished seed of one task."""
    monkeypatch.chdir(tmp_path)
    for seed, end in ((1, 900.0), (2, 880.0), (3, 700.0)):
        points = [(25_000, 300.0), (50_000, 950.0), (100_000, end)]  # the best is not the last
        make_run(Path("runs/big") / f"seed{seed}_w", points, seed=seed, name="big", budget=100_000, fall=5.0)
        make_run(Path("runs/big") / f"seed{seed}_r", points, seed=seed, name="big", budget=100_000, task=RUN)
    make_run(Path("runs/small/seed1_w"), [(25_000, 100.0), (50_000, 400.0)], name="small", budget=100_000)
    make_run(Path("runs/small/seed2_w"), [], seed=2, name="small")
    return tmp_path / "runs"


def rows(name: str, out: str = "report") -> list[dict[str, str]]:
    with open(f"{out}/{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


class Pictures(HTMLParser):
    """What a page shows, and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.pictures: list[dict] = []
        self.loads: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        found = dict(attributes)
        if tag == "img":
            self.pictures.append(found)
        if tag in ("script", "link", "iframe"):
            self.loads.append(tag)
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_it_writes_the_last_evaluation_with_its_interval(runs: Path, capsys) -> None:
    assert report.main(["runs", "against=simba,ezv2"]) == 0
    (big,) = [row for row in rows("tasks") if (row["task"], row["group"]) == (WALK, "big")]
    assert float(big["mean"]) == pytest.approx((900 + 880 + 700) / 3, abs=0.01)
    assert float(big["mean_ignoring_termination"]) == pytest.approx(float(big["mean"]) + 5, abs=0.01)
    assert (float(big["mean_low"]), float(big["mean_high"])) == (700, 900) and big["env_steps"] == "100000"
    assert float(big["area"]) == pytest.approx((625 * 25 + (950 + 2480 / 3) / 2 * 50) / 75, abs=0.01)
    (small,) = [row for row in rows("tasks") if row["group"] == "small"]
    assert small["mean"] == "400" and small["mean_low"] == ""
    (pair,) = rows("improvement")
    names = ("x", "y", "tasks", "most_env_steps", "value")
    assert [pair[name] for name in names] == ["big", "small", "1", "50000", "1"]
    points = [row for row in rows("published") if row["group"] == "big" and row["task"] == WALK]
    assert {(row["algorithm"], row["env_steps"], row["our_mean"]) for row in points} >= {("SimBa", "50000", "950")}
    states = {(row["group"], row["run"]): row["state"] for row in rows("runs")}
    assert states["big", "seed1_w"] == "finished" and states["small", "seed1_w"] == "running"
    assert len(rows("evaluations")) == 20
    said = capsys.readouterr().out
    assert "note: runs/small/seed2_w: the run has no eval.csv (yet)." in said and "report report/index.html" in said


def test_the_page_needs_nothing_beside_it(runs: Path) -> None:
    assert report.main(["runs", "against=tdmpc2"]) == 0
    text = Path("report/index.html").read_text()
    page = Pictures(text)
    assert not page.loads and not page.open and "url(" not in text and "http" not in text
    assert len(page.pictures) == 6  # two of scores, last scores, two tasks, improvement
    assert all(p["src"].startswith("data:image/png;base64,iVBOR") and len(p["alt"]) > 20 for p in page.pictures)
    assert "width=device-width" in text and "TD-MPC2 [tdmpc2/tdmpc2]" in text and "nicklashansen/tdmpc2" in text
    about = json.loads(Path("report/report.json").read_text())
    assert set(about["files"]) == {p.name for p in Path("report").iterdir()} - {"report.json"}
    for link in re.findall(r'href="([^"]+)"', text):
        assert (Path("report") / link).is_file()


def test_returns_are_compared_as_the_published_ones_are_counted(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs/one"), [(40_000, 20.0)], task="hb/h1-pole", budget=40_000, fall=180.0)
    assert report.main(["runs", "against=ezm,tdmpc2", "page=page.md"]) == 0
    lines = [line for line in Path("page.md").read_text().splitlines() if line.startswith("| 40 k |")]
    ours, theirs = lines  # no point of TD-MPC2 at these steps
    assert ours == "| 40 k | mine, ignoring termination | 1 | 200 |"
    assert theirs.startswith("| 40 k | EZ-M [ezm/curves], ignoring termination | 3 | 198 [")


def test_published_means_have_a_column_for_each_task_and_a_table_for_each_suite(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    stand = "dmc/walker-stand"
    make_run(Path("runs/one"), [(50_000, 900.0)], task=WALK, budget=50_000)
    make_run(Path("runs/two"), [(50_000, 800.0)], task=stand, budget=50_000)
    make_run(Path("runs/three"), [(50_000, 20.0)], task="hb/h1-walk", budget=50_000)
    assert report.main(["all=runs", "against=all", "page=page.md"]) == 0
    text = Path("page.md").read_text()
    dmc, hb = re.findall(r"### Beside published results: (?:dmc|hb)\n\n(.*?)\n\n", text, re.DOTALL)
    head, _, ours, *theirs = dmc.splitlines()
    columns = [cell.strip() for cell in head.strip("| ").split("|")]
    tasks = columns[columns.index("seeds") + 1 : columns.index("mean")]
    assert sorted(tasks) == ["walker-stand", "walker-walk"]
    returns = {"walker-walk": "900", "walker-stand": "800"}
    assert ours == f"| 50 k | all | 1 | {' | '.join(returns[task] for task in tasks)} | 850 |"
    algorithms = [line.split("|")[2].split("[")[0].strip() for line in theirs]
    assert algorithms == sorted(algorithms) and {"SimBa", "EfficientZero-V2", "DreamerV3", "MR.Q"} <= set(algorithms)
    assert "h1-walk" in hb and "walker" not in hb


@pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [360, 1200])
def test_a_browser_shows_every_picture_at_any_width(runs: Path, width: int, tmp_path: Path) -> None:
    """In the DOM after loading: pictures have a size, and the page is no wider than the screen."""
    assert report.main(["runs", "against=simba"]) == 0
    probe = (
        "<script>addEventListener('load', () => { const all = [...document.images]; document.body.dataset.seen = "
        "[innerWidth, document.documentElement.scrollWidth, all.length, all.filter(i => i.complete && "
        "i.naturalWidth && i.getBoundingClientRect().right <= innerWidth).length].join() })</script>"
    )
    text = Path("report/index.html").read_text()
    inner = Path("report/index.html").with_name("probe.html")
    inner.write_text(text.replace("</body>", probe + "</body>"))
    outer = tmp_path / "outer.html"  # a window cannot be as narrow as a phone, a frame can
    outer.write_text(
        f"<iframe id=f style='border:0' width={width} height=800 src='{inner.resolve().as_uri()}'></iframe><script>"
        "addEventListener('load', () => document.body.dataset.seen = f.contentDocument.body.dataset.seen)</script>"
    )
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
    done = subprocess.run([BROWSER, *flags, outer.as_uri()], capture_output=True, text=True, timeout=120)
    seen = re.search(r'data-seen="(\d+),(\d+),(\d+),(\d+)"', done.stdout)
    assert seen, done.stderr[-500:]
    screen, page, pictures, shown = map(int, seen.groups())
    assert screen == width and page <= screen and pictures == shown == 6


def test_an_earlier_report_is_replaced_and_the_same_runs_give_the_same_files(runs: Path) -> None:
    assert report.main(["runs", "out=a/b"]) == 0
    before = {p.name: p.read_bytes() for p in Path("a/b").iterdir() if p.suffix != ".html"}
    assert report.main(["runs", "out=a/b"]) == 0
    assert before == {p.name: p.read_bytes() for p in Path("a/b").iterdir() if p.suffix != ".html"}
    assert report.main(["runs/small", "out=a/b"]) == 0
    assert not Path("a/b/improvement.png").exists() and [p.name for p in Path("a").iterdir()] == ["b"]


def test_labels_and_least_steps(runs: Path, capsys) -> None:
    assert report.main(["ours=runs/big/seed1_w", "ours=runs/big/seed2_w", "theirs=runs/small"]) == 0
    assert {row["group"]: row["runs"] for row in rows("tasks")} == {"ours": "2", "theirs": "1"}
    assert report.main(["best=runs/big/seed1_w", "all=runs/big", "all=runs/big/seed2_w"]) == 0
    assert {row["group"]: row["runs"] for row in rows("tasks") if row["task"] == WALK} == {"best": "1", "all": "3"}
    assert report.main(["runs", "least_steps=60_000"]) == 0
    assert {row["group"] for row in rows("tasks")} == {"big"}
    said = "runs/small/seed1_w/eval.csv: its last evaluation was at 50,000 simulator steps (least_steps)."
    assert said in Path("report/index.html").read_text()


def test_runs_without_a_common_step_are_named_and_left_out(runs: Path, capsys) -> None:
    make_run(Path("runs/early/seed1"), [(1_000, 1.0)], name="early", budget=2_000)
    assert report.main(["mine=runs/early", "mine=runs/small"]) == 0
    assert rows("runs") and not Path("report/tasks.csv").exists()
    assert (
        f"mine, {WALK}: there is no simulator step at which all of its runs were evaluated." in capsys.readouterr().out
    )


def test_a_page_keeps_what_its_author_wrote(runs: Path) -> None:
    Path("docs").mkdir()
    page = Path("docs/results.md")
    assert report.main(["runs", "page=docs/results.md"]) == 0
    made = page.read_text()
    page.write_text(made.replace(BEGIN, f"Before.\n\n{BEGIN}").replace("### Runs", "### Changed") + "After.\n")
    assert report.main(["runs", "page=docs/results.md"]) == 0
    text = page.read_text()
    assert text == made.replace(BEGIN, f"Before.\n\n{BEGIN}") + "After.\n"
    for target in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text):
        assert (page.parent / target).is_file() and target.startswith("../report/")
    for line in text.splitlines():  # every row has as many cells as its header
        if line.startswith("|---"):
            columns = line.count("|")
        elif line.startswith("|") and "---" not in line and "columns" in locals():
            assert line.replace("\\|", "").count("|") in (columns, *range(3, 14))


def mistakes() -> dict[str, tuple[list[str], str]]:
    return {
        "no such folder": (["runs/bgi"], "there is no folder runs/bgi; nearest: runs/big"),
        "no curve": (
            ["runs/small/seed2_w"],
            "runs/small/seed2_w holds no eval.csv, which a run writes at its first eva",
        ),
        "against": (["runs", "against=tdmpc-2"], "against=tdmpc-2 is not known; nearest: tdmpc2"),
        "option": (["runs", "aganist=tdmpc2"], "aganist=tdmpc2 is neither an option (nearest: against) nor LABEL=RUNS"),
        "flag": (["runs", "--out=x"], "--out=x is neither an option"),
        "no runs": (["out=x"], "no runs are named: ezm report runs/<name>"),
        "empty": (["runs", "out="], "out= has no value"),
        "number": (["runs", "least_steps=-5"], "least_steps=-5 must be a whole number of at least 0"),
        "all left out": (["runs", "least_steps=1_000_000"], "nothing can be reported: runs/"),
        "a file": (["runs", "out=file"], "out=file is a file, not a folder"),
        "a folder": (["runs", "out=runs"], "out=runs exists and is not a report of ezm report: name another folder"),
        "below a file": (["runs", "out=file/x"], "out=file/x cannot be written"),
        "page": (["runs", "page=file"], f"page=file exists without the lines {BEGIN} and {END}"),
        "page folder": (["runs", "page=none/x.md"], "page=none/x.md cannot be written: there is no folder none"),
    }


@pytest.mark.parametrize("case", mistakes())
def test_a_mistake_is_one_line_and_writes_nothing(case: str, runs: Path, capsys) -> None:
    arguments, words = mistakes()[case]
    Path("file").write_text("the user's")
    before = sorted(str(p) for p in Path().rglob("*"))
    assert report.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {words}") and captured.err.count("\n") == 1 and captured.out == ""
    assert sorted(str(p) for p in Path().rglob("*")) == before and Path("file").read_text() == "the user's"


def test_a_report_with_a_file_of_the_users_is_not_replaced(runs: Path, capsys) -> None:
    assert report.main(["runs"]) == 0
    Path("report/notes.md").write_text("mine")
    assert report.main(["runs"]) == 2
    assert "out=report also holds notes.md, which no report has written" in capsys.readouterr().err


def test_a_disk_that_fills_up_leaves_the_earlier_report(runs: Path, monkeypatch, capsys) -> None:
    assert report.main(["runs"]) == 0
    before = {p.name: p.read_bytes() for p in Path("report").iterdir()}
    whole, count = Path.write_bytes, iter(range(100))

    def full(self: Path, content: bytes) -> int:
        if next(count) == 5:
            raise OSError(28, "No space left on device")
        return whole(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert report.main(["runs/big"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in Path("report").iterdir()} == before
    assert sorted(p.name for p in Path().iterdir()) == ["report", "runs"]


def test_an_earlier_report_comes_back_when_the_new_one_cannot_take_its_place(runs: Path, monkeypatch) -> None:
    assert report.main(["runs"]) == 0
    before = {p.name for p in Path("report").iterdir()}
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self.name.startswith(".report-") and target.name == "report":
            raise OSError(1, "not permitted")
        return rename(self, target)

    monkeypatch.setattr(folder.Path, "rename", fails)
    assert report.main(["runs"]) == 2
    assert {p.name for p in Path("report").iterdir()} == before
    assert sorted(p.name for p in Path().iterdir()) == ["report", "runs"]


def test_without_matplotlib_it_says_what_to_install(runs: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(report.importlib.util, "find_spec", lambda name: None)
    assert report.main(["runs"]) == 2
    assert capsys.readouterr().err == "error: ezm report draws with matplotlib: pip install 'ezm-lightning[plots]'\n"
