import json

import pytest
import torch

from coldstart.config import UserError
from coldstart.config.recipe import Ranker as RankerSettings
from coldstart.data.batches import rank_request
from coldstart.rankers import DinDcn, load_ranker, read_item_index, save_ranker, weights_sha256
from coldstart.rankers.ranker_classes import RANKERS


@pytest.fixture
def saved(tmp_path):
    return written(DinDcn(4, RankerSettings(embedding_dim=8)), tmp_path)


def written(ranker, tmp_path):
    for parameter in ranker.eval().parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ranker.trained[1:3] = True
    save_ranker(ranker, tmp_path, ["a", "b", "c"])
    return ranker, tmp_path


@pytest.mark.parametrize("kind", list(RANKERS))
def test_a_loaded_ranker_scores_like_the_saved_one(kind, tmp_path):
    ranker, path = written(RANKERS[kind](4, RankerSettings(kind=kind, embedding_dim=8)), tmp_path)
    loaded = load_ranker(path)
    assert type(loaded) is RANKERS[kind]
    batch = rank_request([1, 2], [0, 1], [1, 2], [1, 2, 3], 9, history=5)
    assert torch.equal(
        loaded(batch, loaded.id_slots(batch.target_idx)), ranker(batch, ranker.id_slots(batch.target_idx))
    )
    assert not loaded.training
    assert weights_sha256(loaded) == weights_sha256(ranker)


def test_the_hash_changes_with_a_single_weight(saved):
    ranker, _ = saved
    before = weights_sha256(ranker)
    with torch.no_grad():
        ranker.id_table.weight[2, 3] += 1e-6
    assert weights_sha256(ranker) != before


def test_the_item_index_maps_ids_to_rows(saved):
    assert read_item_index(saved[1]) == {"a": 1, "b": 2, "c": 3}


def test_an_unknown_class_is_refused(saved):
    config = saved[1] / "ranker.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"class": "os.system"}))
    with pytest.raises(UserError, match=r"os\.system.*din_dcn"):
        load_ranker(saved[1])


def test_weights_of_another_size_are_refused(saved):
    config = saved[1] / "ranker.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"vocab_size": 9}))
    with pytest.raises(UserError, match="complete din_dcn"):
        load_ranker(saved[1])


def test_a_missing_ranker_names_the_stage_to_run(tmp_path):
    with pytest.raises(UserError, match="train_ranker"):
        load_ranker(tmp_path)
