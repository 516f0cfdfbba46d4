"""Which variants are scored, and which only get the scores of another."""

from dataclasses import replace

import torch

from coldstart.data.item_table import ItemTable
from coldstart.jobs.analysis.scoring import distinct_variants
from coldstart.methods.available import METHODS
from coldstart.methods.base import Variant, load_slot_scorer

ITEMS = ItemTable({"slot": torch.ones(3, 2)})
LOAD = METHODS["idproxy"].load_scorer


def test_a_scorer_with_one_table_is_scored_once() -> None:
    joint = Variant("joint", LOAD, ITEMS, own_model=True, item_effect=True)
    kept, copies = distinct_variants([Variant("oov", load_slot_scorer, ITEMS), joint, replace(joint, name="release")])
    assert [one.name for one in kept] == ["oov", "joint"]
    assert copies == {"release": "joint"}


def test_other_scorers_tables_and_measurements_are_scored_by_themselves() -> None:
    first = Variant("first", LOAD, ITEMS)
    others = [
        replace(first, name="table", items=ItemTable(ITEMS.columns)),
        replace(first, name="scorer", load=load_slot_scorer),
        replace(first, name="effect", item_effect=True),
        replace(first, name="unknown", own_model=True),
    ]
    assert distinct_variants([first, *others]) == ([first, *others], {})
