"""A run that goes on with other settings than its checkpoint's: what can change acts, the rest is refused."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from ezm_lightning.checkpoints.folder import weights_file
from ezm_lightning.commands import train
from ezm_lightning.config.compose import compose_checked
from ezm_lightning.config.folder import config_dir
from ezm_lightning.config.overrides import parse, rewrite
from ezm_lightning.config.resume import FIXED, MISSING, _at, _shown, changed, check_resumable, why_fixed
from tests.runs.short import SIZE, budget

BRC = ["experiment=brc_cpu", "tasks=[tests.runs.short/point]"]


def composed(*overrides: str) -> DictConfig:
    return compose_checked("train", rewrite(["run_dir=x", *overrides], config_dir()), config_dir())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 10 updates that stands before its learning rate drops."""
    run = tmp_path_factory.mktemp("finished") / "run"
    assert train.main([*SIZE, budget(10), f"hydra.run.dir={run}", "replay.capacity=400"]) == 0
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def go_on(run: Path, *overrides: str) -> int | None:
    return train.main([*SIZE, budget(14), f"hydra.run.dir={run}", "ckpt_path=last", "replay.capacity=400", *overrides])


def optimizer(run: Path) -> dict:
    newest = max(run.glob("checkpoints/step=*.ckpt"))
    return torch.load(weights_file(newest), weights_only=True)["optimizer_states"][0]["param_groups"][0]


REFUSED = [  # an override, and how the refusal names it
    ("tasks.action_repeat=5", "tasks.action_repeat=5 (there: 2)"),
    ("tasks.action_repeat={others: 4}", "tasks.action_repeat={others: 4} (there: 2)"),
    ("envs_per_task=3", "envs_per_task=3 (there: 2)"),
    ("tasks=[dmc/cartpole-balance]", "tasks.names=[dmc/cartpole-balance] (there: [tests.runs.short/point])"),
    ("tasks.reward_range=[-9,9]", "tasks.reward_range=[-9,9] (there: [-2,2])"),
    ("value_range=[-9,9]", "value_range=[-9,9] (there: [-200,200])"),
    ("model.latent_dim=32", "model.latent_dim=32 (there: 16)"),
    ("model.initial_std=0.7", "model.initial_std=0.7 (there: "),
    ("warmup_env_steps=120", "warmup_env_steps=120 (there: 100)"),
    ("env_steps_per_update=4", "env_steps_per_update=4 (there: 8)"),
    (
        "module.optimizer._target_=torch.optim.AdamW",
        "module.optimizer._target_=torch.optim.AdamW (there: torch.optim.Adam)",
    ),
    ("replay.ier=false", "replay.ier=false (there: true)"),
    ("replay.window=100", "replay.window=100 (there: null)"),
    ("replay.priority_exponent=0.5", "replay.priority_exponent=0.5 (there: 1.0)"),
    ("seed=2", "seed=2 (there: 1)"),
]


@pytest.mark.parametrize(("override", "words"), REFUSED, ids=[override for override, _ in REFUSED])
def test_what_cannot_change_is_refused_by_name(run: Path, capsys, monkeypatch, override: str, words: str) -> None:
    monkeypatch.setattr(train.build, "make_env", lambda *_: pytest.fail("an environment was built"))
    before = sorted(path for path in run.rglob("*"))
    other = run.parent / "other"
    assert train.main([*SIZE, budget(14), f"ckpt_path={run}", f"hydra.run.dir={other}", override]) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1 and said.out == ""
    assert not other.exists() and sorted(path for path in run.rglob("*")) == before


def test_what_the_refusal_says_to_type_is_taken(run: Path, capsys) -> None:
    assert go_on(run, "envs_per_task=3", "tasks.action_repeat=4") == 2
    advice = capsys.readouterr().err.partition("; write ")[2].partition(", or")[0].split()
    assert sorted(advice) == ["envs_per_task=2", "tasks.action_repeat=2"]
    assert go_on(run, *advice) == 0


def test_numbers_per_task_are_compared_task_by_task() -> None:
    number, node = ({"tasks": {"action_repeat": repeat}} for repeat in (2, {"tests.runs.short/point": 2}))
    assert changed(composed(*SIZE, "tasks.action_repeat={tests.runs.short: 2, others: 4}"), number) == []
    assert changed(composed(*SIZE, "tasks.action_repeat=2"), node) == []
    with pytest.raises(ValueError, match=r"cannot resume with tasks\.action_repeat=4 ") as refusal:
        check_resumable(composed(*SIZE, "tasks.action_repeat=4"), node, "old.ckpt")
    advice = str(refusal.value).partition("; write ")[2].partition(", or")[0]
    assert advice == "'tasks.action_repeat={tests.runs.short/point: 2}'"
    check_resumable(composed(*SIZE, *shlex.split(advice)), node, "old.ckpt")


@pytest.mark.parametrize("value", [{"gym/A-v0?x=1": 2, "others": 4}, ["gym/A-v0?x=1", "gym/B-v0"], None, False])
def test_what_is_shown_can_be_typed(value: object) -> None:
    assert parse([f"key={_shown(value)}"])[0].value() == value


