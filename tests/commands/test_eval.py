"""``ezm eval``: a checkpoint alone gives the table that training ended with; every other file gives one line."""

import csv
import json

import imageio_ffmpeg
import numpy as np
import pytest
import torch

from ezm_lightning import build
from ezm_lightning.agent import load
from ezm_lightning.checkpoints.contents import check_entries, read_checkpoint
from ezm_lightning.checkpoints.folder import weights_file
from ezm_lightning.commands import eval as ezm_eval
from ezm_lightning.commands import train
from ezm_lightning.config.resolvers import run_of_checkpoint
from ezm_lightning.config.saved import BUILT, saved_config
from ezm_lightning.envs import Simulator, TaskSpec, Transition, sources
from ezm_lightning.envs.rendering import Camera

BOX = "<mujoco><worldbody><light pos='0 0 3'/><geom type='box' size='.2 .3 .4'/></worldbody></mujoco>"


class Point(Simulator):
    """A point that is paid for lying near the origin; short, so that whole episodes cost little."""

    obs_dim, action_dim, max_episode_steps = 3, 1, 40

    def seed(self, seed):
        self.random = np.random.default_rng(seed)

    def reset(self):
        self.place = self.random.uniform(-1, 1, self.obs_dim)
        return self.place

    def step(self, action):
        self.place = np.clip(self.place + 0.2 * action.mean(), -1, 1)
        return Transition(self.place, 1 - abs(self.place[0]), self.ends())

    def ends(self):
        return False

    def render(self, height, width):
        import mujoco

        if not hasattr(self, "camera"):
            model = mujoco.MjModel.from_xml_string(BOX)
            data = mujoco.MjData(model)
            mujoco.mj_forward(model, data)
            self.camera = Camera(model, data)
        return self.camera.render(height, width)


class Edge(Point):
    """Ends at the edge."""

    obs_dim = 5

    def ends(self):
        return bool(abs(self.place[0]) > 0.9)


class Pair(Point):
    """Two actions."""

    obs_dim, action_dim = 4, 2


TASKS = ["short/point", "short/edge", "short/pair"]  # 3, 5, 4 observations; 1, 1, 2 actions


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of ``experiment=debug`` on three short tasks of different widths."""
    sources.register_source("short", {"point": Point, "edge": Edge, "pair": Pair})
    folder = tmp_path_factory.mktemp("trained") / "runs" / "debug" / "seed1_then"
    budget = ["env_steps_per_task=150", "warmup_env_steps=100"]
    try:
        assert train.main(["experiment=debug", f"tasks=[{','.join(TASKS)}]", *budget, f"hydra.run.dir={folder}"]) == 0
        yield folder
    finally:
        del sources.SOURCES["short"]


@pytest.fixture
def checkpoint(run):
    """The file of weights in the run's one checkpoint."""
    (folder,) = (run / "checkpoints").glob("*.ckpt")
    return weights_file(folder)


@pytest.fixture
def refused(capsys, tmp_path, monkeypatch):
    """Runs ``ezm eval`` in an empty folder; returns its one line of error after checking that it wrote nothing."""
    monkeypatch.chdir(tmp_path)

    def call(*argv):
        before = sorted(tmp_path.rglob("*"))
        assert ezm_eval.main(list(argv)) == 2
        line = capsys.readouterr().err.strip()
        assert line.startswith("error: ") and "\n" not in line
        assert sorted(tmp_path.rglob("*")) == before
        return line

    return call


@pytest.fixture
def damaged(checkpoint, tmp_path):
    """Writes a copy of the checkpoint's content after ``change`` has edited it; returns the file."""

    def write(change):
        content = torch.load(checkpoint, weights_only=True)
        change(content)
        torch.save(content, tmp_path / "other.ckpt")
        return tmp_path / "other.ckpt"

    return write


def evaluate(checkpoint, folder, *argv):
    """The JSON of one evaluation."""
    assert ezm_eval.main([f"ckpt_path={checkpoint}", "eval.episodes=1", f"eval.json={folder}/out.json", *argv]) == 0
    return json.loads((folder / "out.json").read_text())


def test_the_policy_alone_is_played_from_the_same_starts(checkpoint, tmp_path, capsys):
    plain, both = evaluate(checkpoint, tmp_path), evaluate(checkpoint, tmp_path, "eval.policy=true")
    assert "policy mean" in capsys.readouterr().out
    for row, other in zip(plain["tasks"], both["tasks"], strict=True):
        without = {"others": {}, "other_successes": {}, "other_errors": {}}
        assert row["others"] == {} and {**other, **without} == row
        assert other["others"]["policy mean"] != other["others"]["policy sample"]


