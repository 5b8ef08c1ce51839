#!/usr/bin/env bash
# Builds a current Consul agent; see build-once.sh for where it is and the exit codes.
#
# Consul cannot be installed by `go install`, because its go.mod replaces its own submodules; a module that requires it can build it,
# from the submodules as they are published.
source "$(dirname "${BASH_SOURCE[0]}")/build-once.sh"

readonly VERSION=1.22.5
readonly MODULE=github.com/hashicorp/consul

build() {
    say "building Consul $VERSION, once for this machine: up to 20 minutes on two cores"
    # What Go and this module are told about each other elsewhere does not count here.
    export GOWORK=off GOFLAGS=-mod=mod
    modules require
    compile "$MODULE"
    ./built version >/dev/null
}

require() { go mod init consulbuild && go get "$MODULE@v$VERSION"; }

once "consul-$VERSION"
