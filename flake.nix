{
  description = "ctsync: connection-tracking state synchronisation between Linux routers";

  # flake.lock was written by hand from a published lock of the same branch; its hash was not verified by us
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
      ];
      forAllSystems =
        f:
        lib.genAttrs systems (
          system:
          f (
            import nixpkgs {
              inherit system;
              overlays = [ self.overlays.default ];
            }
          )
        );
    in
    {
      overlays.default = final: _prev: {
        ctsync = final.callPackage ./package.nix { };
      };

      # the package as a default, not `nixpkgs.overlays`: that option is read-only in NixOS tests and for users who
      # bring their own pkgs
      nixosModules.ctsync =
        { pkgs, ... }:
        {
          imports = [ ./nixos-modules/ctsync.nix ];
          services.ctsync.package = lib.mkDefault self.packages.${pkgs.stdenv.hostPlatform.system}.ctsync;
        };
      nixosModules.default = self.nixosModules.ctsync;

      packages = forAllSystems (pkgs: {
        inherit (pkgs) ctsync;
        default = pkgs.ctsync;
      });

      checks = forAllSystems (
        pkgs:
        {
          package = pkgs.ctsync;
          tests = pkgs.ctsync.overrideAttrs { doCheck = true; };
          clippy = pkgs.ctsync.overrideAttrs (old: {
            pname = "ctsync-clippy";
            nativeBuildInputs = old.nativeBuildInputs ++ [ pkgs.clippy ];
            buildPhase = "cargo clippy --release --workspace --all-targets --offline -- -D warnings";
            installPhase = "touch $out";
            postInstall = "";
          });
          format =
            pkgs.runCommand "ctsync-format"
              {
                nativeBuildInputs = [
                  pkgs.cargo
                  pkgs.rustfmt
                  pkgs.nixfmt
                ];
              }
              ''
                cp -r ${self} source
                cd source
                cargo fmt --all --check
                find . -name '*.nix' -exec nixfmt --check {} +
                touch $out
              '';
        }
        // lib.mapAttrs (_: pkgs.testers.runNixOSTest) (
          import ./tests/nixos { nixosModule = self.nixosModules.default; }
        )
      );

      apps = forAllSystems (pkgs: {
        demo = {
          type = "app";
          program = lib.getExe (
            pkgs.writeShellApplication {
              name = "ctsync-demo";
              runtimeInputs = [ pkgs.ctsync ];
              text = ''exec ctsync-lab demo "$@"'';
            }
          );
          meta.description = "two routers in network namespaces; one dies, every connection lives";
        };
      });

      devShells = forAllSystems (pkgs: {
        default = pkgs.mkShell {
          inputsFrom = [ pkgs.ctsync ];
          packages = [
            pkgs.clippy
            pkgs.rustfmt
            pkgs.conntrack-tools
            pkgs.keepalived
            pkgs.nftables
          ];
        };
      });

      formatter = forAllSystems (pkgs: pkgs.nixfmt-tree);
    };
}
