//! Many machines on one bridge, each link of which can be cut, one way or both.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use crate::lab::{Lab, exec, path};
use crate::node::Node;
use crate::wait;

/// Machines with public addresses, and the switch between them. All of it ends with the value, the machines first.
pub struct Nine {
    /// The machines; the first one is meant to create the namespace.
    pub nodes: Vec<Node>,
    cut: BTreeSet<(usize, usize)>,
    lab: Lab,
}

/// Which way nothing passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Neither.
    Both,
    /// The machine hears, and is not heard.
    Out,
    /// The machine is heard, and hears nothing.
    In,
}

impl Nine {
    /// This many machines; none if kernel tests are to be skipped.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(name: &str, count: usize) -> anyhow::Result<Option<Self>> {
        let Some(mut lab) = crate::lab(name)? else { return Ok(None) };
        let nodes = (0..count).map(|i| lab.public(&format!("n{i}"))).collect::<Result<_, _>>()?;
        Ok(Some(Self { nodes, cut: BTreeSet::new(), lab }))
    }

    /// The first machine creates `lab`, and the others join it with one token. Who finds no free address goes on asking.
    ///
    /// # Errors
    /// The first is not ready in time, or makes no token.
    pub fn found(&mut self, options: &[&str]) -> anyhow::Result<()> {
        let mut create = vec!["create", "lab", "--dns", "off"];
        create.extend_from_slice(options);
        let (first, others) = self.nodes.split_first_mut().context("there are machines")?;
        first.start_ready(&create)?;
        let uses = others.len().to_string();
        let token = first.invite("lab", &["--uses", &uses])?;
        for node in others {
            node.start(&["join", "lab", "--invite", &token, "--dns", "off"])?;
        }
        Ok(())
    }

    /// Cuts one machine off.
    ///
    /// # Errors
    /// nftables refuses.
    pub fn cut(&mut self, node: usize, way: Way) -> anyhow::Result<()> {
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            if way != Way::In {
                self.cut.insert((node, other));
            }
            if way != Way::Out {
                self.cut.insert((other, node));
            }
        }
        self.apply()
    }

    /// Cuts these off from all others, not from each other.
    ///
    /// # Errors
    /// nftables refuses.
    pub fn part(&mut self, side: &[usize]) -> anyhow::Result<()> {
        let others = (0..self.nodes.len()).filter(|other| !side.contains(other));
        let pairs = others.flat_map(|other| side.iter().flat_map(move |node| [(*node, other), (other, *node)]));
        self.cut.extend(pairs);
        self.apply()
    }

    /// Mends every link of one machine.
    ///
    /// # Errors
    /// nftables refuses.
    pub fn mend(&mut self, node: usize) -> anyhow::Result<()> {
        self.cut.retain(|(from, to)| *from != node && *to != node);
        self.apply()
    }

    /// Mends all links.
    ///
    /// # Errors
    /// nftables refuses.
    pub fn heal(&mut self) -> anyhow::Result<()> {
        self.cut.clear();
        self.apply()
    }

    /// Whether packets pass from one to the other.
    pub fn passes(&self, from: usize, to: usize) -> bool {
        !self.cut.contains(&(from, to))
    }

    /// The whole set of rules takes the place of the last one at once.
    fn apply(&self) -> anyhow::Result<()> {
        // Machine i was plugged into port i + 1.
        let drop = |(from, to): &(usize, usize)| format!("iifname \"p{}\" oifname \"p{}\" drop\n", from + 1, to + 1);
        let drops: String = self.cut.iter().map(drop).collect();
        let rules = format!(
            "table bridge cut\ndelete table bridge cut\ntable bridge cut {{\nchain pass {{\n\
             type filter hook forward priority 0; policy accept;\n{drops}}}\n}}\n"
        );
        let file = self.lab.dir().join("cut.nft");
        fs::write(&file, rules)?;
        exec(&self.lab.internet(), &["nft", "-f", path(&file)?])?;
        Ok(())
    }

    /// The addresses of those that have one now, by machine.
    pub fn addresses(&self) -> Vec<Option<Ipv4Addr>> {
        let ip = |node: &Node| node.status().ok()?["ip"].as_str()?.parse().ok();
        self.nodes.iter().map(ip).collect()
    }

    /// How each machine stands, a line for each, for when something went wrong.
    pub fn report(&self) -> String {
        let line = |(i, node): (usize, &Node)| match node.status() {
            Ok(status) => {
                let of = |field: &str| status[field].to_string();
                let (hosts, view) = (of("hosts"), status["view"]["number"].to_string());
                format!("node {i}: {} view {view} {} {} {hosts}\n", of("state"), of("cause"), of("candidacy"))
            }
            Err(error) => format!("node {i}: {error:#}\n"),
        };
        self.nodes.iter().enumerate().map(line).collect()
    }

    /// Who owns each of these addresses, as each machine sees it, for when something went wrong.
    pub fn owners(&self, addresses: &[Ipv4Addr]) -> String {
        let owner = |ip: &Ipv4Addr| {
            let answer = |node: &Node| node.overlay(&["lookup", &ip.to_string()]).ok();
            let said = self.nodes.iter().filter_map(answer).map(|said| said.stdout + &said.stderr);
            format!("{ip}: {}\n", said.collect::<Vec<_>>().join(" / ").replace('\n', " "))
        };
        addresses.iter().map(owner).collect()
    }

    /// Waits until the machine's status shows a view of this many.
    ///
    /// # Errors
    /// It does not in time; the error holds the last status.
    pub fn wait_view(&self, node: usize, members: usize, limit: Duration) -> anyhow::Result<Vec<String>> {
        wait::until_ok(&format!("a view of {members}"), limit, || {
            let status = self.nodes[node].status()?;
            let view = view_members(&status);
            wait::expect(view.len() >= members, || format!("status is {status:#}"))?;
            Ok(view)
        })
    }

    /// Waits until every shard of the register has that many replicas. A view is one shard's: where one has grown, another one
    /// may still be its founder's alone.
    ///
    /// # Errors
    /// They do not in time; the error holds what each node serves.
    pub fn wait_replicas(&self, each: usize, limit: Duration) -> anyhow::Result<()> {
        wait::until_ok(&format!("{each} replicas of each shard"), limit, || {
            let said: Vec<String> = self.nodes.iter().filter_map(|node| candidacy(&node.status().ok()?)).collect();
            let places: Vec<(usize, usize)> = said.iter().filter_map(|said| places(said)).collect();
            let served: usize = places.iter().map(|(mine, _)| mine).sum();
            let shards = places.first().map(|(_, all)| all);
            wait::expect(shards.is_some_and(|shards| served >= each * shards), || format!("they say: {said:?}"))
        })
    }

    /// Which of the machines are these, by their identities in a status.
    ///
    /// # Errors
    /// A daemon does not answer.
    pub fn which(&self, peer_ids: &[String]) -> anyhow::Result<Vec<usize>> {
        let mut found = Vec::new();
        for (i, node) in self.nodes.iter().enumerate() {
            let status = node.whole_status()?;
            let id = status["peer_id"].as_str().context("no peer id")?;
            if peer_ids.iter().any(|one| one == id) {
                found.push(i);
            }
        }
        Ok(found)
    }
}

/// The members of the view in a status.
pub fn view_members(status: &Value) -> Vec<String> {
    let members = status["view"]["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    members.iter().filter_map(|member| Some(member.as_str()?.to_owned())).collect()
}

fn candidacy(status: &Value) -> Option<String> {
    Some(status["candidacy"].as_str()?.to_owned())
}

/// "replica of 13 of 16 shards": 13, 16.
fn places(candidacy: &str) -> Option<(usize, usize)> {
    let (mine, rest) = candidacy.strip_prefix("replica of ")?.split_once(" of ")?;
    Some((mine.parse().ok()?, rest.split_once(' ')?.0.parse().ok()?))
}
