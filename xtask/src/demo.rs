//! `cargo xtask demo`: three machines, two of them behind home routers, on one screen.

use std::io::BufRead;
use std::process::ExitCode;

use anyhow::Context;
use e2e::{Edge, Lab, Node};

use crate::say::say;
use crate::{cargo, measure, tools};

/// What happens after the show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Afterwards {
    /// All is removed.
    Leave,
    /// The machines stay until a line is typed.
    Stay,
}

struct Member {
    node: Node,
    name: &'static str,
    place: String,
    ip: String,
}

/// Lays the machines out, shows them, and removes them.
///
/// # Errors
/// No root, or something does not come up.
pub(crate) fn run(afterwards: Afterwards) -> anyhow::Result<ExitCode> {
    tools::ensure_installed(tools::TESTS)?;
    cargo::build_program()?;
    let mut lab = Lab::new("demo")?;
    let members = start(&mut lab)?;
    show_members(&members)?;
    show_pings(&members)?;
    show_throughput(&members)?;
    if afterwards == Afterwards::Stay {
        stay(&members)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn start(lab: &mut Lab) -> anyhow::Result<Vec<Member>> {
    let mut first = lab.router(Edge::Home)?;
    let mut second = lab.router(Edge::Home)?;
    let mut anna = lab.public("anna")?;
    let mut bert = lab.behind(&mut first, "bert")?;
    let mut carl = lab.behind(&mut second, "carl")?;
    say("anna$ overlay create lab");
    let ready = anna.create_lab(&["--hostname", "anna"])?;
    let (place, ip) = (format!("{} (public)", anna.underlay()), ready.ip()?.to_string());
    let mut members = vec![Member { node: anna, name: "anna", place, ip }];
    for (node, name) in [(&mut bert, "bert"), (&mut carl, "carl")] {
        say(&format!("{name}$ overlay join lab --invite ov1…"));
        node.join_lab(&members[0].node, &["--hostname", name])?;
    }
    for (node, name) in [(bert, "bert"), (carl, "carl")] {
        let place = format!("{} (behind a home router)", node.underlay());
        let ip = node.status()?["ip"].as_str().context("no address in the status")?.to_owned();
        members.push(Member { node, name, place, ip });
    }
    Ok(members)
}

fn show_members(members: &[Member]) -> anyhow::Result<()> {
    say("\nmachine  underlay                                  address          name                 state");
    for member in members {
        let status = member.node.status()?;
        let zone = status["zone"].as_str().unwrap_or("?");
        let state = status["state"].as_str().unwrap_or("?");
        let name = format!("{}.{zone}", status["hostname"].as_str().unwrap_or("?"));
        say(&format!("{:<8} {:<41} {:<16} {name:<20} {state}", member.name, member.place, member.ip));
    }
    Ok(())
}

/// Every pair, asked by name; where there is no path, `overlay ping` says why.
fn show_pings(members: &[Member]) -> anyhow::Result<()> {
    say("\npings");
    for from in members {
        for to in members.iter().filter(|to| to.name != from.name) {
            let pinged = from.node.overlay(&["ping", "--count", "1", to.name])?;
            let all = pinged.stdout + &pinged.stderr;
            let line = all.lines().find(|line| !line.trim().is_empty()).unwrap_or("no answer");
            say(&format!("  {} -> {}: {line}", from.name, to.name));
        }
    }
    Ok(())
}

fn show_throughput(members: &[Member]) -> anyhow::Result<()> {
    let [anna, bert, ..] = members else { return Ok(()) };
    say("\nthroughput, one TCP stream (cubic), 3 s");
    let _server = measure::serve(&anna.node)?;
    let bare = measure::tcp(&bert.node, anna.node.underlay(), 3, measure::Direction::There)?;
    say(&format!("  bert -> anna without overlay, through the router: {bare:.2} Gbit/s"));
    for (words, direction) in [("->", measure::Direction::There), ("<-", measure::Direction::Back)] {
        let speed = measure::tcp(&bert.node, &anna.ip, 3, direction)?;
        say(&format!("  bert {words} anna over the overlay: {speed:.2} Gbit/s"));
    }
    Ok(())
}

fn stay(members: &[Member]) -> anyhow::Result<()> {
    let program = e2e::overlay_binary()?;
    say("\nLook around from another terminal; press Enter here to end:");
    for member in members {
        let (state, namespace) = (member.node.state(), member.node.namespace());
        say(&format!("  ip netns exec {namespace} {} --state {} status", program.display(), state.display()));
    }
    std::io::stdin().lock().read_line(&mut String::new())?;
    Ok(())
}
