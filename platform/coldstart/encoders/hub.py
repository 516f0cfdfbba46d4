"""Checkpoints on the Hugging Face Hub: `owner/name`, or `owner/name@revision` for one branch, tag or commit."""

from pathlib import Path

from huggingface_hub import hf_hub_download

from coldstart.config import UserError
from coldstart.config.recipe.encoder import split_revision


def locate(mllm: str) -> tuple[str, str]:
    """Name and revision for `from_pretrained`; a local directory, whose name may have an `@`, has no other revision."""
    return (mllm, "main") if Path(mllm).is_dir() else split_revision(mllm)


def pin_commit(mllm: str) -> str:
    """`owner/name@commit`, with the commit that the revision means now, so that all processes load the same weights.

    Raises:
        UserError: neither the hub nor the local cache has it.
    """
    name, revision = split_revision(mllm)
    try:
        config = hf_hub_download(name, "config.json", revision=revision)
    except (OSError, ValueError) as error:
        raise unavailable(mllm, error) from error
    return f"{name}@{Path(config).parent.name}"


def unavailable(mllm: str, error: Exception) -> UserError:
    """What to do about a checkpoint that cannot be read."""
    return UserError(
        f"encoder.mllm {mllm} cannot be opened ({first_line(error)}); download it and set encoder.mllm to the local "
        "directory"
    )


def first_line(error: Exception) -> str:
    """What a library says of a checkpoint, shortened for an error message."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
