"""Pictures, and the message where none can be drawn."""

import os
import subprocess
import sys

import pytest

from ezm_lightning.envs import MultiTaskEnv, rendering

DRAW = (
    "from ezm_lightning.envs import MultiTaskEnv\n"
    "env = MultiTaskEnv(['dmc/cartpole-balance'])\n"
    "env.reset()\n"
    "try:\n    env.render(0, 32, 32)\n"
    "except RuntimeError as error:\n    print(error)\n"
)


def test_pictures():
    env = MultiTaskEnv(["dmc/cartpole-balance", "gym/Hopper-v5"])
    env.reset()
    try:
        pictures = [env.render(slot, 48, 64) for slot in (0, 1, 0)]
    except RuntimeError as error:
        pytest.skip(f"no OpenGL here: {error}")
    assert all(picture.shape == (48, 64, 3) and picture.std() > 5 for picture in pictures)
    assert env.render(0, 600, 800).shape == (600, 800, 3)  # beyond the model's own frame buffer


def test_a_model_without_looks_shows_what_collides():
    mujoco = pytest.importorskip("mujoco")
    ball = "<mujoco><worldbody><light pos='0 0 3'/><body><geom size='.5' group='3'/>{}</body></worldbody></mujoco>"
    pictures = []
    for looks in ("", "<geom size='.01' pos='0 0 9' group='2'/>"):
        model = mujoco.MjModel.from_xml_string(ball.format(looks))
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        try:
            pictures.append(rendering.Camera(model, data).render(32, 32))
        except RuntimeError as error:
            pytest.skip(f"no OpenGL here: {error}")
    assert pictures[0].std() > 5 > pictures[1].std()


def test_without_opengl_the_package_to_install_is_named():
    run = subprocess.run(
        [sys.executable, "-c", DRAW], env={**os.environ, "MUJOCO_GL": "disable"}, capture_output=True, text=True
    )
    assert run.returncode == 0 and "libegl1" in run.stdout and "libosmesa6" in run.stdout, run.stderr


def test_a_renderer_without_method_says_so():
    env = MultiTaskEnv(["gym/Pendulum-v1"])
    env.reset()
    with pytest.raises(RuntimeError, match="not a MuJoCo environment"):
        env.render(0, 8, 8)


@pytest.mark.parametrize(("found", "chosen"), [(None, "disable"), ("libEGL.so.1", "egl")])
def test_without_a_screen_egl_is_chosen_where_it_is_found(found, chosen, monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setattr(rendering.sys, "platform", "linux")
    monkeypatch.setattr(rendering.ctypes.util, "find_library", lambda name: found)
    monkeypatch.setattr(rendering.importlib, "import_module", lambda name: None)
    rendering.choose_gl()
    assert os.environ["MUJOCO_GL"] == chosen
    monkeypatch.delenv("MUJOCO_GL")


def test_a_choice_of_the_users_is_kept(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    rendering.choose_gl()
    assert os.environ["MUJOCO_GL"] == "osmesa"
