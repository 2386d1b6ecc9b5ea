# The NixOS options that the module and the tests set, with the types and the rendering of NixOS; written by us, compared
# with NixOS's own files by reading. Strict: setting any other option is an error, as it is on NixOS.
{
  lib,
  config,
  pkgs,
  ...
}:
let
  inherit (lib)
    mkOption
    types
    concatMapStrings
    concatStringsSep
    mapAttrs'
    mapAttrsToList
    nameValuePair
    optionalAttrs
    optionalString
    ;
  opt =
    type: default:
    mkOption {
      inherit type default;
    };

  # one directive: scalars must agree, lists are repeated directives
  directive = lib.mkOptionType {
    name = "systemd directive";
    merge =
      loc: defs:
      let
        ds = lib.filterOverrides defs;
      in
      if lib.isList (lib.head ds).value then
        lib.concatMap (
          d:
          if lib.isList d.value then d.value else throw "${lib.showOption loc}: lists and non-lists are mixed"
        ) ds
      else
        lib.mergeEqualOption loc ds;
  };
  section = types.attrsOf directive;
  unitName = types.strMatching "[a-zA-Z0-9@%:_.\\-]+[.](service|socket|device|mount|automount|swap|target|path|timer|scope|slice)";
  unitNames = opt (types.listOf unitName) [ ];

  links = {
    requires = "Requires";
    wants = "Wants";
    upholds = "Upholds";
    after = "After";
    before = "Before";
    bindsTo = "BindsTo";
    partOf = "PartOf";
    conflicts = "Conflicts";
    requisite = "Requisite";
    onFailure = "OnFailure";
    onSuccess = "OnSuccess";
  };

  common =
    {
      name,
      config,
      options,
      ...
    }:
    {
      options = {
        enable = opt types.bool true;
        description = opt types.singleLineStr "";
        documentation = opt (types.listOf types.str) [ ];
        wantedBy = unitNames;
        requiredBy = unitNames;
        upheldBy = unitNames;
        aliases = unitNames;
        restartTriggers = opt (types.listOf types.unspecified) [ ];
        reloadTriggers = opt (types.listOf types.unspecified) [ ];
        startLimitBurst = mkOption { type = types.int; };
        startLimitIntervalSec = mkOption { type = types.int; };
        unitConfig = opt section { };
      }
      // lib.mapAttrs (_: _: unitNames) links;
      config.unitConfig =
        lib.concatMapAttrs (o: d: optionalAttrs (config.${o} != [ ]) { ${d} = toString config.${o}; }) links
        // optionalAttrs (config.description != "") { Description = config.description; }
        // optionalAttrs (config.documentation != [ ]) { Documentation = toString config.documentation; }
        // optionalAttrs (config.restartTriggers != [ ]) {
          X-Restart-Triggers = "${pkgs.writeText "X-Restart-Triggers-${name}" (
            toString (lib.flatten config.restartTriggers)
          )}";
        }
        // optionalAttrs (config.reloadTriggers != [ ]) {
          X-Reload-Triggers = "${pkgs.writeText "X-Reload-Triggers-${name}" (
            toString (lib.flatten config.reloadTriggers)
          )}";
        }
        // optionalAttrs options.startLimitBurst.isDefined {
          StartLimitBurst = toString config.startLimitBurst;
        }
        // optionalAttrs options.startLimitIntervalSec.isDefined {
          StartLimitIntervalSec = toString config.startLimitIntervalSec;
        };
    };

  scripts = {
    preStart = "ExecStartPre";
    script = "ExecStart";
    postStart = "ExecStartPost";
    reload = "ExecReload";
    preStop = "ExecStop";
    postStop = "ExecStopPost";
  };
  enums = {
    Type = [
      "exec"
      "simple"
      "forking"
      "oneshot"
      "dbus"
      "notify"
      "notify-reload"
      "idle"
    ];
    Restart = [
      "no"
      "on-success"
      "on-failure"
      "on-abnormal"
      "on-abort"
      "on-watchdog"
      "always"
    ];
  };
  service =
    {
      name,
      config,
      ...
    }:
    {
      options = {
        environment = opt (
          with types;
          attrsOf (
            nullOr (oneOf [
              str
              path
              package
            ])
          )
        ) { };
        path = opt (with types; listOf (either package str)) [ ];
        serviceConfig = opt (types.addCheck section (
          s:
          lib.all (
            k:
            let
              v = s.${k} or null;
            in
            !(lib.isString v) || lib.elem v enums.${k}
          ) (lib.attrNames enums)
        )) { };
        restartIfChanged = opt types.bool true;
        reloadIfChanged = opt types.bool false;
        stopIfChanged = opt types.bool true;
        startAt = opt (with types; either str (listOf str)) [ ];
      }
      // lib.mapAttrs (_: _: opt types.lines "") scripts;
      config = lib.mkMerge (
        [
          {
            path = lib.mkAfter [
              pkgs.coreutils
              pkgs.findutils
              pkgs.gnugrep
              pkgs.gnused
              pkgs.systemd
            ];
            environment.PATH =
              lib.mkIf (config.path != [ ])
                "${lib.makeBinPath config.path}:${lib.makeSearchPathOutput "bin" "sbin" config.path}";
          }
        ]
        ++ mapAttrsToList (
          o: d:
          lib.mkIf (config.${o} != "") {
            serviceConfig.${d} =
              let
                s = "${pkgs.writeShellScript "${name}-${o}" "set -e\n${config.${o}}"}";
              in
              if o == "preStart" || o == "postStart" then [ s ] else s;
          }
        ) scripts
      );
    };

  render =
    attrs:
    concatMapStrings (x: x) (
      lib.concatLists (
        mapAttrsToList (
          n: v:
          map (
            x:
            "${n}=${
              if x == true then
                "true"
              else if x == false then
                "false"
              else
                toString x
            }\n"
          ) (lib.toList v)
        ) attrs
      )
    );
  unitText =
    def: body:
    "[Unit]\n${render def.unitConfig}\n${body}"
    + optionalString (
      def.wantedBy != [ ]
    ) "\n[Install]\nWantedBy=${concatStringsSep " " def.wantedBy}\n";
  serviceText =
    def:
    unitText def (
      "[Service]\n"
      + concatMapStrings (
        n:
        optionalString (
          def.environment.${n} != null
        ) "Environment=${builtins.toJSON "${n}=${def.environment.${n}}"}\n"
      ) (lib.attrNames def.environment)
      + optionalString def.reloadIfChanged "X-ReloadIfChanged=true\n"
      + optionalString (!def.reloadIfChanged && !def.restartIfChanged) "X-RestartIfChanged=false\n"
      + optionalString (!def.stopIfChanged) "X-StopIfChanged=false\n"
      + render def.serviceConfig
    );

  sub = m: opt (types.attrsOf (types.submodule m)) { };
  withSection = o: [
    common
    { options.${o} = opt section { }; }
  ];
  free = opt (types.attrsOf types.unspecified) { };
  ports = opt (types.listOf types.port) [ ];
  portOptions = {
    allowedTCPPorts = ports;
    allowedUDPPorts = ports;
    allowedTCPPortRanges = opt (types.listOf (types.attrsOf types.port)) [ ];
    allowedUDPPortRanges = opt (types.listOf (types.attrsOf types.port)) [ ];
  };
