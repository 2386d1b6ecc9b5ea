//! The channel's socket, on the loopback interface: unicast over IPv4 and IPv6, and what comes through a
//! router.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use ctsync::config;
use ctsync::io::channel::{Channel, Received};

/// A channel to itself.
fn channel(peer: &str, port: u16) -> Channel {
    let text = format!(
        r#"{{"interface": {{"lo": {{"peer": "{peer}", "port": {port}}}}},
            "failover-mechanism": {{"manual": {{"group": "G"}}}}}}"#
    );
    let config = config::parse(Path::new("config.json"), &text).unwrap().config;
    let mut channel = Channel::new(&config);
    channel.open_on(1, None).unwrap();
    channel
}

async fn next(channel: &mut Channel) -> Received {
    let mut buffer = [0; 2048];
    loop {
        tokio::time::timeout(Duration::from_secs(5), channel.readable()).await.unwrap().unwrap();
        match channel.receive(&mut buffer) {
            Received::Nothing => {}
            received => return received,
        }
    }
}

/// Its own datagram comes with hop limit 255; one with less came through a router, and is not for us.
async fn hop_limits(peer: &str, port: u16) {
    let mut channel = channel(peer, port);
    channel.writable().await.unwrap();
    assert!(channel.send(b"near"));
    assert_eq!(next(&mut channel).await, Received::Datagram(4), "{peer}");
    let address: IpAddr = peer.parse().unwrap();
    let stranger = UdpSocket::bind(SocketAddr::from((address, 0))).unwrap();
    for hops in [254, 64, 1] {
        let socket = socket2::SockRef::from(&stranger);
        if address.is_ipv4() {
            socket.set_ttl_v4(hops).unwrap();
        } else {
            socket.set_unicast_hops_v6(hops).unwrap();
        }
        stranger.send_to(b"far", (address, port)).unwrap();
        assert_eq!(next(&mut channel).await, Received::Far, "{peer}, {hops} hops");
    }
    assert_eq!((channel.traffic.received, channel.traffic.sent), (4, 1));
}

/// Each datagram goes to each peer, once.
#[tokio::test]
async fn several_peers_hear_each_datagram() {
    let others = ["127.0.0.2", "127.0.0.3"].map(|address| UdpSocket::bind((address, 47_803)).unwrap());
    let text = r#"{"interface": {"lo": {"peer": ["127.0.0.2", "127.0.0.3"], "port": 47803}},
                   "listen-address": ["127.0.0.1"],
                   "failover-mechanism": {"manual": {"group": "G"}}}"#;
    let config = config::parse(Path::new("config.json"), text).unwrap().config;
    let mut channel = Channel::new(&config);
    assert_eq!(channel.place(), "lo, unicast 127.0.0.2, 127.0.0.3, UDP port 47803");
    channel.open_on(1, None).unwrap();
    channel.writable().await.unwrap();
    for said in [b"one", b"two"] {
        assert!(channel.send(said));
        for other in &others {
            other.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut buffer = [0; 16];
            let (length, from) = other.recv_from(&mut buffer).unwrap();
            assert_eq!((buffer.get(..length), from.ip()), (Some(&said[..]), IpAddr::from([127, 0, 0, 1])));
        }
    }
    assert_eq!((channel.traffic.sent, channel.traffic.bytes_sent), (4, 12));
}

#[tokio::test]
async fn only_neighbours_are_heard_over_ipv4() {
    hop_limits("127.0.0.1", 47_801).await;
}

#[tokio::test]
async fn only_neighbours_are_heard_over_ipv6() {
    hop_limits("::1", 47_802).await;
}
