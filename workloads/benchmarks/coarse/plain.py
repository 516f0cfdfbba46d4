"""A step of coarse alignment as a script without this platform's launch and loop would train it.

    torchrun --nproc-per-node 2 -m workloads.benchmarks.coarse.plain RECIPE OUT

The encoder, the loss and the reading of pictures and words are the library's, since they are what is trained; the rest
is what one writes with DeepSpeed and a `DataLoader` at hand. No checkpoints, no resuming, no schedule, no figures but
the loss.
"""

import sys
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset

from coldstart.alignment.contrastive import Targets, info_nce
from coldstart.config import Journal, Recipe
from coldstart.data.dataset import Dataset as Prepared
from coldstart.encoders import Encoder
from coldstart.rankers import load_id_rows
from workloads.align_coarse import coarse_task


class Batches(Dataset[Any]):
    """Prepared rows of this rank, one batch an index."""

    def __init__(self, prepared: Prepared, encoder: Encoder, order: np.ndarray) -> None:
        self.prepared, self.prompt, self.order = prepared, encoder.prompt, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, step: int) -> Any:
        items = self.order[step]
        return items, self.prompt.prepare(self.prepared.contents(items))


def main() -> None:
    """Trains; rank 0 writes when each step ended."""
    recipe, out = Recipe.model_validate_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    torch.set_num_threads(recipe.cluster.threads_per_worker)
    deepspeed.init_distributed("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    prepared, ids = Prepared.open(recipe.run_dir / "dataset", verify=False), load_id_rows(recipe.run_dir / "ranker")
    mllm = str(recipe.run_dir / "mllm")
    task = coarse_task(recipe, prepared, ids, mllm=mllm, key="plain")
    encoder = Encoder.create(mllm, recipe.encoder, width=ids.rows.shape[1], content=recipe.content, seed=recipe.seed)
    settings = recipe.coarse
    optimizer = torch.optim.AdamW(
        encoder.parameters(),
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=settings.weight_decay,
        fused=True,
    )
    engine, *_ = deepspeed.initialize(
        model=encoder,
        optimizer=optimizer,
        config={
            "train_batch_size": settings.batch,
            "train_micro_batch_size_per_gpu": settings.batch // ranks,
            "gradient_clipping": settings.clip,
            "zero_optimization": {"stage": settings.zero_stage},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 1_000_000_000,
        },
    )
    engine.train()
    rows, groups = torch.nn.functional.normalize(ids.rows.float(), dim=-1), torch.as_tensor(task.groups)
    used = task.steps_per_epoch * settings.batch
    epochs = [np.random.default_rng((recipe.seed, e)).permutation(task.train)[:used] for e in range(settings.epochs)]
    order = np.concatenate(epochs).reshape(-1, ranks, settings.batch // ranks)
    batches = DataLoader(
        Batches(prepared, encoder, order[:, rank]),
        batch_size=None,
        num_workers=1,
        prefetch_factor=2,
        collate_fn=lambda batch: batch,
    )
    journal = Journal(out)
    for step, (items, batch) in enumerate(batches):
        drawn = np.random.default_rng((recipe.seed, 2, step)).random((settings.batch, recipe.encoder.max_text_tokens))
        hidden = (drawn < settings.hidden_words)[rank * len(items) :][: len(items)]
        coarse, _ = engine(encoder.inputs(encoder.prompt.hide_words(batch, hidden), "cpu"))
        own, everyone = torch.as_tensor(items), torch.as_tensor(order[step].ravel())
        targets = Targets(rows[own], groups[own]), Targets(rows[everyone], groups[everyone])
        loss = info_nce(coarse, *targets, temperature=settings.temperature).mean()
        engine.backward(loss)
        engine.step()
        dist.all_reduce(loss := loss.detach())
        if rank == 0:
            journal.write(step + 1, len(order), loss=loss.item() / ranks)


if __name__ == "__main__":
    main()
