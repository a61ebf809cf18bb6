"""CUDA kernels of `cuda/`, built on first use with nvcc and called through plain C entry points."""
