#!/usr/bin/env bash
# Renew the vendored web assets; needs npm, and is never run by the build or the tests.
#   renew.sh            fetch, unpack, write SHA256SUMS anew (look at the difference before you commit it)
#   renew.sh --check    hold the files against SHA256SUMS
# The player's one-file build is taken: its terminal is WebAssembly inside the script, so a page needs
# `script-src 'self' 'wasm-unsafe-eval'` and no worker-src; it sets no inline style, so `style-src 'self'` holds.
set -euo pipefail
PLAYER=3.17.0

cd "$(dirname "$0")"
if [ "${1:-}" = --check ]; then exec sha256sum --check --strict --quiet SHA256SUMS; fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unpack() { # unpack PACKAGE@VERSION FOLDER: npm checks the archive against the registry's hash
    mkdir "$work/$2"
    (cd "$work" && tar -xzf "$(npm pack --silent "$1")" -C "$2" --strip-components=1)
}
unpack "asciinema-player@$PLAYER" player
unpack solid-js@1 solid

install -m 644 "$work/player/dist/bundle/asciinema-player.min.js" "$work/player/dist/bundle/asciinema-player.css" .
{
    echo "asciinema-player $PLAYER (asciinema-player.min.js, asciinema-player.css), by Marcin Kulik."
    echo "Its terminal emulator avt, compiled into it, is by the same author under the same licence."
    echo
    cat "$work/player/LICENSE"
    printf '\n%s\n\n' "----- compiled into asciinema-player.min.js: solid-js and solid-transition-group, by Ryan Carniato -----"
    cat "$work/solid/LICENSE"
} >LICENSES
find . -type f ! -name SHA256SUMS ! -name renew.sh -printf '%P\n' | LC_ALL=C sort | xargs sha256sum >SHA256SUMS
cat SHA256SUMS
