//! Protocols without sockets of their own, packet by packet: ESP, UDP-Lite, SCTP and the GRE of a PPTP call.
//! They speak both ways before; after the takeover the far end speaks first.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Ends, Flow, SPEAKS};
use crate::machine::node::Node;
use crate::machine::wait::now;
use crate::routers::topology::{SERVER, VIP};

const ICMP: u8 = 1;
const ESP: u8 = 50;
const GRE: u8 = 47;
const SCTP: u8 = 132;
const UDPLITE: u8 = 136;

pub(super) fn begin(ends: &Ends<'_>) -> Result<Vec<Box<dyn Flow>>> {
    Ok(vec![
        Box::new(esp(ends).context("ESP")?),
        Box::new(echo(ends).context("ICMP")?),
        Box::new(Lite::exchange(ends).context("UDP-Lite")?),
        Box::new(sctp(ends).context("SCTP")?),
        Box::new(pptp(ends).context("PPTP")?),
    ])
}

/// A raw socket of one protocol.
struct Raw {
    socket: Socket,
}

impl Raw {
    fn open(node: &Node, proto: u8) -> Result<Raw> {
        let proto = Protocol::from(i32::from(proto));
        let socket =
            node.net.run(|| Socket::new(Domain::IPV4, Type::RAW, Some(proto)).context("no raw socket"))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(Raw { socket })
    }

    fn send(&self, to: Ipv4Addr, payload: &[u8]) -> Result<()> {
        self.socket.send_to(payload, &SockAddr::from(SocketAddrV4::new(to, 0)))?;
        Ok(())
    }

    /// The payload of the next packet that is meant.
    fn hear(&self, limit: Duration, meant: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>> {
        let began = now();
        let mut packet = [0; 2048];
        while began.elapsed() < limit {
            let length = match (&self.socket).read(&mut packet) {
                Ok(length) => length,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            };
            let header = usize::from(packet[0] & 0x0f) * 4;
            if let Some(payload) = packet.get(header..length).filter(|payload| meant(payload)) {
                return Ok(payload.to_vec());
            }
        }
        bail!("nothing is heard")
    }
}

/// Longest wait for a packet before the takeover.
const SOON: Duration = Duration::from_secs(2);

/// A packet that the far end sends after the takeover, and what of it must arrive.
struct Spoken {
    name: &'static str,
    near: Raw,
    far: Raw,
    said: Vec<u8>,
    /// What the payload must end with.
    heard: Vec<u8>,
    /// What must stay open meanwhile.
    _control: Option<[TcpStream; 2]>,
}

impl Flow for Spoken {
    fn name(&self) -> &'static str {
        self.name
    }

    fn after(&mut self) -> Result<String> {
        for tries in 1..=SPEAKS.as_secs() / 2 {
            self.far.send(VIP.parse()?, &self.said)?;
            if self.near.hear(SOON, |payload| payload.ends_with(&self.heard)).is_ok() {
                return Ok(format!("the far end spoke first and was heard, {tries} packets sent"));
            }
        }
        bail!("nothing comes from the far end")
    }
}

fn esp(ends: &Ends<'_>) -> Result<Spoken> {
    let (near, far) = (Raw::open(ends.client, ESP)?, Raw::open(ends.server, ESP)?);
    // Security parameters index, sequence number, something secret.
    let packet = |number: u8| vec![0, 0, 0x12, 0x34, 0, 0, 0, number, 1, 2, 3, 4];
    near.send(SERVER.parse()?, &packet(1))?;
    far.hear(SOON, |found| found == packet(1))?;
    far.send(VIP.parse()?, &packet(2))?;
    near.hear(SOON, |found| found == packet(2))?;
    Ok(Spoken { name: "ESP", near, far, said: packet(3), heard: packet(3), _control: None })
}

