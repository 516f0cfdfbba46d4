"""Benchmarks of coarse alignment: overhead over a plain DeepSpeed script, memory, and checkpoints."""
