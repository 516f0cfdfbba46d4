import json
import subprocess
import sys

import pytest
import torch

from workloads.benchmarks import coarse_gpu
from workloads.benchmarks.coarse.random_encoders import estimate_memory, make_encoder

SMALL = ["--model", "tiny", "--image-size", "56", "--text-tokens", "8", "--steps", "2", "--dtype", "float32"]
ABSENT = ["ray", "mlflow", "deepspeed", "fastapi", "rich", "lance", "peft"]


@pytest.mark.parametrize("train", ["adapters", "language"])
def test_runs_small_without_a_gpu(train: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(coarse_gpu.importlib.util, "find_spec", lambda _: None)
    coarse_gpu.main([*SMALL, "--micro-batch", "2", "--train", train, "--checkpointing"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["frozen_parameters"] > 0
    assert result["tokens_per_item"] == 4 + 2 + 8
    assert result["items_per_second"] > 0
    assert 0 < result["mfu"] < result["hfu"]
    assert result["planned_gib"] > 0


def test_needs_little_more_than_torch_and_transformers():
    program = f"import sys, importlib.util; sys.modules.update(dict.fromkeys({ABSENT}))\n"
    program += "importlib.util.find_spec = lambda name, *more, find=importlib.util.find_spec: (\n"
    program += f"    None if name in {ABSENT} else find(name, *more))\n"
    program += f"from workloads.benchmarks import coarse_gpu; coarse_gpu.main({[*SMALL, '--micro-batch', '2']})"
    result = json.loads(subprocess.check_output([sys.executable, "-c", program], text=True).splitlines()[-1])
    assert result["engine"] == "torch"


def test_the_micro_batch_is_the_largest_that_fits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    kinds = {"train": "all", "dtype": torch.float32, "checkpointing": False}
    size = estimate_memory("tiny", **kinds, image_size=56, text_tokens=8)
    monkeypatch.setattr(coarse_gpu, "_free_memory", lambda: int(size.total(coarse_gpu.STAGE, 1, 5) / 0.9))
    monkeypatch.setattr(coarse_gpu.importlib.util, "find_spec", lambda _: None)
    coarse_gpu.main([*SMALL, "--train", "all"])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["micro_batch"] == 4
    monkeypatch.setattr(coarse_gpu, "_free_memory", lambda: 1000)
    with pytest.raises(SystemExit, match="not one item fits into"):
        coarse_gpu.main(SMALL)


def test_the_large_shape_has_the_size_it_is_named_after():
    encoder = make_encoder("qwen2.5-vl-3b", train="all", dtype=torch.bfloat16, device="meta", checkpointing=False)
    # 3.75e9 as published, 3.09e9 of it the language layers with their embeddings.
    assert sum(weight.numel() for weight in encoder.mllm.parameters()) == pytest.approx(3.755e9, rel=0.01)
