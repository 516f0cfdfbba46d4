"""Real servers for tests: start on a free loopback port, kill, and restart at the same address."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

STARTS_WITHIN = 150.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Server:
    """A program that is up when it answers HTTP, or accepts connections, at `address`; its output goes to `log`."""

    def __init__(
        self, command: list[str], address: str, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.command, self.address, self.log = command, address, log
        self.environment = {**os.environ, **(environment or {})}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=self.environment, start_new_session=True
            )
        deadline = time.monotonic() + STARTS_WITHIN
        while not self._up():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(self.log.read_text()[-2000:])
            time.sleep(0.1)

    def kill(self) -> None:
        """Kills the server and its workers at once, like a power failure."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _up(self) -> bool:
        parts = urlsplit(self.address)
        try:
            if parts.scheme == "http":
                return bool(urlopen(self.address, timeout=2).status == 200)
            socket.create_connection((parts.hostname, parts.port), timeout=2).close()
        except OSError:
            return False
        return True


class MlflowServer(Server):
    """One worker; by default on SQLite and a local directory."""

    def __init__(
        self,
        directory: Path,
        *,
        backend: str | None = None,
        artifacts: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        backend = backend or f"sqlite:///{directory / 'server.db'}"
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "1",
        ]
        command += ["--backend-store-uri", backend]
        command += ["--artifacts-destination", artifacts or (directory / "artifacts").as_uri()]
        # Without its job queue, which would start seven processes that no test uses.
        environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **(environment or {})}
        super().__init__(command, f"{self.uri}/health", directory / "server.log", environment)


def postgres_binaries() -> Path | None:
    """Directory of PostgreSQL's programs, if it is installed; on Debian `initdb` is not on the PATH."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None, key=lambda path: int(path.parent.name))


class Postgres(Server):
    """A private PostgreSQL cluster. PostgreSQL refuses to run as root, so root starts it as user `postgres`."""

    def __init__(self, directory: Path) -> None:
        binaries = postgres_binaries()
        assert binaries is not None
        owner = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        port, self.data = free_port(), Path(tempfile.mkdtemp(prefix="postgres-"))
        if owner:
            shutil.chown(self.data, "postgres")
        init = [binaries / "initdb", "--pgdata", self.data, "--username", "postgres", "--auth", "trust", "--no-sync"]
        subprocess.run([*owner, *map(str, init)], check=True, capture_output=True, cwd="/")
        serve = [binaries / "postgres", "-D", self.data, "-h", "127.0.0.1", "-p", port, "-k", "", "-F"]
        self.uri = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        super().__init__([*owner, *map(str, serve)], f"tcp://127.0.0.1:{port}", directory / "postgres.log")

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        shutil.rmtree(self.data, ignore_errors=True)


class Moto(Server):
    """A private S3 with one bucket; `environment_of_clients` has the settings for boto3."""

    def __init__(self, directory: Path) -> None:
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        self.environment_of_clients = {
            "MLFLOW_S3_ENDPOINT_URL": self.uri,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        super().__init__(command, f"{self.uri}/moto-api/", directory / "moto.log")

    def start(self) -> None:
        super().start()
        urlopen(Request(f"{self.uri}/models", method="PUT"), timeout=10).close()
