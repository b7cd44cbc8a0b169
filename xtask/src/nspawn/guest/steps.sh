# shellcheck shell=bash
# Begins what runs in a guest. Each step says how it went: `guest: ok` or `guest: FAILED`; the last line is `guest: end`.
exec 2>&1
ok() { echo "guest: ok $*"; }
failed() { echo "guest: FAILED $*"; }
expect() { # what, expected, found
    if [ "$2" = "$3" ]; then ok "$1"; else failed "$1: $3, not $2"; fi
}
within() { # a condition, awaited
    for _ in $(seq 200); do
        eval "$1" >/dev/null 2>&1 && return 0
        sleep 0.05
    done
    return 1
}

