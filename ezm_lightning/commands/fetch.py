"""Fetches the files that a source of tasks needs beside its package into the cache folder.

  ezm fetch hb                          HumanoidBench's robots and scenes (19 MB), from their authors
  ezm fetch hb --from URL_OR_PATH       the same files from another place

`ezm doctor` reports the files in use. docs/humanoidbench.md lists the folders.
"""

from __future__ import annotations

import argparse
import sys

from ezm_lightning.envs.sources import fetchers
from ezm_lightning.errors import Parser, asks_for_help, nearest, refuse


def main(argv: list[str] | None = None) -> int:
    """The exit status: 0, or 2 for a mistake or a failure that is explained in one line on stderr."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or asks_for_help(arguments):
        print(__doc__)
        return 0
    parser = Parser(prog="ezm fetch", add_help=False, exit_on_error=False)
    parser.add_argument("source")
    parser.add_argument("--from", dest="place")
    try:
        options = parser.parse_args(arguments)
    except (ValueError, argparse.ArgumentError) as error:
        return refuse(f"{error}; usage: ezm fetch SOURCE [--from URL_OR_PATH]")
    functions = fetchers()
    if options.source not in functions:
        near = nearest(options.source, functions, count=1)
        return refuse(f"no source {options.source!r} to fetch; nearest: {near}")
    try:
        for line in functions[options.source](options.place):
            print(line, flush=True)
    except ValueError as error:
        return refuse(str(error))
    return 0
