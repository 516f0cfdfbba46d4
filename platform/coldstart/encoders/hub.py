"""Checkpoints on the Hugging Face Hub: `owner/name`, or `owner/name@revision` for one branch, tag or commit."""

from pathlib import Path

from huggingface_hub import hf_hub_download

from coldstart.config import UserError


def split_revision(mllm: str) -> tuple[str, str]:
    """The name and the revision, `main` if none is given; a local directory has no other."""
    name, _, revision = (mllm, "", "") if Path(mllm).is_dir() else mllm.partition("@")
    return name, revision or "main"


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
    lines = str(error).strip().splitlines()
    reason = lines[0][:200] if lines else type(error).__name__
    return UserError(
        f"encoder.mllm {mllm} cannot be opened ({reason}); download it and set encoder.mllm to the local directory"
    )