def test_a_search_over_the_mean_alone_is_the_policys_mean(checkpoint):
    agent = load(checkpoint, num_candidates=1, num_policy_candidates=1, mean_candidate=True)
    for row in ezm_eval.evaluate(agent, agent.tasks, episodes=2, seed=3, policy=True):
        assert row.others["policy mean"] == pytest.approx(row.return_)


def last_training_rows(run):
    rows = list(csv.DictReader((run / "eval.csv").open()))
    return {row["task"]: row for row in rows if row["update"] == rows[-1]["update"]}


def test_a_checkpoint_alone_gives_what_training_ended_with(run, checkpoint, tmp_path, capsys):
    alone = tmp_path / "moved" / "alone.ckpt"
    alone.parent.mkdir()
    alone.write_bytes(checkpoint.read_bytes())
    out = evaluate(alone, tmp_path)
    table, expected = capsys.readouterr().out, last_training_rows(run)
    assert [row["task"] for row in out["tasks"]] == TASKS
    for row in out["tasks"]:
        assert row["return"] == pytest.approx(float(expected[row["task"]]["return"]))
        ignoring = float(expected[row["task"]]["return_ignoring_termination"])
        assert row["return_ignoring_termination"] == pytest.approx(ignoring)
        assert row["score"] is None and row["episodes"] == 1
        assert f"{row['task']} " in table and f"{row['return']:.1f} ± 0.0" in table
    assert out["mean"]["return"] == pytest.approx(sum(row["return"] for row in out["tasks"]) / 3)
    assert "mean" in table and "termination" in table
    assert list(alone.parent.iterdir()) == [alone]  # nothing beside it


def test_the_protocols_and_floors_differ_where_a_task_terminates(checkpoint, tmp_path):
    point, edge, _ = evaluate(checkpoint, tmp_path, "eval.episodes=8")["tasks"]
    assert edge["episodes"] == 8 and edge["return_std"] > 0
    assert edge["return_ignoring_termination"] > edge["return"]
    assert point["return_ignoring_termination"] == point["return"]
    assert point["random"] != point["zero"]


def test_the_zero_floor_starts_where_the_agent_does(checkpoint, tmp_path):
    """A point left alone is paid the same in every step: 1 − |its first place|."""
    spread = evaluate(checkpoint, tmp_path, f"tasks={TASKS[0]}")["tasks"][0]["zero"] / Point.max_episode_steps
    env = build.make_env(load(checkpoint).cfg, envs_per_task=1)
    env.set_seed(10_001)
    assert spread == pytest.approx(1 - abs(float(env.reset()["obs"][0, 0])), abs=1e-6)


def test_an_open_loop_that_always_looks_is_the_closed_loop(checkpoint, tmp_path, capsys):
    drift = tmp_path / "drift.csv"
    out = evaluate(checkpoint, tmp_path, "eval.open_loop=[1,4]", f"eval.drift={drift}")
    closed = {row["task"]: row["return"] for row in out["tasks"]}
    rows = {(row["task"], row["interval"]): row for row in out["open_loop"]}
    assert set(rows) == {(task, interval) for task in TASKS for interval in (1, 4)}
    for task in TASKS:
        assert rows[task, 1]["returns"]["search"] == closed[task]
        assert rows[task, 1]["returns"]["hold"] == closed[task]  # the action of every look
        assert rows[task, 4]["returns"]["search"] != closed[task]
    noted = list(csv.DictReader(drift.open()))
    assert [row["decisions_since_look"] for row in noted] == ["0", "1", "2", "3"] * 3
    assert all(abs(float(row["latent_drift"])) < 1e-6 for row in noted[::4])
    assert all(float(row["latent_drift"]) > 1e-6 for row in noted[3::4])
    assert "who chooses between looks" in capsys.readouterr().out
    some = evaluate(checkpoint, tmp_path, f"tasks=[{TASKS[2]}]", "eval.open_loop=[1]")
    assert some["open_loop"][0]["returns"]["search"] == some["tasks"][0]["return"]


@pytest.mark.parametrize(
    "given", ["eval.open_loop=[0]", "eval.open_loop=[1.5]", "eval.open_loop=yes", "eval.open_loop=[]"]
)
def test_intervals_are_whole_numbers_above_0(checkpoint, refused, given):
    assert "eval.open_loop" in refused(f"ckpt_path={checkpoint}", given)


def test_a_drift_needs_an_open_loop(checkpoint, refused):
    assert "add eval.open_loop=" in refused(f"ckpt_path={checkpoint}", "eval.drift=drift.csv")


def test_a_part_of_the_tasks_is_played_as_those_tasks(run):
    """The task index and the padding are the model's, not those of the smaller environment."""
    agent = load(next((run / "checkpoints").glob("*.ckpt")))
    seen = []
    planner = agent.module.reanalyzer.planner
    planner.__class__ = type("Seen", (type(planner),), {"plan": _recording(seen)})
    ezm_eval.evaluate(agent, [TASKS[2], TASKS[0]], episodes=1, seed=0)
    assert seen and all(task.tolist() == [2, 0] and obs.shape == (2, 5) for obs, task in seen)
    assert not any(obs[0, 4:].any() or obs[1, 3:].any() for obs, _ in seen)


