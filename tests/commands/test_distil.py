"""``ezm distil``: the policy moves towards its search and nothing else moves; every wrong command is one line."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import ezm_lightning
from ezm_lightning import distillation
from ezm_lightning.agent import load
from ezm_lightning.checkpoints.contents import read_checkpoint
from ezm_lightning.checkpoints.folder import rank_folders, weights_file
from ezm_lightning.checkpoints.runs import UNKNOWN, newest_checkpoint
from ezm_lightning.checkpoints.tensor_file import read
from ezm_lightning.commands import distil, export, play, train
from ezm_lightning.commands import eval as ezm_eval
from ezm_lightning.commands.distil import Outcome
from ezm_lightning.envs import sources
from ezm_lightning.evaluation.episodes import evaluation_seed
from tests.commands.test_eval import Edge, Pair, Point
from tests.test_player import write_checkpoint

TASKS = ["taught/edge", "taught/pair"]
SMALL = ["model.latent_dim=16", "model.head_dim=16", "model.num_blocks=1", "model.projection_dim=16"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of ``experiment=debug`` on two short tasks."""
    sources.register_source("taught", {"point": Point, "edge": Edge, "pair": Pair})
    folder = tmp_path_factory.mktemp("source") / "runs" / "debug" / "seed1"
    line = ["experiment=debug", f"tasks=[{','.join(TASKS)}]", "env_steps_per_task=240", "warmup_env_steps=200", *SMALL]
    try:
        assert train.main([*line, f"hydra.run.dir={folder}"]) == 0
        yield folder
    finally:
        del sources.SOURCES["taught"]


@pytest.fixture(scope="module")
def distilled(run, tmp_path_factory):
    """The new folder, what was printed apart from it, and the bytes of the source before and after."""
    out = tmp_path_factory.mktemp("distilled") / "new"
    before = {file: file.read_bytes() for file in sorted(run.rglob("*")) if file.is_file()}
    assert distil.main([f"ckpt_path={run}", f"out={out}", "updates=60", "eval_episodes=2"]) == 0
    assert {file: file.read_bytes() for file in sorted(run.rglob("*")) if file.is_file()} == before
    return out


