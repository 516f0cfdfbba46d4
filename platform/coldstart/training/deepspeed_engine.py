"""DeepSpeed engines: configuration from the recipe, torch AdamW, and full weights from partitions."""

import logging
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from coldstart.config import UserError
from coldstart.config.recipe import Coarse, Offload
from coldstart.training.distributed import rank, world_size

# DeepSpeed logs at import.
logging.getLogger("DeepSpeed").setLevel(logging.ERROR)

BUCKET = 50_000_000
"""Gradients per reduction, and weights that ZeRO-3 prefetches; DeepSpeed allocates buffers of this size."""
LIVE = 1_000_000_000
"""Weights that ZeRO-3 keeps gathered at a time, unless a single module has more."""


def deepspeed_config(settings: Coarse, *, dtype: str) -> dict[str, Any]:
    """The DeepSpeed configuration of coarse alignment on this process group."""
    gpu = torch.cuda.is_available()
    micro = settings.micro(world_size())
    return {
        "train_batch_size": settings.batch,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": settings.batch // (world_size() * micro),
        "gradient_clipping": settings.max_grad_norm,
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
        # A bfloat16 sum over micro-batches would be rounded after each of them.
        "data_types": {"grad_accum_dtype": "fp32"},
        # AdamW of torch, so that nothing is compiled at start.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }


def _offload(target: str, settings: Offload) -> dict[str, Any]:
    disk = {"nvme_path": str(settings.nvme_path)} if target == "nvme" else {}
    return {"device": target, "pin_memory": torch.cuda.is_available(), **disk}


def zero3_init_context(config: dict[str, Any]) -> object | None:
    """Makes `from_pretrained` load directly into ZeRO-3 partitions while the returned object is alive."""
    if config["zero_optimization"]["stage"] < 3:
        return None
    from transformers.integrations import HfDeepSpeedConfig

    _init_distributed()
    context: object = HfDeepSpeedConfig(config)
    return context


def start_engine(module: nn.Module, settings: Coarse, config: dict[str, Any], *, total_steps: int) -> Any:
    """Wraps a module in a DeepSpeed engine with AdamW, linear warm-up and cosine decay.

    Args:
        module: Its parameters that require a gradient are trained.
        settings: The recipe section `coarse`.
        config: From `deepspeed_config`.
        total_steps: Optimizer steps of the run.
    """
    import deepspeed

    _init_distributed()
    if "nvme" in (settings.offload.optimizer, settings.offload.parameters):
        _check_nvme()
    # Without `fused` a step allocates two more copies of the rank's parameters.
    optimizer = torch.optim.AdamW(
        _groups(module, settings.weight_decay), lr=settings.learning_rate, betas=(0.9, 0.98), fused=True
    )
    warmup = max(1, round(settings.warmup_ratio * total_steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total_steps - warmup))))

    engine, *_ = deepspeed.initialize(
        model=module, optimizer=optimizer, lr_scheduler=LambdaLR(optimizer, factor), config=config
    )
    # It would copy a script into every checkpoint, synchronously and even if the disk is full.
    engine._copy_recovery_script = lambda _: None
    # `from_pretrained` returns a model in eval mode, without dropout and gradient checkpointing.
    engine.train()
    return engine


def _check_nvme() -> None:
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if not AsyncIOBuilder().is_compatible(verbose=False):
        raise UserError(
            "method.coarse.offload: nvme needs libaio and a C++ compiler on every machine (apt install libaio-dev g++)"
            ", and `ds_report` must list async_io; install them, or set method.coarse.offload to cpu"
        )


def _init_distributed() -> None:
    """Makes DeepSpeed use the existing process group; before that it assumes a single rank."""
    import deepspeed

    # It would be compiled with the machine's C++ compiler and is used for inference only.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel(logging.ERROR)
    deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo")


def _groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: weight decay for matrices, none for biases, norms and other vectors."""
    trained = [weight for weight in module.parameters() if weight.requires_grad]
    # A partitioned parameter is flat; `ds_shape` holds its full shape.
    matrices = [weight for weight in trained if len(getattr(weight, "ds_shape", weight.shape)) > 1]
    vectors = [weight for weight in trained if len(getattr(weight, "ds_shape", weight.shape)) <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def take_step(engine: Any) -> float:
    """Ends a micro-batch; after the last one of a step, updates the weights.

    Returns:
        Gradient norm of the step before clipping, or 0 before its last micro-batch; NaN if a gradient is not finite.
    """
    # Without ZeRO and in float32 DeepSpeed clips without storing the norm.
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
    # DeepSpeed reports a norm that is not finite as -1.
    return float(norm) if norm >= 0 else math.nan


def full_state_dict(module: nn.Module) -> dict[str, Tensor] | None:
    """The full state of a module that may be partitioned. Called by all ranks; None on all but rank 0."""
    import deepspeed

    partitioned = {id(weight) for weight in module.parameters() if hasattr(weight, "ds_id")}
    state: dict[str, Tensor] = {}
    named: Iterable[tuple[str, Tensor]] = module.state_dict(keep_vars=True).items()
    for name, value in named:
        with deepspeed.zero.GatheredParameters([value], enabled=id(value) in partitioned):
            if rank() == 0:
                state[name] = value.detach().cpu().clone()
    return state if rank() == 0 else None
