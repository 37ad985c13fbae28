//! Where only TLS to port 443 passes, or only what an HTTP proxy opens, members join, reach everybody, and keep their leases.

use std::fs;
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::{Edge, Lab, Node, Process, Router, peer, say, stream, wait};
use serde_json::Value;

/// A last resort, not a promise: the machine may be busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);
const PROXY: &str = "203.0.113.1:3128";
const PASSWORD: &str = "jellyfish";

/// Behind these rules of a router nothing goes out but connections to port 443 that begin as TLS does, with a handshake record
/// (RFC 8446 section 5.1): 60 bytes hold no more than the headers.
const ONLY_TLS: &str = "meta l4proto != tcp drop\ntcp dport != 443 drop\nct mark 443 accept\n\
                        @ih,0,24 0x160301 ct mark set 443 accept\nip length <= 60 accept\ncounter drop\n";
/// And behind these nothing but what the proxy opens.
const ONLY_PROXY: &str = "ip daddr 203.0.113.1 tcp dport 3128 accept\ncounter drop\n";

/// Lets out of the network behind a router only what these rules accept, and in only the answers.
fn restrict(lab: &Lab, router: &Router, name: &str, out: &str) -> anyhow::Result<()> {
    let file = lab.dir().join(format!("{name}.nft"));
    let chain = "type filter hook forward priority 10; policy accept;\noifname \"wan\" jump out\n\
                 iifname \"wan\" ct state established accept\niifname \"wan\" drop\n";
    fs::write(&file, format!("table ip office {{\nchain out {{\n{out}}}\nchain pass {{\n{chain}}}\n}}\n"))?;
    router.run(&["nft", "-f", file.to_str().context("a path of the laboratory is text")?])?;
    Ok(())
}

/// A proxy on the internet's own machine that connects to port 443 only, for whom has the password.
fn proxy(lab: &Lab) -> anyhow::Result<Process> {
    let file = lab.dir().join("tinyproxy.conf");
    let (ip, port) = PROXY.split_once(':').context("host and port")?;
    let config = format!(
        "Listen {ip}\nPort {port}\nBasicAuth overlay {PASSWORD}\nConnectPort 443\nTimeout 600\nMaxClients 50\n"
    );
    fs::write(&file, config)?;
    let mut proxy =
        lab.spawn(&["tinyproxy", "-d", "-c", file.to_str().context("a path of the laboratory is text")?])?;
    proxy.wait_for_line(Duration::from_secs(10), |line| line.contains("Accepting connections"))?;
    Ok(proxy)
}

fn restricted(lab: &mut Lab, name: &str, out: &str) -> anyhow::Result<Node> {
    let mut router = lab.router(Edge::Home)?;
    let node = lab.behind(&mut router, name)?;
    restrict(lab, &router, name, out)?;
    Ok(node)
}

/// What a member answers at port 443 to something that is not TLS: that it is not, if it hears of it.
fn plain(from: &Node, to: &Node) -> anyhow::Result<String> {
    let ask = format!("echo GET / HTTP/1.0 without TLS | timeout 3 socat -t 2 - TCP:{}:443", to.underlay());
    Ok(from.try_run(&["sh", "-c", &ask])?.stdout)
}

/// Seconds that the lease has left.
fn remaining(node: &Node) -> anyhow::Result<u64> {
    let status = node.status()?;
    status.pointer("/lease/remaining_s").and_then(Value::as_u64).with_context(|| format!("no lease: {status:#}"))
}

