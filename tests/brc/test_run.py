"""``agent=brc`` trains, evaluates, saves, resumes bit for bit and is loaded by ``ezm eval``, as any agent."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from ezm_lightning import build
from ezm_lightning.brc.reward_scale import RewardScale
from ezm_lightning.callbacks.evaluate import _rounded
from ezm_lightning.checkpoints.contents import read_checkpoint
from ezm_lightning.checkpoints.folder import weights_file
from ezm_lightning.checkpoints.runs import newest_checkpoint
from ezm_lightning.commands import demos, train
from ezm_lightning.commands import eval as ezm_eval
from ezm_lightning.config.compose import compose_checked
from ezm_lightning.config.folder import config_dir
from ezm_lightning.config.overrides import rewrite
from ezm_lightning.replay.minari_format import Dataset, find_datasets
from tests.runs.test_resume import same

SMALL = [
    "experiment=brc_cpu",
    "tasks=[tests.runs.short/point]",
    "model.width=32",
    "model.actor_width=32",
    "batch_size=32",
    "warmup_env_steps=200",
    "env_steps_per_update=4",
    "envs_per_task=2",
    "evaluate.interval=400",
    "evaluate.episodes=4",
]


def run(folder: Path, updates: int, *overrides: str) -> Path:
    """Trains for as many updates; the last checkpoint."""
    given = [f"env_steps_per_task={200 + 4 * updates}", "replay.capacity=4_000", f"hydra.run.dir={folder}"]
    assert train.main([*SMALL, *given, *overrides]) == 0
    return folder / "checkpoints" / f"step={updates:08d}.ckpt"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("whole"), 300)


def test_it_learns_a_point_that_is_paid_for_lying_near_the_origin(whole: Path) -> None:
    rows = list(csv.DictReader((whole.parents[1] / "eval.csv").open()))
    assert float(rows[-1]["return"]) > float(rows[0]["return"]) + 0.5


@pytest.mark.parametrize("overlap", ["false", "true"])
def test_stopped_and_resumed_is_the_same_run(tmp_path: Path, overlap: str) -> None:
    override = f"collect.overlap={overlap}"
    expected = run(tmp_path / "whole", 60, override)
    first = run(tmp_path / "part", 40, override)
    assert same(run(tmp_path / "part", 60, override, f"ckpt_path={first}"), expected) == []


def test_a_start_without_evaluations_keeps_the_curve(tmp_path: Path) -> None:
    def rows(checkpoint: Path) -> list[dict]:
        return torch.load(weights_file(checkpoint), weights_only=True)["callbacks"]["Evaluate"]["rows"]

    folder = tmp_path / "run"
    first = run(folder, 10)
    before = rows(first)
    second = run(folder, 12, "callbacks.evaluate=null", f"ckpt_path={first}")
    third = run(folder, 14, f"ckpt_path={second}")
    assert [row["update"] for row in csv.DictReader((folder / "eval.csv").open())] == ["0", "10", "14"]
    read = [{key: _rounded(value) for key, value in row.items()} for row in before]
    assert str(rows(third)[: len(read)]) == str(read)  # with their types


def test_ezm_eval_plays_it(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ezm_eval.main([f"ckpt_path={whole}", "eval.episodes=2", "eval.policy=true"]) == 0
    out = capsys.readouterr().out
    assert "tests.runs.short/point" in out and "policy sample" in out
    assert ezm_eval.main([f"ckpt_path={whole}", "planner.num_simulations=4"]) == 2
    assert "has no planner" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("preset", "critics", "actor"),
    [
        ("brc_humanoidbench_medium", 136_004_074, 164_390),
        ("brc_humanoidbench_hard", 137_380_490, 218_234),
        ("brc_dmc_dogs", 137_568_586, 218_188),
    ],
)
def test_the_published_sizes(preset: str, critics: int, actor: int, request: pytest.FixtureRequest) -> None:
    """The parameters of the authors' width of 4096, counted without memory."""
    if preset.endswith("hard"):
        request.getfixturevalue("humanoid_assets")
    line = rewrite([f"experiment={preset}", "trainer=cpu", "run_dir=nowhere"], config_dir())
    with torch.device("meta"):
        module = build.make_module(compose_checked("train", line, config_dir()))
    sizes = [sum(p.numel() for p in part.parameters()) for part in (module.critic, module.actor)]
    assert sizes == [critics, actor]
    parts = {part.name: part.size for part in module.memory_parts(1024, device="cuda", own_weights=True)}
    assert parts["model"] == pytest.approx(4 * (5 * critics + 5 * actor), rel=0.01)


def test_a_warm_up_without_an_episode_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["warmup_env_steps=8", "env_steps_per_task=100", f"hydra.run.dir={tmp_path / 'run'}"]
    assert train.main([*SMALL, *short]) == 2
    error = capsys.readouterr().err
    assert "no episode of tasks [0] has ended" in error and "longer than 2 of its episodes" in error


def test_the_reward_scale_knows_what_demonstrations_pay(tmp_path: Path) -> None:
    pytest.importorskip("minari")
    recorded = ["policy=scripted", "tasks=[dmc/cartpole-swingup]", "episodes=1", "envs_per_task=1"]
    assert demos.main(["record", *recorded, f"out={tmp_path / 'demos'}"]) == 0
    run = [f"demos.paths=[{tmp_path / 'demos'}]", "tasks=[dmc/cartpole-swingup]", "warmup_env_steps=2_000"]
    run += ["tasks.action_repeat=2", "env_steps_per_task=2_100", "evaluate=null", f"hydra.run.dir={tmp_path / 'run'}"]
    assert train.main([*SMALL, *run, "trainer.log_every_n_steps=1"]) == 0
    (dataset,) = map(Dataset, find_datasets(tmp_path / "demos"))
    expected = RewardScale([1], discount=0.99)
    for episode in dataset.episodes():
        expected.update_(0, torch.from_numpy(episode.reward), terminated=False)
    assert float(expected.high) > 100  # random actions earn less
    state = read_checkpoint(newest_checkpoint(tmp_path / "run"))["state_dict"]
    torch.testing.assert_close(state["reward_scale.high"], expected.high)
    (file,) = (tmp_path / "run").glob("csv/*/metrics.csv")
    ages = [float(row["replay/age"]) for row in csv.DictReader(file.open()) if row.get("replay/age")]
    assert ages and max(ages) < 2_100  # that of a demonstration is 2^62
