//! Tokens that admit nobody, and what is said about them.

use std::fs;
use std::process::Command;

use anyhow::{Context, ensure};
use e2e::{Lab, Node};

struct Scene {
    creator: Node,
    joiner: Node,
    token: String,
}

fn scene(lab: &mut Lab) -> anyhow::Result<Scene> {
    let mut creator = lab.public("a")?;
    let joiner = lab.public("b")?;
    creator.create_lab(&["--hostname", "a"])?;
    let token = creator.invite("lab", &[])?;
    Ok(Scene { creator, joiner, token })
}

impl Scene {
    /// The joiner is turned away with a reason, and has nothing afterwards.
    fn turned_away(&self, namespace: &str, token: &str, reasons: &[&str]) -> anyhow::Result<()> {
        let ended = self.joiner.overlay(&["join", namespace, "--invite", token, "--dns", "off"])?;
        ensure!(ended.code == Some(1), "exit status {:?}\n{}\n{}", ended.code, ended.stdout, ended.stderr);
        ensure!(!ended.stdout.contains("ready"), "{}", ended.stdout);
        let said = ended.stderr.to_lowercase();
        ensure!(reasons.iter().any(|reason| said.contains(reason)), "none of {reasons:?} in: {}", ended.stderr);
        ensure!(token.len() < 40 || !ended.stderr.contains(token), "the token is a secret: {}", ended.stderr);
        ensure!(!self.joiner.has_device("ov-lab")?, "the joiner kept a TAP");
        let again = self.joiner.overlay(&["join", namespace])?;
        ensure!(again.code == Some(1), "it became a member all the same: {again:?}");
        let peers = self.creator.status()?["peers"].clone();
        ensure!(peers.as_array().is_none_or(Vec::is_empty), "the creator speaks to it: {peers}");
        Ok(())
    }
}

#[test]
fn a_token_with_a_typing_error_is_recognised() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("typo")? else { return Ok(()) };
    let scene = scene(&mut lab)?;
    let at = scene.token.len() / 2;
    let other = if scene.token.as_bytes()[at] == b'x' { "y" } else { "x" };
    let mut typo = scene.token.clone();
    typo.replace_range(at..=at, other);
    let reasons = ["token", "invite"];
    scene.turned_away("lab", &typo, &reasons)?;
    scene.turned_away("lab", &scene.token[..at], &reasons)?;
    scene.turned_away("lab", "ov1", &reasons)?;
    scene.turned_away("lab", &"9".repeat(4000), &reasons)
}

#[test]
fn a_token_with_forged_contents_admits_nobody() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("forged")? else { return Ok(()) };
    let scene = scene(&mut lab)?;
    let bytes = bs58::decode(&scene.token[3..]).with_check(None).into_vec().context("a token is base58check")?;
    // Version 1, namespace id 32, secret 16, what it allows 56, signature 64: one bit in each of the last three.
    for at in [1 + 32 + 3, 1 + 32 + 16 + 20, 1 + 32 + 16 + 56 + 10] {
        let mut forged = bytes.clone();
        forged[at] ^= 1;
        let forged = format!("ov1{}", bs58::encode(forged).with_check().into_string());
        scene
            .turned_away("lab", &forged, &["token", "invite", "signature", "signed", "forged"])
            .with_context(|| format!("bit flipped in byte {at}"))?;
    }
    Ok(())
}

#[test]
fn a_token_of_another_namespace_is_refused_by_name() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("foreign")? else { return Ok(()) };
    let scene = scene(&mut lab)?;
    let mut stranger = lab.public("c")?;
    stranger.start_ready(&["create", "other", "--dns", "off"])?;
    let foreign = stranger.invite("other", &[])?;
    scene.turned_away("lab", &foreign, &["lab"])
}

#[test]
fn a_token_admits_as_many_as_it_says() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("spent")? else { return Ok(()) };
    let Scene { creator, mut joiner, token } = scene(&mut lab)?;
    joiner.start_ready(&["join", "lab", "--invite", &token, "--dns", "off"])?;
    let late = lab.public("c")?;
    let ended = late.overlay(&["join", "lab", "--invite", &token, "--dns", "off"])?;
    ensure!(ended.code == Some(1), "{ended:?}");
    let winner = joiner.whole_status()?["peer_id"].as_str().context("no peer id")?.to_owned();
    ensure!(ended.stderr.contains(&winner) && ended.stderr.contains("revoke"), "{}", ended.stderr);
    ensure!(!late.has_device("ov-lab")?, "the late one kept a TAP");
    // The first one's slot is its own: the same token is not needed and not harmful.
    joiner.interrupt()?;
    joiner.start_ready(&["join", "lab", "--invite", &token, "--dns", "off"])?;
    joiner.ping_once(creator.status()?["ip"].as_str().context("a has an address")?)
}

#[test]
fn an_expired_token_admits_nobody() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("expired")? else { return Ok(()) };
    let mut creator = lab.public("a")?;
    let joiner = lab.public("b")?;
    // The creator's clock was an hour slow when the token was made.
    let shim = slow_clock(&lab)?;
    creator.env = vec![("LD_PRELOAD".into(), shim), ("LAB_CLOCK_OFFSET_S".into(), "-3600".into())];
    creator.create_lab(&["--hostname", "a"])?;
    creator.invite("lab", &["--ttl", "10m"])?;
    let token = creator.invite("lab", &["--ttl", "10m"])?;
    creator.interrupt()?;
    creator.env.clear();
    creator.create_lab(&[])?;
    Scene { creator, joiner, token: token.clone() }.turned_away("lab", &token, &["expire"])
}

/// A library that shifts the wall clock of one process, and no other clock.
fn slow_clock(lab: &Lab) -> anyhow::Result<String> {
    let source = lab.dir().join("clock.c");
    let library = lab.dir().join("clock.so");
    let text = r#"
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *at) {
    int failed = syscall(SYS_clock_gettime, id, at);
    const char *offset = getenv("LAB_CLOCK_OFFSET_S");
    if (!failed && id == CLOCK_REALTIME && offset) at->tv_sec += atol(offset);
    return failed;
}
"#;
    fs::write(&source, text)?;
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status()?;
    ensure!(built.success(), "cc failed");
    Ok(library.display().to_string())
}
