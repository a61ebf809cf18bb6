r"""The additive model of a step's time: us(plan) = constant + sum over products of table(members, quantizer, batch).

The head is in the constant, in 16 bits, unless the table has rows `lm_head`: then it is one of the products.
`python -m quantizers.kernels.predicted_step --latency latency.csv --config FOLDER --plans a --measured step.json` sets
it beside what `decode_step` measured. `latency.csv` is that of `quantizers.kernels.profile`; where several kernels make
one product, the fastest counts. Members are a set: their order makes no difference."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from transformers import PreTrainedConfig

from quantizers.kernels.random_model import block_layers
from quantizers.kernels.random_plan import FP16, StepPlan, read_plan
from quantizers.models.empty import read_architecture
from quantizers.models.families import HEAD

log = logging.getLogger(__name__)
COLUMNS = {"members", "quantizer", "batch", "latency_us"}
CONSTANT = "constant"
Key = tuple[frozenset[str], str, int, int, int]  # members, quantizer, batch, out_features, in_features


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyTable:
    """`products` and `constants` (by batch), in microseconds. A product of any shape has 0, 0 for it."""

    path: Path
    products: Mapping[Key, float]
    constants: Mapping[int, float]

    def product(self, members: Sequence[str], quantizer: str, batch: int, shape: tuple[int, int]) -> float:
        """us of a product. ValueError names the row that the table lacks."""
        for rows, columns in (shape, (0, 0)):
            key = frozenset(members), quantizer, batch, rows, columns
            if key in self.products:
                return self.products[key]
        raise ValueError(
            f"{self.path} has no row {'+'.join(members)} of {quantizer}, batch {batch}, {shape[0]} x {shape[1]}; "
            "quantizers.kernels.profile measures it"
        )

    def constant(self, batch: int) -> float:
        """us of the rest of a token. ValueError where the table has none."""
        if batch not in self.constants:
            raise ValueError(f"{self.path} has no row {CONSTANT!r} for batch {batch}; profile --config measures it")
        return self.constants[batch]

    def head(self, quantizer: str, batch: int, shape: tuple[int, int]) -> float:
        """us that the head takes besides the constant. ValueError where the constant is with another head, or as
        `product`."""
        if any(members == {HEAD} and size == batch for members, _, size, _, _ in self.products):
            return self.product([HEAD], quantizer, batch, shape)
        if quantizer != FP16:
            raise ValueError(
                f"the row {CONSTANT!r} of {self.path} is with a head of {FP16}, not {quantizer}: profile --head takes "
                "it out, --constant measured measures the rest with this head"
            )
        return 0.0


def read_table(path: Path) -> LatencyTable:
    """latency.csv. FileNotFoundError, or ValueError where it is no such table."""
    rows = pd.read_csv(path)
    if missing := COLUMNS - set(rows.columns):
        raise ValueError(f"{path} lacks the column {min(missing)}")
    rows = rows.reindex(columns=[*sorted(COLUMNS), "out_features", "in_features"])
    products: dict[Key, float] = {}
    constants: dict[int, float] = {}
    shaped = rows.fillna({"out_features": 0, "in_features": 0})
    columns = ("members", "quantizer", "batch", "latency_us", "out_features", "in_features")
    for members, quantizer, batch, us, out, into in shaped[list(columns)].itertuples(index=False, name=None):
        if members == CONSTANT:
            constants[int(batch)] = float(us)
            continue
        key = frozenset(str(members).split("+")), str(quantizer), int(batch), int(out), int(into)
        products[key] = min(float(us), products.get(key, float("inf")))
    return LatencyTable(path=path, products=products, constants=constants)


def products_us(plan: StepPlan, layers: pd.DataFrame, table: LatencyTable, batch: int) -> float:
    """The sum over the products of a plan. layers: those of `block_layers`. ValueError as `LatencyTable.product`."""
    facts = zip(layers.out_features, layers.in_features, strict=True)
    shapes = {name: (int(out), int(into)) for name, (out, into) in zip(layers.layer, facts, strict=True)}
    total = 0.0
    for unit in plan.units:
        shape = sum(shapes[name][0] for name in unit), shapes[unit[0]][1]
        members = [name.rpartition(".")[2] for name in unit]
        total += table.product(members, plan.choices[unit[0]].quantizer, batch, shape)
    return total


def head_us(config: PreTrainedConfig, plan: StepPlan, table: LatencyTable, batch: int, default: str = FP16) -> float:
    """us of the head besides the constant; default: of a plan that does not name it. ValueError as of the table."""
    text = config.get_text_config()
    return table.head(plan.head(default), batch, (text.vocab_size, text.hidden_size))


def error_percent(predicted_us: float, measured_us: float) -> float:
    """Of the prediction, in percent of what was measured."""
    return 100 * (predicted_us / measured_us - 1)


def compared(
    plans: Sequence[StepPlan], config: PreTrainedConfig, table: LatencyTable, batches: Sequence[int],
    measured: Mapping[tuple[str, int], float],
) -> pd.DataFrame:  # fmt: skip
    """A row a plan and batch. measured: (name of the plan, batch) -> us; what is not in it stays empty."""
    found, layers = [], block_layers(config)
    for plan in plans:
        for batch in batches:
            constant = table.constant(batch)
            products = products_us(plan, layers, table, batch) + head_us(config, plan, table, batch)
            us = measured.get((plan.name, batch), float("nan"))
            error = error_percent(constant + products, us)
            found.append((plan.name, batch, constant, products, constant + products, us, error))
    names = ["plan", "batch", "constant_us", "products_us", "predicted_us", "measured_us", "error_percent"]
    return pd.DataFrame(found, columns=pd.Index(names))


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict, and compare."""
    parser = argparse.ArgumentParser(description="the predicted time of a token beside the measured one")
    parser.add_argument("--latency", type=Path, required=True)
    parser.add_argument("--config", required=True, help="folder with config.json")
    parser.add_argument("--plans", nargs="+", required=True)
    parser.add_argument("--unfused", action="store_true", help="of plans that are names without :fused or :unfused")
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--measured", type=Path, help="JSON of decode_step")
    parser.add_argument("--out", type=Path, help="a csv")
    options = parser.parse_args(arguments)
    logging.basicConfig(level="INFO", format="%(message)s")
    try:
        config = read_architecture(options.config)
        layers = block_layers(config)
        plans = [read_plan(text, layers, fused=not options.unfused) for text in options.plans]
        rows = json.loads(options.measured.read_text())["steps"] if options.measured else []
        measured = {(row["plan"], row["batch"]): row["median_us"] for row in rows}
        table = compared(plans, config, read_table(options.latency), options.batches, measured)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    log.info("%s", table.to_string(index=False, float_format="%.1f"))
    if options.out:
        table.to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
