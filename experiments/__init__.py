"""Entry points, `python -m experiments.NAME`: each reads typed artifacts and writes one."""
