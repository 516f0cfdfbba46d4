import json
import shutil
from pathlib import Path

import pytest

from coldstart.config import UserError
from coldstart.config.recipe import Encoder as EncoderSettings
from coldstart.encoders import create_tiny_mllm
from coldstart.encoders.check import check_mllm
from coldstart.encoders.checkpoint import load_mllm


def settings(mllm, **more):
    return EncoderSettings(mllm=str(mllm), image_size=32, **more)


def test_accepts_an_ordinary_checkpoint_and_tiny(mllm: Path):
    check_mllm(settings(mllm))
    check_mllm(EncoderSettings())


def test_missing_directory(tmp_path: Path):
    with pytest.raises(UserError, match=r"encoder.mllm .*nothing does not exist"):
        check_mllm(settings(tmp_path / "nothing"))


def test_directory_without_config(tmp_path: Path):
    with pytest.raises(UserError, match=r"config\.json is missing"):
        check_mllm(settings(tmp_path))


def test_text_only_model_is_refused(mllm: Path, tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(UserError, match="'qwen2'"):
        check_mllm(settings(tmp_path))


def test_a_model_with_remote_code_is_refused_and_its_code_not_run(tmp_path: Path):
    about = {"model_type": "internvl_chat", "auto_map": {"AutoConfig": "configuration_chat.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(about))
    (tmp_path / "configuration_chat.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UserError, match="'internvl_chat', which needs remote code"):
        check_mllm(settings(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_unreachable_hub_says_to_download(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"download it and set encoder\.mllm to the local directory"):
        check_mllm(settings("nobody/no-such-model"))


def test_more_groups_than_layers(mllm: Path):
    with pytest.raises(UserError, match=r"layer_groups 99 exceeds the \d+ layers"):
        check_mllm(settings(mllm, layer_groups=99))


def test_missing_weights(mllm: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(mllm, copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot be loaded"):
        load_mllm(str(copy), tokens=1, dtype="float32")


def test_tiny_refuses_a_size_that_patches_do_not_fill(tmp_path: Path):
    with pytest.raises(UserError, match="image_size 50 must be a multiple of 16"):
        create_tiny_mllm(tmp_path, ["a"], image_size=50, seed=1)
