#!/bin/sh
# The dashboard in Debian's Chromium. Ends in "N passed, N failed". An argument picks tests by name.
# WEIR_BIN: another binary than ./weir. WEIR_SHOTS: a folder for screenshots.
cd "$(dirname "$0")" || exit 1
for d in . ../http ../../web; do
    (cd "$d" && { [ node_modules/.package-lock.json -nt package-lock.json ] || npm ci --no-audit --no-fund --loglevel=error; }) ||
        { echo "0 passed, 1 failed"; exit 1; }
done
exec node main.mjs "$@"
