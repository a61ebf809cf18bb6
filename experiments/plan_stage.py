"""The plans of a run: the optimum under the budget, and what it is honestly compared with.

A uniform plan spends its own bytes, never its nominal rate. So besides the optimum at the user's budget there is the
best uniform plan within it, the optimum at exactly the bytes of that uniform plan, and the baselines."""

from __future__ import annotations

import logging

import hydra
from omegaconf import DictConfig

from alloc.budgets import Budgets
from alloc.problem import Choice, build_problem
from alloc.solution import Solution, write_allocation
from alloc.solvers import Fixed, Uniform
from alloc.tables import Tables, read_tables
from experiments.workspace import Workspace, settings

log = logging.getLogger(__name__)


def label(cfg: DictConfig) -> str:
    """The budget in words, for names of plans and folders."""
    if cfg.budget.uniform:
        return f"as-{cfg.budget.uniform}"
    if cfg.budget.memory_bytes:
        return f"{cfg.budget.memory_bytes}-bytes"
    return f"{cfg.budget.bits_per_weight:g}-bits"


def budgets(cfg: DictConfig) -> Budgets:
    """The budget of the config: `uniform` or `memory_bytes` where set, else bits per weight."""
    if cfg.budget.uniform:
        return Budgets(uniform=cfg.budget.uniform)
    if cfg.budget.memory_bytes:
        return Budgets(memory_bytes=cfg.budget.memory_bytes)
    return Budgets(bits_per_weight=cfg.budget.bits_per_weight)


def solve(tables: Tables, cfg: DictConfig, limit: Budgets) -> Solution:
    """The configured solver under one budget, on the palette of the config."""
    problem = build_problem(
        tables, budgets=limit, members=list(cfg.palette.members), pins=list(cfg.pin), exclude=list(cfg.exclude)
    )
    solution: Solution = hydra.utils.instantiate(cfg.solver).solve(problem)
    return solution


def uniform_plan(tables: Tables, quantizer: str, exclude: list[str]) -> Solution:
    """Every allocatable layer with one quantizer, priced by the tables; its budget is its own bytes."""
    problem = build_problem(tables, budgets=Budgets(uniform=quantizer), members=[quantizer], exclude=exclude)
    names = [tables.layers[position] for group in problem.members for position in group]
    plan = {name: Choice(quantizer=quantizer) for name in names}
    return Fixed(layers=plan).solve(problem)


def plans(tables: Tables, cfg: DictConfig) -> dict[str, Solution]:
    """Name -> plan, the optimum under the user's budget first."""
    exclude = list(cfg.exclude)
    result = {f"mixed-{label(cfg)}": solve(tables, cfg, budgets(cfg))}
    if cfg.budget.uniform:
        uniform = cfg.budget.uniform
    else:
        problem = build_problem(tables, budgets=budgets(cfg), members=list(cfg.palette.members), exclude=exclude)
        best = Uniform().solve(problem)
        uniform = next(iter(best.layers.values())).quantizer
        result[f"mixed-as-{uniform}"] = solve(tables, cfg, Budgets(uniform=uniform))
    for quantizer in (uniform, *cfg.baselines):
        result[quantizer] = uniform_plan(tables, quantizer, exclude)
    return result


def make_plans(run: Workspace) -> list[str]:
    """plans/NAME/allocation.json for every plan; the names."""
    index = run.path("plans/index.txt")

    def work() -> None:
        tables = read_tables(run.folder)
        found = plans(tables, run.cfg)
        for name, solution in found.items():
            write_allocation(run.path(f"plans/{name}/allocation.json"), solution, tables)
            log.info(
                "%s: predicted loss %.6g, lower bound %.6g, gap %.2g, %s bytes, %s",
                name, solution.objective, solution.lower_bound, solution.gap,
                solution.costs["memory_bytes"], solution.status,
            )  # fmt: skip
        index.write_text("\n".join(found) + "\n")

    cfg = run.cfg
    inputs = [settings(node) for node in (cfg.budget, cfg.palette, cfg.solver, cfg.baselines, cfg.pin, cfg.exclude)]
    tables = [run.path(name) for name in ("layers.csv", "quantizers.csv", "storage.csv")]
    run.stages.run("allocate", work, settings=inputs, reads=tables, writes=[index])
    return index.read_text().split()
