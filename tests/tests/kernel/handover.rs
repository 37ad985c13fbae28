//! One daemon per state directory, many namespaces.

use anyhow::{Context, ensure};

#[test]
fn a_second_command_hands_its_namespace_to_the_running_daemon() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("handover")? else { return Ok(()) };
    let mut a = lab.public("a")?;
    let mut b = lab.public("b")?;
    a.create_lab(&["--hostname", "a"])?;
    let printed = a.overlay_ok(&["create", "second", "--dns", "off", "--hostname", "a2"])?;
    let ready: Vec<&str> = printed.lines().filter(|line| line.starts_with("ready second ")).collect();
    ensure!(ready.len() == 1, "{printed}");
    let all = a.whole_status()?;
    let names: Vec<&str> =
        all["namespaces"].as_array().context("no list")?.iter().filter_map(|one| one["name"].as_str()).collect();
    ensure!(names.contains(&"lab") && names.contains(&"second"), "{names:?}");

    // Both work side by side, from another machine's single daemon too.
    b.join_lab(&a, &["--hostname", "b"])?;
    let token = a.invite("second", &[])?;
    b.overlay_ok(&["join", "second", "--invite", &token, "--dns", "off"])?;
    for one in a.whole_status()?["namespaces"].as_array().context("no list")? {
        b.ping_once(one["ip"].as_str().context("no address")?)?;
    }
    a.overlay_ok(&["leave", "second", "--forget", "--destroy"])?;
    ensure!(!a.has_device("ov-second")?, "the namespace's TAP is still there");
    b.ping_once("a.lab.internal")
}

#[test]
fn a_token_comes_by_argument_file_or_standard_input() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("token")? else { return Ok(()) };
    let mut a = lab.public("a")?;
    a.create_lab(&["--hostname", "a"])?;
    let mut b = lab.public("b")?;
    let file = b.dir().join("token");
    std::fs::write(&file, a.invite("lab", &[])? + "\n")?;
    b.start_ready(&["join", "lab", "--invite", &format!("@{}", file.display()), "--dns", "off"])?;
    b.ping_once(a.status()?["ip"].as_str().context("no address")?)
}
