"""The H1 that runs without any asset: ``h1_table`` describes the robot, ``terrain`` what stands around it."""

from ezm_lightning.envs.humanoidbench.builtin.robot import build_model, build_spec

__all__ = ["build_model", "build_spec"]
