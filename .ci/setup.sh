#!/usr/bin/env bash
# Set-up in two parts: `environment` makes ./.venv from uv.lock, `test-tools` looks for the programs the tests run for real.
# As root what is missing is installed with apt; else one line says exactly what to install.
set -eu
cd "$(dirname "$0")/.."

apt_install() {
    echo "set-up: installing $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1 && return 0
    apt-get update -qq >/dev/null && apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

need() { # need PACKAGE...: install them, or say what is missing
    if [ "$#" -eq 0 ]; then return 0; fi
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt_install "$@"
    else
        echo "set-up: missing: $*; install with: sudo apt-get install $*" >&2
        exit 1
    fi
}

environment() {
    local python="${PYTHON:-python3}" version
    command -v "$python" >/dev/null || need python3
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "set-up: $python is Python $version; wicketgate needs 3.11 or newer (PYTHON=python3.12 make ...)" >&2
        exit 1
    fi
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then need python3-venv; fi
    if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c 'import pip' 2>/dev/null; then
        rm -rf .venv
        "$python" -m venv .venv
    fi
    [ -x .venv/bin/uv ] || .venv/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9'
    .venv/bin/uv sync --frozen --quiet --inexact
}

test_tools() {
    local missing=()
    [ -x /usr/sbin/sshd ] || missing+=(openssh-server)
    command -v ssh >/dev/null && command -v scp >/dev/null || missing+=(openssh-client)
    command -v chromium >/dev/null || missing+=(chromium)
    ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing+=(postgresql)
    command -v systemd-analyze >/dev/null || missing+=(systemd)
    command -v script >/dev/null || missing+=(bsdutils)
    command -v ps >/dev/null || missing+=(procps)
    [ -d /usr/share/fonts/truetype/dejavu ] || missing+=(fonts-dejavu-core)
    need "${missing[@]}"
}

case "${1:-}" in
environment) environment ;;
test-tools) test_tools ;;
*)
    echo "usage: .ci/setup.sh environment|test-tools" >&2
    exit 2
    ;;
esac
