#!/bin/bash
# Boots systemd as PID 1 in namespaces of its own (user root needed; own network, no bridge to the host).
# usage: sd-container.sh ROOTFS OUTDIR [timeout]      (ROOTFS may be /: it is only read, through an overlay)
#   SDC_UNIT  what to boot (default sdc.target)   SDC_BIND "SRC:DST ..." read-only binds
#   SDC_CLEAN=1  drop ROOTFS's /etc/systemd/system   SDC_WAIT=1  start systemd only once OUTDIR/go is there
#   SDC_COPY  "SRCDIR:DSTDIR ..." copied over the (throw-away) root   OUTDIR is /out inside
set -eu
mkdir -p "$2"; ROOT=$(realpath "$1"); OUT=$(realpath "$2"); T=${3:-60}
W=$(mktemp -d /tmp/sdc.XXXXXX)
CG=/sys/fs/cgroup/unified; [ -d $CG ] || CG=/sys/fs/cgroup
MYCG=$CG/sdc.${SDC_ID:-$$}; mkdir "$MYCG"
cleanup() {
  echo 1 > "$MYCG/cgroup.kill" 2>/dev/null || true
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    find "$MYCG" -depth -type d -exec rmdir {} \; 2>/dev/null || true
    [ -d "$MYCG" ] || break; sleep 0.2
  done
  rm -f "$W.sh"; rmdir "$W" 2>/dev/null || true
}
trap cleanup EXIT
# the body runs in the new namespaces, its standard input a terminal of script(1) that becomes /dev/console
cat > "$W.sh" <<'BODY'
set -eu
tty=$(tty)
mount -t tmpfs -o mode=755 tmpfs "$W"; mkdir "$W"/{up,work,root}
mount -t overlay -o lowerdir="$ROOT",upperdir="$W/up",workdir="$W/work" overlay "$W/root"
R="$W/root"
mount -t proc -o nosuid,noexec,nodev proc "$R/proc"
mount -t sysfs -o ro,nosuid,noexec,nodev sysfs "$R/sys"
mount -t cgroup2 -o nosuid,noexec,nodev cgroup2 "$R/sys/fs/cgroup"
mount -t tmpfs -o mode=755,nosuid tmpfs "$R/dev"; mkdir "$R"/dev/{pts,shm,net}
while read -r p a b; do mknod -m 666 "$R/dev/$p" c "$a" "$b"; done <<N
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
net/tun 10 200
N
ln -s null "$R/dev/kmsg"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$R/dev/pts"; ln -s pts/ptmx "$R/dev/ptmx"
ln -s /proc/self/fd "$R/dev/fd"; for i in 0:stdin 1:stdout 2:stderr; do ln -s "fd/${i%:*}" "$R/dev/${i#*:}"; done
mount -t tmpfs tmpfs "$R/dev/shm"
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$R/run"; mount -t tmpfs -o mode=1777 tmpfs "$R/tmp"
mkdir -p "$R/out"; mount --bind "$OUT" "$R/out"
# what the root's own administrator enabled is not to start here
[ -z "${SDC_CLEAN:-}" ] || { rm -rf "$R/etc/systemd/system"; mkdir "$R/etc/systemd/system"; }
for b in ${SDC_BIND:-}; do mkdir -p "$R/${b#*:}"; mount --bind -o ro "${b%%:*}" "$R/${b#*:}"; done
for d in ${SDC_COPY:-}; do cp -a --no-preserve=ownership "${d%%:*}/." "$R/${d#*:}/"; done
# /run is a file system of its own: what a root wants there lies beside it
[ ! -e "$R/run-current-system" ] || ln -s /run-current-system "$R/run/current-system"
if [ -n "${SDC_WAIT:-}" ]; then while [ ! -e "$OUT/go" ]; do sleep 0.02; done; fi # for the caller to add network links
touch "$R/dev/console"; mount --bind "$tty" "$R/dev/console"
hostname "${SDC_HOST:-sdc}"; cd "$R"; mkdir -p .old; pivot_root . .old; umount -l /.old; mount --make-rshared /
exec env -i container=sdc TERM=dumb PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system \
  --log-target=console --log-level="${SDC_LOG:-notice}" --show-status=0 --unit="${SDC_UNIT:-sdc.target}"
BODY
export ROOT OUT W
(
  echo "$BASHPID" > "$MYCG/cgroup.procs"
  exec timeout --signal=KILL "$T" script -qefc \
    "exec unshare -m -p -f -u -i -n -C --kill-child --propagation private bash $W.sh" "$OUT/console.log" \
    < /dev/null > /dev/null
) || echo "sd-container: ended with $?" >&2
