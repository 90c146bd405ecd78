"""The six networks of EZ-M, the world model that joins them, and its packed form for search."""

from ezm_lightning.model.inference import Inference
from ezm_lightning.model.packed import PackedModel
from ezm_lightning.model.world_model import WorldModel

__all__ = ["Inference", "PackedModel", "WorldModel"]
