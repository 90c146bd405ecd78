"""The six networks of EZ-M and the world model that joins them."""

from ezm_lightning.model.world_model import WorldModel

__all__ = ["WorldModel"]
