"""The stages of MIM, in the order of the paper: pre-training, C-SFT, embedding, CiUBM."""

from functools import partial

from coldstart.config import Recipe
from coldstart.methods.base import ITEM_TABLE, SCORER, Method, Stage
from coldstart.methods.embed_items import embed_items
from coldstart.methods.mim import train_scorer
from coldstart.methods.mim.content_stages import ALIGN, ALIGNED, ENCODER, FINE_TUNE, run_align, run_fine_tune


def stages(method: Method, recipe: Recipe) -> tuple[Stage, ...]:
    """The stages after the ranker; an ID table alone cannot be the ID-interest unit, so it has no third stage."""
    content = (
        Stage(ALIGN, ALIGNED, run_align, ("content", "method.towers", "method.align"), ("dataset",), intermediate=True),
        Stage(FINE_TUNE, ENCODER, run_fine_tune, ("content", "method.fine_tune"), ("dataset", ALIGNED)),
        Stage("embed_items", ITEM_TABLE, partial(embed_items, method=method), (), ("dataset", ENCODER)),
    )
    if recipe.ranker.pretrained.id_table is not None:
        return content
    inputs = ("dataset", "ranker", ENCODER, ITEM_TABLE)
    return (*content, Stage(train_scorer.STAGE, SCORER, train_scorer.run, ("method.interest",), inputs))
