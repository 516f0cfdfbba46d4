"""What a distributed stage asks of Ray."""

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from coldstart.config.section import Section


class Cluster(Section):
    """What a distributed stage asks of Ray."""

    workers: PositiveInt = 2
    """Training processes (ranks) per stage."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    cpus_per_worker: PositiveFloat = 1
    threads_per_worker: PositiveInt = 1
    """OMP threads of each rank."""
    data_cpus: PositiveInt = 2
    """Logical CPUs left to Ray Data beside the ranks; a cluster with fewer would wait for ever."""
    embed_actors: PositiveInt = 2
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Worker failures a training stage recovers from by itself."""
