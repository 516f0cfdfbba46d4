import socket
import threading
import time
from pathlib import Path

import mlflow
import pytest

from coldstart.config import MetricsLog, UserError, digest, read_artifact
from coldstart.registry import EvaluationOutputs, Registry, read_release, register_model, resolve


def test_version_has_recipe_metrics_dataset_and_lineage(run):
    MetricsLog(run.recipe.run_dir / "metrics" / "ranker.jsonl").write(10, 20, loss=0.7)
    MetricsLog(run.recipe.run_dir / "metrics" / "ranker.jsonl").write(20, 20, loss=0.5)
    ranker = run.register("ranker", cold_gauc=0.6)
    encoder = run.register("encoder", {"ranker": ranker.version})

    client = run.registry.client
    logged = client.get_run(ranker.run_id)
    assert logged.data.params["ranker.embedding_dim"] == "32"
    assert logged.data.tags["coldstart.recipe"] == digest(run.recipe)
    assert logged.data.metrics["cold_gauc"] == 0.6
    assert [(m.step, m.value) for m in client.get_metric_history(ranker.run_id, "loss")] == [(10, 0.7), (20, 0.5)]
    assert logged.inputs.dataset_inputs[0].dataset.digest == "d" * 36
    assert [file.path for file in client.list_artifacts(ranker.run_id)] == ["environment.txt", "recipe.yaml"]
    tags = client.get_model_version(encoder.name, str(encoder.version)).tags
    assert tags["coldstart.ranker.version"] == str(ranker.version)
    assert tags["coldstart.ranker"] == run.lineage["ranker"]
    assert tags["coldstart.dataset"] == "d" * 64


def test_card_is_the_description_of_the_version(run):
    version = register_model(
        run.registry,
        read_artifact(run.recipe.run_dir / "ranker", "ranker"),
        method="idproxy",
        recipe=run.recipe,
        upstream={},
        metrics_log=MetricsLog(run.recipe.run_dir / "metrics" / "ranker.jsonl"),
        evaluation=EvaluationOutputs(model_card="# A card"),
    ).version
    assert run.registry.version("ranker", version).description == "# A card"


def test_registering_again_returns_the_version_and_adds_metrics(run):
    first = run.register("ranker", auc=0.7)
    again = run.register("ranker", auc=0.1, cold_gauc=0.6)
    assert again == first
    assert run.registry.metrics("ranker", first.version) == {"auc": 0.7, "cold_gauc": 0.6}
    run.make("ranker", "two")
    assert run.register("ranker").version == first.version + 1


