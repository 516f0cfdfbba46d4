"""Jobs that tests submit to several nodes, and what they leave."""

import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from coldstart.config import Recipe, dump_recipe, read_artifact
from coldstart.config.artifact import MANIFEST
from tests.cluster.local_head import run_coldstart
from tests.cluster.nodes import RayNodes, missing, ray_nodes

CPUS = 3
"""Of a node; a rank takes two, so that two ranks run on different nodes."""
KINDS = ("dataset", "ranker", "encoder", "item_table", "scorer")


def recipe(runs: Path, name: str, **settings: Any) -> Recipe:
    """A run of seconds whose driver stays on the head."""
    return Recipe.model_validate(
        {
            "name": name,
            "seed": 3,
            "mature_events": 5,
            "paths": {"runs": runs},
            "cluster": {"workers": 2, "cpus_per_worker": 2, "ray_data_cpus": 1, "embed_actors": 3},
            "data": {"generated": {"items": 150, "users": 60, "events": 3000, "weeks": 2, "image_size": 32}},
            "ranker": {"embedding_dim": 8, "epochs": 2, "windows_per_step": 16},
            "encoder": {"image_size": 32, "max_text_tokens": 12, "layer_groups": 2},
            "method": {
                "coarse": {"batch": 16, "epochs": 2, "checkpoint_every": 4},
                "fine": {"epochs": 2},
            },
            "evaluation": {"num_resamples": 20},
            "submit": {"labels": {"node": "node0"}, "driver_memory_gb": 0.5},
            **settings,
        }
    )


def start(directory: Path, *, shared: bool) -> Iterator[RayNodes]:
    if reason := missing():
        pytest.skip(reason)
    (directory / "runs").mkdir()
    with ray_nodes(directory, directory / "runs", shared=shared) as nodes:
        nodes.start_ray([CPUS] * 3)
        yield nodes


def write(cluster: RayNodes, settings: Recipe) -> str:
    """The recipe on the disk of the submitter, which no node sees."""
    file = cluster.logs / f"{settings.name}.yaml"
    file.write_text(dump_recipe(settings))
    return str(file)


def submit(cluster: RayNodes, job: str, settings: Recipe, *arguments: str, **variables: str) -> tuple[int, str]:
    """Exit code, and what the client printed."""
    line = ("submit", job, "--recipe", write(cluster, settings), *arguments)
    done = run_coldstart(cluster.client, *line, cwd=cluster.logs, **variables)
    return done.returncode, done.stdout + done.stderr


def wait(condition: Callable[[], bool], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def figures(settings: Recipe) -> dict[str, str]:
    """Kind/file -> digest of what the stages of a run made; the manifests hold seconds, too."""
    found = {}
    for kind in KINDS:
        root = read_artifact(settings.run_dir / kind, kind).path
        files = sorted(path for path in root.rglob("*") if path.is_file() and path.name != MANIFEST)
        found |= {f"{kind}/{path.relative_to(root)}": sha256(path.read_bytes()).hexdigest() for path in files}
    return found
