# A stand-in for nixpkgs whose "packages" are derivations over the host's own tools. They build offline with
# `sandbox = false`, so that what the module generates lies in a real /nix/store and can be run. Only what the project's
# Nix files touch is here.
#
# `frozen`: no derivations. What is made has a fixed path and can be read by evaluation alone: for the golden files, which
# are run where there is no Nix.
{
  lib,
  system ? "x86_64-linux",
  extra ? (_: _: { }), # an overlay
  frozen ? false,
}:
let
  PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  base =
    self:
    let
      thaw =
        attrs:
        {
          type = "derivation";
          outPath = attrs.frozenPath or "/frozen/${attrs.name}";
          meta = attrs.meta or { };
          pname = attrs.name;
          version = "0";
          inherit (attrs) name;
          overrideAttrs = f: thaw (attrs // (if lib.isFunction f then f attrs else f));
        }
        // (attrs.passthru or { });
      mk = if frozen then thaw else built;
      built =
        attrs:
        let
          drv = derivation (
            {
              inherit system PATH;
              builder = "/bin/sh";
            }
            // removeAttrs attrs [
              "passthru"
              "meta"
              "frozenPath"
            ]
          );
        in
        drv
        // {
          meta = attrs.meta or { };
          pname = attrs.name;
          version = "0-host";
          overrideAttrs = f: built (attrs // (if lib.isFunction f then f attrs else f));
        }
        // (attrs.passthru or { });
      runCommand =
        name: env: script:
        mk (
          removeAttrs env [
            "preferLocalBuild"
            "allowSubstitutes"
            "nativeBuildInputs"
            "buildInputs"
          ]
          // {
            inherit name;
            args = [
              "-euc"
              "export PATH=${lib.makeBinPath (env.nativeBuildInputs or [ ])}:$PATH\n${script}"
            ];
          }
        );
      writeTextFile =
        {
          name,
          text,
          executable ? false,
          destination ? "",
          meta ? { },
          ...
        }:
        mk {
          inherit name text meta;
          passAsFile = [ "text" ];
          args = [
            "-euc"
            ''
              target="$out${destination}"
              mkdir -p "$(dirname "$target")"
              cat "$textPath" > "$target"
              ${lib.optionalString executable ''chmod +x "$target"''}
            ''
          ];
          passthru = { inherit text; };
        };
      # a package that only points at programs of the host
      hostPkg =
        name: progs:
        runCommand name
          {
            meta.mainProgram = lib.head progs;
            frozenPath = "/usr";
          }
          ''
            mkdir -p "$out/bin"
            for p in ${toString progs}; do
              for d in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin; do
                [ -e "$d/$p" ] && { ln -s "$d/$p" "$out/bin/$p"; break; }
              done
            done
            ln -s bin "$out/sbin"
          '';
    in
    {
      inherit
        lib
        system
        runCommand
        writeTextFile
        hostPkg
        ;
      isFrozen = frozen;
      path = throw "no nixpkgs tree here";
      stdenv.hostPlatform = lib.systems.elaborate system;
      stdenv.buildPlatform = lib.systems.elaborate system;
      runtimeShell = "/bin/sh";
      buildPackages = self;
      pkgsBuildHost = self;
      runCommandLocal = runCommand;
      writeText =
        name: text:
        writeTextFile {
          inherit name text;
        };
      writeScript =
        name: text:
        writeTextFile {
          inherit name text;
          executable = true;
        };
      writeShellScript =
        name: text:
        self.writeScript name ''
          #!/bin/bash
          ${text}
        '';
      writeShellScriptBin =
        name: text:
        writeTextFile {
          inherit name;
          executable = true;
          destination = "/bin/${name}";
          text = ''
            #!/bin/bash
            ${text}
          '';
          meta.mainProgram = name;
        };
      writeShellApplication =
        {
          name,
          text,
          runtimeInputs ? [ ],
          ...
        }:
        writeTextFile {
          inherit name;
          executable = true;
          destination = "/bin/${name}";
          meta.mainProgram = name;
          text = ''
            #!/bin/bash
            set -o errexit -o nounset -o pipefail
            export PATH="${lib.makeBinPath runtimeInputs}:$PATH"
            ${text}
          '';
        };
      callPackage =
        fn: args:
        let
          f = if lib.isFunction fn then fn else import fn;
        in
        f (builtins.intersectAttrs (lib.functionArgs f) self // args);
      formats.json =
        { }:
        {
          type =
            let
              v =
                lib.types.nullOr (
                  lib.types.oneOf [
                    lib.types.bool
                    lib.types.int
                    lib.types.float
                    lib.types.str
                    lib.types.path
                    (lib.types.attrsOf v)
                    (lib.types.listOf v)
                  ]
                )
                // {
                  description = "JSON value";
                };
            in
            v;
          # nixpkgs pretty-prints with jq; keys are sorted either way
          generate =
            name: value:
            runCommand name {
              value = builtins.toJSON value;
              passAsFile = [ "value" ];
              passthru.text = builtins.toJSON value;
            } ''python3 -m json.tool "$valuePath" > "$out"'';
        };
      systemd = hostPkg "systemd" [ "systemctl" ];
      coreutils = hostPkg "coreutils" [
        "cat"
        "chmod"
        "kill"
        "mkdir"
        "rm"
        "sleep"
      ];
      findutils = hostPkg "findutils" [ "find" ];
      gnugrep = hostPkg "gnugrep" [ "grep" ];
      gnused = hostPkg "gnused" [ "sed" ];
      bash = hostPkg "bash" [ "bash" ];
      iproute2 = hostPkg "iproute2" [ "ip" ];
      keepalived = hostPkg "keepalived" [ "keepalived" ];
      conntrack-tools = hostPkg "conntrack-tools" [ "conntrack" ];
      nftables = hostPkg "nftables" [ "nft" ];
      iputils = hostPkg "iputils" [ "ping" ];
      openssh = hostPkg "openssh" [ "sshd" ];
      python3 = hostPkg "python3" [ "python3" ];
      man-db = hostPkg "man-db" [ "man" ];
      cargo = hostPkg "cargo" [ "cargo" ];
      clippy = hostPkg "clippy" [ "cargo-clippy" ];
      rustfmt = hostPkg "rustfmt" [ "rustfmt" ];
      nixfmt = hostPkg "nixfmt" [ "nixfmt" ];
      nixfmt-tree = hostPkg "nixfmt-tree" [ "nixfmt" ];
      installShellFiles = hostPkg "installShellFiles" [ "install" ];
      makeWrapper = hostPkg "makeWrapper" [ "sh" ];
      ocf-resource-agents = hostPkg "ocf-resource-agents" [ "ocf-tester" ];
      pacemaker = lib.makeOverridable (
        { ocf-resource-agents }:
        hostPkg "pacemaker" [ "pacemakerd" ] // { agents = ocf-resource-agents; }
      ) { inherit (self) ocf-resource-agents; };
      symlinkJoin =
        { name, paths }:
        runCommand name { passthru = { inherit paths; }; } ''
          mkdir -p "$out"
          for p in ${toString paths}; do cp -rsf "$p"/. "$out"/; done
        '';
      # the shape of rustPlatform, enough to evaluate a package.nix (never to build one)
      rustPlatform.buildRustPackage =
        args:
        let
          a = if lib.isFunction args then lib.fix args else args;
        in
        mk {
          name = "${a.pname}-${a.version}";
          frozenPath = "/opt/${a.pname}";
          # forced, so that a file that `src` or the lock file misses is an error here too
          src = "${a.src}";
          crates = toString (map (p: "${p.name}-${p.version}") (lib.importTOML a.cargoLock.lockFile).package);
          # the programs that the caller built with cargo: HOST_BIN_DIR=$PWD/target/release nix build --impure ...
          bins =
            let
              d = builtins.getEnv "HOST_BIN_DIR";
            in
            lib.optionalString (d != "") (
              builtins.path {
                path = d;
                name = "host-bins";
                filter = p: t: t == "regular" && !(lib.hasInfix "." (baseNameOf p));
              }
            );
          args = [
            "-euc"
            ''
              [ -n "$bins" ] || { echo 'stub: set HOST_BIN_DIR and give --impure' >&2; exit 1; }
              mkdir -p "$out/bin"
              cp "$bins"/* "$out/bin/"
            ''
          ];
          nativeBuildInputs = a.nativeBuildInputs or [ ];
          meta = a.meta or { };
          passthru = { inherit (a) pname version; };
        };
      mkShell =
        a:
        mk {
          name = "shell";
          args = [
            "-c"
            "exit 1"
          ];
          passthru.shellArgs = a;
        };
    };
in
lib.fix (lib.extends extra base)
