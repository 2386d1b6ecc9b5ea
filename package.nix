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
      ./clippy.toml
      ./rustfmt.toml
      ./src
      ./cluster
      ./docs
      ./lab
      # what is about the Nix files themselves is tried without this package
      (lib.fileset.difference ./tests (
        lib.fileset.unions [
          ./tests/nixos
          ./tests/nix-offline
        ]
      ))
    ];
  };
  cargoLock.lockFile = ./Cargo.lock;

  # the daemon, the command line and the lab
  cargoBuildFlags = [ "--workspace" ];
  # the flake's check `tests` runs them: who deploys need not wait for the simulation
  doCheck = false;
  # which is for an optimised build; the kernel tests need a namespace and are ignored
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
    # where the module joins it to Pacemaker's own agents
    install -D cluster/ocf/ctsync $out/usr/lib/ocf/resource.d/ctsync/ctsync
    substituteInPlace $out/usr/lib/ocf/resource.d/ctsync/ctsync \
      --replace-fail 'OCF_RESKEY_binary=ctsync}' "OCF_RESKEY_binary=$out/bin/ctsync}"
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
    maintainers = [ ];
    platforms = lib.platforms.linux;
    mainProgram = "ctsync";
  };
}
