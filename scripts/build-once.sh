# Builds a program from its Go modules once per machine, and prints where it is; for scripts to be sourced by.
#
# It lies outside of the checkout, so that every checkout and every user's run shares it: in SWITCHBOARD_CACHE, or
# ${XDG_CACHE_HOME:-~/.cache}/switchboard.
#
# Exit codes: 0 its path is on standard output, 1 it failed, 3 this machine cannot do it and the text says why.
# shellcheck shell=bash
set -euo pipefail

say() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; }
cannot() {
    say "$*"
    exit 3
}

# once NAME: the program NAME of the cache, made by the function `build`, which is in a directory of its own and leaves it there as
# `built`. What it prints is in `log`.
once() {
    local home=${XDG_CACHE_HOME:-${HOME:-}/.cache}
    local cache=${SWITCHBOARD_CACHE:-$home/switchboard}
    [[ $cache == /* ]] || cannot "no cache directory: set SWITCHBOARD_CACHE to an absolute path"
    local binary=$cache/$1
    if [[ ! -x $binary ]]; then
        command -v go >/dev/null || cannot "the Go toolchain is missing; get it from your package manager or go.dev"
        mkdir -p "$cache"
        # Of two builders one waits, and finds it done. Without flock both build, and the later replaces the same file.
        exec 9>"$binary.lock"
        if command -v flock >/dev/null; then flock 9; fi
        if [[ ! -x $binary ]]; then
            # Not local: the trap runs when this has returned.
            work=$(mktemp -d "$binary.XXXXXX")
            trap 'rm -rf "$work"' EXIT
            cd "$work"
            build
            mv built "$binary"
            say "built $binary"
        fi
    fi
    echo "$binary"
}

# modules COMMAND…: has the modules fetched, or says that they cannot be had.
modules() {
    if ! "$@" >log 2>&1; then
        tail -n 5 log >&2
        cannot "its modules cannot be had, or $(go version | cut -d ' ' -f 3) is too old for them"
    fi
}

# compile ARGUMENTS…: `go build` with these, into `built`.
compile() {
    if ! go build -o built "$@" >log 2>&1; then
        tail -n 20 log >&2
        say "the build failed"
        exit 1
    fi
}
