"""The Ray Serve applications around a release: how they are put up, swapped for another release and taken down."""

import logging
import os
import re
import socket
import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import httpx
import ray
from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.handle import DeploymentHandle

from coldstart.config import UserError, digest
from coldstart.config.recipe import Data, Serving, Store
from coldstart.registry import Release
from coldstart.serving import ingress
from coldstart.serving.adaptor_replica import AdaptorReplica
from coldstart.serving.board import board_of_gateways, learn, open_trial, take_down
from coldstart.serving.earned import earned
from coldstart.serving.encoder_replica import EncoderReplica
from coldstart.serving.figures import Sums
from coldstart.serving.filling import fill_store
from coldstart.serving.gateway import Gateway, Served
from coldstart.serving.parity import check_parity
from coldstart.serving.proxy_store import ProxyStore
from coldstart.serving.ranker_replica import RankerReplica
from coldstart.serving.schemas import ReleaseAnswer
from coldstart.serving.tokens import check_tokens

LOG = logging.getLogger("ray.serve")

NAME = "coldstart"
_OF_A_MODEL = re.compile(r"(encoder|adaptor|ranker)-[0-9a-f]{16}")
_READY_SECONDS = 120.0
_STOP_SECONDS = 60.0
# A replica reads and writes the proxy store on local disk, so all gateways stand on the head node.
_HEAD = {"node:__internal_head__": 0.001}


def deploy(
    release: Release,
    settings: Serving,
    store_dir: Path,
    *,
    data: Data | None = None,
    beside: Release | None = None,
    challenger: Release | None = None,
    references: Mapping[str, Sums] | None = None,
    dataset: Path | None = None,
) -> str:
    """Puts a release up on the Ray that is running, waits until it scores, and returns its URL.

    If another release is served, it goes on until the new one's models are up. Then gateways that know only the new
    release take over from those that know only the old one, so every request is answered by one release.

    Args:
        release: From the registry; its directories must be readable on every machine of the cluster.
        settings: The recipe's section.
        store_dir: Proxy stores, on local disk of the head node; made ready for this release.
        data: Limits of pictures; default the recipe's defaults.
        beside: Release that was served until now: its models stay up, so that a rollback need not load them.
        challenger: Release that answers a share of the users, as `serving.challenger` says. One that does not come up
            is left out, with a warning.
        references: Click probabilities that releases gave in their evaluation, by name of the release, in bins of
            `figures.PROBABILITIES`; what they give from now on is compared with them.
        dataset: Directory where the release's dataset lies, if at all: the console shows pictures from it.

    Raises:
        UserError: the port is taken, tokens are needed and there are none, or the release does not come up; what was
            served before still is.
    """
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    check_tokens(settings)
    tried = challenger if challenger and settings.challenger.share and challenger.name != release.name else None
    fill_store(release, store_dir, settings.store)
    try:
        ingress.start(settings, _quiet())
    except RuntimeError as error:
        shutdown()
        check_port(settings)
        raise UserError(f"Serve does not start: {str(error).strip().splitlines()[-1]}") from error
    models = _models(release, settings)
    standing = _standing()
    missing = models.keys() - standing
    try:
        _run(release, models, missing, settings)
        if tried and not _comes_up(tried, settings, store_dir, standing | models.keys()):
            tried = None
        gateway = _gateway(release, tried, settings, data or Data(), store_dir, references or {}, dataset)
        serve.run(gateway, name=NAME, route_prefix="/", logging_config=_quiet())
    except (RuntimeError, UserError) as error:
        for name in missing:
            serve.delete(name)
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"release {release.name} does not come up on Serve: {str(error).splitlines()[0]}; see the logs in the Ray "
            "session directory under logs/serve"
        ) from error
    url = f"http://{settings.host}:{settings.port}"
    _wait_ready(url, release.name)
    kept = {NAME, *models}.union(*(_models(other, settings) for other in (beside, tried) if other))
    for name in standing - kept:
        serve.delete(name)
    if beside is not None and beside.ranker.fingerprint != release.ranker.fingerprint:
        _look_back(beside, release, store_dir, settings.store)
    return url


