"""The settings of a baseline that is registered and served."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import PositiveFloat, model_validator

from coldstart.config.recipe.coarse import Coarse
from coldstart.config.recipe.fine import Fine
from coldstart.config.recipe.method import MethodSettings

if TYPE_CHECKING:
    from coldstart.config.recipe import Recipe

PENALTIES = {"text_similarity": 1.0, "content_similarity": 1.0, "ridge_map": 100.0, "mlp_map": 1.0}
"""Baselines that are fitted with an L2 penalty, and its default."""
READS_TEXT = ("oov", "mean_row", "text_similarity", "item_effect_similarity")
READS_ALIGNED = ("item_effect", "content_similarity", "item_effect_similarity", "ridge_map", "mlp_map", "coarse")


class Settings(MethodSettings):
    """A baseline as the model that is served, for catalogs on which no method is better (`coldstart run compare`)."""

    name: Literal["baselines"] = "baselines"
    use: Literal[
        "oov",
        "mean_row",
        "item_effect",
        "text_similarity",
        "content_similarity",
        "item_effect_similarity",
        "ridge_map",
        "mlp_map",
        "coarse",
    ] = "text_similarity"
    """The baseline, by its name in a comparison. oov, mean_row and text_similarity read the items' text alone: they
    need no image and no MLLM, and are fitted in seconds. The others read the encoder that IDProxy aligns."""
    penalty: PositiveFloat | None = None
    """L2 penalty of the regression of ridge_map and mlp_map, or of that which weighs similarities, in rows. None: 100
    for ridge_map, else 1."""
    length: PositiveFloat = 1.0
    """Length of coarse proxies, as a multiple of the mean length of mature ID rows."""
    coarse: Coarse = Coarse()
    """Training of the aligned encoder."""
    fine: Fine = Fine()
    """Training by clicks, of item_effect and item_effect_similarity."""

    stages: ClassVar[tuple[str, ...]] = ("fit_encoder", "align_coarse", "embed_items", "fit_baseline")
    modalities: ClassVar[tuple[Literal["image", "text"], ...]] = ("text",)

    @model_validator(mode="after")
    def _penalty_has_an_effect(self) -> Self:
        if self.penalty is not None and self.use not in PENALTIES:
            raise ValueError(
                f"method.penalty {self.penalty:g} has no effect on {self.use}, only on {', '.join(PENALTIES)}; remove "
                "it, or set method.use to one of these"
            )
        return self

    @property
    def required_modalities(self) -> tuple[Literal["image", "text"], ...]:
        """Text, if the baseline compares texts."""
        return self.modalities if self.reads_text else ()

    @property
    def uses_mllm(self) -> bool:
        """As `reads_aligned`."""
        return self.reads_aligned

    @property
    def reads_text(self) -> bool:
        """Whether the encoder makes text vectors."""
        return self.use in READS_TEXT

    @property
    def reads_aligned(self) -> bool:
        """Whether the encoder is the aligned MLLM, maybe besides text vectors."""
        return self.use in READS_ALIGNED

    @property
    def point(self) -> Mapping[str, Any]:
        """The settings as a point of the grid that a comparison tries."""
        if self.use in PENALTIES:
            return {"penalty": self.penalty or PENALTIES[self.use]}
        return {"length": self.length} if self.use == "coarse" else {}

    def check(self, recipe: "Recipe") -> None:
        """Compares the trainings, as IDProxy does, with the number of ranks and the precision.

        Raises:
            ValueError: they do not fit together.
        """
        if self.reads_aligned:
            self.coarse.check(recipe)
            recipe.check_divisible("method.fine.windows_per_step", self.fine.windows_per_step)