/// RFC 792: an echo whose id is translated; the far end answers once more after the takeover.
fn echo(ends: &Ends<'_>) -> Result<Spoken> {
    const ID: [u8; 2] = [0x12, 0x34];
    let (near, far) = (Raw::open(ends.client, ICMP)?, Raw::open(ends.server, ICMP)?);
    let message = |kind: u8, id: [u8; 2], tail: &[u8; 4]| {
        let mut out = vec![kind, 0, 0, 0, id[0], id[1], 0, 1];
        out.extend(tail);
        let pairs = out.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
        let sum = pairs.fold(0, |sum, pair| (sum + pair) % 0xffff);
        let [.., high, low] = (0xffff - sum).to_be_bytes();
        out.splice(2..4, [high, low]);
        out
    };
    near.send(SERVER.parse()?, &message(8, ID, b"ask?"))?;
    let asked = far.hear(SOON, |found| found.first() == Some(&8) && found.ends_with(b"ask?"))?;
    let translated = [asked[4], asked[5]];
    ensure!(translated != ID, "the id was not translated");
    // The kernel answers by itself.
    near.hear(SOON, |found| found.first() == Some(&0) && found.ends_with(b"ask?"))?;
    let said = message(0, translated, b"tell");
    let heard = [&ID[..], &[0, 1], b"tell"].concat();
    Ok(Spoken { name: "ICMP, an echo with a translated id", near, far, said, heard, _control: None })
}

/// RFC 3828, over sockets of the kernel's.
struct Lite {
    near: UdpSocket,
    far: UdpSocket,
    seen: SocketAddr,
}

impl Lite {
    fn exchange(ends: &Ends<'_>) -> Result<Lite> {
        let open = |node: &Node, address: SocketAddr| -> Result<UdpSocket> {
            node.net.run(|| {
                let proto = Protocol::from(i32::from(UDPLITE));
                let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(proto))?;
                socket.bind(&address.into())?;
                socket.set_read_timeout(Some(SOON))?;
                Ok(socket.into())
            })
        };
        let at = SocketAddr::new(SERVER.parse()?, 7008);
        let (near, far) = (open(ends.client, "0.0.0.0:0".parse()?)?, open(ends.server, at)?);
        near.send_to(b"?", at)?;
        let (_, seen) = far.recv_from(&mut [0; 16])?;
        far.send_to(b"!", seen)?;
        near.recv_from(&mut [0; 16])?;
        Ok(Lite { near, far, seen })
    }
}

impl Flow for Lite {
    fn name(&self) -> &'static str {
        "UDP-Lite"
    }

    fn after(&mut self) -> Result<String> {
        for tries in 1..=SPEAKS.as_secs() / 2 {
            self.far.send_to(b"again", self.seen)?;
            if self.near.recv_from(&mut [0; 16]).is_ok() {
                return Ok(format!("the far end spoke first and was heard, {tries} datagrams sent"));
            }
        }
        bail!("nothing comes from the far end")
    }
}

