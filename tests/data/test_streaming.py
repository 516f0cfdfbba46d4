import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from coldstart.config import write_artifact
from coldstart.data.content import Content
from coldstart.data.dataset import part_path
from coldstart.data.schema import ITEMS, ITEMS_PER_ROW_GROUP
from coldstart.data.streaming import stream_items
from coldstart.ray_compat.data import PAUSE_S, PacedScheduling

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
N = 150


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "dataset"
    index = np.arange(1, N + 1)
    unknown = [None] * N
    columns = [index, index, index, unknown, [b"%d" % i for i in index], unknown, unknown, index * 0, index * 0]
    arrays = [pa.array(values).cast(field.type) for values, field in zip(columns, ITEMS, strict=True)]
    with write_artifact(path, "dataset", {}, {"items": N}) as draft:
        (draft / "items").mkdir()
        table = pa.table(arrays, schema=ITEMS)
        pq.write_table(table, part_path(draft / "items", 0), row_group_size=ITEMS_PER_ROW_GROUP)
    return path


def _stream(path: Path, order: np.ndarray, batch_size: int) -> list[dict[str, np.ndarray]]:
    def transform(contents: list[Content]) -> dict[str, np.ndarray]:
        number = np.array([int(content.title or 0) for content in contents])
        same = np.array([content.image == (content.title or "").encode() for content in contents])
        return {"number": number, "grid": number[:, None, None] * np.ones((1, 3, 2), np.float32), "same": same}

    return list(stream_items(path, order, transform, batch_size, block_rows=16))


def test_rows_are_in_exactly_the_requested_order(path: Path) -> None:
    # Two epochs, each item twice; a batch spans blocks and a block spans batches.
    order = np.concatenate([np.random.default_rng(epoch).permutation(N) + 1 for epoch in range(2)])
    batches = _stream(path, order, 40)
    assert [len(batch["item_idx"]) for batch in batches] == [40] * 7 + [20]
    rows = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    assert rows["item_idx"].tolist() == order.tolist()
    assert rows["number"].tolist() == order.tolist()
    assert rows["grid"].shape == (2 * N, 3, 2)
    assert (rows["grid"] == order[:, None, None]).all()
    assert rows["same"].all()


def test_a_resumed_stream_gives_the_same_rest(path: Path) -> None:
    order = np.random.default_rng(3).permutation(N) + 1
    full = np.concatenate([batch["number"] for batch in _stream(path, order, 30)])
    rest = np.concatenate([batch["number"] for batch in _stream(path, order[37:], 30)])
    assert rest.tolist() == full[37:].tolist()


def test_scheduling_rests_while_the_consumer_is_slow(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the pause there are hundreds of steps a second, on a thread of the consumer's process."""
    steps = 0
    rest = PacedScheduling.on_execution_step

    def count(self: PacedScheduling, executor: object) -> None:
        nonlocal steps
        steps += 1
        rest(self, executor)

    monkeypatch.setattr(PacedScheduling, "on_execution_step", count)
    order = np.tile(np.arange(1, N + 1), 20)
    began = time.monotonic()
    for _ in stream_items(path, order, lambda contents: {"pixels": np.zeros((len(contents), 500))}, 100, block_rows=50):
        time.sleep(0.2)
    assert 0 < steps <= (time.monotonic() - began) / PAUSE_S + 5


def test_rows_of_different_shapes_are_streamed(path: Path) -> None:
    def transform(contents: list[Content]) -> dict[str, np.ndarray]:
        numbers = [int(content.title or 0) for content in contents]
        pixels = np.empty(len(numbers), object)
        # The images of one block may have equal shapes, and those of the next block different ones.
        pixels[:] = [np.full((3 + (number % 5 if number > 50 else 0), 4), number, np.float32) for number in numbers]
        return {"pixels": pixels, "words": np.array(numbers)}

    order = np.concatenate([np.arange(1, N + 1), np.random.default_rng(4).permutation(N) + 1])
    batches = list(stream_items(path, order, transform, 40, block_rows=16))
    shown = [pixels for batch in batches for pixels in batch["pixels"]]
    assert [pixels.shape for pixels in shown] == [(3 + (n % 5 if n > 50 else 0), 4) for n in order]
    assert [int(pixels[0, 0]) for pixels in shown] == order.tolist()
    assert {pixels.dtype for pixels in shown} == {np.dtype(np.float32)}


def test_a_ray_worker_can_stream(path: Path) -> None:
    @ray.remote(num_cpus=1)
    def worker(order: np.ndarray) -> list[int]:
        batches = stream_items(path, order, lambda contents: {"n": np.arange(len(contents))}, 8, block_rows=16)
        return [int(index) for batch in batches for index in batch["item_idx"]]

    shares = [np.arange(1, N + 1)[rank::2] for rank in range(2)]
    assert ray.get([worker.remote(share) for share in shares]) == [share.tolist() for share in shares]


def test_an_empty_order_yields_nothing(path: Path) -> None:
    assert _stream(path, np.array([], np.int64), 8) == []
