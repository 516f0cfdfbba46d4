"""Layers and losses that several methods and rankers share, under their standard names."""
