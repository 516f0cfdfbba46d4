"""Deploys a release on Ray Serve, replaces it with another one, and shuts it down."""

import logging
import os
import re
import socket
import time
from collections.abc import Set as AbstractSet
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import httpx
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve import Application

from coldstart.config import UserError
from coldstart.config.recipe import Serving, Store
from coldstart.ray_compat.serve import stop_controller
from coldstart.registry import Release
from coldstart.serving.api.tokens import check_tokens
from coldstart.serving.core.parity import check_parity
from coldstart.serving.deployment import ingress
from coldstart.serving.deployment.deployments import GatewayInputs, build_gateway, build_models
from coldstart.serving.monitoring.proxy_quality import proxy_quality
from coldstart.serving.monitoring.stats_aggregator import get_aggregator, kill_aggregator, put_shared_values
from coldstart.serving.store.store_bootstrap import bootstrap_store, open_store

__all__ = ["GatewayInputs", "check_port", "deploy", "shutdown"]

LOG = logging.getLogger("ray.serve")
PROGRESS = logging.getLogger(__name__)

NAME = "coldstart"
_MODEL_NAME = re.compile(r"(encoder|adaptor|scorer)-[0-9a-f]{16}")
_READY_SECONDS = 120.0
_STOP_SECONDS = 60.0


def deploy(
    release: Release,
    settings: Serving,
    store_dir: Path,
    *,
    inputs: GatewayInputs | None = None,
    previous: Release | None = None,
    challenger: Release | None = None,
) -> str:
    """Deploys a release on the running Ray cluster, waits until it scores, and returns its URL.

    If another release is served, it is served until the new models are up. Then gateways of the new release replace
    those of the old one, so each request is answered by one release.

    Args:
        release: From the registry; its directories must be readable on every machine of the cluster.
        settings: `serving` of the recipe.
        store_dir: Parent directory of the item stores, on local disk of the head node; this release's store is filled.
        inputs: What gateways read besides the models.
        previous: The release served before; its models stay up, so that a rollback does not reload them.
        challenger: Release for a share of the users, see `serving.challenger`. If it does not start, it is left out
            with a warning.

    Raises:
        UserError: the port is in use, there are no tokens although they are required, or the release does not start;
            then the previous release stays served.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    check_tokens(settings)
    PROGRESS.info("loading the item rows of release %s", release.name)
    bootstrap_store(release, store_dir, settings.store)
    _start_serve(settings)
    models = build_models(release, settings)
    running = _running_applications()
    new = models.keys() - running
    try:
        _start_models(release, models, new, settings)
        if challenger is not None and not _start_challenger(
            challenger, release, settings, store_dir, running | models.keys()
        ):
            challenger = None
        _start_gateway(release, build_gateway(release, challenger, settings, store_dir, inputs or GatewayInputs()))
    except (RuntimeError, UserError) as error:
        for name in new:
            serve.delete(name)
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"release {release.name} does not start on Serve: {str(error).splitlines()[0]}; see the logs in the Ray "
            "session directory under logs/serve"
        ) from error
    url = f"http://{settings.host}:{settings.port}"
    _wait_ready(url, release.name)
    needed = {NAME, *models}.union(*(build_models(other, settings) for other in (previous, challenger) if other))
    for name in running - needed:
        serve.delete(name)
    if previous is not None and previous.scorer.fingerprint != release.scorer.fingerprint:
        _report_proxy_quality(previous, release, store_dir, settings.store)
    return url


def check_port(settings: Serving) -> None:
    """Checks, on the machine that will serve, that the address is free.

    Raises:
        UserError: it is in use, or not an address of this machine.
    """
    try:
        socket.create_server((settings.host, settings.port)).close()
    except OSError as error:
        raise UserError(
            f"cannot listen on {settings.host}:{settings.port}: it is in use, or not an address of this machine; "
            "set serving.port or serving.host"
        ) from error


def shutdown() -> None:
    """Stops this program's applications, and Serve unless it has others; published items stay on disk."""
    with suppress(RayActorError):
        if serve.status().applications.keys() - (running := _running_applications()):
            for name in running:
                serve.delete(name)
            kill_aggregator()
            return
    files = ingress.haproxy_dir()
    # A client or HAProxy's manager that calls the controller while it stops makes Ray's core print a failed task on
    # standard output a moment later.
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        with suppress(ValueError, RayActorError):
            stop_controller(_STOP_SECONDS)
        serve.shutdown()  # type: ignore[no-untyped-call]
        kill_aggregator()
        if files is not None:
            ingress.remove_haproxy_dir(files)


