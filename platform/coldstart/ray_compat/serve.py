"""Private names of Ray Serve: its controller, its replicas, a value that lives as long as Serve, and handle options."""

from typing import Any

import ray
from ray._common.network_utils import build_address  # type: ignore[attr-defined]
from ray._common.tls_utils import add_port_to_grpc_server
from ray.serve._private import replica
from ray.serve.handle import DeploymentHandle

CONTROLLER = {"name": "SERVE_CONTROLLER_ACTOR", "namespace": "serve"}


def serve_controller() -> Any | None:
    """The controller of the running Serve; None if Serve does not run."""
    try:
        return ray.get_actor(**CONTROLLER)
    except ValueError:
        return None


def stop_controller(timeout_s: float) -> None:
    """Shuts Serve's controller down, if it runs, and waits for it."""
    controller = serve_controller()
    if controller is not None:
        ray.get(controller.graceful_shutdown.options(max_task_retries=0).remote(), timeout=timeout_s)


def get_serve_value() -> str | None:
    """The value that `set_serve_value` stored for the running Serve; None if there is none."""
    controller = serve_controller()
    if controller is None or (stored := ray.experimental.internal_kv._internal_kv_get(_kv_key(controller))) is None:
        return None
    value: str = stored.decode()
    return value


def set_serve_value(value: str) -> None:
    """Stores a value in the cluster's key-value store, for as long as this Serve runs."""
    ray.experimental.internal_kv._internal_kv_put(_kv_key(serve_controller()), value)


def handle_for_throughput(handle: DeploymentHandle[Any]) -> DeploymentHandle[Any]:
    """A handle that calls over gRPC with the C pickler, as Serve's throughput flags set it inside replicas.

    This process does not have these flags. `handle.options` would start the handle's router here, whose thread calls
    Ray after Ray is shut down.
    """
    options = {"_by_reference": False, "request_serialization": "pickle", "response_serialization": "pickle"}
    return DeploymentHandle(
        handle.deployment_name, handle.app_name, handle_options=handle.handle_options.copy_and_update(**options)
    )


def listen_on_node_address() -> None:
    """Lets the replica of this process take calls of other replicas at the address of its node alone.

    Serve opens that port on every interface, also where Ray listens on loopback only. Must run before Serve opens it:
    in the constructor of the deployment.
    """
    replica.add_port_to_grpc_server = _add_port_at_node  # type: ignore[attr-defined]


def _add_port_at_node(server: Any, address: str) -> int:
    port = int(address.rpartition(":")[2])
    node: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    added: int = add_port_to_grpc_server(server, build_address(node, port))  # type: ignore[no-untyped-call]
    return added


def _kv_key(controller: Any) -> str:
    return f"coldstart-serve-{controller._actor_id.hex()}"
