#!/usr/bin/env bash
# Builds a current Consul agent from its Go modules, once per machine, and prints where it is.
#
# It lies outside of the checkout, so that every checkout and every user's run shares it: in SWITCHBOARD_CACHE, or
# ${XDG_CACHE_HOME:-~/.cache}/switchboard. Consul cannot be installed by `go install`, because its go.mod replaces its own
# submodules; a module that requires it can build it, from the submodules as they are published.
#
# Exit codes: 0 its path is on standard output, 1 it failed, 3 this machine cannot do it and the text says why.
set -euo pipefail

readonly VERSION=1.22.5
readonly MODULE=github.com/hashicorp/consul

say() { printf 'build-consul: %s\n' "$*" >&2; }
cannot() {
    say "$*"
    exit 3
}

main() {
    local home=${XDG_CACHE_HOME:-${HOME:-}/.cache}
    local cache=${SWITCHBOARD_CACHE:-$home/switchboard}
    [[ $cache == /* ]] || cannot "no cache directory: set SWITCHBOARD_CACHE to an absolute path"
    local binary=$cache/consul-$VERSION
    if [[ ! -x $binary ]]; then
        command -v go >/dev/null || cannot "the Go toolchain is missing; get it from your package manager or go.dev"
        mkdir -p "$cache"
        # Of two builders one waits, and finds it done. Without flock both build, and the later replaces the same file.
        exec 9>"$binary.lock"
        if command -v flock >/dev/null; then flock 9; fi
        [[ -x $binary ]] || build "$binary"
    fi
    echo "$binary"
}

build() {
    local binary=$1
    # Not local: the trap runs when this has returned.
    work=$(mktemp -d "$binary.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    say "building Consul $VERSION, once for this machine: up to 20 minutes on two cores"
    cd "$work"
    # What Go and this module are told about each other elsewhere does not count here.
    export GOWORK=off GOFLAGS=-mod=mod
    if ! { go mod init consulbuild && go get "$MODULE@v$VERSION"; } >log 2>&1; then
        tail -n 5 log >&2
        cannot "its modules cannot be had, or $(go version | cut -d ' ' -f 3) is too old for them"
    fi
    if ! go build -o consul "$MODULE" >log 2>&1; then
        tail -n 20 log >&2
        say "the build failed"
        exit 1
    fi
    ./consul version >/dev/null
    mv consul "$binary"
    say "built $binary"
}

main "$@"
