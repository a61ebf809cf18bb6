"""Checkpoints: packed codes in safetensors and a config that names every layer's quantizer; the cache of codes."""

from quantizers.checkpoint.code_cache import CachedCode, CodeCache, code_key
from quantizers.checkpoint.layout import FORMAT_VERSION, QUANT_METHOD, LayerChoice, QuantizationConfig, read_config
from quantizers.checkpoint.loading import load_checkpoint
from quantizers.checkpoint.surgery import quantize_in_place
from quantizers.checkpoint.writing import write_checkpoint

__all__ = [
    "FORMAT_VERSION",
    "QUANT_METHOD",
    "CachedCode",
    "CodeCache",
    "LayerChoice",
    "QuantizationConfig",
    "code_key",
    "load_checkpoint",
    "quantize_in_place",
    "read_config",
    "write_checkpoint",
]
