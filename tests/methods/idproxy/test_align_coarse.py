import argparse
import shutil
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from transformers import AutoModelForImageTextToText

from coldstart.config import MetricsLog, Recipe, UserError, read_artifact, write_artifact
from coldstart.config.recipe import Encoder as EncoderSettings
from coldstart.data.content import Content
from coldstart.data.dataset import Dataset
from coldstart.data.item_table import ItemTable
from coldstart.encoders import Encoder
from coldstart.encoders.check import check_mllm
from coldstart.encoders.item_embeddings import read_single_modality, write_part
from coldstart.jobs.runner import run_program
from coldstart.jobs.stages import prepare
from coldstart.methods import embed_items
from coldstart.methods.available import METHODS
from coldstart.methods.idproxy import align_coarse
from coldstart.methods.idproxy.coarse_training import NonFiniteLossError
from coldstart.rankers import DinDcn, save_ranker

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(600)]


def recipe(runs: Path, *, mature_events: int = 5, **coarse: object) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "small",
            "seed": 3,
            "mature_events": mature_events,
            "paths": {"runs": runs},
            "data": {"generated": {"items": 150, "users": 60, "events": 3000, "weeks": 2, "image_size": 32}},
            "ranker": {"embedding_dim": 8},
            "encoder": {"image_size": 32, "max_text_tokens": 12, "layer_groups": 2},
            "method": {"coarse": {"batch": 16, "epochs": 6, "checkpoint_every": 2, **coarse}},
        }
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a dataset and a ranker whose ID table is random."""
    path = tmp_path_factory.mktemp("runs")
    settings = recipe(path)
    dataset = prepare.run(settings)
    torch.manual_seed(0)
    ranker = DinDcn(151, settings.ranker)
    ranker.trained[1:] = True
    ids = Dataset.open(dataset.path).items(["item_id"])["item_id"].to_pylist()
    with write_artifact(settings.run_dir / "ranker", "ranker", {"dataset": dataset.fingerprint}, {}) as draft:
        save_ranker(ranker, draft, ids)
    return path


@pytest.fixture(scope="module")
def aligned(runs: Path) -> Path:
    """The run with an encoder, one of whose workers was killed half way."""
    settings = recipe(runs)
    metrics_log = settings.run_dir / "metrics" / "align_coarse.jsonl"
    killer = threading.Thread(target=_kill_a_worker, args=(metrics_log, 6), daemon=True)
    killer.start()
    align_coarse.run(settings)
    killer.join()
    return settings.run_dir


def _kill_a_worker(metrics_log: Path, after: int) -> None:
    """Kills a training worker of this test's cluster once its metrics log says that `after` steps are done."""
    progress, pause = MetricsLog(metrics_log), threading.Event()
    while not any(line["done"] >= after for line in progress.follow()):
        pause.wait(0.01)
    ours = psutil.Process().children(recursive=True)
    next(process for process in ours if "RayTrainWorker" in "".join(process.cmdline())).kill()


def test_survives_the_death_of_a_worker_from_its_newest_checkpoint(aligned: Path) -> None:
    lines = MetricsLog(aligned / "metrics" / "align_coarse.jsonl").read()
    done = [line["done"] for line in lines if "note" not in line]
    back = next(place for place in range(1, len(done)) if done[place] <= done[place - 1])
    # The checkpoint of step 4 may still have been on its way to disk.
    assert done[back] > 2, "it started from scratch"
    assert sorted(set(done)) == list(range(done[-1] + 1))
    assert not (aligned / "checkpoints" / "align_coarse").exists()


def test_encoder_is_an_artifact_with_lineage_that_transformers_loads(aligned: Path) -> None:
    artifact = read_artifact(aligned / "encoder", "encoder")
    assert artifact.lineage == {kind: read_artifact(aligned / kind, kind).fingerprint for kind in ("dataset", "ranker")}
    assert artifact.metadata["chance_recall_at_10"] > 0
    assert artifact.metadata["groups"] == 2
    sizes = [weight.numel() for weight in Encoder.load(artifact.path, "cpu").parameters()]
    assert artifact.metadata["trained_parameters"] + artifact.metadata["frozen_parameters"] == sum(sizes)
    assert artifact.metadata["frozen_parameters"] < artifact.metadata["trained_parameters"]
    AutoModelForImageTextToText.from_pretrained(artifact.path / "checkpoint")


