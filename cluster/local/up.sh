#!/usr/bin/env bash
# Starts a Ray head on this machine, on loopback and with token auth, for `coldstart submit` and `ray job submit`.
# usage: [RAY_PORT=6379] [DASHBOARD_PORT=8265] cluster/local/up.sh [LOGICAL_CPUS]
set -euo pipefail
cd "$(dirname "$0")/../.."
port="${RAY_PORT:-6379}" dashboard="${DASHBOARD_PORT:-8265}"
pid_file="runs/ray-head-$dashboard.pid" log="runs/ray-head-$dashboard.log"
# Jobs run `python`, which must be the environment that coldstart is installed in.
export PATH="$PWD/.venv/bin:$PATH"
export RAY_AUTH_MODE=token
# Without this, Ray on Linux replaces 127.0.0.1 by the machine's address, and its parts listen on every interface.
export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0
umask 077
mkdir -p runs
if [ -f "$pid_file" ] && kill -0 "$(cat "$pid_file")" 2>/dev/null; then
    echo "a head started by this script already runs (dashboard port $dashboard); stop it with cluster/local/down.sh" >&2
    exit 1
fi
# A token that the environment names is used as it is; otherwise ~/.ray/auth_token is made once.
if [ -z "${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-}" ]; then
    ray get-auth-token --generate >/dev/null
fi
# More logical CPUs than cores: training ranks hold theirs while Ray Data needs some of its own.
# --block keeps the head in one process group, so that down.sh stops this head and no other Ray.
setsid ray start --head --block --node-ip-address 127.0.0.1 --port "$port" --dashboard-host 127.0.0.1 --dashboard-port "$dashboard" \
    --dashboard-agent-listen-port 0 --num-cpus "${1:-8}" --disable-usage-stats >"$log" 2>&1 </dev/null &
echo $! >"$pid_file"
for _ in $(seq 240); do
    if ! kill -0 "$(cat "$pid_file")" 2>/dev/null; then
        echo "the Ray head did not start; the end of $log:" >&2
        tail -n 20 "$log" >&2
        exit 1
    fi
    if (exec 3<>"/dev/tcp/127.0.0.1/$dashboard") 2>/dev/null; then
        echo "Ray head is up; its dashboard is at http://127.0.0.1:$dashboard"
        echo "clients need: export RAY_AUTH_MODE=token PATH=\"$PWD/.venv/bin:\$PATH\""
        exit 0
    fi
    sleep 0.5
done
echo "the Ray head did not open port $dashboard within 120 s; see $log" >&2
exit 1
