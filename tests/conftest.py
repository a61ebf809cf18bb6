"""Threads that wait sleep, in every worker and in the commands that it starts.

OpenMP's own choice is to spin for milliseconds at the end of each loop. Two workers of two threads each on two cores
then wait for cores that only spin: `test_feedback_methods`, of small products, takes 114 s of CPU instead of 5. The
variable counts when torch is loaded, so it is set before any test is."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
