"""Solution: a plan with its certificate, and allocation.json.

gap = (objective - lower_bound) / objective;  status "optimal" (gap <= tolerance, proven) or "feasible"."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alloc.choice import Choice
from alloc.tables import Tables

OPTIMAL = "optimal"
FEASIBLE = "feasible"


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """`objective` and `lower_bound` in nats/token; `costs` and `budgets` in bytes (int), microseconds or own units;
    `prices`: nats/token per unit of each budget; `layers`: layer name -> choice; `runtime_s`: the solve alone."""

    objective: float
    lower_bound: float
    gap: float
    status: str
    costs: Mapping[str, float]
    budgets: Mapping[str, float]
    tolerance: float
    prices: Mapping[str, float]
    layers: Mapping[str, Choice]
    solver: str
    runtime_s: float

    def __post_init__(self) -> None:
        if self.status not in (OPTIMAL, FEASIBLE):
            raise ValueError(f"status {self.status!r} is not {OPTIMAL} or {FEASIBLE}")
        for name, limit in self.budgets.items():
            if not self.costs[name] <= limit:
                raise ValueError(f"the plan costs {name}={self.costs[name]!r}, over the budget {limit!r}")


def relative_gap(objective: float, lower_bound: float) -> float:
    """(objective - lower_bound) / |objective|; 0 where both are equal."""
    if objective == lower_bound:
        return 0.0
    return (objective - lower_bound) / abs(objective) if objective else math.inf


def write_allocation(path: str | Path, solution: Solution, tables: Tables) -> None:
    """Write allocation.json atomically; the folder is made. `tables` gives the hashes of the files read."""
    path = Path(path)
    content: dict[str, Any] = {
        "status": solution.status,
        "objective": solution.objective,
        "lower_bound": finite_or_none(solution.lower_bound),
        "gap": finite_or_none(solution.gap),
        "costs": dict(solution.costs),
        "budgets": dict(solution.budgets),
        "tolerance": solution.tolerance,
        "prices": dict(solution.prices),
        "layers": {
            name: {"quantizer": choice.quantizer, "kernel": choice.kernel, "fused_with": list(choice.fused_with)}
            for name, choice in solution.layers.items()
        },
        "solver": solution.solver,
        "runtime_s": round(solution.runtime_s, 6),
        "tables": dict(tables.hashes),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".partial")
    try:
        with os.fdopen(handle, "w") as stream:
            json.dump(content, stream, indent=1, allow_nan=False)
            stream.write("\n")
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def finite_or_none(value: float) -> float | None:
    """JSON has no infinity: a solver without a bound writes null."""
    return value if math.isfinite(value) else None


def read_allocation(path: str | Path) -> Solution:
    """Read allocation.json; certificate keys that a foreign plan lacks are filled honestly (no bound: -inf).

    Raises FileNotFoundError, or ValueError on damaged JSON, no layers or a fused block without its partner."""
    path = Path(path)
    try:
        content = json.loads(path.read_text())
        layers = {name: _choice(path, name, entry) for name, entry in content["layers"].items()}
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged JSON ({error})") from None
    except (KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{path}: no plan in it; 'layers' must map names to quantizer, kernel and fused_with"
        ) from None
    if not layers:
        raise ValueError(f"{path}: the plan has no layers")
    for name, choice in layers.items():
        for partner in choice.fused_with:
            if partner not in layers or name not in layers[partner].fused_with:
                raise ValueError(f"{path}: {name} is fused with {partner}, which does not say so")
    bound, gap = content.get("lower_bound"), content.get("gap")
    return Solution(
        objective=float(content.get("objective", math.nan)),
        lower_bound=-math.inf if bound is None else float(bound),
        gap=math.inf if gap is None else float(gap),
        status=content.get("status", FEASIBLE),
        costs=content.get("costs", {}),
        budgets=content.get("budgets", {}),
        tolerance=float(content.get("tolerance", 0.0)),
        prices=content.get("prices", {}),
        layers=layers,
        solver=content.get("solver", "unknown"),
        runtime_s=float(content.get("runtime_s", 0.0)),
    )


def _choice(path: Path, name: str, entry: Mapping[str, Any]) -> Choice:
    quantizer = entry["quantizer"]
    if not isinstance(quantizer, str) or not quantizer:
        raise ValueError(f"{path}: layer {name} has the quantizer {quantizer!r}, which is not a name")
    return Choice(quantizer=quantizer, kernel=entry.get("kernel"), fused_with=tuple(entry.get("fused_with", ())))
