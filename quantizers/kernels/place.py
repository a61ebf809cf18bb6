"""Where a product is launched: what stands before and behind it decides when the next kernel is let in."""

from __future__ import annotations

from enum import Enum


class Place(Enum):
    """value: (blocks have an SM each, the next kernel is let in before the sums are done).

    In a row of products the next one fetches its first codes meanwhile, on the same SM where it is small. Between
    rotations it would find no room on some SM and pile up on another, so that it is let in late; the launches of an
    attention are small, wait for x before they let others in, and gain their start."""

    IN_A_ROW = (False, True)
    BETWEEN_ROTATIONS = (True, False)
    BEFORE_ATTENTION = (True, True)

    @property
    def alone(self) -> bool:
        """Whether blocks have an SM each."""
        return self.value[0]

    @property
    def early(self) -> bool:
        """Whether the next kernel is let in before the sums are done."""
        return self.value[1]
