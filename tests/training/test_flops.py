"""Operations counted from the architecture, against those that torch counts during execution."""

from typing import Any

import numpy as np
import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from coldstart.config.recipe import Encoder as Settings
from coldstart.config.recipe import Modalities
from coldstart.data.content import Content
from coldstart.encoders import Encoder
from coldstart.methods.idproxy.coarse_training import make_micro_batches
from coldstart.training.flops import FlopCounter
from tests.encoders.conftest import encode
from tests.families import FAMILIES, make_family

CHOICES: dict[str, dict[str, Any]] = {
    "all": {},
    "language": {"trainable": {"vision": "none"}},
    "last layers": {"trainable": {"vision": 1, "language": 2}},
    "head": {"trainable": {"vision": "none", "connector": False, "language": "none"}},
    "adapters": {"trainable": {"vision": "none"}, "lora": {"rank": 2, "alpha": 4}},
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("families")
    return {name: str(make_family(name, root)) for name in FAMILIES}


def items() -> list[Content]:
    """Images and texts of several sizes, and an item without either."""
    drawn = np.random.default_rng(0)
    sizes = [(84, 84), (150, 60), (40, 130)]
    images = [encode(drawn.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in sizes]
    titles = ["red round vase", "lamp", "a small box of old paper with stripes"]
    return [Content(title, None, image) for title, image in zip(titles, images, strict=True)] + [Content()]


def make(checkpoint: str, **options: Any) -> Encoder:
    settings = Settings(mllm=checkpoint, image_size=168, max_text_tokens=12, dynamic_resolution=True, **options)
    return Encoder.create(checkpoint, settings, width=8, content=Modalities(), seed=0).train()


def executed(encoder: Encoder, rows: dict[str, Any], passes: list[Any]) -> float:
    # Torch does not count fused attention on CPU.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        for chosen in passes:
            coarse, _ = encoder(encoder.inputs({name: column[chosen] for name, column in rows.items()}, "cpu"))
            coarse.sum().backward()
    return float(counter.get_total_flops())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_hardware_operations_are_those_that_torch_executes(
    family: str, choice: str, checkpointing: bool, checkpoints: dict[str, str]
):
    encoder = make(checkpoints[family], gradient_checkpointing=checkpointing, **CHOICES[choice])
    rows = encoder.prepare(items())
    lengths = encoder.prompt.lengths(rows)
    passes = make_micro_batches(lengths, 2)
    found = FlopCounter(encoder).count(rows, lengths, passes)
    real = executed(encoder, rows, passes)
    # A scale after the last map of a layer causes its recomputation, which is not counted.
    assert found.hardware == pytest.approx(real, rel=0.02)
    assert found.model < found.hardware


def test_padding_and_recomputation_count_as_hardware_operations_only(checkpoints: dict[str, str]):
    plain, checkpointed = (make(checkpoints["qwen3_vl"], gradient_checkpointing=on) for on in (False, True))
    rows = plain.prepare(items())
    lengths = plain.prompt.lengths(rows)
    together, alone = [np.arange(4)], [np.array([row]) for row in range(4)]
    counter = FlopCounter(plain)
    assert counter.count(rows, lengths, together).model == counter.count(rows, lengths, alone).model
    assert counter.count(rows, lengths, together).hardware > counter.count(rows, lengths, alone).hardware
    again = FlopCounter(checkpointed).count(rows, lengths, alone)
    assert again.model == counter.count(rows, lengths, alone).model
    # At most one forward pass of three.
    assert 1.1 < again.hardware / counter.count(rows, lengths, alone).hardware < 4 / 3


def test_a_frozen_tower_runs_forward_only_with_checkpointing(checkpoints: dict[str, str]):
    encoder = make(checkpoints["internvl"], gradient_checkpointing=True, **CHOICES["language"])
    tower = encoder.mllm.get_encoder("image")
    requires_grad = []
    tower.register_forward_hook(lambda *call: requires_grad.append(call[2].last_hidden_state.requires_grad))
    encoder(encoder.inputs(encoder.prepare(items()[:1]), "cpu"))
    assert requires_grad == [False]
