"""Embedding and head in the random-weight mode: rows from codes, plans that name them, bytes, predictions, tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import checkpoint_models
import pandas as pd
import pytest
import torch
from checkpoint_models import STATE_BITS, uniform
from step_models import CONFIGS
from test_kernels_lean_step import BATCH, CAPACITY, TOKENS, decoded, lean
from test_kernels_profile import layers, timed  # noqa: F401 (a fixture)
from transformers import GenerationConfig

from quantizers import make_quantizer
from quantizers.checkpoint import LayerChoice, load_checkpoint, write_checkpoint
from quantizers.embedding import QuantizedEmbedding
from quantizers.kernels import decode_step, profile
from quantizers.kernels.decode_loop import greedy_tokens
from quantizers.kernels.fused_shapes import head_shape
from quantizers.kernels.int8_head import Int8Head
from quantizers.kernels.model_step import ModelStep
from quantizers.kernels.operators import state_bits
from quantizers.kernels.predicted_step import head_us, read_table
from quantizers.kernels.random_model import block_layers, planned_bytes, planned_ends, random_model, weight_bytes
from quantizers.kernels.random_plan import StepPlan, read_plan
from quantizers.linear import QuantizedLinear
from quantizers.models.families import EMBEDDING, HEAD
from quantizers.rotation import Rotation, random_signs

LAYERS = block_layers(CONFIGS["llama"]())
BLOCK = "q_proj+k_proj+v_proj,trellis-3\no_proj,trellis-3\ngate_proj+up_proj,trellis-3\ndown_proj,trellis-3\n"
ENDS = {HEAD: "nuq-4", EMBEDDING: "trellis-2"}


def plan_of(folder: Path, **ends: str) -> str:
    """A csv for every block, and rows of these members."""
    rows = "".join(f"{name},{quantizer}\n" for name, quantizer in ends.items())
    (folder / "plan.csv").write_text(f"members,quantizer\n{BLOCK}{rows}")
    return str(folder / "plan.csv")


def made(name: str, plan: StepPlan, head: str = "fp16", dtype: torch.dtype = torch.float32) -> Any:
    config: Any = CONFIGS[name]()
    return random_model(config, plan, head=head, dtype=dtype, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", ["trellis-2.25", "half-tcq-2.25", "nuq-3", "fp16"])
def test_rows_are_an_operator(name: str, dtype: torch.dtype) -> None:
    """`look_up` passes the checks of torch.library; with the rotation taken back its rows are those of the weight."""
    quantizer = make_quantizer(name)
    rotation = Rotation(in_features=64, seed=1, group="e") if quantizer.rotated else None
    weight = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    encoded = quantizer.encode(weight if rotation is None else rotation.rotate_weight(weight))
    layer, rows = QuantizedLinear(quantizer, encoded, rotation), torch.arange(39, -1, -1).repeat(4)  # several runs
    given = [rows, list(encoded.tensors.values()), ",".join(encoded.tensors), name, state_bits(quantizer), 40, 64]
    torch.library.opcheck(torch.ops.bitpalette.look_up, (*given, quantizer.codebook(), dtype))
    found = layer.rows(rows, dtype)
    assert found.dtype == dtype
    assert torch.allclose(found.float(), layer.dense_weight()[rows], atol=1e-5 if dtype == torch.float32 else 4e-3)
    assert layer.rows(rows[:0], dtype).shape == (0, 64)


def test_rows_of_a_small_matrix_are_refused() -> None:
    quantizer = make_quantizer("int-3")
    layer = QuantizedLinear(
        quantizer, quantizer.encode(torch.randn(7, 20)), Rotation(in_features=20, seed=0, group="e")
    )
    with pytest.raises(ValueError, match="in 8 or more, not 7"):
        layer.rows(torch.tensor([0]), torch.float32)


@pytest.mark.parametrize(("width", "symmetric"), [(64, True), (4096, True), (14336, True), (12, False), (76, True)])
def test_a_symmetric_rotation_turns_back_between_two_flips(width: int, symmetric: bool) -> None:
    """R' = S R S, which lets a GPU turn back by the kernel that turns. 12 is I + a skew matrix (Paley I)."""
    rotation = Rotation(in_features=width, seed=0, group="e", most_block=2048)
    assert rotation.symmetric is symmetric
    x = torch.randn(3, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    S = torch.from_numpy(random_signs(0, "e", width).astype(float))
    assert torch.allclose(rotation.rotate_input(x * S) * S, rotation.unrotate_weight(x)) is symmetric


def test_a_plan_may_name_the_ends(tmp_path: Path) -> None:
    plan = read_plan(plan_of(tmp_path, lm_head="nuq-4", embed_tokens="trellis-2"), LAYERS)
    assert plan.ends == ENDS
    assert [quantizer.name for quantizer in plan.quantizers] == ["trellis-3", "nuq-4", "trellis-2"]
    assert plan.head("int8") == "nuq-4"
    assert list(plan.choices) == list(LAYERS.layer)
    named = LAYERS[["layer"]].assign(quantizer="fp16")
    named = pd.concat([named, pd.DataFrame({"layer": [HEAD], "quantizer": ["nuq-4"]})])
    named.to_csv(tmp_path / "layers.csv", index=False)
    plan = read_plan(str(tmp_path / "layers.csv"), LAYERS)
    assert (plan.ends, plan.rotates) == ({HEAD: "nuq-4"}, False)
    entries = {row.layer: {"quantizer": row.quantizer, "kernel": None, "fused_with": []} for row in named.itertuples()}
    (tmp_path / "a.json").write_text(json.dumps({"layers": entries}))
    assert read_plan(str(tmp_path / "a.json"), LAYERS).ends == {HEAD: "nuq-4"}
    assert read_plan("trellis-3", LAYERS).head("int8") == "int8"
    with pytest.raises(ValueError, match="no kernel makes products with int-4"):
        read_plan(plan_of(tmp_path, lm_head="int-4"), LAYERS)


@pytest.mark.parametrize(
    ("name", "ends"),
    [("llama", {"lm_head": "nuq-4"}), ("llama", {"lm_head": "nuq-4", "embed_tokens": "trellis-2"}),
     ("llama", {"embed_tokens": "tcq-3"}), ("llama", {"lm_head": "fp16"}), ("qwen2", {"lm_head": "half-tcq-2.25"})],
)  # fmt: skip
def test_steps_with_packed_ends_and_their_bytes(name: str, ends: dict[str, str], tmp_path: Path) -> None:
    """The lean step and transformers' own agree; what is held is what was planned, a tied weight once."""
    plan, config = read_plan(plan_of(tmp_path, **ends), block_layers(CONFIGS[name]())), CONFIGS[name]()
    model = made(name, plan)
    if name == "qwen2":
        assert isinstance(model.get_input_embeddings(), QuantizedEmbedding)
    expected = decoded(ModelStep(model, batch=BATCH, capacity=CAPACITY), TOKENS)
    assert (decoded(lean(model), TOKENS) - expected).abs().max() < 1e-4 * expected.std()
    held = weight_bytes(made(name, plan, head="int8", dtype=torch.float16))  # the plan goes before the default
    wanted = "int8" if "lm_head" not in ends else "fp16"
    assert (held.head, held.embedding) == planned_ends(config, plan, wanted)
    biases = 2 * (64 + 2 * 32) * 2 if name == "qwen2" else 0  # of q, k and v, two blocks, float16
    assert held.layers == planned_bytes(plan, block_layers(config)) + biases
    if name == "qwen2":
        assert held.embedding == 0
        assert held.head == make_quantizer(ends["lm_head"]).storage_bytes(96, 64)


@pytest.mark.parametrize("tied", [True, False])
def test_text_of_a_checkpoint_with_packed_ends(tied: bool, tmp_path: Path) -> None:
    """The lean step takes what was loaded, and writes what transformers writes."""
    choices = uniform(checkpoint_models.tiny(tied=tied), "nuq-4") | {HEAD: LayerChoice(quantizer="tcq-3")}
    choices |= {} if tied else {EMBEDDING: LayerChoice(quantizer="trellis-3")}
    given = {"cache": None, "rotation_seed": 0, "state_bits": STATE_BITS}
    write_checkpoint(tmp_path / "c", checkpoint_models.tiny(tied=tied), choices, **given)
    model = load_checkpoint(tmp_path / "c", packed=True).model
    prompt = torch.randint(0, 96, (2, 7), generator=torch.Generator().manual_seed(3))
    settings = GenerationConfig(max_new_tokens=6, do_sample=False, pad_token_id=0)
    theirs = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=settings)[:, 7:]
    assert torch.equal(greedy_tokens(model, prompt, 6), theirs)


