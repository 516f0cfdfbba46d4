"""The application on a Ray of its own, told what to do by lines on its standard input."""

import argparse
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray import serve

from coldstart.config import UserError
from coldstart.config.recipe import Serving
from coldstart.serving import application, deploy, shutdown
from workloads.benchmarks.serving.made import release

PLAIN = {
    "ingress": "proxy",
    "max_batch": 1,
    "ranker_calls": 10_000,
    "max_waiting": 10_000,
    "max_ongoing": 10_001,
    "max_queued": -1,
    "max_replicas": 1,
}
"""Serve as it comes: no flags, no HAProxy, every query in a call of its own, nothing refused."""
KINDS = {"ours": {}, "apart": {"ranker": "apart"}, "plain": PLAIN, "roomy": PLAIN}
"""`apart` has the ranker in a deployment of its own; `roomy` is `plain` with as many requests in a replica as come."""
_SERVE_ONGOING = 5
"""Serve's own limit of requests in a replica."""


def settings(kind: str, port: int, more: dict[str, Any]) -> Serving:
    """Of one contender. Replicas are fixed at one, so that rates compare; the step in load has its own."""
    rates = {"security": {"requests_per_s": 1e6, "burst": 1_000_000}}
    return Serving.model_validate({"port": port, "max_replicas": 1, **rates, **KINDS[kind], **more})


def main() -> None:
    """Deploys and answers `ready`; then does `swap` and `replicas` until it is told to `stop`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=tuple(KINDS), required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--settings", type=json.loads, default={})
    given = parser.parse_args()
    serving = settings(given.kind, given.port, given.settings)
    if given.kind == "plain":
        _as_it_comes()
    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=300_000_000,
    )
    store = given.run.parent / f"store-{given.kind}"
    standing = release(given.run)
    try:
        deploy(standing, serving, store)
        print("ready", flush=True)
        for line in sys.stdin:
            if line.strip() == "stop":
                break
            if line.strip() == "replicas":
                print(f"replicas {json.dumps(_replicas())}", flush=True)
                continue
            began = time.monotonic()
            promoted = release(given.run, 2 if standing.versions["adaptor"] == 1 else 1)
            deploy(promoted, serving, store, beside=standing)
            standing = promoted
            print(f"swapped {time.monotonic() - began:.1f}", flush=True)
    except UserError as error:
        print(f"failed {error}", flush=True)
    finally:
        shutdown()
        ray.shutdown()


def _replicas() -> dict[str, int]:
    """Running replicas of every deployment."""
    return {
        name: one.replica_states.get("RUNNING", 0)
        for application in serve.status().applications.values()
        for name, one in application.deployments.items()
    }


def _as_it_comes() -> None:
    ours = application._deployment

    def plain(*arguments: Any, **options: Any) -> Any:
        return ours(*arguments, **options).options(max_ongoing_requests=_SERVE_ONGOING)

    application._deployment = plain


if __name__ == "__main__":
    main()
