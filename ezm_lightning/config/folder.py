"""The folders of configuration files, and the choices in them.

Imports neither Hydra nor torch, so that help is instant.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Collection, Sequence
from pathlib import Path

Folders = Path | Sequence[Path]  # of configs; the package's own is the first

VALUES = "  key=value            change a value"
GROUP = "  group=option         choose a file of conf/<group>/, see the list below"
GROUPS = f"""\
{GROUP}
  --config-dir FOLDER  choices of your own: FOLDER/<group>/mine.yaml is group=mine"""
TRAINING = f"""\
  key=value            change a value: seed=2 batch_size=32 planner.num_simulations=16
{GROUP}
  +node.key=value      give a `_target_` node one more of the arguments that it accepts
  +callbacks.NAME=...  a Lightning callback, {{_target_: my_module.MyCallback}}; loggers likewise
  --config-dir FOLDER  experiments, tasks, models of your own: FOLDER/experiment/mine.yaml is experiment=mine
  -m, --multirun       one run per combination: -m seed=1,2,3"""
ALWAYS = """\
  --cfg job            print the composed config and stop
EZM_TRACEBACK=1 shows the whole traceback of an error that is otherwise one line."""


def config_dir() -> Path:
    """The absolute folder of configuration files: inside the installed package, else beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    choices = (package / "conf", package.parent / "conf")
    for folder in choices:
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"no configuration folder, looked in {' and '.join(map(str, choices))}")


def as_list(folders: Folders | None) -> list[Path]:
    """One folder or several, in a list; the package's own for None."""
    if folders is None:
        return [config_dir()]
    return [folders] if isinstance(folders, Path) else [*folders]


def config_groups(folders: Folders | None = None) -> dict[str, list[str]]:
    """{group: its options}, both sorted; a group is a folder of ``conf/``, an option a file in it or below it."""
    groups: dict[str, set[str]] = {}
    for folder in as_list(folders):
        for file in folder.glob("*/**/[!_]*.yaml"):
            group, *option = file.relative_to(folder).with_suffix("").parts
            if group != "hydra":  # Hydra's own options are left out
                groups.setdefault(group, set()).add("/".join(option))
    return {group: sorted(groups[group]) for group in sorted(groups)}


def group_table(folders: Folders | None = None, only: Collection[str] | None = None) -> str:
    """One line per group, or per group of ``only``: its name and its options."""
    groups = {group: options for group, options in config_groups(folders).items() if only is None or group in only}
    width = max((len(group) for group in groups), default=0)
    return "\n".join(f"  {group:<{width}}  {' | '.join(options)}" for group, options in groups.items())


def groups_of(verb: str) -> set[str]:
    """The groups in the defaults of the configs of a command: conf/<verb>.yaml, conf/<verb>_<word>.yaml."""
    files = [path for path in config_dir().glob(f"{verb}*.yaml") if path.stem.partition("_")[0] == verb]
    return {group for path in files for group in re.findall(r"^  - (\w+):", path.read_text("utf-8"), re.MULTILINE)}


def module_doc(module: str) -> str:
    """The docstring of a module, which is not imported; '' if there is none."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""


def command_help(doc: str, verb: str, folders: Folders | None = None) -> str:
    """The help of a command that uses Hydra: its own text, the forms of overrides, its groups and their options."""
    groups = None if verb == "train" else groups_of(verb)  # an agent adds groups of its own to training
    forms = TRAINING if groups is None else f"{VALUES}\n{GROUPS}" if groups else VALUES
    table = "" if groups == set() else f"\n\nGroups (group=option):\n{group_table(folders, groups)}"
    return f"{doc.strip()}\n\nOverrides, as in every Hydra command:\n{forms}\n{ALWAYS}{table}"
