"""A cache of the hub, as `huggingface_hub` writes it, stands for the hub, which is not reachable here."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from coldstart.encoders.hub import locate

OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, mllm: Path) -> Path:
    home = tmp_path_factory.mktemp("hub")
    model = home / "hub" / "models--lab--shop"
    for commit in (OLD, NEW):
        shutil.copytree(mllm, model / "snapshots" / commit)
    config = model / "snapshots" / OLD / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": False, "age": "old"}))
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(NEW)
    (model / "refs" / "v1").write_text(OLD)
    return home


def python(cache: Path, code: str) -> list[str]:
    """Lines that code prints in a process that knows this cache only."""
    environment = os.environ | {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_name_may_have_a_revision_and_a_directory_may_have_an_at_sign(tmp_path: Path) -> None:
    assert locate("lab/shop") == ("lab/shop", "main")
    assert locate("lab/shop@v1") == ("lab/shop", "v1")
    (tmp_path / "a@b").mkdir()
    assert locate(str(tmp_path / "a@b")) == (str(tmp_path / "a@b"), "main")


def test_a_revision_is_loaded_and_pinned_to_its_commit(cache: Path) -> None:
    code = """
from coldstart.config import UserError
from coldstart.encoders.check import check_mllm
from coldstart.encoders.checkpoint import load_config, load_mllm, load_processor
from coldstart.encoders.hub import pin_commit
from coldstart.jobs.node_probe import find_mllm_problem
from coldstart.config.recipe import Encoder
for name in ("lab/shop", "lab/shop@v1"):
    print(pin_commit(name))
    print(getattr(load_config(name), "age", "new"), find_mllm_problem(name))
    tokens = len(load_processor(name).tokenizer)
    print(getattr(load_mllm(name, tokens=tokens, dtype="float32").config, "age", "new"))
    print(check_mllm(Encoder(mllm=name, image_size=32)).trained > 0)
try:
    pin_commit("lab/shop@v2")
except UserError as error:
    print(error)
print(find_mllm_problem("lab/shop@v2"))
"""
    *found, refused, problem = python(cache, code)
    assert found[:4] == [f"lab/shop@{NEW}", "new None", "new", "True"]
    assert found[4:] == [f"lab/shop@{OLD}", "old None", "old", "True"]
    assert "encoder.mllm lab/shop@v2 cannot be opened" in refused
    assert "lab/shop@v2 is not in the cache there" in problem


def test_a_run_records_the_commit_and_says_how_to_keep_it(cache: Path) -> None:
    code = """
import logging, sys
from coldstart.config import Recipe
from coldstart.methods.mllm_checkpoint import mllm_checkpoint, recorded_name
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
for name in ("lab/shop", "lab/shop@v1"):
    recipe = Recipe.model_validate({"name": "small", "encoder": {"mllm": name}})
    print(recorded_name(recipe, mllm_checkpoint(recipe, None)))
"""
    hint, newest, pinned = python(cache, code)
    assert hint == f"encoder.mllm has no revision; write lab/shop@{NEW} to get the same weights next time"
    assert (newest, pinned) == (f"lab/shop@{NEW}", f"lab/shop@{OLD}")
