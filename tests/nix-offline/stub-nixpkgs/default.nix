{
  system ? "x86_64-linux",
  overlays ? [ ],
  frozen ? false,
  ...
}:
let
  lib = import ./lib;
in
import ./packages.nix {
  inherit lib system frozen;
  extra = lib.composeManyExtensions (
    [ (final: _: { testers.runNixOSTest = import ./nixos-test.nix { pkgs = final; }; }) ] ++ overlays
  );
}
