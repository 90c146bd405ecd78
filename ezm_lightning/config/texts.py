"""Checks, before anything is built or written, that a run can get the vectors of its instructions."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from ezm_lightning.language.encoders import check_installed, encoder_kind
from ezm_lightning.language.instructions import instructions_of


def check_texts(cfg: DictConfig) -> None:
    """Raises ValueError for an unknown encoder and a task without an instruction, ImportError for missing weights.

    A checkpoint has the vectors, so a resumed run is not checked.
    """
    node = OmegaConf.select(cfg, "model")
    embedding = node.get("task_embedding") if isinstance(node, DictConfig) else None
    if embedding is None or "text_dim" not in embedding or OmegaConf.select(cfg, "text") is None:
        return
    encoder_kind(cfg.text.encoder)
    if cfg.ckpt_path is None:
        check_installed(cfg.text.encoder)
        instructions_of(list(cfg.tasks.names), cfg.text.instructions)
