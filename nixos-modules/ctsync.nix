{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.ctsync;
  format = pkgs.formats.json { };
  configFile = format.generate "ctsync.json" cfg.settings;
in
{
  options.services.ctsync = {
    enable = lib.mkEnableOption "ctsync, which keeps the connection-tracking tables of two routers equal";

    package = lib.mkPackageOption pkgs "ctsync" { };

    settings = lib.mkOption {
      type = format.type;
      default = { };
      example = lib.literalExpression ''
        {
          interface.eth0 = { };
          failover-mechanism.vrrp.sync-group = "SYNC";
        }
      '';
      description = ''
        The daemon's configuration file, as {file}`docs/operation.md` lists it. It is checked by the daemon when it
        starts, and readable for everyone in the Nix store.
      '';
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = cfg.settings ? interface;
        message = "services.ctsync.settings.interface must name the interface of the channel.";
      }
      {
        assertion = cfg.settings ? failover-mechanism;
        message = "services.ctsync.settings.failover-mechanism must be set.";
      }
    ];

    environment.systemPackages = [ cfg.package ];

    boot.kernelModules = [ "nf_conntrack_netlink" ];
    # the daemon may not write it under its hardening; 2, the default, leaves out entries older than the daemon
    boot.kernel.sysctl."net.netfilter.nf_conntrack_events" = 1;

    users.users.ctsync = {
      isSystemUser = true;
      group = "ctsync";
    };
    users.groups.ctsync = { };

    systemd.services.ctsync = {
      description = "Connection-tracking state synchronisation";
      wantedBy = [ "multi-user.target" ];
      after = [ "network.target" ];
      # it makes keepalived's notify FIFO and track file
      before = [ "keepalived.service" ];
      restartTriggers = [ configFile ];

      serviceConfig = {
        Type = "notify";
        ExecStart = "${lib.getExe cfg.package} run --config ${configFile}";
        User = "ctsync";
        Group = "ctsync";
        Restart = "on-failure";
        RestartSec = 1;
        RuntimeDirectory = "ctsync";
        # what the daemon remembers must outlive its restart
        RuntimeDirectoryPreserve = "yes";
        AmbientCapabilities = [
          "CAP_NET_ADMIN"
          "CAP_NET_RAW"
        ];
        CapabilityBoundingSet = [
          "CAP_NET_ADMIN"
          "CAP_NET_RAW"
        ];
        NoNewPrivileges = true;
        ProtectSystem = "strict";
        ProtectHome = true;
        ProtectKernelTunables = true;
        PrivateTmp = true;
        RestrictAddressFamilies = [
          "AF_INET"
          "AF_INET6"
          "AF_NETLINK"
          "AF_UNIX"
        ];
      };
    };
  };
}
