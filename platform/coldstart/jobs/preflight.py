"""The check before a job runs on several nodes: a task pinned to each one reports what the node lacks."""

import shutil
import socket
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from coldstart.config import Recipe, UserError, runtime_env
from coldstart.jobs.node_probe import NodeReport, Probe, examine_node, find_versions, sees_marker
from coldstart.ray_compat.core import attainable_resources

ANSWER_SECONDS = 60.0
"""A node that has not answered by then is a finding; on a busy one, the first worker process takes its time."""
MAX_CLOCK_SKEW_S = 5.0
MIN_SHM_BYTES = 256 * 2**20
"""Docker's default of 64 MB is too little for NCCL and for Ray's object store."""
FIXES = {
    "storage": "mount the same POSIX storage under paths.runs on every node",
    "MLflow": "start the server, or set registry.tracking_uri to an address that every node reaches",
    "secrets": "not set there; add it (submit.secrets) to the environment in which Ray is started on every node",
    "MLLM": "put the checkpoint on storage that every node sees, or into the image",
}


@dataclass(frozen=True)
class Finding:
    """What is wrong.

    Attributes:
        node: Host name, or `cluster`.
        what: The problem, with the missing amount.
        fix: What the user can do.
    """

    node: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.node}: {self.what}; {self.fix}"


def check_cluster(recipe: Recipe) -> None:
    """Checks the connected cluster for a recipe if it has several nodes.

    Raises:
        UserError: the message has a line per finding.
    """
    if len(alive_nodes()) < 2:
        return
    findings = find_problems(recipe)
    if findings:
        lines = "".join(f"\n  {finding}" for finding in findings)
        raise UserError(f"this cluster cannot run the recipe (`coldstart doctor` checks again):{lines}")


def find_problems(recipe: Recipe) -> list[Finding]:
    """What would stop the recipe on the connected cluster, found within seconds.

    Raises:
        UserError: the run directory is not writable for this process.
    """
    findings = find_missing_resources(recipe, attainable_resources(), [node["Resources"] for node in alive_nodes()])
    runs = recipe.paths.runs.absolute()
    name = f".preflight-{uuid.uuid4().hex}"
    marker = runs / name
    try:
        marker.mkdir(parents=True)
        (marker / "driver").write_text(name)
    except OSError as error:
        raise UserError(f"{runs} is not writable ({error.strerror}); set paths.runs to a directory that is") from error
    try:
        probe = Probe(runs, marker, recipe.tracking_uri, recipe.encoder.mllm, recipe.submit.secrets)
        findings += _ask_nodes(probe)
    finally:
        shutil.rmtree(marker, ignore_errors=True)
    return findings


def alive_nodes() -> list[dict[str, Any]]:
    """Ray's description of every node that is alive."""
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def find_missing_resources(
    recipe: Recipe, attainable: Mapping[str, float], nodes: Iterable[Mapping[str, float]]
) -> list[Finding]:
    """Compares what the recipe's section `cluster` asks with what there is or what the cluster can grow to.

    Args:
        recipe: Of the run.
        attainable: Resource -> amount in the whole cluster, autoscaling included.
        nodes: Resources of each node. A process must fit into one, or the cluster must be able to grow.
    """
    cluster, nodes = recipe.cluster, list(nodes)
    workers = cluster.min_workers or cluster.workers
    driver = runtime_env.driver_cpus()
    asked = {
        "CPU": workers * cluster.cpus_per_worker + cluster.ray_data_cpus + driver,
        "GPU": max(workers, cluster.embed_actors) * cluster.gpus_per_worker,
    }
    why = {
        "CPU": f"cluster.workers {workers} x cluster.cpus_per_worker {cluster.cpus_per_worker:g} + "
        f"cluster.ray_data_cpus {cluster.ray_data_cpus}" + (f" + submit.driver_cpus {driver:g}" if driver else ""),
        "GPU": f"cluster.gpus_per_worker {cluster.gpus_per_worker:g} for each of {max(workers, cluster.embed_actors)}",
    }
    findings = []
    for kind, amount in asked.items():
        there, each = attainable.get(kind, 0), getattr(cluster, f"{kind.lower()}s_per_worker")
        if amount > there:
            what = f"{there:g} {kind}s, but {why[kind]} = {amount:g} are asked: {amount - there:g} missing"
            findings.append(Finding("cluster", what, "lower cluster.workers, or add nodes"))
        largest = max((node.get(kind, 0) for node in nodes), default=0)
        grows = there > sum(node.get(kind, 0) for node in nodes)
        if each > largest and not grows and amount <= there:
            what = (
                f"no node has {each:g} {kind}s for one worker; the largest has {largest:g}: {each - largest:g} missing"
            )
            findings.append(Finding("cluster", what, f"lower cluster.{kind.lower()}s_per_worker, or add larger nodes"))
    return findings


