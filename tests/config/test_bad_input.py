"""What users get wrong: one line with the value and the nearest valid choice, status 2, nothing written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from ezm_lightning import build
from ezm_lightning.commands import distil, export, play, train, transfer
from ezm_lightning.commands import eval as evaluation
from ezm_lightning.config.compose import compose_checked
from ezm_lightning.config.folder import config_dir
from ezm_lightning.config.launch import explained
from ezm_lightning.config.limits import RANGES, check_limits
from ezm_lightning.config.signatures import ranges_in
from tests.config.test_experiments import EXPERIMENTS, composed
from tests.test_memory_plan import stub

VERBS = {
    "train": train.main,
    "eval": evaluation.main,
    "play": play.main,
    "export": export.main,
    "distil": distil.main,
    "transfer": transfer.main,
}
TABLE = [  # a command line, and what its one line says
    ("train experiment=dbug", "unknown experiment 'dbug'; nearest: debug"),
    ("train experimnt=debug", "unknown key 'experimnt'; nearest: experiment"),
    ("train trainer=tpu", "unknown trainer 'tpu'; nearest: gpu, cpu"),
    ("train model=papr", "unknown model 'papr'; nearest: paper"),
    ("train experiment=no_ier", "unknown experiment 'no_ier'; nearest: ablation/no_ier"),
    ("train value_mix=oldest", "unknown value_mix 'oldest'; nearest: age"),
    ("train tasks=humanoidbench_middle", "unknown tasks 'humanoidbench_middle'; nearest: humanoidbench_medium"),
    ("train tasks=walker-walk", "unknown tasks 'walker-walk'"),
    ("train tasks=dmc/walker-wlak", "unknown task dmc/walker-wlak; nearest: walker-walk"),
    ("train tasks=[dmc/walker-walk,dmc/wlker-run]", "unknown task dmc/wlker-run; nearest: walker-run"),
    ("train tasks=[dmc/walker-walk,dmc/walker-walk]", "each task may be named once, got dmc/walker-walk"),
    ("train tasks=[]", "no task given: name at least one"),
    ("train tasks=gym/HalfCheetah-v99", "nearest: HalfCheetah-v5"),
    ("train tasks=gym/CartPole-v1", "gym/CartPole-v1"),
    ("train tasks=hb/h1-wlk", "unknown task hb/h1-wlk; nearest: h1-walk"),
    ("train tasks=foo/bar", "unknown task source 'foo'"),
    ("train tasks=hb/h1-walk humanoid_bench.assets=nowhere", "nowhere is no folder"),
    ("train batch_size=0", "batch_size=0 must be a whole number of at least 1; nearest: 1"),
    ("train batch_size=-4", "batch_size=-4 must be a whole number of at least 1; nearest: 1"),
    ("train batch_size=many", "batch_size=many must be a whole number"),
    ("train batch_size=1.5", "batch_size=1.5 must be a whole number of at least 1; nearest: 2"),
    ("train batch_size=null", "batch_size=null must be a whole number"),
    ("train batch_size=", "batch_size= must be a whole number"),
    ("train batch_size=true", "batch_size=True must be a whole number"),
    ("train batch_size=3", "batch_size=3: must be at least 4 (one window per task)"),
    ("train unroll_steps=0", "unroll_steps=0 must be a whole number of at least 1; nearest: 1"),
    ("train td_steps=0", "td_steps=0 must be a whole number of at least 1; nearest: 1"),
    ("train discount=1.5", "discount=1.5 must be a number in (0, 1]; nearest: 1"),
    ("train discount=0", "discount=0 must be a number in (0, 1]"),
    ("train discount=nan", "discount=nan must be a number in (0, 1]"),
    ("train discount=inf", "discount=inf must be a number in (0, 1]"),
    ("train seed=-1", "seed=-1 must be a whole number in [0, 1,000,000,000]; nearest: 0"),
    ("train seed=abc", "seed=abc must be a whole number in [0, 1,000,000,000]"),
    ("train env_steps_per_task=0", "env_steps_per_task=0 must be a whole number of at least 1; nearest: 1"),
    ("train env_steps_per_task=500", "env_steps_per_task=500 leaves no update after warmup_env_steps=1000"),
    ("train warmup_env_steps=-1", "warmup_env_steps=-1 must be at least two steps of each of envs_per_task=2"),
    ("train warmup_env_steps=7", "warmup_env_steps=7 must be at least two steps of each of envs_per_task=2"),
    ("train env_steps_per_update=0", "env_steps_per_update=0 must be a number above 0"),
    ("train envs_per_task=0", "envs_per_task=0 must be a whole number of at least 1; nearest: 1"),
    ("train env_threads=-1", "env_threads=-1 must be a whole number of at least 0; nearest: 0"),
    ("train torch_threads=0", "torch_threads=0 must be a whole number of at least 1; nearest: 1"),
    ("train tasks.action_repeat=0", "tasks.action_repeat=0 must be a whole number of at least 1; nearest: 1"),
    (
        "train experiment=brc_cpu tasks.value_range=[-1,1]",
        "ezm_lightning.brc.BRC has no use for it; leave it out",
    ),
    (
        "train experiment=brc_cpu tasks.reward_range=[-1,1]",
        "ezm_lightning.brc.BRC has no use for it; leave it out",
    ),
    ("train pretrain.skip_missing=no", "pretrain.skip_missing=no must be true or false"),
    ("eval ckpt_path=given/numbers.ckpt eval.trust=no", "eval.trust=no must be true or false"),
    ("eval ckpt_path=given/numbers.ckpt eval.policy=1", "eval.policy=1 must be true or false"),
    ("eval ckpt_path=given/numbers.ckpt eval.video=null", "eval.video=null must be true or false"),
    ("eval ckpt_path=given/numbers.ckpt eval.video_size=100", "eval.video_size=100 must be a height and a width"),
    ("export ckpt_path=given/numbers.ckpt trust=no", "trust=no must be true or false"),
    ("export ckpt_path=given/numbers.ckpt roots=abc", "roots=abc must be a whole number of at least 1"),
    ("export ckpt_path=given/numbers.ckpt batch=0", "batch=0 must be a whole number of at least 1; nearest: 1"),
    ("distil ckpt_path=given/numbers.ckpt trust=no", "trust=no must be true or false"),
    ("transfer ckpt_path=given/numbers.ckpt transfer.trust=no", "transfer.trust=no must be true or false"),
    ("play walker trust=no", "trust=no must be true or false"),
    ("play walker size=240", "size=240 must be a height and a width, such as [240,320]"),
    ("play walker size=[a,b]", "size=[a,b] must be a height and a width, such as [240,320]"),
    ("train tasks.value_range=[10,-10]", "tasks.value_range=[10, -10] must be two numbers, the first below"),
    ("train tasks.reward_range=[0,0]", "tasks.reward_range=[0, 0] must be two numbers, the first below"),
    ("train tasks.reward_range=big", "reward_range='big' is a string"),
    ("train planner.num_simulations=0", "planner.num_simulations=0 must be a whole number of at least 1"),
    ("train planner.num_simulatons=8", "unknown key 'planner.num_simulatons'; nearest: planner.num_simulations"),
    ("train planner.num_policy_candidates=99", "num_policy_candidates=99 must lie in [0, 8]"),
    ("train reanalyzer.ratio=2", "reanalyzer.ratio=2 must be a number in [0, 1]; nearest: 1"),
    (
        "train reanalyzer.ratio=0",
        "module.loss_coefs.policy=1.0 fits the policy to searches, of which reanalyzer.ratio=0 makes",
    ),
    (
        "train module.loss_coefs.value_gradient=1 module.compile={mode:default}",
        "module.compile needs module.loss_coefs.value_gradient=0",
    ),
    ("train module.ema_half_life=0", "module.ema_half_life=0 must be a number above 0"),
    ("train module.optimizer.lr=-1", "module.optimizer.lr=-1 must be a number above 0"),
    ("train module.optimizer._target_=torch.optim.Adm", "torch.optim has no 'Adm'; nearest: Adam"),
    ("train module.loss_coefs.rewrd=1", "nearest: module.loss_coefs.reward"),
    ("train module.loss_coefs.reward=-1", "module.loss_coefs.reward=-1 must be a number of at least 0; nearest: 0"),
    ("train module.lr_final_share=2", "module.lr_final_share=2 must be a number in [0, 1]; nearest: 1"),
    ("train model.latent_dim=0", "model.latent_dim=0 must be a whole number in [1, 1,000,000]; nearest: 1"),
    ("train model.num_value_heads=0", "model.num_value_heads=0 must be a whole number in [1, 1,000,000]; nearest: 1"),
    ("train model.num_bins=1", "model.num_bins=1 must be a whole number in [3, 1,000,000]; nearest: 3"),
    ("train model.initial_std=0", "model.initial_std=0 must be a number above 0"),
    ("train model.initial_std=100", "initial_std=100: its log 4.605 is not in (-10.0, 2.0)"),
    ("train model.num_blocks=1_000_000", "num_blocks=1000000 must be a whole number in [0, 1,000]; nearest: 1_000"),
    ("train model.log_std_bound.low=5", "model.log_std_bound=[5, 2.0] must be two numbers"),
    ("train model.embed_representaton=false", "nearest: model.embed_representation"),
    ("train replay.capacity=0", "replay.capacity=0 must be a whole number of at least 1; nearest: 1"),
    ("train replay.capacity=10", "must be at least 18 (one window of unroll_steps=3 and td_steps=5 per slot)"),
    ("train replay.capacity=1_000_000_000_000", "the run cannot fit in memory: replay"),
    ("train replay.priority_exponent=-1", "replay.priority_exponent=-1 must be a number of at least 0; nearest: 0"),
    ("train replay.window=0", "replay.window=0 must be a whole number of at least 1 or null; nearest: 1"),
    ("train replay.device=gpu", "replay.device=gpu is not there; nearest: cpu"),
    ("train evaluate.interval=0", "evaluate.interval=0 must be a whole number of at least 1; nearest: 1"),
    ("train evaluate.episodes=0", "evaluate.episodes=0 must be a whole number of at least 1; nearest: 1"),
    ("train checkpoint.every_n_train_steps=0", "checkpoint.every_n_train_steps=0 must be a whole number"),
    ("train checkpoint.save_top_k=0", "checkpoint.save_top_k=0 must be at least 1, or -1 to keep all"),
    ("train max_fault_share=2", "max_fault_share=2 must be a number in [0, 1]; nearest: 1"),
    ("train max_nonfinite_updates=0", "max_nonfinite_updates=0 must be a whole number of at least 1; nearest: 1"),
    ("train trainer.accelerator=abacus", "trainer: You selected an invalid accelerator name"),
    ("train trainer.strategy=dpp", "trainer: You selected an invalid strategy name"),
    ("train trainer.precision=7", "trainer: Precision 7 is invalid"),
    (
        "train trainer.max_epocs=3",
        "unknown key 'trainer.max_epocs'; trainer.max_epochs: the budget says how many updates",
    ),
    ("train trainer.devices=3", "batch_size=16 does not divide over 3 processes"),
    (
        "train trainer.log_every_n_steps=0",
        "trainer.log_every_n_steps=0 must be a whole number of at least 1; nearest: 1",
    ),
    ("train logger.csv._target_=lightning.pytorch.loggers.CSVLoger", "nearest: CSVLogger"),
    ("train hydra.run.dir=/proc/nothing", "the run's folder /proc/nothing cannot be written"),
    ("train ckpt_path=nothing.ckpt", "ckpt_path=nothing.ckpt does not exist"),
    ("train ckpt_path=last", "no intact checkpoint in runs/debug/seed1_*"),
    ("train ckpt_path=given/empty.ckpt", "given/empty.ckpt is not intact: "),
    ("train ckpt_path=given/text.ckpt", "given/text.ckpt is not intact: "),
    ("train +foo=1", "unknown key 'foo'"),
    ("train name=null", "name=null must be a word"),
    ("train name=", "name= must be a word"),
    ("train name=..", "name=.. must be a word"),
    ("train name=a/../b", "name=a/../b must be a word"),
    ("train name=true", "name=True must be a word"),
    ("train name=[a,b]", "name=['a', 'b'] must be a word"),
    ("train trainer.precision=64-true", "trainer.precision=64-true is not supported; nearest: 32-true"),
    ("train trainer.precision=64", "trainer.precision=64 is not supported; nearest: 32-true"),
    ("train trainer.precision=bf16-true", "trainer.precision=bf16-true is not supported; nearest: 32-true"),
    ("train trainer.precision=16-true", "trainer.precision=16-true is not supported; nearest: 32-true"),
    ("train tasks.names=[[dmc/walker-walk],[dmc/walker-run]]", "is tasks=[dmc/walker-walk,dmc/walker-run]"),
    ("train tasks.names=dmc/walker-walk", "tasks.names=dmc/walker-walk: a list of tasks is tasks=[dmc/walker-walk]"),
    ("train tasks=[3]", "tasks.names=[3]: a list of tasks is tasks=[3]"),
    ("train tasks=mujoco/ant", "mujoco is a module without tasks"),
    (
        "train tasks=tests.envs.odd/endless",
        "odd/endless: max_episode_steps must be a whole number of at least 1, got inf",
    ),
    ("train tasks=tests.envs.odd/no_obs_dim", "tests.envs.odd/no_obs_dim has no obs_dim (a whole number"),
    ("train name=ünï", "in quotes it is text: \"name='ünï'\""),
    ("train batch_size", "cannot read 'batch_size', an override is key=value"),
    ("train =5", "Config group override must be"),
    ("train --no-such-flag", "unrecognized arguments: --no-such-flag"),
    ("eval", "no value for ckpt_path: write ckpt_path=..."),
    ("eval ckpt=given/empty.ckpt", "unknown key 'ckpt'; nearest: ckpt_path"),
    ("eval ckpt_path=given/emty.ckpt", "given/emty.ckpt does not exist; nearest: given/empty.ckpt"),
    ("eval ckpt_path=given/empty.ckpt", "given/empty.ckpt cannot be read, is it complete and a checkpoint?"),
    ("train task_embedding=bth", "unknown task_embedding 'bth'; nearest: both"),
    ("train task_embedding=both text.encoder=minlm", "text.encoder=minlm is no encoder; nearest: minilm"),
    (
        "train task_embedding=both text.encoder=hashed text.instructions=no.yaml",
        "text.instructions=no.yaml does not exist",
    ),
    ("train task_embedding=both text.encoder=hashed tasks=gym/Pendulum-v1", "built-in instructions have none for gym/"),
    ("eval ckpt_path=given/text.ckpt eval.instructions=no.yaml", "eval.instructions=no.yaml does not exist"),
    ("train planner.compile={mode:fast}", "compile={'mode': 'fast'} is nothing that torch.compile takes: Unrecognized"),
    ("train module.compile={backend:nix}", "compile={'backend': 'nix'} is nothing that torch.compile takes: Invalid"),
    ("eval ckpt_path=given/text.ckpt", "given/text.ckpt cannot be read, is it complete and a checkpoint?"),
    ("eval ckpt_path=given/numbers.ckpt", "given/numbers.ckpt is not a checkpoint of ezm train"),
    ("eval ckpt_path=given", "ckpt_path=given is a folder without an intact checkpoint"),
    ("eval ckpt_path=given/text.ckpt eval.episodes=0", "eval.episodes=0 must be a whole number"),
    ("eval ckpt_path=given/text.ckpt eval.vidoe=true", "unknown key 'eval.vidoe'; nearest: eval.video"),
]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder but for three files that are no checkpoints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HUMANOID_BENCH_ASSETS", "")  # so that what a command line sets there is taken back
    monkeypatch.delenv("HUMANOID_BENCH_ASSETS")
    given = tmp_path / "given"
    given.mkdir()
    (given / "empty.ckpt").write_bytes(b"")
    (given / "text.ckpt").write_text("hi\n")
    torch.save({"numbers": torch.arange(3)}, given / "numbers.ckpt")
    return tmp_path


@pytest.mark.parametrize(("line", "words"), TABLE, ids=[line for line, _ in TABLE])
def test_a_wrong_command_line_is_refused_in_one_line(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], line: str, words: str
) -> None:
    verb, *overrides = line.split()
    if verb == "train" and not any(text.startswith("experiment") for text in overrides):
        overrides.insert(0, "experiment=debug")
    status = VERBS[verb](overrides)
    captured = capsys.readouterr()
    assert status == 2 and captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert words in captured.err
    assert [path.name for path in elsewhere.iterdir()] == ["given"] and len(list((elsewhere / "given").iterdir())) == 3


def test_gpus_that_are_not_there(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.accelerator.is_available():
        pytest.skip("there is a GPU here")
    for trainer in ("gpu", "ddp"):
        assert train.main(["experiment=debug", f"trainer={trainer}"]) == 2
        assert capsys.readouterr().err == (
            "error: trainer.accelerator=gpu: torch finds no GPU here; nearest: trainer=cpu\n"
        )


def numbers(node: DictConfig, path: str = "") -> Iterator[str]:
    """The paths of all numbers, those that Hydra or Lightning alone read left out."""
    for key, value in node.items():
        here = f"{path}.{key}" if path else str(key)
        if OmegaConf.is_interpolation(node, key):
            continue
        if isinstance(value, DictConfig):
            yield from numbers(value, here)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield here


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_number_has_a_range_and_lies_in_it(name: str) -> None:
    cfg = composed(f"experiment={name}", "trainer=cpu")
    check_limits(cfg)
    elsewhere = {"tasks.action_repeat", "checkpoint.save_top_k"}  # the second: -1, or at least 1
    own = {key for key in numbers(cfg) if key.split(".")[0] not in ("trainer", "collect")}
    at_parameters = set(ranges_in(cfg))
    same = {f"model.{key}" for key in cfg.module}  # of BRC, which has no class for its model
    assert own - set(RANGES) - at_parameters - elsewhere - same == set()


KEYS = sorted(
    key
    for key in {**RANGES, **ranges_in(composed())}
    if not key.startswith("model.log_std_bound")  # under jaxtyping 1 is no float
)
VALUES = st.one_of(
    st.integers(-2, 9),
    st.sampled_from([0.5, 1.0, -0.5, 1e-9, 10**12, float("nan"), float("inf"), "null", "true", "word", "[1,2]", "''"]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(overrides=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3))
def test_a_config_builds_or_says_in_one_line_why_not(overrides: dict[str, object]) -> None:
    """Never an error from inside the algorithm."""
    small = ["experiment=debug", "tasks=custom", "tasks.names=[dmc/cartpole-balance]", "run_dir=nowhere"]
    try:
        lines = [*small, *(f"{key}={value}" for key, value in overrides.items())]
        build_all(compose_checked("train", lines, config_dir()))
    except Exception as caught:
        error = explained(caught)
        assert error is not None, caught
        assert str(error) and "\n" not in str(error).strip(), error
        assert any(str(key).rpartition(".")[2] in str(error) for key in overrides), error


def build_all(cfg: DictConfig) -> None:
    """Everything that a run builds before its first step."""
    env = build.make_env(cfg)
    try:
        build.num_updates(cfg)
        build.make_memory_plan(cfg, stub(), env).check()
        module = build.make_module(cfg)
        build.make_callbacks(cfg, env)
        build.make_replay(cfg, env, module, 0, 1)
    finally:
        env.close()
