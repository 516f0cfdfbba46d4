"""DeepSpeed as this project uses it: one config from the recipe, torch AdamW, and whole weights back from shards."""

import logging
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from coldstart.config import UserError
from coldstart.config.recipe import Coarse, Offload
from coldstart.training.ranks import rank, world_size

# DeepSpeed and what it loads announce themselves at import.
logging.getLogger("DeepSpeed").setLevel(logging.ERROR)

BUCKET = 50_000_000
"""Gradients that travel together, and weights that ZeRO-3 gathers ahead; DeepSpeed holds room for all of them."""
LIVE = 1_000_000_000
"""Weights that ZeRO-3 keeps gathered at a time, as far as no module has more."""


def deepspeed_config(settings: Coarse, *, dtype: str) -> dict[str, Any]:
    """The configuration of an engine for the coarse objective on this process group."""
    gpu = torch.cuda.is_available()
    micro = settings.micro(world_size())
    return {
        "train_batch_size": settings.batch,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": settings.batch // (world_size() * micro),
        "gradient_clipping": settings.clip,
        "bf16": {"enabled": dtype == "bfloat16"},
        "zero_optimization": {
            "stage": settings.zero_stage,
            "overlap_comm": gpu,
            "contiguous_gradients": True,
            "reduce_bucket_size": BUCKET,
            "stage3_prefetch_bucket_size": BUCKET,
            "stage3_max_live_parameters": LIVE,
            "stage3_max_reuse_distance": LIVE,
            "stage3_param_persistence_threshold": 10_000,
            "offload_optimizer": _offload(settings.offload.optimizer, settings.offload),
            "offload_param": _offload(settings.offload.parameters, settings.offload),
        },
        # In bfloat16 a sum over micro-batches would be rounded at every one.
        "data_types": {"grad_accum_dtype": "fp32"},
        # AdamW of torch: nothing is compiled at start, on any machine.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }


def _offload(place: str, settings: Offload) -> dict[str, Any]:
    disk = {"nvme_path": str(settings.nvme_path)} if place == "nvme" else {}
    return {"device": place, "pin_memory": torch.cuda.is_available(), **disk}


def keep_partitioned(config: dict[str, Any]) -> object | None:
    """Lets `from_pretrained` load straight into ZeRO-3 shards for as long as the returned object lives."""
    if config["zero_optimization"]["stage"] < 3:
        return None
    from transformers.integrations import HfDeepSpeedConfig

    _join()
    alive: object = HfDeepSpeedConfig(config)
    return alive


def start_engine(module: nn.Module, settings: Coarse, config: dict[str, Any], *, total_steps: int) -> Any:
    """Wraps a module in a DeepSpeed engine with AdamW, linear warm-up and a cosine.

    Args:
        module: Its parameters that require a gradient are trained.
        settings: Learning rate, weight decay and warm-up.
        config: From `deepspeed_config`.
        total_steps: Optimizer steps of the whole run.
    """
    import deepspeed

    _join()
    if "nvme" in (settings.offload.optimizer, settings.offload.parameters):
        _check_nvme()
    # Fused: otherwise a step works on two more copies of all that a rank steps.
    optimizer = torch.optim.AdamW(
        _groups(module, settings.weight_decay), lr=settings.learning_rate, betas=(0.9, 0.98), fused=True
    )
    warmup = max(1, round(settings.warmup * total_steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total_steps - warmup))))

    engine, *_ = deepspeed.initialize(
        model=module, optimizer=optimizer, lr_scheduler=LambdaLR(optimizer, factor), config=config
    )
    # It would put a program beside every checkpoint, while the steps wait and whether or not the disk has room.
    engine._copy_recovery_script = lambda _: None
    # What `from_pretrained` loads is in eval mode: no dropout, and no gradient checkpointing.
    engine.train()
    return engine


def _check_nvme() -> None:
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if not AsyncIOBuilder().is_compatible(verbose=False):
        raise UserError(
            "coarse.offload: nvme needs libaio and a C++ compiler on every machine (apt install libaio-dev g++); "
            "`ds_report` shows async_io when they are there. Install them, or say cpu"
        )


def _join() -> None:
    """Lets DeepSpeed use the process group that is there; before that it takes a rank for the only one."""
    import deepspeed

    # Would be compiled with the machine's C++ compiler, for inference only.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel(logging.ERROR)
    deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo")


def _groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and other vectors do not."""
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    # A parameter in shards is flat; its real shape stands in `ds_shape`.
    matrices = [weight for weight in trained if len(getattr(weight, "ds_shape", weight.shape)) > 1]
    vectors = [weight for weight in trained if len(getattr(weight, "ds_shape", weight.shape)) <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def take_step(engine: Any) -> float:
    """Ends a pass, and with the last pass of a step updates the weights.

    Returns:
        Norm of the gradient of the step before clipping, or 0 between the passes; not finite if a gradient is not.
    """
    # Without ZeRO and in float32 DeepSpeed clips without keeping the norm.
    plain = engine.zero_optimization_stage() == 0 and not engine.bfloat16_enabled()
    if not engine.is_gradient_accumulation_boundary():
        engine.step()
        return 0.0
    norm = torch.zeros(())
    if plain:
        gradients = [weight.grad for weight in engine.module.parameters() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
    engine.step()
    if not plain:
        norm = engine.get_global_grad_norm()
    # DeepSpeed writes -1 for what is not finite.
    return float(norm) if norm >= 0 else math.nan


def whole_state(module: nn.Module) -> dict[str, Tensor] | None:
    """The full state of a module whose parameters may lie in shards. Called by all ranks; `None` on all but rank 0."""
    import deepspeed

    shards = {id(weight) for weight in module.parameters() if hasattr(weight, "ds_id")}
    state: dict[str, Tensor] = {}
    named: Iterable[tuple[str, Tensor]] = module.state_dict(keep_vars=True).items()
    for name, value in named:
        with deepspeed.zero.GatheredParameters([value], enabled=id(value) in shards):
            if rank() == 0:
                state[name] = value.detach().cpu().clone()
    return state if rank() == 0 else None
