{
  lib,
  rustPlatform,
  installShellFiles,
  makeWrapper,
  man-db,
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
      ./cluster
      ./docs
      ./lab
      ./tests
    ];
  };
  cargoLock.lockFile = ./Cargo.lock;

  # the daemon, the command line and the lab
  cargoBuildFlags = [ "--workspace" ];
  # the simulation is for an optimised build; the kernel tests need a namespace and are ignored here
  checkType = "release";

  nativeBuildInputs = [
    installShellFiles
    makeWrapper
  ];
  # the manual pages are rendered in a test
  nativeCheckInputs = [ man-db ];
  postInstall = ''
    mkdir assets
    $out/bin/ctsync assets assets
    $out/bin/ctsync-lab assets assets
    installManPage assets/*.[15]
    install -D cluster/ocf/ctsync $out/lib/ocf/resource.d/ctsync/ctsync
    installShellCompletion assets/*.{bash,fish} assets/_*
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
