"""Coarse alignment as a plain DeepSpeed script, without this platform's launch and trainer.

    torchrun --nproc-per-node 2 -m workloads.benchmarks.coarse.deepspeed_baseline RECIPE OUT

The encoder, the loss and the preparation of items are the library's; the rest uses DeepSpeed and a `DataLoader`. There
are no checkpoints, no resume, no learning rate schedule, and no metrics except the loss.
"""

import sys
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset

from coldstart.config import MetricsLog, Recipe
from coldstart.data.dataset import Dataset as Prepared
from coldstart.encoders import Encoder
from coldstart.methods.idproxy.align_coarse import alignment_job
from coldstart.modules.info_nce import Targets, info_nce
from coldstart.rankers import load_id_embeddings


class Batches(Dataset[Any]):
    """Prepared batches of this rank."""

    def __init__(self, prepared: Prepared, encoder: Encoder, order: np.ndarray) -> None:
        self.prepared, self.prompt, self.order = prepared, encoder.prompt, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, step: int) -> Any:
        items = self.order[step]
        return items, self.prompt.prepare(self.prepared.contents(items))


def main() -> None:
    """Trains; rank 0 logs the end of each step."""
    recipe, out = Recipe.model_validate_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    torch.set_num_threads(recipe.cluster.threads_per_worker)
    deepspeed.init_distributed("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    prepared, ids = (
        Prepared.open(recipe.run_dir / "dataset", verify=False),
        load_id_embeddings(recipe.run_dir / "ranker"),
    )
    mllm = str(recipe.run_dir / "mllm")
    job = alignment_job(recipe, prepared, ids, mllm=mllm, key="baseline")
    encoder = Encoder.create(mllm, recipe.encoder, width=ids.rows.shape[1], content=recipe.content, seed=recipe.seed)
    settings = recipe.method.coarse
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
            "gradient_clipping": settings.max_grad_norm,
            "zero_optimization": {"stage": settings.zero_stage},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 1_000_000_000,
        },
    )
    engine.train()
    rows, groups = torch.nn.functional.normalize(ids.rows.float(), dim=-1), torch.as_tensor(job.groups)
    used = job.steps_per_epoch * settings.batch
    epochs = [np.random.default_rng((recipe.seed, e)).permutation(job.train)[:used] for e in range(settings.epochs)]
    order = np.concatenate(epochs).reshape(-1, ranks, settings.batch // ranks)
    batches = DataLoader(
        Batches(prepared, encoder, order[:, rank]),
        batch_size=None,
        num_workers=1,
        prefetch_factor=2,
        collate_fn=lambda batch: batch,
    )
    metrics_log = MetricsLog(out)
    for step, (items, batch) in enumerate(batches):
        draw = np.random.default_rng((recipe.seed, 2, step)).random((settings.batch, recipe.encoder.max_text_tokens))
        dropped = (draw < settings.token_dropout)[rank * len(items) :][: len(items)]
        coarse, _ = engine(encoder.inputs(encoder.prompt.mask_text_tokens(batch, dropped), "cpu"))
        own, batch_items = torch.as_tensor(items), torch.as_tensor(order[step].ravel())
        targets = Targets(rows[own], groups[own]), Targets(rows[batch_items], groups[batch_items])
        loss = info_nce(coarse, *targets, temperature=settings.temperature).mean()
        engine.backward(loss)
        engine.step()
        dist.all_reduce(loss := loss.detach())
        if rank == 0:
            metrics_log.write(step + 1, len(order), loss=loss.item() / ranks)


if __name__ == "__main__":
    main()
