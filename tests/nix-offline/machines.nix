# Machines to evaluate the module on. `good`: statements that must be true of each. `mistakes`: what must be told of each,
# by an assertion, a warning, the evaluation or `ctsync config check`.
let
  pair = {
    services.ctsync = {
      enable = true;
      keyFile = "/run/keys/ctsync";
      settings.interface.eth2 = { };
      settings.failover-mechanism.vrrp.sync-group = "SYNC";
      keepalived.enable = true;
    };
    services.keepalived = {
      enable = true;
      vrrpInstances.WAN = {
        interface = "eth0";
        virtualRouterId = 1;
      };
      vrrpInstances.LAN = {
        interface = "eth1";
        virtualRouterId = 2;
      };
    };
  };
  # the pair's machine with something beside it
  pairWith = more: {
    imports = [
      pair
      more
    ];
  };
  manual = {
    services.ctsync = {
      enable = true;
      keyFile = "/run/keys/ctsync";
      settings.interface.eth2 = { };
      settings.failover-mechanism.manual.group = "GROUP";
    };
  };
  manualWith = more: {
    imports = [
      manual
      more
    ];
  };
  vyos = lines: {
    services.ctsync = {
      enable = true;
      keyFile = "/run/keys/ctsync";
      openFirewall = true;
      vyosConfig = lines;
    };
  };
  has =
    part: text: builtins.match ".*${part}.*" (builtins.replaceStrings [ "\n" ] [ " " ] text) != null;
