"""Whether a server or a database can be reached from this machine, by opening a connection to its port."""

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

PROBE_SECONDS = 5.0
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


def find_connection_problem(uri: str, *, seconds: float = PROBE_SECONDS) -> str | None:
    """Why nothing answers at a URI, or None.

    None too for a URI without a server (SQLite, files), and for one behind a proxy, which answers for the server.

    Args:
        uri: Such as an MLflow tracking URI; may hold a password, which is not in the answer.
        seconds: To wait for an answer.
    """
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme not in _PORTS or (scheme in getproxies() and not proxy_bypass(parts.hostname or "")):
        return None
    host, port = parts.hostname or "localhost", parts.port or _PORTS[scheme]
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except OSError as error:
        return f"{host}:{port} does not answer ({error})"
    return None
