r"""The families of models: which linears a block has, which of them read the same input, how files name them.

A family is a row of data. Linears are named by the suffix below the block, and members of one fusion group share the
name that the suffix maps to: `model.layers.0.self_attn.q_proj` -> `model.layers.0.self_attn.qkv`. Experts are stored
by transformers as fused parameters, gate_up_proj (E, 2I, H) and down_proj (E, H, I) [transformers 5,
`*Experts` modules]; each expert's gate (I, H), up (I, H) and down (H, I) is a layer of its own, and gate and up of one
expert are one fusion group. Checkpoints name experts one by one; `experts` maps those names onto slices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

ATTENTION = {
    "self_attn.q_proj": "self_attn.qkv",
    "self_attn.k_proj": "self_attn.qkv",
    "self_attn.v_proj": "self_attn.qkv",
    "self_attn.o_proj": "self_attn.o",
}
MLP = {"mlp.gate_proj": "mlp.gate_up", "mlp.up_proj": "mlp.gate_up", "mlp.down_proj": "mlp.down"}
SHARED_EXPERT = {
    "mlp.shared_expert.gate_proj": "mlp.shared_expert.gate_up",
    "mlp.shared_expert.up_proj": "mlp.shared_expert.gate_up",
    "mlp.shared_expert.down_proj": "mlp.shared_expert.down",
}
# The ends of a model, as all families name them
EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
BLOCK = re.compile(r"(?P<block>.*\blayers\.\d+)\.(?P<suffix>.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """`groups`: suffix of a linear below its block -> suffix of its fusion group. `experts`: suffix of the module with
    the fused expert parameters, None where the family has none. `expert_names`: the file's name of an expert's matrix
    -> gate, up or down. `renames`: patterns on the file's names, applied in order. `unallocated`: linears that choose
    experts; a few thousand weights that decide the path of every token stay as they are. `ignored`: tensors of a file
    that a text model does not use."""

    groups: Mapping[str, str] = field(default_factory=lambda: ATTENTION | MLP)
    experts: str | None = None
    expert_names: Mapping[str, str] = field(default_factory=dict)
    renames: tuple[tuple[str, str], ...] = ()
    unallocated: tuple[str, ...] = ()
    ignored: tuple[str, ...] = (r".*rotary_emb\.inv_freq",)

    def rename(self, name: str) -> str | None:
        """The model's name of a tensor of the file; None where the model does not use it."""
        if any(re.fullmatch(pattern, name) for pattern in self.ignored):
            return None
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return name


DENSE = Family()
QWEN_EXPERTS = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down"}
FAMILIES: Mapping[str, Family] = {
    "llama": DENSE,
    "mistral": DENSE,
    "qwen2": DENSE,
    "qwen3": DENSE,
    "gemma": DENSE,
    "gemma2": DENSE,
    "gemma3_text": DENSE,
    # image and text: only the language model is taken
    "gemma3": Family(
        renames=((r"^language_model\.", ""), (r"^model\.language_model\.", "model.")),
        ignored=(r".*rotary_emb\.inv_freq", r"(model\.)?vision_tower\..*", r"(model\.)?multi_modal_projector\..*"),
    ),
    "mixtral": Family(
        groups=ATTENTION,
        experts="mlp.experts",
        expert_names={"w1": "gate", "w3": "up", "w2": "down"},
        renames=((r"\.block_sparse_moe\.", ".mlp."),),
    ),
    "qwen2_moe": Family(
        groups=ATTENTION | MLP | SHARED_EXPERT,
        experts="mlp.experts",
        expert_names=QWEN_EXPERTS,
        unallocated=("mlp.shared_expert_gate",),
    ),
    "qwen3_moe": Family(groups=ATTENTION | MLP, experts="mlp.experts", expert_names=QWEN_EXPERTS),
}


def family_of(model_type: str) -> Family:
    """The family; ValueError lists the supported ones."""
    if model_type not in FAMILIES:
        raise ValueError(f"model family {model_type!r} is not supported; supported: {', '.join(FAMILIES)}")
    return FAMILIES[model_type]
