#!/usr/bin/env bash
# Starts a Ray head on this machine, with token auth and its dashboard on loopback, for `coldstart submit` and `ray job submit`.
# usage: cluster/local/up.sh [LOGICAL_CPUS]
set -euo pipefail
cd "$(dirname "$0")/../.."
# Jobs run `python`, which must be the environment that coldstart is installed in.
export PATH="$PWD/.venv/bin:$PATH"
export RAY_AUTH_MODE=token
umask 077
ray get-auth-token --generate >/dev/null
# More logical CPUs than cores: training ranks hold theirs while Ray Data needs some of its own.
ray start --head --dashboard-host 127.0.0.1 --dashboard-port 8265 \
    --dashboard-agent-listen-port 0 --num-cpus "${1:-8}" --disable-usage-stats
echo
echo "clients need: export RAY_AUTH_MODE=token PATH=\"$PWD/.venv/bin:\$PATH\""
