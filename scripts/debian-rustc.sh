#!/usr/bin/env bash
# Unpacks a rustc from Debian's packages, once per machine, and prints where it is. It installs nothing.
#
#   scripts/debian-rustc.sh 1.85             that version
#   scripts/debian-rustc.sh 1.88+ source     the newest, if it is no older than that, and what compiling for other systems takes:
#                                            the source of its standard library, which cargo's -Zbuild-std builds for them
#
# It lies outside of the checkout, so that every checkout shares it: in SWITCHBOARD_CACHE, or ${XDG_CACHE_HOME:-~/.cache}/switchboard.
# Whatever the machine's own sources offer is used: Debian keeps several versions of Rust as rustc-web, and one as rustc.
#
# Exit codes: 0 its path is on standard output, 1 it failed, 3 this machine has none and the text says why.
set -euo pipefail

say() { printf 'debian-rustc: %s\n' "$*" >&2; }
cannot() {
    say "$*"
    exit 3
}

main() {
    local wanted=$1 source=${2:-} home=${XDG_CACHE_HOME:-${HOME:-}/.cache}
    local cache=${SWITCHBOARD_CACHE:-$home/switchboard}
    [[ $cache == /* ]] || cannot "no cache directory: set SWITCHBOARD_CACHE to an absolute path"
    local version
    version=$(cached "$cache" "$wanted" "$source")
    if [[ -z $version ]]; then
        command -v apt-get apt-cache dpkg-deb >/dev/null || cannot "apt-get and dpkg-deb are missing; this is no Debian"
        find_packages "$wanted" || { apt-get update --quiet >&2 && find_packages "$wanted"; } ||
            cannot "the machine's package sources offer no rustc $wanted"
        mkdir -p "$cache"
        # Of two at once one waits, and finds it done.
        exec 9>"$cache/rust-$version.lock"
        if command -v flock >/dev/null; then flock 9; fi
        [[ -x $cache/rust-$version/rustc ]] || unpack "$cache/rust-$version"
        [[ -z $source || -e $cache/rust-$version/source ]] || unpack_source "$cache/rust-$version"
    fi
    echo "$cache/rust-$version/rustc"
}

# The newest version that is wanted, if any, of those that are unpacked.
cached() {
    local cache=$1 wanted=$2 source=$3 rust
    for rust in "$cache"/rust-*/; do
        [[ -x $rust/rustc && (-z $source || -e $rust/source) ]] || continue
        rust=${rust%/}
        echo "${rust##*/rust-}"
    done | fitting "$wanted" | head -n 1
}

# Of versions, one a line, with anything behind: those that are wanted, newest first.
fitting() {
    sort --version-sort --reverse | awk -v wanted="$1" '
        function number(version, parts) { split(version, parts, "."); return parts[1] * 10000 + parts[2] }
        wanted ~ /[+]$/ ? number($1) >= number(wanted) : number($1) == number(wanted)'
}

# Sets version, family and exact to those of the newest packages that are wanted.
find_packages() {
    read -r exact family < <(
        for family in -web ''; do
            apt-cache madison "rustc$family" | awk -F' *[|] *' -v family="$family" '{ print $2, family }'
        done | fitting "$1"
    ) || return 1
    version=$(cut -d . -f 1,2 <<<"$exact")
}

unpack() {
    local rust=$1 llvm
    llvm=$(apt-cache show "rustc$family=$exact" "libstd-rust$family-$version=$exact" |
        grep -oE 'libllvm[0-9]+(\.[0-9]+)?' | sort -u | tail -n 1)
    # Not local: the trap runs when this has returned.
    work=$(mktemp -d "$rust.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    download "rustc$family=$exact" "libstd-rust$family-dev=$exact" "libstd-rust$family-$version=$exact" "$llvm"
    mkdir "$work/rust"
    local deb
    for deb in "$work"/*.deb; do
        dpkg-deb --extract "$deb" "$work/rust"
    done
    cat >"$work/rust/rustc" <<'WRAPPER'
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")/usr
LD_LIBRARY_PATH=$(echo "$here"/lib "$here"/lib/*-linux-gnu* | tr ' ' :) exec "$here/bin/rustc" "$@"
WRAPPER
    chmod +x "$work/rust/rustc"
    "$work/rust/rustc" --version >&2
    rm -rf "$rust"
    mv "$work/rust" "$rust"
    rm -rf "$work"
}

unpack_source() {
    local rust=$1
    work=$(mktemp -d "$rust.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    download "rust$family-src=$exact"
    # Of the compiler's source only what is compiled for other systems.
    dpkg-deb --fsys-tarfile "$work"/*.deb |
        tar --extract --directory "$rust" --wildcards './usr/src/*/library/*' './usr/lib/rustlib/src*'
    for_windows "$rust"
    touch "$rust/source"
    rm -rf "$work"
}

# Downloads packages into the directory at work.
download() {
    (cd "$work" && apt-get download --quiet "$@" >&2)
}

# What programs for Windows begin and end with is no crate, so that cargo does not build it.
for_windows() {
    local target=x86_64-pc-windows-gnu
    local into=$1/usr/lib/rustlib/$target/lib source object
    source=$(echo "$1"/usr/src/*/library/rtstartup)
    mkdir -p "$into"
    for object in rsbegin rsend; do
        RUSTC_BOOTSTRAP=1 "$1/rustc" --target "$target" --crate-type lib --emit obj -o "$into/$object.o" "$source/$object.rs"
    done
}

main "$@"
