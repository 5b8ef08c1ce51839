#!/usr/bin/env bash
# Makes a Wine prefix in which programs of Rust run.
#
#   scripts/wine-prefix.sh DIRECTORY
#
# Exit codes: 0 it is there, 1 it failed. It needs wine, and before Wine 9 x86_64-w64-mingw32-gcc.
set -euo pipefail

export WINEPREFIX=$1 WINEDEBUG=-all
# Without .NET and a browser, which Wine would offer to fetch.
export WINEDLLOVERRIDES='mscoree,mshtml='

[[ -e $WINEPREFIX/made ]] && exit 0
mkdir -p "$WINEPREFIX"
wine wineboot --init >&2
# Its server makes the sockets, and must not stay in the network that this runs in.
server=$(command -v wineserver || echo /usr/lib/wine/wineserver)
"$server" --wait

# Rust's standard library takes random numbers from a library that came with Wine 9.
random=$WINEPREFIX/drive_c/windows/system32/bcryptprimitives.dll
if [[ ! -e $random ]]; then
    x86_64-w64-mingw32-gcc -shared -o "$random" -x c - -ladvapi32 <<'C'
#include <stddef.h>

/* RtlGenRandom */
unsigned char __stdcall SystemFunction036(void *bytes, unsigned long length);

__declspec(dllexport) int __stdcall ProcessPrng(unsigned char *bytes, size_t length)
{
    return SystemFunction036(bytes, (unsigned long)length);
}
C
fi
touch "$WINEPREFIX/made"
