"""Where models are registered, and the conditions for a promotion."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from coldstart.config.section import Name, Section


class Gate(Section):
    """A condition that a scorer version must meet to become champion."""

    name: str
    """Name in gate results and in the promotion log."""
    metric: Literal["auc", "gauc", "gauc_item", "logloss", "ece", "rank_cost_ms", "online_offline_gap"] = "gauc"
    """A metric on the test rows; or, on golden requests, `rank_cost_ms`, the median CPU milliseconds per ranking, and
    `online_offline_gap`, the largest difference between the served and the offline probability of the same row."""
    slice: Literal["all", "cold", "few", "mid", "warm", "fresh"] | None = None
    """Rows for the metric; none for golden requests."""
    baseline: Literal["champion", "absolute"] = "champion"
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    """For `baseline: champion`: the gate fails unless the whole confidence interval of the paired difference on the
    same rows lies above -tolerance (below +tolerance if lower is better)."""
    threshold: float | None = None
    """For `baseline: absolute`: the worst value that passes."""
    min_rows: Annotated[int, Field(ge=0)] = 0
    """The gate fails on fewer rows."""

    @property
    def on_golden_requests(self) -> bool:
        """Whether the metric is measured on golden requests, not on test rows."""
        return self.metric in ("rank_cost_ms", "online_offline_gap")

    @property
    def lower_is_better(self) -> bool:
        """Whether smaller values of the metric are better."""
        return self.metric not in ("auc", "gauc", "gauc_item")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        golden = self.on_golden_requests
        if golden == (self.slice is not None):
            fix = "is measured on golden requests; remove slice" if golden else "needs a slice, e.g. slice: cold"
            raise ValueError(f"gate '{self.name}': {self.metric} {fix}")
        if golden and (self.baseline == "champion" or self.min_rows):
            raise ValueError(
                f"gate '{self.name}': {self.metric} has only a threshold; set baseline: absolute, remove min_rows"
            )
        if self.baseline == "champion" and self.metric in ("auc", "ece"):
            raise ValueError(
                f"gate '{self.name}': {self.metric} is not a mean over users, so it has no paired interval; use "
                "gauc, gauc_item or logloss with baseline: champion, or set baseline: absolute"
            )
        if (self.baseline == "absolute") != (self.threshold is not None):
            raise ValueError(f"gate '{self.name}': set threshold with baseline: absolute, and only then")
        return self


class Registry(Section):
    """Where models are registered, and the conditions for a promotion."""

    tracking_uri: str | None = None
    """MLflow server or database URI; `None` is SQLite next to the runs."""
    project: Name | None = None
    """Prefix of the registered models; `None` is the recipe's name."""
    gates: tuple[Gate, ...] = (
        Gate(name="cold quality", metric="gauc_item", slice="cold", tolerance=0.02, min_rows=100),
        Gate(name="warm quality", metric="gauc_item", slice="warm", tolerance=0.02, min_rows=100),
        Gate(name="log loss", metric="logloss", slice="all", tolerance=0.01, min_rows=100),
        Gate(name="ranking cost", metric="rank_cost_ms", baseline="absolute", threshold=100.0),
        Gate(name="online-offline gap", metric="online_offline_gap", baseline="absolute", threshold=1e-4),
    )
    """Conditions for a champion; a challenger only has to be a consistent release. Quality gates use `gauc_item`: on a
    log where the history's click rate is misleading, any noise in the slots raises the plain `gauc`."""
    license: str = "apache-2.0"
    """SPDX name, a tag on every registered version; for a real MLLM, its own license."""
    allowed_licenses: tuple[str, ...] = ()
    """Licenses that a champion may have; empty allows all."""
    rollback_window: PositiveInt = 3
    """Number of earlier champion releases that `coldstart gc` keeps for a rollback."""
