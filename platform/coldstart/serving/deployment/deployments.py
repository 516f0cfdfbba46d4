"""Builds the Ray Serve applications of a release: one per model, and the gateway."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.handle import DeploymentHandle

from coldstart.config import digest
from coldstart.config.recipe import Data, Serving
from coldstart.methods.available import find_method
from coldstart.ray_compat.core import HEAD_NODE
from coldstart.ray_compat.serve import handle_for_throughput
from coldstart.registry import Release
from coldstart.serving.api.schemas import ReleaseResponse
from coldstart.serving.deployment.adaptor_replica import AdaptorReplica
from coldstart.serving.deployment.encoder_replica import EncoderReplica
from coldstart.serving.deployment.gateway import Gateway, ReleaseSpec
from coldstart.serving.deployment.scorer_replica import ScorerReplica
from coldstart.serving.monitoring.stats_aggregator import get_aggregator, start_ab_test
from coldstart.serving.monitoring.window_stats import Sums


@dataclass(frozen=True)
class GatewayInputs:
    """What gateways read besides the models.

    Attributes:
        data: Limits of images.
        reference_scores: Release name -> counts of its click probabilities in its evaluation, in bins of
            `window_stats.SCORE_EDGES`; gateways compare live scores with them.
        dataset: Directory of the release's dataset, for the images of the console; None without.
    """

    data: Data = field(default_factory=Data)
    reference_scores: Mapping[str, Sums] = field(default_factory=dict)
    dataset: Path | None = None


def build_models(release: Release, settings: Serving) -> dict[str, Application]:
    """Application name -> application, of each model.

    The name contains a hash of model and settings, so releases with the same encoder share its application.
    """
    method, paths, fingerprints = find_method(release.method), release.paths, release.fingerprints
    encoder_parts = {kind: paths[kind] for kind in method.encoder_kinds}
    encoder = _deployment(EncoderReplica, "encoder", settings, num_cpus=0.2)
    adaptor = _deployment(AdaptorReplica, "adaptor", settings, num_cpus=0.1)
    models = {
        "encoder": encoder.bind(method.name, encoder_parts, settings),
        "adaptor": adaptor.bind(method.name, paths, settings),
    }
    if settings.scorer_placement == "separate":
        scorer = _deployment(ScorerReplica, "scorer", settings, num_cpus=0.2)
        models["scorer"] = scorer.bind(method.name, paths, settings)
    # The scorer's lineage contains all other parts.
    reads = {"encoder": [fingerprints[kind] for kind in encoder_parts]}
    # A change of settings that only gateways read must not reload the models.
    model_settings = settings.model_dump(mode="json", exclude={"challenger", "stats"})
    return {
        f"{name}-{digest([method.name, reads.get(name, release.scorer.fingerprint), model_settings])[:16]}": model
        for name, model in models.items()
    }


def build_gateway(
    release: Release, challenger: Release | None, settings: Serving, store_dir: Path, inputs: GatewayInputs
) -> Application:
    """The gateway's application, and the start of the challenger's A/B test; the models must be running."""
    aggregator = get_aggregator()
    ab_test = start_ab_test(
        aggregator,
        release.name,
        challenger.name if challenger else None,
        {f"reference|{name}": counts for name, counts in inputs.reference_scores.items()},
    )
    specs = [
        ReleaseSpec(
            _describe(variant),
            variant.method,
            variant.paths,
            *(_handle(name, settings) for name in build_models(variant, settings)),
        )
        for variant in filter(None, (release, challenger))
    ]
    # A replica reads and writes the item store on local disk, so all gateways run on the head node.
    deployment = _deployment(serve.ingress()(Gateway), "gateway", settings, num_cpus=0.1, resources=HEAD_NODE)
    dataset = inputs.dataset and inputs.dataset.absolute()
    application: Application = deployment.bind(
        specs, ab_test, settings, inputs.data, store_dir.absolute(), aggregator, dataset
    )
    return application


def _handle(name: str, settings: Serving) -> DeploymentHandle[Any]:
    handle: DeploymentHandle[Any] = serve.get_app_handle(name)
    return handle_for_throughput(handle) if settings.ingress == "haproxy" else handle


def _describe(release: Release) -> ReleaseResponse:
    return ReleaseResponse(
        release=release.name,
        project=release.project,
        alias=release.alias,
        versions=release.versions,
        fingerprints={"dataset": release.dataset, **release.fingerprints},
    )


def _deployment(
    replica: Any, name: str, settings: Serving, *, num_cpus: float, resources: dict[str, float] | None = None
) -> Any:
    """A deployment with explicit limits: Serve's defaults queue without bound and scale faster than models load."""
    scaling = settings.scaling
    return serve.deployment(
        replica,
        name=name,
        ray_actor_options={"num_cpus": num_cpus, "resources": resources or {}},
        max_ongoing_requests=settings.max_ongoing_requests,
        max_queued_requests=settings.max_queued_requests,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        autoscaling_config=AutoscalingConfig(
            min_replicas=settings.min_replicas,
            max_replicas=settings.max_replicas,
            target_ongoing_requests=getattr(scaling, name),
            look_back_period_s=scaling.look_back_period_s,
            metrics_interval_s=scaling.look_back_period_s / 5,
            upscale_delay_s=scaling.upscale_delay_s,
            downscale_delay_s=scaling.downscale_delay_s,
        ),
        health_check_period_s=10,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=1,
        graceful_shutdown_timeout_s=10,
        max_surge_percent=100,  # New replicas start before old ones stop, even if there is only one.
    )
