#!/bin/sh
# rustdoc as docs.rs runs it: with the labels that say which feature an item needs. They are not stable, so stable Rust is told
# to let them through; told here rather than to cargo, which would build every dependency anew for it.
RUSTC_BOOTSTRAP=1 exec rustdoc --cfg docsrs "$@"
