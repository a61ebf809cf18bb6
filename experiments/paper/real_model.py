"""Tables 3 and 4: a real model quantized and measured by the project's own commands, without data or with it.

For every rate: `experiments.pipeline` chooses, quantizes plainly and evaluates; with `feedback` also
`experiments.calibrate`, `experiments.quantize` with it, `experiments.evaluate`; `tasks` go through
`experiments.evaluate`. Needs the model (a hub that answers, or a folder) and a GPU, and says so where there is none. A
perplexity is held against the published one only on the published text, which `text` must then be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from experiments.entry import CONF, describe
from experiments.paper.comparison import Comparison, Material, Outcome, compared

NO_SPEED = "needs measured products of all layers on this GPU (experiments.profile_latency)"


def command(name: str, overrides: Mapping[str, Any]) -> None:
    """`python -m experiments.NAME` with these settings, in this process."""
    initialized = GlobalHydra.instance().is_initialized()
    with nullcontext() if initialized else initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(name, overrides=[f"{key}={written(value)}" for key, value in overrides.items()])
    import_module(f"experiments.{name}").main(cfg)


def written(value: object) -> str:
    """As an override: quoted text, lists in brackets."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(map(written, value))}]"
    return (
        "null" if value is None else f"'{value}'" if isinstance(value, str | Path) and "/" in str(value) else str(value)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RealModel:
    """`model`: folder or hub id; `context`: tokens of a window, `windows` of the evaluation text; `calibration`: window
    and count of the other half; `published`: case ("3.25 bits", "uniform QUANTIZER", "16 bits") -> quantities."""

    model: str
    bits: Sequence[float]
    members: Sequence[str]
    context: int
    windows: int
    calibration: Mapping[str, int]
    uniform: Sequence[str] = ()
    sensitivity: str = "noise"
    feedback: str = "none"
    tasks: Sequence[str] = ()
    text: str | None = None
    state_bits: int = 16
    needs_gpu: bool = True
    published: Mapping[str, Mapping[str, str | float]] = field(default_factory=dict)

    needs_tables: ClassVar[bool] = False

    def run(self, name: str, material: Material) -> Outcome:
        """A row a model. ValueError where there is no GPU or no model."""
        if self.needs_gpu and not torch.cuda.is_available():
            raise ValueError(f"{self.model} is not quantized and evaluated without a GPU")
        folder = material.out / "models" / name
        try:
            rows = [row for bits in self.bits for row in self._measured(bits, folder)]
        except OSError as error:
            raise ValueError(f"{self.model}: {describe(error)}") from error
        frame = pd.DataFrame(rows).drop_duplicates("case", ignore_index=True)
        return Outcome(comparisons=self._compared(frame), table=frame)

    def _source(self) -> dict[str, Any]:
        text = {} if self.text is None else {"text.path": self.text}
        return {"model": "path", "model.path": self.model, "text": "wikipedia", **text}

    def _measured(self, bits: float, folder: Path) -> list[dict[str, Any]]:
        """A row of every model that this rate makes, and of the 16-bit one."""
        out = folder / f"{bits:g}-bits"
        self._plain(bits, folder, out)
        plan = f"mixed-{bits:g}-bits"
        cases = {"reference": "16 bits", plan: f"{bits:g} bits", **{name: f"uniform {name}" for name in self.uniform}}
        again = [out / "checkpoints" / name for name in cases if name != "reference" and self.tasks]
        if self.feedback != "none":
            again.append(self._corrected(plan, folder, out))
            cases[again[-1].name] = f"{bits:g} bits, {self.feedback}"
        summary = pd.read_csv(out / "summary.csv")
        accuracy: dict[str, float] = {}
        if again:
            further, accuracy = self._evaluated(again, out / "again")
            summary = pd.concat([summary, further]).drop_duplicates("plan")
        kept = summary[summary.plan.isin(cases)]
        rows = kept[["bits_per_weight", "perplexity", "kl", "kl_se"]]
        rows = rows.assign(case=kept.plan.map(cases), accuracy=kept.plan.map(accuracy))
        return [{str(key): value for key, value in row.items()} for row in rows.to_dict("records")]

    def _plain(self, bits: float, folder: Path, out: Path) -> None:
        """Plan, checkpoint and evaluation without data in the codes."""
        command("pipeline", {
            **self._source(), **self._codes(folder), "palette.members": self.members, "sensitivity": self.sensitivity,
            "baselines": self.uniform, "budget.bits_per_weight": bits, "evaluation.window": self.context,
            "evaluation.count": self.windows, "check.layers": 0, "out": out, **self._calibration(),
        })  # fmt: skip

    def _corrected(self, plan: str, folder: Path, out: Path) -> Path:
        """The plan's checkpoint with error feedback; the second moments are collected once a model."""
        hessians = folder / "hessians"
        if not hessians.exists():
            command("calibrate", {**self._source(), **self._calibration(), "out": hessians})
        corrected = out / f"{plan}-{self.feedback}"
        command("quantize", {
            "model": "path", "model.path": self.model, **self._codes(folder), "feedback": self.feedback,
            "hessians": hessians, "plan": out / "plans" / plan / "allocation.json", "out": corrected,
        })  # fmt: skip
        return corrected

    def _evaluated(self, checkpoints: Sequence[Path], out: Path) -> tuple[pd.DataFrame, dict[str, float]]:
        """(summary.csv, plan -> mean accuracy of the tasks)."""
        command("evaluate", {
            **self._source(), "checkpoint": checkpoints, "window": self.context, "windows": self.windows,
            "tasks": self.tasks, "out": out,
        })  # fmt: skip
        accuracy = mean_accuracy(pd.read_csv(out / "tasks.csv")) if self.tasks else {}
        return pd.read_csv(out / "summary.csv"), accuracy

    def _calibration(self) -> dict[str, Any]:
        return {f"calibration.{key}": value for key, value in self.calibration.items()}

    def _codes(self, folder: Path) -> dict[str, Any]:
        return {"cache": folder / "cache", "state_bits": self.state_bits}

    def _compared(self, frame: pd.DataFrame) -> list[Comparison]:
        found: list[Comparison] = []
        for row in frame.to_dict("records"):
            ours = {
                quantity: None if pd.isna(row[quantity]) else row[quantity] for quantity in ("perplexity", "accuracy")
            }
            printed = self.published.get(str(row["case"]), {})
            note = "" if self.text else "on the embedded Wikipedia text: not held against WikiText-2"
            found += compared(str(row["case"]), ours, printed if self.text else {}, note=note)
        found.append(Comparison(case="all", quantity="speed_up", ours=None, note=NO_SPEED))
        return found


def mean_accuracy(tasks: pd.DataFrame) -> dict[str, float]:
    """Plan -> mean over the tasks of `acc`; tasks: rows of tasks.csv."""
    return {str(plan): float(own.value.mean()) for plan, own in tasks[tasks.metric == "acc"].groupby("plan")}
