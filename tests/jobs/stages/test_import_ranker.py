"""An imported ranker or ID table becomes the run's ranker, or is refused with the reason."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from coldstart.config import Recipe, UserError, read_artifact
from coldstart.config.import_allowlist import ALLOWED_IMPORT, allow_import
from coldstart.data.dataset import Dataset
from coldstart.jobs import pipeline
from coldstart.jobs.analysis import evaluate
from coldstart.jobs.stages import import_ranker, prepare
from coldstart.methods.idproxy import align_fine
from coldstart.methods.idproxy.align_coarse import alignment_job
from coldstart.rankers import load_id_embeddings, load_ranker
from tests.rankers.own_ranker import Dot

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
KIND = "tests.rankers.own_ranker:Dot"


def recipe(runs: Path, **sections: object) -> Recipe:
    generated = {"items": 60, "users": 40, "events": 1500, "weeks": 2, "image_size": 16}
    own = {"name": "mine", "paths": {"runs": runs}, "data": {"generated": generated}, "ranker": {"embedding_dim": 8}}
    return Recipe.model_validate(own | sections)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs")
    prepare.run(recipe(path))
    return path


@pytest.fixture
def ids(runs: Path) -> list[str]:
    return list(Dataset.open(runs / "mine" / "dataset").item_index)


def id_table(path: Path, ids: list[str]) -> Path:
    rng = np.random.default_rng(0)
    np.savez(path, ids=np.array(ids), vectors=rng.normal(size=(len(ids), 8)).astype(np.float32))
    return path


def test_an_id_table_is_enough_for_coarse_alignment_but_not_for_scoring(
    runs: Path, ids: list[str], tmp_path: Path
) -> None:
    imported = recipe(
        runs, ranker={"embedding_dim": 8, "pretrained": {"id_table": id_table(tmp_path / "ids.npz", ids[:50])}}
    )
    artifact = import_ranker.run(imported)
    dataset = Dataset.open(runs / "mine" / "dataset")
    assert artifact.kind == "ranker"
    assert artifact.lineage == {"dataset": dataset.artifact.fingerprint}
    embeddings = load_id_embeddings(artifact.path)
    assert embeddings.trained.sum() == artifact.metadata["items_with_row"] == 50
    for scoring in (align_fine, evaluate):
        with pytest.raises(UserError, match=r"only an ID table.*ranker\.pretrained\.weights"):
            scoring.run(imported)
    assert [stage.name for stage in pipeline.stages(imported)] == [
        "prepare",
        "import_ranker",
        "align_coarse",
        "embed_items",
    ]
    small = recipe(runs, mature_events=1, method={"coarse": {"batch": 8}})
    job = alignment_job(small, dataset, embeddings, mllm="", key="k")
    assert max(job.train.max(), job.heldout.max()) <= 50
    few = recipe(runs, mature_events=100_000, method={"coarse": {"batch": 8}})
    with pytest.raises(UserError, match=r"no item with an ID row.*50 of 60 items have.*lower mature_events"):
        alignment_job(few, dataset, embeddings, mllm="", key="k")


def test_an_imported_ranker_keeps_cold_items_cold(
    runs: Path, ids: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ALLOWED_IMPORT, raising=False)
    imported = recipe(
        runs, ranker={"embedding_dim": 8, "kind": KIND, "pretrained": {"weights": tmp_path / "mine.safetensors"}}
    )
    ranker = Dot(len(ids) + 1, imported.ranker)
    torch.nn.init.normal_(ranker.id_table.weight)
    ranker.trained[1:] = True
    save_file(ranker.state_dict(), tmp_path / "mine.safetensors")
    with pytest.raises(UserError, match="only if you name it"):
        import_ranker.run(imported)
    allow_import(KIND)
    artifact = import_ranker.run(imported)
    loaded = load_ranker(artifact.path)
    assert torch.equal(loaded.id_rows(), ranker.id_rows())
    has_events = Dataset.open(runs / "mine" / "dataset").train_counts > 0
    assert np.array_equal(loaded.trained.numpy(), has_events)
    assert read_artifact(artifact.path, "ranker").metadata["imported"] == KIND
    assert "train_ranker" not in [stage.name for stage in pipeline.stages(imported)]


def test_a_missing_import_and_missing_files_are_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no ranker to import"):
        import_ranker.run(recipe(runs))
    with pytest.raises(UserError, match=r"ranker\.pretrained: .*nowhere\.npz does not exist"):
        pipeline.check(recipe(runs, ranker={"pretrained": {"id_table": tmp_path / "nowhere.npz"}}))
    with pytest.raises(ValueError, match="exclude each other"):
        recipe(runs, ranker={"pretrained": {"id_table": "a.npz", "weights": "b.safetensors"}})
    with pytest.raises(ValueError, match=r"needs ranker\.pretrained\.weights"):
        recipe(runs, ranker={"pretrained": {"item_ids": "a.parquet"}})
