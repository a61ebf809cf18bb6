r"""A plan for a model that exists as shapes alone: which quantizer each layer has, which layers are one product.

Embedding and head are not among these layers: a plan may name a quantizer for them, and says nothing of them else. A
plan is written as
* a quantizer's name, `trellis-3.25`: every layer; `trellis-3.25:fused` and `:unfused` say whether whole fusion groups
  are one product, the name alone leaves it to the caller;
* `mixed-7`: a partition of every fusion group into products and a quantizer of MIXED for each, drawn with the seed 7;
  `dense-7`: the same, but for half of the groups, drawn, which are one product of 16 bits;
* a .json of `experiments.allocate`: quantizer and fused_with of every layer;
* a .csv with the column `layer` (full names) or `members` (last parts of names, of every block, `q_proj+k_proj` for a
  fused unit), the column `quantizer`, and optionally `unit`: rows of one block with one label are one product, and
  `block`, with `members`: the number of the only block that the row is for, which goes before rows of every block."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from quantizers import make_quantizer
from quantizers.base import Quantizer
from quantizers.checkpoint.layout import LayerChoice
from quantizers.kernels.packed_product import has_kernel
from quantizers.models.families import EMBEDDING, HEAD
from quantizers.modules.fusing import fused_units

FP16 = "fp16"
ENDS = (HEAD, EMBEDDING)
MIXED = ("trellis2-2", "trellis2-3", "trellis2-4", "trellis-5")
DRAWN = re.compile(r"(mixed|dense)-(\d+)")
BLOCK_NUMBER = re.compile(r"\.(\d+)\.")
Unit = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """`choices`: every layer of the blocks, in model order. `units`: every product, of one layer or of several that are
    fused. `ends`: the quantizers of those of ENDS that the plan names; a tied weight is the head."""

    name: str
    choices: Mapping[str, LayerChoice]
    ends: Mapping[str, str] = field(default_factory=dict)

    def head(self, default: str) -> str:
        """What the head is stored as: what the plan says, `default` where it says nothing."""
        return self.ends.get(HEAD, default)

    @property
    def units(self) -> list[Unit]:
        """In model order, by their first layers."""
        fused = {name: unit for unit in fused_units(self.choices) for name in unit}
        return list(dict.fromkeys(fused.get(name, (name,)) for name in self.choices))

    @property
    def quantizers(self) -> list[Quantizer]:
        """Each once, those of 16 bits left out, of the blocks first."""
        found = dict.fromkeys([*(choice.quantizer for choice in self.choices.values()), *self.ends.values()])
        return [make_quantizer(name) for name in found if name != FP16]

    @property
    def rotates(self) -> bool:
        """Whether any layer of the blocks is quantized, which rotates inputs."""
        return any(choice.quantizer != FP16 for choice in self.choices.values())


def read_plan(text: str, layers: pd.DataFrame, *, fused: bool = True) -> StepPlan:
    """layers: `layer` and `fusion_group` of the layers of all blocks, in model order. fused: for a name without ending.

    ValueError names what is wrong: an unknown quantizer or layer, one without a kernel, a layer with two rows or none,
    a unit of several quantizers or of several fusion groups. FileNotFoundError where the file is not there."""
    groups = dict(zip(layers.layer, layers.fusion_group, strict=True))
    if text.endswith((".csv", ".json")):
        path = Path(text)
        if not path.is_file():
            raise FileNotFoundError(f"no plan is at {path}")
        named = _from_json(path) if path.suffix == ".json" else _from_csv(path, [*groups, *ENDS])
        plan = StepPlan(name=path.stem if path.suffix == ".csv" else path.resolve().parent.name, choices=named)
    elif drawn := DRAWN.fullmatch(text):
        plan = StepPlan(name=text, choices=_drawn(int(drawn[2]), groups, dense=drawn[1] == "dense"))
    else:
        plan = _uniform(text, groups, fused=fused)
    return _checked(plan, text, groups)


def _uniform(text: str, groups: Mapping[str, str], *, fused: bool) -> StepPlan:
    quantizer, colon, ending = text.partition(":")
    if colon and ending not in ("fused", "unfused"):
        raise ValueError(f"plan {text!r} ends in {ending!r}; the endings are :fused and :unfused")
    whole = ending == "fused" if colon else fused
    members = _by_group(groups)
    choices = {name: _choice(quantizer, name, members[group] if whole else [name]) for name, group in groups.items()}
    return StepPlan(name=f"{quantizer}:{'fused' if whole else 'unfused'}", choices=choices)


def _by_group(groups: Mapping[str, str]) -> dict[str, list[str]]:
    """Members of each fusion group, in model order."""
    members: dict[str, list[str]] = {}
    for name, group in groups.items():
        members.setdefault(group, []).append(name)
    return members


def _drawn(seed: int, groups: Mapping[str, str], *, dense: bool) -> dict[str, LayerChoice]:
    """Each layer of a group goes to one of as many products as the group has layers; each product draws a quantizer.
    dense: a group is one product of 16 bits with a chance of one half."""
    rng = random.Random(seed)
    choices: dict[str, LayerChoice] = {}
    for members in _by_group(groups).values():
        if dense and rng.random() < 0.5:
            choices |= {name: _choice(FP16, name, members) for name in members}
            continue
        products: list[list[str]] = [[] for _ in members]
        for name in members:
            rng.choice(products).append(name)
        for unit in filter(None, products):
            quantizer = rng.choice(MIXED)
            choices |= {name: _choice(quantizer, name, unit) for name in unit}
    return choices


def _choice(quantizer: str, name: str, unit: list[str]) -> LayerChoice:
    return LayerChoice(quantizer=quantizer, fused_with=tuple(other for other in unit if other != name))


def _from_json(path: Path) -> dict[str, LayerChoice]:
    try:
        layers = json.loads(path.read_text())["layers"]
        return {
            name: LayerChoice(quantizer=entry["quantizer"], fused_with=tuple(entry["fused_with"]))
            for name, entry in layers.items()
        }
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no allocation: {type(error).__name__} {error}") from None


def _from_csv(path: Path, names: list[str]) -> dict[str, LayerChoice]:
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    columns = set(rows.columns)
    if "quantizer" not in columns or len(columns & {"layer", "members"}) != 1:
        raise ValueError(
            f"{path} has the columns {', '.join(rows.columns)}; a plan has `quantizer` and one of `layer` and `members`"
        )
    rows = rows.reindex(columns=[*rows.columns, *sorted({"unit", "block"} - columns)], fill_value="")
    expand = _of_layers if "layer" in columns else _of_members
    found: dict[str, tuple[str, str]] = {}  # layer -> (quantizer, label of its unit)
    for name, quantizer, label in expand(path, rows, names):
        if name in found:
            raise ValueError(f"{path}: {name} has two rows")
        found[name] = (quantizer.strip(), label)
    units: dict[str, list[str]] = {}
    for name in (name for name in names if name in found):
        units.setdefault(found[name][1], []).append(name)
    unknown = [name for name in found if name not in names]
    if unknown:
        raise ValueError(f"{path}: the model has no layer {unknown[0]!r}; its first is {names[0]!r}")
    return {name: _choice(found[name][0], name, units[found[name][1]]) for name in names if name in found}


def _of_layers(path: Path, rows: pd.DataFrame, names: list[str]) -> Iterator[tuple[str, str, str]]:
    """(layer, quantizer, label of its unit, its own name where it has none)."""
    for row in rows.itertuples():
        name = str(row.layer).strip()
        block = name.rpartition(".")[0]
        yield name, str(row.quantizer), f"{block} {row.unit!s}" if row.unit else name


def _of_members(path: Path, rows: pd.DataFrame, names: list[str]) -> Iterator[tuple[str, str, str]]:
    leaf_of_end = {name.rpartition(".")[2]: name for name in ENDS}
    outside = rows.members.str.strip().isin(leaf_of_end)
    for row in rows[outside].itertuples():
        leaf = str(row.members).strip()
        yield leaf_of_end[leaf], str(row.quantizer), leaf
    rows = rows[~outside]
    by_block: dict[str, dict[str, str]] = {}
    for name in (name for name in names if name not in ENDS):
        found = BLOCK_NUMBER.search(name)
        assert found is not None, name
        by_block.setdefault(found[1], {})[name.rpartition(".")[2]] = name
    asked = set(rows.block) - {""} - set(by_block)
    if asked:
        raise ValueError(f"{path}: the model has no block {min(asked)!r}; they are 0 to {len(by_block) - 1}")
    for block, leaves in by_block.items():
        own = rows[rows.block == block]
        taken = {leaf.strip() for row in own.itertuples() for leaf in str(row.members).split("+")}
        every = rows[rows.block == ""]
        general = every[[not {leaf.strip() for leaf in text.split("+")} <= taken for text in every.members]]
        for row in pd.concat([own, general]).itertuples():
            for leaf in (part.strip() for part in str(row.members).split("+")):
                if leaf not in leaves:
                    raise ValueError(f"{path}: a block has no layer {leaf!r}; it has {', '.join(leaves)}")
                yield leaves[leaf], str(row.quantizer), f"{block} {row.unit or row.members!s}"


def _checked(plan: StepPlan, text: str, groups: Mapping[str, str]) -> StepPlan:
    ends = {name: choice.quantizer for name, choice in plan.choices.items() if name in ENDS}
    unknown, absent = set(plan.choices) - set(groups) - set(ends), [name for name in groups if name not in plan.choices]
    if unknown or absent:
        problem = f"says nothing of {absent[0]}" if absent else f"names {min(unknown)}, which the model has not"
        raise ValueError(f"plan {text} {problem}")
    plan = StepPlan(name=plan.name, choices={name: plan.choices[name] for name in groups}, ends=ends)
    for quantizer in plan.quantizers:
        if not has_kernel(quantizer):
            raise ValueError(
                f"plan {text}: no kernel makes products with {quantizer.name}; trellis, trellis2, tcq, half-tcq, vq "
                f"and nuq have one, and {FP16} is cuBLAS"
            )
    for unit in plan.units:
        of = sorted({plan.choices[name].quantizer for name in unit})
        if len(of) > 1:
            raise ValueError(f"plan {text}: {' and '.join(unit)} are one product, but of {' and '.join(of)}")
        if len({groups[name] for name in unit}) > 1:
            raise ValueError(f"plan {text}: {' and '.join(unit)} read different inputs, and cannot be one product")
    return plan
