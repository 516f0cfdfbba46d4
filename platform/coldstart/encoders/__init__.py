"""Encoders: MLLM loading, prompt, pooling and layer states; the tiny offline MLLM."""

from coldstart.encoders.encoder import Encoder
from coldstart.encoders.proxies import read_proxies
from coldstart.encoders.tiny import make_mllm

__all__ = ["Encoder", "make_mllm", "read_proxies"]
