"""The results of Q-Palette (Lee and Song, NeurIPS 2025, arXiv 2509.20214) as experiments: each a frozen object made by
conf/experiment/NAME.yaml, run by experiments.reproduce."""

from experiments.paper.latency_budgets import LatencyBudgets
from experiments.paper.memory_budgets import MemoryBudgets
from experiments.paper.normal_float import NormalFloat
from experiments.paper.perplexity_fit import PerplexityFit
from experiments.paper.published_plans import PublishedPlans
from experiments.paper.real_model import RealModel
from experiments.paper.theory import Theory

__all__ = ["EXPERIMENTS"]

EXPERIMENTS = (PublishedPlans, NormalFloat, MemoryBudgets, LatencyBudgets, Theory, PerplexityFit, RealModel)
