"""Arguments that the program gives are refused from a config; every other one acts, callbacks of one's own included."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
from hydra.utils import instantiate

from ezm_lightning import build
from ezm_lightning.commands import train
from ezm_lightning.config.compose import compose_checked
from ezm_lightning.config.folder import config_dir
from ezm_lightning.config.given import GIVEN
from ezm_lightning.config.overrides import rewrite
from ezm_lightning.config.signatures import accepted_parameters
from tests.runs.short import SIZE, budget

MONITOR = "{_target_: lightning.pytorch.callbacks.LearningRateMonitor}"
OVERRIDDEN = {"_convert_"}
FROM_THE_CONFIG = {"replay.capacity", "replay.window"}  # each rank is given its share


def composed(*overrides: str):
    return compose_checked("train", rewrite([*SIZE, budget(20), *overrides], config_dir()), config_dir())


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Counter(L.Callback):
    """Writes its name at each update."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        self.path.write_text(str(trainer.global_step))


class StopAt(L.Callback):
    """Ends training after an update, as Lightning's early stopping does."""

    def __init__(self, update: int) -> None:
        self.update = update

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        trainer.should_stop = trainer.global_step == self.update


@pytest.mark.parametrize("key", GIVEN)
def test_what_the_program_gives_is_refused_in_every_way_to_write_it(key: str, elsewhere: Path, capsys) -> None:
    instead = GIVEN[key].removesuffix("...")
    for line in (f"{key}=3", f"+{key}=3", f"++{key}=3"):
        assert train.main([*SIZE, line]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {key}: {instead}") and error.count("\n") == 1
    assert list(elsewhere.iterdir()) == []


def test_every_argument_that_train_gives_is_listed(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run shows what it gives to which node; a node is told by its class."""
    cfg = composed()
    nodes = {cfg[name]._target_: name for name in ("trainer", "module", "replay", "collect", "evaluate",
                                                   "checkpoint")}  # fmt: skip
    seen = set()

    def watched(node, **given):
        if node.get("_target_") in nodes:
            seen.update(f"{nodes[node._target_]}.{key}" for key in given if key not in OVERRIDDEN)
        return instantiate(node, **given)

    monkeypatch.setattr(build, "instantiate", watched)
    assert train.main([*SIZE, budget(2)]) == 0
    assert seen - FROM_THE_CONFIG <= set(GIVEN)
    refused_only = {key for key in GIVEN if key not in seen}
    assert {key.partition(".")[0] for key in refused_only} == {"trainer"}  # Lightning's that would do nothing
    taken = accepted_parameters(L.Trainer)
    assert all(key.partition(".")[2] in taken for key in refused_only)


def test_the_budget_that_a_number_of_updates_is_answered_with_has_it(capsys) -> None:
    for tasks in ("tasks=[tests.runs.short/point]", "tasks=cartpole"):
        for wanted in (1, 5, 7, 100):
            assert train.main([*SIZE, tasks, f"+trainer.max_steps={wanted}"]) == 2
            override, said = capsys.readouterr().err.strip().rpartition(": ")[2].split(" has ")
            assert build.num_updates(composed(tasks, override)) == int(said) >= wanted
            assert int(said) == wanted or len(composed(tasks).tasks.names) > composed().env_steps_per_update


def test_callbacks_of_ones_own_run(elsewhere: Path) -> None:
    counter = f"{{_target_: tests.config.test_given.Counter, path: {elsewhere / 'updates'}}}"
    run, own = elsewhere / "run", [f"+callbacks.lr={MONITOR}", f"+callbacks.count={counter}"]
    given = [budget(20), *own, f"hydra.run.dir={run}", "trainer.log_every_n_steps=5"]
    assert train.main([*SIZE, *given]) == 0
    assert "lr-Adam" in (run / "csv" / "version_0" / "metrics.csv").read_text().splitlines()[0]
    assert (elsewhere / "updates").read_text() == "20"


def test_a_key_that_is_built_by_nobody_is_refused_with_what_to_write(elsewhere: Path, capsys) -> None:
    for key in ("lr", "humanoid_bench.lr", "tasks.lr"):
        assert train.main([*SIZE, budget(2), f"+{key}={MONITOR}"]) == 2
        error = capsys.readouterr().err
        assert f"unknown key '{key}'" in error
        advice = error.strip().partition("a callback is ")[2]
        assert advice == f"+callbacks.lr={MONITOR}"
        composed(advice)
    assert train.main([*SIZE, f"callbacks.lr={MONITOR}"]) == 2
    assert "write +callbacks.lr=... for a new one" in capsys.readouterr().err
    for wrong, words in (("3", "callbacks.x=3 is nothing to build"), ("{a: 1}", "is nothing to build"),
                         ("{_target_: torch.nn.Linear}", "torch.nn.Linear is no lightning.Callback")):  # fmt: skip
        assert train.main([*SIZE, f"+callbacks.x={wrong}"]) == 2
        assert words in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []


def test_a_callback_is_left_out_by_null() -> None:
    cfg = composed("run_dir=nowhere", f"+callbacks.lr={MONITOR}", "callbacks.lr=null", "callbacks.progress=null")
    env = build.make_env(cfg)
    built = [type(callback).__name__ for callback in build.make_callbacks(cfg, env)]
    assert "LearningRateMonitor" not in built and "ProgressBar" not in built and built[-1] == "Checkpoint"


def test_arguments_of_lightning_act(elsewhere: Path, capsys) -> None:
    for seconds, least in ((0, 0), (1, 1)):
        given = [f"+trainer.max_time={{seconds: {seconds}}}", f"hydra.run.dir={elsewhere / str(seconds)}"]
        assert train.main([*SIZE, budget(5000), *given]) == 0
        assert len(list((elsewhere / str(seconds)).glob("checkpoints/*.ckpt"))) == least
    capsys.readouterr()
    run = elsewhere / "run"
    given = ["+callbacks.x={_target_: tests.config.test_given.StopAt, update: 7}", "+trainer.enable_progress_bar=false"]
    assert train.main([*SIZE, budget(20), *given, f"hydra.run.dir={run}"]) == 0
    said = capsys.readouterr()
    assert "Epoch" not in said.out + said.err
    assert [file.name for file in run.glob("checkpoints/*.ckpt")] == ["step=00000007.ckpt"]
    assert "stopped after update 7 of 20; the same command with ckpt_path=last resumes from there" in said.out
    assert train.main([*SIZE, budget(20), f"hydra.run.dir={run}", "ckpt_path=last"]) == 0
    assert (run / "checkpoints" / "step=00000020.ckpt").is_dir()
    once = elsewhere / "once"
    assert train.main([*SIZE, budget(20), "+trainer.fast_dev_run=true", f"hydra.run.dir={once}"]) == 0
    named = [word for word in capsys.readouterr().out.split() if word.startswith(str(once))]
    assert str(once / "checkpoints" / "step=00000001.ckpt") in named and all(Path(word).exists() for word in named)


def test_a_run_does_without_its_evaluations(elsewhere: Path) -> None:
    run = elsewhere / "run"
    assert train.main([*SIZE, budget(4), "evaluate=null", f"hydra.run.dir={run}"]) == 0
    assert [file.name for file in run.glob("checkpoints/*.ckpt")] == ["step=00000004.ckpt"]
    assert not (run / "eval.csv").exists()
