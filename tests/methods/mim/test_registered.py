"""The kinds that MIM registers, loaded as MLflow loads them, from a release of random models."""

import numpy as np
import pandas as pd
import pytest
import torch

from coldstart.data.batches import rank_request
from coldstart.data.item_table import ItemTable
from coldstart.methods.available import METHODS
from coldstart.methods.base import SCORER
from coldstart.registry import Release
from tests.methods.mim.release import WIDTH, write_release
from tests.serving.tiny import HISTORY, IDS


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return write_release(tmp_path_factory.mktemp("release"))


@pytest.mark.parametrize("kind", METHODS["mim"].kinds, ids=lambda kind: kind.name)
def test_the_example_has_the_inputs_and_gives_the_outputs(release: Release, kind):
    artifact = release.parts[kind.name]
    example = kind.example(artifact, release.items)
    assert set(example) <= {field.name for field in kind.inputs}
    assert {field.name for field in kind.inputs if field.required} <= set(example)
    found = kind.load(artifact.path).predict(pd.DataFrame([example]))
    assert list(found.columns) == [field.name for field in kind.outputs]
    assert np.isfinite(found.iloc[0, 0]).all()


def test_the_registered_scorer_scores_like_the_served_one(release: Release):
    """With more events than it may see, out of order, and one that is later than the request."""
    method, items = METHODS["mim"], ItemTable.open(release.items.path)
    seen, times = [3, 1, 12, 5, 2, 7, 9, 4], [80, 10, 70, 30, 60, 20, 50, 99]
    labels, targets = [1, 0, 1, 1, 0, 1, 1, 1], [2, 11, 3]
    batch = rank_request(seen, labels, times, targets, 90, history=HISTORY)
    with torch.inference_mode():
        wanted = torch.sigmoid(method.load_scorer(release.paths)(batch, items))[0].tolist()
    content = items.columns["content"]
    row = {
        "history_item_ids": [IDS[index - 1] for index in seen],
        "history_labels": labels,
        "history_times": times,
        "history_content": content[seen].tolist(),
        "candidate_item_ids": [IDS[index - 1] for index in targets],
        "candidate_content": content[targets].tolist(),
        "now": 90,
    }
    model = method.kinds[-1].load(release.parts[SCORER].path)
    assert model.predict(pd.DataFrame([row]))["scores"][0] == pytest.approx(wanted, abs=1e-6)


def test_a_scorer_tells_the_columns_that_it_reads(release: Release):
    scorer = METHODS["mim"].kinds[-1]
    assert scorer.reads(release.parts[SCORER]) == METHODS["mim"].load_scorer(release.paths).inputs
    assert scorer.reads(release.parts[SCORER])["content"].shape == (WIDTH,)
