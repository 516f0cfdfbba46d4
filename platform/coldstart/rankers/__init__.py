"""CTR rankers: models with an ID table and an item slot, and how they are written and read."""

from coldstart.rankers.din_dcn import DinDcn
from coldstart.rankers.interface import Ranker
from coldstart.rankers.storage import digest, load_ranker, save_ranker, vocabulary

__all__ = ["DinDcn", "Ranker", "digest", "load_ranker", "save_ranker", "vocabulary"]
