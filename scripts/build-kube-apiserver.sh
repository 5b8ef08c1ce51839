#!/usr/bin/env bash
# Builds Kubernetes' API server from its Go modules, once per machine, and prints where it is.
#
# It lies outside of the checkout, so that every checkout and every user's run shares it: in SWITCHBOARD_CACHE, or
# ${XDG_CACHE_HOME:-~/.cache}/switchboard. It cannot be installed by `go install`, because its go.mod replaces the modules
# it is made of by its own folders; a module that requires it can build it, from those modules as they are published.
#
# Exit codes: 0 its path is on standard output, 1 it failed, 3 this machine cannot do it and the text says why.
set -euo pipefail

readonly VERSION=31.4
readonly MODULE=k8s.io/kubernetes

say() { printf 'build-kube-apiserver: %s\n' "$*" >&2; }
cannot() {
    say "$*"
    exit 3
}

main() {
    local home=${XDG_CACHE_HOME:-${HOME:-}/.cache}
    local cache=${SWITCHBOARD_CACHE:-$home/switchboard}
    [[ $cache == /* ]] || cannot "no cache directory: set SWITCHBOARD_CACHE to an absolute path"
    local binary=$cache/kube-apiserver-1.$VERSION
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
    local binary=$1 parts part
    # Not local: the trap runs when this has returned.
    work=$(mktemp -d "$binary.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    say "building Kubernetes' API server 1.$VERSION, once for this machine: up to 30 minutes on two cores"
    cd "$work"
    # What Go and this module are told about each other elsewhere does not count here. One package at a time: some of
    # them take a gigabyte to compile.
    export GOWORK=off GOFLAGS="-mod=mod -p=1"
    if ! { go mod init kubebuild && parts=$(own_modules) && replace "$parts" && go get "$MODULE@v1.$VERSION"; } >log 2>&1; then
        tail -n 5 log >&2
        cannot "its modules cannot be had, or $(go version | cut -d ' ' -f 3) is too old for them"
    fi
    local flags="-s -w -X k8s.io/component-base/version.gitVersion=v1.$VERSION"
    if ! go build -ldflags "$flags" -o kube-apiserver "$MODULE/cmd/kube-apiserver" >log 2>&1; then
        tail -n 20 log >&2
        say "the build failed"
        exit 1
    fi
    ./kube-apiserver --version >/dev/null
    mv kube-apiserver "$binary"
    say "built $binary"
}

# The modules that Kubernetes' own go.mod takes from its folders.
own_modules() {
    local manifest
    manifest=$(go mod download -json "$MODULE@v1.$VERSION" | sed -n 's/^.*"GoMod": "\(.*\)",$/\1/p')
    sed -n 's#^\s*\(k8s.io/[^ ]*\) => ./staging/.*$#\1#p' "$manifest"
}

replace() {
    local part
    for part in $1; do
        go mod edit -replace "$part=$part@v0.$VERSION"
    done
}

main "$@"
