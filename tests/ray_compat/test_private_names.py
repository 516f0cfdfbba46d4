"""Every private name of Ray that `coldstart.ray_compat` uses exists in the installed version."""

import dataclasses
import importlib.util

import pytest
import ray
import ray.actor
import ray.serve._private.replica
import ray.train
from ray._common.constants import HEAD_NODE_RESOURCE_NAME
from ray.data import DataContext
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve._private.controller import ServeController
from ray.serve._private.handle_options import DynamicHandleOptions
from ray.serve.handle import DeploymentHandle
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.context import ExecutionContext, PreemptionContext, TrainContext
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy
from ray.train.v2._internal.execution.worker_group import Worker, WorkerGroup, WorkerGroupPollStatus
from ray.train.v2._internal.execution.worker_group.thread_runner import ThreadRunner

from coldstart.ray_compat import core, serve, train

NAMES = [
    (ray.experimental.internal_kv, "_internal_kv_get"),
    (ray.experimental.internal_kv, "_internal_kv_put"),
    (ray._private.state.state, "get_draining_nodes"),
    (ray._private.state.state, "get_max_resources_from_cluster_config"),
    (ray._private.runtime_env.packaging, "_dir_travel"),
    (ray.actor.ActorHandle, "_actor_id"),
    (ray._private.ray_constants, "ENABLE_RAY_CLUSTER"),
    (ray.serve._private.replica, "add_port_to_grpc_server"),
    (ExecutionCallback, "on_execution_step"),
    (DataContext.get_current(), "custom_execution_callback_classes"),
    (ServeController, "graceful_shutdown"),
    (DynamicHandleOptions, "copy_and_update"),
    (DynamicHandleOptions, "_by_reference"),
    (DynamicHandleOptions, "request_serialization"),
    (DynamicHandleOptions, "response_serialization"),
    (TorchTrainer, "_initialize_and_run_controller"),
    (ElasticScalingPolicy, "_get_reserved_resources"),
    (ray.train.ScalingConfig, "elasticity_enabled"),
    (WorkerCallback, "after_init_train_context"),
    (WorkerGroupCallback, "after_worker_group_start"),
    (WorkerGroupCallback, "before_worker_group_shutdown"),
    (ControllerCallback, "before_controller_execute_resize_decision"),
    (WorkerGroup, "get_latest_poll_status"),
    (WorkerGroup, "get_workers"),
    (Worker, "execute_async"),
    (WorkerGroupPollStatus, "errors"),
    (WorkerGroupPollStatus, "finished"),
    (TrainContext, "preemption_context"),
    (TrainContext, "execution_context"),
    (PreemptionContext, "preemption_info"),
    (ExecutionContext, "training_thread_runner"),
    (ThreadRunner, "is_running"),
]


@pytest.mark.parametrize(("owner", "name"), NAMES, ids=[name for _, name in NAMES])
def test_the_name_exists(owner, name):
    fields = [field.name for field in dataclasses.fields(owner)] if dataclasses.is_dataclass(owner) else []
    assert hasattr(owner, name) or name in fields


def test_the_constants_are_those_of_ray():
    assert list(core.HEAD_NODE) == [HEAD_NODE_RESOURCE_NAME]
    assert serve.CONTROLLER == {"name": SERVE_CONTROLLER_NAME, "namespace": SERVE_NAMESPACE}


@pytest.mark.parametrize("name", core.JOB_LOGGERS)
def test_the_logger_is_that_of_a_module(name):
    assert importlib.util.find_spec(name) is not None


def test_the_options_of_a_handle_are_set():
    options = serve.handle_for_throughput(DeploymentHandle("gateway", "coldstart")).handle_options
    assert (options._by_reference, options.request_serialization, options.response_serialization) == (
        False,
        "pickle",
        "pickle",
    )


def test_the_exception_of_a_worker_is_found_in_its_wrapper():
    error = ValueError("wrong")
    assert train.unwrap_exception(UserExceptionWithTraceback(error, "traceback")) is error
    assert train.unwrap_exception(error) is None
