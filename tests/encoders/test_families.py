"""Every MLLM family with AutoModelForImageTextToText and its own processor, in both image modes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

from coldstart.config import UserError
from coldstart.config.recipe import Encoder as EncoderSettings
from coldstart.config.recipe import Lora, Modalities, TrainableLayers
from coldstart.data.content import Content
from coldstart.encoders import Encoder
from coldstart.encoders.check import check_mllm
from coldstart.encoders.freezing import count_parameters
from tests.encoders.conftest import encode
from tests.families import FAMILIES, make_family


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_family(request.param, tmp_path_factory.mktemp(request.param))


def create(family: Path, **more) -> Encoder:
    settings = EncoderSettings(**{"image_size": 84, "max_text_tokens": 12, "layer_groups": 2, **more})
    return Encoder.create(str(family), settings, width=8, content=Modalities(), seed=3).eval()


def png(width: int, height: int) -> bytes:
    return encode(np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8))


CONTENTS = [
    Content("red round vase", None, png(50, 20)),
    Content("blue lamp"),
    Content(None, None, png(20, 90)),
    Content(),
    Content("x " * 40, None, png(1, 300)),
]


def read(encoder: Encoder, rows: dict[str, np.ndarray]) -> torch.Tensor:
    with torch.inference_mode():
        return encoder(encoder.inputs(rows, "cpu"))[0]


@pytest.mark.parametrize("dynamic", [False, True], ids=["square", "dynamic"])
def test_an_item_is_encoded_the_same_in_any_batch(family: Path, dynamic: bool):
    encoder = create(family, dynamic_resolution=dynamic)
    encoder.layers = ((1,), (3,))
    rows = encoder.prepare(CONTENTS)
    together = read(encoder, rows)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(5))
    for place in range(5):
        some = [place, (place + 2) % 5]
        pair = read(encoder, {name: column[some] for name, column in rows.items()})
        torch.testing.assert_close(pair[0], together[place], atol=1e-5, rtol=1e-4)
        alone = read(encoder, encoder.prepare([CONTENTS[place]]))
        torch.testing.assert_close(alone[0], together[place], atol=1e-5, rtol=1e-4)


def test_square_rows_have_one_shape_and_dynamic_ones_follow_the_image(family: Path):
    square = create(family).prepare(CONTENTS)
    assert {column.dtype == object for column in square.values()} == {False}
    encoder = create(family, dynamic_resolution=True)
    rows = encoder.prepare(CONTENTS)
    image = encoder.mllm.config.image_token_id
    tokens = [int((ids == image).sum()) for ids in rows["input_ids"]]
    assert len(set(tokens)) > 1
    longest = encoder.inputs(rows, "cpu")["input_ids"].shape[1]
    assert longest == encoder.prompt.lengths(rows).max()


@pytest.mark.parametrize("dynamic", [False, True], ids=["square", "dynamic"])
def test_masked_text_tokens_are_not_attended_to(family: Path, dynamic: bool):
    encoder = create(family, dynamic_resolution=dynamic)
    rows = encoder.prepare(CONTENTS)
    without_text = encoder.prompt.mask_text_tokens(rows, np.ones((5, 12), bool))
    left = [int(mask.sum()) for mask in without_text["attention_mask"]]
    assert left == (encoder.prompt.lengths(rows) - rows["num_text_tokens"]).tolist()
    assert torch.isfinite(read(encoder, without_text)).all()
    assert not torch.allclose(read(encoder, without_text)[0], read(encoder, rows)[0])


def test_saved_and_loaded_gives_the_same_numbers(family: Path, tmp_path: Path):
    encoder = create(family, dynamic_resolution=True, pooling="mean", instruction="One word:")
    rows = encoder.prepare(CONTENTS)
    before = read(encoder, rows)
    encoder.save(tmp_path)
    loaded = Encoder.load(tmp_path, "cpu")
    torch.testing.assert_close(read(loaded, loaded.prepare(CONTENTS)), before, atol=0, rtol=0)
    AutoModelForImageTextToText.from_pretrained(tmp_path / "checkpoint")


PARTS = {
    "all": (TrainableLayers(), None),
    "none": (TrainableLayers(vision="none", connector=False, language="none"), None),
    "connector": (TrainableLayers(vision="none", language="none"), None),
    "last": (TrainableLayers(vision=1, connector=False, language=2), None),
    "adapters": (TrainableLayers(), Lora(rank=2, alpha=4)),
    "last_adapters": (TrainableLayers(vision="all", connector=False, language=1), Lora(rank=2, alpha=4)),
}


@pytest.mark.parametrize("parts", sorted(PARTS))
def test_trains_exactly_the_configured_parts(family: Path, parts: str):
    train, lora = PARTS[parts]
    settings = {"trainable": train, "lora": lora}
    encoder = create(family, **settings)
    counts = count_parameters(encoder)
    checked = check_mllm(
        EncoderSettings(mllm=str(family), image_size=84, max_text_tokens=12, layer_groups=2, **settings), width=8
    )
    assert checked == counts
    assert counts.trained == sum(weight.numel() for _, weight in encoder.trainable_parameters())

    trained = {name for name, _ in encoder.trainable_parameters()}
    head = {name for name in trained if name.startswith(("pooling.", "projection."))}
    assert head == {name for name, _ in encoder.named_parameters() if not name.startswith("mllm.")}
    tower, language, connector = (
        {name.removeprefix("mllm.") for name in trained if kind(name) == part}
        for part in ("tower", "language", "connector")
    )
    everything = {
        part: sum(kind(name) == part for name, _ in encoder.named_parameters()) for part in ("tower", "connector")
    }
    vision = "none" if parts == "adapters" else train.vision or "all"
    assert len(tower) == everything["tower"] or vision != "all"
    assert bool(tower) == (vision != "none")
    assert len(connector) == (everything["connector"] if train.connector else 0)
    assert all("lora" in name for name in language) or lora is None
    if isinstance(train.vision, int):
        assert not any("patch_embed" in name or ".0." in name for name in tower)
        assert any(".2." in name for name in tower)
    if isinstance(train.language, int):
        assert {int(name.split("layers.")[1][0]) for name in language if "layers." in name} == set(
            range(3 - train.language, 3)
        )
        assert not any("embed_tokens" in name for name in language)
    assert bool(language) == (train.language != "none")
    assert not any(name.startswith("mllm.lm_head") for name in trained)


def kind(name: str) -> str:
    if "lm_head" in name or not name.startswith("mllm."):
        return "head"
    if any(part in name for part in ("merger", "multi_modal_projector", "connector")):
        return "connector"
    return "language" if "language_model" in name or "text_model" in name else "tower"


@pytest.mark.parametrize("parts", sorted(PARTS))
def test_gradients_reach_all_trained_parameters(family: Path, parts: str):
    train, lora = PARTS[parts]
    encoder = create(family, trainable=train, lora=lora, gradient_checkpointing=True, pooling="attention").train()
    coarse, _ = encoder(encoder.inputs(encoder.prepare(CONTENTS[:2]), "cpu"))
    coarse.square().mul(torch.arange(8)).sum().backward()
    without = {name for name, weight in encoder.trainable_parameters() if weight.grad is None}
    assert not without
    assert all(weight.grad is None for weight in encoder.parameters() if not weight.requires_grad)


def test_adapters_are_merged_on_save(family: Path, tmp_path: Path):
    encoder = create(family, lora=Lora(rank=2, alpha=4))
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    rows = encoder.prepare(CONTENTS)
    encoder.save(tmp_path)
    loaded = Encoder.load(tmp_path, "cpu")
    assert not any("lora" in name for name in loaded.state_dict())
    torch.testing.assert_close(read(loaded, rows), read(encoder, rows), atol=1e-4, rtol=1e-3)


def test_more_trainable_layers_than_the_model_has(family: Path):
    for part in ("vision", "language"):
        with pytest.raises(UserError, match=rf"encoder.trainable.{part} 9 exceeds the 3 layers"):
            check_mllm(
                EncoderSettings(mllm=str(family), image_size=84, layer_groups=2, trainable=TrainableLayers(**{part: 9}))
            )


@pytest.mark.parametrize("missing", ["image processor", "tokenizer"])
def test_incomplete_checkpoints_name_what_is_missing(family: Path, tmp_path: Path, missing: str):
    copy = shutil.copytree(family, tmp_path / "copy")
    if missing == "tokenizer":
        for file in copy.glob("tokenizer*"):
            file.unlink()
    else:
        file = copy / "processor_config.json"
        about = json.loads(file.read_text())
        del about["image_processor"]
        file.write_text(json.dumps(about))
    with pytest.raises(UserError, match=rf"encoder.mllm .*copy has no .*{missing}"):
        check_mllm(EncoderSettings(mllm=str(copy)))
