"""The registry: every trained model in MLflow with its lineage, consistent releases, gated promotion.

The only room that imports `mlflow`.
"""

# ruff: noqa: E402 - MLflow reads its environment when it is imported

from coldstart.config import runtime_env

runtime_env.set_mlflow_defaults()
runtime_env.exempt_loopback_from_proxies()

from coldstart.registry.alias_state import read_alias_state, reconcile_alias, resolve
from coldstart.registry.promotion import (
    apply_promotion,
    describe_event,
    plan_promotion,
    promote,
    rollback,
    stop_challenger,
)
from coldstart.registry.registration import EvaluationOutputs, ModelVersion, register_model
from coldstart.registry.registry import Registry
from coldstart.registry.release import Release, read_release

__all__ = [
    "EvaluationOutputs",
    "ModelVersion",
    "Registry",
    "Release",
    "apply_promotion",
    "describe_event",
    "plan_promotion",
    "promote",
    "read_alias_state",
    "read_release",
    "reconcile_alias",
    "register_model",
    "resolve",
    "rollback",
    "stop_challenger",
]
