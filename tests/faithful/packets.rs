//! Real packets: each makes the kernel track a connection of its own. Sent to local addresses, answered by
//! nobody.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use fastrand::Rng;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Raw sockets that send whole IP packets.
pub(crate) struct Sender {
    v4: Socket,
    v6: Socket,
    rng: Rng,
    at: u32,
}

fn raw(family: Domain) -> Socket {
    // IPPROTO_RAW: the header is ours.
    Socket::new(family, Type::RAW, Some(Protocol::from(255))).expect("a raw socket (needs root)")
}

impl Sender {
    pub(crate) fn new(seed: u64) -> Sender {
        Sender { v4: raw(Domain::IPV4), v6: raw(Domain::IPV6), rng: Rng::with_seed(seed), at: 0 }
    }

    /// The first packet of a connection that was not there before.
    pub(crate) fn send(&mut self) {
        self.at += 1;
        let rng = &mut self.rng;
        let v6 = rng.u8(0..3) == 0;
        let icmp = if v6 { 58 } else { 1 };
        let proto = *rng.choice(&[6, 6, 6, 17, 17, icmp, 132, 47, 136, 50, 51, 200]).unwrap();
        let ports = (
            rng.u16(1024..60000),
            *rng.choice(&[21, 69, 5060, 80, 1500, 2500, 4500, 5200, 5700, 30500, 31500, 32500]).unwrap(),
        );
        let mut payload = match proto {
            6 => tcp(ports),
            // A request to read a file: TFTP's helper foresees the answer.
            17 if ports.1 == 69 => {
                let mut request = udp(ports, 9);
                request[8..].copy_from_slice(b"\0\x01x\0mail\0");
                request
            }
            17 => udp(ports, rng.usize(0..200)),
            136 => udp(ports, 8),
            132 => sctp(ports, rng.u32(1..)),
            1 | 58 => vec![if v6 { 128 } else { 8 }, 0, 0, 0, (self.at >> 8) as u8, self.at as u8, 0, 1],
            47 => vec![0x20, 0x01, 0x88, 0x0b, 0, 4, (self.at >> 8) as u8, self.at as u8, 0, 0, 0, 0],
            _ => vec![0; 16],
        };
        let [_, a, b, c] = self.at.to_be_bytes();
        if v6 {
            let src = Ipv6Addr::from([0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c]);
            let dst = Ipv6Addr::from([0xfd, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, rng.u8(1..200)]);
            transport_checksum(proto, &[&src.octets()[..], &dst.octets()].concat(), &mut payload);
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
            packet.extend([proto, 64]);
            packet.extend(src.octets());
            packet.extend(dst.octets());
            packet.extend(payload);
            give(&self.v6, &packet, dst.into());
        } else {
            let (src, dst) = (Ipv4Addr::new(10, a, b, c), Ipv4Addr::new(10, 200, 0, rng.u8(1..200)));
            transport_checksum(proto, &[src.octets(), dst.octets()].concat(), &mut payload);
            let mut packet = vec![0x45, 0];
            packet.extend(u16::try_from(20 + payload.len()).unwrap().to_be_bytes());
            // The kernel fills in id and checksum.
            packet.extend([0, 0, 0, 0, 64, proto, 0, 0]);
            packet.extend(src.octets());
            packet.extend(dst.octets());
            packet.extend(payload);
            give(&self.v4, &packet, dst.into());
        }
    }
}

fn give(socket: &Socket, packet: &[u8], to: IpAddr) {
    socket.send_to(packet, &SockAddr::from(SocketAddr::new(to, 0))).expect("a packet to a local address");
}

fn tcp((src, dst): (u16, u16)) -> Vec<u8> {
    let mut out = [src.to_be_bytes(), dst.to_be_bytes()].concat();
    out.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x80, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    // Maximum segment size, SACK permitted, window scale 7.
    out.extend([2, 4, 5, 0xb4, 4, 2, 1, 3, 3, 7, 0, 0]);
    out
}

fn udp((src, dst): (u16, u16), length: usize) -> Vec<u8> {
    let mut out = [src.to_be_bytes(), dst.to_be_bytes()].concat();
    out.extend(u16::try_from(8 + length).unwrap().to_be_bytes());
    out.extend([0, 0]);
    out.resize(8 + length, 0);
    out
}

/// An INIT chunk with this tag.
fn sctp((src, dst): (u16, u16), tag: u32) -> Vec<u8> {
    let mut out = [src.to_be_bytes(), dst.to_be_bytes()].concat();
    out.extend([0; 8]);
    out.extend([1, 0, 0, 20]);
    out.extend(tag.to_be_bytes());
    out.extend([0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1]);
    let sum = crc32c::crc32c(&out).to_le_bytes();
    out[8..12].copy_from_slice(&sum);
    out
}

/// RFC 1071 over pseudo header and payload, where the protocol wants one.
fn transport_checksum(proto: u8, addresses: &[u8], payload: &mut [u8]) {
    let at = match proto {
        6 => 16,
        17 | 136 => 6,
        1 | 58 => 2,
        _ => return,
    };
    let mut all = if proto == 1 { Vec::new() } else { addresses.to_vec() };
    if proto != 1 {
        all.extend([0, proto]);
        all.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    }
    all.extend(&*payload);
    let mut sum: u32 =
        all.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !(sum as u16);
    payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}
