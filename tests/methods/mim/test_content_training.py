"""Stages 1 and 2 of MIM on a catalog where users click items of one color."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from coldstart.config import UserError
from coldstart.config.recipe import Contrastive
from coldstart.data.content import Content
from coldstart.encoders.dual_encoder import DualEncoder
from coldstart.methods.mim.config import FineTune
from coldstart.methods.mim.content_encoder import ContentEncoder, FusedContent
from coldstart.methods.mim.content_training import align_modalities, fine_tune_content
from coldstart.methods.mim.pairs import next_click_pairs
from coldstart.training.contrastive_trainer import ContrastiveContext
from tests.methods.colored_catalog import ITEMS, WIDTH, clicks, contents, create_towers, reader

ALIGN = Contrastive(epochs=8, batch=8, learning_rate=2e-3, holdout_fraction=0.25)
TUNE = FineTune(epochs=4, batch=16, queue_batches=2, momentum=0.9, learning_rate=2e-3, holdout_fraction=0.2)
DISTINCT = np.stack([np.arange(ITEMS + 1)] * 2, axis=1)


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("towers")
    create_towers(path)
    return path


def new_encoder(towers: Path) -> ContentEncoder:
    torch.manual_seed(0)
    return ContentEncoder(DualEncoder.load(towers))


def color_gap(encoder: ContentEncoder, items: Sequence[Content]) -> float:
    """Mean cosine of items of the same color, less that of items of different colors."""
    vectors = torch.from_numpy(FusedContent(encoder.eval(), "cpu").encode(items[1:])["content"])
    color = torch.arange(1, ITEMS + 1) % 4
    same, cosines = color[:, None] == color, vectors @ vectors.T
    return float(cosines[same & ~torch.eye(ITEMS, dtype=torch.bool)].mean() - cosines[~same].mean())


def test_alignment_brings_texts_of_held_out_items_to_their_images(towers: Path):
    encoder, items = new_encoder(towers), contents()
    before = {name: value.clone() for name, value in encoder.fusion.state_dict().items()}
    curve = align_modalities(encoder, np.arange(1, ITEMS + 1), DISTINCT, ALIGN, reader(items), ContrastiveContext(3))
    assert curve[-1]["text_alignment"] < curve[0]["text_alignment"] - 0.1
    assert curve[-1]["text_mean_rank"] < curve[0]["text_mean_rank"]
    assert all(torch.equal(value, before[name]) for name, value in encoder.fusion.state_dict().items())


def tune(encoder: ContentEncoder, items: list[Content], settings: FineTune = TUNE) -> list[dict[str, float]]:
    pairs = next_click_pairs(clicks(), window_s=settings.window_s)
    return fine_tune_content(encoder, pairs, DISTINCT[:, 0], settings, reader(items), ContrastiveContext(3))


def test_fine_tuning_brings_together_what_users_choose_in_turn(towers: Path):
    encoder, items = new_encoder(towers), contents()
    before = color_gap(encoder, items)
    curve = tune(encoder, items)
    assert color_gap(encoder, items) > before + 0.2
    assert set(curve[0]) >= {f"{level}_recall_at_10" for level in ("image", "text", "item")}
    assert curve[-1]["item_mean_cosine"] > curve[0]["item_mean_cosine"]


@pytest.mark.parametrize("present", [{"images": False}, {"texts": False}])
def test_catalogs_of_one_modality_train_and_encode(towers: Path, present: dict[str, bool]):
    encoder, items = new_encoder(towers), contents(**present)
    before = color_gap(encoder, items)
    tune(encoder, items, TUNE.model_copy(update={"epochs": 3}))
    assert color_gap(encoder, items) > before
    assert all(torch.isfinite(weight).all() for weight in encoder.parameters())


def test_frozen_towers_stay_bit_identical_while_the_fusion_learns(towers: Path):
    encoder = new_encoder(towers)
    encoder.towers.set_trainable("none", "none", field="f")
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    tune(encoder, contents(), TUNE.model_copy(update={"epochs": 1}))
    after = encoder.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed
    assert not any(name.startswith(("towers.image.", "towers.text.")) for name in changed)


def test_too_few_pairs_name_the_setting(towers: Path):
    with pytest.raises(UserError, match=r"method\.fine_tune: batch 4000 exceeds the \d+ training pairs"):
        tune(new_encoder(towers), contents(), TUNE.model_copy(update={"batch": 4000}))


def test_a_saved_encoder_gives_the_same_column(towers: Path, tmp_path: Path):
    encoder, items = new_encoder(towers).eval(), contents()
    encoder.save(tmp_path)
    wanted = FusedContent(encoder, "cpu").encode(items)["content"]
    found = FusedContent(ContentEncoder.load(tmp_path), "cpu")
    assert found.outputs["content"].shape == (WIDTH,)
    np.testing.assert_array_equal(found.encode(items)["content"], wanted)
    assert not wanted[0].any()
    np.testing.assert_allclose(np.linalg.norm(wanted[1:], axis=1), 1, rtol=1e-5)


def test_a_fusion_of_other_towers_is_refused(towers: Path, tmp_path: Path):
    new_encoder(towers).save(tmp_path)
    (tmp_path / "fusion.safetensors").unlink()
    with pytest.raises(UserError, match="has no fusion of these towers"):
        ContentEncoder.load(tmp_path)
