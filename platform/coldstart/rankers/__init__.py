"""CTR rankers: models with an ID table and item slots, and how they are saved and loaded."""

from coldstart.rankers.din_dcn import DinDcn
from coldstart.rankers.feature_embedding import FeatureSchema
from coldstart.rankers.imported_table import IdEmbeddings
from coldstart.rankers.interface import InteractionRanker, Ranker
from coldstart.rankers.ranker_classes import ranker_class
from coldstart.rankers.storage import load_id_embeddings, load_ranker, read_item_index, save_ranker, weights_sha256

__all__ = [
    "DinDcn",
    "FeatureSchema",
    "IdEmbeddings",
    "InteractionRanker",
    "Ranker",
    "load_id_embeddings",
    "load_ranker",
    "ranker_class",
    "read_item_index",
    "save_ranker",
    "weights_sha256",
]
