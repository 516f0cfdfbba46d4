"""Where models are registered and what a promotion must show."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from coldstart.config.section import Section


class Gate(Section):
    """A condition that an adaptor version must meet to become champion."""

    label: str
    """Its name in verdicts and records."""
    metric: Literal["auc", "gauc", "gauc_item", "logloss", "ece", "golden_ms", "golden_parity"] = "gauc"
    """A figure of the release on its test rows; or, on the golden requests, the median processor milliseconds of a
    ranking and the largest difference between the served and the offline probability of the same row."""
    slice: Literal["all", "cold", "few", "mid", "warm", "fresh"] | None = None
    """Rows that the metric is of; none for golden requests."""
    against: Literal["champion", "absolute"] = "champion"
    tolerance: Annotated[float, Field(ge=0)] = 0.0
    """champion: how far the paired difference on the same rows, its whole interval, may reach to the worse side."""
    bound: float | None = None
    """absolute: the worst figure that passes."""
    min_rows: Annotated[int, Field(ge=0)] = 0
    """Rows the figure must be of: fewer say nothing."""

    @property
    def lower_is_better(self) -> bool:
        """Whether a small figure is a good one."""
        return self.metric not in ("auc", "gauc", "gauc_item")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        golden = self.metric.startswith("golden")
        if golden == (self.slice is not None):
            wants = "has no slice, it is of the golden requests" if golden else "needs the slice it is of, e.g. cold"
            raise ValueError(f"gate '{self.label}': {self.metric} {wants}")
        if golden and (self.against == "champion" or self.min_rows):
            raise ValueError(f"gate '{self.label}': {self.metric} is compared with a bound; set against: absolute")
        if self.against == "champion" and self.metric in ("auc", "ece"):
            raise ValueError(
                f"gate '{self.label}': {self.metric} is no mean over users, so it has no paired interval; compare "
                "gauc, gauc_item or logloss with the champion, and this with a bound"
            )
        if (self.against == "absolute") != (self.bound is not None):
            raise ValueError(f"gate '{self.label}': bound belongs to against: absolute, and tolerance to champion")
        return self


class Registry(Section):
    """Where models are registered and what a promotion must show."""

    tracking_uri: str | None = None
    """MLflow server or database URI; `None` is SQLite beside the runs."""
    project: str | None = None
    """Prefix of the registered models; `None` is the recipe's name."""
    gates: tuple[Gate, ...] = (
        Gate(label="cold quality", metric="gauc_item", slice="cold", tolerance=0.02, min_rows=100),
        Gate(label="warm quality", metric="gauc_item", slice="warm", tolerance=0.02, min_rows=100),
        Gate(label="likelihood", metric="logloss", slice="all", tolerance=0.01, min_rows=100),
        Gate(label="cost of a ranking", metric="golden_ms", against="absolute", bound=100.0),
        Gate(label="served as measured", metric="golden_parity", against="absolute", bound=1e-4),
    )
    """Of a champion; a challenger only has to be a consistent release. Quality is told by `gauc_item`: on a log, where
    the history's click rate points the wrong way, any noise in the slots raises the plain `gauc`."""
    licence: str = "apache-2.0"
    """SPDX name, a tag on every registered version; of a real MLLM, its own licence."""
    licences: tuple[str, ...] = ()
    """Licences that a champion may carry; empty allows any."""
    rollback_window: PositiveInt = 3
    """Champion releases before the present one that `coldstart gc` leaves ready for a rollback."""
