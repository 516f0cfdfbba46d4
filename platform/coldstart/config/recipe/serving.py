"""The Ray Serve application."""

from typing import Annotated, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from coldstart.config.section import Section


class Serving(Section):
    """The Ray Serve application."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    max_candidates: PositiveInt = 1000
    max_request_bytes: PositiveInt = 20_000_000
    max_batch: PositiveInt = 16
    batch_wait_ms: PositiveFloat = 2.0
    request_timeout_s: PositiveFloat = 30.0
    min_replicas: PositiveInt = 1
    max_replicas: PositiveInt = 2
    poll_s: PositiveFloat = 2.0
    """Pause between two looks at the registry for another champion, s; one look is a handful of small queries."""

    @model_validator(mode="after")
    def _replica_range(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError("serving.max_replicas is below serving.min_replicas; raise it")
        return self