in
{
  options = {
    assertions = opt (types.listOf types.unspecified) [ ];
    warnings = opt (types.listOf types.str) [ ];
    meta = opt types.unspecified { };

    systemd.services = sub [
      common
      service
    ];
    systemd.targets = sub [ common ];
    systemd.timers = sub (withSection "timerConfig");
    systemd.sockets = sub (withSection "socketConfig");
    systemd.paths = sub (withSection "pathConfig");
    systemd.slices = sub (withSection "sliceConfig");
    systemd.tmpfiles.rules = opt (types.listOf types.str) [ ];
    systemd.tmpfiles.settings = free;
    systemd.units = opt (types.attrsOf types.str) { }; # file name -> text

    environment.systemPackages = opt (types.listOf types.package) [ ];
    environment.etc = sub (
      {
        name,
        config,
        ...
      }:
      {
        options = {
          enable = opt types.bool true;
          text = opt (types.nullOr types.lines) null;
          source = mkOption { type = types.path; };
          target = opt types.str name;
          mode = opt types.str "symlink";
          user = opt types.str "+0";
          group = opt types.str "+0";
        };
        config.source = lib.mkIf (config.text != null) (
          lib.mkDefault (pkgs.writeText "etc-${baseNameOf name}" config.text)
        );
      }
    );
    users.users = sub { freeformType = types.attrsOf types.unspecified; };
    users.groups = sub { freeformType = types.attrsOf types.unspecified; };

    networking.hostName = opt types.str "host";
    networking.defaultGateway = opt (types.nullOr (types.attrsOf types.str)) null;
    networking.useDHCP = opt types.bool true;
    networking.usePredictableInterfaceNames = opt types.bool true;
    networking.interfaces = sub {
      options.ipv4.addresses = opt (types.listOf types.attrs) [ ];
    };
    networking.nftables.enable = opt types.bool false;
    networking.nftables.tables = sub {
      options = {
        enable = opt types.bool true;
        family = mkOption { type = types.str; };
        content = opt types.lines "";
      };
    };
    virtualisation.vlans = opt (types.listOf types.ints.positive) [ 1 ];
    virtualisation.memorySize = opt types.int 1024;
    # of the configuration beside the machine's own, `configuration` alone
    specialisation = sub { options.configuration = opt types.unspecified { }; };
    networking.firewall = {
      enable = opt types.bool true;
      rejectPackets = opt types.bool false;
      interfaces = sub { options = portOptions; };
      extraCommands = opt types.lines "";
      extraStopCommands = opt types.lines "";
      extraInputRules = opt types.lines "";
      extraForwardRules = opt types.lines "";
      extraReversePathFilterRules = opt types.lines "";
      checkReversePath = opt (types.either types.bool (
        types.enum [
          "strict"
          "loose"
        ]
      )) true;
      connectionTrackingModules = opt (types.listOf types.str) [ ];
    }
    // portOptions;

    boot.kernelModules = opt (types.listOf types.str) [ ];
    boot.extraModprobeConfig = opt types.lines "";
    # two definitions of one name are an error even when they agree, as on NixOS
    boot.kernel.sysctl = opt (types.attrsOf (
      lib.mkOptionType {
        name = "sysctl option value";
        check = value: lib.isBool value || lib.isString value || lib.isInt value || value == null;
        merge = lib.mergeOneOption;
      }
    )) { };

    services.corosync.enable = opt types.bool false;
    services.pacemaker = {
      enable = opt types.bool false;
      package = lib.mkPackageOption pkgs "pacemaker" { };
    };
    services.keepalived = {
      enable = opt types.bool false;
      package = lib.mkPackageOption pkgs "keepalived" { };
      openFirewall = opt types.bool false;
      enableScriptSecurity = opt types.bool false;
      extraGlobalDefs = opt types.lines "";
      extraConfig = opt types.lines "";
      secretFile = opt (types.nullOr types.path) null;
      vrrpScripts = sub {
        options = {
          script = mkOption { type = types.str; };
          interval = opt types.int 1;
          fall = opt types.int 1;
          rise = opt types.int 1;
          timeout = opt types.int 1;
          weight = opt types.int 0;
          user = opt types.str "keepalived_script";
          group = opt (types.nullOr types.str) null;
          extraConfig = opt types.lines "";
        };
      };
      vrrpInstances = sub {
        options = {
          interface = mkOption { type = types.str; };
          state = opt (types.enum [
            "MASTER"
            "BACKUP"
          ]) "BACKUP";
          virtualRouterId = mkOption { type = types.ints.between 1 255; };
          priority = opt types.int 100;
          noPreempt = opt types.bool false;
          useVmac = opt types.bool false;
          vmacInterface = opt (types.nullOr types.str) null;
          vmacXmitBase = opt types.bool false;
          unicastSrcIp = opt (types.nullOr types.str) null;
          unicastPeers = opt (types.listOf types.str) [ ];
          virtualIps = opt (types.listOf (
            types.submodule {
              options = {
                addr = mkOption { type = types.str; };
              }
              // lib.genAttrs [
                "brd"
                "dev"
                "scope"
                "label"
              ] (_: opt (types.nullOr types.str) null);
            }
          )) [ ];
          trackScripts = opt (types.listOf types.str) [ ];
          trackInterfaces = opt (types.listOf types.str) [ ];
          extraConfig = opt types.lines "";
        };
      };
    };
  };

  config = {
    systemd.units =
      mapAttrs' (n: v: nameValuePair "${n}.service" (serviceText v)) config.systemd.services
      // mapAttrs' (n: v: nameValuePair "${n}.target" (unitText v "")) config.systemd.targets
      // mapAttrs' (
        n: v: nameValuePair "${n}.timer" (unitText v "[Timer]\n${render v.timerConfig}")
      ) config.systemd.timers
      // mapAttrs' (
        n: v: nameValuePair "${n}.socket" (unitText v "[Socket]\n${render v.socketConfig}")
      ) config.systemd.sockets
      // mapAttrs' (
        n: v: nameValuePair "${n}.path" (unitText v "[Path]\n${render v.pathConfig}")
      ) config.systemd.paths
      // mapAttrs' (
        n: v: nameValuePair "${n}.slice" (unitText v "[Slice]\n${render v.sliceConfig}")
      ) config.systemd.slices;

    # five seconds on NixOS
    systemd.timers.keepalived-boot-delay = lib.mkIf config.services.keepalived.enable {
      wantedBy = [ "multi-user.target" ];
      timerConfig = {
        OnActiveSec = "1s";
        AccuracySec = "100ms";
        Unit = "keepalived.service";
      };
    };
    # the host's own, not by its full path
    systemd.services.keepalived = lib.mkIf config.services.keepalived.enable {
      description = "Keepalive Daemon (LVS and VRRP)";
      after = [ "network.target" ];
      serviceConfig = {
        Type = "forking";
        PIDFile = "/run/keepalived.pid";
        KillMode = "process";
        RuntimeDirectory = "keepalived";
        ExecStart = "keepalived -f /etc/keepalived/keepalived.conf -p /run/keepalived.pid";
        Restart = "always";
        RestartSec = "1s";
      };
    };

    assertions =
      lib.mapAttrsToList (name: instance: {
        # as NixOS's module does, which makes the option's value matter before any assertion is told
        assertion = instance.interface != "";
        message = "services.keepalived.vrrpInstances.${name}.interface option cannot be empty.";
      }) config.services.keepalived.vrrpInstances
      ++ [
        {
          # as in NixOS's nftables firewall; keepalived's openFirewall trips over it
          assertion = !(config.networking.nftables.enable && config.networking.firewall.extraCommands != "");
          message = "extraCommands is incompatible with the nftables based firewall";
        }
        {
          assertion = !(config.services.keepalived.openFirewall && config.networking.nftables.enable);
          message = "services.keepalived.openFirewall sets extraCommands, which the nftables firewall refuses";
        }
      ];

    environment.etc."tmpfiles.d/00-nixos.conf" = lib.mkIf (config.systemd.tmpfiles.rules != [ ]) {
      text = lib.concatLines config.systemd.tmpfiles.rules;
    };

    environment.etc."keepalived/keepalived.conf" = lib.mkIf config.services.keepalived.enable {
      text =
        let
          k = config.services.keepalived;
          block =
            head: lines: "${head} {\n${concatMapStrings (l: optionalString (l != "") "  ${l}\n") lines}}\n";
          on = c: s: optionalString c s;
        in
        block "global_defs" [
          (on k.enableScriptSecurity "enable_script_security")
          k.extraGlobalDefs
        ]
        + lib.concatStrings (
          mapAttrsToList (
            n: s:
            block "vrrp_script ${n}" [
              "script \"${s.script}\""
              "interval ${toString s.interval}"
              "fall ${toString s.fall}"
              "rise ${toString s.rise}"
              "timeout ${toString s.timeout}"
              "weight ${toString s.weight}"
              "user ${s.user} ${on (s.group != null) s.group}"
              s.extraConfig
            ]
          ) k.vrrpScripts
        )
        + lib.concatStrings (
          mapAttrsToList (
            n: i:
            block "vrrp_instance ${n}" [
              "interface ${i.interface}"
              "state ${i.state}"
              "virtual_router_id ${toString i.virtualRouterId}"
              "priority ${toString i.priority}"
              (on i.noPreempt "nopreempt")
              (on i.useVmac "use_vmac ${on (i.vmacInterface != null) i.vmacInterface}")
              (on i.vmacXmitBase "vmac_xmit_base")
              (on (i.unicastSrcIp != null) "unicast_src_ip ${i.unicastSrcIp}")
              (on (i.unicastPeers != [ ]) (block "unicast_peer" i.unicastPeers))
              (block "virtual_ipaddress" (
                map (
                  a:
                  a.addr
                  + lib.concatMapStrings (f: on (a.${f} != null) " ${f} ${a.${f}}") [
                    "brd"
                    "dev"
                    "scope"
                    "label"
                  ]
                ) i.virtualIps
              ))
              (on (i.trackScripts != [ ]) (block "track_script" i.trackScripts))
              (on (i.trackInterfaces != [ ]) (block "track_interface" i.trackInterfaces))
              i.extraConfig
            ]
          ) k.vrrpInstances
        )
        + k.extraConfig;
    };
  };
}
