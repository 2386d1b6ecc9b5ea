# services.ctsync: the daemon, and what keepalived, Pacemaker and the kernel need beside it. Usable without the flake.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:
let
  inherit (lib)
    attrNames
    concatMapStrings
    filter
    head
    literalExpression
    mkEnableOption
    mkIf
    mkOption
    optional
    optionalAttrs
    optionalString
    types
    ;

  cfg = config.services.ctsync;
  format = pkgs.formats.json { };
  option = "services.ctsync";

  # systemd puts it here for this unit alone; a reload does not renew it
  credential = "/run/credentials/ctsync.service/key";

  # ---- what the configuration says, in either form

  lines = filter (line: lib.hasInfix "conntrack-sync" line) (
    lib.splitString "\n" (if cfg.vyosConfig == null then "" else cfg.vyosConfig)
  );
  # the word behind these words, in each line that has them
  words =
    path:
    lib.concatMap (
      line:
      let
        found = builtins.match "[[:blank:]]*set service conntrack-sync (failover-mechanism )?${path} ['\"]?([^ '\"#]+).*" line;
      in
      optional (found != null) (lib.last found)
    ) lines;
  single = path: lib.findFirst (_: true) null (words path);

  interface =
    if cfg.vyosConfig != null then
      single "interface"
    else if cfg.settings.interface == { } then
      null
    else
      head (attrNames cfg.settings.interface);
  port =
    if cfg.vyosConfig == null then
      cfg.settings.interface.${interface}.port
    else
      let
        given = single "interface [^ ]+ port";
      in
      # what is no number is told by the check of the file, with its place
      if given != null && builtins.match "[0-9]+" given != null then lib.toInt given else 3780;

  # what the module cannot follow when it stands in lines
  unreadable = lib.findFirst (
    line: builtins.match ".*(notify-fifo|track-file|conntrack-sync group ).*" line != null
  ) null lines;
  mechanism =
    if cfg.vyosConfig == null then
      "${option}.settings.failover-mechanism"
    else
      "the failover mechanism in ${option}.vyosConfig";

  # every failover group that keepalived moves, the first one before the further ones
  vrrpGroups =
    if cfg.vyosConfig != null then
      lib.concatMap
        (
          kind:
          map (name: {
            inherit kind name;
            tracker = "ctsync";
            trackFile = "/run/ctsync/vrrp.track";
          }) (lib.unique (words "vrrp ${kind}"))
        )
        [
          "sync-group"
          "instance"
        ]
    else
      let
        group =
          further: mechanism:
          let
            vrrp = mechanism.vrrp or { };
            kind = if vrrp ? instance then "instance" else "sync-group";
          in
          optional (vrrp ? ${kind}) {
            inherit kind;
            name = vrrp.${kind};
            tracker = if further == null then "ctsync" else "ctsync_${vrrp.${kind}}";
            trackFile =
              vrrp.track-file or "/run/ctsync/vrrp${
                optionalString (further != null) "-${lib.replaceStrings [ "/" ] [ "_" ] further}"
              }.track";
          };
      in
      group null cfg.settings.failover-mechanism
      ++ lib.concatLists (
        lib.mapAttrsToList (name: further: group name (further.failover-mechanism or { })) (
          cfg.settings.group or { }
        )
      );
  syncGroups = filter (group: group.kind == "sync-group") vrrpGroups;
  vrrpInstances = filter (group: group.kind == "instance") vrrpGroups;
  membersOf =
    group:
    cfg.keepalived.syncGroups.${group.name}
      or (if lib.length syncGroups == 1 then attrNames config.services.keepalived.vrrpInstances else [ ]);

  # ---- the daemon's file

  # what keepalived moves for a group: its file is in no place where the daemon would look
  addressesOf =
    group:
    lib.unique (
      map (ip: lib.head (lib.splitString "/" ip.addr)) (
        lib.concatMap (name: config.services.keepalived.vrrpInstances.${name}.virtualIps or [ ]) (
          if group.kind == "instance" then [ group.name ] else membersOf group
        )
      )
    );
  knowsAddresses =
    mechanism:
    let
      kind = if (mechanism.vrrp or { }) ? instance then "instance" else "sync-group";
      found = addressesOf {
        inherit kind;
        name = mechanism.vrrp.${kind};
      };
    in
    if cfg.keepalived.enable && mechanism ? vrrp.${kind} && found != [ ] then
      lib.recursiveUpdate { vrrp.virtual-address = found; } mechanism
    else
      mechanism;

  # what has no value is left to the daemon's default
  given = lib.filterAttrsRecursive (_: value: value != null) cfg.settings;
  withAddresses =
    group:
    group
    // lib.optionalAttrs (group ? failover-mechanism) {
      failover-mechanism = knowsAddresses group.failover-mechanism;
    };
  settings =
    withAddresses given
    // lib.optionalAttrs (given ? group) { group = lib.mapAttrs (_: withAddresses) given.group; };
  plainFile =
    if cfg.vyosConfig == null then
      format.generate "ctsync.json" settings
    else
      pkgs.writeText "ctsync.set" (
        cfg.vyosConfig
        + optionalString (cfg.keyFile != null) "\nset service conntrack-sync key-file ${credential}\n"
        +
          optionalString (cfg.keepalived.enable && vrrpGroups != [ ] && words "vrrp virtual-address" == [ ])
            (
              lib.concatMapStrings (
                address: "\nset service conntrack-sync failover-mechanism vrrp virtual-address ${address}\n"
              ) (addressesOf (lib.head vrrpGroups))
            )
        + optionalString cfg.metrics.enable "\nset service conntrack-sync metrics-listen ${metricsListen}\n"
      );
  metricsListen = "${
    if lib.hasInfix ":" cfg.metrics.address then "[${cfg.metrics.address}]" else cfg.metrics.address
  }:${toString cfg.metrics.port}";

  canRun = pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform;
  configFile =
    if canRun then
      pkgs.runCommand "ctsync-config"
        {
          preferLocalBuild = true;
          passthru.unchecked = plainFile;
        }
        ''
          # what is wrong in the configuration ends the build, with its place
          ${lib.getExe cfg.package} config check ${plainFile}
          cp ${plainFile} $out
        ''
    else
      plainFile;

  # ---- the kernel

  helperModules = {
    amanda = "nf_nat_amanda";
    ftp = "nf_nat_ftp";
    h323 = "nf_nat_h323";
    irc = "nf_nat_irc";
    netbios-ns = "nf_conntrack_netbios_ns";
    pptp = "nf_nat_pptp";
    sane = "nf_conntrack_sane";
    sip = "nf_nat_sip";
    snmp = "nf_nat_snmp_basic";
    tftp = "nf_nat_tftp";
  };

  # Pacemaker looks for agents in one directory, which is fixed when it is built
  agents = pkgs.symlinkJoin {
    name = "ocf-resource-agents-with-ctsync";
    paths = [
      pkgs.ocf-resource-agents
      cfg.package
    ];
  };
