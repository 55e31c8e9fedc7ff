"""When a sampling is steered."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SteeringWindow:
    """A part of the sampling (0 at its begin, 1 at its end), and every so many steps in it."""

    start: float = 0.0
    end: float = 1.0
    every: int = 1

    def __post_init__(self) -> None:
        if not 0.0 <= self.start <= self.end <= 1.0:
            raise ValueError(
                f"Steering would act from {self.start:g} to {self.end:g} of the sampling; "
                "start_percent must not lie behind end_percent, and both lie in 0..1."
            )
        if self.every < 1:
            raise ValueError(f"Steering every {self.every} steps was asked for; 1 or more is.")

    def acts(self, percent: float, step: int) -> bool:
        """Whether the step number ``step`` (from 0), at ``percent`` of the sampling, is steered."""
        return self.start <= percent <= self.end and step % self.every == 0
