#!/usr/bin/env bash
# A newcomer's machine: a fresh Debian root with nothing but Rust added, a clone, and `cargo lab demo`.
#
#   tests/newcomer.sh DIRECTORY [LAB-ARGUMENTS...]     default arguments: demo
#
# Needs root, debootstrap, and a Rust toolchain here to copy (rustup's, or the one that cargo runs from).
set -euo pipefail

directory=${1:?usage: tests/newcomer.sh DIRECTORY [LAB-ARGUMENTS...]}
shift
[ $# -gt 0 ] || set -- demo
checkout=$(cd "$(dirname "$0")/.." && git rev-parse --show-toplevel)
root=$directory/root
toolchain=$(rustc --print sysroot)

if [ ! -e "$root/etc/debian_version" ]; then
  mkdir -p "$root"
  # What a compiler needs to link with, and git: what every guide to Rust on Debian asks for.
  debootstrap --variant=minbase --include=ca-certificates,gcc,libc6-dev,git,passwd bookworm "$root" >"$directory/debootstrap.log" 2>&1 ||
    { tail -n 5 "$directory/debootstrap.log" >&2; exit 1; }
fi
mkdir -p "$root/opt/rust"
cp -a --no-clobber "$toolchain/." "$root/opt/rust/" 2>/dev/null || true
# How this machine reaches its package registries.
cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
cp -rL /etc/apt/sources.list* /etc/apt/apt.conf.d /etc/apt/preferences.d "$root/etc/apt/" 2>/dev/null || true
cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"

rm -rf "$root/root/ctsync"
git clone --quiet --no-hardlinks "$checkout" "$root/root/ctsync"

# Not a chroot: the lab enters mount namespaces, and those begin at the real root.
unshare --mount --fork sh -euc '
  root=$1; shift
  mount --bind "$root" "$root"
  for tree in proc sys dev; do mount --rbind /$tree "$root/$tree"; done
  mkdir -p "$root/old"
  cd "$root"
  pivot_root . old
  umount -l /old
  exec env -i HOME=/root TERM=dumb PATH=/opt/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    sh -c "cd /root/ctsync && exec cargo lab \"\$@\"" lab "$@"
' newcomer "$root" "$@"
