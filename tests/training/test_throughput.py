import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from coldstart.training import throughput
from coldstart.training.flops import Flops
from coldstart.training.throughput import ThroughputMeter, matmul_ceiling, peak_flops


def test_known_gpus_have_the_peak_of_their_data_sheet(monkeypatch: pytest.MonkeyPatch):
    gpu = torch.device("cuda")

    def named(name: str) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)

    monkeypatch.setattr(throughput, "matmul_ceiling", lambda *_: 1.0)
    for name, tflops in {
        "NVIDIA H200": 989.5,
        "NVIDIA H100 80GB HBM3": 989.5,
        "NVIDIA H100 PCIe": 756.0,
        "NVIDIA A100-SXM4-80GB": 312.0,
        "NVIDIA L4": 121.0,
        "NVIDIA L40S": 362.0,
        "NVIDIA A10G": 70.0,
    }.items():
        named(name)
        assert peak_flops(gpu, torch.bfloat16) == tflops * 1e12
    named("Some GPU of tomorrow")
    assert peak_flops(gpu, torch.bfloat16) == 1.0


def test_the_ceiling_of_other_devices_is_measured():
    assert peak_flops(torch.device("cpu"), torch.float32) > 1e8
    assert matmul_ceiling(torch.device("cpu"), torch.bfloat16) > 1e7


def test_utilization_is_relative_to_the_peak(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(throughput, "peak_flops", lambda *_: 1000.0)
    counted = SimpleNamespace(count=lambda *_: Flops(model=100.0, hardware=150.0))
    monkeypatch.setattr(throughput, "FlopCounter", lambda _: counted)
    clock = iter([10.0, 10.5, 12.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    meter = ThroughputMeter(SimpleNamespace(mllm=SimpleNamespace(dtype=torch.float32)))  # type: ignore[arg-type]
    meter.start_step()
    meter.data_ready()
    meter.count_step({}, np.array([3, 9, 4, 8]), [np.array([0, 2]), np.array([3, 1])])
    assert meter.end_step() == pytest.approx(
        {
            "items_per_second": 2.0,
            "tokens_per_second": 12.0,
            "mfu": 0.05,
            "hfu": 0.075,
            "padding": 1 - 24 / 26,
            "data_wait": 0.25,
        }
    )
