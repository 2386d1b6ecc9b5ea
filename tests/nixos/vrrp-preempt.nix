# router1 dies and comes back with a higher priority and an empty table: it is elected, but not before it holds the
# connections, and none of them notices.
{ pair }:
{
  name = "ctsync-vrrp-preempt";
  meta.maintainers = [ ];
  inherit (pair) nodes;
  testScript = pair.helpers + ''

    start_the_pair()
    open_connections()
    protected(router2)

    with subtest("router1 dies"):
        before = answers()
        router1.crash()
        all_live(before)

    with subtest("router1 comes back and is elected when it is ready"):
        before = answers()
        router1.start()
        router1.wait_for_unit("ctsync.service", timeout=60)
        early: list[str] = []

        def elected():
            here = router1.execute("ip -4 addr show dev eth1 | grep -q 192.168.1.254")[0] == 0
            status = json.loads(router1.succeed("ctsync status --json || test $? = 3"))
            if here and not status["state"]["gate-open"]:
                early.append(status["verdict"])
            return here and status["state"]["role"] == "primary"

        until("router1 is elected", elected)
        assert not early, f"elected before it was ready: {early}"
        last = json.loads(router1.succeed("ctsync status --json || test $? = 3"))["transitions"][-1]
        assert last["to"] == "MASTER" and last["held"] >= len(before), f"elected with a poor table: {last}"
        all_live(before)
        protected(router1)
  '';
}
