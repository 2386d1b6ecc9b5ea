//! A real `ssh` session through the routers: sshd on the server, numbered lines echoed by the shell there.
//!
//! Called by the demo. Without root sshd runs in a nested user namespace mapped back to the caller, since it
//! refuses to run as a root that has only one user.

use std::path::Path;

use anyhow::{Context, Result};

use crate::load::traffic::{Clients, Kind};
use crate::machine::node::Node;
use crate::routers::topology::SERVER;

const PORT: &str = "2222";

/// Make keys and start sshd on the server. `caller` is the user outside when the lab is rootless.
pub(crate) fn start_server(server: &mut Node, directory: &Path, caller: Option<u32>) -> Result<()> {
    let path = |name: &str| directory.join(name).to_string_lossy().into_owned();
    for key in ["ssh-host-key", "ssh-client-key"] {
        server.output("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &path(key)])?;
    }
    std::fs::copy(path("ssh-client-key.pub"), path("ssh-authorized"))?;
    let config = format!(
        "Port {PORT}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\n\
         PermitRootLogin yes\nPasswordAuthentication no\n",
        path("ssh-host-key"),
        path("ssh-authorized"),
    );
    std::fs::write(path("sshd.conf"), config)?;
    let sshd = ["/usr/sbin/sshd", "-D", "-e", "-f", &path("sshd.conf")].map(str::to_owned);
    let own = std::env::current_exe()?.to_string_lossy().into_owned();
    match caller {
        Some(user) => {
            let user = user.to_string();
            let mut arguments = vec!["as-user", &user, "--"];
            arguments.extend(sshd.iter().map(String::as_str));
            server.start("sshd", &own, &arguments)
        }
        None => {
            let [program, arguments @ ..] = &sshd;
            server.start("sshd", program, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
        }
    }
}

/// Log in and echo lines until dropped.
pub(crate) fn open_session(client: &Node, directory: &Path, caller: Option<u32>) -> Result<Clients> {
    let user = match caller {
        Some(user) => {
            let found = nix::unistd::User::from_uid(user.into())?;
            found.with_context(|| format!("user {user} has no name to log in with"))?.name
        }
        None => "root".to_owned(),
    };
    let key = directory.join("ssh-client-key").to_string_lossy().into_owned();
    let target = format!("{user}@{SERVER}");
    // The shell tells once from where it sees the session, then echoes.
    let echo = "while read line; do echo \"$line ${SSH_CONNECTION%% *}:$(echo $SSH_CONNECTION | cut -d' ' -f2)\"; done";
    let arguments = [
        "-v",
        "-T",
        "-p",
        PORT,
        "-i",
        &key,
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "BatchMode=yes",
        &target,
        echo,
    ];
    let complaints = client.log_file("ssh")?;
    let next = std::sync::atomic::AtomicU64::new(0);
    Clients::program(Kind::Ssh, client.command("ssh", &arguments)?, true, complaints, move |line| {
        // Lines come back in order and none is missing.
        let expected = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let seen = line.strip_prefix(&format!("{expected} "));
        Ok(Some(seen.with_context(|| format!("line {expected} came back as \"{line}\""))?.to_owned()))
    })
}
