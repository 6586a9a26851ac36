#!/bin/sh
# Format, include layers, sizes, static analysis. Ends in "N passed, N failed".
set -u
cd "$(dirname "$0")/.." || exit 1
passed=0 failed=0
result() { # NAME OUTPUT
    if [ -z "$2" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'not ok %s\n%s\n' "$1" "$2"
    fi
}
c_files=$(git ls-files -co --exclude-standard '*.c' '*.h')

result format "$(clang-format --dry-run --Werror $c_files 2>&1 | grep -E 'error:' | head -n 20)"

# A folder includes only itself and those above it in this order.
layers="base policy model kernel device engine server node cli"
result layers "$(git ls-files -co --exclude-standard 'src/*.c' 'src/*.h' | while read -r f; do
    [ -f "$f" ] || continue
    own=$(echo "$f" | cut -d/ -f2)
    allowed=
    for l in $layers; do
        allowed="$allowed $l"
        [ "$l" = "$own" ] && break
    done
    sed -n 's/^#include "\([^/"]*\)\/.*/\1/p' "$f" | sort -u | while read -r used; do
        case " $allowed " in
        *" $used "*) ;;
        *) echo "$f: src/$own must not include $used/" ;;
        esac
    done
    grep -nE '^#include "[^/"]*"' "$f" | sed "s|^|$f: include by folder: |"
done)"

# The policy core is pure: no clock, thread, I/O, allocation outside create/destroy is checked by review.
result pure "$(grep -nE '#include <(pthread|time|unistd|stdio|fcntl|sys/.*|poll|signal)\.h>|base/(clock|log|file|ring)\.h' \
    src/policy/*.c src/policy/*.h 2>/dev/null)"

# Time is read in one place.
result clock "$(grep -nE '\b(clock_gettime|gettimeofday|time\(NULL\))' $(git ls-files 'src/*.c') /dev/null | grep -v '^src/base/clock.c')"

result marks "$(git ls-files -co --exclude-standard 'src/*' 'tests/*.c' 'tests/*.h' 'tools/*' Makefile | grep -v tools/lint.sh |
    xargs grep -nE '\b(TODO|FIXME|XXX|HACK)\b' 2>/dev/null | head)"

result makefile "$([ "$(wc -l <Makefile)" -lt 300 ] || echo 'Makefile: 300 lines or more')"

result cppcheck "$(cppcheck --quiet --std=c11 --enable=warning,portability --inline-suppr --suppress=normalCheckLevelMaxBranches \
    --suppress=missingIncludeSystem -j2 -Isrc $(git ls-files 'src/*.c' | grep -v '^src/kernel/') 2>&1 | head -n 20)"

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
