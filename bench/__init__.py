"""Benchmarks: each budget of the house beside its anchor, measured in the same run."""
