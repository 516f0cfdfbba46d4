"""Private names of Ray's core and of the Jobs API."""

import ray

HEAD_NODE = {"node:__internal_head__": 0.001}
"""Resources of a task or actor that must run on the head node."""
JOB_LOGGERS = ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
"""Loggers to which `JobSubmissionClient` writes."""


def draining_nodes() -> set[str]:
    """The ids of the nodes that are being drained."""
    return set(ray._private.state.state.get_draining_nodes())
