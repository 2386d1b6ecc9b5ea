import json
import time

# Answers that a connection must get after a takeover to count as alive.
ALIVE = 10


def counts():
    return json.loads(client.succeed("cat /run/connections.json"))


def answers():
    return [one["answers"] for one in counts()]


def until(what, holds, timeout=60):
    end = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > end:
            raise Exception(f"after {timeout} s still not: {what}")
        time.sleep(0.2)


def protected(router):
    """A failover now would lose nothing."""
    router.wait_until_succeeds("ctsync status", timeout=60)


def start_the_pair():
    start_all()
    for router in [router1, router2]:
        router.wait_for_unit("ctsync.service", timeout=60)
        # NixOS starts it by a timer
        router.wait_until_succeeds("systemctl is-active keepalived", timeout=60)
    router1.wait_until_succeeds("ip -4 addr show dev eth1 | grep -q 192.168.1.254", timeout=60)
    server.succeed("systemctl start connections")
    server.wait_for_open_port(7007)
    client.wait_until_succeeds("ping -c1 -W1 192.168.2.4", timeout=60)


def none_died():
    dead = [one["error"] for one in counts() if one["error"]]
    assert not dead, f"{len(dead)} of {len(counts())} connections died: {dead[0]}"
    return True


def open_connections():
    client.succeed("systemctl start connections")
    client.wait_until_succeeds("test -s /run/connections.json", timeout=60)
    until("every connection is open", lambda: none_died() and min(answers()) > 2)


def all_live(before, timeout=60):
    """Every connection has got ten answers since `before` was counted, on the same socket."""
    until(
        "every connection lives",
        lambda: none_died() and min(now - then for now, then in zip(answers(), before)) >= ALIVE,
        timeout,
    )
    gap = max(one["gap"] for one in counts())
    print(f"{len(before)} of {len(before)} connections alive, 0 dead, longest gap {gap:.2f} s")

start_the_pair()
open_connections()
protected(router1)
protected(router2)

with subtest("router1 dies"):
    before = answers()
    router1.crash()
    router2.wait_until_succeeds("ip -4 addr show dev eth1 | grep -q 192.168.1.254", timeout=60)
    all_live(before)

with subtest("without the entry there is no connection"):
    # or what is above would show nothing
    router2.succeed("systemctl stop ctsync")
    router2.succeed("conntrack -D -p tcp --dport 7007")
    time.sleep(2)
    before = answers()
    time.sleep(5)
    assert answers() == before, "connections live whose entries are gone"
