import ast
import os
import pwd
import tempfile
from pathlib import Path

import pytest

from coldstart.config import Recipe, UserError, runtime_env

ROOT = Path(__file__).parents[2]
WRITERS = {
    "platform/coldstart/config/runtime_env.py",
    # The class that the user allows to be imported, which is no setting.
    "platform/coldstart/config/import_allowlist.py",
    # Shorter timeouts for one probe, which restores the values of `runtime_env`.
    "platform/coldstart/registry/connection.py",
    # A process of its own that runs without the library.
    "workloads/benchmarks/coarse_gpu.py",
}


def is_environ(node: ast.AST) -> bool:
    return ast.unparse(node) in ("os.environ", "environ")


def writes_environment(tree: ast.Module) -> bool:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if is_environ(node.func.value) and node.func.attr in ("setdefault", "update", "pop", "clear"):
                return True
            if ast.unparse(node.func) in ("os.putenv", "os.unsetenv"):
                return True
        if isinstance(node, ast.Subscript) and is_environ(node.value) and not isinstance(node.ctx, ast.Load):
            return True
        if isinstance(node, ast.AugAssign) and is_environ(node.target):
            return True
    return False


def test_no_other_module_sets_environment_variables():
    paths = [*(ROOT / "platform" / "coldstart").rglob("*.py"), *(ROOT / "workloads").rglob("*.py")]
    found = {path.relative_to(ROOT).as_posix() for path in paths if writes_environment(ast.parse(path.read_text()))}
    assert found == WRITERS


@pytest.mark.parametrize(
    ("set_defaults", "variables"),
    [
        (runtime_env.set_ray_defaults, runtime_env.RAY),
        (runtime_env.set_ray_train_defaults, runtime_env.RAY_TRAIN),
        (runtime_env.set_deepspeed_on_cpu, runtime_env.DEEPSPEED_ON_CPU),
        (runtime_env.set_mlflow_defaults, runtime_env.MLFLOW),
        (runtime_env.set_lance_defaults, runtime_env.LANCE),
        (lambda: runtime_env.set_ray_startup_concurrency(12), {runtime_env.RAY_STARTING: "12"}),
    ],
)
def test_defaults_leave_the_values_of_the_user(monkeypatch, set_defaults, variables):
    first, *others = variables
    monkeypatch.setattr(os, "environ", {first: "of the user"})
    set_defaults()
    assert os.environ == {first: "of the user"} | {name: variables[name] for name in others}


def test_workers_without_gpus_use_deepspeed_on_cpu():
    cluster = Recipe(name="demo").cluster
    assert runtime_env.worker_variables(cluster)["DS_ACCELERATOR"] == "cpu"
    on_gpus = runtime_env.worker_variables(cluster.model_copy(update={"gpus_per_worker": 1.0}))
    assert "DS_ACCELERATOR" not in on_gpus
    assert on_gpus["OMP_NUM_THREADS"] == str(cluster.threads_per_worker)


def proxy_environment(monkeypatch, **values: str) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    # Set and removed once, so that monkeypatch restores what the function under test adds.
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("no_proxy", "expected"),
    [
        (None, "127.0.0.1,localhost,::1"),
        ("shop.example, localhost", "shop.example,localhost,127.0.0.1,::1"),
        ("*", "*"),
    ],
)
def test_loopback_is_exempt_from_proxies(monkeypatch, no_proxy, expected):
    proxy_environment(
        monkeypatch, HTTP_PROXY="http://10.0.0.1:3128", **({} if no_proxy is None else {"NO_PROXY": no_proxy})
    )
    runtime_env.exempt_loopback_from_proxies()
    assert os.environ["NO_PROXY"] == expected


def test_without_a_proxy_nothing_is_set(monkeypatch):
    proxy_environment(monkeypatch)
    runtime_env.exempt_loopback_from_proxies()
    assert "NO_PROXY" not in os.environ


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"TMPDIR": "/tmp"}, None),
        ({"TMPDIR": "/tmp/" + "x" * 34}, None),
        ({"TMPDIR": "/tmp/" + "x" * 35}, "/tmp"),
        ({"TMPDIR": "/dev/null/tmp"}, "/tmp"),
        ({"TMPDIR": "/tmp/" + "ü" * 18}, "/tmp"),
        ({"TMPDIR": "/tmp/" + "x" * 50, "RAY_TMPDIR": "/var/tmp"}, "/var/tmp"),
    ],
)
def test_a_local_ray_keeps_its_sockets_where_their_paths_fit(monkeypatch, variables, expected):
    monkeypatch.setattr(os, "environ", dict(variables))
    runtime_env.set_ray_tmpdir()
    assert os.environ.get("RAY_TMPDIR") == expected


@pytest.mark.parametrize(
    ("directory", "problem"), [("/tmp/" + "x" * 35, "has 40 bytes"), ("/dev/null/tmp", "is not writable")]
)
def test_a_ray_tmpdir_that_does_not_work_is_refused(monkeypatch, directory, problem):
    monkeypatch.setattr(os, "environ", {"TMPDIR": "/tmp", "RAY_TMPDIR": directory})
    with pytest.raises(UserError, match=rf"\(RAY_TMPDIR\), which {problem}; set RAY_TMPDIR to .* at most 39 bytes"):
        runtime_env.set_ray_tmpdir()


def test_the_longest_path_of_a_socket_fits():
    longest = Path("/" + "x" * (runtime_env._MAX_RAY_TMPDIR - 1), "ray", "session_2026-01-31_12-00-00_123456_1234567")
    assert len(str(longest / "sockets" / "plasma_store")) == 107


def test_a_user_that_the_system_does_not_know_gets_a_home_and_a_name(monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    runtime_env.set_user_defaults()
    assert os.environ == {"HOME": tempfile.gettempdir(), "USER": f"uid{os.getuid()}"}


def test_the_home_and_the_name_of_a_known_user_stay(monkeypatch):
    monkeypatch.setattr(os, "environ", {"HOME": "/home/me", "LOGNAME": "me"})
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    runtime_env.set_user_defaults()
    assert os.environ == {"HOME": "/home/me", "LOGNAME": "me"}
