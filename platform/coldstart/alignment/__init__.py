"""Alignment: contrastive losses, layer groups, and the adaptor that fits content into the ranker's item slot."""

from coldstart.alignment.adaptor import Adaptor, fine_proxies, load_adaptor, save_adaptor

__all__ = ["Adaptor", "fine_proxies", "load_adaptor", "save_adaptor"]
