"""Distributed training: the launch on Ray Train, engines, checkpoints, and the loops that run on each rank."""
