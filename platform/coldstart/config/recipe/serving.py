"""The Ray Serve application."""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from coldstart.config.section import Section


def is_loopback(host: str) -> bool:
    """Whether a name or an address is reached from the same machine only."""
    try:
        return host.lower() == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class Security(Section):
    """Who may ask, how often and how slowly."""

    tokens_file: Path | None = None
    """Hashes of bearer tokens, made by `coldstart token new`, on the machine of the gateways; read again when it
    changes. Needed as soon as `serving.host` is not loopback."""
    requests_per_s: PositiveFloat = 1000.0
    """Steady rate of one token at one gateway replica; beyond it and the burst a request gets 429."""
    burst: PositiveInt = 2000
    body_timeout_s: PositiveFloat = 20.0
    """Longest that a client may take to send a body."""

    @field_validator("tokens_file")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        # Gateways run in another directory than the program that reads the recipe.
        return path and path.expanduser().absolute()


class Store(Section):
    """Where published items and their proxies are kept."""

    kind: Literal["lance", "redis"] = "lance"
    """`lance`: on the disk that all gateways share, with nothing to run beside them. `redis`: for gateways on several
    machines; its own persistence (`appendonly yes`) is then what keeps them."""
    redis_url: str = "redis://127.0.0.1:6379/0"
    """redis:// or rediss:// (TLS); a password belongs into `redis_password_file`, since recipes are logged."""
    redis_password_file: Path | None = None
    max_bulk: PositiveInt = 64
    """Most items of one POST /v1/items; larger sets are the job of `refresh`."""
    fold_after: PositiveInt = 20_000
    """Changes since the newest version of the Lance dataset at which a gateway folds them into another: about 20 MB of
    its memory at width 64."""
    ann_from: PositiveInt = 500_000
    """Mature items from which neighbours are searched with an index; below, comparing with all of them is as quick."""

    @field_validator("redis_url")
    @classmethod
    def _no_password(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss"):
            raise ValueError("serving.store.redis_url must start with redis:// or rediss://")
        if parts.password:
            raise ValueError("serving.store.redis_url holds a password; put it into a file: redis_password_file")
        return url


class Serving(Section):
    """The Ray Serve application."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    ingress: Literal["haproxy", "proxy"] = "haproxy"
    """haproxy: straight into the gateways, with Serve's throughput flags. proxy: Serve's own proxy and defaults, which
    take three times the CPU time per request."""
    max_candidates: PositiveInt = 1000
    max_request_bytes: PositiveInt = 20_000_000
    max_batch: PositiveInt = 16
    batch_wait_ms: PositiveFloat = 2.0
    ranker_calls: PositiveInt = 4
    """Calls of the ranker that one gateway has under way; queries that wait meanwhile travel together in the next."""
    max_waiting: PositiveInt = 256
    """Rank queries that wait in one gateway before it answers 429."""
    request_timeout_s: PositiveFloat = 30.0
    min_replicas: PositiveInt = 1
    max_replicas: PositiveInt = 2
    store: Store = Store()
    poll_s: PositiveFloat = 2.0
    """Pause between two looks at the registry for another champion, s; one look is a handful of small queries."""

    security: Security = Security()

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if not is_loopback(self.host) and self.security.tokens_file is None:
            raise ValueError(
                f"serving.host {self.host} is not loopback, so serving.security.tokens_file is needed; make a token: "
                "coldstart token new NAME -f FILE"
            )
        return self

    @model_validator(mode="after")
    def _replica_range(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError("serving.max_replicas is below serving.min_replicas; raise it")
        return self
