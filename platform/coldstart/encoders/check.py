"""Whether an encoder can be made as a recipe says, and what it would train: known before a weight is read."""

from coldstart.config.recipe import ContentSwitch
from coldstart.config.recipe import Encoder as EncoderSettings
from coldstart.encoders.encoder import Encoder
from coldstart.encoders.freezing import ParameterCount, count_parameters


def check_mllm(
    settings: EncoderSettings, mllm: str | None = None, *, width: int = 1, content: ContentSwitch | None = None
) -> ParameterCount:
    """Finds out, without reading a weight, whether an encoder can be made as the settings say.

    Args:
        settings: Section of the recipe.
        mllm: Checkpoint that stands for `tiny` once it is made.
        width: d.
        content: Modalities that it may read.

    Returns:
        What the encoder would train; zeros for a `tiny` one that is not made yet.

    Raises:
        UserError: the MLLM is not there, incomplete, of a family that cannot be read, needs code of its own, or has
            too few layers.
    """
    mllm = mllm or settings.mllm
    if mllm == "tiny":
        return ParameterCount(trained=0, frozen=0)
    return count_parameters(Encoder.outline(mllm, settings, width=width, content=content or ContentSwitch()))
