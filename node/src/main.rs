//! `overlay`: a peer-to-peer virtual network with unique addresses and no server.
//!
//! This crate is the shell: command line, daemon, control socket, and the threads around the pure [`engine`].

mod cli;
mod client;
mod commands;
mod control;
mod daemon;
mod dns;
mod inbound;
mod inbox;
mod io;
mod launch;
mod mapping;
mod outbound;
mod proxy;
mod report;
mod runtime;
mod segment;
mod serve;
mod shell;
mod socket;
mod state;
mod underlay;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    report::start_logging(cli.verbose);
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::error(&error);
            ExitCode::FAILURE
        }
    }
}
