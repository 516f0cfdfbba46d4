import os
import socket
from pathlib import Path
from typing import Any

import pytest

from coldstart.config import UserError, read_artifact, write_artifact
from coldstart.config.recipe import Cluster
from coldstart.training.launch import launch

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def test_ranks_reduce_together_with_their_threads_set(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def worker(payload: dict[str, Any]) -> None:
        import torch

        from coldstart.training.distributed import rank, world_size

        total = torch.tensor([rank() + 1.0])
        torch.distributed.all_reduce(total)
        assert os.environ["DS_ACCELERATOR"] == "cpu"
        (Path(payload["out"]) / str(rank())).write_text(
            f"{world_size()} {total.item()} {torch.get_num_threads()} {os.environ['OMP_NUM_THREADS']}"
        )

    launch(worker, {"out": str(tmp_path)}, cluster=Cluster(workers=2), name="reduce", storage=tmp_path / "store")

    assert [(tmp_path / str(r)).read_text() for r in (0, 1)] == ["2 3.0 1 1"] * 2
    assert capfd.readouterr().out == ""


def test_killed_rank_is_replaced(tmp_path: Path) -> None:
    def worker(payload: dict[str, Any]) -> None:
        import signal

        import torch

        from coldstart.training.distributed import rank

        out = Path(payload["out"])
        torch.distributed.barrier()
        if rank() == 1 and not (out / "killed").exists():
            (out / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        torch.distributed.barrier()
        (out / f"done-{rank()}").touch()

    launch(worker, {"out": str(tmp_path)}, cluster=Cluster(workers=2), name="killed", storage=tmp_path / "store")

    assert (tmp_path / "done-0").exists()
    assert (tmp_path / "done-1").exists()


@pytest.mark.slow
def test_a_preempted_rank_saves_and_is_restarted_without_counting_as_a_failure(tmp_path: Path) -> None:
    def worker(payload: dict[str, Any]) -> str | None:
        import signal
        import time

        import torch

        from coldstart.training.distributed import rank
        from coldstart.training.launch import PREEMPTED, preemption_requested

        out = Path(payload["out"])
        if (out / "saved-1").exists():
            (out / f"done-{rank()}").touch()
            return None
        assert not preemption_requested()
        if rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        requested = torch.zeros(1)
        while not requested.item():
            time.sleep(0.05)
            requested = torch.tensor([float(preemption_requested())])
            torch.distributed.all_reduce(requested)
        torch.distributed.barrier()
        (out / f"saved-{rank()}").touch()
        return PREEMPTED

    cluster = Cluster(workers=2, max_failures=0)
    launch(worker, {"out": str(tmp_path)}, cluster=cluster, name="preempted", storage=tmp_path / "store")

    assert sorted(file.name for file in tmp_path.glob("*-*")) == ["done-0", "done-1", "saved-0", "saved-1"]


def test_user_error_of_a_rank_reaches_the_caller_without_a_retry(tmp_path: Path) -> None:
    def worker(payload: dict[str, Any]) -> None:
        from coldstart.training.distributed import rank

        with (Path(payload["out"]) / f"calls-{rank()}").open("a") as stream:
            stream.write("x")
        if rank() == 1:
            raise UserError("fix this")

    with pytest.raises(UserError, match=r"^fix this$"):
        launch(
            worker, {"out": str(tmp_path)}, cluster=Cluster(workers=2), name="user-error", storage=tmp_path / "store"
        )
    assert (tmp_path / "calls-1").read_text() == "x"


@pytest.mark.slow
def test_a_node_with_another_copy_of_an_input_is_named_before_the_worker_runs(tmp_path: Path) -> None:
    def worker(payload: dict[str, Any]) -> None:
        Path(payload["ran"]).touch()

    with write_artifact(tmp_path / "dataset", "dataset", {}, {}):
        pass
    fingerprint = read_artifact(tmp_path / "dataset", "dataset").fingerprint
    payload, cluster = {"ran": str(tmp_path / "ran")}, Cluster(workers=2)
    stale = {"dataset": "0" * 64}
    with pytest.raises(UserError, match=rf"node {socket.gethostname()} has another dataset .* out of date; mount"):
        launch(worker, payload, cluster=cluster, name="stale", storage=tmp_path / "checkpoints", inputs=stale)
    assert not (tmp_path / "ran").exists()
    inputs = {"dataset": fingerprint}
    launch(worker, payload, cluster=cluster, name="same", storage=tmp_path / "checkpoints", inputs=inputs)
    assert (tmp_path / "ran").exists()


def test_too_small_cluster_is_refused_with_the_missing_amount(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"8 CPUs but cluster.workers 7 x 1 \+ cluster.ray_data_cpus 2 = 9 .* 1 missing"
    ):
        launch(print, {}, cluster=Cluster(workers=7), name="small", storage=tmp_path)
    with pytest.raises(UserError, match=r"0 GPUs .* 2 missing"):
        launch(print, {}, cluster=Cluster(workers=2, gpus_per_worker=1), name="small", storage=tmp_path)


def test_an_elastic_stage_needs_only_min_workers(tmp_path: Path) -> None:
    cluster = Cluster(workers=20, min_workers=9)
    with pytest.raises(
        UserError, match=r"cluster.min_workers 9 x 1 \+ cluster.ray_data_cpus 2 = 11 .* lower cluster.min_workers"
    ):
        launch(print, {}, cluster=cluster, name="small", storage=tmp_path, elastic=True)
    with pytest.raises(UserError, match=r"cluster.workers 20 x 1"):
        launch(print, {}, cluster=cluster, name="small", storage=tmp_path)
