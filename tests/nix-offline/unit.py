# What the golden unit may do and may not, under systemd itself; for test-driver.py, on the nodes of the golden files.

start_the_pair()
protected(router1)


def show(what):
    return router1.succeed(f"systemctl show -p {what} --value ctsync").strip()


def edit(router, statement):
    """A statement about `it`, what the configuration file says."""
    path = "/etc/ctsync/config.json"
    program = f'import json; it = json.load(open("{path}")); {statement}; json.dump(it, open("{path}", "w"))'
    router.succeed(f"python3 -c '{program}'")


with subtest("an unprivileged user with one capability"):
    pid = show("MainPID")
    status = router1.succeed(f"cat /proc/{pid}/status")
    fields = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    user = router1.succeed("id -u ctsync").strip()
    assert fields["Uid"].split() == [user] * 4 and user != "0", fields["Uid"]
    net_admin = f"{1 << 12:016x}"
    for name in ["CapEff", "CapPrm", "CapBnd", "CapAmb"]:
        assert fields[name] == net_admin, f"{name} is {fields[name]}"
    assert fields["NoNewPrivs"] == "1" and fields["Seccomp"] == "2", status

with subtest("the key came from systemd, and nobody else reads it"):
    key = "/run/credentials/ctsync.service/key"
    assert router1.succeed(f"cat {key}") == router1.succeed("cat /etc/ctsync.key")
    router1.fail(f"setpriv --reuid nobody --clear-groups cat {key}")
    router1.fail("setpriv --reuid ctsync --clear-groups cat /etc/ctsync.key")
    assert json.loads(router1.succeed("ctsync status --json"))["authenticated"]

with subtest("nothing is writable but /run/ctsync"):
    inside = f"nsenter -t {pid} -m --"
    as_user = f"{inside} setpriv --reuid ctsync --regid ctsync --clear-groups"
    # not even by root, if the daemon became it
    for path in ["/etc", "/usr", "/var/lib", "/home"]:
        router1.fail(f"{inside} touch {path}/written")
    router1.fail(f"{as_user} touch /run/written")
    router1.succeed(f"{as_user} touch /run/ctsync/written && rm /run/ctsync/written")
    router1.fail(f"{inside} sh -c 'echo 1 > /proc/sys/net/netfilter/nf_conntrack_events'")
    # what its remarks need it may read
    router1.succeed(f"{as_user} cat /proc/sys/net/netfilter/nf_conntrack_max")

with subtest("every verb of an operator"):
    open_connections()
    for command in [
        "show conntrack table ipv4",
        "show conntrack-sync cache internal",
        "show conntrack-sync statistics",
        "diff",
        "resync",
        "reload",
        "wait-ready --timeout 10",
        "reset conntrack-sync internal-cache",
    ]:
        router1.wait_until_succeeds(f"ctsync {command}", timeout=20)
    protected(router1)
    assert show("MainPID") == pid

with subtest("a link that comes late"):
    router2.succeed("ip link set eth3 down && ip link set eth3 name late && systemctl restart ctsync --no-block")
    time.sleep(12)
    router2.fail("ctsync status")
    router2.succeed("ip link set late name eth3 && ip link set eth3 up && ip addr replace 192.168.3.3/24 dev eth3")
    protected(router1)
    protected(router2)

with subtest("packets are held by rules that the daemon writes itself"):
    edit(router2, 'it["hold"] = True')
    edit(router2, 'it["failover-mechanism"]["vrrp"]["virtual-address"] = ["192.168.1.254", "192.168.2.254"]')
    router2.succeed("systemctl restart ctsync")
    for router in [router1, router2]:
        protected(router)
    assert "192.168.1.254" in router2.succeed("nft list table inet ctsync_hold")
    assert json.loads(router2.succeed("ctsync status --json"))["holding"]
    edit(router2, 'del it["hold"]')
    router2.succeed("systemctl restart ctsync")
    for router in [router1, router2]:
        protected(router)

with subtest("a reload by systemd applies a setting and keeps the process"):
    edit(router1, 'it["alive-interval"] = 120')
    router1.succeed("systemctl reload ctsync")
    router1.succeed("journalctl -u ctsync | grep -q 'configuration read again.*alive-interval'")
    assert show("MainPID") == pid and show("NRestarts") == "0"

with subtest("a file that is refused changes nothing, and the reload fails"):
    edit(router1, 'it["hodl"] = True')
    router1.fail("systemctl reload ctsync")
    edit(router1, 'del it["hodl"]')
    router1.succeed("systemctl reload ctsync")
    protected(router1)
    assert show("MainPID") == pid

with subtest("a daemon that hangs is ended and started again"):
    router1.succeed("mkdir -p /run/systemd/system/ctsync.service.d")
    router1.succeed("printf '[Service]\\nWatchdogSec=2\\n' > /run/systemd/system/ctsync.service.d/short.conf")
    router1.succeed("systemctl daemon-reload && systemctl restart ctsync")
    time.sleep(5)
    assert show("NRestarts") == "0", "a living daemon was ended by the watchdog"
    former = show("MainPID")
    router1.succeed(f"kill -STOP {former}")
    until("systemd starts another one", lambda: show("MainPID") not in ["0", former], timeout=20)
    assert show("NRestarts") == "1"
    protected(router1)
    assert json.loads(router1.succeed("ctsync status --json"))["state"]["role"] == "primary"

with subtest("the pair is what the failover is about"):
    before = answers()
    router1.crash()
    all_live(before)
