"""Independent experience replay: ``rings`` of rows, ``windows`` drawn by ``priorities``, ``shards`` for many ranks."""

from ezm_lightning.replay.rings import Replay, replay_bytes, row_schema, rows_per_slot

__all__ = ["Replay", "replay_bytes", "row_schema", "rows_per_slot"]
