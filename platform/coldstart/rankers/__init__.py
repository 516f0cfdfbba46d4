"""CTR rankers: models with an ID table and an item slot, and how they are written and read."""

from coldstart.rankers.din_dcn import DinDcn
from coldstart.rankers.features import FeatureSchema
from coldstart.rankers.given_table import IdRows
from coldstart.rankers.interface import Ranker, ReadingRanker
from coldstart.rankers.kinds import ranker_class
from coldstart.rankers.storage import digest, load_id_rows, load_ranker, save_ranker, vocabulary

__all__ = [
    "DinDcn",
    "FeatureSchema",
    "IdRows",
    "Ranker",
    "ReadingRanker",
    "digest",
    "load_id_rows",
    "load_ranker",
    "ranker_class",
    "save_ranker",
    "vocabulary",
]
