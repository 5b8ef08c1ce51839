#!/usr/bin/env bash
# Unpacks a rustc of one version from Debian's packages into a directory, and installs nothing.
#
#   scripts/debian-rustc.sh 1.85 DIRECTORY     then DIRECTORY/rustc is that compiler
#
# Debian keeps several versions of Rust as rustc-web (and, in later releases, rustc-1.85); whatever the machine's own
# sources offer is used. Exit code 3: this machine offers none.
set -euo pipefail

version=$1
directory=$2

[[ -x $directory/rustc ]] && exit 0
command -v apt-get dpkg-deb >/dev/null || exit 3

# The newest package version that begins with the wanted one.
exact=$(apt-cache madison rustc-web | awk -F' *[|] *' -v wanted="$version." 'index($2, wanted) == 1 { print $2; exit }')
[[ -n $exact ]] || exit 3
llvm=$(apt-cache show "rustc-web=$exact" "libstd-rust-web-$version=$exact" |
    grep -oE 'libllvm[0-9]+(\.[0-9]+)?' | sort -u | tail -n 1)

mkdir -p "$directory/debs" "$directory/root"
cd "$directory/debs"
apt-get download --quiet "rustc-web=$exact" "libstd-rust-web-dev=$exact" "libstd-rust-web-$version=$exact" "$llvm"
for deb in *.deb; do dpkg-deb --extract "$deb" ../root; done
cd ..
rm -r debs

cat >rustc <<'WRAPPER'
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")/root/usr
LD_LIBRARY_PATH=$(echo "$here"/lib "$here"/lib/*-linux-gnu* | tr ' ' :) exec "$here/bin/rustc" "$@"
WRAPPER
chmod +x rustc
./rustc --version