in
{
  meta.maintainers = [ ];

  options.services.ctsync = {
    enable = mkEnableOption "ctsync, which keeps the connection-tracking tables of two routers equal";

    package = lib.mkPackageOption pkgs "ctsync" { };

    settings = mkOption {
      default = { };
      example = literalExpression ''
        {
          interface.eth2.peer = "10.0.2.2";
          failover-mechanism.vrrp.sync-group = "SYNC";
          accept-protocol = [ "tcp" "udp" "icmp" ];
        }
      '';
      description = ''
        The daemon's configuration, with the option names of VyOS `service conntrack-sync` and those of ctsync: every option
        of {manpage}`ctsync-config(5)` may stand here, also those that are not listed below; with `null` the daemon's own
        default counts. The system is not built when {command}`ctsync config check` finds a mistake.

        The file is {file}`/etc/ctsync/config.json`, readable for everyone: the key has an option of its own,
        {option}`services.ctsync.keyFile`.
      '';
      type = types.submodule {
        freeformType = format.type;
        options = {
          interface = mkOption {
            default = { };
            example = literalExpression "{ eth2 = { }; }";
            description = "The channel's interface. With several, the first one is used.";
            type = types.attrsOf (
              types.submodule {
                freeformType = format.type;
                options = {
                  peer = mkOption {
                    type = types.nullOr (types.either types.str (types.listOf types.str));
                    default = null;
                    example = "10.0.2.2";
                    description = "Address of the other router, or a list of them: unicast instead of multicast.";
                  };
                  port = mkOption {
                    type = types.port;
                    default = 3780;
                    description = "The channel's UDP port.";
                  };
                };
              }
            );
          };
          failover-mechanism = mkOption {
            default = { };
            example = literalExpression ''{ vrrp.sync-group = "SYNC"; }'';
            description = ''
              How this router learns whether it is primary, exactly one: `vrrp`, `cluster`, `vip` or `manual`.
            '';
            type = types.submodule { freeformType = format.type; };
          };
          accept-protocol = mkOption {
            type = types.nullOr (
              types.listOf (
                types.enum [
                  "tcp"
                  "udp"
                  "icmp"
                  "icmp6"
                  "sctp"
                  "dccp"
                ]
              )
            );
            default = null;
            example = [
              "tcp"
              "udp"
            ];
            description = "Protocols to synchronise.";
          };
          event-listen-queue-size = mkOption {
            type = types.nullOr (types.ints.between 1 1023);
            default = null;
            description = "MB of 1048576 bytes of the socket buffer for the kernel's events; what waits in it takes memory, room does not.";
          };
          sync-queue-size = mkOption {
            type = types.nullOr (types.ints.between 1 1023);
            default = null;
            description = "MB of 1048576 bytes of sent datagrams that are kept for resending.";
          };
          ignore-address = mkOption {
            type = types.nullOr (types.listOf types.str);
            default = null;
            example = [ "192.0.2.0/24" ];
            description = "Addresses and prefixes that are not synchronised, whichever end of a connection they are.";
          };
          expect-sync = mkOption {
            type = types.nullOr (types.listOf types.str);
            default = null;
            example = [ "ftp" ];
            description = "Helpers whose expectations are synchronised, or `all`; see {option}`services.ctsync.conntrack.helpers`.";
          };
          alive-interval = mkOption {
            type = types.nullOr (types.ints.between 10 60000);
            default = null;
            description = "Milliseconds between two signs of life.";
          };
          peer-timeout = mkOption {
            type = types.nullOr (types.ints.between 20 600000);
            default = null;
            description = "Milliseconds of silence after which the peer counts as lost; at least twice the alive-interval.";
          };
          standby = mkOption {
            type = types.nullOr (
              types.enum [
                "hot"
                "cold"
              ]
            );
            default = null;
            example = "cold";
            description = "`hot` installs the owner's entries at once, `cold` only at a takeover.";
          };
          hold = mkOption {
            type = types.nullOr (types.bool);
            default = null;
            description = ''
              Whether packets are dropped while this router is not primary, and until a takeover is complete. Needs the
              virtual addresses, `virtual-address` of the failover mechanism.
            '';
          };
        };
      };
    };

    vyosConfig = mkOption {
      type = types.nullOr types.lines;
      default = null;
      example = ''
        set service conntrack-sync interface eth2
        set service conntrack-sync failover-mechanism vrrp sync-group SYNC
      '';
      description = ''
        The `set service conntrack-sync` lines of a VyOS configuration, as they stand, in place of
        {option}`services.ctsync.settings`. Lines of other services are skipped.
      '';
    };

    keyFile = mkOption {
      type = types.nullOr types.externalPath;
      default = null;
      example = "/run/keys/ctsync";
      description = ''
        File with the channel's keys, as {command}`ctsync keygen` makes them, the same on both routers. systemd reads it as
        root and hands it to the daemon (`LoadCredential`); a file in the Nix store, which everyone can read, is refused. A new
        key counts from the next start of the unit. Without a key anyone on the channel's link can write to both tables.
      '';
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = "Whether to open the channel's UDP port, on the channel's interface only, and VRRP with {option}`services.ctsync.keepalived.enable`.";
    };

    keepalived = {
      enable = mkEnableOption "what {option}`services.keepalived` needs for the failover mechanism `vrrp`: the notify FIFO, the track file that keeps a router from being elected before it is ready, and the sync groups, for which NixOS has no option";
      syncGroups = mkOption {
        type = types.attrsOf (types.listOf types.str);
        default = { };
        defaultText = lib.literalMD "with one sync group: all of {option}`services.keepalived.vrrpInstances`";
        example = {
          SYNC = [
            "WAN"
            "LAN"
          ];
        };
        description = "The members of each sync group that the configuration names: names of {option}`services.keepalived.vrrpInstances`.";
      };
    };

    pacemaker.enable = mkEnableOption "the resource agent `ocf:ctsync:ctsync` for {option}`services.pacemaker`, whose package becomes one that is built here: it has its agents' directory built in";

    conntrack = {
      helpers = mkOption {
        type = types.listOf (types.enum (attrNames helperModules));
        default = [ ];
        example = [
          "ftp"
          "sip"
        ];
        description = ''
          Helpers whose kernel modules are loaded at boot, on both routers the same. A rule must still give connections to
          them: `ct helper set` in nftables.
        '';
      };
      tableSize = mkOption {
        type = types.nullOr types.ints.positive;
        default = null;
        example = 1048576;
        description = ''
          Entries that the kernel's table may hold, on both routers the same; its hash gets a bucket for each when the kernel's
          module is loaded, at boot. `null`: what the kernel chooses by its memory.
        '';
      };
    };

    metrics = {
      enable = mkEnableOption "metrics for Prometheus, by HTTP as `/metrics`";
      address = mkOption {
        type = types.str;
        default = "127.0.0.1";
        example = "10.0.9.1";
        description = "Address on which they can be scraped.";
      };
      port = mkOption {
        type = types.port;
        default = 9338;
        description = "TCP port on which they can be scraped.";
      };
    };
  };

  config = mkIf cfg.enable {
    assertions = [
      {
        assertion =
          cfg.vyosConfig == null
          || lib.all (given: given == { }) options.services.ctsync.settings.definitions;
        message = "${option}.vyosConfig and ${option}.settings are two forms of one configuration: give one of them.";
      }
      {
        assertion = interface != null;
        message =
          if cfg.vyosConfig == null then
            "${option}.settings.interface must name the interface of the channel."
          else
            "${option}.vyosConfig has no line `set service conntrack-sync interface NAME`.";
      }
      {
        assertion = cfg.vyosConfig != null || cfg.settings.failover-mechanism != { };
        message = "${option}.settings.failover-mechanism must be set: vrrp, cluster, vip or manual.";
      }
      {
        assertion = (cfg.settings.key-file or credential) == credential && single "key-file" == null;
        message = "${option}: key-file names a file that the daemon, which is no root, could not read; set ${option}.keyFile instead.";
      }
      {
        assertion = cfg.keepalived.enable -> vrrpGroups != [ ];
        message = "${option}.keepalived.enable: ${mechanism} must be `vrrp`, with `sync-group` or `instance`.";
      }
      {
        assertion = cfg.keepalived.enable -> unreadable == null;
        message = "${option}.keepalived.enable: the module cannot follow `${toString unreadable}`; put what ${option}.vyosConfig says into ${option}.settings (`ctsync config convert`).";
      }
      {
        assertion =
          !(cfg.settings ? state-directory || cfg.settings ? control-socket)
          && single "state-directory" == null
          && single "control-socket" == null;
        message = "${option}: state-directory and control-socket are the unit's, in /run/ctsync; leave them out.";
      }
      {
        assertion = cfg.keepalived.enable -> config.services.keepalived.enable;
        message = "${option}.keepalived.enable needs services.keepalived.enable.";
      }
      {
        assertion = cfg.pacemaker.enable -> config.services.pacemaker.enable;
        message = "${option}.pacemaker.enable needs services.pacemaker.enable.";
      }
    ]
    ++ lib.optionals cfg.keepalived.enable (
      map (group: {
        assertion = membersOf group != [ ];
        message = "${option}.keepalived.syncGroups.${group.name} must name the members of this sync group: some of the ${toString (lib.length (attrNames config.services.keepalived.vrrpInstances))} services.keepalived.vrrpInstances.";
      }) syncGroups
      ++ map (name: {
        assertion = lib.any (group: group.name == name) syncGroups;
        message = "${option}.keepalived.syncGroups.${name}: no failover mechanism of ${option}.settings names this sync group.";
      }) (attrNames cfg.keepalived.syncGroups)
      ++ lib.concatMap (
        group:
        map (name: {
          assertion = config.services.keepalived.vrrpInstances ? ${name};
          message = "${option}.keepalived.syncGroups.${group.name} names ${name}, which services.keepalived.vrrpInstances lacks.";
        }) (membersOf group)
      ) syncGroups
    );

    warnings =
      optional (cfg.keyFile == null) ''
        ${option}.keyFile is not set: anyone on the channel's link can write to this router's connection-tracking table.
      ''
      ++ optional (vrrpGroups != [ ] && config.services.keepalived.enable && !cfg.keepalived.enable) ''
        ${option}.keepalived.enable is not set: services.keepalived must have the notify FIFO, the track file and the sync
        group that `ctsync config keepalived` prints, or this router never learns its role.
      ''
      ++ optional (config.boot.kernel.sysctl."net.netfilter.nf_conntrack_events" != 1) ''
        boot.kernel.sysctl."net.netfilter.nf_conntrack_events" is not 1: entries older than the daemon tell neither updates nor
        their end.
      ''
      ++ optional (config.networking.firewall.enable && config.networking.firewall.rejectPackets) ''
        networking.firewall.rejectPackets answers the first packets after a takeover with a reset where a rule does not know their
        connection yet.
      ''
      ++ optional (!canRun) ''
        ${option}: the configuration is not checked, since the system is cross-compiled; run `ctsync config check` on it.
      '';

    services.ctsync.settings = mkIf (cfg.vyosConfig == null) {
      key-file = mkIf (cfg.keyFile != null) (lib.mkOptionDefault credential);
      metrics-listen = mkIf cfg.metrics.enable metricsListen;
    };

    environment.systemPackages = [ cfg.package ];
    environment.etc."ctsync/config.json".source = configFile;

    # both, so that the settings below exist when they are applied
    boot.kernelModules = [
      "nf_conntrack"
      "nf_conntrack_netlink"
    ]
    ++ map (helper: helperModules.${helper}) cfg.conntrack.helpers;
    boot.extraModprobeConfig = mkIf (cfg.conntrack.tableSize != null) ''
      options nf_conntrack hashsize=${toString cfg.conntrack.tableSize}
    '';
    boot.kernel.sysctl = {
      # the daemon may not write it under its hardening; 2, the default, leaves out entries older than the daemon
      "net.netfilter.nf_conntrack_events" = lib.mkDefault 1;
    }
    // optionalAttrs (cfg.conntrack.tableSize != null) {
      "net.netfilter.nf_conntrack_max" = cfg.conntrack.tableSize;
    };

    networking.firewall = mkIf (cfg.openFirewall && interface != null) {
      interfaces.${interface}.allowedUDPPorts = [ port ];
      extraInputRules = mkIf (
        cfg.keepalived.enable && config.networking.nftables.enable
      ) "meta l4proto vrrp accept";
    };

    services.keepalived = mkIf cfg.keepalived.enable {
      openFirewall = mkIf (cfg.openFirewall && !config.networking.nftables.enable) true;
      # keepalived knows only the track files above the line that names them, and NixOS writes the instances before any
      # other text of ours: hence blocks of their own between two halves of global_defs
      extraGlobalDefs = ''
          vrrp_notify_fifo ${
            cfg.settings.failover-mechanism.vrrp.notify-fifo or "/run/ctsync/vrrp.fifo"
          } ctsync ctsync
          fifo_write_vrrp_states_on_reload
        }
        ${concatMapStrings (group: ''
          track_file ${group.tracker} {
            file ${group.trackFile}
            weight 1
          }
        '') vrrpGroups}
        global_defs {
      '';
      # without the weight keepalived goes to FAULT when the file says that this router is not ready
      extraConfig = concatMapStrings (group: ''
        vrrp_sync_group ${group.name} {
          group {
            ${lib.concatStringsSep "\n    " (membersOf group)}
          }
          sync_group_tracking_weight
          track_file {
            ${group.tracker} weight 1
          }
        }
      '') syncGroups;
      vrrpInstances = lib.listToAttrs (
        map (
          group:
          lib.nameValuePair group.name {
            # of an instance that is nobody else's
            interface = lib.mkOptionDefault (
              throw "${mechanism} names the instance ${group.name}, which services.keepalived.vrrpInstances lacks"
            );
            extraConfig = ''
              track_file {
                ${group.tracker} weight 1
              }
            '';
          }
        ) vrrpInstances
      );
    };

    services.pacemaker = mkIf cfg.pacemaker.enable {
      package = lib.mkDefault (pkgs.pacemaker.override { ocf-resource-agents = agents; });
    };
    # the agent tells its promotion score by Pacemaker's own programs
    systemd.services.pacemaker = mkIf cfg.pacemaker.enable {
      path = [ config.services.pacemaker.package ];
    };

    users.users.ctsync = {
      isSystemUser = true;
      group = "ctsync";
      description = "Connection-tracking state synchronisation";
    };
    users.groups.ctsync = { };

    systemd.services.ctsync = {
      description = "Connection-tracking state synchronisation";
      documentation = [
        "man:ctsync(1)"
        "man:ctsync-config(5)"
      ];
      wantedBy = [ "multi-user.target" ];
      after = [
        "network.target"
        "systemd-modules-load.service"
        "systemd-sysctl.service"
      ];
      # it makes keepalived's notify FIFO and track file, and is primary before the addresses are
      before = [
        "keepalived.service"
        "pacemaker.service"
      ];
      # a reload keeps the table; what it cannot apply is named in the journal
      reloadTriggers = [ configFile ];
      # a restart, when the program itself is another one, is as short as it can be
      stopIfChanged = false;
      # for `hold`; always, so that a change of it is a reload as well
      path = [ pkgs.nftables ];
      # what is not there yet (a link, a key) may come late
      startLimitIntervalSec = 0;

      serviceConfig = {
        Type = "notify";
        ExecStart = "${lib.getExe cfg.package} run --config /etc/ctsync/config.json";
        ExecReload = "${lib.getExe cfg.package} reload";
        User = "ctsync";
        Group = "ctsync";
        LoadCredential = mkIf (cfg.keyFile != null) [ "key:${cfg.keyFile}" ];
        Restart = "always";
        RestartSec = 1;
        WatchdogSec = 60;
        RuntimeDirectory = "ctsync";
        # what the daemon remembers must outlive its restart
        RuntimeDirectoryPreserve = "yes";

        # the kernel's table, the size of its event socket
        AmbientCapabilities = [ "CAP_NET_ADMIN" ];
        CapabilityBoundingSet = [ "CAP_NET_ADMIN" ];
        DevicePolicy = "closed";
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        NoNewPrivileges = true;
        PrivateDevices = true;
        PrivateTmp = true;
        ProtectClock = true;
        ProtectControlGroups = true;
        ProtectHome = true;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectProc = "invisible";
        ProtectSystem = "strict";
        RemoveIPC = true;
        RestrictAddressFamilies = [
          "AF_INET"
          "AF_INET6"
          "AF_NETLINK"
          "AF_UNIX"
        ];
        RestrictNamespaces = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        SystemCallArchitectures = "native";
        SystemCallFilter = [
          "@system-service"
          "~@privileged @resources"
        ];
        UMask = "0077";
      };
    };
  };
}
