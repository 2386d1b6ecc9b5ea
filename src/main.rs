//! Parse arguments, dispatch, print an error chain once, exit code.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    ctsync::cli::complete(<ctsync::cli::Cli as clap::CommandFactory>::command);
    let journal = ctsync::cli::start_logging();
    match ctsync::cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            ctsync::cli::tell_error(&error, journal);
            ExitCode::FAILURE
        }
    }
}
