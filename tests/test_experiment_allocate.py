"""The command: a good run writes the plan; a bad input is one message with the value in it, exit code 2, no trace."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_alloc_problem import LAYERS, QUANTIZERS, folder

from alloc.solution import read_allocation
from experiments import allocate, entry

ROOT = Path(__file__).resolve().parent.parent
Q, K, D = "model.layers.0.attn.q_proj", "model.layers.0.attn.k_proj", "model.layers.0.mlp.down_proj"
LATENCY = """members,quantizer,kernel,batch,latency_us
constant,,,1,10
q_proj,a-1.1,t,1,2
q_proj,b-4,t,1,3
k_proj,a-1.1,t,1,2
k_proj,b-4,t,1,3
down_proj,a-1.1,t,1,2
down_proj,b-4,t,1,3
"""


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """What `python -m experiments.allocate ARGUMENTS` does, in this process; the exit code."""
    monkeypatch.setattr(sys, "argv", ["allocate.py", *allocate.open_budget(list(arguments))])
    try:
        entry.run(allocate.main, "allocate")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_run_of_its_own_process_leaves_the_plan_and_no_hydra_folder(tmp_path: Path) -> None:
    tables = folder(tmp_path / "tables", latency=LATENCY)
    (tmp_path / "cwd").mkdir()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "experiments.allocate", f"tables={tables}", f"out={tmp_path / 'out'}"),
            *("budget.bits_per_weight=5.5", "budget.latency_us=19", "pin=[*.down_proj:b-4]", "kernels=[t]"),
        ],
        cwd=tmp_path / "cwd",
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    plan = read_allocation(tmp_path / "out" / "allocation.json")
    assert plan.status == "optimal"
    assert plan.layers[D].quantizer == "b-4"
    assert plan.costs["latency_us"] <= 19
    assert sorted(item.name for item in (tmp_path / "out").iterdir()) == ["allocation.json", "run.json"]
    assert not list((tmp_path / "cwd").iterdir())
    assert "optimal" in done.stdout


@pytest.mark.parametrize(
    "solver", sorted(path.stem for path in (ROOT / "conf" / "solver").glob("*.yaml") if path.stem != "fixed")
)
def test_every_solver_preset_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, solver: str) -> None:
    tables, out = folder(tmp_path / "tables"), tmp_path / "out"
    assert command(monkeypatch, f"tables={tables}", f"out={out}", "budget.bits_per_weight=5.5", f"solver={solver}") == 0
    first = json.loads((out / "allocation.json").read_text())
    again = f"solver=fixed solver.plan={out / 'allocation.json'} out={tmp_path / 'again'}".split()
    assert command(monkeypatch, f"tables={tables}", *again, "budget.bits_per_weight=5.5") == 0
    second = json.loads((tmp_path / "again" / "allocation.json").read_text())
    for key in ("objective", "costs", "budgets", "layers"):
        assert first[key] == second[key]


def test_a_named_cost_is_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "".join(f"{layer},{q},{c}\n" for layer in (Q, K, D) for q, c in (("a-1.1", 1.5), ("b-4", 2), ("fp16", 9)))
    tables, out = folder(tmp_path / "tables", costs="layer,quantizer,energy\n" + rows), tmp_path / "out"
    assert command(monkeypatch, f"tables={tables}", f"out={out}", "budget.energy=5.5") == 0
    content = json.loads((out / "allocation.json").read_text())
    assert content["costs"]["energy"] == 5.5
    assert content["budgets"] == {"energy": 5.5}


def bad_layers(old: str, new: str) -> dict[str, str]:
    assert old in LAYERS
    return {"layers": LAYERS.replace(old, new)}


def bad_quantizers(old: str, new: str) -> dict[str, str]:
    assert old in QUANTIZERS
    return {"quantizers": QUANTIZERS.replace(old, new)}


PAIR = "layer,quantizer"
BAD: list[tuple[str, dict[str, str], list[str], str]] = [
    ("nan sensitivity", bad_layers("qkv,1.5", "qkv,nan"), [], "nan"),
    ("negative sensitivity", bad_layers("qkv,1.5", "qkv,-1.5"), [], "-1.5"),
    ("infinite sensitivity", bad_layers("qkv,1.5", "qkv,inf"), [], "inf"),
    ("word for a sensitivity", bad_layers("qkv,1.5", "qkv,high"), [], "high"),
    ("repeated layer", bad_layers("k_proj,3", "q_proj,3"), [], Q),
    ("zero width", bad_layers("q_proj,5,7", "q_proj,0,7"), [], "out_features '0'"),
    ("half a row", bad_layers("q_proj,5,7", "q_proj,5.5,7"), [], "5.5"),
    ("no group", bad_layers("5,7,qkv", "5,7,"), [], "line 3: fusion_group"),
    ("two inputs in a group", bad_layers("3,7,qkv", "3,8,qkv"), [], K),
    ("truncated layers", {"layers": LAYERS[: LAYERS.index(",down,2")]}, [], D),
    ("no layers", {"layers": LAYERS.splitlines()[0] + "\n"}, [], "no layers"),
    ("empty layers file", {"layers": ""}, [], "missing column"),
    ("missing column", bad_layers("out_features", "rows"), [], "out_features"),
    ("column twice", bad_layers("sensitivity,note", "sensitivity,sensitivity"), [], "twice"),
    ("not text", {"layers": LAYERS.replace("kept", "\ud8ff")}, [], "UTF-8"),
    ("open quote", bad_layers("model.layers.0.mlp", '"model.layers.0.mlp'), [], "damaged CSV"),
    ("nothing to allocate", bad_layers("0,", "0,"), ["exclude=[*]"], "no layer to allocate"),
    ("infinite distortion", bad_quantizers("4,0,0.01", "4,0,inf"), [], "b-4"),
    ("nan distortion", bad_quantizers("4,0,0.01", "4,0,nan"), [], "nan"),
    ("negative distortion", bad_quantizers("4,0,0.01", "4,0,-0.01"), [], "-0.01"),
    ("distortion in percent", bad_quantizers("4,0,0.01", "4,0,30"), [], "30"),
    ("missing distortion", bad_quantizers("4,0,0.01", "4,0,"), [], "b-4 has no distortion"),
    ("repeated quantizer", bad_quantizers("b-4", "a-1.1"), [], "a-1.1"),
    ("zero bits", bad_quantizers("b-4,4", "b-4,0"), [], "b-4 is 0"),
    ("rate in bytes per layer", bad_quantizers("b-4,4", "b-4,4000"), [], "4000"),
    ("negative codebook", bad_quantizers("1.1,3", "1.1,-3"), [], "-3"),
    ("fraction of a byte", bad_quantizers("1.1,3", "1.1,3.5"), [], "3.5"),
    ("no quantizers", {"quantizers": QUANTIZERS.splitlines()[0] + "\n"}, [], "no quantizers"),
    ("unknown layer in storage", {"storage": f"{PAIR},bytes\nnope,b-4,3\n"}, [], "nope"),
    ("unknown quantizer in loss", {"loss": f"{PAIR},loss\n{Q},nope,3\n"}, [], "nope"),
    ("repeated distortion", {"distortion": f"{PAIR},distortion\n{Q},b-4,0.1\n{Q},b-4,0.1\n"}, [], "line 3"),
    ("infinite loss", {"loss": f"{PAIR},loss\n{Q},b-4,inf\n"}, [], "inf"),
    ("negative bytes", {"storage": f"{PAIR},bytes\n{Q},b-4,-3\n"}, [], "-3"),
    ("cost named as a table's", {"costs": f"{PAIR},memory_bytes\n{Q},b-4,3\n"}, [], "memory_bytes"),
    ("missing cost", {"costs": f"{PAIR},energy\n{Q},b-4,3\n"}, ["budget.energy=9"], "a-1.1"),
    ("no latency table", {}, ["budget.latency_us=100"], "latency.csv"),
    (
        "repeated latency, other order",
        {"latency": LATENCY + "q_proj+k_proj,b-4,t,1,3\nk_proj+q_proj,b-4,t,1,3\n"},
        [],
        "repeats",
    ),
    ("negative latency", {"latency": LATENCY + "q_proj+k_proj,b-4,t,1,-3\n"}, [], "-3"),
    ("constant twice", {"latency": LATENCY + "constant,,,1,3\n"}, [], "constant"),
    ("layer without latency", {"latency": LATENCY.replace("q_proj", "x_proj")}, ["budget.latency_us=100"], Q),
    ("unknown batch", {"latency": LATENCY}, ["budget.latency_us=100", "batch=7"], "batch 7"),
    ("unknown kernel", {"latency": LATENCY}, ["budget.latency_us=100", "kernels=[nope]"], "nope"),
    ("unknown member", {}, ["palette.members=[nope-*]"], "nope-*"),
    ("empty palette", {}, ["palette.members=[]"], "palette is empty"),
    ("unknown pin layer", {}, ["pin=[*.nope:b-4]"], "*.nope:b-4"),
    ("unknown pin quantizer", {}, ["pin=[*:nope]"], "nope"),
    ("pin without quantizer", {}, ["pin=[down_proj]"], "PATTERN:QUANTIZER"),
    ("contradictory pins", {}, ["pin=[*.q_proj:b-4,*.attn.*:a-1.1]"], Q),
    ("pin of an excluded layer", {}, ["exclude=[*.q_proj]", "pin=[*.q_proj:b-4]"], "*.q_proj:b-4"),
    ("unknown exclusion", {}, ["exclude=[nope]"], "nope"),
    ("impossible bits", {}, ["budget.bits_per_weight=1"], "smallest feasible"),
    ("impossible bytes", {}, ["budget.memory_bytes=3"], "memory_bytes=3 "),
    ("impossible speed", {"latency": LATENCY}, ["budget.tokens_per_second=1000000"], "tokens_per_second=62500"),
    (
        "impossible together",
        {"latency": LATENCY.replace("a-1.1,t,1,2", "a-1.1,t,1,9")},
        ["budget.memory_bytes=60", "budget.latency_us=19"],
        "smallest feasible",
    ),
    ("budget nan", {}, ["budget.bits_per_weight=nan"], "nan"),
    ("budget negative", {}, ["budget.memory_bytes=-5"], "-5"),
    ("budget word", {}, ["budget.memory_bytes=much"], "much"),
    ("bytes for bits", {}, ["budget.bits_per_weight=3000000"], "3000000"),
    ("half a byte", {}, ["budget.memory_bytes=70.5"], "70.5"),
    ("unknown budget", {}, ["budget.speed=3"], "speed"),
    ("unknown uniform", {}, ["budget.uniform=nope"], "nope"),
    ("batch zero", {}, ["batch=0"], "batch=0"),
    ("fusion word", {}, ["fusion=maybe"], "maybe"),
    ("unknown solver", {}, ["solver=nope"], "nope"),
    ("unknown option", {}, ["nope=3"], "nope"),
    ("plan absent", {}, ["solver=fixed", "solver.plan=/nowhere/plan.json"], "/nowhere/plan.json"),
    ("bad tolerance", {}, ["solver.tolerance=-1"], "-1"),
]


@pytest.mark.parametrize(("tables", "arguments", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_input(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tables: dict[str, str],
    arguments: list[str],
    message: str,
) -> None:
    source, out = tmp_path / "tables", tmp_path / "out"
    source.mkdir()
    for name, text in {"layers": LAYERS, "quantizers": QUANTIZERS, **tables}.items():
        (source / f"{name}.csv").write_bytes(text.encode("utf-8", "surrogatepass"))
    out.mkdir()
    (out / "kept").write_text("before")
    budget = [] if any(argument.startswith("budget.") for argument in arguments) else ["budget.bits_per_weight=5.5"]
    assert command(monkeypatch, f"tables={source}", f"out={out}", *budget, *arguments) == 2
    shown = capsys.readouterr().err
    assert message in shown, shown
    assert "Traceback" not in shown
    assert [item.name for item in out.iterdir()] == ["kept"]


@pytest.mark.parametrize("missing", ["layers", "quantizers"])
def test_missing_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    source = folder(tmp_path / "tables")
    (source / f"{missing}.csv").unlink()
    assert command(monkeypatch, f"tables={source}", f"out={tmp_path / 'out'}", "budget.bits_per_weight=5") == 2
    assert f"{missing}.csv" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_budget_and_missing_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = folder(tmp_path / "tables")
    assert command(monkeypatch, f"tables={source}", f"out={tmp_path / 'out'}") == 2
    assert "no budget" in capsys.readouterr().err
    assert (
        command(monkeypatch, f"tables={tmp_path / 'nowhere'}", f"out={tmp_path / 'out'}", "budget.bits_per_weight=5")
        == 2
    )
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
