"""The stages of IDProxy, in the order of the paper: coarse alignment, embedding, fine alignment."""

from functools import partial

from coldstart.config import Recipe
from coldstart.config.recipe import settings_of
from coldstart.methods.base import ITEM_TABLE, SCORER, Method, Stage
from coldstart.methods.embed_items import embed_items
from coldstart.methods.idproxy import align_coarse, align_fine
from coldstart.methods.idproxy.config import Settings

_COARSE = ("content", "encoder", "mature_events", "method.coarse")
_FINE = ("method.fine", "method.content_similarity")
_FINE_INPUTS = ("dataset", "ranker", ITEM_TABLE)


def stages(method: Method, recipe: Recipe) -> tuple[Stage, ...]:
    """The stages after the ranker; those after embedding need a complete ranker, not only an ID table."""
    settings = settings_of(recipe, Settings)
    coarse = (
        Stage("align_coarse", "encoder", align_coarse.run, _COARSE, ("dataset", "ranker")),
        Stage("embed_items", ITEM_TABLE, partial(embed_items, method=method), (), ("dataset", "encoder")),
    )
    if recipe.ranker.pretrained.id_table is not None:
        return coarse
    fine = Stage("align_fine", align_fine.adaptor_kind(settings), align_fine.run, _FINE, _FINE_INPUTS)
    if settings.mode == "frozen":
        return (*coarse, fine)
    return (*coarse, fine, Stage("align_joint", SCORER, align_fine.run_joint, _FINE, _FINE_INPUTS))
