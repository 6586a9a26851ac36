#!/bin/sh
# deploy/ with the tools of those who read it: promtool and a real Prometheus. Ends in "N passed, N failed".
cd "$(dirname "$0")" || exit 1
(cd ../http && { [ node_modules/.package-lock.json -nt package-lock.json ] || npm ci --no-audit --no-fund --loglevel=error; }) ||
    { echo "0 passed, 1 failed"; exit 1; }
PROMETHEUS_BIN=$(../../tools/prometheus.sh "$(cd ../.. && pwd)/build/prometheus") || { echo "0 passed, 1 failed"; exit 1; }
export PROMETHEUS_BIN
exec node main.mjs "$@"