def _start_serve(settings: Serving) -> None:
    PROGRESS.info("starting Ray Serve")
    try:
        ingress.start(settings, _quiet())
    except RuntimeError as error:
        shutdown()
        check_port(settings)
        raise UserError(f"Serve does not start: {str(error).strip().splitlines()[-1]}") from error


def _start_models(release: Release, models: dict[str, Application], new: AbstractSet[str], settings: Serving) -> None:
    """Starts those models of a release that are not running, and compares their answers with the offline ones."""
    if new:
        PROGRESS.info("starting the models of release %s: %s", release.name, ", ".join(sorted(new)))
        serve.run_many([serve.RunTarget(models[name], name, None, _quiet()) for name in new])
        PROGRESS.info("comparing the models of release %s with their offline scores", release.name)
        check_parity(release, settings, *list(models)[1:])


def _start_gateway(release: Release, gateway: Application) -> None:
    PROGRESS.info("starting the gateway of release %s", release.name)
    serve.run(gateway, name=NAME, route_prefix="/", logging_config=_quiet())


def _start_challenger(
    challenger: Release, champion: Release, settings: Serving, store_dir: Path, running: AbstractSet[str]
) -> bool:
    """Starts the models of a challenger that the champion does not share; returns whether they run."""
    if not settings.challenger.traffic_fraction or challenger.name == champion.name:
        return False
    models = build_models(challenger, settings)
    new = models.keys() - running
    try:
        bootstrap_store(challenger, store_dir, settings.store)
        _start_models(challenger, models, new, settings)
    except (RuntimeError, UserError, OSError) as error:
        reason = str(error).splitlines()[0]
        LOG.warning("challenger %s does not start, so the champion serves all users: %s", challenger.name, reason)
        for name in new & serve.status().applications.keys():
            serve.delete(name)
        return False
    return True


def _running_applications() -> set[str]:
    """This program's applications on the running Serve, which may have others."""
    return {name for name in serve.status().applications if name == NAME or _MODEL_NAME.fullmatch(name)}


def _report_proxy_quality(before: Release, after: Release, store_dir: Path, settings: Store) -> None:
    """Publishes how well proxies predicted the ID rows that were learned since; an error here is only logged."""
    try:
        store = open_store(before, store_dir, settings)
        try:
            quality = proxy_quality(before, after, store)
        finally:
            store.close()
        if quality is not None:
            put_shared_values(get_aggregator(), {f"proxy_quality|{after.name}": quality.model_dump()})
    except (UserError, OSError, ValueError, RayError) as error:
        LOG.warning("the proxy quality of %s was not computed: %s", before.name, error)


def _quiet() -> dict[str, Any]:
    return {"log_level": "WARNING", "enable_access_log": False}


def _wait_ready(url: str, name: str) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    reason = "no response"
    while time.monotonic() < deadline:
        try:
            response = httpx.get(f"{url}/readyz", timeout=15, trust_env=False)
            if response.status_code == 200 and response.json().get("release") == name:
                return
            reason = response.text[:200]
        except (httpx.HTTPError, ValueError) as error:
            reason = str(error)
        time.sleep(0.1)
    raise UserError(
        f"{url} is not ready after {_READY_SECONDS:.0f} s: {reason}; check whether another program uses serving.port"
    )
