# The VM test `failover` as its nodes evaluate, for `nix eval --json`: what golden/ holds. Nothing is built.
{ nixpkgs }:
let
  pkgs = import nixpkgs {
    frozen = true;
    overlays = [ (final: _: { ctsync = final.callPackage ../../package.nix { }; }) ];
  };
  test =
    pkgs.testers.runNixOSTest
      (import ../nixos { nixosModule = ../../nixos-modules/ctsync.nix; }).failover;
in
{
  nodes = test.description;
  inherit (test) script;
}
