"""Serves the application on a Ray of its own and takes commands on standard input."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray import serve

from coldstart.config import UserError
from coldstart.config.recipe import Serving
from coldstart.jobs.runner import start_ray
from coldstart.methods.base import SCORER
from coldstart.serving.deployment import deployments
from coldstart.serving.deployment.application import deploy, shutdown
from workloads.benchmarks.serving.fixtures import release

SERVE_DEFAULTS = {
    "ingress": "proxy",
    "max_batch": 1,
    "max_inflight_calls": 10_000,
    "max_queue": 10_000,
    "max_ongoing_requests": 10_001,
    "max_queued_requests": -1,
    "max_replicas": 1,
}
"""Serve without our settings: no flags, no HAProxy, no batching, no refused request."""
VARIANTS = {
    "coldstart": {},
    "separate_scorer": {"scorer_placement": "separate"},
    "serve_defaults": SERVE_DEFAULTS,
    "serve_unbounded": SERVE_DEFAULTS,
}
"""`separate_scorer` has the scorer in its own deployment; `serve_unbounded` has no limit of requests per replica."""
_SERVE_MAX_ONGOING = 5
"""Serve's default limit of requests per replica."""


def settings(variant: str, port: int, overrides: dict[str, Any]) -> Serving:
    """Returns the settings of a variant, with one replica so that rates compare; the step in load overrides this."""
    rates = {"security": {"requests_per_s": 1e6, "burst": 1_000_000}}
    return Serving.model_validate({"port": port, "max_replicas": 1, **rates, **VARIANTS[variant], **overrides})


def main() -> None:
    """Deploys and prints `ready`; then obeys `swap`, `replicas` and `stop`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=tuple(VARIANTS), required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--settings", type=json.loads, default={})
    arguments = parser.parse_args()
    serving = settings(arguments.variant, arguments.port, arguments.settings)
    if arguments.variant == "serve_defaults":
        _limit_ongoing_requests()
    start_ray(8, object_store_bytes=300_000_000)
    try:
        _obey(arguments.run, serving, arguments.run.parent / f"store-{arguments.variant}")
    except UserError as error:
        print(f"failed {error}", flush=True)
    finally:
        shutdown()
        ray.shutdown()


def _obey(run: Path, serving: Serving, store: Path) -> None:
    deployed = release(run)
    deploy(deployed, serving, store)
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "stop":
            break
        if line.strip() == "replicas":
            print(f"replicas {json.dumps(_replicas())}", flush=True)
            continue
        started = time.monotonic()
        promoted = release(run, 2 if deployed.versions[SCORER] == 1 else 1)
        deploy(promoted, serving, store, previous=deployed)
        deployed = promoted
        print(f"swapped {time.monotonic() - started:.1f}", flush=True)


def _replicas() -> dict[str, int]:
    """Returns the running replicas per deployment."""
    return {
        name: deployment.replica_states.get("RUNNING", 0)
        for app in serve.status().applications.values()
        for name, deployment in app.deployments.items()
    }


def _limit_ongoing_requests() -> None:
    deployment = deployments._deployment

    def with_serve_default(*arguments: Any, **options: Any) -> Any:
        return deployment(*arguments, **options).options(max_ongoing_requests=_SERVE_MAX_ONGOING)

    deployments._deployment = with_serve_default


if __name__ == "__main__":
    main()
