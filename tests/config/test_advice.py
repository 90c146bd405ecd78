"""Advice is followed: what a refusal tells the user to type is accepted, or is wrong in another way only."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from ezm_lightning import build
from ezm_lightning.commands import cli
from ezm_lightning.config.compose import compose_checked
from ezm_lightning.config.folder import config_dir
from ezm_lightning.config.overrides import jobs, rewrite
from tests.config.test_bad_input import TABLE, elsewhere  # noqa: F401  (a fixture)

NEAREST = re.compile(r"nearest: ([^\s,;]+)")
ADVISED = [line for line, words in TABLE if line.startswith("train") and NEAREST.search(words)]


def refusal(overrides: list[str]) -> str:
    """Why a command line is refused when it is composed; '' where it is not."""
    try:
        compose_checked("train", rewrite(overrides, config_dir()), config_dir())
    except (ValueError, ImportError) as error:
        return str(error)
    return ""


def followed(override: str, advice: str) -> Iterator[str]:
    """The ways in which a user may put the advised word in place of the wrong one."""
    sign = "+" if override.startswith("+") else ""
    key, _, value = override.lstrip("+").partition("=")
    if "=" in advice:
        yield advice
    yield f"{sign}{key}={advice}"
    yield f"{sign}{advice}={value}"
    source, slash, _ = value.rstrip("]").rpartition("/")
    yield f"{key}={source}{slash}{advice}{']' * value.endswith(']')}"
    module, dot, _ = value.rpartition(".")
    yield f"{key}={module}{dot}{advice}"


@pytest.mark.parametrize("line", ADVISED)
def test_the_nearest_choice_is_a_choice(elsewhere, line: str) -> None:  # noqa: F811
    *others, wrong = line.split()[1:]
    base = others if any("experiment" in text for text in (*others, wrong)) else ["experiment=debug", *others]
    said = refusal([*base, wrong])
    advice = NEAREST.search(said)[1]
    tried = {fixed: refusal([*base, fixed]) for fixed in followed(wrong, advice)}
    # A GPU, and an encoder's weights, are not everywhere; the advice is right where they are.
    absent = ("trainer.accelerator=gpu: torch finds no GPU here", "text.encoder=minilm: its weights are not installed")
    assert any(not why or why.startswith(absent) for why in tried.values()), (said, tried)


FOLLOWED = [  # what is typed, what the refusal says to type, and a value in place of its dots
    ("trainer.limit_train_batches=3", "env_steps_per_task=...", "1_100"),
    ("trainer.accumulate_grad_batches=2", "batch_size=...", "32"),
    ("trainer.val_check_interval=2", "evaluate.interval=...", "500"),
    ("trainer.logger=csv", "+logger.NAME={_target_: ...}", "lightning.pytorch.loggers.CSVLogger"),
    ("trainer.default_root_dir=x", "hydra.run.dir=...", "x"),
    ("+replay.unroll_steps=2", "unroll_steps=...", "2"),
    ("+replay.td_steps=2", "td_steps=...", "2"),
    ("+replay.seed=2", "seed=...", "2"),
    ("module.value_mix=2", "value_mix=...", "search"),
    ("reanalyzer.planner=2", "planner.KEY=...", "8"),
    ("+trainer.callbacks=x", "+callbacks.NAME={_target_: ...}", "lightning.pytorch.callbacks.LearningRateMonitor"),
    ("callbacks.lr=x", "+callbacks.lr=...", "{_target_: lightning.pytorch.callbacks.LearningRateMonitor}"),
    ("logger.more=x", "+logger.more=...", "{_target_: lightning.pytorch.loggers.CSVLogger, save_dir: x}"),
    ("trainer.gradient_clip_algorithm=norm", "+trainer.gradient_clip_algorithm=...", "norm"),
    ("trainer.max_time=x", "+trainer.max_time=...", "00:00:01:00"),
    ("tasks=custom", "tasks.names=...", "[dmc/walker-walk]"),
    ("tasks=dmc/walker-walk,dmc/walker-run", "tasks=[dmc/walker-walk,dmc/walker-run]", ""),
    ("tasks.names=dmc/walker-walk,dmc/walker-run", "tasks.names=[dmc/walker-walk,dmc/walker-run]", ""),
    ("tasks.reward_range=-1,1", "tasks.reward_range=[-1,1]", ""),
]


@pytest.mark.parametrize(("typed", "advice", "value"), FOLLOWED)
def test_what_a_refusal_says_to_type_is_taken(elsewhere, typed: str, advice: str, value: str) -> None:  # noqa: F811
    assert advice in refusal(["experiment=debug", typed])
    instead = advice.replace("...", value).replace("KEY", "num_simulations").replace("NAME", "own")
    kept = [typed] * (typed == "tasks=custom")
    assert refusal(["experiment=debug", *kept, instead]) == ""


@pytest.mark.parametrize("typed", ["seed=1,2", "tasks=dmc/walker-walk,dmc/walker-run", "model=tiny,small"])
def test_a_run_for_each_value(elsewhere, typed: str) -> None:  # noqa: F811
    """`--multirun` is said where it helps, a list only where the key holds one."""
    said = refusal(["experiment=debug", typed])
    assert said.startswith(f"{typed}: ") and said.endswith("a run for each value needs --multirun")
    assert ("a list is written" in said) == typed.startswith("tasks")
    told = jobs(rewrite(["experiment=debug", typed], config_dir()))
    assert len([compose_checked("train", job, config_dir()) for job in told]) == 2


LOW, HIGH = "gym/Pendulum-v1?g=9.0", "gym/Pendulum-v1?g=11.0"


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (f"tasks={LOW}", [[LOW]]),
        (f"tasks=[{LOW},dmc/cartpole-balance]", [[LOW, "dmc/cartpole-balance"]]),
        (f'tasks=["{LOW}", "{HIGH}"]', [[LOW, HIGH]]),
        (f"tasks={LOW},{HIGH}", [[LOW], [HIGH]]),
    ],
)
def test_a_task_with_arguments_needs_no_quotes(typed: str, told: list[list[str]]) -> None:
    lines = jobs(rewrite(["experiment=debug", typed, "run_dir=none"], config_dir()))
    assert [list(compose_checked("train", line, config_dir()).tasks.names) for line in lines] == told


def test_a_verb_that_is_advised_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evla"]) == 2
    advised = NEAREST.search(capsys.readouterr().err)[1]
    assert advised == "eval" and cli.main([advised, "--help"]) == 0


def test_the_smallest_budget_is_enough(elsewhere) -> None:  # noqa: F811
    base = ["experiment=debug", "tasks=[tests.runs.short/point]"]
    for ratio in ("env_steps_per_update=8", "env_steps_per_update=0.3", "env_steps_per_update=1_000.5"):
        cfg = compose_checked("train", rewrite([*base, ratio, "env_steps_per_task=7"], config_dir()), config_dir())
        with pytest.raises(ValueError, match="leaves no update") as said:
            build.num_updates(cfg)
        cfg.env_steps_per_task = int(NEAREST.search(str(said.value))[1])
        assert build.num_updates(cfg) >= 1
        cfg.env_steps_per_task -= 1
        with pytest.raises(ValueError, match="leaves no update"):
            build.num_updates(cfg)
