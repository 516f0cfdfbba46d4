"""Encoders: loading an MLLM, prompt, pooling and layer states; the tiny offline MLLM."""

from coldstart.encoders.encoder import Encoder
from coldstart.encoders.item_embeddings import read_proxies
from coldstart.encoders.tiny import create_tiny_mllm

__all__ = ["Encoder", "create_tiny_mllm", "read_proxies"]