def test_embeds_every_item_as_the_encoder_reads_it(aligned: Path, runs: Path) -> None:
    artifact = embed_items.embed_items(recipe(runs), METHODS["idproxy"])
    assert set(artifact.lineage) == {"dataset", "ranker", "encoder"}
    table = ItemTable.open(artifact.path)
    assert len(table) == 151
    encoder = Encoder.load(aligned / "encoder", "cpu")
    some = np.array([150, 1, 77])
    contents = Dataset.open(aligned / "dataset").contents(some)
    with torch.inference_mode():
        expected = encoder(encoder.inputs(encoder.prepare(contents), "cpu"))
    np.testing.assert_allclose(table.columns["coarse"][some].numpy(), expected[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(table.columns["states"][some].numpy(), expected[1].numpy(), atol=1e-4)
    assert embed_items.embed_items(recipe(runs), METHODS["idproxy"]).fingerprint == artifact.fingerprint


def test_a_sample_of_cold_items_is_read_by_image_and_by_text_alone(aligned: Path, runs: Path) -> None:
    artifact, dataset = embed_items.embed_items(recipe(runs), METHODS["idproxy"]), Dataset.open(aligned / "dataset")
    encoder = Encoder.load(aligned / "encoder", "cpu")
    alone = {
        "image": lambda item: Content(image=item.image),
        "text": lambda item: Content(item.title, item.text),
    }
    for shown, left in alone.items():
        found = read_single_modality(artifact.path, shown)
        assert found is not None
        items, table = found
        contents = dataset.contents(items)
        assert (dataset.train_counts[items] == 0).all()
        assert all(content.image and content.title for content in contents)
        with torch.inference_mode():
            expected = encoder(encoder.inputs(encoder.prepare([left(item) for item in contents]), "cpu"))[0]
        np.testing.assert_allclose(table.columns["coarse"].numpy(), expected.numpy(), atol=1e-5)
    cold = np.flatnonzero(dataset.train_counts[1:] == 0) + 1
    assert len(items) == sum(content.image is not None for content in dataset.contents(cold)) > 5


def test_parts_that_an_interrupted_run_wrote_are_not_embedded_again(
    aligned: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed_items, "ITEMS_PER_PART", 100)
    encoder, dataset = (read_artifact(aligned / kind, kind) for kind in ("encoder", "dataset"))
    lineage = {**encoder.lineage, "dataset": dataset.fingerprint, "encoder": encoder.fingerprint}
    parts = embed_items.parts_dir(aligned, lineage)
    before = ItemTable.open(aligned / "item_table").columns["coarse"].clone()
    zeros = {"coarse": np.zeros((100, 8), np.float32)}
    zeros["states"] = np.zeros((100, 2, encoder.metadata["hidden"]), np.float32)
    write_part(parts, 0, np.arange(1, 101), zeros)
    coarse = ItemTable.open(embed_items.embed_items(recipe(runs), METHODS["idproxy"]).path).columns["coarse"]
    assert not coarse[:101].any()
    np.testing.assert_allclose(coarse[101:].numpy(), before[101:].numpy(), atol=1e-5)


def test_a_missing_mllm_is_told_before_a_cluster_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = argparse.Namespace(recipe="demo", set=["encoder.mllm=/nothing"], address="127.0.0.1:1", json=False)
    monkeypatch.setattr("coldstart.jobs.runner.ray_cluster", lambda *_: pytest.fail("touched a cluster"))
    with pytest.raises(SystemExit, match="2"):
        run_program(arguments, align_coarse.run, check=lambda recipe: check_mllm(recipe.encoder))


def test_blocks_stay_small_when_images_are_large() -> None:
    assert align_coarse.block_rows(EncoderSettings()) == 256
    assert align_coarse.block_rows(EncoderSettings(image_size=448)) == 27
    assert align_coarse.block_rows(EncoderSettings(image_size=10_000)) == 1


def test_an_id_table_of_another_dataset_is_refused(runs: Path, tmp_path: Path) -> None:
    settings = recipe(tmp_path)
    shutil.copytree(recipe(runs).run_dir / "dataset", settings.run_dir / "dataset")
    ranker = DinDcn(151, settings.ranker)
    with write_artifact(settings.run_dir / "ranker", "ranker", {"dataset": "f" * 64}, {}) as draft:
        save_ranker(ranker, draft, [str(item) for item in range(150)])
    with pytest.raises(UserError, match=r"ID table in .*ranker is from another dataset \(f{12}\) .* train_ranker"):
        align_coarse.run(settings)


def test_no_mature_item_names_threshold_and_counts(runs: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"mature_events 100000 train events .*maximum of their train events is \d+.*lower mature_events",
    ):
        align_coarse.run(recipe(runs, mature_events=100_000))


def test_batch_larger_than_the_mature_items_is_refused(runs: Path) -> None:
    with pytest.raises(UserError, match=r"method.coarse.batch 256 exceeds the \d+ mature items"):
        align_coarse.run(recipe(runs, batch=256))


def test_a_non_finite_loss_names_items_and_the_checkpoint(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = recipe(runs)
    payload = {
        "recipe": settings.model_dump(mode="json"),
        "run_dir": str(settings.run_dir.absolute()),
        "mllm": "tiny",
        "key": "k" * 64,
    }
    ids = Dataset.open(settings.run_dir / "dataset").items(["item_id"])["item_id"].to_pylist()

    def diverge(*_: object) -> None:
        raise NonFiniteLossError(41, "loss", np.array([3, 150]))

    monkeypatch.setattr(align_coarse, "train_coarse", diverge)
    with pytest.raises(
        UserError, match=f"loss of step 41 .* item_id {ids[2]}, {ids[149]}; there is no checkpoint yet.*lower"
    ):
        align_coarse._worker(payload)
