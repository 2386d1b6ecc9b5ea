{
  lib,
  rustPlatform,
  makeWrapper,
  conntrack-tools,
  iproute2,
  iputils,
  keepalived,
  nftables,
  openssh,
}:
let
  manifest = lib.importTOML ./Cargo.toml;
in
rustPlatform.buildRustPackage {
  pname = manifest.package.name;
  inherit (manifest.workspace.package) version;

  src = lib.fileset.toSource {
    root = ./.;
    fileset = lib.fileset.unions [
      ./Cargo.toml
      ./Cargo.lock
      ./src
      ./lab
      ./tests
    ];
  };
  cargoLock.lockFile = ./Cargo.lock;

  # the daemon, the command line and the lab
  cargoBuildFlags = [ "--workspace" ];
  # the simulation is for an optimised build; the kernel tests need a namespace and are ignored here
  checkType = "release";

  nativeBuildInputs = [ makeWrapper ];
  postInstall = ''
    wrapProgram $out/bin/ctsync-lab --prefix PATH : ${
      lib.makeBinPath [
        conntrack-tools
        iproute2
        iputils
        keepalived
        nftables
        openssh
      ]
    }
  '';

  meta = {
    inherit (manifest.package) description;
    license = lib.licenses.mit;
    platforms = lib.platforms.linux;
    mainProgram = "ctsync";
  };
}