def _recording(seen):
    def call(self, model, obs, task, noise):
        seen.append((obs, task))
        return super(type(self), self).plan(model, obs, task, noise)

    return call


def test_planner_overrides_reach_the_planner(checkpoint):
    assert load(checkpoint).module.reanalyzer.planner.num_simulations == 8
    assert load(checkpoint, num_simulations=4).module.reanalyzer.planner.num_simulations == 4


def test_the_acting_model_is_the_one_that_acted_in_training(checkpoint, damaged):
    content = torch.load(checkpoint, weights_only=True)["state_dict"]
    name = "reward_head.body.0.weight"
    slow, fast = (content[f"{which}.{name}"] for which in ("target.model", "model"))
    assert not torch.equal(slow, fast)
    assert torch.equal(load(checkpoint).module.target.model.get_parameter(name), slow)
    other = damaged(lambda content: content["hyper_parameters"]["module"].update(act_with_target=False))
    acting = load(other).module.make_actor().model.model
    assert torch.equal(acting.get_parameter(name), fast)


def test_last_finds_the_newest_run_of_a_name(run, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(run.parents[2])
    out = evaluate("last", tmp_path, "name=debug", f"tasks={TASKS[0]}")
    assert out["checkpoint"].startswith("runs/debug/seed1_then/checkpoints/")
    assert sorted(path.name for path in run.parent.iterdir()) == [run.name]


def test_normalised_scores():
    spec = TaskSpec("a/b", 1, 1, 10, random_score=10.0, success_score=60.0)
    assert ezm_eval.normalised(35.0, spec) == 0.5
    assert ezm_eval.normalised(35.0, TaskSpec("a/b", 1, 1, 10, success_score=60.0)) is None


def test_tasks_that_the_checkpoint_lacks_are_refused(checkpoint, refused):
    line = refused(f"ckpt_path={checkpoint}", "tasks=[dmc/cartpole-swingup]")
    assert "dmc/cartpole-swingup" in line and all(task in line for task in TASKS)
    assert "nearest: point" in refused(f"ckpt_path={checkpoint}", "tasks=[short/pint]")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("planner.num_simulatons=4", "planner.num_simulations"),
        ("eval.episode=4", "eval.episodes"),
        ("eval.episodes=0", "eval.episodes=0"),
        ("eval.json=nowhere/out.json", "nowhere"),
        ("eval.device=gpu", "eval.device=gpu"),
        ("planner.num_candidates=1", "num_policy_candidates"),
    ],
)
def test_wrong_keys_and_values_are_refused(checkpoint, refused, override, said):
    assert said in refused(f"ckpt_path={checkpoint}", override)


def test_no_checkpoint_is_refused(refused):
    assert "ckpt_path" in refused()
    assert "does not exist" in refused("ckpt_path=missing.ckpt")


