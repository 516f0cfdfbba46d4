from io import BytesIO

import pytest
import torch
from PIL import Image

from coldstart.config.recipe import Encoder as Settings
from coldstart.config.recipe import Modalities
from coldstart.data.content import Content
from coldstart.encoders import Encoder
from coldstart.encoders.freezing import ParameterCount
from coldstart.training.memory_estimate import MemoryEstimate, estimate_memory
from coldstart.training.zero_plan import USABLE, best_plan, candidate_plans
from tests.families import FAMILIES, make_family

ALL = Modalities()
IMAGE_SIZE = 84


@pytest.fixture(scope="module")
def item():
    image = BytesIO()
    Image.new("RGB", (80, 60), "red").save(image, "PNG")
    return Content(title="red vase", text="a small box", image=image.getvalue())


def of(trained, *, frozen=0, value_bytes=2, largest_layer=0, item_bytes=0):
    return MemoryEstimate(
        counts=ParameterCount(trained=trained, frozen=frozen),
        value_bytes=value_bytes,
        largest_layer=largest_layer,
        item_bytes=item_bytes,
        layer_bytes=0,
        tokens=1,
    )


@pytest.mark.parametrize(("stage", "gigabytes", "sums"), [(1, 31.4, 4), (2, 16.6, 2 / 64), (3, 1.9, 2 / 64)])
def test_states_are_those_of_the_paper_with_sums_in_float32(stage, gigabytes, sums):
    """Figure 1 of the ZeRO paper: 7.5 billion parameters in 16 bits on 64 ranks, gradients in 16 bits too."""
    billions = 7.5
    found = of(7_500_000_000).states(stage, 64) / 1e9
    assert found == pytest.approx(gigabytes + sums * billions, abs=0.05)


def test_frozen_weights_have_no_gradient_and_no_states():
    assert of(0, frozen=1000, value_bytes=4).states(0, 1) == 4000
    assert of(10, frozen=1000).states(2, 1) == 2020 + 40 + 120
    assert of(10, frozen=990, largest_layer=50).states(3, 2) == 1000 + 20 + 60


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_temporary_buffers_are_limited(stage):
    """Except for the rank's share of the optimizer, which is negligible on many ranks."""
    few, many = (of(billions * 1_000_000_000, largest_layer=300_000_000) for billions in (30, 300))
    assert few.exchange(stage, 10**9) == many.exchange(stage, 10**9) < 3e9
    assert few.update(stage, 10**9) == pytest.approx(many.update(stage, 10**9), abs=1e4)
    assert few.update(stage, 10**9) < 3.1e9


def test_the_peak_is_in_the_backward_pass_or_in_the_update():
    size = of(1_000_000_000, value_bytes=4, item_bytes=1_000_000_000)
    states, exchange, update = (of_stage(2, 1) for of_stage in (size.states, size.exchange, size.update))
    assert size.total(2, 1, 1) == states + update
    assert size.total(2, 1, 9) == states + exchange + 9_000_000_000 > states + update


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_those_of_the_model_with_its_weights(family, checkpointing, item, tmp_path):
    mllm = str(make_family(family, tmp_path))
    settings = Settings(mllm=mllm, image_size=IMAGE_SIZE, gradient_checkpointing=checkpointing)
    found = estimate_memory(mllm, settings, width=8, content=ALL, sample=[item])
    encoder = Encoder.create(mllm, settings, width=8, content=ALL, seed=0).train()
    own = {weight.untyped_storage().data_ptr() for weight in encoder.parameters()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        encoder(encoder.inputs(encoder.prepare([item]), "cpu"))
    real = sum(tensor.untyped_storage().nbytes() for where, tensor in kept.items() if where not in own)
    assert found.item_bytes == pytest.approx(real, rel=0.02)
    assert found.parameters == sum(weight.numel() for weight in encoder.parameters())
    assert (found.layer_bytes > 0) == checkpointing


def test_checkpointing_saves_less_and_bfloat16_half(item, tmp_path):
    mllm = str(make_family("qwen2_5_vl", tmp_path))

    def kept(**options):
        settings = Settings(mllm=mllm, image_size=IMAGE_SIZE, **options)
        return estimate_memory(mllm, settings, width=8, content=ALL, sample=[item]).item_bytes

    assert kept(gradient_checkpointing=True) < 0.5 * kept()
    assert 0.4 < kept(dtype="bfloat16") / kept() < 0.75  # Norms and softmax stay float32.


def test_the_best_plan_has_the_largest_micro_batch_and_then_the_least_communication():
    size = of(1_000_000_000, item_bytes=1_000_000_000)
    needed = size.total(2, 4, 8)
    found = candidate_plans(size, ranks=4, share=16, memory=int(needed / USABLE) + 1)
    assert [(row.stage, row.micro_batch) for row in found] == [(1, 2), (2, 8), (3, 4)]
    assert best_plan(found).stage == 2
    assert best_plan(found).total == needed
    assert best_plan(candidate_plans(size, ranks=1, share=16, memory=1000)) is None
    assert {row.micro_batch for row in candidate_plans(size, ranks=4, share=12, memory=10**12)} == {12}


def test_stage_0_is_not_planned_for_bfloat16():
    assert best_plan(candidate_plans(of(1000, value_bytes=4), ranks=4, share=8, memory=10**10)).stage == 0
    assert best_plan(candidate_plans(of(1000), ranks=4, share=8, memory=10**10)).stage == 1
