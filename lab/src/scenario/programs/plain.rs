//! TCP and UDP with what rules give them. A TCP connection must answer a line; a UDP exchange is spoken to by
//! its far end.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use anyhow::{Context, Result, ensure};

use super::{Ends, Flow, SPEAKS};
use crate::machine::node::Node;
use crate::routers::topology::{SERVER, SERVER6, VIP};

/// Only packets with this mark are routed to [`MARKED`].
pub(super) const MARK: u32 = 0x66;
/// Another address of the server.
pub(super) const MARKED: &str = "10.0.0.101";

pub(super) fn begin(ends: &Ends<'_>) -> Result<Vec<Box<dyn Flow>>> {
    let (client, server) = (ends.client, ends.server);
    Ok(vec![
        Box::new(Tcp::connect("TCP over IPv6 with NAT66", client, server, SERVER6, 7004)?),
        // Listened to on the LAN, connected to by the VIP.
        Box::new(Tcp::connect("TCP through destination NAT", server, client, VIP, 7003)?),
        Box::new(Tcp::connect("TCP in a zone", client, server, SERVER, 7005)?),
        Box::new(Tcp::connect("TCP in a zone of one direction", client, server, SERVER, 7011)?),
        Box::new(Tcp::connect("TCP routed by its mark", client, server, MARKED, 7002)?),
        Box::new(Tcp::connect("TCP that a label lets pass", client, server, SERVER, 7006)?),
        Box::new(Udp::exchange("UDP in fragments", client, server, 7007, b"?", 4000)?),
        Box::new(Udp::foresee("TFTP, the answer foreseen before the takeover", client, server)?),
    ])
}

struct Tcp {
    name: &'static str,
    near: BufReader<TcpStream>,
    far: BufReader<TcpStream>,
}

impl Tcp {
    fn connect(name: &'static str, near: &Node, far: &Node, to: &str, port: u16) -> Result<Tcp> {
        let target = SocketAddr::new(to.parse::<IpAddr>()?, port);
        let listener = far.net.run(|| Ok(TcpListener::bind(("::", port))?))?;
        let timeout = std::time::Duration::from_secs(5);
        let near =
            near.net.run(|| Ok(TcpStream::connect_timeout(&target, timeout)?)).with_context(|| name)?;
        let (far, _) = listener.accept()?;
        near.set_read_timeout(Some(SPEAKS))?;
        far.set_read_timeout(Some(SPEAKS))?;
        let mut tcp = Tcp { name, near: BufReader::new(near), far: BufReader::new(far) };
        tcp.speak().with_context(|| name)?;
        Ok(tcp)
    }

    /// A line there, a line back.
    fn speak(&mut self) -> Result<()> {
        for (from, to) in [(true, "there"), (false, "back")] {
            let (from, into) =
                if from { (&mut self.near, &mut self.far) } else { (&mut self.far, &mut self.near) };
            from.get_mut().write_all(format!("{to}\n").as_bytes())?;
            let mut line = String::new();
            into.read_line(&mut line).with_context(|| format!("nothing comes {to}"))?;
            ensure!(line.trim() == to, "heard {line}");
        }
        Ok(())
    }
}

impl Flow for Tcp {
    fn name(&self) -> &'static str {
        self.name
    }

    fn after(&mut self) -> Result<String> {
        (0..10).try_for_each(|_| self.speak())?;
        Ok("10 lines there and back".into())
    }
}

struct Udp {
    name: &'static str,
    near: UdpSocket,
    far: UdpSocket,
    /// Where the far end sees the near one.
    seen: SocketAddr,
    length: usize,
}

impl Udp {
    fn exchange(
        name: &'static str,
        near: &Node,
        far: &Node,
        port: u16,
        first: &[u8],
        length: usize,
    ) -> Result<Udp> {
        let far = far.net.run(|| Ok(UdpSocket::bind((SERVER, port))?))?;
        let near = near.net.run(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
        near.set_read_timeout(Some(SPEAKS))?;
        far.set_read_timeout(Some(SPEAKS))?;
        let mut request = first.to_vec();
        request.resize(request.len().max(length), 0);
        near.send_to(&request, (SERVER, port))?;
        let (_, seen) = far.recv_from(&mut vec![0; 65536]).with_context(|| name)?;
        Ok(Udp { name, near, far, seen, length })
    }

    /// A request to read a file; the answer comes from another port, which the router foresees.
    fn foresee(name: &'static str, near: &Node, far: &Node) -> Result<Udp> {
        let asked = Udp::exchange(name, near, far, 69, b"\0\x01file\0octet\0", 0)?;
        let far = far.net.run(|| Ok(UdpSocket::bind((SERVER, 0))?))?;
        Ok(Udp { far, length: 516, ..asked })
    }
}

impl Flow for Udp {
    fn name(&self) -> &'static str {
        self.name
    }

    fn after(&mut self) -> Result<String> {
        let said = vec![b'x'; self.length];
        let mut heard = vec![0; 65536];
        // Lost once to a neighbour that is not known yet is no loss.
        self.near.set_read_timeout(Some(std::time::Duration::from_secs(1)))?;
        for _ in 0..SPEAKS.as_secs() / 2 {
            self.far.send_to(&said, self.seen)?;
            if let Ok((length, from)) = self.near.recv_from(&mut heard) {
                ensure!(heard.get(..length) == Some(&said), "wrong bytes");
                return Ok(format!("{length} bytes from {from}, which spoke first"));
            }
        }
        anyhow::bail!("nothing comes from the far end")
    }
}