def test_files_that_are_no_checkpoints_are_refused(checkpoint, refused, tmp_path):
    file = tmp_path / "file.ckpt"
    file.write_bytes(checkpoint.read_bytes()[: checkpoint.stat().st_size // 2])
    assert "complete" in refused(f"ckpt_path={file}")
    file.write_text("name: not a checkpoint\n")
    assert "not a checkpoint" in refused(f"ckpt_path={file}")
    file.write_bytes(b"")
    assert "complete" in refused(f"ckpt_path={file}")
    torch.save({"model": torch.zeros(2), "step": 3}, file)
    line = refused(f"ckpt_path={file}")
    assert "model, step" in line and "no state_dict and no hyper_parameters" in line
    torch.save({"ezm_agent": 1, "tasks": TASKS}, file)
    assert f"is an agent file, not a checkpoint of ezm train: ezm play {file} shows it" in refused(f"ckpt_path={file}")
    torch.save({"state_dict": {}, "hyper_parameters": {"tasks": {"names": TASKS}}}, file)
    assert "its config has no tasks.action_repeat, obs_dims, action_dims, seed, module" in refused(f"ckpt_path={file}")


def test_weights_of_another_size_are_named(damaged, refused):
    file = damaged(lambda content: content["hyper_parameters"]["module"]["model"].update(latent_dim=64))
    line = refused(f"ckpt_path={file}")
    assert "model.representation.0.weight is [128, 37], expected [64, 37]" in line


def test_another_task_set_is_named(damaged, refused):
    file = damaged(lambda content: content["hyper_parameters"]["tasks"]["names"].pop())
    line = refused(f"ckpt_path={file}")
    assert "was trained on obs_dims=[3, 5, 4], its tasks" in line


def test_entries_that_are_absent_or_not_expected_are_named():
    one, two = {"a": torch.zeros(1), "b": torch.zeros(2)}, {"a": torch.zeros(1), "c": torch.zeros(2)}
    check_entries(one, one, "x.ckpt")
    with pytest.raises(ValueError, match=r"1 absent: c; 1 not expected: b"):
        check_entries(one, two, "x.ckpt")


def test_a_config_of_another_version_is_refused(damaged, refused):
    file = damaged(lambda content: content["hyper_parameters"]["module"]["reanalyzer"]["planner"].update(num_dreams=3))
    assert "planner.num_dreams" in refused(f"ckpt_path={file}")


@pytest.mark.parametrize("target", ["os.getcwd", "ezm_lightning.checkpoints.tensor_file.torch.hub.load", "${evil}"])
def test_a_checkpoint_cannot_name_foreign_code(damaged, refused, target):
    def change(content):
        content["hyper_parameters"]["evil"] = "os.getcwd"
        content["hyper_parameters"]["module"]["model"]["head_norm"] = {"_target_": target}

    line = refused(f"ckpt_path={damaged(change)}")
    assert "not part of ezm_lightning" in line and "eval.trust=true, ezm transfer: transfer.trust=true" in line


@pytest.mark.parametrize("node", BUILT)
def test_no_node_that_is_built_names_foreign_code(node, damaged, refused):
    file = damaged(lambda content: content["hyper_parameters"][node].update(_target_="os.getcwd"))
    line = refused(f"ckpt_path={file}")
    assert f"{node}._target_=os.getcwd" in line and "not part of ezm_lightning" in line


def test_every_node_that_a_module_is_built_of_is_checked(run, checkpoint, monkeypatch):
    """What ``make_module`` hands to Hydra is the one node whose parts are looked at."""
    cfg = saved_config(read_checkpoint(checkpoint), checkpoint)
    seen, instantiate = [], build.instantiate
    monkeypatch.setattr(build, "instantiate", lambda node: (seen.append(node), instantiate(node))[1])
    build.make_module(cfg)
    assert seen == [cfg[name] for name in BUILT]


def test_videos(checkpoint, tmp_path, capsys):
    folder = tmp_path / "videos"
    argv = ["eval.video=true", "eval.video_size=[32,48]", f"eval.output_dir={folder}", "eval.episodes=2"]
    if ezm_eval.main([f"ckpt_path={checkpoint}", *argv]):
        pytest.skip(f"no OpenGL here: {capsys.readouterr().err}")
    files = [folder / f"short_{name}.mp4" for name in ("edge", "pair", "point")]
    assert sorted(folder.iterdir()) == files
    said = capsys.readouterr().out
    for file in files:
        assert str(file) in said
        frames = imageio_ffmpeg.read_frames(file)
        assert next(frames)["size"] == (48, 32)
        pictures = [np.frombuffer(frame, np.uint8) for frame in frames]
        assert len(pictures) == 20 and all(picture.std() > 5 for picture in pictures)  # a frame per decision


def test_the_run_that_a_checkpoint_belongs_to(tmp_path):
    assert run_of_checkpoint("runs/a/b/checkpoints/step=1.ckpt", "a", 1) == "runs/a/b"
    assert run_of_checkpoint("downloads/model.ckpt", "a", 1) == "downloads"
    assert run_of_checkpoint(str(tmp_path), "a", 1) == str(tmp_path)


def test_without_opengl_the_table_is_printed_and_the_package_to_install_is_named(
    checkpoint, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("MUJOCO_GL", "disable")
    argv = ["eval.video=true", f"eval.output_dir={tmp_path}/videos"]
    assert ezm_eval.main([f"ckpt_path={checkpoint}", *argv]) == 2
    said = capsys.readouterr()
    assert all(task in said.out for task in TASKS) and "termination" in said.out
    assert said.err.startswith("error: ") and "libegl1" in said.err and "MUJOCO_GL=egl" in said.err
    assert not (tmp_path / "videos").exists()


def test_means_of_scores_are_also_cut_at_one(capsys):
    def row(task: str, score: float, played_on: float) -> ezm_eval.Row:
        return ezm_eval.Row(task, 1.0, 0.0, 2.0, 0.0, score, played_on, random=0.0, zero=0.0, episodes=1)

    rows = [row("hb/h1-walk", 0.5, 0.25), row("hb/h1-run", 1.5, -0.25)]
    mean = ezm_eval.mean_of(rows)
    assert (mean["score"], mean["score_cut"]) == (1.0, 0.75)
    assert (mean["score_ignoring_termination"], mean["score_ignoring_termination_cut"]) == (0.0, 0.0)
    ezm_eval.print_rows(rows)
    assert "mean, scores cut at 1" in capsys.readouterr().out
