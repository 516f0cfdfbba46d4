"""Alignment of content with ID embeddings: contrastive loss, layer groups, adaptor, joint ranker."""

from coldstart.alignment.adaptor import Adaptor, fine_proxies, load_adaptor, save_adaptor
from coldstart.alignment.item_vectors import ContentVectors, ItemVectors, ProxyVectors
from coldstart.alignment.joint_ranker import JointRanker, load_joint, save_joint

__all__ = [
    "Adaptor",
    "ContentVectors",
    "ItemVectors",
    "JointRanker",
    "ProxyVectors",
    "fine_proxies",
    "load_adaptor",
    "load_joint",
    "save_adaptor",
    "save_joint",
]