def config_files(run: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in (run / "hydra").iterdir()}


def test_the_config_stays_that_of_the_newest_checkpoint(run: Path) -> None:
    before = config_files(run)
    assert go_on(run, "replay.capacity=10", "batch_size=8") == 2
    assert config_files(run) == before
    assert go_on(run, budget(10), "batch_size=8") == 0  # it is finished
    assert config_files(run) == before
    assert go_on(run, "batch_size=8") == 0
    assert "batch_size: 8\n" in config_files(run)["config.yaml"]


def test_a_new_learning_rate_acts(run: Path, capsys) -> None:
    new = ["module.optimizer.lr=0.01", "module.optimizer.weight_decay=0.5", "module.lr_final_factor=1.0"]
    assert go_on(run, *new) == 0
    said = capsys.readouterr().out
    assert "resumes with module.optimizer.lr=0.01 (was 0.0001)" in said
    assert "resumes with module.lr_final_factor=1.0 (was 0.1)" in said
    group = optimizer(run)
    assert (group["lr"], group["weight_decay"], group["initial_lr"]) == (0.01, 0.5, 0.01)
    assert "resumes with module.optimizer.eps" not in said and "was runs" not in said


def test_a_new_learning_rate_keeps_its_schedule(run: Path) -> None:
    """The last tenth of 14 updates has a tenth of the rate."""
    assert go_on(run, "module.optimizer.lr=0.01") == 0
    assert optimizer(run)["lr"] == pytest.approx(0.001)


CHANGES = [
    ["batch_size=8", "discount=0.9", "td_steps=3", "unroll_steps=2", "planner.num_simulations=3", "env_threads=1"],
    ["evaluate.episodes=2", "collect.overlap=true", "trainer.gradient_clip_val=1.0", "max_fault_share=0.5"],
    ["checkpoint.monitor=eval/mean", "module.ema_half_life=3", "module.loss_coefs.value=0.5", "logger=csv"],
]


@pytest.mark.parametrize("overrides", CHANGES, ids=[overrides[0] for overrides in CHANGES])
def test_what_can_change_does_and_is_said(run: Path, capsys, overrides: list[str]) -> None:
    assert go_on(run, *overrides) == 0
    said = capsys.readouterr().out
    for override in overrides:
        assert f"resumes with {override} (was " in said or override == "logger=csv"
    content = torch.load(weights_file(run / "checkpoints" / "step=00000014.ckpt"), weights_only=True)
    assert content["global_step"] == 14


def test_nothing_is_said_where_nothing_changed(run: Path, capsys) -> None:
    assert go_on(run) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("resumes with ")]
    assert [line.split()[2].partition("=")[0] for line in lines] == ["env_steps_per_task"]


def test_every_key_that_is_fixed_is_one() -> None:
    configs = [OmegaConf.to_container(composed(*size)) for size in (SIZE, BRC)]
    for key in FIXED:
        assert any(_at(cfg, key) is not MISSING for cfg in configs), key
    assert why_fixed("model.latent_dim") and why_fixed("seed") and not why_fixed("models") and not why_fixed("seeds")


@pytest.mark.parametrize("name", ["value_limit", "num_atoms", "initial_temperature"])
def test_what_the_critics_of_brc_have_learned_with_cannot_change(name: str) -> None:
    with pytest.raises(ValueError, match=rf"module\.{name}=\S+ \(there: 7\): the weights were learned with the other"):
        check_resumable(composed(*BRC), {"module": {name: 7}}, "old.ckpt")


def test_keys_of_other_versions_are_left_alone() -> None:
    cfg = composed(*SIZE)
    check_resumable(cfg, {}, "old.ckpt")
    assert changed(cfg, {"batch_size": 8, "model": None, "gone": 3}) == ["batch_size=16 (was 8)"]


def test_a_state_of_arrays_is_saved_and_resumed(tmp_path: Path) -> None:
    argv = [*SIZE, "tasks=[tests.envs.odd/saves_arrays]", f"hydra.run.dir={tmp_path / 'run'}"]
    assert train.main([*argv, budget(5)]) == 0
    assert train.main([*argv, budget(8), "ckpt_path=last"]) == 0
    saved = torch.load(tmp_path / "run/checkpoints/step=00000008.ckpt/rank0/state.pt", weights_only=True)
    assert saved["collect"]["env"]["slots"]


def test_a_state_that_cannot_be_saved_is_refused_before_training(tmp_path: Path, capsys) -> None:
    argv = [*SIZE, "tasks=[tests.envs.odd/saves_object]", f"hydra.run.dir={tmp_path / 'run'}"]
    assert train.main([*argv, budget(5)]) == 2
    said = capsys.readouterr().err
    assert "odd/saves_object: get_state()['deep']['generator'] is of type Generator" in said
    assert not list(tmp_path.rglob("*.ckpt"))
