"""Runs the whole product: pipeline, promotion, serving and real requests, and writes a summary."""

import base64
import json
import statistics
import time
from importlib.metadata import version
from typing import Any

import httpx
import numpy as np

from coldstart.config import Artifact, Recipe, UserError, load_recipe, read_artifact
from coldstart.config.shipped_recipes import find_recipe
from coldstart.data.batches import users_of
from coldstart.data.dataset import Dataset
from coldstart.data.schema import TEST
from coldstart.evaluation.report.run_report import terminal_table
from coldstart.jobs import pipeline
from coldstart.jobs.progress import CONSOLE
from coldstart.jobs.runner import ray_cluster, readable_errors, recipe_arguments
from coldstart.jobs.serving.serve import serving
from coldstart.methods.base import SCORER
from coldstart.registry import Registry, describe_event, promote
from coldstart.serving.core.golden_requests import golden_metrics
from coldstart.serving.deployment.application import check_port

_RANK_REQUESTS = 200
_NEW_ITEMS = 8
_CANDIDATES = 32
_EVALUATION_KEYS = (
    "metrics",
    "delta_vs_oov",
    "delta_item_vs_oov",
    "gap_closed",
    "gap_closed_item",
    "item_effect_share",
)


def run(recipe: Recipe) -> dict[str, Any]:
    """Runs the demo on the running Ray cluster; returns the summary and writes it to the run directory."""
    result = pipeline.run(recipe)
    evaluation = read_artifact(recipe.run_dir / "evaluation", "evaluation")
    _promote(recipe, result["models"])
    with serving(recipe) as url:
        serving_metrics = _send_requests(url, recipe)
    summary = _summary(recipe, result, evaluation, serving_metrics)
    path = recipe.run_dir / "summary.json"
    path.write_text(json.dumps(summary, indent=2))
    CONSOLE.print()
    CONSOLE.print(terminal_table(evaluation.metadata))
    CONSOLE.print(f"\nreport   {recipe.run_dir / 'evaluation' / 'report.html'}\nsummary  {path}")
    CONSOLE.print(f"next     coldstart models --recipe {recipe.name}    coldstart serve --recipe {recipe.name}")
    return summary


def _promote(recipe: Recipe, models: dict[str, dict[str, Any]]) -> None:
    registry = Registry(recipe.tracking_uri, recipe.project)
    version = models[SCORER]["version"]
    logged = promote(registry, version, recipe.registry, measure=golden_metrics, reason="demo")
    CONSOLE.print(f"[green]done[/]  {'promote':<13}          [dim]{describe_event(logged)}[/]", soft_wrap=True)
    for model in models.values():
        model["alias"] = "champion" if logged.event.versions else None


def _send_requests(url: str, recipe: Recipe) -> dict[str, Any]:
    """Publishes cold items under new ids and ranks them together with catalog items for real users."""
    dataset = Dataset.open(recipe.run_dir / "dataset")
    sequences = dataset.sequences
    began = time.monotonic()
    cold = dataset.cold_items
    fresh = dataset.items().take(cold[:_NEW_ITEMS] - 1).to_pylist()
    ids = dataset.items(["item_id"])["item_id"].to_pylist()
    users = np.unique(users_of(sequences, np.flatnonzero(sequences.split == TEST)))
    rng = np.random.default_rng(recipe.seed)
    milliseconds = []
    with httpx.Client(base_url=url, timeout=60) as client:
        for item in fresh:
            image = None if item["image"] is None else base64.b64encode(item["image"]).decode()
            content = {"title": item["title"], "text": item["text"], "image": image}
            client.post("/v1/items", json={"item_id": f"new-{item['item_id']}", **content}).raise_for_status()
        first: dict[str, Any] = {}
        for number in range(_RANK_REQUESTS):
            user = int(rng.choice(users))
            span = slice(sequences.offsets[user], sequences.offsets[user + 1])
            history = [
                {"item_id": ids[item - 1], "label": int(label), "timestamp": int(at)}
                for item, label, at in zip(
                    sequences.item_idx[span], sequences.label[span], sequences.timestamp[span], strict=True
                )
            ][-recipe.ranker.max_history :]
            candidates = [ids[i] for i in rng.choice(len(ids), _CANDIDATES - len(fresh), replace=False)]
            candidates += [f"new-{item['item_id']}" for item in fresh]
            body = {
                "history": history,
                "candidates": [{"item_id": item_id} for item_id in candidates],
                "now": history[-1]["timestamp"] + 1,
            }
            sent = time.perf_counter()
            answer = client.post("/v1/rank", json=body)
            milliseconds.append(1000 * (time.perf_counter() - sent))
            answer.raise_for_status()
            if number == 0:
                first = {"user": sequences.user_id[user], "candidates": candidates, "answer": answer.json()}
    metrics = {"rank_ms_p50": round(statistics.median(milliseconds), 2), "requests": _RANK_REQUESTS + len(fresh)}
    CONSOLE.print(
        f"[green]done[/]  {'serve':<13} {time.monotonic() - began:6.1f} s  [dim]{len(fresh)} new items published, "
        f"{_RANK_REQUESTS} rank requests of {_CANDIDATES} candidates, median {metrics['rank_ms_p50']} ms[/]",
        soft_wrap=True,
    )
    _print_ranking(first)
    return metrics


def _print_ranking(ranking: dict[str, Any], most: int = 5) -> None:
    answer = ranking["answer"]
    rows = sorted(
        zip(answer["scores"], ranking["candidates"], answer["slot_sources"], strict=True), key=lambda row: -row[0]
    )
    best = "  ".join(f"{item_id} {score:.3f} ({source})" for score, item_id, source in rows[:most])
    CONSOLE.print(f"      for user {ranking['user']}: {best}", soft_wrap=True)


def _summary(
    recipe: Recipe, result: dict[str, Any], evaluation: Artifact, serving_metrics: dict[str, Any]
) -> dict[str, Any]:
    dataset = read_artifact(recipe.run_dir / "dataset", "dataset")
    packages = ("coldstart", "ray", "torch", "transformers", "deepspeed", "mlflow", "pyarrow")
    return {
        "recipe": recipe.name,
        "dataset": {
            "items": dataset.metadata["items"],
            "events": dataset.metadata["events"],
            "fingerprint": dataset.fingerprint,
        },
        "stages": result["stages"],
        **{key: evaluation.metadata[key] for key in _EVALUATION_KEYS},
        "models": result["models"],
        "serving": serving_metrics,
        "seed": recipe.seed,
        "versions": {package: version(package) for package in packages},
    }


def main() -> None:
    """Runs the demo as a program."""
    arguments = recipe_arguments("demo", __doc__).parse_args()
    CONSOLE.stderr = arguments.json
    with readable_errors():
        recipe = load_recipe(find_recipe(arguments.recipe), arguments.set)
        check_port(recipe.serving)
        pipeline.check(recipe)
        setup = f"method {recipe.method.name}, {recipe.cluster.workers} workers, seed {recipe.seed}"
        CONSOLE.print(f"[bold]coldstart demo[/]  recipe {recipe.name}, {setup}, into {recipe.run_dir}")
        with ray_cluster(recipe, arguments.address):
            try:
                summary = run(recipe)
            except httpx.HTTPStatusError as error:
                raise UserError(f"{error.request.url.path} answered {error.response.text[:300]}") from error
    if arguments.json:
        print(json.dumps(summary))