/// RFC 9260: an association is set up; then the far end sends data under the tag that was agreed.
fn sctp(ends: &Ends<'_>) -> Result<Spoken> {
    const TAGS: [u32; 2] = [0x0a0a_0a0a, 0x0b0b_0b0b];
    const PORTS: [u16; 2] = [7010, 7009];
    let (near, far) = (Raw::open(ends.client, SCTP)?, Raw::open(ends.server, SCTP)?);
    let packet = |ports: [u16; 2], tag: u32, chunk: &[u8]| {
        let mut out = [ports[0].to_be_bytes(), ports[1].to_be_bytes()].concat();
        out.extend(tag.to_be_bytes());
        out.extend([0; 4]);
        out.extend(chunk);
        let sum = crc32c::crc32c(&out).to_le_bytes();
        out.splice(8..12, sum);
        out
    };
    // Type, flags, length; tag, window, streams, first sequence number.
    let init = |kind: u8, tag: u32| {
        let mut chunk = vec![kind, 0, 0, 20];
        chunk.extend(tag.to_be_bytes());
        chunk.extend([0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
        chunk
    };
    let (init, init_ack) = (init(1, TAGS[0]), init(2, TAGS[1]));
    let (echo, acknowledged) = ([10, 0, 0, 8, 1, 2, 3, 4], [11, 0, 0, 4]);
    let server: Ipv4Addr = SERVER.parse()?;
    near.send(server, &packet(PORTS, 0, &init))?;
    let seen = far.hear(SOON, |found| found.ends_with(&init))?;
    // The port may have been translated.
    let back = [PORTS[1], u16::from_be_bytes([seen[0], seen[1]])];
    far.send(VIP.parse()?, &packet(back, TAGS[0], &init_ack))?;
    near.hear(SOON, |found| found.ends_with(&init_ack))?;
    near.send(server, &packet(PORTS, TAGS[1], &echo))?;
    far.hear(SOON, |found| found.ends_with(&echo))?;
    far.send(VIP.parse()?, &packet(back, TAGS[0], &acknowledged))?;
    near.hear(SOON, |found| found.ends_with(&acknowledged))?;
    let mut data = vec![0, 3, 0, 20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
    data.extend(*b"data");
    let said = packet(back, TAGS[0], &data);
    Ok(Spoken { name: "SCTP", near, far, said, heard: data, _control: None })
}

/// RFC 2637: a call is set up over TCP, which names the GRE packets of both directions; then the far end
/// sends one.
fn pptp(ends: &Ends<'_>) -> Result<Spoken> {
    const CALLS: [u16; 2] = [0x0101, 0x0202];
    let listener = ends.server.net.run(|| Ok(TcpListener::bind((SERVER, 1723))?))?;
    let mut near_control = ends.client.net.run(|| Ok(TcpStream::connect((SERVER, 1723))?))?;
    let (mut far_control, _) = listener.accept()?;
    for control in [&near_control, &far_control] {
        control.set_read_timeout(Some(SOON))?;
    }
    let (near, far) = (Raw::open(ends.client, GRE)?, Raw::open(ends.server, GRE)?);
    let message = |kind: u16, length: u16, fields: &[(usize, u16)]| {
        let mut out = vec![0; usize::from(length)];
        out.splice(..2, length.to_be_bytes());
        out.splice(2..8, [0, 1, 0x1a, 0x2b, 0x3c, 0x4d]);
        out.splice(8..10, kind.to_be_bytes());
        for (at, value) in fields {
            out.splice(*at..*at + 2, value.to_be_bytes());
        }
        out
    };
    let say = |from: &mut TcpStream, to: &mut TcpStream, message: Vec<u8>| -> Result<Vec<u8>> {
        from.write_all(&message)?;
        let mut heard = vec![0; message.len()];
        to.read_exact(&mut heard)?;
        Ok(heard)
    };
    // Start-Control-Connection-Request and -Reply: version 1.0, and in the reply "successful".
    say(&mut near_control, &mut far_control, message(1, 156, &[(12, 0x0100)]))?;
    say(&mut far_control, &mut near_control, message(2, 156, &[(12, 0x0100), (14, 0x0100)]))?;
    // Outgoing-Call-Request and -Reply: the call's numbers, and "connected". NAT may have changed the first.
    let asked = say(&mut near_control, &mut far_control, message(7, 168, &[(12, CALLS[0])]))?;
    let theirs = u16::from_be_bytes([asked[12], asked[13]]);
    say(&mut far_control, &mut near_control, message(8, 32, &[(12, CALLS[1]), (14, theirs), (16, 0x0100)]))?;
    let packet = |call: u16, tail: &[u8; 4]| {
        let mut out = vec![0x30, 0x01, 0x88, 0x0b, 0, 4];
        out.extend(call.to_be_bytes());
        out.extend([0, 0, 0, 1]);
        out.extend(tail);
        out
    };
    near.send(SERVER.parse()?, &packet(CALLS[1], b"near"))?;
    far.hear(SOON, |found| found.ends_with(b"near")).context("GRE to the server")?;
    far.send(VIP.parse()?, &packet(theirs, b"far!"))?;
    let heard = near.hear(SOON, |found| found.ends_with(b"far!")).context("GRE to the client")?;
    ensure!(heard[6..8] == CALLS[0].to_be_bytes(), "the call's number was not translated back");
    Ok(Spoken {
        name: "PPTP, a call's GRE packets",
        near,
        far,
        said: packet(theirs, b"last"),
        heard: packet(CALLS[0], b"last"),
        _control: Some([near_control, far_control]),
    })
}
