"""The world model's weights laid out for search."""

from ezm_lightning.model.packed.model import PackedModel

__all__ = ["PackedModel"]
