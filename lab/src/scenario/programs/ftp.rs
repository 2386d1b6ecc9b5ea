//! FTP through source NAT: vsftpd on the server, a client of ours on the LAN. The address in PORT has another
//! length than the one it is translated to, so that the control connection's sequence numbers are adjusted
//! from then on.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::{Context, Result, bail, ensure};

use super::{Ends, Flow, SPEAKS};
use crate::machine::node::Node;
use crate::routers::topology::{CLIENT, SERVER};

/// Bytes of the file, and how many a second: in progress for as long as a takeover takes, and longer.
const FILE: usize = 3_000_000;
const RATE: usize = 400_000;

/// vsftpd with one file, for everybody.
pub(super) fn start_server(server: &mut Node) -> Result<()> {
    let root = server.directory.join("ftp");
    std::fs::create_dir_all(&root)?;
    std::fs::set_permissions(&root, std::os::unix::fs::PermissionsExt::from_mode(0o555))?;
    std::fs::write(root.join("file"), contents())?;
    let config = server.directory.join("vsftpd.conf");
    std::fs::write(
        &config,
        format!(
            "listen=YES\nbackground=NO\nanonymous_enable=YES\nno_anon_password=YES\nanon_root={}\n\
             anon_max_rate={RATE}\nconnect_from_port_20=YES\nseccomp_sandbox=NO\nrun_as_launching_user=YES\n",
            root.display()
        ),
    )?;
    server.start("vsftpd", "vsftpd", &[&config.to_string_lossy()])
}

fn contents() -> Vec<u8> {
    // Numbers one after the other: no piece of it looks like another.
    (0u32..).flat_map(u32::to_be_bytes).take(FILE).collect()
}

/// A transfer in passive mode, one in active mode, and a connection that is foreseen and not yet made.
pub(super) fn begin(ends: &Ends<'_>) -> Result<Vec<Box<dyn Flow>>> {
    let passive = {
        let mut control = Control::log_in(ends.client)?;
        let answer = control.ask("PASV", "227")?;
        let port = passive_port(&answer)?;
        let data = ends.client.net.run(|| Ok(TcpStream::connect((SERVER, port))?))?;
        control.ask("RETR file", "150")?;
        Transfer::begin("FTP, passive transfer in progress", control, data)?
    };
    let active = {
        let (mut control, listener) = announced(ends.client)?;
        control.ask("RETR file", "150")?;
        let (data, _) = listener.accept()?;
        Transfer::begin("FTP, active transfer in progress", control, data)?
    };
    let (control, listener) = announced(ends.client)?;
    Ok(vec![Box::new(passive), Box::new(active), Box::new(Foreseen { control, listener })])
}

/// PORT is said: the router foresees a connection.
fn announced(client: &Node) -> Result<(Control, TcpListener)> {
    let mut control = Control::log_in(client)?;
    let listener = client.net.run(|| Ok(TcpListener::bind((CLIENT, 0))?))?;
    let port = listener.local_addr()?.port();
    let port = format!("PORT {},{},{}", CLIENT.replace('.', ","), port >> 8, port & 0xff);
    control.ask(&port, "200")?;
    Ok((control, listener))
}

fn passive_port(answer: &str) -> Result<u16> {
    let numbers: Vec<u16> = answer
        .split(|letter: char| !letter.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect();
    match numbers.as_slice() {
        [.., high, low] => Ok(high << 8 | low),
        _ => bail!("no port in {answer}"),
    }
}

struct Control {
    stream: BufReader<TcpStream>,
}

impl Control {
    fn log_in(client: &Node) -> Result<Control> {
        let stream = client.net.run(|| Ok(TcpStream::connect((SERVER, 21))?))?;
        stream.set_read_timeout(Some(SPEAKS))?;
        let mut control = Control { stream: BufReader::new(stream) };
        control.expect("220")?;
        control.ask("USER anonymous", "230")?;
        control.ask("TYPE I", "200")?;
        Ok(control)
    }

    fn ask(&mut self, command: &str, code: &str) -> Result<String> {
        self.stream.get_mut().write_all(format!("{command}\r\n").as_bytes())?;
        self.expect(code).with_context(|| command.to_owned())
    }

    fn expect(&mut self, code: &str) -> Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line).context("the control connection is silent")?;
        ensure!(line.starts_with(code), "expected {code}, heard {}", line.trim());
        Ok(line)
    }
}

struct Transfer {
    name: &'static str,
    control: Control,
    data: TcpStream,
    read: Vec<u8>,
}

impl Transfer {
    fn begin(name: &'static str, control: Control, mut data: TcpStream) -> Result<Transfer> {
        data.set_read_timeout(Some(SPEAKS))?;
        let mut read = vec![0; 10_000];
        data.read_exact(&mut read)?;
        Ok(Transfer { name, control, data, read })
    }
}

impl Flow for Transfer {
    fn name(&self) -> &'static str {
        self.name
    }

    fn after(&mut self) -> Result<String> {
        let before = self.read.len();
        self.data.read_to_end(&mut self.read).context("the data connection is silent")?;
        ensure!(self.read == contents(), "{} of {FILE} bytes, or wrong ones", self.read.len());
        self.control.expect("226")?;
        self.control.ask("NOOP", "200")?;
        Ok(format!("{} bytes after the takeover, all right; the control connection answers", FILE - before))
    }
}

struct Foreseen {
    control: Control,
    listener: TcpListener,
}

impl Flow for Foreseen {
    fn name(&self) -> &'static str {
        "FTP, data connection foreseen before, made after the takeover"
    }

    fn after(&mut self) -> Result<String> {
        self.control.ask("RETR file", "150")?;
        let (mut data, from): (TcpStream, SocketAddr) = self.listener.accept()?;
        data.set_read_timeout(Some(SPEAKS))?;
        let mut some = vec![0; 100_000];
        data.read_exact(&mut some)?;
        ensure!(contents().starts_with(&some), "wrong bytes");
        Ok(format!("{from} connected and sent {} bytes, all right", some.len()))
    }
}
