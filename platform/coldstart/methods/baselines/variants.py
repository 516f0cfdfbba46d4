"""The baselines that every evaluation shows beside the method's own variants."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from coldstart.data.dataset import Dataset
from coldstart.data.item_table import ItemTable
from coldstart.methods.base import Parts, Variant, adapt, load_slot_scorer
from coldstart.methods.baselines.content_similarity import (
    DEFAULT_PENALTY,
    fit_similarity,
    fit_text,
    has_text,
    text_vectors,
)
from coldstart.methods.baselines.similarity_scorer import CONTENT, TEXT, CenteredStates, SimilarityScorer
from coldstart.rankers import Ranker, load_ranker
from coldstart.rankers.scorer import IdScorer, Scorer, slot_table


def baseline_variants(ranker: Ranker, dataset: Dataset, items: ItemTable, *, seed: int) -> list[Variant]:
    """The ranker without content, and its ID with similarities of content to the user's history.

    Args:
        ranker: Of the run.
        dataset: Of the run.
        items: The columns of the method's encoder; similarity reads `content` or, without it, layer states.
        seed: Of the text vectors and of the sample that similarities are fitted on.
    """
    with torch.no_grad():
        ids = ranker.id_slots(torch.arange(ranker.vocab_size)).float()
    tables = {"oov": ids[:1].repeat(len(ids), 1), "id": ids}
    found = [Variant(name, load_slot_scorer, slot_table(table)) for name, table in tables.items()]
    vectors = {TEXT: text_vectors(dataset, fit_text(dataset, seed=seed) if has_text(dataset) else None)}
    if CONTENT in items.columns:
        vectors[CONTENT] = items.columns[CONTENT]
    elif "states" in items.columns:
        vectors |= adapt(CenteredStates.of(items), items).columns
    for column, values in vectors.items():
        table, widths = ItemTable({column: values}), {column: values.shape[-1]}
        scorer = SimilarityScorer(IdScorer(ranker), widths)
        fit_similarity(scorer, table, dataset.sequences, penalty=DEFAULT_PENALTY, seed=seed)
        load = partial(_load_similarity, widths=widths, weights=scorer.weights)
        found.append(Variant(f"{column}_similarity", load, table, item_effect=True))
    return found


def _load_similarity(parts: Parts, widths: Mapping[str, int], weights: Tensor) -> Scorer:
    scorer = SimilarityScorer(IdScorer(load_ranker(parts["ranker"])), widths)
    scorer.weights.copy_(weights)
    return scorer.eval()
