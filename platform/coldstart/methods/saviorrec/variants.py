"""The variants with which SaviorRec is evaluated."""

from coldstart.data.item_table import ItemTable
from coldstart.methods.base import ITEM_TABLE, SCORER, Method, Parts, Variant, adapt
from coldstart.methods.saviorrec.model import load_scorer
from coldstart.rankers.scorer import Scorer


def variants(method: Method, parts: Parts) -> list[Variant]:
    """The served scorer, with and without the correction by codes.

    Args:
        method: Loads the served scorer.
        parts: Kind -> directory of the run's artifacts.
    """
    items = adapt(method.load_adaptor(parts), ItemTable.open(parts[ITEM_TABLE]))
    return [
        Variant("uncorrected", load_uncorrected, items, own_model=True, item_effect=True),
        Variant("release", method.load_scorer, items, own_model=True, item_effect=True),
    ]


def load_uncorrected(parts: Parts) -> Scorer:
    """The served scorer with `mtilde = m`."""
    scorer = load_scorer(parts[SCORER], parts["ranker"])
    scorer.mba = None
    return scorer.eval()
