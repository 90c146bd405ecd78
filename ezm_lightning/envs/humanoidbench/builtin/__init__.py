"""An H1 that runs without assets: ``h1_table`` describes the robot, ``terrain`` its surroundings."""

from ezm_lightning.envs.humanoidbench.builtin.robot import build_model, build_spec

__all__ = ["build_model", "build_spec"]
