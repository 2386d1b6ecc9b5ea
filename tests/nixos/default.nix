# VM tests, each for pkgs.testers.runNixOSTest. `nixosModule` is the module under test.
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
