//! Wrong words end with 2, failures with 1 and a sentence that helps.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::ensure;
use e2e::{Finished, Node, overlay_binary};

fn helps(ended: &Finished, words: &[&str]) -> anyhow::Result<()> {
    ensure!(ended.code == Some(1), "exit status {:?}: {}", ended.code, ended.stderr);
    ensure!(ended.stdout.trim().is_empty(), "a failure belongs on standard error: {}", ended.stdout);
    for word in words {
        ensure!(ended.stderr.contains(word), "no {word:?} in: {}", ended.stderr);
    }
    let internals = ["panicked", "RUST_BACKTRACE", "Os {", "unwrap"];
    ensure!(!internals.iter().any(|word| ended.stderr.contains(word)), "internals: {}", ended.stderr);
    Ok(())
}

#[test]
fn wrong_words_end_with_two() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("words")? else { return Ok(()) };
    let node = lab.public("a")?;
    for words in [
        &[][..],
        &["frobnicate"],
        &["create"],
        &["join"],
        &["create", "lab", "--range", "10.1.2.3.4/16"],
        &["create", "lab", "--lease", "soon"],
        &["create", "lab", "--lease", "29s"],
        &["create", "lab", "--port", "70000"],
        &["create", "lab", "--port", "0"],
        &["create", "lab", "--tap", "ov/lab"],
        &["create", "lab", "--hostname", "a.b"],
        &["create", "lab", "--as", "a_b"],
        &["join", "lab", "--peer", "192.0.2.1:4001"],
        &["join", "lab", "--advertise", "192.0.2.1"],
        &["create", "lab", "--dns", "magic"],
        &["invite", "lab", "--uses", "0"],
        &["invite", "lab", "--uses", "65"],
        &["leave", "lab", "--destroy"],
        &["status", "--colour"],
    ] {
        let ended = node.overlay(words)?;
        assert_eq!(ended.code, Some(2), "{words:?}: {ended:?}");
        assert!(ended.stdout.is_empty() && ended.stderr.contains("--help"), "{words:?}: {ended:?}");
    }
    for words in [&["--help"][..], &["--version"], &["create", "--help"]] {
        let ended = node.overlay(words)?;
        assert!(ended.code == Some(0) && !ended.stdout.is_empty(), "{words:?}: {ended:?}");
    }
    Ok(())
}

#[test]
fn without_a_daemon_the_cure_is_named() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("nodaemon")? else { return Ok(()) };
    let node = lab.public("a")?;
    for words in [&["status"][..], &["peers"], &["leases"], &["lookup", "b"], &["ping", "b"], &["invite", "lab"]] {
        helps(&node.overlay(words)?, &["overlay"])?;
    }
    helps(&node.overlay(&["join", "lab"])?, &["ask a member for: overlay invite lab"])
}

#[test]
fn names_nobody_knows_are_named() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("unknown")? else { return Ok(()) };
    let mut node = lab.public("a")?;
    node.create_lab(&["--hostname", "a"])?;
    helps(&node.overlay(&["invite", "nosuch"])?, &["nosuch"])?;
    helps(&node.overlay(&["status", "nosuch"])?, &["nosuch"])?;
    helps(&node.overlay(&["leave", "nosuch"])?, &["nosuch"])?;
    let pinged = node.overlay(&["ping", "--count", "1", "nobody"])?;
    ensure!(pinged.code == Some(1) && (pinged.stdout + &pinged.stderr).contains("nobody"), "nobody answered");
    // That this version has none is an answer too.
    helps(&node.overlay(&["revoke", "lab", "a"])?, &["revo"])?;
    ensure!(node.overlay(&["lookup", "nobody"])?.code == Some(1), "nobody was found");
    Ok(())
}

