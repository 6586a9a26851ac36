#!/bin/sh
# Runs tests and adds them up.
#   run.sh                     everything: what `make test` runs; ends in "N passed, N failed, N skipped"
#   run.sh c DIR PROGRAM...    unit-test programs of one build
#   run.sh fuzz DIR PROGRAM... fuzz targets over their committed corpus
set -u
cd "$(dirname "$0")/.." || exit 1
passed=0 failed=0 skipped=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=1}" UBSAN_OPTIONS="${UBSAN_OPTIONS:-print_stacktrace=1}"

# count NAME STATUS: adds what the program in $log reported; a program that died or reported nothing is one failure.
count() {
    p=$(grep -cE '^\[ +OK +\]|^ok ' "$log")
    s=$(grep -cE '^\[ +SKIPPED +\] [^0-9]|^skip ' "$log")
    f=$(grep -cE '^\[ +FAILED +\] [^0-9]|^not ok ' "$log")
    [ "$2" -eq 0 ] || [ "$f" -gt 0 ] || f=1
    [ $((p + s + f)) -gt 0 ] || f=1
    # cmocka lists failures twice: once as they happen and once at the end.
    u=$(grep -E '^\[ +FAILED +\] [^0-9]|^not ok ' "$log" | sort -u | wc -l)
    [ "$u" -gt 0 ] && f=$u
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    printf '%-48s %4d passed, %d failed%s\n' "$1" "$p" "$f" "$([ "$s" -gt 0 ] && echo ", $s skipped")"
    [ "$f" -eq 0 ] || sed 's/^/    /' "$log" | grep -vE '\[ +(OK|RUN) +\]' | tail -n 60
}
programs() {
    dir=$1
    shift
    for t in "$@"; do
        timeout 300 "$t" >"$log" 2>&1
        count "${t#build/}" $?
    done
}
# sub WHAT COMMAND...: a command that itself ends in a line "N passed, N failed[, N skipped]".
sub() {
    what=$1
    shift
    "$@" >"$log" 2>&1
    status=$?
    last=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$log" | tail -n 1)
    if [ -z "$last" ] || { [ $status -ne 0 ] && [ "$(echo "$last" | cut -d' ' -f3)" = 0 ]; }; then
        failed=$((failed + 1))
        echo "$what: failed (exit $status)"
        tail -n 60 "$log" | sed 's/^/    /'
        return
    fi
    set -- $last
    passed=$((passed + $1)) failed=$((failed + $3)) skipped=$((skipped + ${5:-0}))
    printf '%-48s %s\n' "$what" "$last"
    [ "$3" -eq 0 ] || sed 's/^/    /' "$log" | tail -n 120
}

case "${1:-all}" in
c) shift; programs "$@" ;;
fuzz)
    shift 2
    for t in "$@"; do
        "$t" "tests/fuzz/corpus/$(basename "$t" | sed 's/^fuzz_//')" >"$log" 2>&1
        count "${t#build/}" $?
    done ;;
all)
    make="make --no-print-directory -j$(nproc)"
    sub "lint" tools/lint.sh
    sub "unit tests" $make test-c
    sub "fuzz corpus" $make fuzz-replay SAN=address,undefined
    sub "unit tests, address and undefined" $make test-c SAN=address,undefined
    sub "unit tests, thread" $make test-c SAN=thread
    [ -f tests/py/run.py ] && sub "tools" /usr/bin/python3 tests/py/run.py
    [ -f tests/http/run.sh ] && sub "http" tests/http/run.sh
    [ -f tests/web/run.sh ] && sub "web" tests/web/run.sh
    [ -f tests/deploy/run.sh ] && sub "deploy" tests/deploy/run.sh
    ;;
esac
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
