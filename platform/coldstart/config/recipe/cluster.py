"""What a distributed stage asks of Ray."""

from typing import Annotated, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from coldstart.config.section import Section


class Cluster(Section):
    """What a distributed stage asks of Ray."""

    workers: PositiveInt = 2
    """Training processes (ranks) per stage."""
    min_workers: PositiveInt | None = None
    """Makes coarse alignment elastic: it begins with as many ranks as there is room for, from these to `workers`, and
    grows and shrinks with the cluster. None waits for `workers`. Without GPUs, what `workers` take of the CPUs must
    leave `data_cpus` of them."""
    resize_seconds: PositiveFloat = 60
    """How often an elastic stage looks whether it can grow."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    cpus_per_worker: PositiveFloat = 1
    threads_per_worker: PositiveInt = 1
    """OMP threads of each rank."""
    data_cpus: PositiveInt = 2
    """Logical CPUs left to Ray Data beside the ranks; a cluster with fewer would wait for ever."""
    embed_actors: PositiveInt = 2
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Worker failures a training stage recovers from by itself."""

    @model_validator(mode="after")
    def _range_is_one(self) -> Self:
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers {self.min_workers} exceeds workers {self.workers}, the most there may be")
        return self

    @property
    def sizes(self) -> range:
        """Numbers of ranks that an elastic stage may have."""
        return range(self.min_workers or self.workers, self.workers + 1)
