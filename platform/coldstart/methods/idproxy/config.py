"""The settings of IDProxy."""

from typing import TYPE_CHECKING, ClassVar, Literal

from coldstart.config.recipe.coarse import Coarse
from coldstart.config.recipe.fine import Fine
from coldstart.config.recipe.method import MethodSettings, VariantInfo

if TYPE_CHECKING:
    from coldstart.config.recipe import Recipe


class Settings(MethodSettings):
    """IDProxy: coarse alignment of content to ID rows, then fine alignment by clicks."""

    name: Literal["idproxy"] = "idproxy"
    mode: Literal["frozen", "joint"] = "frozen"
    """frozen: the ranker stays unchanged, byte for byte, and fine proxies fill its item slots. joint: a ranker is
    trained further with ID, coarse and fine proxy as inputs, see `fine.joint`."""
    content_similarity: bool = False
    """Whether the scorer also reads how similar a target's content is to what the user clicked and skipped before."""
    coarse: Coarse = Coarse()
    fine: Fine = Fine()

    stages: ClassVar[tuple[str, ...]] = ("align_coarse", "embed_items", "align_fine", "align_joint")
    variants: ClassVar[dict[str, VariantInfo]] = {
        "content_map": VariantInfo(
            "regression from layer states to ID rows: ridge or MLP, better on held-out items (CB2CF)", "#b98d2f"
        ),
        "coarse": VariantInfo(
            "coarse proxy, scaled to the mean length of mature ID rows", "#2a9d8f", ("oov", "id", "content_map")
        ),
        "fine": VariantInfo(
            "fine proxy from the adaptor, in the item slot of the frozen ranker",
            "#e2683c",
            ("oov", "id", "content_map"),
        ),
        "joint": VariantInfo(
            "the joint ranker, which uses ID row, coarse and fine proxy together (method.mode joint only)",
            "#6b4fa0",
            ("oov", "id", "content_map", "fine"),
        ),
    }
    headline: ClassVar[str] = "fine"

    def check(self, recipe: "Recipe") -> None:
        """Compares batch sizes with the number of ranks, and the precision with the device.

        Raises:
            ValueError: they do not fit together.
        """
        self.coarse.check(recipe)
        recipe.check_divisible("method.fine.windows_per_step", self.fine.windows_per_step)
