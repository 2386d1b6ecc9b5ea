#!/bin/bash
# Boots the host's own systemd as PID 1 in namespaces of its own, on a throw-away copy of the host's root. Called by
# test-driver.py, as root, in a session of its own.
#
#   systemd-container.sh ID HOSTNAME FILES OUT
#
# ID names its cgroup. FILES are put over the root; what the host's administrator enabled in /etc/systemd/system is not
# there. OUT is seen as /out; systemd starts once OUT/go is there, so that the caller can add network links.
set -eu
ID=$1; HOST=$2; FILES=$(realpath "$3"); OUT=$(realpath "$4")
SECONDS_AT_MOST=600
W=$(mktemp -d /tmp/systemd-container.XXXXXX)
CG=/sys/fs/cgroup/unified; [ -d $CG ] || CG=/sys/fs/cgroup
MYCG=$CG/$ID; mkdir "$MYCG"
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
mount -t overlay -o lowerdir=/,upperdir="$W/up",workdir="$W/work" overlay "$W/root"
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
rm -rf "$R/etc/systemd/system"; mkdir "$R/etc/systemd/system"
cp -a --no-preserve=ownership "$FILES/." "$R/"
# /run is a file system of its own: what a root wants there lies beside it
[ ! -e "$R/run-current-system" ] || ln -s /run-current-system "$R/run/current-system"
while [ ! -e "$OUT/go" ]; do sleep 0.02; done
touch "$R/dev/console"; mount --bind "$tty" "$R/dev/console"
hostname "$HOST"; cd "$R"; mkdir -p .old; pivot_root . .old; umount -l /.old; mount --make-rshared /
exec env -i container=ctsync TERM=dumb PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system \
  --log-target=console --log-level=notice --show-status=0 --unit=multi-user.target
BODY
export HOST FILES OUT W
(
  echo "$BASHPID" > "$MYCG/cgroup.procs"
  exec timeout --signal=KILL "$SECONDS_AT_MOST" script -qefc \
    "exec unshare -m -p -f -u -i -n -C --kill-child --propagation private bash $W.sh" "$OUT/console.log" \
    < /dev/null > /dev/null
) || echo "systemd-container: ended with $?" >&2
