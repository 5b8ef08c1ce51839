#!/usr/bin/env bash
# Builds Kubernetes' API server; see build-once.sh for where it is and the exit codes.
#
# It cannot be installed by `go install`, because its go.mod replaces the modules it is made of by its own folders; a module that
# requires it can build it, from those modules as they are published.
source "$(dirname "${BASH_SOURCE[0]}")/build-once.sh"

readonly VERSION=31.4
readonly MODULE=k8s.io/kubernetes

build() {
    say "building Kubernetes' API server 1.$VERSION, once for this machine: up to 30 minutes on two cores"
    # What Go and this module are told about each other elsewhere does not count here. One package at a time: some of
    # them take a gigabyte to compile.
    export GOWORK=off GOFLAGS="-mod=mod -p=1"
    modules require
    compile -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=v1.$VERSION" "$MODULE/cmd/kube-apiserver"
    ./built --version >/dev/null
}

require() {
    local parts
    go mod init kubebuild && parts=$(own_modules) && replace "$parts" && go get "$MODULE@v1.$VERSION"
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

once "kube-apiserver-1.$VERSION"
