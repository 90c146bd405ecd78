"""Meta-World: ``mw/<task>-v3``, 50 manipulation tasks of a Sawyer arm with a gripper, in MuJoCo.

Observations are 39 numbers (hand, gripper and objects now and one step before, then the goal), actions 4 (the hand's
motion and the gripper), episodes 500 simulator steps. A step pays 0 to 10 and reports success, by which the suite is
scored. Every reset places goals and objects with the slot's own generator. The package's default is one goal for all
episodes, or other goals from NumPy's global generator.

The package requires MuJoCo 3.3.0; one method that fails on later versions is replaced here. Its returns (v3) and those
published for v2 come from different rewards and cannot be compared.
"""

from __future__ import annotations

from typing import Any

from ezm_lightning.envs.simulator import SimulatorSlots
from ezm_lightning.envs.spec import TaskSpec
from ezm_lightning.errors import nearest

HOW_TO_INSTALL = (
    "pip install 'ezm-lightning[metaworld]' && pip install --no-deps 'metaworld>=3.1' "
    "(with its dependencies it would set MuJoCo back to 3.3.0)"
)
OBS_DIM, ACTION_DIM, EPISODE_STEPS, REWARD_RANGE = 39, 4, 500, (0.0, 10.0)
CAMERA = 4  # above a corner of the table, near the gripper; in the package's model it is upside down
WELD = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 5.0)  # of the hand to the point that moves it
# Returns of uniformly random actions: means of 5 episodes, measured through this source.
RANDOM_SCORES = {
    "assembly-v3": 194, "basketball-v3": 8, "bin-picking-v3": 10, "box-close-v3": 308, "button-press-v3": 243,
    "button-press-topdown-v3": 186, "button-press-topdown-wall-v3": 310, "button-press-wall-v3": 64,
    "coffee-button-v3": 242, "coffee-pull-v3": 24, "coffee-push-v3": 20, "dial-turn-v3": 131, "disassemble-v3": 197,
    "door-close-v3": 49, "door-lock-v3": 497, "door-open-v3": 406, "door-unlock-v3": 451, "drawer-close-v3": 786,
    "drawer-open-v3": 895, "faucet-close-v3": 1394, "faucet-open-v3": 1222, "hammer-v3": 462, "hand-insert-v3": 8,
    "handle-press-v3": 1643, "handle-press-side-v3": 187, "handle-pull-v3": 35, "handle-pull-side-v3": 8,
    "lever-pull-v3": 262, "peg-insert-side-v3": 7, "peg-unplug-side-v3": 24, "pick-out-of-hole-v3": 5,
    "pick-place-v3": 7, "pick-place-wall-v3": 0, "plate-slide-v3": 265, "plate-slide-back-v3": 110,
    "plate-slide-back-side-v3": 120, "plate-slide-side-v3": 170, "push-v3": 19, "push-back-v3": 5, "push-wall-v3": 44,
    "reach-v3": 648, "reach-wall-v3": 844, "shelf-place-v3": 0, "soccer-v3": 17, "stick-pull-v3": 18,
    "stick-push-v3": 10, "sweep-v3": 37, "sweep-into-v3": 49, "window-close-v3": 330, "window-open-v3": 236,
}  # fmt: skip


def known_tasks() -> list[str]:
    """The 50 names, from a table: nothing is imported."""
    return list(RANDOM_SCORES)


def task_spec(task: str) -> TaskSpec:
    """Dimensions and scores from the table. Raises ValueError for an unknown task, with the nearest names."""
    if task not in RANDOM_SCORES:
        raise ValueError(f"unknown task mw/{task}; nearest: {nearest(task, RANDOM_SCORES)}")
    return TaskSpec(
        f"mw/{task}",
        OBS_DIM,
        ACTION_DIM,
        EPISODE_STEPS,
        random_score=RANDOM_SCORES[task],
        reward_range=REWARD_RANGE,
        reports_success=True,
    )


def make(task: str, num_slots: int, *, action_repeat: int, ignore_termination: bool) -> SimulatorSlots:
    """``num_slots`` environments of a task. Raises ImportError, with the remedy, if the package is missing."""
    spec = task_spec(task)
    from ezm_lightning.envs.gym_task import GymTask

    simulators = [GymTask(spec, make_env(task), kept_whole=True, camera=CAMERA) for _ in range(num_slots)]
    return SimulatorSlots(spec, simulators, action_repeat=action_repeat, ignore_termination=ignore_termination)


def make_env(task: str) -> SeededAtReset:
    """The environment; its goal is observed, and every reset draws a new one."""
    env = _package(f"mw/{task}").env_dict.ENV_CLS_MAP[task]()
    env._partially_observable, env._set_task_called = False, True
    env._freeze_rand_vec, env.seeded_rand_vec = False, True
    del env.sawyer_observation_space  # cached when it was built, with the goal hidden
    env.observation_space = env.sawyer_observation_space
    turn_upright(env.model, CAMERA)
    return SeededAtReset(env)


def make_registered(id_: str, **arguments: Any) -> Any:
    """The environment of an id that the package registers with Gymnasium; ``arguments`` as for ``gymnasium.make``."""
    import gymnasium

    _package(f"gym/{id_}")
    return gymnasium.make(id_, **arguments)


def _package(task: str) -> Any:
    """The package, corrected by :func:`mend`. Raises ImportError, with the remedy, if it is missing."""
    try:
        import metaworld
        import metaworld.env_dict
        from metaworld.sawyer_xyz_env import SawyerMocapBase
    except ImportError as error:
        raise ImportError(f"{task} needs Meta-World ({error}); {HOW_TO_INSTALL}") from error
    mend(SawyerMocapBase)
    return metaworld


def mend(base: Any) -> None:
    """Replaces a method of ``base`` (SawyerMocapBase) that writes 11 columns to a row of ``eq_data``, if MuJoCo's rows
    have more."""
    import mujoco

    if mujoco.mjNEQDATA > len(WELD):
        base.reset_mocap_welds = reset_mocap_welds


def reset_mocap_welds(env: Any) -> None:
    """Holds the hand at the moved point; replaces the method of this name."""
    import mujoco

    if env.model.nmocap:
        env.model.eq_data[env.model.eq_type == int(mujoco.mjtEq.mjEQ_WELD), : len(WELD)] = WELD


def turn_upright(model: Any, camera: int) -> None:
    """Rotates a camera of the model by 180° about its line of sight: its quaternion times k."""
    w, x, y, z = model.cam_quat[camera]
    model.cam_quat[camera] = -z, y, -x, w


class SeededAtReset:
    """The environment ``unwrapped`` with a ``reset`` that uses the seed; its own ignores it."""

    def __init__(self, env: Any) -> None:
        self.unwrapped, self.step, self.close = env, env.step, env.close
        self.action_space, self.observation_space = env.action_space, env.observation_space

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.unwrapped.seed(seed)
        return self.unwrapped.reset()
