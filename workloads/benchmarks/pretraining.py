"""Pre-trains a run's MLLM on its catalogue, by nothing but pictures and words, to see what that is worth.

Two losses on items with train events: words are foretold from the picture and the words before them by the MLLM's own
head, and what it makes of a picture alone finds what it makes of the words alone, among the batch's (InfoNCE in both
directions). Cold items, clicks and ID rows are not looked at.

    python -m workloads.benchmarks.pretraining --recipe demo --out pretrained
    coldstart run ablate --recipe demo --set encoder.mllm=pretrained --seeds 1 --only fine

The first needs a run whose tiny MLLM is there, that is one which has been through `align_coarse`.
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
from coldstart.data.dataset import Dataset
from coldstart.encoders import Encoder
from coldstart.encoders.prompt import Rows
from workloads.console import CONSOLE
from workloads.job import find_recipe, readable_errors, recipe_arguments

HELD_OUT = 0.1
BATCH, RATE, DECAY, WARMUP, CLIP = 64, 1e-3, 0.1, 0.1, 1.0
TEMPERATURE = 0.1
WIDTH = 64
"""Of the space in which pictures find words; its head is thrown away."""
_PER_PASS = 512


class Readings:
    """Items as the MLLM is to read them: whole, and their words beside a blank picture.

    Args:
        encoder: Prepares them.
        dataset: Where they lie.
        item_idx: Which.
    """

    def __init__(self, encoder: Encoder, dataset: Dataset, item_idx: NDArray[np.int64]) -> None:
        contents = dataset.contents(item_idx)
        self.whole = encoder.prepare(contents)
        self.words = encoder.prepare([replace(content, picture=None) for content in contents])
        self.count = len(item_idx)

    def batches(self, rng: np.random.Generator) -> Iterator[tuple[Rows, Rows]]:
        """Full batches in a new order."""
        for rows in rng.permutation(self.count)[: self.count // BATCH * BATCH].reshape(-1, BATCH):
            yield _take(self.whole, rows), _take(self.words, rows)


def losses(encoder: Encoder, whole: Rows, words: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Cross entropy per word, InfoNCE of pictures and words, and the share of pictures that find their own words."""
    prompt = encoder.prompt
    inputs = encoder.inputs(whole, "cpu")
    hidden = np.ones((len(whole["words"]), prompt.max_text_tokens), bool)
    wordless = encoder.inputs(prompt.hide_words(whole, hidden), "cpu")["attention_mask"]
    spoken = inputs["attention_mask"] - wordless
    states = encoder.mllm.model(**inputs, use_cache=False).last_hidden_state
    # The embeddings, which the head shares, start large.
    foretold = encoder.mllm.lm_head(states[:, :-1][spoken[:, 1:].bool()]) * encoder.hidden**-0.5
    spelled = F.cross_entropy(foretold, inputs["input_ids"][spoken.bool()])
    # No state knows of what comes behind it, so those before the first word have seen the picture alone.
    before = wordless * (spoken.cumsum(1) == 0)
    seen = encoder.projection((states * before.unsqueeze(-1)).sum(1) / before.sum(1, keepdim=True))
    told, _ = encoder(encoder.inputs(words, "cpu"))
    scores, own = seen @ told.T / TEMPERATURE, torch.arange(len(seen))
    contrast = (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2
    return spelled, contrast, (scores.argmax(1) == own).float().mean()


def _take(rows: Rows, chosen: NDArray[np.int64]) -> Rows:
    return {name: column[chosen] for name, column in rows.items()}


@torch.no_grad()
def measured(encoder: Encoder, kept: Readings) -> str:
    """The same on items that are not trained on."""
    encoder.eval()
    rows = np.arange(min(kept.count, _PER_PASS))
    spelled, contrast, found = losses(encoder, _take(kept.whole, rows), _take(kept.words, rows))
    encoder.train()
    return (
        f"perplexity {math.exp(spelled.item()):.1f}, contrast {contrast.item():.3f}, own words first of {len(rows)} "
        f"{100 * found.item():.1f} %"
    )


def pretrain(recipe: Recipe, out: Path, *, epochs: int) -> None:
    """Writes a checkpoint directory that `encoder.mllm` can name."""
    torch.set_num_threads(recipe.cluster.workers * recipe.cluster.threads_per_worker)
    dataset = Dataset.open(recipe.run_dir / "dataset")
    encoder = Encoder.create(
        str(recipe.run_dir / "mllm"), recipe.encoder, width=WIDTH, content=recipe.content, seed=recipe.seed
    ).train()
    rng = np.random.default_rng(recipe.seed)
    known = rng.permutation(np.flatnonzero(dataset.train_counts))
    held = int(HELD_OUT * len(known))
    kept, taught = (Readings(encoder, dataset, part) for part in (known[:held], known[held:]))
    steps = epochs * (taught.count // BATCH)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=WARMUP, cycle_momentum=False)
    CONSOLE.print(f"{taught.count:,} items, {kept.count:,} kept out: {measured(encoder, kept)}")
    began = time.monotonic()
    for epoch in range(epochs):
        for whole, words in taught.batches(rng):
            spelled, contrast, _ = losses(encoder, whole, words)
            optimizer.zero_grad()
            (spelled + contrast).backward()
            torch.nn.utils.clip_grad_norm_(encoder.parameters(), CLIP)
            optimizer.step()
            schedule.step()
        CONSOLE.print(f"epoch {epoch + 1}/{epochs}, {time.monotonic() - began:.0f} s: {measured(encoder, kept)}")
    out.mkdir(parents=True, exist_ok=True)
    encoder.mllm.save_pretrained(out)
    encoder.prompt.processor.save_pretrained(out)


def main() -> None:
    """Pre-trains as a program."""
    parser = recipe_arguments("benchmarks.pretraining", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="directory for the checkpoint")
    parser.add_argument("--epochs", type=int, default=4, help="over the catalogue (default: 4)")
    arguments = parser.parse_args()
    with readable_errors():
        recipe = load_recipe(find_recipe(arguments.recipe), arguments.set)
        pretrain(recipe, arguments.out, epochs=arguments.epochs)


if __name__ == "__main__":
    main()