#[test]
fn members_that_only_https_reaches_take_part() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("https")? else { return Ok(()) };
    let mut founder = lab.public("o0")?;
    let mut behind_firewall = restricted(&mut lab, "b", ONLY_TLS)?;
    let mut behind_proxy = restricted(&mut lab, "c", ONLY_PROXY)?;
    let _proxy = proxy(&lab)?;
    let o_ip = founder.create_lab(&["--hostname", "o0", "--tls-port", "443", "--lease", "30s"])?.ip()?.to_string();

    ensure!(!plain(&founder, &founder)?.is_empty(), "the founder answers nothing but TLS");
    ensure!(plain(&behind_firewall, &founder)?.is_empty(), "the firewall lets out what is not TLS");

    let began = wait::now();
    let b_ip = behind_firewall.join_lab(&founder, &["--hostname", "b"])?.ip()?.to_string();
    let by_tls = began.elapsed();
    let (b, began) = (behind_firewall, wait::now());
    // As other programs are told of it.
    behind_proxy.env.push(("https_proxy".to_owned(), format!("http://overlay:{PASSWORD}@{PROXY}")));
    let c_ip = behind_proxy.join_lab(&founder, &["--hostname", "c", "-vv"])?.ip()?.to_string();
    let (c, by_proxy) = (&mut behind_proxy, began.elapsed());
    say(&format!("joined in {:.1} s by TLS, in {:.1} s by the proxy", by_tls.as_secs_f64(), by_proxy.as_secs_f64()));

    wait::until_ok("c to reach b by name", LIMIT, || c.ping_once("b.lab.internal"))?;
    for (from, to) in [(&b, &o_ip), (&b, &c_ip), (&*c, &o_ip), (&*c, &b_ip)] {
        from.run(&["ping", "-c", "3", "-i", "0.2", "-W", "5", to])?;
    }
    for (from, to, path) in [(&b, "o0", "stream"), (&*c, "o0", "stream"), (&b, "c", "relay"), (&*c, "b", "relay")] {
        let way = peer(from, to)?;
        ensure!(way["path"] == path, "{way}");
    }
    let (near, far) = (stream(&b, &founder, &o_ip)?, stream(c, &b, &b_ip)?);
    say(&format!(
        "TCP by TLS to the founder {:.0} Mbit/s, by proxy, relay and TLS {:.0} Mbit/s",
        near / 1e6,
        far / 1e6
    ));
    ensure!(near > 5e6 && far > 5e6, "{near} and {far} bit/s");

    // The leases go on: of the thirty seconds more are left than a moment ago.
    for node in [&b, &*c] {
        let mut last = remaining(node)?;
        wait::until_ok("a lease to be renewed", LIMIT, || {
            let before = std::mem::replace(&mut last, remaining(node)?);
            ensure!(last > before, "{last} s are left");
            Ok(())
        })?;
        node.ping_once(&o_ip)?;
    }
    let told = format!("{}{}{}", c.daemon()?.said(), c.whole_status()?, c.overlay_ok(&["doctor"])?);
    ensure!(!told.contains(PASSWORD), "{told}");
    Ok(())
}

#[test]
fn a_proxy_that_wants_a_password_is_said_to() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("https-407")? else { return Ok(()) };
    let mut founder = lab.public("o0")?;
    let mut member = restricted(&mut lab, "c", ONLY_PROXY)?;
    let _proxy = proxy(&lab)?;
    founder.create_lab(&["--hostname", "o0", "--tls-port", "443"])?;
    let token = founder.invite("lab", &[])?;
    let join = |proxy: &str| ["join", "lab", "--invite", &token, "--dns", "off", "--proxy", proxy].map(str::to_owned);
    let start = |member: &mut Node, proxy: &str, said: &str| {
        let args = join(proxy);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let line = member.start(&args)?.wait_for_line(LIMIT, |line| line.contains(said));
        line.map(|_| ())
    };
    start(&mut member, &format!("http://{PROXY}"), "wants a password")?;
    start(&mut member, &format!("http://overlay:wrong{PASSWORD}@{PROXY}"), "does not take the user and password")?;
    ensure!(!member.daemon()?.said().contains(PASSWORD), "{}", member.daemon()?.said());
    start(&mut member, &format!("http://overlay:{PASSWORD}@{PROXY}"), "ready ")?;
    // It is kept for the next start, where only its owner can read it.
    member.interrupt()?;
    member.start_ready(&["up"])?;
    let refused = member.overlay(&["join", "x", "--proxy", &format!("socks5://u:{PASSWORD}@p")])?;
    ensure!(
        refused.code == Some(1) && refused.stderr.contains("--proxy") && !refused.stderr.contains(PASSWORD),
        "{refused:?}"
    );
    Ok(())
}
