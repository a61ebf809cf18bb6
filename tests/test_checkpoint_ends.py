"""Embedding and head as layers: charged once, stored once, looked up and multiplied with from their codes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoint_models import STATE_BITS, loaded, logits, tiny, uniform
from hydra import compose, initialize_config_dir
from safetensors import safe_open
from sensitivity_models import write_tiny_folder
from torch import nn
from transformers import Gemma2Config, Gemma2ForCausalLM

from experiments import quantize
from experiments.entry import CONF
from quantizers import make_quantizer
from quantizers.base import Encoded
from quantizers.checkpoint import LayerChoice, load_checkpoint, read_config, write_checkpoint
from quantizers.checkpoint.shards import shard_files
from quantizers.embedding import QuantizedEmbedding
from quantizers.linear import QuantizedLinear
from quantizers.models import LoadedModel, inventory
from quantizers.models.slots import end_slots
from quantizers.modules.strips import row_strips
from quantizers.rotation import Rotation

SETTINGS = {"rotation_seed": 3, "state_bits": STATE_BITS}
ENDS = {
    True: {"lm_head": "trellis-3"},
    False: {"lm_head": "trellis-3", "model.embed_tokens": "nuq-4"},
}


def written(model: LoadedModel, ends: dict[str, str], folder: Path) -> None:
    choices = uniform(model, "nuq-4") | {name: LayerChoice(quantizer=quantizer) for name, quantizer in ends.items()}
    write_checkpoint(folder, model, choices, cache=None, **SETTINGS)


def tiny_gemma() -> LoadedModel:
    """Tied, and every row of the embedding is scaled."""
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=96, hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=128,
    )  # fmt: skip
    return loaded(Gemma2ForCausalLM(config), "float32")


@pytest.mark.parametrize("tied", [True, False])
def test_packed_ends_are_the_dense_ones(tied: bool, tmp_path: Path) -> None:
    model = tiny(tied=tied)
    written(model, ENDS[tied], tmp_path / "c")
    dense, packed = load_checkpoint(tmp_path / "c"), load_checkpoint(tmp_path / "c", packed=True)
    embedding, head = packed.model.get_input_embeddings(), packed.model.get_output_embeddings()
    assert isinstance(embedding, QuantizedEmbedding)
    assert isinstance(head, QuantizedLinear)
    assert torch.equal(embedding.dense_weight(), head.dense_weight()) is tied
    assert not dict(embedding.named_children()) if tied else embedding.matrix is not head
    assert torch.allclose(logits(packed), logits(dense), atol=1e-4 * float(logits(dense).std()))
    for name, end in (("lm_head", head), ("model.embed_tokens", embedding)):
        wanted = dense.model.get_submodule(name).get_parameter("weight")
        assert torch.allclose(end.dense_weight(), wanted.float(), atol=1e-6)


@pytest.mark.parametrize("tied", [True, False])
def test_bytes_are_those_charged_and_a_tied_weight_is_stored_once(tied: bool, tmp_path: Path) -> None:
    written(tiny(tied=tied), ENDS[tied], tmp_path / "c")
    record = read_config(tmp_path / "c")[1].layers
    sizes: dict[str, int] = {}
    for path in shard_files(tmp_path / "c"):
        with safe_open(path, "pt") as file:
            for key in list(file.keys()):
                tensor = file.get_tensor(key)
                sizes[key] = tensor.numel() * tensor.element_size()
    for name, quantizer in ENDS[tied].items():
        charged = make_quantizer(quantizer, STATE_BITS).storage_bytes(96, 64)
        assert record[name].storage_bytes == charged
        assert sum(size for key, size in sizes.items() if key.startswith(f"{name}.")) == charged
    assert ("model.embed_tokens" in record) is not tied
    assert not any(key.endswith(("lm_head.weight", "embed_tokens.weight")) for key in sizes)


def test_rows_of_a_scaled_embedding(tmp_path: Path) -> None:
    written(tiny_gemma(), ENDS[True], tmp_path / "c")
    dense, packed = load_checkpoint(tmp_path / "c"), load_checkpoint(tmp_path / "c", packed=True)
    assert isinstance(packed.model.get_input_embeddings(), QuantizedEmbedding)
    tokens = torch.tensor([[0, 95, 17], [16, 15, 95]])
    rows = packed.model.get_input_embeddings()(tokens)
    assert torch.allclose(rows, dense.model.get_input_embeddings()(tokens), atol=1e-5)
    with pytest.raises(IndexError, match="rows 96 to 96 of a matrix of 96 rows"):
        packed.model.get_input_embeddings()(torch.tensor([96]))


@pytest.mark.parametrize("name", [
    "trellis-2.25", "tcq-2", "half-tcq-2.25", "trellis2-2", "vq-1.5", "nuq-3", "int-4", "int-3-g32-asym", "mxfp4",
    "nvfp4", "e8", "fp16",
])  # fmt: skip
def test_strips_are_the_rows_of_the_matrix(name: str) -> None:
    states = name.startswith(("tcq", "half", "trellis"))
    quantizer = make_quantizer(name, STATE_BITS) if states else make_quantizer(name)
    weight = torch.randn(88, 64, generator=torch.Generator().manual_seed(0))  # the last strip is half a strip
    encoded: Encoded = quantizer.encode(weight)
    rows = torch.tensor([87, 0, 33, 33, 15])
    strips = quantizer.decode(row_strips(quantizer, encoded, rows))
    found = strips.view(5, 16, 64)[torch.arange(5), rows % 16]
    assert torch.equal(found, quantizer.decode(encoded)[rows])


def test_a_matrix_of_another_shape_is_no_embedding() -> None:
    quantizer = make_quantizer("nuq-4")
    encoded = quantizer.encode(torch.randn(96, 64))
    matrix = QuantizedLinear(quantizer, encoded, Rotation(in_features=64, seed=0, group="lm_head"))
    with pytest.raises(ValueError, match="codes of 96 x 64 are not those of an embedding of"):
        QuantizedEmbedding(matrix, nn.Embedding(95, 64), tied=True)


@pytest.mark.parametrize("tied", [True, False])
def test_the_inventory_names_a_tied_weight_once(tied: bool) -> None:
    model = tiny(tied=tied).model
    ends = ["lm_head"] if tied else ["model.embed_tokens", "lm_head"]
    assert set(end_slots(model)) == set(ends)
    table = inventory(model, head=True)
    assert [name for name in table.layer if "layers" not in name] == ends
    assert table.fusion_group[table.layer == "lm_head"].tolist() == ["lm_head"]
    usual = inventory(model)
    assert len(usual) == len(table), "one row of the same weight"


@pytest.mark.parametrize("head", [True, False])
def test_a_uniform_plan_has_the_ends_where_asked_for(head: bool, tmp_path: Path) -> None:
    write_tiny_folder(tmp_path)
    given = [f"model.path={tmp_path / 'model'}", f"out={tmp_path / 'c'}", "uniform=nuq-4", "cache=null"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("quantize", [*given, f"inventory.head={head}"])
    quantize.main(cfg)
    record = read_config(tmp_path / "c")[1].layers
    assert ("lm_head" in record) is head
    assert {layer.quantizer for layer in record.values()} == {"nuq-4"}
    held = load_checkpoint(tmp_path / "c", packed=True).model
    assert isinstance(held.get_output_embeddings(), QuantizedLinear) is head
    tied = held.get_input_embeddings()
    assert isinstance(tied, QuantizedEmbedding) is head
