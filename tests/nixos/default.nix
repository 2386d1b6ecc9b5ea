# VM tests, each for pkgs.testers.runNixOSTest. `nixosModule` is the module under test.
# None is about services.pacemaker: its package is built on the spot with our agent, and nobody could run it where these were
# written. `cargo lab run pacemaker` has real Corosync and Pacemaker.
{ nixosModule }:
let
  pair = import ./pair.nix { inherit nixosModule; };
in
{
  failover = import ./failover.nix { inherit pair; };
  vrrp-preempt = import ./vrrp-preempt.nix { inherit pair; };
  restart = import ./restart.nix { inherit pair; };
  key = import ./key.nix { inherit pair; };
}
