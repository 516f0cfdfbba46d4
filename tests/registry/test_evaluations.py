from pathlib import Path

from coldstart.config import Artifact, Recipe, read_artifact, write_artifact
from coldstart.registry import Registry
from coldstart.registry.evaluations import log_evaluation


def _evaluation(at: Path, kind: str, metrics: dict) -> Artifact:
    with write_artifact(at / kind, kind, {}, {"metrics": metrics}) as draft:
        (draft / "report.html").write_text("<p>report")
        (draft / f"{kind}.json").write_text("{}")
        for folder, name in (("plots", "gain.png"), ("scores", "part-00000.parquet")):
            (draft / folder).mkdir()
            (draft / folder / name).write_bytes(b"x")
    return read_artifact(at / kind, kind)


def test_report_plots_and_metrics_are_logged_once(tmp_path: Path, tracking_uri: str) -> None:
    recipe = Recipe.model_validate({"name": "evaluated", "paths": {"runs": tmp_path}})
    registry = Registry(tracking_uri, "evaluated")
    metrics = {"fine": {"cold": {"gauc": 0.61, "rows": 12}, "warm": {"gauc": None, "rows": 0}}}
    evaluation = _evaluation(tmp_path, "evaluation", metrics)
    run_id = log_evaluation(registry, evaluation, recipe, dataset="d" * 64)
    run = registry.client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"cold/gauc/fine": 0.61, "cold/rows/fine": 12, "warm/rows/fine": 0}
    top = {file.path for file in registry.client.list_artifacts(run_id)}
    assert {"report.html", "evaluation.json", "plots"} <= top
    assert "scores" not in top
    assert log_evaluation(registry, evaluation, recipe, dataset="d" * 64) == run_id


def test_several_seeds_are_a_separate_run_with_mean_metrics(tmp_path: Path, tracking_uri: str) -> None:
    recipe = Recipe.model_validate({"name": "several", "paths": {"runs": tmp_path}})
    registry = Registry(tracking_uri, "several")
    metrics = {"fine": {"cold": {"gauc": {"value": 0.6, "spread": 0.01, "by_seed": [0.59, 0.61]}}}}
    seeds = _evaluation(tmp_path, "evaluation-seeds", metrics)
    one = _evaluation(tmp_path, "evaluation", {"fine": {"cold": {"gauc": 0.59}}})
    ids = [log_evaluation(registry, artifact, recipe, dataset="d" * 64) for artifact in (seeds, one)]
    assert ids[0] != ids[1]
    assert registry.client.get_run(ids[0]).data.metrics == {"cold/gauc/fine": 0.6}
