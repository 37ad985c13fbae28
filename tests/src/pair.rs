//! Two members behind a router each, and members with public addresses that both reach.

use std::fs;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use wan::Edge;

use crate::lab::{Lab, Router, exec, path};
use crate::node::Node;
use crate::process::Process;
use crate::wait;

/// Members `a` and `b`, and those in the open, of whom the first founded the namespace. They end before the laboratory does.
pub struct Pair {
    /// Behind the first router.
    pub a: Node,
    /// Behind the second one.
    pub b: Node,
    /// The address of `a` in the namespace.
    pub a_ip: String,
    /// The address of `b` in the namespace.
    pub b_ip: String,
    /// With public addresses.
    pub open: Vec<Node>,
    /// Theirs, in order, where each has one.
    pub routers: Vec<Router>,
    /// What else has to run.
    pub processes: Vec<Process>,
    /// All around them.
    pub lab: Lab,
}

/// How long what takes after `a` sends its first packet to `b`; nothing for what does not happen in time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Until the first packet was answered.
    pub first: Option<Duration>,
    /// Until both ends took a direct way.
    pub direct: Option<Duration>,
    /// The way of `a` after that.
    pub path: String,
}

impl Pair {
    /// Has `a` send to `b`, and waits at most so long for an answer, and then for a direct way.
    ///
    /// # Errors
    /// A daemon does not answer.
    pub fn look(&self, first: Duration, direct: Duration) -> anyhow::Result<Seen> {
        let Ok(first) = self.first_packet(first) else { return Ok(Seen::default()) };
        let direct = self.wait_path("direct", direct).ok();
        let path = self.way()?["path"].as_str().unwrap_or_default().to_owned();
        Ok(Seen { first: Some(first), direct: direct.map(|direct| first + direct), path })
    }

    /// All of them, joined, but nothing sent yet; nothing where kernel tests are left out.
    ///
    /// # Errors
    /// The kernel refuses, or one does not join.
    pub fn new(name: &str, edges: [Edge; 2], open: usize) -> anyhow::Result<Option<Self>> {
        Self::without_udp(name, edges, open, [false, false])
    }

