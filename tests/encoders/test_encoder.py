import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from coldstart.config.recipe import Encoder as EncoderSettings
from coldstart.config.recipe import Lora, Modalities
from coldstart.data.content import Content
from coldstart.encoders import Encoder


def read(encoder, contents):
    with torch.inference_mode():
        return encoder(encoder.inputs(encoder.prepare(contents), "cpu"))


@pytest.fixture
def contents(image):
    return [Content("red round vase", None, image), Content("blue lamp"), Content(None, None, image), Content()]


def test_shapes_and_unit_norm(encoder, contents):
    coarse, states = read(encoder, contents)
    assert coarse.shape == (4, 8)
    assert states.shape == (4, 2, encoder.hidden)
    torch.testing.assert_close(coarse.norm(dim=1), torch.ones(4))


def test_an_item_is_encoded_the_same_alone_and_among_longer_ones(encoder, contents):
    together = read(encoder, contents)
    for row, content in enumerate(contents):
        alone = read(encoder, [content])
        torch.testing.assert_close(alone[0][0], together[0][row], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(alone[1][0], together[1][row], atol=1e-5, rtol=1e-4)


def test_image_and_text_both_matter(encoder, contents, image):
    coarse, _ = read(encoder, [contents[0], Content("blue lamp", None, image), Content("red round vase")])
    assert (coarse[0] - coarse[1]).abs().max() > 1e-3
    assert (coarse[0] - coarse[2]).abs().max() > 1e-3


def test_saved_and_loaded_gives_the_same_numbers(encoder, contents, tmp_path: Path):
    encoder.save(tmp_path)
    loaded = Encoder.load(tmp_path, "cpu")
    for before, after in zip(read(encoder, contents), read(loaded, contents), strict=True):
        torch.testing.assert_close(before, after, atol=0, rtol=0)
    assert loaded.layers == ((1,), (3,))
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "checkpoint")
    assert sum(weight.numel() for weight in model.parameters()) > 100_000


def test_modalities_are_saved_with_the_encoder(make_encoder, tmp_path: Path):
    make_encoder(content=Modalities(use_image=False)).save(tmp_path)
    assert Encoder.load(tmp_path, "cpu").prompt.content == Modalities(use_image=False)


def test_same_seed_same_weights(make_encoder):
    first, second = make_encoder().state_dict(), make_encoder().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_lora_trains_adapters_connector_and_head_and_is_merged_on_save(make_encoder, contents, tmp_path: Path):
    encoder = make_encoder(EncoderSettings(image_size=32, max_text_tokens=12, lora=Lora(rank=2, alpha=4)))
    trained = [name for name, _ in encoder.trainable_parameters()]
    assert any("lora_A" in name for name in trained)
    assert any("multi_modal_projector" in name for name in trained)
    assert any(name.startswith("projection") for name in trained)
    assert not any("vision_tower" in name or "base_layer" in name for name in trained)
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    encoder.eval().save(tmp_path)
    loaded = Encoder.load(tmp_path, "cpu")
    assert not any("lora" in name for name in loaded.state_dict())
    torch.testing.assert_close(read(encoder, contents)[0], read(loaded, contents)[0], atol=1e-4, rtol=1e-3)


def test_layer_means_cover_every_layer(encoder, contents):
    with torch.inference_mode():
        means = encoder.layer_means(encoder.inputs(encoder.prepare(contents), "cpu"))
    assert means.shape == (4, encoder.mllm.config.text_config.num_hidden_layers, encoder.hidden)
    assert np.isfinite(means.numpy()).all()


def test_a_group_of_layers_gives_their_mean(encoder, contents):
    _, (first, second) = [part.unbind(1) if part.dim() == 3 else part for part in read(encoder, contents)]
    encoder.layers = ((1, 3), (3,))
    _, together = read(encoder, contents)
    torch.testing.assert_close(together[:, 0], (first + second) / 2)
    torch.testing.assert_close(together[:, 1], second)


def test_a_group_of_one_layer_may_be_a_bare_index(encoder, contents, tmp_path: Path):
    encoder.save(tmp_path)
    about = json.loads((tmp_path / "encoder.json").read_text())
    (tmp_path / "encoder.json").write_text(json.dumps({**about, "layers": [1, 3]}))
    old = Encoder.load(tmp_path, "cpu")
    assert old.layers == ((1,), (3,))
    torch.testing.assert_close(read(old, contents)[1], read(encoder, contents)[1], atol=0, rtol=0)