def _ask_nodes(probe: Probe) -> list[Finding]:
    """Asks all nodes at once and compares their answers with this process."""
    ask = ray.remote(num_cpus=0, max_retries=0)(examine_node)
    started, pending = time.time(), {}
    for node in alive_nodes():
        pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        pending[ask.options(scheduling_strategy=pinned).remote(probe, node["NodeID"])] = node
    findings, own = [], find_versions()
    deadline = time.monotonic() + ANSWER_SECONDS
    while pending:
        left = max(deadline - time.monotonic(), 0)
        ready, _ = ray.wait(list(pending), timeout=left)
        if not ready:
            break
        node = pending.pop(ready[0])
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        try:
            report: NodeReport = ray.get(ready[0])
        except ray.exceptions.RayError as error:
            findings.append(_failed(name, error))
            continue
        findings += compare_report(name, report, own, (started, time.time()))
        if "storage" not in report.problems and not sees_marker(probe.marker, node["NodeID"]):
            what = f"what it writes to {probe.runs} is not visible on {socket.gethostname()}, where the driver runs"
            findings.append(Finding(name, what, FIXES["storage"]))
    for reference, node in pending.items():
        ray.cancel(reference, force=True)
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        what = f"did not answer within {ANSWER_SECONDS:g} s"
        findings.append(Finding(name, what, "look into its Ray logs, or remove it from the cluster"))
    return findings


def compare_report(name: str, report: NodeReport, own: Mapping[str, str], window: tuple[float, float]) -> list[Finding]:
    """Findings from the answer of a node.

    Args:
        name: Of the node.
        report: Its answer.
        own: Versions of the driver.
        window: Unix seconds of the driver when it asked and when it had the answer.
    """
    findings = [Finding(name, problem, FIXES[subject]) for subject, problem in report.problems.items()]
    for package, version in report.versions.items():
        if version != own.get(package):
            what = f"{package} {version}, but the driver has {own.get(package)}"
            findings.append(Finding(name, what, "use one image or one environment on all nodes"))
    skew = max(report.time - window[1], window[0] - report.time, 0.0)
    if skew > MAX_CLOCK_SKEW_S:
        direction = "ahead of" if report.time > window[1] else "behind"
        what = f"its clock is {skew:.0f} s {direction} the driver's; {MAX_CLOCK_SKEW_S:g} s are tolerated"
        findings.append(Finding(name, what, "synchronize the clocks (NTP)"))
    if report.shm_bytes < MIN_SHM_BYTES:
        missing = (MIN_SHM_BYTES - report.shm_bytes) / 2**20
        what = f"/dev/shm has {report.shm_bytes / 2**20:.0f} MB: {missing:.0f} MB missing"
        fix = "start the container with --shm-size=2g, or mount a memory volume at /dev/shm"
        findings.append(Finding(name, what, fix))
    return findings


def _failed(name: str, error: Exception) -> Finding:
    if "ModuleNotFoundError" in str(error):
        module = str(error).strip().splitlines()[-1]
        return Finding(name, f"coldstart cannot be imported ({module})", "install it there, or use the same image")
    return Finding(name, f"the check failed: {str(error).strip().splitlines()[-1]}", "look into its Ray logs")


def as_json(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """The findings as JSON values."""
    return [asdict(finding) for finding in findings]
