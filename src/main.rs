//! Parse arguments, dispatch, print an error chain once, exit code.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("CTSYNC_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    match ctsync::cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ctsync: {error:#}");
            ExitCode::FAILURE
        }
    }
}
