#!/usr/bin/env bash
# Unpacks a rustc of one version from Debian's packages, once per machine, and prints where it is. It installs nothing.
#
#   scripts/debian-rustc.sh 1.85
#
# With it comes the source of its standard library, from which cargo's -Zbuild-std builds it for other systems too. It lies
# outside of the checkout, so that every checkout shares it: in SWITCHBOARD_CACHE, or ${XDG_CACHE_HOME:-~/.cache}/switchboard.
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
    local version=$1 home=${XDG_CACHE_HOME:-${HOME:-}/.cache}
    local cache=${SWITCHBOARD_CACHE:-$home/switchboard}
    [[ $cache == /* ]] || cannot "no cache directory: set SWITCHBOARD_CACHE to an absolute path"
    local rust=$cache/rust-$version
    if [[ ! -x $rust/rustc ]]; then
        command -v apt-get dpkg-deb >/dev/null || cannot "apt-get and dpkg-deb are missing; this is no Debian"
        mkdir -p "$cache"
        # Of two at once one waits, and finds it done.
        exec 9>"$rust.lock"
        if command -v flock >/dev/null; then flock 9; fi
        [[ -x $rust/rustc ]] || unpack "$version" "$rust"
    fi
    echo "$rust/rustc"
}

unpack() {
    local version=$1 rust=$2 family exact llvm
    find_packages "$version" || { apt-get update --quiet >&2 && find_packages "$version"; } ||
        cannot "the machine's package sources offer no rustc $version"

    # Not local: the trap runs when this has returned.
    work=$(mktemp -d "$rust.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    mkdir "$work/debs" "$work/rust"
    (
        cd "$work/debs"
        apt-get download --quiet "rustc$family=$exact" "libstd-rust$family-dev=$exact" \
            "libstd-rust$family-$version=$exact" "rust$family-src=$exact" "$llvm" >&2
        local deb
        for deb in *.deb; do
            case $deb in
            # Of the compiler's source only what is compiled for other systems.
            rust*-src_*) dpkg-deb --fsys-tarfile "$deb" |
                tar --extract --directory ../rust --wildcards './usr/src/*/library/*' './usr/lib/rustlib/src*' ;;
            *) dpkg-deb --extract "$deb" ../rust ;;
            esac
        done
    )
    cat >"$work/rust/rustc" <<'WRAPPER'
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")/usr
LD_LIBRARY_PATH=$(echo "$here"/lib "$here"/lib/*-linux-gnu* | tr ' ' :) exec "$here/bin/rustc" "$@"
WRAPPER
    chmod +x "$work/rust/rustc"
    "$work/rust/rustc" --version >&2
    for_windows "$work/rust"
    rm -rf "$rust"
    mv "$work/rust" "$rust"
}

# Sets family, exact and llvm to those of the newest packages whose version begins with the wanted one.
find_packages() {
    for family in -web ''; do
        exact=$(apt-cache madison "rustc$family" |
            awk -F' *[|] *' -v wanted="$1." 'index($2, wanted) == 1 { print $2; exit }')
        [[ -n $exact ]] || continue
        llvm=$(apt-cache show "rustc$family=$exact" "libstd-rust$family-$1=$exact" |
            grep -oE 'libllvm[0-9]+(\.[0-9]+)?' | sort -u | tail -n 1)
        return 0
    done
    return 1
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