def test_a_tied_weight_is_the_head_of_a_plan(tmp_path: Path) -> None:
    config: Any = CONFIGS["qwen2"]()
    plan = read_plan(plan_of(tmp_path, embed_tokens="nuq-4"), block_layers(config))
    with pytest.raises(ValueError, match=r"model\.embed_tokens is tied to lm_head"):
        made("qwen2", plan)
    beside = made("qwen2", plan, head="int8", dtype=torch.float16)  # which leaves the embedding alone
    assert isinstance(beside.get_output_embeddings(), Int8Head)
    held = weight_bytes(beside)
    assert (held.head, held.embedding) == planned_ends(config, plan, "int8")


TABLE = """members,quantizer,kernel,batch,out_features,in_features,latency_us
constant,,,1,,,80
constant,,,2,,,100
lm_head,fp16,cublas,1,96,64,20
lm_head,nuq-4,tensor-core,1,96,64,6
"""


def test_a_head_apart_is_a_product_and_one_within_is_not_counted_twice(tmp_path: Path) -> None:
    (tmp_path / "latency.csv").write_text(TABLE)
    table, config = read_table(tmp_path / "latency.csv"), CONFIGS["llama"]()
    named, plain = read_plan(plan_of(tmp_path, lm_head="nuq-4"), LAYERS), read_plan("fp16", LAYERS)
    assert head_us(config, named, table, 1) == 6
    assert head_us(config, plain, table, 1) == 20
    assert head_us(config, plain, table, 2) == 0, "the constant of this batch is with it"
    with pytest.raises(ValueError, match=r"is with a head of fp16, not nuq-4: profile --head"):
        head_us(config, named, table, 2)
    with pytest.raises(ValueError, match="no row lm_head of trellis-6, batch 1, 96 x 64"):
        head_us(config, plain, table, 1, "trellis-6")


