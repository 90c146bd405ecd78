"""Tables in terminals of any width."""

from __future__ import annotations

import pytest
from rich.console import Console

from ezm_lightning.commands import printing

NAME = "dmc/cartpole-balance_sparse"


class Terminal(Console):
    def __init__(self, width: int | None = None, columns: int = 20) -> None:
        super().__init__(width=width or columns, force_terminal=True, color_system=None)


@pytest.mark.parametrize("columns", [20, 79, 80, 200])
def test_a_narrow_terminal_breaks_lines_and_nothing_is_cut(columns, monkeypatch, capsys) -> None:
    monkeypatch.setattr(printing, "Console", lambda width=None: Terminal(width, columns))
    grid = printing.returns_grid("task", "return\nbefore", "return\nafter", "±\nepisodes", "score", "random", "zero")
    grid.add_row(NAME, "1000.0", "1000.0", "1000.0", "1.000", "1000.0", "1000.0")
    printing.show(grid)
    out = capsys.readouterr().out
    assert NAME in out and "…" not in out and out.count("1000.0") == 5
    assert max(map(len, out.splitlines())) <= 80


def test_without_a_terminal_tables_are_wider(capsys) -> None:
    printing.table(["task", "note"], [[NAME, "word " * 14 + "end"]])
    assert "word " * 14 + "end" in capsys.readouterr().out