def test_the_policy_moves_and_nothing_else(run, distilled) -> None:
    before, after = (load(newest_checkpoint(folder)).module.target.model for folder in (run, distilled))
    new = after.state_dict()
    moved = {name.partition(".")[0] for name, x in before.state_dict().items() if not torch.equal(new[name], x)}
    assert moved == {"policy_head"}
    generator = torch.Generator().manual_seed(0)
    task = torch.arange(32) % 2
    obs, action = torch.randn(32, 5, generator=generator), torch.rand(32, 3, 2, generator=generator)
    one, other = (model.unroll(obs, action, task) for model in (before, after))
    for name in ("latent", "reward_logits", "value_logits"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert not torch.equal(one.policy_mean, other.policy_mean)


def test_its_cross_entropy_to_the_search_falls_on_held_out_windows(run, distilled) -> None:
    about = json.loads((distilled / distil.RECORD).read_text())
    source = load(newest_checkpoint(run))
    folders = [rank / "replay" for rank in rank_folders(newest_checkpoint(run))]
    learned, held_out = distillation.split(folders, source.cfg, source.module, seed=1)
    of_learned, of_held_out = (set(map(tuple, x.stored("obs")[0].tolist())) for x in (learned, held_out))
    assert of_held_out and not of_learned & of_held_out
    assert of_learned | of_held_out >= {tuple(row) for file in folders for row in read(file / "obs.pt").tolist()}
    values = {}
    source.module.reanalyzer.ratio = 1.0
    windows = distillation.searched(source.module, held_out, seed=1)
    for name, folder in (("before", run), ("after", distilled)):
        source.module.model.load_state_dict(load(newest_checkpoint(folder)).module.target.model.state_dict())
        values[name] = distillation.cross_entropy(source.module, windows)
    assert values == pytest.approx(about["cross_entropy"])
    assert values["after"] < values["before"]


def test_the_table_has_the_returns_of_ezm_eval(run, distilled) -> None:
    about = json.loads((distilled / distil.RECORD).read_text())
    assert [row["task"] for row in about["returns"]] == TASKS
    for folder, when in ((run, "before"), (distilled, "after")):
        agent = load(newest_checkpoint(folder))
        rows = ezm_eval.evaluate(agent, TASKS, episodes=2, seed=evaluation_seed(1), policy=True)
        for row, written in zip(rows, about["returns"], strict=True):
            assert row.return_ == pytest.approx(written[f"search_{when}"])
            assert row.others["policy mean"] == pytest.approx(written[f"policy_{when}"])


def test_other_commands_read_the_new_folder(distilled, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert ezm_eval.main([f"ckpt_path={distilled}", "eval.episodes=1"]) == 0
    assert play.main([str(distilled), "seconds=0.1", "window=false", f"task={TASKS[0]}"]) == 0
    agent = ezm_lightning.load(distilled)
    assert agent.act(torch.zeros(5), TASKS[0], search=False).shape == (1,)


def test_a_distilled_agent_that_is_distilled_again_comes_from_the_run_that_was_trained(
    run, distilled, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    last, first, budget = distilled, newest_checkpoint(run), ["env_steps_per_task=400", "warmup_env_steps=200", *SMALL]
    trained, *then = export.how_made(first)["command"], "updates=60"
    for updates, out in ((1, "again"), (2, "thrice")):
        assert distil.main([f"ckpt_path={last}", f"out={out}", f"updates={updates}", "eval_episodes=0"]) == 0
        then.append(f"updates={updates}")
        last = newest_checkpoint(tmp_path / out)
        about = read_checkpoint(last)["hyper_parameters"]["distil"]
        assert json.loads((tmp_path / out / distil.RECORD).read_text()).items() >= about.items()
        made, *steps = export.how_made(last, about)["command"].split("; ezm distil ")
        assert made == trained != UNKNOWN and [step.split()[1] for step in steps] == then
        assert steps[0].startswith(f"ckpt_path={first.name} ")
        capsys.readouterr()
        assert train.main(["experiment=debug", f"tasks=[{','.join(TASKS)}]", *budget, f"ckpt_path={last}"]) == 2
        said = f"is of ezm distil and has no state to resume from; its source has: ckpt_path={first}\n"
        assert capsys.readouterr().err.endswith(said)


def test_what_is_stopped_during_its_last_episodes_has_its_record(run, tmp_path, monkeypatch) -> None:
    def stopped_at_last(agent, episodes):
        if (tmp_path / "new").exists():
            raise RuntimeError("stopped")
        return {}

    monkeypatch.setattr(distil, "returns", stopped_at_last)
    with pytest.raises(RuntimeError, match="stopped"):
        distil.main([f"ckpt_path={run}", f"out={tmp_path / 'new'}", "updates=1", "eval_episodes=1"])
    about = json.loads((tmp_path / "new" / distil.RECORD).read_text())
    assert about["source"] == str(newest_checkpoint(run)) and about["cross_entropy"].keys() == {"before", "after"}
    assert newest_checkpoint(tmp_path / "new") is not None and "returns" not in about


def test_two_distillations_give_the_same_bits(run, tmp_path) -> None:
    states = []
    for out in ("a", "b"):
        line = [
            f"ckpt_path={run}",
            f"out={tmp_path / out}",
            "updates=3",
            "eval_episodes=0",
            "policy_target=best_action",
        ]
        assert distil.main(line) == 0
        states.append(read_checkpoint(newest_checkpoint(tmp_path / out))["state_dict"])
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(x, states[1][name]) for name, x in states[0].items())


def test_a_gap_is_one_that_chance_does_not_explain(capsys) -> None:
    assert Outcome("a/b", 10.0, 40.0, 50.0, 50.0, error=19.0).gap_closed == 0.75
    assert Outcome("a/b", 10.0, 40.0, 50.0, 50.0, error=21.0).gap_closed is None
    before = {"policy": torch.tensor([[0.0, 2.0], [4.0, 4.0]]), "search": torch.tensor([[10.0, 16.0], [5.0, 3.0]])}
    after = {"policy": torch.tensor([[6.0, 8.0], [4.0, 4.0]]), "search": before["search"]}
    rows = distil.outcomes(["a/b", "a/c"], before, after)
    assert rows[0] == Outcome("a/b", 1.0, 7.0, 13.0, 13.0, error=2.0) and rows[0].gap_closed == 0.5
    assert rows[1].error == pytest.approx(1.0) and rows[1].gap_closed is None
    assert distil.mean_of(rows) == Outcome("mean", 2.5, 5.5, 8.5, 8.5, error=pytest.approx(5**0.5 / 2))
    distil.print_outcomes(rows, 2, 1)
    out = capsys.readouterr().out
    assert "50 %" in out and "the search does not lead the policy by two standard errors: a/c" in out
    one = {name: values[:, :1] for name, values in before.items()}
    assert [row.gap_closed for row in distil.outcomes(["a/b", "a/c"], one, one)] == [None, None]


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    """Runs ``ezm distil``; returns its one line of error after checking that it wrote and trained nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(distil, "distil_", lambda *_, **__: pytest.fail("it has trained"))

    def call(*argv):
        before = sorted(tmp_path.rglob("*"))
        assert distil.main(list(argv)) == 2
        line = capsys.readouterr().err.strip()
        assert line.startswith("error: ") and "\n" not in line
        assert sorted(tmp_path.rglob("*")) == before
        return line

    return call


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("updates=0", "updates=0 must be"),
        ("updates=many", "updates=many"),
        ("parts=[trunk]", "unknown key 'parts'"),
        ("policy_target=improvd", "unknown policy_target 'improvd'; nearest: improved"),
        ("policy_target.temperature=0", "policy_target.temperature=0"),
        ("device=cuda:9", "device=cuda:9 cannot be used"),
        ("out=file", "file exists already"),
        ("out=file/new", "file/new cannot be written"),
        ("ckpt_path=missing", "ckpt_path=missing does not exist"),
    ],
)
def test_mistakes_are_one_line(run, refused, tmp_path, override, said) -> None:
    (tmp_path / "file").touch()
    assert said in refused(f"ckpt_path={run}", "out=new", override)


def test_a_checkpoint_without_a_replay(run, refused, tmp_path) -> None:
    shutil.copy(weights_file(newest_checkpoint(run)), tmp_path / "alone.ckpt")
    assert "alone.ckpt holds no replay to distil from; give the run's folder" in refused(
        "ckpt_path=alone.ckpt", "out=new"
    )


def test_a_damaged_replay(run, refused, tmp_path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (file,) = newest_checkpoint(copy).glob("rank0/replay/obs.pt")
    file.write_bytes(file.read_bytes()[:-9])
    assert "obs.pt is damaged" in refused(f"ckpt_path={copy}", "out=new")


def test_an_agent_that_does_not_plan(refused, tmp_path) -> None:
    write_checkpoint(tmp_path / "brc.ckpt", "brc_cpu", ["dmc/cartpole-balance"])
    assert "brc.ckpt holds a BRC; ezm distil knows agents that plan, EZM" in refused("ckpt_path=brc.ckpt", "out=new")


def test_a_reanalyzer_that_cannot_search(run, refused, monkeypatch) -> None:
    from ezm_lightning.reanalyze import Reanalyzer

    monkeypatch.delattr(Reanalyzer, "search")
    assert "its reanalyzer, a Reanalyzer, cannot search; nothing to distil from" in refused(
        f"ckpt_path={run}", "out=new"
    )


def test_a_task_of_one_episode_has_none_to_check_with(run, refused, monkeypatch) -> None:
    episodes = distillation.SavedReplay.episodes
    monkeypatch.setattr(distillation.SavedReplay, "episodes", lambda *arguments: list(episodes(*arguments))[:1])
    assert "the replay has 1 episodes of taught/edge; ezm distil needs 2" in refused(f"ckpt_path={run}", "out=new")
