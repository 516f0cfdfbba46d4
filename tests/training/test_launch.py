import os
from pathlib import Path
from typing import Any

import pytest

from coldstart.config import UserError
from coldstart.config.recipe import Cluster
from coldstart.training.launch import launch

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def test_ranks_reduce_together_with_their_threads_set(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def worker(payload: dict[str, Any]) -> None:
        import torch

        from coldstart.training.ranks import rank, world_size

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

        from coldstart.training.ranks import rank

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


def test_user_error_of_a_rank_reaches_the_caller_without_a_retry(tmp_path: Path) -> None:
    def worker(payload: dict[str, Any]) -> None:
        from coldstart.training.ranks import rank

        with (Path(payload["out"]) / f"calls-{rank()}").open("a") as stream:
            stream.write("x")
        if rank() == 1:
            raise UserError("mend this")

    with pytest.raises(UserError, match=r"^mend this$"):
        launch(worker, {"out": str(tmp_path)}, cluster=Cluster(workers=2), name="told", storage=tmp_path / "store")
    assert (tmp_path / "calls-1").read_text() == "x"


def test_too_small_cluster_is_refused_with_the_missing_amount(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"8 CPUs but cluster.workers 7 x 1 \+ 2 for data = 9 .* 1 missing"):
        launch(print, {}, cluster=Cluster(workers=7), name="small", storage=tmp_path)
    with pytest.raises(UserError, match=r"0 GPUs .* 2 missing"):
        launch(print, {}, cluster=Cluster(workers=2, gpus_per_worker=1), name="small", storage=tmp_path)
