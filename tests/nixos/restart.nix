# The daemons are restarted and, as `nixos-rebuild switch` does with a changed setting, reloaded: the pair stays protected, and
# router1's death afterwards costs nothing.
{ pair }:
{
  name = "ctsync-restart";
  meta.maintainers = [ ];
  nodes = pair.nodes // {
    router1 = pair.extend pair.nodes.router1 {
      specialisation.changed.configuration.services.ctsync.settings.alive-interval = 100;
    };
  };
  testScript = pair.helpers + ''

    start_the_pair()
    open_connections()
    protected(router1)
    protected(router2)

    def pid(router):
        return router.succeed("systemctl show -p MainPID --value ctsync").strip()

    for router in [router1, router2]:
        with subtest(f"{router.name}'s daemon is restarted"):
            before = answers()
            former = pid(router)
            router.succeed("systemctl restart ctsync")
            assert pid(router) != former
            for one in [router1, router2]:
                protected(one)
            all_live(before)
            router1.succeed("ip -4 addr show dev eth1 | grep -q 192.168.1.254")

    with subtest("a daemon that dies is back within a second or two"):
        former = pid(router1)
        router1.succeed("kill -9 " + former)
        router1.wait_until_succeeds(f"test $(systemctl show -p MainPID --value ctsync) -gt 0 && test $(systemctl show -p MainPID --value ctsync) != {former}", timeout=30)
        for one in [router1, router2]:
            protected(one)

    with subtest("systemd watches over the daemon"):
        router2.succeed("systemctl show -p WatchdogUSec --value ctsync | grep -q min")

    with subtest("a switch to a configuration with another setting reloads the daemon"):
        former = pid(router1)
        router1.succeed("/run/current-system/specialisation/changed/bin/switch-to-configuration test")
        router1.succeed("grep -q '\"alive-interval\": *100' /etc/ctsync/config.json")
        router1.wait_until_succeeds("journalctl -u ctsync | grep -q 'configuration read again.*applied=.*alive-interval'", timeout=30)
        assert pid(router1) == former, "the switch restarted the daemon"
        protected(router1)

    with subtest("router1 dies"):
        before = answers()
        router1.crash()
        all_live(before)
  '';
}
