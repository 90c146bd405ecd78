"""Agents that read instructions: what a checkpoint holds, tasks that are new to it, every wrong command in one line."""

import csv
import math

import pytest
import torch

from ezm_lightning import agent as agents
from ezm_lightning.agent import instructed, load
from ezm_lightning.build import make_env
from ezm_lightning.checkpoints.contents import read_checkpoint
from ezm_lightning.checkpoints.runs import newest_checkpoint
from ezm_lightning.commands import eval as ezm_eval
from ezm_lightning.commands import train, transfer
from ezm_lightning.envs import sources
from ezm_lightning.language import encoders
from ezm_lightning.language.hashed import Hashed
from tests.commands.test_eval import Edge, Pair, Point

TEXTS = "told/edge: Point. Stay near the origin.\ntold/pair: Point. Go left.\n"


class Wide(Point):
    obs_dim = 9


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of ``experiment=debug`` with ``task_embedding=both`` on two short tasks."""
    sources.register_source("told", {"point": Point, "edge": Edge, "pair": Pair, "wide": Wide})
    root = tmp_path_factory.mktemp("told")
    (root / "texts.yaml").write_text(TEXTS)
    try:
        assert train.main(line(root)) == 0
        yield root / "runs" / "debug" / "seed1"
    finally:
        del sources.SOURCES["told"]


def line(root, *more):
    texts = ["task_embedding=both", "text.encoder=hashed", f"text.instructions={root / 'texts.yaml'}"]
    budget = ["env_steps_per_task=150", "warmup_env_steps=100", "tasks=[told/edge,told/pair]"]
    budget += ["discount={told/edge: 0.98, others: 0.99}", "tasks.action_repeat={told/edge: 1, told: 2}"]
    return ["experiment=debug", *budget, *texts, f"hydra.run.dir={root / 'runs' / 'debug' / 'seed1'}", *more]


def test_the_table_is_in_the_checkpoint(run) -> None:
    content = read_checkpoint(newest_checkpoint(run))
    texts, state = content["hyper_parameters"]["texts"], content["state_dict"]
    assert texts["of"] == {"told/edge": "Point. Stay near the origin.", "told/pair": "Point. Go left."}
    assert texts["encoder"] == "hashed" and texts["source"] == "built in"
    z = state["model.task_embedding.z"]
    assert z.shape == (2, 256) and torch.allclose(z.norm(dim=-1), torch.ones(2), atol=1e-5)
    assert torch.equal(z, state["target.model.task_embedding.z"])
    assert state["model.task_embedding.residual"].any()  # it has learned


def test_acting_and_resuming_need_no_encoder(run, monkeypatch, capsys) -> None:
    def broken():
        raise ImportError("no encoder here")

    monkeypatch.setitem(encoders.ENCODERS, "hashed", encoders.Kind(256, broken, lambda: "type this", lambda: ""))
    before = read_checkpoint(newest_checkpoint(run))["hyper_parameters"]["texts"]
    assert ezm_eval.main([f"ckpt_path={run}", "eval.episodes=1"]) == 0
    more = line(run.parents[2], f"ckpt_path={newest_checkpoint(run)}", "env_steps_per_task=170", "replay.capacity=150")
    assert train.main(more) == 0
    after = read_checkpoint(newest_checkpoint(run))
    assert after["hyper_parameters"]["texts"] == before and after["global_step"] > 0
    assert train.main(line(run.parents[2])) == 2  # a new run needs it
    assert "its weights are not installed; type this" in capsys.readouterr().err


def test_a_new_task_is_played_by_its_instruction(run, tmp_path, capsys) -> None:
    file = tmp_path / "new.yaml"
    file.write_text("told/point: Point. Stay near the origin.\n")
    assert (
        ezm_eval.main([f"ckpt_path={run}", "tasks=[told/point]", f"eval.instructions={file}", "eval.episodes=1"]) == 0
    )
    assert "told/point" in capsys.readouterr().out
    model = load(newest_checkpoint(run)).module.model
    new = instructed(load(newest_checkpoint(run)), {"told/point": "Point. Stay near the origin."})
    assert new.tasks == ["told/edge", "told/pair", "told/point"]
    embed = new.module.target.model.embed
    text_alone = new.module.target.model.task_embedding.vector(new.module.target.model.task_embedding.z[0])
    torch.testing.assert_close(embed(torch.tensor(2)), text_alone)  # the same words as task 0, without its residual
    assert torch.equal(new.module.model.embed(torch.arange(2)), model.embed(torch.arange(2)))
    assert new.module.target.model.obs_mask[2].tolist() == [1, 1, 1, 0, 0]
    assert len(new.actor(["told/point"]).actor.model.weights.embedding) == 3
    assert new.module.reanalyzer.planner.discount_of(torch.arange(3)).tolist() == pytest.approx([0.98, 0.99, 0.99])
    assert make_env(new.cfg).action_repeats == [1, 2, 2]


def test_a_new_task_has_no_known_reward_error_in_open_loop(run, tmp_path) -> None:
    line = [f"ckpt_path={run}", "tasks=[told/point,told/edge]", "eval.instructions={told/point:Go}", "eval.episodes=1"]
    assert ezm_eval.main([*line, "eval.open_loop=[1,2]", f"eval.drift={tmp_path / 'drift.csv'}"]) == 0
    rows = list(csv.DictReader((tmp_path / "drift.csv").open()))
    assert {(row["task"], math.isnan(float(row["reward_error"]))) for row in rows} == {
        ("told/point", True),
        ("told/edge", False),
    }
    assert not any(math.isnan(float(row["latent_drift"])) for row in rows)


def test_a_new_task_needs_a_number_where_tasks_have_their_own(run) -> None:
    agent = load(newest_checkpoint(run))
    del agent.cfg.tasks.action_repeat["told"]
    words = r"tasks.action_repeat of the checkpoint has numbers for its own tasks alone, none for told/point; .*others"
    with pytest.raises(ValueError, match=words):
        instructed(agent, {"told/point": "Go."})
    with pytest.raises(ValueError, match=words):
        transfer.check_tasks(agent, ["told/point"], "a.ckpt")


def test_other_words_for_a_task_leave_its_residual_out(run) -> None:
    agent = instructed(load(newest_checkpoint(run)), {"told/edge": "Point. Go left."})
    form = agent.module.model.task_embedding
    torch.testing.assert_close(form.z[0], form.z[1])
    assert not form.residual[0].any() and form.residual[1].any()


def test_a_transfer_begins_with_the_instruction(run) -> None:
    agent = load(newest_checkpoint(run))
    file = run.parents[2] / "new.yaml"
    file.write_text("told/point: Point. Go left.\n")
    form = agent.module.model.task_embedding
    first = transfer.first_rows(agent, transfer.default_init(agent), ["told/point"], str(file))
    torch.testing.assert_close(first, form.vector(form.centred(Hashed()(["Point. Go left."]))))
    nearest = transfer.first_rows(agent, "nearest", ["told/point"], str(file))
    torch.testing.assert_close(nearest[0], agent.module.model.embed(torch.tensor(1)))


def test_a_transfer_without_an_instruction_names_its_own_key(run, tmp_path) -> None:
    agent = load(newest_checkpoint(run))
    with pytest.raises(ValueError, match=r"none for told/point; .*write transfer\.instructions=FILE with a line"):
        transfer.first_rows(agent, "text", ["told/point"])
    with pytest.raises(ValueError, match=r"transfer\.instructions=nowhere\.yaml does not exist"):
        transfer.first_rows(agent, "text", ["told/point"], "nowhere.yaml")


REFUSED = [
    ("eval.instructions={}", "eval.instructions must map task names to texts"),
    ("eval.instructions={told/wide:Go}", "told/wide has obs_dim 9, the checkpoint's model has room for 5"),
    ("eval.instructions={told/poit:Go}", "unknown task told/poit; nearest: point"),
    ("eval.instructions={told/point:3}", "eval.instructions must map task names to texts"),
    ("tasks=[told/point]", "the checkpoint has no task 'told/point'"),
]


@pytest.mark.parametrize(("given", "words"), REFUSED, ids=[given for given, _ in REFUSED])
def test_a_wrong_instruction_is_refused_in_one_line(run, capsys, given, words) -> None:
    assert ezm_eval.main([f"ckpt_path={run}", given]) == 2
    captured = capsys.readouterr()
    assert words in captured.err and captured.err.count("\n") == 1


def test_an_agent_that_knows_its_tasks_by_index(run) -> None:
    agent = load(newest_checkpoint(run))
    agent.module.model.task_embedding = torch.nn.Embedding(2, 4)
    with pytest.raises(ValueError, match=r"by their index alone.* ezm transfer ckpt_path=.* tasks=\[told/point\]"):
        agents.instructed(agent, {"told/point": "Go."})


def test_a_file_with_a_missing_task(run, tmp_path, capsys) -> None:
    file = tmp_path / "some.yaml"
    file.write_text("told/edge: Point. Stay.\n")
    assert train.main([*line(tmp_path)[:-2], f"text.instructions={file}", f"hydra.run.dir={tmp_path / 'new'}"]) == 2
    assert f"{file} has no instruction for told/pair; nearest: told/edge" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