def test_artifacts_are_stored_next_to_the_database(run, tracking_uri, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    version = run.register("ranker").version
    database_dir = Path(tracking_uri.removeprefix("sqlite:///")).parent
    assert run.registry.download_artifact("ranker", version).path.is_relative_to(database_dir)
    assert not (tmp_path / "mlruns").exists()
    assert not list(tmp_path.glob("*.db"))


def test_upstream_of_another_lineage_is_refused(run):
    ranker = run.register("ranker").version
    run.make("ranker", "two")
    run.make("encoder", "of the second ranker")
    with pytest.raises(UserError, match=f"ranker version {ranker} is"):
        run.register("encoder", {"ranker": ranker})


def test_another_item_table_than_that_of_the_training_is_refused(run):
    run.make("item_table", "two")
    with pytest.raises(UserError, match="not the one that the scorer was trained on"):
        run.register("scorer")


def test_release_has_verified_parts_of_one_lineage(registered):
    release = read_release(registered.registry, 1)
    assert release.versions == {"scorer": 1, "ranker": 1, "encoder": 1}
    parts = (*release.parts.values(), release.items)
    assert {part.kind: part.fingerprint for part in parts} == {
        k: v for k, v in registered.lineage.items() if k != "dataset"
    }


def test_release_with_a_changed_file_is_refused(registered):
    release = read_release(registered.registry, 1)
    (release.parts["encoder"].path / "settings.json").write_text("{}")
    with pytest.raises(UserError, match="differs from its manifest"):
        read_release(registered.registry, 1)


def test_release_with_a_replaced_artifact_is_refused(registered):
    release = read_release(registered.registry, 1)
    other = registered.make("ranker", "two")
    for file in other.iterdir():
        (release.parts["ranker"].path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="somebody replaced it"):
        read_release(registered.registry, 1)


def test_release_with_a_deleted_ranker_version_is_refused(registered):
    registered.registry.client.delete_model_version(registered.registry.model_name("ranker"), "1")
    with pytest.raises(UserError, match="has no version 1"):
        read_release(registered.registry, 1)


def test_release_with_a_manually_changed_ranker_is_refused(registered):
    registered.make("ranker", "two")
    name, other = registered.registry.model_name("scorer"), registered.register("ranker").version
    registered.registry.client.set_model_version_tag(name, "1", "coldstart.ranker.version", str(other))
    with pytest.raises(UserError, match=f"version {other} is"):
        read_release(registered.registry, 1)


def test_release_of_differing_widths_is_refused(run):
    run.make("scorer", "wide", width=8)
    with pytest.raises(UserError, match=r"scorer reads 'coarse' as float32\[8\], but its item table has .*\[4\]"):
        read_release(run.registry, run.register_all(0.6).version)


def test_release_of_differing_layer_groups_is_refused(run):
    run.make("scorer", "deep", groups=3)
    with pytest.raises(UserError, match=r"scorer reads 'states' as .*\[3, 3\], but its item table has .*\[2, 3\]"):
        read_release(run.registry, run.register_all(0.6).version)


def test_errors_for_unknown_alias_kind_and_version_name_the_fix(run):
    with pytest.raises(UserError, match="promote scorer VERSION --to champion"):
        resolve(run.registry, "champion")
    with pytest.raises(UserError, match="allowed: champion, challenger"):
        resolve(run.registry, "chmapion")
    with pytest.raises(UserError, match="has no version 7"):
        read_release(run.registry, 7)
    with pytest.raises(UserError, match="allowed: ranker, encoder, quantizer, scorer"):
        run.registry.model_name("banana")


def test_versions_lists_every_version_once(registered):
    rows = registered.registry.versions()
    assert [(row["kind"], row["version"], row["metrics"]) for row in rows] == [
        ("ranker", 1, {}),
        ("encoder", 1, {}),
        ("scorer", 1, {"cold_gauc": 0.6}),
    ]
    assert rows[2]["upstream"] == {"ranker": 1, "encoder": 1}


def test_model_has_no_pickle_and_a_signature(run):
    version = run.register("ranker").version
    source = Path(run.registry.version("ranker", version).source.removeprefix("file://"))
    files = {file for file in source.rglob("*") if file.is_file()}
    assert not [file for file in files if file.suffix in (".pkl", ".pickle", ".pt", ".pth", ".bin")]
    assert not [file for file in files if file.read_bytes()[:1] == b"\x80"]
    model = mlflow.models.Model.load(str(source))
    assert model.signature.inputs.input_names()[0] == "history_item_ids"
    assert model.load_input_example(str(source))["candidate_item_ids"][0][0] == "film-3"
    assert "torch==" in (source / "requirements.txt").read_text()


def test_unreachable_server_is_reported_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(UserError, match=f"no MLflow at http://127.0.0.1:{port}.*start the server"):
        Registry(f"http://127.0.0.1:{port}", "demo")
    assert time.monotonic() - started < 3


def test_server_that_is_not_mlflow_is_reported_within_seconds():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def hang_up() -> None:
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=hang_up, daemon=True).start()
        started = time.monotonic()
        with pytest.raises(UserError, match="does not work"):
            Registry(f"http://127.0.0.1:{port}", "demo")
        assert time.monotonic() - started < 20
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("uri", ["./mlruns", "banana://x"])
def test_invalid_tracking_uri_is_reported(uri):
    with pytest.raises(UserError, match=r"registry\.tracking_uri"):
        Registry(uri, "demo")
