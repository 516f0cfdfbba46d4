"""Ray resources of distributed stages."""

from typing import Annotated, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from coldstart.config.section import Section


class Cluster(Section):
    """Ray resources of distributed stages."""

    workers: PositiveInt = 2
    """Training processes (ranks) per stage."""
    min_workers: PositiveInt | None = None
    """Makes coarse alignment elastic: it starts with as many ranks as fit, from `min_workers` to `workers`, and grows
    and shrinks with the cluster. None waits for `workers`. Without GPUs, `workers` must leave `ray_data_cpus` CPUs
    free."""
    resize_interval_s: PositiveFloat = 60
    """Seconds between checks whether an elastic stage can grow."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    cpus_per_worker: PositiveFloat = 1
    threads_per_worker: PositiveInt = 1
    """OpenMP threads of each rank."""
    ray_data_cpus: PositiveInt = 2
    """Logical CPUs for Ray Data besides those of the ranks; with fewer, its tasks would never be scheduled."""
    embed_actors: PositiveInt = 2
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Worker failures after which a training stage is restarted automatically."""

    @model_validator(mode="after")
    def _range_is_one(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(
                f"min_workers {self.min_workers} exceeds workers {self.workers}; lower min_workers or raise workers"
            )
        return self

    @property
    def sizes(self) -> range:
        """Possible numbers of ranks of an elastic stage."""
        return range(self.min_workers or self.workers, self.workers + 1)
