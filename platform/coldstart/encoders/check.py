"""Checks an encoder configuration, and counts its trainable parameters, before any weight is read."""

from coldstart.config.recipe import Encoder as EncoderSettings
from coldstart.config.recipe import Modalities
from coldstart.encoders.encoder import Encoder
from coldstart.encoders.freezing import ParameterCount, count_parameters


def check_mllm(
    settings: EncoderSettings, mllm: str | None = None, *, width: int = 1, content: Modalities | None = None
) -> ParameterCount:
    """Checks that an encoder can be built from these settings, without reading a weight.

    Args:
        settings: The recipe section `encoder`.
        mllm: Checkpoint to check instead of `settings.mllm`, once the tiny MLLM exists.
        width: d.
        content: Modalities that the encoder reads.

    Returns:
        Parameters that would be trained and frozen; zeros for a tiny MLLM that does not exist yet.

    Raises:
        UserError: the MLLM is missing or incomplete, its family is not supported, it needs remote code, or it has too
            few layers.
    """
    mllm = mllm or settings.mllm
    if mllm == "tiny":
        return ParameterCount(trained=0, frozen=0)
    return count_parameters(Encoder.on_meta(mllm, settings, width=width, content=content or Modalities()))
