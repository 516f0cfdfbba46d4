"""The tiny offline dual encoder: a ViT and a BERT of about two hundred thousand parameters, trained from scratch."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from coldstart.config import UserError
from coldstart.config.recipe import Modalities
from coldstart.encoders.dual_encoder import ContentRows, DualEncoder
from coldstart.encoders.tiny import PATCH, cosine_basis, sinusoidal_positions, train_tokenizer
from coldstart.encoders.towers import tower_of

HIDDEN, LAYERS = 64, 3
MAX_POSITIONS = 256
STATISTICS = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def create_tiny_dual_encoder(
    out: Path, texts: Iterable[str], *, width: int, image_size: int, max_text_tokens: int, seed: int
) -> None:
    """Writes a randomly initialized dual encoder whose tokenizer is trained on `texts`.

    Args:
        out: Directory that `DualEncoder.load` reads.
        texts: All titles and texts of the catalog.
        width: `k`, of the common space.
        image_size: Pixels per side.
        max_text_tokens: Longest text in tokens.
        seed: For the weights.

    Raises:
        UserError: `image_size` is no multiple of the patch size, or `max_text_tokens` is too large.
    """
    if image_size % PATCH:
        raise UserError(f"image_size {image_size} of the tiny dual encoder must be a multiple of {PATCH}")
    if max_text_tokens > MAX_POSITIONS:
        raise UserError(f"max_text_tokens {max_text_tokens} of the tiny dual encoder must be at most {MAX_POSITIONS}")
    tokenizer = train_tokenizer(texts)
    tokenizer.model_max_length = MAX_POSITIONS
    sizes = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 128}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        image = ViTModel(ViTConfig(**sizes, image_size=image_size, patch_size=PATCH), add_pooling_layer=False)
        text = BertModel(
            BertConfig(
                **sizes,
                vocab_size=len(tokenizer),
                max_position_embeddings=MAX_POSITIONS,
                pad_token_id=tokenizer.pad_token_id,
            ),
            add_pooling_layer=False,
        )
        for model in (image, text):
            _keep_variance(model)
        _start_near_trained(image)
        rows = ContentRows(tokenizer, image_size=image_size, max_text_tokens=max_text_tokens, content=Modalities())
        encoder = DualEncoder(
            tower_of(image.eval(), "image"), tower_of(text.eval(), "text"), rows, width=width, statistics=STATISTICS
        )
    out.mkdir(parents=True, exist_ok=True)
    encoder.save(out)


@torch.no_grad()
def _keep_variance(model: nn.Module) -> None:
    """The usual small constant standard deviation suits large widths and long training."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)
    for name, weight in model.named_parameters():
        if name.endswith(("o_proj.weight", "fc2.weight", "output.dense.weight")):
            weight.mul_(LAYERS**-0.5)


@torch.no_grad()
def _start_near_trained(image: ViTModel) -> None:
    """A cosine basis for patches, and sinusoidal positions."""
    embeddings = image.embeddings
    patches, positions = embeddings.patch_embeddings.projection.weight, embeddings.position_embeddings
    patches.copy_(cosine_basis(len(patches)))
    positions[0, 1:] = 0.5 * sinusoidal_positions(positions.shape[1] - 1, positions.shape[2])