    /// As [`Self::new`], but from before they join no UDP passes outside those routers for which `blocked` says so.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn without_udp(name: &str, edges: [Edge; 2], open: usize, blocked: [bool; 2]) -> anyhow::Result<Option<Self>> {
        let Some(mut lab) = crate::lab(name)? else { return Ok(None) };
        let public = (0..open).map(|n| lab.public(&format!("o{n}"))).collect::<anyhow::Result<Vec<_>>>()?;
        let (mut first, mut second) = (lab.router(edges[0])?, lab.router(edges[1])?);
        let (a, b) = (lab.behind(&mut first, "a")?, lab.behind(&mut second, "b")?);
        let routers = vec![first, second];
        let blocked = routers.iter().zip(blocked).filter(|(_, blocked)| *blocked).map(|(router, _)| router.outside());
        rule(&lab, &udp_rules(blocked))?;
        Ok(Some(Self::joined(lab, public, [a, b], routers)?))
    }

    /// The first in the open founds a namespace, and all others join it.
    ///
    /// # Errors
    /// One does not join.
    pub fn joined(
        lab: Lab,
        mut public: Vec<Node>,
        [mut a, mut b]: [Node; 2],
        routers: Vec<Router>,
    ) -> anyhow::Result<Self> {
        let (founder, others) = public.split_first_mut().context("a pair needs a founder in the open")?;
        founder.create_lab(&["--hostname", "o0"])?;
        for (n, other) in others.iter_mut().enumerate() {
            other.join_lab(founder, &["--hostname", &format!("o{}", n + 1)])?;
        }
        let a_ip = a.join_lab(founder, &["--hostname", "a"])?.ip()?.to_string();
        let b_ip = b.join_lab(founder, &["--hostname", "b"])?.ip()?.to_string();
        Ok(Self { a, b, a_ip, b_ip, open: public, routers, processes: Vec::new(), lab })
    }

    /// How long the first packet takes from `a` to `b`.
    ///
    /// # Errors
    /// It does not arrive in time.
    pub fn first_packet(&self, limit: Duration) -> anyhow::Result<Duration> {
        let began = wait::now();
        wait::until_ok("a to reach b", limit, || self.a.ping_once(&self.b_ip))?;
        Ok(began.elapsed())
    }

    /// Waits until both ends take a way of this kind. How long that was.
    ///
    /// # Errors
    /// They do not in time.
    pub fn wait_path(&self, kind: &str, limit: Duration) -> anyhow::Result<Duration> {
        let began = wait::now();
        wait::until_ok(&format!("both to go by {kind}"), limit, || {
            self.a.run(&["ping", "-c", "1", "-W", "1", &self.b_ip])?;
            let (to_b, to_a) = (peer(&self.a, "b")?, peer(&self.b, "a")?);
            ensure!(to_b["path"] == kind && to_a["path"] == kind, "{to_b}\n{to_a}");
            Ok(())
        })?;
        Ok(began.elapsed())
    }

    /// What `a` knows about its way to `b`.
    ///
    /// # Errors
    /// `a` does not know `b`.
    pub fn way(&self) -> anyhow::Result<Value> {
        peer(&self.a, "b")
    }

    /// From here on nothing passes from router to router; all others reach each other.
    ///
    /// # Errors
    /// nftables refuses.
    pub fn part(&self) -> anyhow::Result<()> {
        let outside: Vec<&str> = self.routers.iter().map(Router::outside).collect();
        let [first, second] = outside[..] else { bail!("they have no router each") };
        let one_way = |from, to| format!("ip saddr {from} ip daddr {to} drop\n");
        self.rule(&format!(
            "table ip parted {{\nchain pass {{\ntype filter hook forward priority 0; policy accept;\n{}{}}}\n}}\n",
            one_way(first, second),
            one_way(second, first)
        ))
    }

    /// Undoes [`Self::part`].
    ///
    /// # Errors
    /// nftables refuses.
    pub fn unite(&self) -> anyhow::Result<()> {
        self.rule("")
    }

    /// From here on no UDP passes outside the first router; TCP does.
    ///
    /// # Errors
    /// nftables refuses.
    pub fn block_udp(&self) -> anyhow::Result<()> {
        self.rule(&udp_rules(self.routers.first().map(Router::outside)))
    }

    fn rule(&self, rules: &str) -> anyhow::Result<()> {
        rule(&self.lab, rules)
    }
}

/// Lets no UDP pass to or from these addresses.
fn udp_rules<'a>(outside: impl IntoIterator<Item = &'a str>) -> String {
    let one = |address| format!("ip saddr {address} meta l4proto udp drop\nip daddr {address} meta l4proto udp drop\n");
    let rules: String = outside.into_iter().map(one).collect();
    format!("table ip parted {{\nchain pass {{\ntype filter hook forward priority 0; policy accept;\n{rules}}}\n}}\n")
}

/// Replaces what the network between the routers does not let through.
fn rule(lab: &Lab, rules: &str) -> anyhow::Result<()> {
    let file = lab.dir().join("parted.nft");

    fs::write(&file, format!("table ip parted\ndelete table ip parted\n{rules}"))?;
    exec(&lab.internet(), &["nft", "-f", path(&file)?])?;
    Ok(())
}

/// What a member's status says about the one with this name.
///
/// # Errors
/// It does not know it.
pub fn peer(member: &Node, name: &str) -> anyhow::Result<Value> {
    let status = member.status()?;
    let peers = status["peers"].as_array().cloned().unwrap_or_default();
    let found = peers.iter().find(|peer| peer["hostname"] == name).cloned();
    found.with_context(|| format!("no peer is called {name}: {}", status["peers"]))
}
