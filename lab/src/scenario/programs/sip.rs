//! A call of sipp through source NAT: set up before the takeover; afterwards its media, on the port that the
//! far end was told in the invitation, and its end.

use std::net::UdpSocket;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{Ends, Flow};
use crate::machine::node::Node;
use crate::machine::wait::{now, until};
use crate::routers::topology::{CLIENT, SERVER, Topology, VIP};
use crate::scenario::stage::PATIENCE;

/// The media port of the invitation, which is translated to the same one.
const MEDIA: u16 = 7078;
/// The call lasts 15 s; a BYE without an answer is given up by then.
const ENDS: Duration = Duration::from_secs(40);

/// sipp's answering side.
pub(super) fn start_server(server: &mut Node) -> Result<()> {
    server.start("sipp", "sipp", &["-sn", "uas", "-i", SERVER, "-p", "5060", "-nostdin"])
}

/// Call, and listen for media.
pub(super) async fn begin(ends: &Ends<'_>, topology: &Topology) -> Result<Box<dyn Flow>> {
    let scenario = topology.directory.join("call.xml");
    std::fs::write(&scenario, include_str!("call.xml"))?;
    let file = scenario.to_string_lossy();
    let target = format!("{SERVER}:5060");
    let arguments =
        [&target, "-sf", &file, "-i", CLIENT, "-p", "5060", "-m", "1", "-nostdin", "-timeout", "38s"];
    let log = ends.client.log_file("sipp")?;
    let call = ends
        .client
        .command("sipp", &arguments)?
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start sipp")?;
    let near = ends.client.net.run(|| Ok(UdpSocket::bind((CLIENT, MEDIA))?))?;
    let far = ends.server.net.run(|| Ok(UdpSocket::bind((SERVER, 0))?))?;
    near.set_read_timeout(Some(Duration::from_secs(1)))?;
    let call = Call { call, near, far };
    let first = &topology.router(1)?.node;
    until("router1 foresees the call's media", PATIENCE, async || {
        let expected = first.output("conntrack", &["-L", "expect"])?;
        let media = expected.lines().filter(|line| line.contains("helper=sip")).count();
        ensure!(media >= 2, "sipp says {}", ends.client.log_tail("sipp")?);
        Ok(Some(()))
    })
    .await?;
    Ok(Box::new(call))
}

struct Call {
    call: Child,
    near: UdpSocket,
    far: UdpSocket,
}

impl Drop for Call {
    fn drop(&mut self) {
        let _ = self.call.kill();
        let _ = self.call.wait();
    }
}

impl Flow for Call {
    fn name(&self) -> &'static str {
        "SIP, media and end of a call set up before"
    }

    fn after(&mut self) -> Result<String> {
        let mut packets = 0;
        let mut heard = [0; 256];
        for _ in 0..8 {
            // An RTP header and nothing.
            self.far.send_to(&[0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1], (VIP, MEDIA))?;
            packets += u32::from(self.near.recv_from(&mut heard).is_ok());
        }
        ensure!(packets >= 7, "{packets} of 8 packets of media arrived");
        let began = now();
        while began.elapsed() < ENDS {
            if let Some(status) = self.call.try_wait()? {
                ensure!(status.success(), "sipp says that the call failed: {status}");
                return Ok(format!("{packets} of 8 packets of media, and the call ended well"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("the call does not end")
    }
}
