//! The project's chores: `cargo xtask test`, and what else `cargo xtask` lists.
#![forbid(unsafe_code)]

mod bench;
mod cargo;
mod demo;
mod demos;
mod figures;
mod measure;
mod outcome;
mod paths;
mod peers;
mod plot;
mod register;
mod say;
mod scale;
mod test;
mod tools;

use std::process::ExitCode;

use say::say;

const USAGE: &str = "\
cargo xtask test [--quick]   everything that must hold; --quick leaves out the tests that need root and /dev/net/tun
cargo xtask demo [--stay]    three machines in network namespaces, two of them behind home routers (root)
cargo xtask demos            an MPI job and a BitTorrent swarm of eight members behind four routers (root, some minutes)
cargo xtask bench            measures what docs/benchmarks.md shows, and writes it (root, some minutes)
cargo xtask bench-register   only its last part: grants per second of the register, with fsync
cargo xtask bench-peers      measures what docs/speed.md shows, beside nebula, EasyTier, wireguard-go, fastd and openvpn, and writes
                             it (root, 25 minutes); --quick takes 2 s for each value; --only NAME,NAME and
                             --underlay wire|receive|all (all offloads) measure less, and only print it
cargo xtask paths            measures what docs/matrix.md shows, and writes it (root, a quarter of an hour)
cargo xtask scale [--page]   measures what docs/scale.md shows, and writes it (root, an hour); --page only writes it
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["test"] => test::run(test::Extent::All),
        ["test", "--quick"] => test::run(test::Extent::Quick),
        ["demo"] => demo::run(demo::Afterwards::Leave),
        ["demo", "--stay"] => demo::run(demo::Afterwards::Stay),
        ["demos"] => demos::run(),
        ["bench"] => bench::run(),
        ["bench-register"] => bench::register(),
        ["bench-peers", ref words @ ..] => peers::run(words),
        ["paths"] => paths::run(),
        ["scale"] => scale::run(scale::Part::All),
        ["scale", "--page"] => scale::run(scale::Part::Page),
        _ => {
            say(USAGE);
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(outcome) => outcome,
        Err(error) => {
            say(&format!("xtask: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
