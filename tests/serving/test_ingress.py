"""HAProxy's files, ports and pages belong to one Serve and to this machine."""

import subprocess

from coldstart.serving.ingress import _free_ports, _haproxy, flags

CONFIG = """
frontend prometheus
    bind :{metrics}
frontend http_frontend
    bind *:8000
listen stats
  bind *:{stats}
"""


def test_pages_are_bound_to_loopback_and_the_frontend_stays_where_it_was_told(tmp_path):
    pages = _free_ports(2)
    program = _haproxy(tmp_path, pages)
    config = tmp_path / "node" / "haproxy.cfg"
    config.parent.mkdir()
    config.write_text(CONFIG.format(metrics=pages[0], stats=pages[1]))
    checked = subprocess.run([program, "-c", "-f", config], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    binds = [line.split()[1] for line in config.read_text().splitlines() if "bind" in line]
    assert binds == [f"127.0.0.1:{pages[0]}", "*:8000", f"127.0.0.1:{pages[1]}"]


def test_two_serves_of_one_machine_share_no_port_and_no_file(tmp_path):
    one, two = (flags(tmp_path / name, tmp_path / name / "haproxy", _free_ports(2)) for name in ("a", "b"))
    differ = {name for name in one if name.endswith(("_PORT", "_PATH", "_LOC", "_FILE", "_BASE"))}
    differ -= {name for name in differ if "DIRECT_INGRESS" in name}  # A range each; a taken port is skipped.
    assert differ
    assert all(one[name] != two[name] for name in differ)