#[test]
fn a_refused_join_leaves_its_name_to_the_next() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("refused")? else { return Ok(()) };
    let (mut a, mut b) = (lab.public("a")?, lab.public("b")?);
    a.create_lab(&["--hostname", "a"])?;
    a.overlay_ok(&["create", "other", "--dns", "off"])?;
    let other = a.invite("other", &[])?;
    helps(&b.overlay(&["join", "lab", "--invite", &other])?, &["other", "lab"])?;
    b.join_lab(&a, &["--hostname", "b"])?;
    // Handed over, the same: neither the status nor the next attempt suffers.
    helps(&b.overlay(&["join", "third", "--invite", &other])?, &["other", "third"])?;
    let denied = b.whole_status()?["namespaces"]
        .as_array()
        .is_some_and(|all| all.iter().any(|one| one["state"] == "denied" && one["name"] == "third"));
    ensure!(denied, "{}", b.whole_status()?);
    b.overlay_ok(&["join", "other", "--invite", &other, "--dns", "off"]).map(|_| ())
}

#[test]
fn a_range_in_use_is_refused_before_anything_is_claimed() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("range")? else { return Ok(()) };
    let node = lab.public("a")?;
    let before = node.traces()?;
    helps(&node.overlay(&["create", "lab", "--range", "203.0.0.0/16"])?, &["203.0.0.0/16", "203.0.113.0/24"])?;
    ensure!(node.traces()? == before, "it left something: {}", node.traces()?);
    for range in ["10.9.0.0/31", "224.0.0.0/16", "127.0.0.0/16"] {
        let ended = node.overlay(&["create", "lab", "--range", range])?;
        ensure!(ended.code == Some(2) && ended.stderr.contains(range), "{range}: {ended:?}");
    }
    for name in ["Lab", "a_b", "", "a.b", &"x".repeat(33), "../etc"] {
        let ended = node.overlay(&["create", name])?;
        ensure!(ended.code == Some(2), "{name:?}: {ended:?}");
    }
    Ok(())
}

#[test]
fn without_privilege_it_says_what_to_do() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("nobody")? else { return Ok(()) };
    let node = lab.public("a")?;
    // Somewhere nobody may read: the build directory need not be open to others.
    let dir = node.dir().join("open");
    fs::create_dir_all(&dir)?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777))?;
    let binary = dir.join("overlay");
    fs::copy(overlay_binary()?, &binary)?;
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755))?;
    let state = dir.join("state");
    helps(
        &as_nobody(&node, &[&binary.to_string_lossy(), "--state", &state.to_string_lossy(), "create", "lab"])?,
        &["root"],
    )?;
    let default_state = as_nobody(&node, &[&binary.to_string_lossy(), "create", "lab"])?;
    helps(&default_state, &["root"])
}

fn as_nobody(node: &Node, command: &[&str]) -> anyhow::Result<Finished> {
    let nobody =
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"];
    node.try_run(&[&nobody, command].concat())
}

#[test]
fn a_damaged_state_directory_is_an_error_not_a_new_identity() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("state")? else { return Ok(()) };
    let mut node = lab.public("a")?;
    node.create_lab(&["--hostname", "a"])?;
    node.interrupt()?;
    let mut files = Vec::new();
    collect(&node.state(), &mut files)?;
    ensure!(!files.is_empty(), "the state directory is empty");
    for file in files {
        let whole = fs::read(&file)?;
        let half = &whole[..whole.len() / 2];
        fs::write(&file, half)?;
        let mut process = node.overlay_process(&["create", "lab", "--dns", "off"])?;
        let seen = process.wait_for_line(std::time::Duration::from_secs(20), |line| line.starts_with("ready "));
        if seen.is_err() {
            let ended = process.finish(std::time::Duration::from_secs(5))?;
            helps(&ended, &[]).map_err(|error| error.context(file.display().to_string()))?;
        } else {
            process.interrupt(std::time::Duration::from_secs(15))?;
        }
        // A file that is rewritten at each start may be cut short without harm; what is lost must not be replaced.
        fs::write(&file, whole)?;
    }
    node.start_ready(&["create", "lab"])?;
    Ok(())
}

fn collect(dir: &std::path::Path, files: &mut Vec<std::path::PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if kind.is_file() && entry.metadata()?.len() > 0 {
            files.push(entry.path());
        }
    }
    Ok(())
}
