# router1 loses its power; every connection that went through it lives.
{ pair }:
{
  name = "ctsync-failover";
  meta.maintainers = [ ];
  inherit (pair) nodes;
  testScript = pair.helpers + ''

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
  '';
}
