"""Distributed training: the launch on Ray Train, engines, checkpoints, and the trainers that run on each rank."""
