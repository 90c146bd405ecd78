"""The name and the dimensions of a task."""

from __future__ import annotations

from dataclasses import dataclass

from ezm_lightning.envs.checks import rising, shown, whole

LONGEST = 1_000_000  # simulator steps of an episode


@dataclass(frozen=True)
class TaskSpec:
    """The description of a task, known before its simulator is built."""

    name: str  # with its prefix, 'dmc/cartpole-balance'
    obs_dim: int
    action_dim: int
    max_episode_steps: int  # simulator steps, action repeats counted one by one
    random_score: float | None = None  # return of a uniformly random policy, if published
    success_score: float | None = None  # return that counts as solved, if published
    reward_range: tuple[float, float] | None = None  # bounds of one simulator step's reward, if known
    reward_scale: float | None = None  # a factor for rewards before they are learned, if the source has one
    reports_success: bool = False  # its steps report success: the key ("next", "success")
    note: str = ""  # on the physics, for reports: 'h1 (built-in collision shapes)'

    def __post_init__(self) -> None:
        """Raises ValueError for a dimension or a time limit that is not a whole number of at least 1, for a limit above
        LONGEST, for bounds of rewards that do not rise, and for a ``reports_success`` that is not True or False."""
        for name in ("obs_dim", "action_dim", "max_episode_steps"):
            object.__setattr__(self, name, whole(self.name, name, getattr(self, name)))
        if self.max_episode_steps > LONGEST:
            raise ValueError(
                f"{self.name}: max_episode_steps={shown(self.max_episode_steps)} is above {LONGEST:_}; "
                "every evaluation plays episodes to this limit"
            )
        if self.reward_range is not None:
            object.__setattr__(self, "reward_range", rising(self.name, "reward_range", self.reward_range))
        if not isinstance(self.reports_success, bool):
            raise ValueError(f"{self.name}: reports_success must be True or False, got {shown(self.reports_success)}")

    @property
    def label(self) -> str:
        """The name with its note, for tables and logs."""
        return f"{self.name} on {self.note}" if self.note else self.name
