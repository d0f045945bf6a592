#!/bin/bash
# Installs what building, the demo and the tests need, on Debian 12, as root.
# Quick when all is there. Nothing is asked, nothing is removed.
set -euo pipefail

packages=(
    # the kernel: compiler, generators, its compressed output, its ELF notes
    build-essential flex bison bc libelf-dev libssl-dev xz-utils zstd rsync
    cpio kmod dpkg-dev
    # the machine that crashes, and its disk
    qemu-system-x86 gdisk
    # judges and their means: gdb, drgn's virtual environment, the archive's keys
    gdb python3 python3-venv debian-archive-keyring ca-certificates
    # for the reader that was written from FORMAT.md alone
    python3-cryptography python3-zstandard
    # foreign signatures for the guard's tests; age and ssh-keygen judge our keys
    age openssh-client util-linux mount e2fsprogs xfsprogs btrfs-progs dosfstools ntfs-3g cryptsetup-bin
    # checks of the scripts; certificates and git for cargo
    shellcheck git
)

missing=()
for name in "${packages[@]}"; do
    state=$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null || true)
    [ "$state" = installed ] || missing+=("$name")
done

# The lists of packages are renewed once a day: security updates replace what
# they name, and the victims' kernels are fetched by these lists.
cache=${LIFEBOAT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lifeboat}
stamp=$cache/bootstrap.stamp
fresh=$(find "$stamp" -mmin -1440 2>/dev/null || true)
if [ -z "$fresh" ] || [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" -ne 0 ]; then
        echo "bootstrap: missing packages or lists older than a day: ${missing[*]}" >&2
        echo "hint: run as root: scripts/bootstrap.sh" >&2
        exit 1
    fi
    apt-get -q update
fi
if [ ${#missing[@]} -gt 0 ]; then
    echo "bootstrap: installing ${missing[*]}"
    DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install "${missing[@]}"
fi

if ! command -v cargo >/dev/null; then
    echo "bootstrap: cargo is missing" >&2
    echo "hint: install Rust with rustup; rust-toolchain.toml names the version" >&2
    exit 1
fi
if ! cargo nextest --version >/dev/null 2>&1; then
    echo "bootstrap: installing cargo-nextest"
    cargo install --locked cargo-nextest
fi

if [ -z "$fresh" ]; then
    mkdir -p "$cache"
    touch "$stamp"
fi