def _look_back(before: Release, after: Release, store_dir: Path, settings: Store) -> None:
    """Puts on the board how well proxies foretold rows; a figure, so that no trouble with it is one of serving."""
    try:
        store = ProxyStore(store_dir, before.adaptor.fingerprint, settings)
        try:
            found = earned(before, after, store)
        finally:
            store.close()
        if found is not None:
            learn(board_of_gateways(), {f"earned|{after.name}": found.model_dump()})
    except (UserError, OSError, ValueError, RayError) as error:
        LOG.warning("what proxies of %s were worth is not known: %s", before.name, error)


def _run(release: Release, models: dict[str, Application], missing: AbstractSet[str], settings: Serving) -> None:
    """Puts up those models of a release that do not stand, and checks that all answer as they should."""
    if missing:
        serve.run_many([serve.RunTarget(models[name], name, None, _quiet()) for name in missing])
        check_parity(release, settings, *list(models)[1:])


def _comes_up(challenger: Release, settings: Serving, store_dir: Path, standing: AbstractSet[str]) -> bool:
    """Puts a challenger's models up; what they share with the champion stands already."""
    models = _models(challenger, settings)
    missing = models.keys() - standing
    try:
        fill_store(challenger, store_dir, settings.store)
        _run(challenger, models, missing, settings)
    except (RuntimeError, UserError, OSError) as error:
        why = str(error).splitlines()[0]
        LOG.warning("challenger %s does not come up, the champion answers all: %s", challenger.name, why)
        for name in missing & serve.status().applications.keys():
            serve.delete(name)
        return False
    return True


def _models(release: Release, settings: Serving) -> dict[str, Application]:
    """An application for each model, named by what it serves: releases that share an encoder or a ranker share it."""
    made = {
        "encoder": _deployment(EncoderReplica, "encoder", settings, num_cpus=0.2).bind(release.encoder.path, settings),
        "adaptor": _deployment(AdaptorReplica, "adaptor", settings, num_cpus=0.1).bind(release.adaptor.path, settings),
    }
    if settings.ranker == "apart":
        ranker = _deployment(RankerReplica, "ranker", settings, num_cpus=0.2)
        made["ranker"] = ranker.bind(release.ranker.path, settings)
    # What only gateways read must not make the models load anew.
    of_models = settings.model_dump(mode="json", exclude={"challenger", "watch"})
    return {f"{kind}-{digest([release.fingerprints[kind], of_models])[:16]}": model for kind, model in made.items()}


def _gateway(
    release: Release,
    challenger: Release | None,
    settings: Serving,
    data: Data,
    store_dir: Path,
    references: Mapping[str, Sums],
    dataset: Path | None,
) -> Application:
    board = board_of_gateways()
    trial = open_trial(
        board,
        release.name,
        challenger.name if challenger else None,
        {f"reference|{name}": counts for name, counts in references.items()},
    )
    served = [
        Served(
            _describe(arm),
            arm.ranker.path,
            arm.adaptor.path,
            *(_handle(name, settings) for name in _models(arm, settings)),
        )
        for arm in filter(None, (release, challenger))
    ]
    deployment = _deployment(serve.ingress()(Gateway), "gateway", settings, num_cpus=0.1, resources=_HEAD)
    application: Application = deployment.bind(
        served, trial, settings, data, store_dir.absolute(), board, dataset and dataset.absolute()
    )
    return application


