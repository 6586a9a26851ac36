#!/bin/sh
# HTTP tests with the real OpenAI client. Ends in "N passed, N failed". An argument picks tests by name.
# WEIR_BIN: another binary than ./weir; WEIR_TEST_MODEL: another model than the bundled one; WEIR_TEST_ARGS: more flags.
cd "$(dirname "$0")" || exit 1
if [ ! -d node_modules/openai ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
    npm ci --no-audit --no-fund --loglevel=error || { echo "0 passed, 1 failed"; exit 1; }
fi
exec node main.mjs "$@"
