"""Every MLLM family under ZeRO-3 on two ranks, with any mixture of modalities per rank."""

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from tests.families import FAMILIES, make_family
from tests.training import family_rank

pytestmark = pytest.mark.timeout(600)
SECONDS = 540
ENCODER = {"image_size": 84, "max_text_tokens": 8, "layer_groups": 2, "pooling": "mean"}
COARSE = {"batch": 4, "zero_stage": 3, "learning_rate": 1e-3, "weight_decay": 0.01}
BIG = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 8}
BIG |= {"num_key_value_heads": 8}
FREEZE = {"trainable": {"vision": 1, "language": 2}}
LORA = {"trainable": {"vision": "none"}, "lora": {"rank": 2, "alpha": 4}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("families")
    checkpoints = {name: str(make_family(name, root)) for name in FAMILIES}
    plain = {
        name: {"checkpoint": checkpoints[name], "encoder": {**ENCODER, "dynamic_resolution": True}, "coarse": COARSE}
        for name in FAMILIES
    }
    checkpointed = {**ENCODER, "gradient_checkpointing": True}
    offload = {**COARSE, "offload": {"optimizer": "cpu", "parameters": "cpu"}}
    more = {
        "square": {"checkpoint": checkpoints["smolvlm"], "encoder": ENCODER, "coarse": COARSE},
        "checkpointed": {"checkpoint": checkpoints["qwen3_vl"], "encoder": checkpointed, "coarse": offload},
        "frozen": {"checkpoint": checkpoints["qwen2_5_vl"], "encoder": {**checkpointed, **FREEZE}, "coarse": COARSE},
        "adapters": {"checkpoint": checkpoints["internvl"], "encoder": {**checkpointed, **LORA}, "coarse": COARSE},
    }
    big = make_family("internvl", root / "big", **BIG)
    load_only = {"big": {"checkpoint": str(big), "encoder": ENCODER, "coarse": COARSE, "steps": False}}
    return {**plain, **more, **load_only, "root": root}


@pytest.fixture(scope="module")
def ranks(runs: dict[str, Any]) -> list[dict[str, Any]]:
    """Results of each of the two ranks for every run; a deadlock ends in a timeout."""
    root = runs["root"]
    file = root / "runs.json"
    file.write_text(json.dumps({name: run for name, run in runs.items() if name != "root"}))
    environment = dict(os.environ, OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu", LOCAL_RANK="0")
    lines = [[sys.executable, "-m", "tests.training.family_rank", file, str(rank), root] for rank in range(2)]
    started = [subprocess.Popen(line, env=environment, stderr=subprocess.DEVNULL) for line in lines]
    try:
        assert [rank.wait(SECONDS) for rank in started] == [0, 0]
    finally:
        for rank in started:
            rank.kill()
    names = [name for name in runs if name != "root"]
    return [{name: json.loads((root / f"{name}-{rank}.json").read_text()) for name in names} for rank in range(2)]


def alone(run: dict[str, Any]) -> list[float]:
    """The losses of a single process with the rows of both ranks."""
    encoder = family_rank.create(run).train()
    vectors = [weight for _, weight in encoder.trainable_parameters() if weight.dim() < 2]
    matrices = [weight for _, weight in encoder.trainable_parameters() if weight.dim() > 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98))
    losses = []
    for step in range(len(family_rank.MIXTURES)):
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 1e-3 * (step + 1) / 10
        loss = family_rank.loss_of(encoder, encoder, step, [0, 1])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*matrices, *vectors], 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", [*sorted(FAMILIES), "square", "checkpointed", "frozen"])
def test_any_mixture_of_modalities_trains_as_in_one_process(name: str, runs: dict[str, Any], ranks: list[dict]):
    assert ranks[0][name]["finite"]
    np.testing.assert_allclose(ranks[0][name]["losses"], alone(runs[name]), rtol=1e-3, atol=1e-3)
    assert ranks[0][name]["losses"] == ranks[1][name]["losses"]


def test_adapters_train_in_partitions(ranks: list[dict]):
    losses = ranks[0]["adapters"]["losses"]
    assert ranks[0]["adapters"]["finite"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", [*sorted(FAMILIES), "big"])
def test_weights_are_loaded_in_partitions(name: str, ranks: list[dict]):
    for rank in ranks:
        # Only the embeddings, which grew by the row of [EMB], are unpartitioned until the engine starts.
        assert all("embed_tokens" in weight or "lm_head" in weight for weight in rank[name]["unpartitioned"])


def test_only_the_loading_rank_ever_holds_the_full_model(ranks: list[dict]):
    full = 4 * ranks[1]["big"]["full"]
    assert full > 100_000_000
    assert ranks[1]["big"]["grown_bytes"] < 0.75 * full
