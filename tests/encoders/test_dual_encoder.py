"""Dual encoders: towers of several families, missing modalities, freezing, and saving without pickle."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel

from coldstart.config import UserError
from coldstart.config.recipe import Modalities
from coldstart.data.content import Content
from coldstart.encoders.dual_encoder import DualEncoder
from coldstart.encoders.tiny_dual_encoder import create_tiny_dual_encoder
from tests.encoders.conftest import TEXTS, encode

WIDTH = 16


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dual")
    create_tiny_dual_encoder(path, TEXTS * 20, width=WIDTH, image_size=32, max_text_tokens=12, seed=1)
    return path


@pytest.fixture
def contents(image: bytes) -> list[Content]:
    other = encode(np.full((30, 30, 3), 200, np.uint8))
    return [Content("red vase", "with stripes", image), Content("blue lamp", None, other), Content("box"), Content()]


def vectors(encoder: DualEncoder, contents: list[Content]) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode():
        return encoder(encoder.inputs(encoder.rows(contents), "cpu"))


def test_vectors_have_unit_norm_and_missing_modalities_are_zeros(tiny: Path, contents: list[Content]):
    image, text = vectors(DualEncoder.load(tiny), contents)
    assert image.shape == text.shape == (4, WIDTH)
    torch.testing.assert_close(image.norm(dim=1), torch.tensor([1.0, 1, 0, 0]))
    torch.testing.assert_close(text.norm(dim=1), torch.tensor([1.0, 1, 1, 0]))


def test_an_item_alone_has_the_vectors_that_it_has_among_others(tiny: Path, contents: list[Content]):
    """Padding to the longest text and the other images change nothing."""
    encoder = DualEncoder.load(tiny)
    for whole, alone in zip(vectors(encoder, contents), vectors(encoder, contents[2:3]), strict=True):
        torch.testing.assert_close(whole[2:3], alone, atol=1e-6, rtol=1e-5)


def test_content_that_is_not_used_is_not_read(tiny: Path, contents: list[Content]):
    image, text = vectors(DualEncoder.load(tiny, content=Modalities(use_image=False)), contents)
    assert not image.any()
    assert text[:3].any(dim=1).all()


def test_a_damaged_image_counts_as_missing(tiny: Path):
    rows = DualEncoder.load(tiny).rows([Content("lamp", None, b"no image")])
    assert not rows["has_image"][0]
    assert rows["has_text"][0]


def test_a_saved_encoder_gives_the_same_vectors(tiny: Path, contents: list[Content], tmp_path: Path):
    encoder = DualEncoder.load(tiny)
    encoder.save(tmp_path)
    for found, wanted in zip(vectors(DualEncoder.load(tmp_path), contents), vectors(encoder, contents), strict=True):
        assert torch.equal(found, wanted)
    suffixes = {file.suffix for file in tmp_path.rglob("*") if file.is_file()}
    assert suffixes <= {".json", ".safetensors", ".jinja"}


def test_equal_seeds_give_equal_towers(tiny: Path, tmp_path: Path):
    for seed, equal in ((1, True), (2, False)):
        path = tmp_path / str(seed)
        create_tiny_dual_encoder(path, TEXTS * 20, width=WIDTH, image_size=32, max_text_tokens=12, seed=seed)
        files = [(root / "image" / "model.safetensors").read_bytes() for root in (tiny, path)]
        assert (files[0] == files[1]) is equal


def test_a_clip_model_is_a_ready_pair(tiny: Path, contents: list[Content], tmp_path: Path):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**sizes, "vocab_size": 600, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2},
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        projection_dim=24,
    )
    torch.manual_seed(0)
    clip = CLIPModel(config).eval()
    clip.save_pretrained(tmp_path)
    DualEncoder.load(tiny).rows.tokenizer.save_pretrained(tmp_path)
    encoder = DualEncoder.compose(tmp_path, tmp_path, width=24, max_text_tokens=12)
    inputs = encoder.inputs(encoder.rows(contents[:2]), "cpu")
    pixels = (inputs["pixels"].movedim(-1, 1).float() / 255 - 0.5) / 0.5
    with torch.inference_mode():
        image = clip.get_image_features(pixel_values=pixels).pooler_output
        text = clip.get_text_features(**{n: inputs[n] for n in ("input_ids", "attention_mask")}).pooler_output
    for found, wanted in zip(vectors(encoder, contents[:2]), (image, text), strict=True):
        torch.testing.assert_close(found, F.normalize(wanted, dim=-1))


def test_frozen_towers_have_no_gradient_and_stay_in_eval_mode(tiny: Path, contents: list[Content]):
    encoder = DualEncoder.load(tiny)
    encoder.set_trainable("none", 1, field="method.towers.trainable")
    encoder.train()
    image, text = encoder(encoder.inputs(encoder.rows(contents), "cpu"))
    (image.sum() + text.sum()).backward()
    assert all(weight.grad is None for weight in encoder.image.parameters())
    assert not encoder.image.training
    assert encoder.text.training
    trained = {name for name, weight in encoder.text.model.named_parameters() if weight.requires_grad}
    assert trained
    assert all("layer.2." in name for name in trained)
    assert encoder.image_projection.weight.grad is not None


def test_more_layers_than_a_tower_has_are_refused(tiny: Path):
    with pytest.raises(UserError, match=r"method\.towers\.trainable\.text 4 exceeds the 3 layers of this model"):
        DualEncoder.load(tiny).set_trainable("all", 4, field="method.towers.trainable")


def test_directories_that_are_no_towers_are_refused(tiny: Path, tmp_path: Path):
    with pytest.raises(
        UserError, match=r"dual_encoder\.json is missing; create one with `coldstart create-dual-encoder`"
    ):
        DualEncoder.load(tmp_path)
    with pytest.raises(UserError, match=r"the image tower .* config\.json is missing"):
        DualEncoder.compose(tmp_path, tiny / "text", width=8)
    with pytest.raises(UserError, match="cannot be the image tower"):
        DualEncoder.compose(tiny / "text", tiny / "text", width=8)


def test_a_tower_without_its_weights_is_refused(tiny: Path, tmp_path: Path):
    DualEncoder.load(tiny).save(tmp_path)
    config = json.loads((tmp_path / "image" / "config.json").read_text())
    (tmp_path / "image" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    with pytest.raises(UserError, match="lacks the weights of"):
        DualEncoder.compose(tmp_path / "image", tmp_path / "text", width=8)


def test_sizes_that_the_tiny_towers_cannot_have_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"image_size 30 .* multiple of 8"):
        create_tiny_dual_encoder(tmp_path, TEXTS, width=8, image_size=30, max_text_tokens=12, seed=1)
    with pytest.raises(UserError, match=r"max_text_tokens 300 .* at most 256"):
        create_tiny_dual_encoder(tmp_path, TEXTS, width=8, image_size=32, max_text_tokens=300, seed=1)
