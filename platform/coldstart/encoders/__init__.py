"""Encoders: MLLMs with prompt, pooling and layer states, dual encoders, and the tiny offline ones."""

from coldstart.encoders.encoder import Encoder
from coldstart.encoders.tiny import create_tiny_mllm

__all__ = ["Encoder", "create_tiny_mllm"]
