"""What a task is called and how large it is."""

from __future__ import annotations

from dataclasses import dataclass

from ezm_lightning.envs.checks import whole


@dataclass(frozen=True)
class TaskSpec:
    """What is known of a task before its simulator is built."""

    name: str  # with its prefix, 'dmc/cartpole-balance'
    obs_dim: int
    action_dim: int
    max_episode_steps: int  # simulator steps, action repeats counted one by one
    random_score: float | None = None  # return of a uniformly random policy, where published
    success_score: float | None = None  # return that counts as solved, where published
    reward_range: tuple[float, float] | None = None  # bounds of one simulator step's reward, where known
    reward_scale: float | None = None  # what rewards are multiplied by before they are learned, where the source knows
    reports_success: bool = False  # its steps say whether the goal holds: the key ("next", "success")
    note: str = ""  # what a report must say of the physics, 'h1 (built-in collision shapes)'

    def __post_init__(self) -> None:
        """Raises ValueError for a dimension or a time limit that is no whole number of at least 1."""
        for what in ("obs_dim", "action_dim", "max_episode_steps"):
            object.__setattr__(self, what, whole(self.name, what, getattr(self, what)))

    @property
    def label(self) -> str:
        """The name as tables and logs show it: with its note."""
        return f"{self.name} on {self.note}" if self.note else self.name
