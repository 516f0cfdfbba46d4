import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from coldstart.config import Recipe, UserError, read_artifact
from coldstart.jobs.analysis import compare
from coldstart.jobs.analysis.trials import make_trial, trial_path

VALUES = {
    "name": "tiny",
    "mature_events": 5,
    "data": {"generated": {"items": 120, "users": 80, "events": 6000, "image_size": 32}},
    "cluster": {"workers": 1, "embed_actors": 1},
    "ranker": {"embedding_dim": 8, "max_history": 20, "mlp_units": [8], "epochs": 1},
    "encoder": {"image_size": 32},
    "method": {
        "coarse": {"epochs": 1, "batch": 16},
        "fine": {"epochs": 1, "mlp_units": 16, "joint": {"epochs": 1}},
    },
    "evaluation": {"num_resamples": 50},
}

OTHERS = {
    "saviorrec": {
        "encoder": {"contrast": {"epochs": 1, "batch": 32}},
        "pairs": {"max_per_trigger": 1},
        "quantizer": {"sizes": [8, 8], "epochs": 1, "min_steps": 20},
        "rank": {"epochs": 1, "attention_width": 8, "fusion_units": 8, "mlp_units": [8]},
    },
    "mim": {
        "towers": {"width": 16, "image_size": 32},
        "align": {"epochs": 1, "batch": 32},
        "fine_tune": {"epochs": 1, "batch": 32, "queue_batches": 0},
        "interest": {"epochs": 1},
    },
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return Recipe.model_validate(VALUES | {"paths": {"runs": tmp_path_factory.mktemp("runs")}})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"names": ["fien"], "count": 1}, r"--methods fien: .*allowed: oov,.* fine,"), ({"count": 0}, "--seeds 0")],
)
def test_mistakes_are_reported_before_anything_is_trained(recipe: Recipe, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compare.run(recipe, **arguments)
    assert not (recipe.run_dir / "dataset").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_the_table_has_all_requested_variants_over_all_seeds(local_ray: None, recipe: Recipe) -> None:
    made = compare.run(recipe, count=2, names=["ridge_map", "fine", "joint"])
    assert made.metadata["variants"] == ["oov", "ridge_map", "fine", "joint", "content_oracle", "oracle"]
    assert made.metadata["seeds"] == [recipe.seed, recipe.seed + 1]
    assert len(made.metadata["tuned"]["fine"]["tried"]) == 4
    best = max(made.metadata["tuned"]["fine"]["tried"], key=lambda tried: tried["valid_gauc"])
    assert made.metadata["tuned"]["fine"]["setting"] == best["setting"]
    assert json.loads((made.path / "comparison.json").read_text()) == made.metadata
    assert "# Comparison of methods on tiny" in (made.path / "comparison.md").read_text()
    assert (made.path / "comparison.png").stat().st_size > 1000
    cost = {name: made.metadata["tuned"][name]["ms_per_item"] for name in ("oov", "ridge_map", "fine")}
    assert 0 < cost["oov"] < cost["ridge_map"]  # text vectors alone, and the MLLM
    assert cost["oov"] < cost["fine"]
    used = made.metadata["modalities"]
    assert list(used) == ["fine", "joint"]
    for inputs in used.values():
        assert len(inputs["both"]["gain"]["by_seed"]) == 2
        assert inputs["both"]["drop"]["value"] == 0
        assert inputs["image"]["gain"]["value"] != inputs["text"]["gain"]["value"]

    other = recipe.run_dir / "seeds" / str(recipe.seed + 1)
    assert len(list((other / "trials").iterdir())) == 4
    path = trial_path(recipe.run_dir.absolute(), "fine", best["setting"], recipe)
    assert make_trial(recipe, "fine", best["setting"]).path == path
    fine = recipe.method.fine.model_copy(update={"mlp_units": 8})
    changed = recipe.model_copy(update={"method": recipe.method.model_copy(update={"fine": fine})})
    assert trial_path(recipe.run_dir.absolute(), "fine", best["setting"], changed) != path


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_methods_and_their_ablations_are_contenders(local_ray: None, tmp_path: Path) -> None:
    recipe = Recipe.model_validate(VALUES | {"paths": {"runs": tmp_path}, "comparison": OTHERS})
    made = compare.run(recipe, count=1, names=["saviorrec_shuffled", "mim_raw"])
    tried = {name: made.metadata["tuned"][name]["tried"] for name in made.metadata["tuned"]}
    assert {name: len(settings) for name, settings in tried.items()} == {
        "oov": 1,
        "saviorrec": 4,
        "saviorrec_shuffled": 1,
        "mim": 4,
        "mim_raw": 1,
    }
    for ablation, whole in (("saviorrec_shuffled", "saviorrec"), ("mim_raw", "mim")):
        chosen = made.metadata["tuned"][whole]
        assert tried[ablation][0]["setting"] == chosen["setting"]
        assert chosen["parameters"] > 0
        assert whole in made.metadata["modalities"]
        assert ablation not in made.metadata["modalities"]
        assert chosen["seconds"][0] > 0
    runs = [path for path in (recipe.run_dir / "contenders").iterdir() if path.name.startswith("saviorrec")]
    assert len(runs) == 5
    assert sum(not (run / "encoder").is_symlink() for run in runs) == 1
    assert not any((run / "scorer").is_symlink() for run in runs)

    again = compare.run(recipe, count=1, names=["saviorrec_shuffled", "mim_raw"])
    assert again.fingerprint == made.fingerprint


@pytest.mark.ray
@pytest.mark.slow
def test_every_seed_can_have_its_own_split(local_ray: None, recipe: Recipe) -> None:
    held = recipe.data.split.model_copy(update={"kind": "item_holdout"})
    apart = recipe.model_copy(update={"name": "apart", "data": recipe.data.model_copy(update={"split": held})})
    made = compare.run(apart, count=2, names=["ridge_map"], own_splits=True)
    assert made.metadata["own_splits"]
    assert "each on its own split" in (made.path / "comparison.md").read_text()
    other = apart.run_dir / "splits" / str(apart.seed + 1)
    first, second = (read_artifact(path / "dataset", "dataset").fingerprint for path in (apart.run_dir, other))
    assert first != second
    assert not (other / "dataset").is_symlink()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_ablation_resumes(tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(VALUES | {"paths": {"runs": str(tmp_path / "runs")}}))
    command = [sys.executable, "-m", "workloads.compare", "--recipe", str(file), "--seeds", "1", "--json"]
    trials = tmp_path / "runs" / "tiny" / "trials"

    def done() -> dict[str, float]:
        found = trials.glob("[a-z]*/manifest.json")
        return {path.parent.name: path.stat().st_mtime for path in found}

    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while len(done()) < 5:
        assert first.poll() is None
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    time.sleep(1)
    before = done()
    assert len(before) < sum(len(kind.grid) for kind in compare.CONTENDERS.values())
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    after = done()
    assert {name: after[name] for name in before} == before
    assert len(after) == sum(len(kind.grid) for kind in compare.CONTENDERS.values())
    assert set(compare.CONTENDERS) <= set(json.loads(again.stdout)["metadata"]["variants"])