in
{
  good = {
    closed-by-default = {
      machine = pair;
      shows = e: {
        "no port is open" = e.firewall == { };
        "nothing is warned of" = e.warnings == [ ];
        "entries older than the daemon tell their end" = e.sysctl."net.netfilter.nf_conntrack_events" == 1;
        "the table keeps the kernel's size" = !(e.sysctl ? "net.netfilter.nf_conntrack_max");
        "the key comes from systemd" = has "LoadCredential=key:/run/keys/ctsync" e.unit;
      };
    };
    open-port = {
      machine = pairWith {
        services.ctsync.openFirewall = true;
        services.ctsync.settings.interface.eth2.port = 3999;
      };
      shows = e: {
        "the channel's port is open on the channel's interface" =
          e.firewall.eth2.allowedUDPPorts == [ 3999 ];
        "VRRP is let in by keepalived's own option" = e.keepalivedOpen && e.inputRules == "";
        "and nowhere else" = builtins.attrNames e.firewall == [ "eth2" ];
      };
    };
    kernel = {
      machine = pairWith {
        services.ctsync.conntrack.tableSize = 1048576;
        services.ctsync.conntrack.helpers = [
          "ftp"
          "netbios-ns"
        ];
      };
      shows = e: {
        "the table's size" = e.sysctl."net.netfilter.nf_conntrack_max" == 1048576;
        "its hash" = has "hashsize=1048576" e.extraModprobeConfig;
        "helpers" = builtins.all (module: builtins.elem module e.kernelModules) [
          "nf_nat_ftp"
          "nf_conntrack_netbios_ns"
          "nf_conntrack"
        ];
      };
    };
    hold-and-metrics = {
      machine = pairWith {
        services.ctsync.settings.hold = true;
        services.ctsync.settings.failover-mechanism.vrrp.virtual-address = [ "192.0.2.1" ];
        services.ctsync.metrics.enable = true;
        services.ctsync.metrics.address = "::1";
      };
      shows = e: {
        "nft is on the unit's path" = has "nftables" e.unit;
        "where metrics are" = has "\\[::1]:9338" e.etc."ctsync/config.json";
      };
    };
    unsettled-options = {
      machine = pairWith {
        # not listed by the module: the daemon knows it
        services.ctsync.settings.alive-interval = 100;
        services.ctsync.settings.ignore-address = [ "192.0.2.0/24" ];
      };
      shows = e: { "they are in the file" = has "\"alive-interval\":100" e.etc."ctsync/config.json"; };
    };
    instance = {
      machine = pairWith (
        { lib, ... }:
        {
          services.ctsync.settings.failover-mechanism = lib.mkForce { vrrp.instance = "WAN"; };
        }
      );
      shows = e: {
        "the track file is known before the instance" =
          has "track_file ctsync .*vrrp_instance WAN .*ctsync weight 1"
            e.etc."keepalived/keepalived.conf";
        "there is no sync group" = !(has "vrrp_sync_group" e.etc."keepalived/keepalived.conf");
      };
    };
    two-groups = {
      machine = pairWith {
        services.ctsync.settings.group.blue = {
          failover-mechanism.vrrp.sync-group = "BLUE";
          prefix = [ "10.2.0.0/16" ];
        };
        services.ctsync.keepalived.syncGroups = {
          SYNC = [ "WAN" ];
          BLUE = [ "LAN" ];
        };
      };
      shows = e: {
        "each has its track file" =
          has "file /run/ctsync/vrrp.track .*file /run/ctsync/vrrp-blue.track"
            e.etc."keepalived/keepalived.conf";
        "and its weight" =
          has "vrrp_sync_group BLUE .*LAN .*sync_group_tracking_weight .*ctsync_BLUE weight 1"
            e.etc."keepalived/keepalived.conf";
      };
    };
    vyos-lines = {
      machine = vyos ''
        set interfaces ethernet eth0 address 192.0.2.1/24
        set service conntrack-sync accept-protocol 'tcp,udp,icmp'
        set service conntrack-sync failover-mechanism vrrp sync-group 'SYNC'
        set service conntrack-sync interface 'eth3'
        set service conntrack-sync interface eth3 port 4000
      '';
      shows = e: {
        "its port is open on its interface" = e.firewall.eth3.allowedUDPPorts == [ 4000 ];
        "the lines stand" = has "sync-group 'SYNC'" e.etc."ctsync/config.json";
        "the key is beside them" =
          has "key-file /run/credentials/ctsync.service/key"
            e.etc."ctsync/config.json";
      };
    };
    pacemaker = {
      machine = {
        services.ctsync = {
          enable = true;
          keyFile = "/run/keys/ctsync";
          settings.interface.eth2 = { };
          settings.failover-mechanism.cluster.group = "GROUP";
          pacemaker.enable = true;
        };
        services.corosync.enable = true;
        services.pacemaker.enable = true;
      };
      shows = e: {
        "Pacemaker finds its own agents and ours" =
          builtins.length e.pacemaker == 2 && has "ctsync" (builtins.elemAt e.pacemaker 1);
      };
    };
  };

  mistakes = {
    misspelt-option = {
      machine.services.ctsync.enabel = true;
      told = "does not exist";
    };
    port-70000 = {
      machine = pairWith { services.ctsync.settings.interface.eth2.port = 70000; };
      told = "not of type `16 bit unsigned integer";
    };
    key-in-the-store = {
      machine = pairWith (
        { lib, ... }:
        {
          services.ctsync.keyFile = lib.mkForce "/nix/store/00000000000000000000000000000000-key";
        }
      );
      told = "absolute path not in the Nix store";
    };
    # would be copied there
    key-beside-the-configuration = {
      machine = pairWith ({ lib, ... }: { services.ctsync.keyFile = lib.mkForce ./machines.nix; });
      told = "absolute path not in the Nix store";
    };
    no-key = {
      machine = pairWith ({ lib, ... }: { services.ctsync.keyFile = lib.mkForce null; });
      told = "services.ctsync.keyFile is not set";
    };
    key-in-settings = {
      machine = pairWith { services.ctsync.settings.key-file = "/etc/ctsync/key"; };
      told = "set services.ctsync.keyFile instead";
    };
    unknown-setting = {
      machine = manualWith { services.ctsync.settings.acept-protocol = [ "tcp" ]; };
      told = "did you mean \"accept-protocol\"?";
    };
    unknown-protocol = {
      machine = manualWith { services.ctsync.settings.accept-protocol = [ "tpc" ]; };
      told = "services.ctsync.settings.accept-protocol";
    };
    impossible-combination = {
      machine = manualWith {
        services.ctsync.settings.alive-interval = 500;
        services.ctsync.settings.peer-timeout = 600;
      };
      told = "at least twice the alive-interval";
    };
    wrong-line = {
      machine = vyos ''
        set service conntrack-sync interface eth3
        set service conntrack-sync failover-mechanism vrrp sync-grop SYNC
      '';
      told = "did you mean \"sync-group\"?";
    };
    lines-without-interface = {
      machine = vyos "set service conntrack-sync vrrp sync-group SYNC";
      told = "services.ctsync.vyosConfig has no line `set service conntrack-sync interface NAME`";
    };
    two-forms = {
      machine = {
        imports = [ (vyos "set service conntrack-sync interface eth2") ];
        services.ctsync.settings.hold = true;
      };
      told = "give one of them";
    };
    key-in-lines = {
      machine = vyos ''
        set service conntrack-sync interface eth3
        set service conntrack-sync key-file /etc/ctsync/key
      '';
      told = "set services.ctsync.keyFile instead";
    };
    directory-of-the-unit = {
      machine = pairWith { services.ctsync.settings.state-directory = "/run/elsewhere"; };
      told = "state-directory and control-socket are the unit's";
    };
    lines-that-cannot-be-followed = {
      machine = {
        imports = [
          (vyos ''
            set service conntrack-sync interface eth3
            set service conntrack-sync failover-mechanism vrrp sync-group SYNC
            set service conntrack-sync group GREEN failover-mechanism vrrp sync-group GREEN
          '')
        ];
        services.ctsync.keepalived.enable = true;
        services.keepalived.enable = true;
      };
      told = "the module cannot follow `set service conntrack-sync group GREEN";
    };
    events-switched-off = {
      machine = pairWith { boot.kernel.sysctl."net.netfilter.nf_conntrack_events" = 2; };
      told = "is not 1: entries older than the daemon";
    };
    resets = {
      machine = pairWith { networking.firewall.rejectPackets = true; };
      told = "networking.firewall.rejectPackets answers";
    };
    no-instances = {
      machine = pairWith (
        { lib, ... }:
        {
          services.keepalived.vrrpInstances = lib.mkForce { };
        }
      );
      told = "some of the 0 services.keepalived.vrrpInstances";
    };
    no-interface = {
      machine.services.ctsync = {
        enable = true;
        settings.failover-mechanism.manual.group = "GROUP";
      };
      told = "services.ctsync.settings.interface must name";
    };
    no-mechanism = {
      machine.services.ctsync = {
        enable = true;
        settings.interface.eth2 = { };
      };
      told = "services.ctsync.settings.failover-mechanism must be set";
    };
    group-that-does-not-exist = {
      machine = pairWith { services.ctsync.keepalived.syncGroups.SNYC = [ "WAN" ]; };
      told = "services.ctsync.keepalived.syncGroups.SNYC: no failover mechanism";
    };
    member-that-does-not-exist = {
      machine = pairWith { services.ctsync.keepalived.syncGroups.SYNC = [ "DMZ" ]; };
      told = "names DMZ, which services.keepalived.vrrpInstances lacks";
    };
    instance-that-does-not-exist = {
      machine = pairWith (
        { lib, ... }:
        {
          services.ctsync.settings.failover-mechanism = lib.mkForce { vrrp.instance = "DMZ"; };
        }
      );
      told = "names the instance DMZ, which services.keepalived.vrrpInstances lacks";
    };
    keepalived-without-vrrp = {
      machine = manualWith {
        services.ctsync.keepalived.enable = true;
        services.keepalived.enable = true;
      };
      told = "services.ctsync.settings.failover-mechanism must be `vrrp`";
    };
    keepalived-by-hand = {
      machine = pairWith ({ lib, ... }: { services.ctsync.keepalived.enable = lib.mkForce false; });
      told = "services.ctsync.keepalived.enable is not set";
    };
    pacemaker-that-is-not-there = {
      machine = manualWith { services.ctsync.pacemaker.enable = true; };
      told = "services.ctsync.pacemaker.enable needs services.pacemaker.enable";
    };
    helper-that-does-not-exist = {
      machine = pairWith { services.ctsync.conntrack.helpers = [ "fpt" ]; };
      told = "services.ctsync.conntrack.helpers";
    };
  };
}
