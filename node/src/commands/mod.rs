//! One function for each word of the command line.

pub(crate) mod doctor;
mod foreground;
mod recover;
mod show;
mod why;

use std::path::Path;

use anyhow::{Context, bail};
use foreground::{After, Wish};

use crate::cli::{Cli, Command, Create, Invite, Join, Router};
use crate::client::call_daemon;
use crate::launch::ONLY_WHEN_FOUNDED;
use crate::proxy::ProxyText;
use crate::report;
use crate::segment::RouterOptions;
use crate::socket::{Call, Start};
use crate::state::{self, StateDir};

/// Does what the command line says.
pub(crate) fn run(cli: Cli) -> anyhow::Result<()> {
    let Cli { state, json, verbose: _, command } = cli;
    match command {
        Command::Create(create) => found(&state, create, json),
        Command::Join(join) => {
            let start = Some(start_join(join)?);
            foreground::run(&state, Wish { start, proxy: None, after: After::Nothing, json })
        }
        Command::Router(router) => {
            let start = Some(start_router(router)?);
            foreground::run(&state, Wish { start, proxy: None, after: After::Nothing, json })
        }
        Command::Up { proxy } => {
            proxy.as_ref().map_or(Ok(()), ProxyText::check)?;
            foreground::run(&state, Wish { start: None, proxy, after: After::Nothing, json })
        }
        Command::Invite(invite) => make_invite(&state, invite, json),
        Command::Revoke { namespace, member } => {
            bail!(
                "cannot revoke {member} in {namespace}: this version has no revocation; invites can be limited with --uses and --ttl"
            )
        }
        Command::Recover { namespace, yes, all } => recover::run(&state, &namespace, yes, all, json),
        Command::Status { namespace } => show::status(&state, namespace, json),
        Command::Peers { namespace } => show::peers(&state, namespace, json),
        Command::Leases { namespace } => show::leases(&state, namespace, json),
        Command::Lookup { what, namespace } => show::lookup(&state, namespace, what, json),
        Command::Ping { what, count, namespace } => show::ping(&state, namespace, &what, count, json),
        Command::Doctor => doctor::print(&state, json),
        Command::Leave { namespace, forget, destroy } => leave(&state, namespace, forget, destroy, json),
    }
}

fn found(state: &Path, create: Create, json: bool) -> anyhow::Result<()> {
    create.options.check()?;
    let called = create.options.alias.as_ref().unwrap_or(&create.namespace).clone();
    let is_here = || anyhow::Ok(StateDir::open(state)?.find(&called)?.is_some());
    let mut recovery = None;
    if let Some(file) = &create.recovery_file {
        if is_here()? {
            bail!(ONLY_WHEN_FOUNDED);
        }
        let key = state::random()?;
        state::write_key(file, &key).context("cannot write the recovery key")?;
        recovery = Some(*key);
    }
    let start = Some(Start::Create {
        name: create.namespace,
        range: create.range,
        lease_s: create.lease.map(|lease| lease.as_secs()),
        recovery,
        options: create.options,
    });
    let result = foreground::run(state, Wish { start, proxy: None, after: After::Introduce, json });
    // What could recover nothing is not left behind. Where that is not certain, it stays.
    if let Some(file) = &create.recovery_file
        && result.is_err()
        && is_here().is_ok_and(|is_here| !is_here)
    {
        std::fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))?;
    }
    result
}

fn start_join(join: Join) -> anyhow::Result<Start> {
    join.options.check()?;
    let token = join.invite.map(|text| read_token(&text)).transpose()?;
    Ok(Start::Join { name: join.namespace, token, options: join.options })
}

fn start_router(router: Router) -> anyhow::Result<Start> {
    let Router { namespace, bridge, take_nic, invite, mut options } = router;
    if options.no_tap {
        bail!(
            "--no-tap makes a member that only keeps the register, and a router needs its TAP device; leave out one of them"
        );
    }
    options.router = Some(RouterOptions { bridge, take_nic });
    start_join(Join { namespace, invite, options })
}

/// A token is a secret, and arguments can be seen by everybody on the machine; so files and pipes do too.
fn read_token(text: &str) -> anyhow::Result<String> {
    let read = |input: &mut dyn std::io::Read| {
        let mut token = String::new();
        std::io::Read::read_to_string(&mut std::io::Read::take(input, 4096), &mut token).map(|_| token)
    };
    match text.strip_prefix('@') {
        Some(file) => {
            let mut input = std::fs::File::open(file).with_context(|| format!("cannot read the invite in {file}"))?;
            Ok(read(&mut input)?)
        }
        None if text == "-" => Ok(read(&mut std::io::stdin()).context("cannot read the invite from standard input")?),
        None => Ok(text.to_owned()),
    }
}

fn make_invite(state: &Path, invite: Invite, json: bool) -> anyhow::Result<()> {
    let Invite { namespace, uses, ttl, role, hosts } = invite;
    let value = call_daemon(state, &Call::Invite { namespace, uses, ttl_s: ttl.as_secs(), role, hosts })?;
    if json {
        report::line(&serde_json::json!({"token": value}).to_string());
    } else {
        report::line(value.as_str().unwrap_or_default());
    }
    Ok(())
}

fn leave(state: &Path, namespace: String, forget: bool, destroy: bool, json: bool) -> anyhow::Result<()> {
    let value = call_daemon(state, &Call::Leave { namespace: namespace.clone(), forget, destroy })?;
    if json {
        report::line(&value.to_string());
    } else {
        report::note(&format!("left {namespace}{}", if forget { " for good" } else { "" }));
    }
    Ok(())
}
