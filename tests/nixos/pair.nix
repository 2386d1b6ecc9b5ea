# The documented example in NixOS terms: two routers with a virtual address on each side, a client in the LAN, a server in
# the WAN, source NAT between them. Nodes are numbered by name: client 1, router1 2, router2 3, server 4, and a node's
# address is 192.168.VLAN.NUMBER.
{ nixosModule }:
let
  lan = 1;
  wan = 2;
  channel = 3;

  router =
    priority:
    { pkgs, ... }:
    {
      imports = [ nixosModule ];
      virtualisation.vlans = [
        lan
        wan
        channel
      ];
      environment.systemPackages = [ pkgs.conntrack-tools ];
      # in the store, which everyone can read: for a test only
      environment.etc."ctsync.key" = {
        text = "5f1c0e8d7a2b49634d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f7081929344";
        mode = "0400";
      };

      services.ctsync = {
        enable = true;
        settings.interface.eth3 = { };
        settings.failover-mechanism.vrrp.sync-group = "SYNC";
        keyFile = "/etc/ctsync.key";
        openFirewall = true;
        keepalived.enable = true;
      };
      services.keepalived = {
        enable = true;
        vrrpInstances = {
          LAN = {
            inherit priority;
            interface = "eth1";
            virtualRouterId = 51;
            virtualIps = [ { addr = "192.168.1.254/24"; } ];
          };
          WAN = {
            inherit priority;
            interface = "eth2";
            virtualRouterId = 52;
            virtualIps = [ { addr = "192.168.2.254/24"; } ];
          };
        };
      };

      boot.kernel.sysctl = {
        "net.ipv4.conf.all.forwarding" = true;
        # a connection in the middle that the table lacks is no connection: only what was synchronised survives
        "net.netfilter.nf_conntrack_tcp_loose" = 0;
      };
      networking.nftables = {
        enable = true;
        tables.source-nat = {
          family = "ip";
          content = ''
            chain postrouting {
              type nat hook postrouting priority srcnat;
              ip saddr 192.168.1.0/24 oifname eth2 snat to 192.168.2.254
            }
          '';
        };
        tables.forwarding = {
          family = "inet";
          content = ''
            chain forward {
              type filter hook forward priority filter; policy drop;
              ct state { established, related } accept
              ct state new iifname eth1 accept
            }
          '';
        };
      };
    };

  # connections.py holds TCP connections open and counts what comes back on each
  host =
    vlan: arguments:
    { pkgs, ... }:
    {
      virtualisation.vlans = [ vlan ];
      networking.firewall.enable = false;
      networking.defaultGateway = {
        address = "192.168.${toString vlan}.254";
        interface = "eth1";
      };
      environment.etc."connections.py".source = ./connections.py;
      systemd.services.connections = {
        description = "Connections that are watched";
        serviceConfig.ExecStart = "${pkgs.python3}/bin/python3 /etc/connections.py ${arguments}";
      };
    };
in
{
  nodes = {
    client = host lan "client 192.168.2.4 50";
    router1 = router 150;
    router2 = router 100;
    server = host wan "server";
  };

  # a node's configuration with something beside it
  extend =
    module: more:
    { ... }:
    {
      imports = [
        module
        more
      ];
    };

  # for the beginning of every testScript
  helpers = builtins.readFile ./helpers.py;
}
