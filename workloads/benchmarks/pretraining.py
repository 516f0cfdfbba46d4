"""Pre-trains a run's MLLM on the images and texts of its catalog, to measure what that is worth.

Two losses on items with train events: next-token prediction of the text after the image, by the MLLM's own head, and
InfoNCE in both directions between the image alone and the text alone. Cold items, clicks and ID rows are not used.

    python -m workloads.benchmarks.pretraining --recipe demo --out pretrained
    coldstart run compare --recipe demo --set encoder.mllm=pretrained --seeds 1 --methods fine

The first command needs a run with a tiny MLLM, that is after `align_coarse`.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from coldstart.config import Recipe, load_recipe
from coldstart.config.shipped_recipes import find_recipe
from coldstart.data.dataset import Dataset
from coldstart.encoders import Encoder
from coldstart.encoders.prompt import Rows
from coldstart.jobs.progress import CONSOLE
from coldstart.jobs.runner import readable_errors, recipe_arguments

HELD_OUT = 0.1
BATCH, RATE, DECAY, WARMUP, CLIP = 64, 1e-3, 0.1, 0.1, 1.0
TEMPERATURE = 0.1
WIDTH = 64
"""Width of the space of the contrastive loss; its head is discarded."""
_MAX_EVALUATED = 512


class PreparedItems:
    """Prepared items, with their image and with a blank image.

    Args:
        encoder: Prepares the items.
        dataset: Holds the items.
        item_idx: Indices of the items.
    """

    def __init__(self, encoder: Encoder, dataset: Dataset, item_idx: NDArray[np.int64]) -> None:
        contents = dataset.contents(item_idx)
        self.full = encoder.prepare(contents)
        self.text_only = encoder.prepare([replace(content, image=None) for content in contents])
        self.count = len(item_idx)

    def batches(self, rng: np.random.Generator) -> Iterator[tuple[Rows, Rows]]:
        """Full batches in random order."""
        for rows in rng.permutation(self.count)[: self.count // BATCH * BATCH].reshape(-1, BATCH):
            yield _take(self.full, rows), _take(self.text_only, rows)


def losses(encoder: Encoder, full: Rows, text_only: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Cross entropy per token, InfoNCE of images and texts, and the share of images that rank their own text first."""
    prompt = encoder.prompt
    inputs = encoder.inputs(full, "cpu")
    all_text = np.ones((len(full["num_text_tokens"]), prompt.max_text_tokens), bool)
    without_text = encoder.inputs(prompt.mask_text_tokens(full, all_text), "cpu")["attention_mask"]
    is_text = inputs["attention_mask"] - without_text
    states = encoder.mllm.model(**inputs, use_cache=False).last_hidden_state
    # The scale compensates for the large initial embeddings, which the head shares.
    logits = encoder.mllm.lm_head(states[:, :-1][is_text[:, 1:].bool()]) * encoder.hidden**-0.5
    language = F.cross_entropy(logits, inputs["input_ids"][is_text.bool()])
    # Attention is causal, so the states before the first text token depend on the image alone.
    before_text = without_text * (is_text.cumsum(1) == 0)
    images = encoder.projection((states * before_text.unsqueeze(-1)).sum(1) / before_text.sum(1, keepdim=True))
    texts, _ = encoder(encoder.inputs(text_only, "cpu"))
    scores, own = images @ texts.T / TEMPERATURE, torch.arange(len(images))
    contrastive = (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2
    return language, contrastive, (scores.argmax(1) == own).float().mean()


def _take(rows: Rows, index: NDArray[np.int64]) -> Rows:
    return {name: column[index] for name, column in rows.items()}


@torch.no_grad()
def evaluate(encoder: Encoder, held_out: PreparedItems) -> str:
    """The losses on held-out items, as text."""
    encoder.eval()
    rows = np.arange(min(held_out.count, _MAX_EVALUATED))
    language, contrastive, top_1 = losses(encoder, _take(held_out.full, rows), _take(held_out.text_only, rows))
    encoder.train()
    return (
        f"perplexity {math.exp(language.item()):.1f}, contrastive loss {contrastive.item():.3f}, own text first among "
        f"{len(rows)}: {100 * top_1.item():.1f} %"
    )


def pretrain(recipe: Recipe, out: Path, *, epochs: int) -> None:
    """Writes a checkpoint directory for `encoder.mllm`."""
    torch.set_num_threads(recipe.cluster.workers * recipe.cluster.threads_per_worker)
    dataset = Dataset.open(recipe.run_dir / "dataset")
    encoder = Encoder.create(
        str(recipe.run_dir / "mllm"), recipe.encoder, width=WIDTH, content=recipe.content, seed=recipe.seed
    ).train()
    rng = np.random.default_rng(recipe.seed)
    items = rng.permutation(np.flatnonzero(dataset.train_counts))
    count = int(HELD_OUT * len(items))
    held_out, train = (PreparedItems(encoder, dataset, part) for part in (items[:count], items[count:]))
    steps = epochs * (train.count // BATCH)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=WARMUP, cycle_momentum=False)
    CONSOLE.print(f"{train.count:,} items, {held_out.count:,} held out: {evaluate(encoder, held_out)}")
    start = time.monotonic()
    for epoch in range(epochs):
        for full, text_only in train.batches(rng):
            language, contrastive, _ = losses(encoder, full, text_only)
            optimizer.zero_grad()
            (language + contrastive).backward()
            torch.nn.utils.clip_grad_norm_(encoder.parameters(), CLIP)
            optimizer.step()
            schedule.step()
        CONSOLE.print(f"epoch {epoch + 1}/{epochs}, {time.monotonic() - start:.0f} s: {evaluate(encoder, held_out)}")
    out.mkdir(parents=True, exist_ok=True)
    encoder.mllm.save_pretrained(out)
    encoder.prompt.processor.save_pretrained(out)


def main() -> None:
    """Runs the pre-training from the command line."""
    parser = recipe_arguments("benchmarks.pretraining", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory for the checkpoint")
    parser.add_argument("--epochs", type=int, default=4, help="over the catalog (default: 4)")
    arguments = parser.parse_args()
    with readable_errors():
        recipe = load_recipe(find_recipe(arguments.recipe), arguments.set)
        pretrain(recipe, arguments.out, epochs=arguments.epochs)


if __name__ == "__main__":
    main()
