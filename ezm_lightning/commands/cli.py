"""``ezm``: one console script with a verb per command."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from ezm_lightning.commands.surroundings import check_gl, shorten_warnings, take_any_text
from ezm_lightning.config.folder import command_help, group_table, module_doc
from ezm_lightning.config.interrupt import interruptible
from ezm_lightning.errors import asks_for_help, refuse

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass(frozen=True)
class Verb:
    """One line about a command, whose module of the same name is imported only when it runs."""

    summary: str
    takes_overrides: bool = False
    takes_a_word: bool = False  # before the overrides; the `main` of the verb reads it


VERBS = {
    "train": Verb("train one agent on the tasks of a suite or a list", takes_overrides=True),
    "eval": Verb("play episodes with a checkpoint; a table, and videos if wanted", takes_overrides=True),
    "report": Verb("curves, scores, intervals and costs of runs: an HTML page, PNG and CSV files"),
    "play": Verb("see a trained agent act: a window, or an mp4 and a GIF", takes_overrides=True, takes_a_word=True),
    "transfer": Verb("train on new tasks from a checkpoint: embedding, heads, all, scratch", takes_overrides=True),
    "distil": Verb("fit the policy of a checkpoint to its search, from its replay", takes_overrides=True),
    "export": Verb("the agent of a checkpoint as ONNX files that act without torch", takes_overrides=True),
    "demos": Verb("demonstrations: record them, import them, look at them", takes_overrides=True, takes_a_word=True),
    "dataset": Verb(
        "a run's episodes as Minari datasets, and Minari datasets as a replay", takes_overrides=True, takes_a_word=True
    ),
    "tasks": Verb("list every known task with its dimensions"),
    "fetch": Verb("get what a source of tasks needs: `hb` for HumanoidBench's robots and scenes"),
    "doctor": Verb("versions, devices, task sources, rendering: what works here"),
}

EXAMPLES = """\
  ezm train experiment=demo                        the demo: four cartpole tasks on a laptop
  ezm train tasks=[dmc/walker-walk,gym/Hopper-v5]  tasks by name, as `ezm tasks` lists them
  ezm train tasks=cartpole seed=2 batch_size=128   a suite of conf/tasks/, two values changed
  ezm train experiment=demo ckpt_path=last         resume the newest run of that name and seed
  ezm train -m seed=1,2,3 experiment=demo          three runs, one after the other
  ezm eval ckpt_path=last name=demo eval.video=true
  ezm report runs/demo against=simba               curves and scores of runs, beside published results
  ezm play walker                                  an agent that comes with the package, in a window or a video
  ezm transfer ckpt_path=last name=demo tasks=[dmc/cartpole-three_poles]
  ezm distil ckpt_path=last name=demo              a policy closer to its search, without new simulator steps
  ezm export ckpt_path=last name=demo              search.onnx, policy.onnx and a runtime for them
  ezm demos record load=walker out=demos           episodes of an agent, for ezm train demos.paths=[demos]
  ezm dataset export run=runs/demo/seed1_TIME out=data  its replay as Minari datasets
  ezm tasks cartpole
  ezm fetch hb                                     HumanoidBench's assets, into the cache folder
  ezm doctor"""


class MissingPackage(ImportError):
    """A package that a verb needs is not installed."""


def module_of(verb: str) -> str:
    """The module of a verb."""
    return f"ezm_lightning.commands.{verb}"


def overview() -> str:
    """The text of ``ezm --help``."""
    verbs = "\n".join(f"  {name:<15}{verb.summary}" for name, verb in VERBS.items())
    return (
        "usage: ezm <verb> [arguments]\n\n"
        "EfficientZero-Multitask: one agent, many robot tasks, one latent world model.\n\n"
        f"Verbs (ezm <verb> --help says more):\n{verbs}\n\nExamples:\n{EXAMPLES}\n\n"
        f"Choices of ezm train (group=option, from conf/):\n{group_table()}"
    )


def verb_help(name: str) -> str:
    """The text of ``ezm <verb> --help``: the docstring of the verb's module, which is not imported."""
    verb = VERBS[name]
    doc = module_doc(module_of(name))
    text = doc if "  ezm " in doc else f"ezm {name}: {verb.summary}\n\nExamples:\n{_examples(name)}"
    return command_help(text, name) if verb.takes_overrides else text


def _examples(name: str) -> str:
    return "\n".join(line for line in EXAMPLES.splitlines() if line.strip().startswith(f"ezm {name}"))


def main(argv: list[str] | None = None) -> int | None:
    """The exit status of a verb; 2 for an unknown one."""
    take_any_text()
    shorten_warnings()
    try:
        with interruptible():
            return _run(sys.argv[1:] if argv is None else argv)
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(arguments: list[str]) -> int | None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    name, options = arguments[0], arguments[1:]
    if name in ("-V", "--version"):
        print(importlib.import_module("ezm_lightning").__version__)
        return 0
    if name not in VERBS:
        near = get_close_matches(name, VERBS, n=1, cutoff=0.3) or list(VERBS)
        return refuse(f"unknown verb {name!r}; nearest: {near[0]} (verbs: {', '.join(VERBS)})")
    if asks_for_help(options):
        print(verb_help(name))
        return 0
    try:
        check_gl()
    except ValueError as error:
        return refuse(error)
    try:
        composed_first = VERBS[name].takes_overrides and not VERBS[name].takes_a_word
        return _configured(name, options) if composed_first else _module(name).main(options)
    except MissingPackage as error:
        return refuse(error)


def _configured(name: str, arguments: Sequence[str]) -> int:
    """A verb that Hydra configures. Its module, and torch with it, is imported only for a valid command line."""
    from ezm_lightning.config.launch import hydra_main

    def run(cfg: DictConfig) -> Any:
        return _module(name).run(cfg)

    run.__module__ = module_of(name)
    return hydra_main(name, run, arguments)


def _module(name: str) -> Any:
    try:
        return importlib.import_module(module_of(name))
    except ModuleNotFoundError as error:
        raise MissingPackage(f"{error}; `ezm doctor` says what to type") from error


if __name__ == "__main__":
    sys.exit(main())
