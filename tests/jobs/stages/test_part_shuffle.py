import numpy as np
import pyarrow as pa
import pytest
import ray
import ray.data
from joblib import cpu_count
from ray.data import DataContext

from coldstart.config import UserError
from coldstart.jobs.stages.part_shuffle import write_parts
from coldstart.jobs.stages.ray_tables import map_blocks, one_task_per_core, parallel_tasks

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
ROWS = 1000


@pytest.mark.parametrize("parts", [1, 7])
def test_every_part_gets_its_rows_in_their_order(parts: int) -> None:
    number = np.arange(ROWS)
    part = np.random.default_rng(0).integers(0, parts, ROWS)
    part[part == 3] = 4  # part 3 is empty
    table = pa.table({"number": number, "part": part, "text": [f"row {n}" for n in number]})
    rows = ray.data.from_arrow([table.slice(start, 300) for start in range(0, ROWS, 300)]).materialize()

    def assign(block: pa.Table) -> pa.Table:
        return block.filter(pa.array(np.asarray(block["number"]) % 10 > 0))

    def write(group: pa.Table) -> pa.Table:
        return pa.table({"part": group["part"].slice(0, 1), "numbers": [group["number"].to_pylist()]})

    found = write_parts(rows, parts, assign, write).to_pylist()
    expected = {n: number[(part == n) & (number % 10 > 0)].tolist() for n in np.unique(part)}
    assert {row["part"]: row["numbers"] for row in found} == expected
    assert [row["part"] for row in found] == sorted(expected)


def test_an_error_of_a_part_reaches_the_caller() -> None:
    rows = ray.data.from_arrow(pa.table({"part": [0, 1]}))

    def write(group: pa.Table) -> pa.Table:
        raise UserError(f"part {group['part'][0]} is bad")

    with pytest.raises(UserError, match=r"part [01] is bad"):
        write_parts(rows, 2, lambda block: block, write)


def test_a_local_ray_runs_no_more_data_tasks_than_the_machine_has_cores() -> None:
    assert parallel_tasks() == min(ray.cluster_resources()["CPU"], cpu_count())
    options = DataContext.get_current().execution_options
    with one_task_per_core():
        assert options.resource_limits.cpu == parallel_tasks()
        assert map_blocks(ray.data.range(9), lambda block: block).count() == 9
    assert options.is_resource_limits_default()
    assert not DataContext.get_current().custom_execution_callback_classes
