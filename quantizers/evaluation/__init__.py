"""What a quantized model loses on text: loss (perplexity) and KL to the reference, on paired windows."""

from quantizers.evaluation.divergence import Reference, log_probability_and_divergence
from quantizers.evaluation.summary import paired, perplexity, summarise
from quantizers.evaluation.windows import evaluate

__all__ = ["Reference", "evaluate", "log_probability_and_divergence", "paired", "perplexity", "summarise"]