def _handle(name: str, settings: Serving) -> DeploymentHandle[Any]:
    handle: DeploymentHandle[Any] = serve.get_app_handle(name)
    if settings.ingress != "haproxy":
        return handle
    # This program has not the flags that Serve has, so its handles must be told: over gRPC, with the C pickler. Asking
    # the handle for these options would start its router here, whose thread calls Ray after Ray is shut down.
    told = {"_by_reference": False, "request_serialization": "pickle", "response_serialization": "pickle"}
    options = handle.handle_options.copy_and_update(**told)
    return DeploymentHandle(handle.deployment_name, handle.app_name, handle_options=options)


def check_port(settings: Serving) -> None:
    """Finds out early, on the machine that will serve, that its address is taken.

    Raises:
        UserError: another program listens there.
    """
    try:
        socket.create_server((settings.host, settings.port)).close()
    except OSError as error:
        raise _taken(settings) from error


def _standing() -> set[str]:
    """Our applications on this Serve; others may use it too."""
    return {name for name in serve.status().applications if name == NAME or _OF_A_MODEL.fullmatch(name)}


def shutdown() -> None:
    """Takes our applications down, and Serve unless others use it; published items stay on disk."""
    with suppress(RayActorError):
        if serve.status().applications.keys() - (standing := _standing()):
            for name in standing:
                serve.delete(name)
            take_down()
            return
    files = ingress.directory()
    # Whoever asks the controller for news as it dies, its own client or HAProxy's manager, has Ray's core report a
    # failed task on standard output, a moment later.
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        with suppress(ValueError, RayActorError):
            controller = ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
            ray.get(controller.graceful_shutdown.options(max_task_retries=0).remote(), timeout=_STOP_SECONDS)
        serve.shutdown()  # type: ignore[no-untyped-call]
        take_down()
        if files is not None:
            ingress.remove(files)


def _describe(release: Release) -> ReleaseAnswer:
    parts = (release.ranker, release.encoder, release.proxies, release.adaptor)
    return ReleaseAnswer(
        release=release.name,
        project=release.project,
        alias=release.alias,
        versions=release.versions,
        fingerprints={"dataset": release.dataset} | {part.kind: part.fingerprint for part in parts},
    )


def _deployment(
    replica: Any, name: str, settings: Serving, *, num_cpus: float, resources: dict[str, float] | None = None
) -> Any:
    """Limits everywhere: Serve's own defaults queue without end and scale in and out faster than models load."""
    scaling = settings.scaling
    return serve.deployment(
        replica,
        name=name,
        ray_actor_options={"num_cpus": num_cpus, "resources": resources or {}},
        max_ongoing_requests=settings.max_ongoing,
        max_queued_requests=settings.max_queued,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        autoscaling_config=AutoscalingConfig(
            min_replicas=settings.min_replicas,
            max_replicas=settings.max_replicas,
            target_ongoing_requests=getattr(scaling, name),
            look_back_period_s=scaling.look_back_s,
            metrics_interval_s=scaling.look_back_s / 5,
            upscale_delay_s=scaling.upscale_delay_s,
            downscale_delay_s=scaling.downscale_delay_s,
        ),
        health_check_period_s=10,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=1,
        graceful_shutdown_timeout_s=10,
        max_surge_percent=100,  # New replicas stand before old ones leave, even where there is only one.
    )


def _taken(settings: Serving) -> UserError:
    return UserError(
        f"cannot listen on {settings.host}:{settings.port}: another program does, or this machine has no such address; "
        "set serving.port or serving.host"
    )


def _quiet() -> dict[str, Any]:
    return {"log_level": "WARNING", "enable_access_log": False}


def _wait_ready(url: str, name: str) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    why = "no answer"
    while time.monotonic() < deadline:
        try:
            answer = httpx.get(f"{url}/readyz", timeout=15)
            if answer.status_code == 200 and answer.json().get("release") == name:
                return
            why = answer.text[:200]
        except (httpx.HTTPError, ValueError) as error:
            why = str(error)
        time.sleep(0.1)
    raise UserError(
        f"{url} is not ready after {_READY_SECONDS:.0f} s: {why}; is serving.port taken by another program?"
    )
