"""The settings of SaviorRec."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from coldstart.config.recipe.contrastive import Contrastive
from coldstart.config.recipe.method import ContenderInfo, MethodSettings, VariantInfo
from coldstart.config.recipe.pairs import Pairs
from coldstart.config.section import Section, Share

if TYPE_CHECKING:
    from coldstart.config.recipe import Recipe

CodebookSize = Annotated[int, Field(ge=2, le=2**15 - 1)]
"""Codes are int16."""


class PairContrast(Contrastive):
    """The training of a whole MLLM on pairs: shorter and slower than that of a head."""

    epochs: NonNegativeInt = 3
    batch: PositiveInt = 64
    learning_rate: PositiveFloat = 3e-4


class ContentEncoder(Section):
    """The content vector `m` of an item."""

    train: Literal["none", "pairs"] = "pairs"
    """none: the frozen MLLM; `m` is the principal components of its pooled states, of unit length. pairs: MLLM and
    projection head are trained from there, so that items that the same users click are similar."""
    contrast: PairContrast = PairContrast()
    """The training on pairs."""
    width: PositiveInt | None = None
    """`k`, width of `m`. None: 128, or the MLLM's hidden width if that is smaller."""


class Quantizer(Section):
    """Semantic IDs: the codes of a content vector."""

    kind: Literal["rq_vae", "rq_kmeans"] = "rq_vae"
    """rq_vae: learned, and its codes know which items are clicked together. rq_kmeans: k-means on the residuals."""
    sizes: Annotated[tuple[CodebookSize, ...], Field(min_length=1)] | None = None
    """Codes of each level. None: three levels of the power of two nearest to the root of the number of train items,
    16 to 256."""
    epochs: PositiveInt = 20
    batch: PositiveInt = 1024
    min_steps: NonNegativeInt = 2000
    """Steps of rq_vae on a small catalog, which is passed more often than `epochs`."""
    code_width: PositiveInt = 64
    """Width of the codebooks of rq_vae; those of rq_kmeans are as wide as the content vector."""
    learning_rate: PositiveFloat = 1e-3
    commitment: PositiveFloat = 0.25
    """Weight of the term that keeps projections near the codebooks, in rq_vae."""
    contrast: NonNegativeFloat = 1.0
    """Weight of the contrastive loss of decoded co-click pairs, in rq_vae; 0 mines no pairs."""


class RankAblation(Section):
    """Parts to leave out or to replace, to measure what each is worth."""

    without_mba: bool = False
    """Keeps content vectors frozen: no correction by codes."""
    without_cross_space: bool = False
    """Leaves out the two attentions that read one space with the weights of the other."""
    shuffled_codes: bool = False
    """Every item has the codes of a random item, so that codes say nothing about content."""
    sum_codebooks: bool = False
    """The correction is the sum of codebook rows, without the fusion MLP."""

    @model_validator(mode="after")
    def _correction_exists(self) -> Self:
        if self.without_mba and (self.shuffled_codes or self.sum_codebooks):
            raise ValueError(
                "method.rank.ablate.without_mba removes the correction that shuffled_codes and sum_codebooks change; "
                "set only one of them"
            )
        return self


class Rank(Section):
    """The ranker: correction by codes and attentions in both spaces, trained by clicks."""

    ablate: RankAblation = RankAblation()
    attention_width: PositiveInt = 64
    """Width of queries, keys and values, in both spaces."""
    fusion_units: PositiveInt = 256
    """Units of the fusion MLP."""
    mlp_units: tuple[PositiveInt, ...] = (128, 64)
    """Units of the MLP on the attentions."""
    epochs: PositiveInt = 6
    patience: PositiveInt = 2
    windows_per_step: PositiveInt = 64
    learning_rate: PositiveFloat = 1e-3
    ranker_lr: PositiveFloat = 5e-4
    """Learning rate of the ranker's pretrained weights, in joint mode."""
    weight_decay: NonNegativeFloat = 1e-2
    dropout: Share = 0.1
    id_dropout: Share = 0.3
    """Share of items per step whose ID is dropped, in targets and histories, so that training contains items without
    an ID, as in serving."""


class Settings(MethodSettings):
    """SaviorRec: a frozen encoder, semantic IDs, and a ranker whose correction of content is shared by codes."""

    name: Literal["saviorrec"] = "saviorrec"
    mode: Literal["frozen", "joint"] = "joint"
    """frozen: the ranker stays unchanged, byte for byte; correction and attentions are trained on top.
    joint: the ranker is trained further with them."""
    encoder: ContentEncoder = ContentEncoder()
    pairs: Pairs = Pairs()
    quantizer: Quantizer = Quantizer()
    rank: Rank = Rank()

    stages: ClassVar[tuple[str, ...]] = ("fit_encoder", "embed_items", "mine_pairs", "quantize", "train_scorer")
    variants: ClassVar[dict[str, VariantInfo]] = {
        "uncorrected": VariantInfo(
            "the served scorer without the correction by codes: content vectors as the encoder made them",
            "#b98d2f",
            ("oov", "release"),
        ),
    }

    contenders: ClassVar[dict[str, ContenderInfo]] = {
        "saviorrec": ContenderInfo(
            "content vectors and semantic IDs of target and history, corrected per code (SaviorRec)",
            grid=tuple(
                {"rank.learning_rate": rate, "rank.id_dropout": share} for rate in (1e-3, 3e-3) for share in (0.1, 0.3)
            ),
        ),
        "saviorrec_uncorrected": ContenderInfo(
            "saviorrec without codes: content vectors stay as the encoder made them",
            {"rank.ablate.without_mba": True},
            tuned_as="saviorrec",
        ),
        "saviorrec_own_space": ContenderInfo(
            "saviorrec without the two attentions that read one space with the weights of the other",
            {"rank.ablate.without_cross_space": True},
            tuned_as="saviorrec",
        ),
        "saviorrec_shuffled": ContenderInfo(
            "saviorrec with the codes of a random item for each item",
            {"rank.ablate.shuffled_codes": True},
            tuned_as="saviorrec",
        ),
        "saviorrec_summed": ContenderInfo(
            "saviorrec with the sum of codebook rows instead of the fusion MLP",
            {"rank.ablate.sum_codebooks": True},
            tuned_as="saviorrec",
        ),
    }

    @property
    def uses_pairs(self) -> bool:
        """Whether a stage reads co-click pairs."""
        return self.encoder.train == "pairs" or self.quantizer_reads_pairs

    @property
    def quantizer_reads_pairs(self) -> bool:
        """Whether the quantizer is trained on pairs, too."""
        return self.quantizer.kind == "rq_vae" and self.quantizer.contrast > 0

    def check(self, recipe: "Recipe") -> None:
        """Compares batch sizes with the number of ranks, and the precision with the training of the encoder.

        Raises:
            ValueError: they do not fit together.
        """
        recipe.check_divisible("method.encoder.contrast.batch", self.encoder.contrast.batch)
        if self.encoder.train == "pairs" and recipe.encoder.dtype == "bfloat16":
            raise ValueError(
                "method.encoder.train pairs keeps no float32 copy of bfloat16 weights (encoder.dtype), so small "
                "updates are lost; set encoder.dtype: float32, or method.encoder.train: none"
            )
        recipe.check_divisible("method.rank.windows_per_step", self.rank.windows_per_step)
