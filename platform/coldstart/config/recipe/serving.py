"""The Ray Serve application."""

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from coldstart.config.recipe.challenger import Challenger, Watch
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


class Scaling(Section):
    """When replicas come and go: each deployment by its own load per replica, mean over the look-back."""

    gateway: PositiveFloat = 16.0
    """Requests in a gateway."""
    ranker: PositiveFloat = 2.0
    """Calls in a ranker, each of up to `max_batch` queries: one is scored, one has arrived."""
    encoder: PositiveFloat = 16.0
    """Contents in an encoder, read or waiting."""
    adaptor: PositiveFloat = 32.0
    look_back_s: PositiveFloat = 10.0
    upscale_delay_s: PositiveFloat = 10.0
    downscale_delay_s: PositiveFloat = 300.0
    """Much longer than up: a replica takes seconds to load, and load that left may be back."""

    @model_validator(mode="after")
    def _no_thrashing(self) -> Self:
        for name in ("upscale_delay_s", "downscale_delay_s"):
            if getattr(self, name) < self.look_back_s:
                raise ValueError(
                    f"serving.scaling.{name} {getattr(self, name):g} is below look_back_s {self.look_back_s:g}: "
                    "replicas would come and go by load that is over; raise it or lower look_back_s"
                )
        return self


_PRESETS: dict[str, dict[str, Any]] = {
    "small": {},
    "latency": {
        "max_batch": 8,
        "batch_wait_ms": 0.5,
        "max_waiting": 64,
        "min_replicas": 2,
        "max_replicas": 8,
        "scaling": {"gateway": 8.0, "ranker": 1.0, "encoder": 8.0},
    },
    "throughput": {
        "ranker": "apart",
        "max_batch": 64,
        "batch_wait_ms": 5.0,
        "max_waiting": 512,
        "max_ongoing": 2048,
        "max_queued": 512,
        "max_replicas": 16,
        "scaling": {"gateway": 64.0, "encoder": 64.0, "adaptor": 128.0},
    },
}


class Serving(Section):
    """The Ray Serve application."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    ingress: Literal["haproxy", "proxy"] = "haproxy"
    """haproxy: straight into the gateways, with Serve's throughput flags. proxy: Serve's own proxy and defaults, which
    cost much more processor time per request (`make bench-serve`)."""
    max_candidates: PositiveInt = 1000
    max_request_bytes: PositiveInt = 20_000_000
    preset: Literal["small", "latency", "throughput"] = "small"
    """What fits the fields below that are not given. small: one machine of a few cores. latency: more replicas stand
    ready and share less. throughput: larger batches, more replicas under load."""
    ranker: Literal["within", "apart"] = "within"
    """within: every gateway holds the ranker; on a CPU scoring costs less than a call would.
    apart: rankers are replicas that scale by their own load, as a GPU or an ID table of many GB asks for."""
    max_batch: PositiveInt = 16
    """Rank queries in one forward pass, and contents in one of the encoder."""
    batch_wait_ms: PositiveFloat = 2.0
    """Longest that a query waits for company while a call of the ranker is under way; without one it never waits."""
    ranker_calls: PositiveInt = 4
    """Calls of the ranker that one gateway has under way; queries that wait meanwhile travel together in the next."""
    max_waiting: PositiveInt = 128
    """Rank queries that wait in one gateway before it answers 429: about a quarter of a second of work."""
    max_ongoing: PositiveInt = 512
    """Requests in one replica of any deployment; above `max_waiting`, or Serve's plain refusal comes before ours."""
    max_queued: Annotated[int, Field(ge=-1)] = 128
    """Requests that wait for a replica with room, -1 without end; above it callers are told to come back (429)."""
    request_timeout_s: PositiveFloat = 30.0
    min_replicas: PositiveInt = 1
    max_replicas: PositiveInt = 2
    scaling: Scaling = Scaling()
    store: Store = Store()
    poll_s: PositiveFloat = 2.0
    """Pause between two looks at the registry for another champion, s; one look is a handful of small queries."""
    challenger: Challenger = Challenger()
    watch: Watch = Watch()

    security: Security = Security()

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        """What the preset says, where the recipe says nothing."""
        if not isinstance(given, dict) or given.get("preset") not in _PRESETS:
            return given
        preset = _PRESETS[given["preset"]]
        scaling = given.get("scaling", {})
        if isinstance(scaling, dict):
            scaling = preset.get("scaling", {}) | scaling
        return preset | given | {"scaling": scaling}

    @model_validator(mode="after")
    def _own_refusals(self) -> Self:
        if self.max_ongoing <= self.max_waiting:
            raise ValueError(
                f"serving.max_ongoing {self.max_ongoing} must be above serving.max_waiting {self.max_waiting}: raise it"
            )
        return self

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
