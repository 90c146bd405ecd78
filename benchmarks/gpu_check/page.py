"""The findings as one self-contained HTML file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from benchmarks.gpu_check.finding import VERDICTS, Finding
from ezm_lightning.report.page import STYLE

OWN_STYLE = """\
.verdict { border-radius: .3rem; padding: .1rem .4rem; color: #fff; font-size: .8rem }
.ok { background: #2e7d32 } .faster { background: #1565c0 } .look { background: #b26a00 }
.wrong, .failed { background: #c62828 } .skipped { background: #757575 }
td { white-space: normal } td:first-child { white-space: nowrap }
svg text { font: 12px system-ui, sans-serif }
"""
COLOURS = ("#1565c0", "#2e7d32", "#b26a00", "#6a1b9a", "#00838f")
WIDTH, HEIGHT = 960, 60  # of the timeline, in pixels


def make_page(about: Mapping[str, Any], findings: Sequence[Finding]) -> str:
    """The page's HTML."""
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    commit = (about["git"] or {}).get("commit", "unknown")
    parts = [
        f"<h1>GPU check: {escape(str(about['device']))}</h1>",
        f"<p class=note>Made by <code>{escape(about['command'])}</code> at commit {escape(str(commit))}, "
        f"{escape(about['started'])}. Python {escape(about['python'])}, CUDA {escape(str(about['cuda']))}, "
        f"{escape(packages)}; {about['devices']} GPU, {about['cpu_threads']} CPU threads.</p>",
        f"<p>{_summary(findings)}</p>",
        f"<h2>What to type</h2>{_overrides(findings)}",
        f"<h2>Findings</h2><div class=table><table>{_rows(findings)}</table></div>",
        *_timeline(findings),
        f"<p class=note>{'; '.join(f'<b>{name}</b>: {meaning}' for name, meaning in VERDICTS.items())}.</p>",
    ]
    return (
        "<!DOCTYPE html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n"
        '<meta name=viewport content="width=device-width, initial-scale=1">\n'
        f"<title>GPU check</title>\n<style>\n{STYLE}{OWN_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _summary(findings: Iterable[Finding]) -> str:
    counted = Counter(finding.verdict for finding in findings)
    return ", ".join(f"{counted[name]} {name}" for name in VERDICTS if counted[name]) or "There is no finding yet."


def _overrides(findings: Iterable[Finding]) -> str:
    typed = dict.fromkeys(finding.override for finding in findings if finding.override)
    if not typed:
        return "<p>Nothing has to be changed.</p>"
    return f"<pre><code>ezm train … {escape(' '.join(typed))}</code></pre><p class=note>Try one after the other.</p>"


def _rows(findings: Iterable[Finding]) -> str:
    head = "<tr><th>part</th><th>verdict</th><th>what</th><th>result</th><th>override</th></tr>"
    return head + "\n".join(
        f"<tr><td>{escape(line.part)}</td><td><span class='verdict {line.verdict}'>{line.verdict}</span></td>"
        f"<td>{escape(line.what)}</td><td>{escape(line.result)}</td><td><code>{escape(line.override)}</code></td></tr>"
        for line in findings
    )


def _timeline(findings: Iterable[Finding]) -> list[str]:
    """The phases of an update as one bar, and its longest kernels."""
    parts = []
    for finding in findings:
        figures = finding.figures
        if "phases_ms" in figures:
            parts += [f"<h2>{escape(finding.what)}</h2>", bar(figures["phases_ms"])]
        if "longest_ms" in figures:
            rows = "\n".join(
                f"<tr><td>{escape(name[:100])}</td><td>{ms:.3f}</td></tr>" for name, ms in figures["longest_ms"].items()
            )
            head = "<tr><th>kernel or operation</th><th>ms an update</th></tr>"
            parts.append(f"<div class=table><table>{head}{rows}</table></div>")
    return parts


def bar(phases: Mapping[str, float]) -> str:
    """A horizontal bar of phases in milliseconds; widths are proportional to times."""
    whole, x, drawn = max(sum(phases.values()), 1e-9), 0.0, []
    for index, (name, ms) in enumerate(phases.items()):
        width = WIDTH * ms / whole
        label = f"{name.replace('_', ' ')} {ms:.1f} ms"
        shown = f"<text x='{x + 4:.1f}' y='25' fill='#fff'>{escape(label)}</text>" if width > 7 * len(label) else ""
        drawn.append(
            f"<g><title>{escape(label)}</title><rect x='{x:.1f}' y='5' width='{width:.1f}' height='32' "
            f"fill='{COLOURS[index % len(COLOURS)]}'/>{shown}</g>"
        )
        x += width
    return f"<svg role=img viewBox='0 0 {WIDTH} {HEIGHT}' width='100%'>{''.join(drawn)}</svg>"
