# Two keys that differ: nothing of router1 enters router2, and status says so; with the same key the pair is protected.
# router2 is configured by the lines of VyOS.
{ pair }:
let
  other = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
in
{
  name = "ctsync-key";
  meta.maintainers = [ ];
  nodes = pair.nodes // {
    router2 = pair.extend pair.nodes.router2 (
      { lib, ... }:
      {
        services.ctsync = {
          settings = lib.mkForce { };
          vyosConfig = ''
            set service conntrack-sync accept-protocol tcp
            set service conntrack-sync accept-protocol icmp
            set service conntrack-sync failover-mechanism vrrp sync-group SYNC
            set service conntrack-sync interface eth3
          '';
          keyFile = lib.mkForce "/run/pair.key";
        };
        systemd.tmpfiles.rules = [ "f /run/pair.key 0400 root root - ${other}" ];
      }
    );
  };
  testScript = pair.helpers + ''

    start_the_pair()
    open_connections()

    def entries(router):
        return int(router.succeed("conntrack -L -p tcp --dport 7007 2>/dev/null | grep -c ESTABLISHED || true"))

    def counter(router, name):
        told = json.loads(router.succeed("ctsync show conntrack-sync statistics --json"))
        return dict(told["counters"])[name]

    with subtest("another key opens nothing"):
        until("router1 has its entries", lambda: entries(router1) == len(answers()))
        time.sleep(5)
        assert entries(router2) == 0, f"{entries(router2)} entries came in under another key"
        router2.fail("ctsync status")
        router1.fail("ctsync status")
        assert counter(router2, "forged_datagrams") > 0
        assert counter(router1, "forged_datagrams") > 0

    with subtest("the same key, and the pair is in step"):
        key = router1.succeed("cat /etc/ctsync.key").strip()
        router2.succeed(f"echo {key} > /run/pair.key")
        router2.succeed("systemctl restart ctsync")
        for router in [router1, router2]:
            protected(router)
        assert entries(router2) == len(answers())

    with subtest("router1 dies"):
        before = answers()
        router1.crash()
        all_live(before)
  '';
}
