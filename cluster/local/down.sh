#!/usr/bin/env bash
# Stops the Ray head that up.sh started, and no other Ray.
# usage: [DASHBOARD_PORT=8265] cluster/local/down.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
pid_file="runs/ray-head-${DASHBOARD_PORT:-8265}.pid"
if [ ! -f "$pid_file" ]; then
    echo "no head to stop: $pid_file does not exist" >&2
    exit 0
fi
pid="$(cat "$pid_file")"
kill -TERM "$pid" 2>/dev/null || true
for _ in $(seq 60); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.5
done
# The head's own processes get the signal from `ray start --block`; what outlived it shares its process group.
kill -KILL -- "-$pid" 2>/dev/null || true
rm -f "$pid_file"
