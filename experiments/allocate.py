"""`python -m experiments.allocate tables=FOLDER out=DIR budget.bits_per_weight=3.25`: tables -> allocation.json.

Everything is read and solved before the first byte is written: a bad input leaves no trace."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from alloc.problem import Budgets, Problem, build_problem
from alloc.solution import Solution, write_allocation
from alloc.tables import read_tables
from experiments.entry import run, save_run
from experiments.vram import OPTIONS, bytes_for_weights

BUDGETS = ("bits_per_weight", "memory_bytes", "latency_us", "tokens_per_second", "uniform")


def main(cfg: DictConfig) -> None:
    """Read the tables, solve, write `out/allocation.json` and `out/run.json`, print a summary."""
    out = Path(cfg.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={out} is a file; it must be a folder")
    problem = read_problem(cfg)
    solution: Solution = instantiate(cfg.solver).solve(problem)
    write_allocation(out / "allocation.json", solution, problem.tables)
    save_run(out, cfg)
    print(summary(solution, problem))


def read_problem(cfg: DictConfig) -> Problem:
    """The problem that a config describes. Raises ValueError on a value of the wrong type as well."""
    budget = {str(name): value for name, value in cfg.budget.items()}
    whole_model = budget.pop("whole_model", False)
    within = mapping("budget.within", budget.pop("within", None) or {})
    standard = {name: budget.pop(name, None) for name in BUDGETS}
    card = {name: budget.pop(name, None) for name in OPTIONS}
    if card["vram_bytes"] is not None:
        if standard["memory_bytes"] is not None:
            raise ValueError("budget.vram_bytes and budget.memory_bytes limit the same bytes; set one of them")
        standard["memory_bytes"] = bytes_for_weights(card, Path(str(cfg.tables)), whole("batch", cfg.batch))
        whole_model = True
    named = {name: value for name, value in budget.items() if value is not None}
    members = cfg.palette.members
    return build_problem(
        read_tables(str(cfg.tables)),
        budgets=Budgets(**standard, named=named, within=within),
        members=None if members is None else strings("palette.members", members),
        pins=strings("pin", cfg.pin),
        exclude=strings("exclude", cfg.exclude),
        kernels=None if cfg.kernels is None else strings("kernels", cfg.kernels),
        fusion=flag("fusion", cfg.fusion),
        batch=whole("batch", cfg.batch),
        whole_model=flag("budget.whole_model", whole_model),
    )


def mapping(name: str, value: Any) -> dict[str, Any]:
    """Patterns and their limits, `name={PATTERN:LIMIT}`."""
    if not OmegaConf.is_dict(value) and not isinstance(value, dict):
        raise ValueError(f"{name}={value!r} is not accepted; it must be like {name}={{'*.layers.0.*':3.5}}")
    return {str(pattern): limit for pattern, limit in value.items()}


def strings(name: str, value: Any) -> Sequence[str]:
    """A list of words, `name=[a,b]`; a single word counts as one."""
    values = [value] if isinstance(value, str) else value
    if not OmegaConf.is_list(values) and not isinstance(values, list):
        raise ValueError(f"{name}={value!r} is not accepted; it must be a list such as {name}=[a,b]")
    if bad := [item for item in values if not isinstance(item, str)]:
        raise ValueError(f"{name} holds {bad[0]!r}, which is not a word")
    return list(values)


def flag(name: str, value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} is not accepted; it must be true or false")
    return value


def whole(name: str, value: Any) -> int:
    """An integer."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name}={value!r} is not a whole number")
    return value


def summary(solution: Solution, problem: Problem) -> str:
    """A few lines for the terminal."""
    bits = dict.fromkeys(problem.tables.quantizers, 0)
    params = dict(zip(problem.tables.layers, problem.tables.params.tolist(), strict=True))
    for name, choice in solution.layers.items():
        bits[choice.quantizer] += params[name]
    total = sum(bits.values())
    lines = [
        f"{solution.solver}: {solution.status} in {solution.runtime_s * 1e3:.1f} ms",
        f"predicted loss {solution.objective:.10g} nats/token, lower bound {solution.lower_bound:.10g}, "
        f"gap {solution.gap:.2e}",
    ]
    for name, cost in solution.costs.items():
        limit = f" of {solution.budgets[name]}" if name in solution.budgets else ""
        lines.append(f"{name} {cost}{limit}{shadow_price(name, solution.prices.get(name))}")
    shares = ", ".join(f"{name} {100 * count / total:.1f}%" for name, count in bits.items() if count)
    lines.append(f"{len(solution.layers)} layers: {shares} of the weights")
    return "\n".join(lines)


def shadow_price(name: str, price: float | None) -> str:
    """What a little more of a budget would buy, at its price in nats per unit."""
    if price is None:
        return ""
    size, unit = (1 << 20, "MiB") if name.startswith("memory_bytes") else (1, "us" if name == "latency_us" else "unit")
    return f"; 1 {unit} more buys {price * size:.3g} nats/token"


def open_budget(arguments: list[str]) -> list[str]:
    """`budget.COST=...` may name any column of costs.csv, which the config cannot list: Hydra adds it where new."""
    return ["++" + argument if argument.startswith("budget.") else argument for argument in arguments]


if __name__ == "__main__":
    sys.argv[1:] = open_budget(sys.argv[1:])
    run(main, "allocate")
