import json

import pytest
import torch

from workloads.benchmarks import coarse_gpu


@pytest.mark.parametrize("train", sorted(coarse_gpu.TRAINED))
def test_runs_small_without_a_gpu(train: str, capsys: pytest.CaptureFixture[str]):
    small = ["--model", "tiny", "--picture-size", "56", "--text-tokens", "8", "--micro-batch", "2", "--steps", "2"]
    coarse_gpu.main([*small, "--dtype", "float32", "--train", train, "--checkpointing", "--peak-tflops", "1"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["tokens_per_item"] == 4 + 2 + 8
    assert told["items_per_second"] > 0
    assert told["mfu"] == pytest.approx(told["model_tflops_per_second"])


def test_the_large_shape_has_the_size_it_is_named_after():
    encoder = coarse_gpu.make_encoder(
        "qwen2.5-vl-3b", train="all", dtype=torch.bfloat16, device="meta", checkpointing=False
    )
    # 3.75e9 as published, 3.09e9 of it the language layers with their embeddings.
    assert sum(weight.numel() for weight in encoder.mllm.parameters()) == pytest.approx(3.755e9, rel=0.01)


def test_training_everything_costs_three_forward_passes():
    kinds = {"dtype": torch.float32, "device": "cpu", "checkpointing": False}
    whole, frozen = (coarse_gpu.make_encoder("tiny", train=train, **kinds) for train in ("all", "language"))
    batch = coarse_gpu.make_batch(whole.mllm.config, 2, picture_size=56, text_tokens=8, seed=0)
    forward = coarse_gpu.model_flops(whole, batch) / 3
    assert forward < coarse_gpu.model_flops(frozen, batch) < 3 * forward
