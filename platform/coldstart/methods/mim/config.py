"""The settings of MIM."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from coldstart.config.recipe.contrastive import Contrastive
from coldstart.config.recipe.encoder import Layers
from coldstart.config.recipe.method import ContenderInfo, MethodSettings, VariantInfo
from coldstart.config.section import Section, Share

if TYPE_CHECKING:
    from coldstart.config.recipe import Recipe


class TrainableTowers(Section):
    """Layers that stages 1 and 2 train; the projections are always trained.

    With `none` for both, every item passes the towers once only.
    """

    image: Layers = "all"
    text: Layers = "all"


class Towers(Section):
    """The image tower and the text tower."""

    path: str = "tiny"
    """`tiny` creates an untrained pair for this dataset; `pretrained` takes MiniLM and EfficientNet-Lite0 from the
    extra of that name; otherwise a directory that `coldstart create-dual-encoder` wrote."""
    width: PositiveInt = 128
    """Width of the common space (k). It and the next two are for `tiny` and `pretrained`; others have their own."""
    image_size: PositiveInt = 64
    """Pixels per side."""
    max_text_tokens: PositiveInt = 48
    """Longest text in tokens."""
    trainable: TrainableTowers = TrainableTowers()


class FineTune(Contrastive):
    """Stage 2, C-SFT: a clicked item is the query, the user's next clicked item the positive."""

    both_ways: bool = False
    queue_batches: Annotated[int, Field(ge=0)] = 16
    learning_rate: PositiveFloat = 3e-4
    image_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the loss of the item's image (a1)."""
    text_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the loss of the item's text (a2)."""
    window_s: PositiveInt = 7 * 86_400
    """Longest time between the two clicks of a pair, in seconds."""


class Interest(Section):
    """Stage 3, CiUBM: the ranker with units for ID-, fusion- and content-interest, trained by clicks."""

    content: bool = True
    """Whether the content-interest unit is used."""
    histogram: bool = True
    """Whether the network reads the histogram of similarities, too (SimTier)."""
    fusion: Literal["figure", "sa_ta", "dta", "none"] = "figure"
    """The fusion-interest unit: similarities weight IDs and content (the paper's figure); the product of ID attention
    and similarity (SA-TA, MUSE); similarity buckets in keys and values (DTA, DMF); or none."""
    epochs: PositiveInt = 5
    patience: PositiveInt = 2
    windows_per_step: PositiveInt = 16
    learning_rate: PositiveFloat = 2e-3
    """Of the new units."""
    ranker_lr: PositiveFloat = 5e-4
    """Of the ranker's weights, which are trained further."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    id_dropout: Share = 0.3
    """Share of items per step whose ID is dropped from targets and histories, so that training contains items without
    an ID, as in serving."""


class Settings(MethodSettings):
    """MIM: align two towers, fine-tune them on what users choose in turn, read interests off similarities."""

    name: Literal["mim"] = "mim"
    towers: Towers = Towers()
    align: Contrastive = Contrastive()
    """Stage 1, pre-training: image and text of one item."""
    fine_tune: FineTune = FineTune()
    interest: Interest = Interest()

    stages: ClassVar[tuple[str, ...]] = ("align_modalities", "fine_tune_content", "embed_items", "train_scorer")
    variants: ClassVar[dict[str, VariantInfo]] = {
        "max_similarity": VariantInfo(
            "the largest cosine of the item's content to what the user clicked before; no ID", "#2a9d8f"
        ),
        "without_content": VariantInfo(
            "the scorer of MIM, with the content of all items removed", "#b98d2f", ("oov", "release")
        ),
    }

    contenders: ClassVar[dict[str, ContenderInfo]] = {
        "mim": ContenderInfo(
            "interest in content, from similarities of target and history (MIM)",
            grid=tuple(
                {"interest.learning_rate": rate, "interest.id_dropout": share}
                for rate in (1e-3, 3e-3)
                for share in (0.1, 0.3)
            ),
        ),
        "mim_raw": ContenderInfo(
            "mim with towers as they were before stage 1",
            {"align.epochs": 0, "fine_tune.epochs": 0},
            tuned_as="mim",
        ),
        "mim_aligned": ContenderInfo("mim with towers as stage 1 left them", {"fine_tune.epochs": 0}, tuned_as="mim"),
    }

    @property
    def uses_mllm(self) -> bool:
        """Towers take the place of the MLLM."""
        return False

    def check(self, recipe: "Recipe") -> None:
        """Compares batch sizes with the number of ranks.

        Raises:
            ValueError: they do not fit together.
        """
        recipe.check_divisible("method.align.batch", self.align.batch)
        recipe.check_divisible("method.fine_tune.batch", self.fine_tune.batch)
        recipe.check_divisible("method.interest.windows_per_step", self.interest.windows_per_step)
