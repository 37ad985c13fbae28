//! What people read: standard output for results, standard error for the rest.

use std::io::Write;

use tracing_subscriber::EnvFilter;

/// A result, one line on standard output. A closed pipe is no error of ours.
pub(crate) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// News for the person at the terminal, on standard error.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// What failed, why, and what to do, on standard error.
pub(crate) fn error(error: &anyhow::Error) {
    let _ = writeln!(std::io::stderr().lock(), "overlay: {error:#}");
}

/// Logs go to standard error: warnings, with `-v` more, with `RUST_LOG` whatever it says.
pub(crate) fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => "error",
        1 => "warn,overlay=info,dht_driver=info",
        2 => "info,overlay=debug,dht_driver=debug",
        _ => "debug,overlay=trace,dht_driver=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}
