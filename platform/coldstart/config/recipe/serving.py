"""The Ray Serve application."""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from coldstart.config.recipe.challenger import Challenger, Stats
from coldstart.config.section import LocalPath, Section


def is_loopback(host: str) -> bool:
    """Whether a host name or address is reachable from the same machine only."""
    try:
        return host.lower() == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class Security(Section):
    """Authentication and limits of clients."""

    tokens_file: LocalPath | None = None
    """File with hashes of bearer tokens, on the machine of the gateways, written by `coldstart token new`. Gateways
    read it again when it changes. Required if `serving.host` is not loopback."""
    requests_per_s: PositiveFloat = 1000.0
    """Steady request rate per token and gateway replica; above it and `burst`, requests get 429."""
    burst: PositiveInt = 2000
    body_timeout_s: PositiveFloat = 20.0
    """Maximum time for a client to send a body."""

    @field_validator("tokens_file")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        # Gateways run in a different directory from the program that reads the recipe.
        return path and path.absolute()


class Store(Section):
    """Storage of published items and their proxies."""

    kind: Literal["lance", "redis"] = "lance"
    """`lance`: on a disk that all gateways share, without another server. `redis`: for gateways on several machines;
    the Redis server must persist its data (`appendonly yes`)."""
    redis_url: str = "redis://127.0.0.1:6379/0"
    """redis:// or rediss:// (TLS). Put a password into `redis_password_file`, as recipes are logged."""
    redis_password_file: LocalPath | None = None
    max_items_per_publish: PositiveInt = 64
    """Maximum number of items in one POST /v1/items; use `refresh` for larger sets."""
    compact_after: PositiveInt = 20_000
    """Number of changes after which a gateway compacts them into a new version of the Lance dataset; they take about
    20 MB of its memory at width 64."""
    ann_min_items: PositiveInt = 500_000
    """Number of mature items from which neighbors are searched with an index; below, exact search is as fast."""

    @field_validator("redis_url")
    @classmethod
    def _no_password(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss"):
            raise ValueError("serving.store.redis_url must start with redis:// or rediss://")
        if parts.password:
            raise ValueError(
                "serving.store.redis_url contains a password; put it into a file and set redis_password_file"
            )
        return url


class Scaling(Section):
    """Autoscaling: the target load per replica of each deployment, averaged over the look-back period."""

    gateway: PositiveFloat = 16.0
    """Requests per gateway."""
    scorer: PositiveFloat = 2.0
    """Calls per scorer, each with up to `max_batch` queries: one in progress and one waiting."""
    encoder: PositiveFloat = 16.0
    """Items per encoder, in progress or waiting."""
    adaptor: PositiveFloat = 32.0
    look_back_period_s: PositiveFloat = 10.0
    upscale_delay_s: PositiveFloat = 10.0
    downscale_delay_s: PositiveFloat = 300.0
    """Much longer than `upscale_delay_s`: a replica takes seconds to load, and traffic may return."""

    @model_validator(mode="after")
    def _no_thrashing(self) -> Self:
        for name in ("upscale_delay_s", "downscale_delay_s"):
            if getattr(self, name) < self.look_back_period_s:
                raise ValueError(
                    f"serving.scaling.{name} {getattr(self, name):g} is below look_back_period_s "
                    f"{self.look_back_period_s:g}: "
                    "replicas would follow load that is over; raise it or lower look_back_period_s"
                )
        return self


_PRESETS: dict[str, dict[str, Any]] = {
    "small": {},
    "latency": {
        "max_batch": 8,
        "batch_wait_ms": 0.5,
        "max_queue": 64,
        "min_replicas": 2,
        "max_replicas": 8,
        "scaling": {"gateway": 8.0, "scorer": 1.0, "encoder": 8.0},
    },
    "throughput": {
        "scorer_placement": "separate",
        "max_batch": 64,
        "batch_wait_ms": 5.0,
        "max_queue": 512,
        "max_ongoing_requests": 2048,
        "max_queued_requests": 512,
        "max_replicas": 16,
        "scaling": {"gateway": 64.0, "encoder": 64.0, "adaptor": 128.0},
    },
}


class Serving(Section):
    """The Ray Serve application."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    ingress: Literal["haproxy", "proxy"] = "haproxy"
    """haproxy: HAProxy sends requests directly to the gateways, with Serve's throughput flags. proxy: Serve's own proxy
    and defaults, which take much more processor time per request (`make bench-serve`)."""
    max_candidates: PositiveInt = 1000
    max_request_bytes: PositiveInt = 20_000_000
    preset: Literal["small", "latency", "throughput"] = "small"
    """Defaults of the fields below. small: one machine with a few cores. latency: more replicas and smaller batches.
    throughput: larger batches and more replicas under load."""
    scorer_placement: Literal["in_gateway", "separate"] = "in_gateway"
    """in_gateway: every gateway holds the scorer; on a CPU, scoring costs less than a remote call.
    separate: scorers are a deployment of their own with its own scaling, for GPUs or an ID table of many GB."""
    max_batch: PositiveInt = 16
    """Maximum batch size: rank queries, or items for the encoder, in one forward pass."""
    batch_wait_ms: PositiveFloat = 2.0
    """Maximum time that a query waits to be batched while a scorer call is in flight; otherwise it does not wait."""
    max_inflight_calls: PositiveInt = 4
    """Maximum number of scorer calls in flight per gateway; queries that arrive meanwhile form the next batch."""
    max_queue: PositiveInt = 128
    """Maximum number of waiting rank queries per gateway, about a quarter of a second of work; more get 429."""
    max_ongoing_requests: PositiveInt = 512
    """Ray Serve's limit per replica. It must exceed `max_queue`, so that the gateway's own 429 comes first."""
    max_queued_requests: Annotated[int, Field(ge=-1)] = 128
    """Ray Serve's limit of requests that wait for a replica, -1 for no limit; more get 429."""
    request_timeout_s: PositiveFloat = 30.0
    min_replicas: PositiveInt = 1
    max_replicas: PositiveInt = 2
    scaling: Scaling = Scaling()
    store: Store = Store()
    poll_interval_s: PositiveFloat = 2.0
    """Interval at which the server polls the registry for a new champion, s; a poll is a few small queries."""
    challenger: Challenger = Challenger()
    stats: Stats = Stats()

    security: Security = Security()

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        """Fills the fields that the recipe does not set from the preset."""
        if not isinstance(values, dict) or values.get("preset") not in _PRESETS:
            return values
        preset = _PRESETS[values["preset"]]
        scaling = values.get("scaling", {})
        if isinstance(scaling, dict):
            scaling = preset.get("scaling", {}) | scaling
        return preset | values | {"scaling": scaling}

    @model_validator(mode="after")
    def _queue_below_ray_limit(self) -> Self:
        if self.max_ongoing_requests <= self.max_queue:
            raise ValueError(
                f"serving.max_ongoing_requests {self.max_ongoing_requests} must be above serving.max_queue "
                f"{self.max_queue}: raise it"
            )
        return self

    @model_validator(mode="after")
    def _tokens_unless_loopback(self) -> Self:
        if not is_loopback(self.host) and self.security.tokens_file is None:
            raise ValueError(
                f"serving.host {self.host} is not loopback, so serving.security.tokens_file is required; create a "
                "token: coldstart token new NAME -f FILE"
            )
        return self

    @model_validator(mode="after")
    def _replica_range(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"serving.max_replicas {self.max_replicas} is below serving.min_replicas {self.min_replicas}; raise it"
            )
        return self
