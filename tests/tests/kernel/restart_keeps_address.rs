//! A lease and a membership outlive the process.

use std::time::Duration;

use e2e::{Lab, Node, wait};

fn pair(lab: &mut Lab) -> anyhow::Result<(Node, Node)> {
    let mut a = lab.public("a")?;
    let b = lab.public("b")?;
    a.create_lab(&["--hostname", "a"])?;
    Ok((a, b))
}

#[test]
fn a_member_comes_back_to_its_address_and_name() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("back")? else { return Ok(()) };
    let (a, mut b) = pair(&mut lab)?;
    let first = b.join_lab(&a, &["--hostname", "b"])?;
    b.interrupt()?;
    assert_eq!(b.start_ready(&["join", "lab"])?, first, "after an interrupt");
    b.kill();
    assert_eq!(b.start_ready(&["join", "lab"])?, first, "after a kill");
    b.kill();
    assert_eq!(b.start_ready(&["up"])?, first, "by up");
    b.wait_status("the name", |status| status["hostname"] == "b")?;
    reaches_again(&b, "a.lab.internal")?;
    reaches_again(&a, &first.ip()?.to_string())
}

#[test]
fn the_creator_comes_back_and_its_members_still_reach_it() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("creator")? else { return Ok(()) };
    let mut a = lab.public("a")?;
    let first = a.create_lab(&["--hostname", "a"])?;
    let mut b = lab.public("b")?;
    let at_b = b.join_lab(&a, &["--hostname", "b"])?.ip()?.to_string();
    b.ping_once("a.lab.internal")?;
    a.kill();
    assert_eq!(a.start_ready(&["create", "lab"])?, first);
    reaches_again(&a, &at_b)?;
    reaches_again(&b, &first.ip()?.to_string())
}

/// The session of before a crash is gone at one end only. The other end finds out by silence, after 15 s at most.
fn reaches_again(node: &Node, ip: &str) -> anyhow::Result<()> {
    wait::until_ok("an answer from who came back", Duration::from_secs(30), || {
        node.run(&["ping", "-c", "1", "-W", "1", ip]).map(|_| ())
    })
}
