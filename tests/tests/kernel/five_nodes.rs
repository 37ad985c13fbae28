//! A creator and four that join at once.

use std::fs;
use std::time::Duration;

use e2e::{Lab, Node, Process, wait};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// The creator first; the others start at the same moment with one token.
fn five(lab: &mut Lab) -> anyhow::Result<Vec<(Node, String)>> {
    let mut nodes = NAMES.iter().map(|name| lab.public(name)).collect::<Result<Vec<_>, _>>()?;
    let mut ips = vec![nodes[0].create_lab(&["--hostname", "a"])?.ip()?.to_string()];
    let token = nodes[0].invite("lab", &["--uses", "4"])?;
    for (node, name) in nodes.iter_mut().zip(NAMES).skip(1) {
        node.start(&["join", "lab", "--invite", &token, "--dns", "file", "--hostname", name])?;
    }
    for node in nodes.iter_mut().skip(1) {
        ips.push(node.ready()?.ip()?.to_string());
    }
    Ok(nodes.into_iter().zip(ips).collect())
}

fn serve(node: &Node) -> anyhow::Result<Process> {
    let mut server = node.spawn(&["iperf3", "-s", "--forceflush"])?;
    server.wait_for_line(Duration::from_secs(10), |line| line.contains("Server listening"))?;
    Ok(server)
}

#[test]
fn five_addresses_differ_and_all_pairs_talk() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("five")? else { return Ok(()) };
    let nodes = five(&mut lab)?;
    let mut ips: Vec<&String> = nodes.iter().map(|(_, ip)| ip).collect();
    ips.sort();
    ips.dedup();
    assert_eq!(ips.len(), 5, "{ips:?}");
    for (from, from_ip) in &nodes {
        for ((_, ip), name) in nodes.iter().zip(NAMES).filter(|((_, ip), _)| ip != from_ip) {
            from.ping_once(ip)?;
            from.ping_once(&format!("{name}.lab.internal"))?;
        }
    }
    Ok(())
}

#[test]
fn a_stream_runs_both_ways() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("stream")? else { return Ok(()) };
    let nodes = five(&mut lab)?;
    let (server, ip) = &nodes[4];
    let _serving = serve(server)?;
    for direction in [&[][..], &["-R"]] {
        let command = [&["iperf3", "-c", ip, "-t", "2", "-C", "cubic", "-J"][..], direction].concat();
        let report: serde_json::Value = serde_json::from_str(&nodes[1].0.run(&command)?)?;
        let bytes = report.pointer("/end/sum_received/bytes").and_then(serde_json::Value::as_u64).unwrap_or(0);
        // Far below what it does; a stream that stalls after its first window stays below.
        assert!(bytes > 5_000_000, "{bytes} bytes in 2 s, {direction:?}");
    }
    Ok(())
}

#[test]
fn no_inner_byte_is_seen_on_the_wire() -> anyhow::Result<()> {
    let Some(mut lab) = e2e::lab("wire")? else { return Ok(()) };
    let nodes = five(&mut lab)?;
    let file = lab.dir().join("wire.pcap");
    let capture = lab.capture(&file)?;
    let marker = b"in clear for all";
    let pattern: String = marker.iter().map(|byte| format!("{byte:02x}")).collect();
    let ping = |to: &str| nodes[1].0.run(&["ping", "-c", "3", "-i", "0.1", "-W", "5", "-s", "256", "-p", &pattern, to]);
    let seen = || fs::read(&file).unwrap_or_default().windows(marker.len()).filter(|part| part == marker).count();

    ping(&nodes[2].1)?;
    let size = || file.metadata().map(|meta| meta.len()).unwrap_or(0);
    wait::until("the capture of six packets", Duration::from_secs(10), || (size() > 6 * 256).then_some(()))?;
    assert_eq!(seen(), 0, "the marker crossed the wire in clear");
    // The same outside the tunnel must be seen, or the capture was blind.
    ping(nodes[2].0.underlay())?;
    wait::until("the marker outside the tunnel", Duration::from_secs(10), || (seen() > 0).then_some(()))?;
    drop(capture);
    Ok(())
}
