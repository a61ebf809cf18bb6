r"""What a card leaves for weights: budget.vram_bytes - KV cache - workspace, whole model.

    cache = 2 layers key_value_heads head_dim 2 bytes context batch      (keys and values, 16 bits, every layer full)

The architecture is the config.json of the tables folder, which `experiments.inventory model=llama-3.1-8b` writes, or of
budget.config. Weights are the rows of layers.csv, each once: embedding and head as allocated where they are layers,
else in 16 bits. Norms and all that runs beside the products come out of the workspace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantizers.models.empty import read_architecture

OPTIONS = ("vram_bytes", "context", "config", "workspace_bytes")


def cache_bytes(config: Any, context: int, batch: int) -> int:
    """Of the keys and values of `context` tokens of `batch` sequences. config: of transformers."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * heads * head_dim * 2 * context * batch)


def bytes_for_weights(options: dict[str, Any], tables: Path, batch: int) -> int:
    """The memory_bytes of the whole model. options: values of OPTIONS. FileNotFoundError without a config.json;
    ValueError where a number is no positive integer, or where cache and workspace fill the card."""
    for name in ("vram_bytes", "context", "workspace_bytes"):
        value = options[name]
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise ValueError(f"budget.{name}={value!r} is not accepted; it must be a whole number above 0")
    try:
        config = read_architecture(options["config"] or tables)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; name it by budget.config=FOLDER") from None
    cache = cache_bytes(config, options["context"], batch)
    left = int(options["vram_bytes"]) - cache - int(options["workspace_bytes"])
    if left <= 0:
        raise ValueError(
            f"budget.vram_bytes={options['vram_bytes']} leaves nothing for weights: the cache of {options['context']} "
            f"tokens x {batch} takes {cache} bytes, the workspace {options['workspace_bytes']}"
        )
    return left
