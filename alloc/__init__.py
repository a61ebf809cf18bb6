"""The decision: which quantizer stores each layer, and which layers share a kernel."""
