//! Words for the person at the terminal.

use std::io::Write;

/// One line on standard output. A closed pipe is no error of ours.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}
