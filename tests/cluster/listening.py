"""Where processes listen."""

from ipaddress import ip_address

import psutil


def addresses_beyond_loopback(*pids: int) -> dict[str, str]:
    """Address on which processes or their descendants listen -> the program of one of them."""
    found = {}
    for pid in pids:
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            try:
                sockets, name = process.net_connections(kind="tcp"), " ".join(process.cmdline())[:80]
            except psutil.NoSuchProcess:
                continue
            found |= {each.laddr.ip: name for each in sockets if each.status == psutil.CONN_LISTEN}
    assert found
    return {address: name for address, name in found.items() if not _is_loopback(address)}


def _is_loopback(address: str) -> bool:
    parsed = ip_address(address)
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback
