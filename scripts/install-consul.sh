#!/usr/bin/env bash
# Installs a Consul agent for the tests marked `needs consul`, from Debian's bullseye suite (Consul 1.8.7).
#
# Debian dropped the package after bullseye. The suite is read from the mirror this machine already uses, with a
# sources list, package lists and cache of its own in a temporary directory: the machine's sources, priorities and
# lists, and its package database, stay as they are. Does nothing when `consul` is already there.
#
# Exit codes: 0 installed (or already there), 1 it failed, 3 this machine cannot do it and the text says how to get it.
set -euo pipefail

readonly SUITE=bullseye
readonly TARGET=/usr/local/bin/consul
readonly KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

say() { printf 'install-consul: %s\n' "$*" >&2; }

elsewhere() {
    say "$1"
    cat >&2 <<'TEXT'
install-consul: get a Consul agent (1.8 or newer) in one of these ways and run again:
install-consul:   - your package manager: apt on Debian 11, brew on macOS, or HashiCorp's own package repository
install-consul:   - the container image the Consul project publishes: copy /bin/consul out of hashicorp/consul
install-consul: any directory on PATH will do; or set CONSUL_BIN to the binary's path
TEXT
    exit 3
}

# The mirror of the machine's own Debian suite, from deb822 (*.sources) or one-line (*.list) files.
mirror() {
    local codename=$1 files=()
    shopt -s nullglob
    files=(/etc/apt/sources.list.d/*.sources)
    if ((${#files[@]})); then
        awk -v codename="$codename" '
            function flush(   n, words, i, u, uris) {
                if (type ~ /(^| )deb( |$)/ && enabled != "no") {
                    n = split(suites, words, " ")
                    for (i = 1; i <= n; i++) if (words[i] == codename) {
                        split(uri, uris, " "); print uris[1]
                    }
                }
                type = uri = suites = enabled = ""
            }
            /^#/ { next }
            /^[[:space:]]*$/ { flush(); next }
            { key = tolower($1); value = $0; sub(/^[^:]*:[[:space:]]*/, "", value) }
            key == "types:" { type = value }
            key == "uris:" { uri = value }
            key == "suites:" { suites = value }
            key == "enabled:" { enabled = value }
            END { flush() }
        ' < <(for file in "${files[@]}"; do cat "$file"; echo; done)
    fi
    files=(/etc/apt/sources.list /etc/apt/sources.list.d/*.list)
    local existing=() file
    for file in "${files[@]}"; do [[ -r $file ]] && existing+=("$file"); done
    if ((${#existing[@]})); then
        sed -nE 's/^deb[[:space:]]+(\[[^]]*\][[:space:]]+)?([^[:space:]]+)[[:space:]]+'"$codename"'[[:space:]].*/\2/p' \
            "${existing[@]}"
    fi
}

main() {
    if [[ -n ${CONSUL_BIN:-} && -x $CONSUL_BIN ]]; then
        say "using $CONSUL_BIN"
        return
    fi
    if command -v consul >/dev/null; then
        say "already there: $(command -v consul)"
        return
    fi
    [[ -r /etc/os-release ]] || elsewhere "this is no Debian"
    # shellcheck disable=SC1091
    . /etc/os-release
    [[ ${ID:-} == debian && -n ${VERSION_CODENAME:-} ]] || elsewhere "this is ${PRETTY_NAME:-unknown}, not Debian"
    [[ $(id -u) == 0 ]] || elsewhere "not root, so no package can be installed"
    [[ -r $KEYRING ]] || elsewhere "no Debian archive keyring at $KEYRING (package debian-archive-keyring)"

    local uri
    uri=$(mirror "$VERSION_CODENAME" | head -n 1)
    [[ -n $uri ]] || elsewhere "no apt source of this machine carries the suite $VERSION_CODENAME"

    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work"/{lists/partial,cache/archives/partial,deb}
    printf 'deb [signed-by=%s] %s %s main\n' "$KEYRING" "$uri" "$SUITE" >"$work/sources.list"
    # apt's sandbox user must be able to read and write here.
    chmod -R a+rX "$work"
    chmod a+rwx "$work/deb"
    local options=(
        -o "Dir::Etc::sourcelist=$work/sources.list" -o "Dir::Etc::sourceparts=-"
        -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache"
        -o "Acquire::Languages=none" -o "Acquire::Check-Valid-Until=false" -o "Acquire::Retries=3"
    )
    say "fetching the package from the suite $SUITE"
    apt-get -qq "${options[@]}" update
    (cd "$work/deb" && apt-get -qq "${options[@]}" download consul)
    # Only the binary: the package's dependencies, service unit and user are of no use to tests.
    dpkg-deb -x "$work"/deb/consul_*.deb "$work/root"
    install -m 755 "$work/root/usr/bin/consul" "$TARGET"
    say "installed $TARGET: $("$TARGET" version | head -n 1)"
}

main "$@"
