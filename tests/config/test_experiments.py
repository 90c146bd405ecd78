"""Every experiment file composes, builds and is used to the last key."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ezm_lightning import build
from ezm_lightning.config.compose import compose_checked
from ezm_lightning.config.folder import config_dir, config_groups
from ezm_lightning.config.overrides import rewrite
from ezm_lightning.envs import sources
from ezm_lightning.replay import Replay
from tests.conftest import skip_without_simulators

CONF = config_dir()
EXPERIMENTS = config_groups()["experiment"]
GROUPS = [
    f"{folder.name}={path.stem}"
    for folder in sorted(CONF.iterdir())
    if folder.is_dir() and folder.name != "experiment"
    for path in sorted(folder.glob("*.yaml"))
]


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=["run_dir=nowhere", *overrides])
    if not OmegaConf.is_missing(cfg.tasks, "names"):
        skip_without_simulators(cfg.tasks.names)  # their widths are asked of the simulators
    return cfg


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_builds_everything_it_names(name, request):
    cfg = composed(f"experiment={name}")
    if any(task.startswith("hb/h1hand-") for task in cfg.tasks.names):
        request.getfixturevalue("humanoid_assets")
    with torch.device("meta"):
        module = build.make_module(cfg)
    assert len(module.make_actor().extras) == (cfg.module._target_ == EZM)
    env = build.make_env(cfg)
    cfg.replay.capacity = 100 * cfg.envs_per_task  # the whole budget's may not fit
    replay = build.make_replay(cfg, env, module, 0, 1)
    assert isinstance(replay, Replay)
    collect = instantiate(cfg.collect, env=env)
    assert collect.env_steps_per_update == cfg.env_steps_per_update
    assert build.num_updates(cfg) > 0
    env.close()


def test_totals_of_a_task_are_divided_over_the_processes():
    cfg = composed("experiment=debug", "replay.window=101", "replay.capacity=401", "batch_size=32")
    env = build.make_env(cfg)
    with torch.device("meta"):
        module = build.make_module(cfg)
    replay = build.make_replay(cfg, env, module, 1, 2)
    assert (replay.window, replay.batch_size) == (51, 16)
    env.set_seed(0)
    step = env.reset()
    for _ in range(40):
        action = torch.zeros(env.num_slots, env.action_dim)
        step, following = env.step_and_maybe_reset(step.set("action", action))
        replay.extend(step)
        step = following
    age, own = replay.sample().age, int(replay.num_transitions[0])
    assert (age % 2 == 0).all() and own < age.max() < 2 * own  # of both processes, which collect as much
    env.close()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_opens_with_its_command_line(name):
    head = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()[:6]
    assert head[0] == "# @package _global_"
    assert any(f"ezm train experiment={name}" in line for line in head)


@pytest.mark.parametrize("choice", GROUPS)
def test_a_group_option_composes(choice):
    cfg = composed(choice, *(["tasks.names=[dmc/cartpole-balance]"] if choice == "tasks=custom" else []))
    OmegaConf.to_container(cfg.model, resolve=True)


CHOICES = [
    "tasks=dmc_easy",
    "tasks=humanoidbench_hard",
    "tasks=custom",
    "model=tiny",
    "value_mix=search",
    "trainer=cpu",
]
REFINED = {  # said by experiments whichever option is chosen: an ablation, a recipe; or said by other groups
    "model": {*(f"embed_{name}" for name in ("representation", "dynamics", "reward", "value_policy")), "mean_bound",
              "log_std_bound", "reward_range", "value_range", "obs_dims", "action_dims"},
    "trainer": {"log_every_n_steps", "gradient_clip_val"},
}  # fmt: skip
EZM = "ezm_lightning.module.EZM"
LIST = "[dmc/cheetah-run,dmc/finger-spin]"


@pytest.fixture(scope="module")
def options() -> dict[str, dict]:
    """What each choice brings where no experiment is chosen."""
    return {choice: brought(choice) for choice in CHOICES}


def brought(choice: str, *more: str) -> dict:
    group = choice.split("=")[0]
    names = [f"tasks.names={LIST}"] if choice == "tasks=custom" else []
    cfg = composed(choice, *names, *more)
    cfg.value_range = [-1, 1]  # goes with the discount, not with the group
    found = OmegaConf.to_container(cfg, resolve=True)[group]
    return {key: value for key, value in found.items() if key not in REFINED.get(group, set())}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_command_line_chooses_over_an_experiment(name: str, options: dict[str, dict]) -> None:
    """Whatever an experiment is made of, `group=option` brings that option whole."""
    agent = composed(f"experiment={name}").module._target_
    for choice, expected in options.items():
        if agent != EZM and choice.split("=")[0] in ("model", "value_mix"):
            continue  # EZM's own
        assert brought(choice, f"experiment={name}") == expected, choice


def test_tasks_on_the_command_line_are_trained_with_any_experiment() -> None:
    """As typed, the shorthands included."""
    for name in EXPERIMENTS:
        for typed, names in (("tasks=dmc/cheetah-run", ["dmc/cheetah-run"]), (f"tasks={LIST}", LIST[1:-1].split(","))):
            line = rewrite([f"experiment={name}", typed, "trainer=cpu"], CONF)
            assert list(compose_checked("train", line, CONF).tasks.names) == names


def plain_keys(node: DictConfig, path: str = "") -> list[str]:
    """Paths of the values that no class takes by name: outside of nodes with a ``_target_``."""
    keys = []
    for key, value in OmegaConf.to_container(node, resolve=False).items():
        here = f"{path}.{key}" if path else str(key)
        if isinstance(value, dict) and "_target_" in value:
            continue
        keys += plain_keys(node[key], here) if isinstance(value, dict) else [here]
    return keys


def test_no_key_changes_nothing():
    """Each value outside of a ``_target_`` node is read by the commands or by another value."""
    code = "".join(path.read_text() for path in Path(build.__file__).parent.rglob("*.py"))
    yaml = "".join(path.read_text() for path in CONF.rglob("*.yaml"))
    settings = {  # of a source, which takes them by name, and of the stage of demonstrations, which replace others
        f"{node}.{name}"
        for node, prefix in sources.SETTINGS.items()
        for name in inspect.signature(sources.load_source(prefix).configure).parameters
    }
    cfg = composed()
    settings |= {f"pretrain.loss_coefs.{name}" for name in cfg.pretrain.loss_coefs if name in cfg.module.loss_coefs}
    settings |= {f"pretrain.reanalyzer.{name}" for name in cfg.pretrain.reanalyzer if name in cfg.reanalyzer}
    unread = [
        key
        for key in plain_keys(cfg)
        if not key.startswith("callbacks.")  # each is built
        and key not in settings
        and not re.search(rf"cfg\.{re.escape(key)}\b", code)
        and not re.search(rf"\$\{{(oc\.select:)?{re.escape(key)}\}}", yaml)
    ]
    assert unread == []
