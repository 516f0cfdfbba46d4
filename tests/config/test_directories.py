import errno
from pathlib import Path

import pytest

from coldstart.config import Recipe, UserError, check_run_dir
from coldstart.config.directories import is_writable
from coldstart.config.errors import storage_problem


def test_a_directory_that_does_not_exist_counts_as_its_parent(tmp_path: Path) -> None:
    assert is_writable(tmp_path)
    assert is_writable(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    assert not is_writable(tmp_path / "file")
    assert not is_writable(tmp_path / "file" / "a")


def test_a_link_that_does_not_resolve_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert not is_writable(tmp_path / "link" / "runs")
    (tmp_path / "nowhere").mkdir()
    assert is_writable(tmp_path / "link" / "runs")


def test_a_run_directory_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    recipe = Recipe.model_validate({"name": "mine", "paths": {"runs": tmp_path / "file"}})
    with pytest.raises(UserError, match=r"file/mine is not writable; set paths\.runs"):
        check_run_dir(recipe)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EACCES, "Permission denied", "/data/x"), "/data/x: Permission denied; correct its permissions"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), "/x: Read-only file system"),
        (OSError(errno.ENOSPC, "No space left on device"), "writing failed: No space left on device; free space"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/x"), "/x: Disk quota exceeded; free space"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x"), "x: File name too long"),
        (OSError(errno.EACCES, "Permission denied"), None),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), None),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), None),
    ],
)
def test_a_full_or_protected_disk_is_for_the_user_to_mend(error: OSError, words: str | None) -> None:
    problem = storage_problem(error)
    assert problem is None if words is None else problem is not None and words in problem
