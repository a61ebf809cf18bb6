"""Rate-distortion models: distortion as a convex function of the rate, for the continuous solvers and theory plots.

`Exponential` (the ideal Gaussian and fits to a family) and `Hull` (measured points). Both give `distortion(rates)` and,
for cvxpy, a convex `expression(rates)`."""

from alloc.rate_distortion.exponential import GAUSSIAN, Exponential, fit_exponential
from alloc.rate_distortion.hull import Hull, lower_hull

__all__ = ["GAUSSIAN", "Exponential", "Hull", "fit_exponential", "lower_hull"]
