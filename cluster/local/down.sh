#!/usr/bin/env bash
# Stops every Ray process that this user runs on this machine.
set -euo pipefail
cd "$(dirname "$0")/../.."
.venv/bin/ray stop
