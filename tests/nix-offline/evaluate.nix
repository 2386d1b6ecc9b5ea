# The module on one machine, evaluated: what it came to, and what is wrong with it. For `nix eval` and `nix build`.
{ nixpkgs, machine }:
let
  lib = import (nixpkgs + "/lib");
  pkgs = import nixpkgs {
    overlays = [ (final: _: { ctsync = final.callPackage ../../package.nix { }; }) ];
  };
  result = lib.evalModules {
    class = "nixos";
    specialArgs = { inherit pkgs; };
    modules = [
      (nixpkgs + "/nixos.nix")
      ../../nixos-modules/ctsync.nix
      machine
    ];
  };
  inherit (result) config;
  ours = lib.filter (
    option: option.visible && !option.internal && lib.hasPrefix "services.ctsync" option.name
  ) (lib.optionAttrSetToDocList result.options);
  text = value: value.text or (if lib.isString value then value else null);
in
{
  inherit (config) warnings;
  failed = map (a: a.message) (lib.filter (a: !a.assertion) config.assertions);
  unit = config.systemd.units."ctsync.service";
  # the daemon's file; building it checks it
  file = config.environment.etc."ctsync/config.json".source;
  etc = lib.mapAttrs (
    _: entry: entry.source.text or entry.source.unchecked.text or null
  ) config.environment.etc;
  inherit (config.boot) kernelModules extraModprobeConfig;
  inherit (config.boot.kernel) sysctl;
  firewall = config.networking.firewall.interfaces;
  inputRules = config.networking.firewall.extraInputRules;
  keepalivedOpen = config.services.keepalived.openFirewall;
  pacemaker = map toString (config.services.pacemaker.package.agents.paths or [ ]);

  # for docs/nixos.md; `null` where the module says nothing
  options = map (option: {
    inherit (option) name;
    type = option.type or null;
    description = text (option.description or null);
    default = text (option.default or null);
    example = text (option.example or null);
  }) ours;
}