def test_a_step_is_predicted_with_its_head(tmp_path: Path) -> None:
    CONFIGS["llama"]().save_pretrained(tmp_path)
    products = [("q_proj+k_proj+v_proj", 128, 64), ("o_proj", 64, 64), ("gate_proj+up_proj", 384, 64)]
    rows = "".join(f"{m},trellis-3,k,1,{out},{into},1\n" for m, out, into in [*products, ("down_proj", 64, 192)])
    (tmp_path / "latency.csv").write_text(TABLE + rows)
    given = ["--config", str(tmp_path), "--latency", str(tmp_path / "latency.csv"), "--device", "cpu"]
    given += [
        "--glue",
        "eager",
        "--replays",
        "2",
        "--steps",
        "2",
        "--context",
        "8",
        "--out",
        str(tmp_path / "steps.json"),
    ]
    decode_step.main([*given, "--plans", plan_of(tmp_path, lm_head="nuq-4"), "trellis-3"])
    found = json.loads((tmp_path / "steps.json").read_text())["steps"]
    assert [(row["head"], row["predicted_us"]) for row in found] == [("nuq-4", 80 + 6 + 8), ("fp16", 80 + 20 + 8)]
    for row in found:
        sizes = row["bytes"]
        assert [sizes[f"planned_{part}"] for part in ("layers", "head", "embedding")] == [
            sizes["layers"], sizes["head"], sizes["embedding"],
        ]  # fmt: skip
    decode_step.main([*given, "--plans", plan_of(tmp_path, lm_head="nuq-4"), "--constant", "measured"])
    row = json.loads((tmp_path / "steps.json").read_text())["steps"][0]
    assert row["predicted_us"] == pytest.approx(row["constant_us"] + 8), "a measured constant is with the plan's head"


def test_rows_of_the_head_leave_the_constant(tmp_path: Path, timed: list[tuple[str, int]]) -> None:  # noqa: F811
    """In whatever order they are measured, and once."""
    frame = layers()
    frame.loc[frame.layer == HEAD, "out_features"] = 1008  # strips of 16 rows, as kernels take
    frame.to_csv(tmp_path / "layers.csv", index=False)
    assert (head_shape(frame).out_features, head_shape(frame).members) == (1008, HEAD)
    head = 1008 / 64  # us of the fixture, in 16 bits and in others

    def run(out: str, *more: str) -> pd.DataFrame:
        given = ["--layers", str(tmp_path / "layers.csv"), "--out", str(tmp_path / out), "--quantizers", "trellis-2"]
        profile.main([*given, *more])
        return pd.read_csv(tmp_path / out)

    config = ("--config", "any")
    later = run("a.csv", *config)
    assert later[later.members == "constant"].latency_us.tolist() == [100]
    for more in (("--head",), ("--head", *config), config):  # the last two change nothing
        later = run("a.csv", *more)
        assert later[later.members == "constant"].latency_us.tolist() == [100 - head]
        assert later[later.members == HEAD].quantizer.tolist() == ["fp16", "trellis-2"]
    assert later[later.members == "constant"].most_us.tolist() == [100 - head]
    for again in ([HEAD], ["constant"], [HEAD, "constant"]):
        anew = run("a.csv", "--head", *config, "--again", *again)
        assert anew[anew.members == "constant"].latency_us.tolist() == [100 - head], "the head leaves it once"
        assert sorted(anew.members) == sorted(later.members)
    before = run("b.csv", "--head")
    assert "constant" not in set(before.members)
    before = run("b.csv", *config)
    assert before[before.members == "constant"].latency_us.tolist() == [100 - head]
    both = run("c.csv", "--head", "--fp16", "--batches", "1", "2", *config)
    assert both[both.members == "constant"].latency_us.tolist() == [100 - head, 200 - head]
    assert len(both[(both.members == HEAD) & (both.quantizer == "fp16")]) == 2
    assert head_us(CONFIGS["llama"](), read_plan("trellis-3", LAYERS), read_table(tmp_path / "a.csv"), 2) == 0
    frame[frame.layer != HEAD].to_csv(tmp_path / "layers.csv", index=False)
    with pytest.raises(SystemExit, match=r"no row lm_head: experiments\.inventory inventory\.head=true"):
        run("d.csv", "--head")
