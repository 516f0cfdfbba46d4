import logging
from pathlib import Path

from coldstart.config import MetricsLog
from coldstart.jobs.progress import CONSOLE, progress_line, shown_messages


def test_a_stage_with_many_metrics_shows_a_few_of_them(tmp_path: Path):
    metrics_log = MetricsLog(tmp_path / "j.jsonl")
    for stage in ("align_coarse", "train_ranker"):
        with CONSOLE.capture() as output, progress_line(stage, metrics_log):
            metrics_log.write(1, 2, loss=0.5, hfu=0.25, mfu=0.125, gradient_norm=3.0)
        shown = output.get().splitlines()[-1]
        assert "loss 0.5" in shown
        assert "mfu 0.125" in shown
        assert ("hfu 0.25" in shown) == (stage != "align_coarse")


def test_messages_of_the_library_are_shown_while_the_block_runs() -> None:
    shown: list[str] = []
    logger = logging.getLogger("coldstart.stages")
    with shown_messages("coldstart.stages", shown.append):
        logger.info("%s parameters are trained", 12)
    logger.info("not shown")
    assert shown == ["12 parameters are trained"]
