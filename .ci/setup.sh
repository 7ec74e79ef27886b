#!/usr/bin/env bash
# Set-up in parts: `environment` makes ./.venv as uv.lock says; `demo-tools` and `test-tools` look for the programs that the demo
# and the tests run for real.
# What is missing is installed with apt when root; else one line says what to install. A second run finds all there in a moment.
set -euo pipefail
cd "$(dirname "$0")/.."

UV_VERSION=0.13.9 # uv.lock is written and checked by this one, so that nobody's newer uv finds it out of date
STAMP=.setup/environment

apt_install() {
    local log
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    echo "set-up: installing with apt: $*"
    for _ in 1 2; do
        if { apt-get -o DPkg::Lock::Timeout=300 -qq update && # only ever reached when something is missing
            apt-get -o DPkg::Lock::Timeout=300 -qq -y --no-install-recommends install "$@"; } </dev/null >"$log" 2>&1; then
            rm -f "$log"
            return 0
        fi
    done
    tail -n 20 "$log" >&2
    rm -f "$log"
    echo "set-up: apt could not install: $*; install them by hand, then run make again" >&2
    exit 1
}

need() { # need PACKAGE...: install them, or say what is missing
    if [ "$#" -eq 0 ]; then return 0; fi
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt_install "$@"
    else
        echo "set-up: missing: $*; install with: sudo apt-get install --no-install-recommends $*" >&2
        exit 1
    fi
}

version_of() { "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null || echo none; }

environment() {
    local python="${PYTHON:-python3}" version key
    command -v "$python" >/dev/null || need python3
    version=$(version_of "$python")
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "set-up: $python is Python $version; wicketgate needs 3.11 or newer: make PYTHON=python3.12 ..." >&2
        exit 1
    fi
    key="$version $(cat pyproject.toml uv.lock .ci/setup.sh | sha256sum | cut -d' ' -f1)"
    mkdir -p .setup
    exec 9>.setup/lock # two makes at once would pull the environment from under each other
    flock 9
    if [ -x .venv/bin/wicketgate ] && [ -x .venv/bin/uv ] && [ "$(cat "$STAMP" 2>/dev/null)" = "$key" ]; then
        return 0
    fi
    echo "set-up: making .venv with Python $version"
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then need python3-venv; fi
    if [ "$(version_of .venv/bin/python)" != "$version" ] || ! .venv/bin/python -c 'import pip' 2>/dev/null; then
        rm -rf .venv
        "$python" -m venv .venv
    fi
    if [ "$(.venv/bin/uv --version 2>/dev/null | cut -d' ' -f2)" != "$UV_VERSION" ]; then
        .venv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION"
    fi
    # 9>&-: whatever the installer leaves running must not hold the lock.
    .venv/bin/uv sync --frozen --quiet 9>&-
    echo "$key" >"$STAMP"
}

demo_tools() {
    { command -v ssh && command -v ssh-keygen; } >/dev/null || need openssh-client
}

test_tools() {
    local missing=()
    command -v git >/dev/null || missing+=(git)
    [ -x /usr/sbin/sshd ] || missing+=(openssh-server)
    { command -v ssh && command -v scp && command -v sftp; } >/dev/null || missing+=(openssh-client)
    command -v rsync >/dev/null || missing+=(rsync)
    command -v chromium >/dev/null || missing+=(chromium)
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || missing+=(postgresql)
    command -v tmux >/dev/null || missing+=(tmux)
    { command -v vim || command -v vim.tiny; } >/dev/null || missing+=(vim-tiny)
    compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || missing+=(libfaketime)
    command -v systemd-analyze >/dev/null || missing+=(systemd)
    command -v script >/dev/null || missing+=(bsdutils)
    command -v ps >/dev/null || missing+=(procps)
    command -v softhsm2-util >/dev/null || missing+=(softhsm2)
    [ -d /usr/share/fonts/truetype/dejavu ] || missing+=(fonts-dejavu-core)
    [ -d /usr/share/fonts/truetype/liberation ] || [ -d /usr/share/fonts/truetype/liberation2 ] || missing+=(fonts-liberation)
    need ${missing[@]+"${missing[@]}"}
}

case "${1:-}" in
environment) environment ;;
demo-tools) demo_tools ;;
test-tools) test_tools ;;
*)
    echo "usage: .ci/setup.sh environment|demo-tools|test-tools" >&2
    exit 2
    ;;
esac
