"""A decoding step whose rotations, norms, gates and products are kernels, emulated, equals the one by plain torch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from emulated_kernels import PROCESSORS, emulated, library_folder, needs_gxx, on_cpu
from transformers import LlamaConfig

from quantizers.kernels import activation_bytes, block_rotation, gemv, gemv_table, lean_products
from quantizers.kernels.lean_step import LeanStep
from quantizers.kernels.random_model import block_layers, random_model
from quantizers.kernels.random_plan import read_plan
from quantizers.rotation import Rotation

__all__ = ["library_folder", "on_cpu"]
CAPACITY, BATCH = 4, 2


@needs_gxx
@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("plan", ["trellis2-2:fused", "trellis2-3:unfused", "trellis-2.5:fused", "vq-2:fused"])
def test_a_step_of_kernels_is_the_step_of_torch(
    plan: str, library_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = LlamaConfig(
        vocab_size=96, hidden_size=512, intermediate_size=1024, num_hidden_layers=2, num_attention_heads=8,
        num_key_value_heads=2, head_dim=64, tie_word_embeddings=False,
    )  # fmt: skip
    chosen, generator = read_plan(plan, block_layers(config)), torch.Generator().manual_seed(0)
    model = random_model(config, chosen, head="fp16", dtype=torch.float16, generator=generator)

    def decoded() -> torch.Tensor:
        step = LeanStep(model, batch=BATCH, capacity=CAPACITY, compiled=False, attention="masked")
        found = []
        for place in range(CAPACITY):
            step.tokens.copy_(torch.tensor([7 * place, 3 + place]))
            step.place.fill_(place)
            found.append(step().float())
        return torch.stack(found)

    expected = decoded()
    kernels: list[str] = []

    def load(name: str, device: torch.device, defines: dict[str, int] | None = None) -> object:
        kernels.append(name)
        return emulated(name, defines or {}, library_folder)

    def fused(source: block_rotation.Source, rotation: Rotation) -> bool:
        return block_rotation.takes(rotation)

    for module in (block_rotation, gemv, gemv_table, activation_bytes):
        monkeypatch.setattr(module, "load", load)
    for module in (gemv, gemv_table):
        monkeypatch.setattr(module, "processors", lambda index: PROCESSORS)
    monkeypatch.setattr(lean_products, "has_fused_rotation", fused)
    ours = decoded()
    # 16-bit numbers between the parts, rounded in other places
    assert float((ours - expected).norm() / expected.norm()) < 5e-3
    rotations = kernels.count("block_rotation")
    assert rotations == CAPACITY * config.num_hidden_layers * 4, "one for each input, norm and gate with it"
    # vq: by plain torch
    products = {"trellis2-2:fused": 4, "trellis2-3:unfused": 7, "trellis-2.5:fused": 4, "vq-2:fused": 0}[plan]
    made = kernels.count("gemv_table") + kernels.count("gemv_trellis")
    assert made == CAPACITY * config.num_hidden_layers * products
    assert "activation_bytes" not in kernels
