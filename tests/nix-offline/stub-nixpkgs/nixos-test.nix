# The shape of pkgs.testers.runNixOSTest: evaluates every node, and turns the test into a directory for ../test-driver.py:
# nodes.json, what the nodes' modules came to, and testScript.py, which is compiled on the way. It runs no machine.
{ pkgs }:
test:
let
  inherit (pkgs) lib;
  attrs = if lib.isFunction test then test { inherit lib pkgs; } else test;

  evaluate =
    name: modules:
    (lib.evalModules {
      class = "nixos";
      specialArgs = {
        inherit pkgs name;
        modulesPath = "/no/nixpkgs/modules";
      };
      modules = [ ./nixos.nix ] ++ modules;
    }).config;
  nodes = lib.mapAttrs (name: module: evaluate name [ module ]) attrs.nodes;

  failed = lib.concatLists (
    lib.mapAttrsToList (
      name: config: map (a: "${name}: ${a.message}") (lib.filter (a: !a.assertion) config.assertions)
    ) nodes
  );
  numbers = lib.listToAttrs (lib.imap1 (i: name: lib.nameValuePair name i) (lib.attrNames nodes));

  # a file's text where the packages are frozen, its path where they can be built
  contents =
    source:
    if lib.isPath source then
      { text = builtins.readFile source; }
    else if source ? text then
      { inherit (source) text; }
    else if source ? unchecked then
      contents source.unchecked
    else
      throw "no text of ${source}";
  file =
    entry:
    (if pkgs.isFrozen then contents entry.source else { source = "${entry.source}"; })
    // {
      inherit (entry) mode;
    };

  # what a switch to this configuration changes on a running machine
  switched = config: {
    inherit (config.systemd) units;
    etc = lib.mapAttrs' (_: entry: lib.nameValuePair entry.target (file entry)) (
      lib.filterAttrs (_: entry: entry.enable) config.environment.etc
    );
  };

  # what NixOS's firewall comes to, in short
  ruleset =
    config:
    let
      inherit (config.networking) firewall nftables;
      ports =
        interface: open: proto:
        let
          all = open."allowed${lib.toUpper proto}Ports";
        in
        lib.optionalString (all != [ ])
          "${interface} ${proto} dport { ${lib.concatMapStringsSep ", " toString all} } accept\n";
      both = interface: open: ports interface open "tcp" + ports interface open "udp";
    in
    lib.optionalString firewall.enable ''
      table inet nixos-fw {
        chain allow {
          ${both "" firewall}
          ${lib.concatStrings (lib.mapAttrsToList (name: both "iifname ${name}") firewall.interfaces)}
          icmp type echo-request accept
          icmpv6 type != { nd-redirect, 139 } accept
          ${firewall.extraInputRules}
        }
        chain input {
          type filter hook input priority filter; policy drop;
          iifname lo accept
          ct state vmap { invalid : drop, established : accept, related : accept, new : jump allow, untracked : jump allow }
        }
      }
    ''
    + lib.optionalString nftables.enable (
      lib.concatStrings (
        lib.mapAttrsToList (
          name: table: "table ${table.family} ${name} {\n${table.content}\n}\n"
        ) nftables.tables
      )
    );

  describe =
    name: config:
    switched config
    // {
      number = numbers.${name};
      inherit (config.virtualisation) vlans;
      wants =
        lib.concatMapAttrs
          (unit: it: lib.genAttrs (map (target: "${target}.wants/${unit}") it.wantedBy) (_: unit))
          (
            lib.mapAttrs' (unit: lib.nameValuePair "${unit}.service") config.systemd.services
            // lib.mapAttrs' (unit: lib.nameValuePair "${unit}.timer") config.systemd.timers
          );
      inherit (config.boot.kernel) sysctl;
      users = lib.attrNames config.users.users;
      gateway = config.networking.defaultGateway.address or "";
      ruleset = ruleset config;
      specialisation = lib.mapAttrs (
        _: special:
        switched (
          evaluate name [
            attrs.nodes.${name}
            special.configuration
          ]
        )
      ) config.specialisation;
      path = lib.optionals (!pkgs.isFrozen) (
        map (package: "${package}/bin") config.environment.systemPackages
      );
    };

  script =
    if lib.isFunction attrs.testScript then attrs.testScript { inherit nodes; } else attrs.testScript;
  description = lib.mapAttrs describe nodes;
in
assert lib.assertMsg (failed == [ ]) "Failed assertions:\n${lib.concatLines failed}";
pkgs.runCommand "vm-test-run-${attrs.name}"
  {
    inherit script;
    nodesJSON = if pkgs.isFrozen then "" else builtins.toJSON description;
    passAsFile = [
      "script"
      "nodesJSON"
    ];
    passthru = {
      inherit nodes description script;
    };
  }
  ''
    mkdir $out
    python3 -c 'import sys; compile(open(sys.argv[1]).read(), "testScript", "exec")' "$scriptPath"
    cp "$scriptPath" $out/testScript.py
    cp "$nodesJSONPath" $out/nodes.json
  ''
