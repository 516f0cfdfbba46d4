"""What a user brings becomes the run's ranker, or is refused with the reason."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from coldstart.config import Recipe, UserError, read_artifact
from coldstart.config.permission import PERMITTED, permit
from coldstart.data.dataset import Dataset
from coldstart.rankers import load_id_rows, load_ranker
from tests.rankers.own_ranker import Dot
from workloads import align_fine, evaluate, import_ranker, pipeline, prepare
from workloads.align_coarse import coarse_task

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
KIND = "tests.rankers.own_ranker:Dot"


def recipe(runs: Path, **sections: object) -> Recipe:
    generated = {"items": 60, "users": 40, "events": 1500, "weeks": 2, "picture_size": 16}
    own = {"name": "mine", "paths": {"runs": runs}, "data": {"generated": generated}, "ranker": {"width": 8}}
    return Recipe.model_validate(own | sections)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs")
    prepare.run(recipe(path))
    return path


@pytest.fixture
def ids(runs: Path) -> list[str]:
    return list(Dataset.open(runs / "mine" / "dataset").item_index)


def table(path: Path, ids: list[str]) -> Path:
    rng = np.random.default_rng(0)
    np.savez(path, ids=np.array(ids), vectors=rng.normal(size=(len(ids), 8)).astype(np.float32))
    return path


def test_an_id_table_serves_coarse_alignment_and_nothing_that_scores(
    runs: Path, ids: list[str], tmp_path: Path
) -> None:
    brought = recipe(runs, bring={"id_table": table(tmp_path / "ids.npz", ids[:50])})
    artifact = import_ranker.run(brought)
    dataset = Dataset.open(runs / "mine" / "dataset")
    assert artifact.kind == "ranker"
    assert artifact.lineage == {"dataset": dataset.artifact.fingerprint}
    given = load_id_rows(artifact.path)
    assert given.trained.sum() == artifact.about["items_with_row"] == 50
    for scoring in (align_fine, evaluate):
        with pytest.raises(UserError, match=r"an ID table alone.*bring\.weights"):
            scoring.run(brought)
    assert [stage.name for stage in pipeline.stages(brought)] == [
        "prepare",
        "import_ranker",
        "align_coarse",
        "embed_items",
    ]
    small = recipe(runs, coarse={"min_events": 1, "batch": 8})
    task = coarse_task(small, dataset, given, mllm="", key="k")
    assert max(task.train.max(), task.heldout.max()) <= 50
    few = recipe(runs, coarse={"min_events": 100_000, "batch": 8})
    with pytest.raises(UserError, match=r"no item with an ID row.*50 of 60 items have a row.*lower coarse\.min_events"):
        coarse_task(few, dataset, given, mllm="", key="k")


def test_a_whole_ranker_keeps_cold_items_cold(
    runs: Path, ids: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PERMITTED, raising=False)
    brought = recipe(runs, ranker={"width": 8, "kind": KIND}, bring={"weights": tmp_path / "mine.safetensors"})
    ranker = Dot(len(ids) + 1, brought.ranker)
    torch.nn.init.normal_(ranker.id_table.weight)
    ranker.trained[1:] = True
    save_file(ranker.state_dict(), tmp_path / "mine.safetensors")
    with pytest.raises(UserError, match="only where you name it"):
        import_ranker.run(brought)
    permit(KIND)
    artifact = import_ranker.run(brought)
    loaded = load_ranker(artifact.path)
    assert torch.equal(loaded.id_rows(), ranker.id_rows())
    seen = Dataset.open(runs / "mine" / "dataset").train_counts > 0
    assert np.array_equal(loaded.trained.numpy(), seen)
    assert read_artifact(artifact.path, "ranker").about["brought"] == KIND
    assert "train_ranker" not in [stage.name for stage in pipeline.stages(brought)]


def test_nothing_brought_and_files_that_are_not_there(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="brings no ranker"):
        import_ranker.run(recipe(runs))
    with pytest.raises(UserError, match=r"bring: .*nowhere\.npz does not exist"):
        pipeline.check(recipe(runs, bring={"id_table": tmp_path / "nowhere.npz"}))
    with pytest.raises(ValueError, match="exclude each other"):
        recipe(runs, bring={"id_table": "a.npz", "weights": "b.safetensors"})
    with pytest.raises(ValueError, match=r"belongs to bring\.weights"):
        recipe(runs, bring={"ids": "a.parquet"})
