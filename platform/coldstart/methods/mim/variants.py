"""The variants with which MIM is evaluated."""

import torch

from coldstart.data.item_table import ItemTable
from coldstart.methods.base import ITEM_TABLE, SCORER, Method, Parts, Variant
from coldstart.methods.mim.columns import CONTENT
from coldstart.methods.mim.scorer import RANKER, MaxSimilarity, read_width
from coldstart.rankers import load_ranker
from coldstart.rankers.scorer import Scorer


def variants(method: Method, parts: Parts) -> list[Variant]:
    """Similarity alone, the scorer without content, and what is served."""
    items = ItemTable.open(parts[ITEM_TABLE]).select([CONTENT])
    nothing = ItemTable({CONTENT: torch.zeros_like(items.columns[CONTENT])})
    return [
        Variant("max_similarity", load_max_similarity, items, own_model=True, item_effect=True),
        Variant("without_content", method.load_scorer, nothing, own_model=True, item_effect=True),
        Variant("release", method.load_scorer, items, own_model=True, item_effect=True),
    ]


def load_max_similarity(parts: Parts) -> Scorer:
    """The diagnostic scorer of the run's scorer."""
    return MaxSimilarity(load_ranker(parts[SCORER] / RANKER), read_width(parts[SCORER])).eval()
