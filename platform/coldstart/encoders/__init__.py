"""Encoders: loading an MLLM, prompt, pooling and layer states; the tiny offline MLLM."""

from coldstart.encoders.encoder import Encoder
from coldstart.encoders.tiny import create_tiny_mllm

__all__ = ["Encoder", "create_tiny_mllm"]
