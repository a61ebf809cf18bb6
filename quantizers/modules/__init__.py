"""Linear layers that read one input share work: its rotation is computed once, and fused ones are one product."""
