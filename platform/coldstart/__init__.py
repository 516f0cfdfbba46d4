"""Cold-start proxies for CTR rankers, read from item content by a multimodal LLM."""

__version__ = "0.1.0"
