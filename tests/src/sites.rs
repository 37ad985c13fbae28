//! Eight members, two behind each of four routers, as machines on which programs of others run: each has a host name, a home and a
//! login by SSH of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use wan::{Edge, Outcome, Technique, direct_path_possible};

use crate::lab::{Lab, Router, path};
use crate::node::Node;
use crate::process::Process;
use crate::wait;

/// What stands before each site: of the six pairs of sites three can have a direct way, and three cannot.
const EDGES: [Edge; 4] = [Edge::Home, Edge::AddressRestricted, Edge::AddressDependentMapping, Edge::SymmetricRandom];
/// Of the members of each site: the laboratory's address-restricted router knows those inside by their ports alone.
const PORTS: [&str; 2] = ["41820", "41830"];
/// Where `ssh` and the login look for keys.
const HOME: &str = "/root";

/// The members. They end before the laboratory does.
pub struct Sites {
    /// Those behind routers; the first two behind the first one.
    pub members: Vec<Member>,
    /// With public addresses; the first one founded the namespace.
    pub open: Vec<Node>,
    _routers: Vec<Router>,
    lab: Lab,
}

/// One machine behind a router, as a program on it sees it.
pub struct Member {
    /// The machine.
    pub node: Node,
    /// Its host name; the overlay's name server calls it `NAME.lab.internal`.
    pub name: String,
    /// Its address in the namespace.
    pub ip: String,
    /// The number of its router.
    pub site: usize,
    login: Option<Process>,
}

/// How two members reach each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The two, by number.
    pub pair: (usize, usize),
    /// `direct`, `relay` or `stream`, as the first of them says.
    pub kind: String,
    /// The address of the other one, or the member that carries.
    pub endpoint: String,
}

impl Sites {
    /// All of them, joined, with logins, but nothing sent yet; nothing where kernel tests are left out.
    ///
    /// # Errors
    /// The kernel refuses, or one does not join.
    pub fn new(name: &str, open: usize) -> anyhow::Result<Option<Self>> {
        let Some(mut lab) = crate::lab(name)? else { return Ok(None) };
        let mut public = (0..open).map(|n| lab.public(&format!("o{n}"))).collect::<anyhow::Result<Vec<_>>>()?;
        let (founder, others) = public.split_first_mut().context("a founder in the open is needed")?;
        founder.create_lab(&["--hostname", "o0"])?;
        for (n, other) in others.iter_mut().enumerate() {
            other.join_lab(founder, &["--hostname", &format!("o{}", n + 1)])?;
        }
        let (mut routers, mut members) = (Vec::new(), Vec::new());
        for (site, edge) in EDGES.into_iter().enumerate() {
            let mut router = lab.router(edge)?;
            for port in PORTS {
                let name = format!("m{}", members.len());
                let mut node = lab.behind(&mut router, &name)?;
                let ip = node.join_lab(founder, &["--hostname", &name, "--port", port])?.ip()?.to_string();
                members.push(Member { node, name, ip, site, login: None });
            }
            routers.push(router);
        }
        let mut sites = Self { members, open: public, _routers: routers, lab };
        sites.open_logins()?;
        Ok(Some(sites))
    }

    /// A directory that all machines share, as clusters do.
    pub fn shared(&self) -> &Path {
        self.lab.dir()
    }

    /// One key lets everybody in everywhere; nobody's real home is touched, as each machine has another one in its place.
    fn open_logins(&mut self) -> anyhow::Result<()> {
        let keys = self.shared().join("keys");
        fs::create_dir_all(&keys)?;
        let first = &self.members.first().context("there are members")?.node;
        for key in ["user", "host"] {
            first.run(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path(&keys.join(key))?])?;
            let key = path(&keys.join(key))?.to_owned();
            first.run(&["dropbearconvert", "openssh", "dropbear", &key, &format!("{key}.dropbear")])?;
        }
        for member in &mut self.members {
            member.open_login(&keys)?;
        }
        Ok(())
    }

    /// How any two of them reach each other now, where they do.
    ///
    /// # Errors
    /// A daemon does not answer.
    pub fn ways(&self) -> anyhow::Result<Vec<Route>> {
        let mut ways = Vec::new();
        for (i, from) in self.members.iter().enumerate() {
            let peers = from.node.status()?["peers"].take();
            for (j, to) in self.members.iter().enumerate().skip(i + 1) {
                let mut all = peers.as_array().into_iter().flatten();
                let said = all.find(|peer| peer["hostname"] == to.name.as_str());
                let word = |field: &str| said.and_then(|said| said[field].as_str()).unwrap_or("none").to_owned();
                ways.push(Route { pair: (i, j), kind: word("path"), endpoint: word("endpoint") });
            }
        }
        Ok(ways)
    }

    /// Waits until those pairs have a direct way whose routers allow it, and the others another one.
    ///
    /// # Errors
    /// They do not in time.
    pub fn wait_ways(&self, limit: Duration) -> anyhow::Result<Vec<Route>> {
        wait::until_ok("each pair to go the way that its routers allow", limit, || {
            self.greet()?;
            let ways = self.ways()?;
            let wrong: Vec<_> = ways.iter().filter(|way| !self.is_as_predicted(way)).collect();
            ensure!(wrong.is_empty(), "{wrong:?}");
            Ok(ways)
        })
    }

    /// Each says something to each: who is silent long enough is forgotten.
    fn greet(&self) -> anyhow::Result<()> {
        for (i, from) in self.members.iter().enumerate() {
            let others = self.members.iter().skip(i + 1).map(|to| to.ip.as_str()).collect::<Vec<_>>();
            let one = "for ip; do ping -c 1 -W 2 -q \"$ip\" & done; wait";
            from.node.run(&[&["sh", "-c", one, "sh"], &others[..]].concat())?;
        }
        Ok(())
    }

    fn is_as_predicted(&self, way: &Route) -> bool {
        let (one, other) = (self.members[way.pair.0].site, self.members[way.pair.1].site);
        // What the program does not do yet is to foresee ports; none of these edges count, so it makes no difference here.
        let direct = one == other || direct_path_possible(EDGES[one], EDGES[other], Technique::ALL) == Outcome::Direct;
        direct == (way.kind == "direct") && (direct || way.kind != "none")
    }

    /// Without the overlay no site reaches another one.
    ///
    /// # Errors
    /// One does.
    pub fn check_apart(&self) -> anyhow::Result<()> {
        let mut asked = Vec::new();
        for from in self.members.iter().step_by(PORTS.len()) {
            for to in self.members.iter().filter(|to| to.site != from.site) {
                let echo = from.node.spawn(&["ping", "-c", "1", "-W", "1", to.node.underlay()])?;
                asked.push((&from.name, &to.name, echo));
            }
        }
        for (from, to, echo) in asked {
            let answered = echo.finish(Duration::from_secs(10))?.code == Some(0);
            ensure!(!answered, "{from} reaches {to} without the overlay");
        }
        Ok(())
    }

    /// How many bytes all of them have sent over the overlay's devices.
    ///
    /// # Errors
    /// A device is gone.
    pub fn sent(&self) -> anyhow::Result<u64> {
        self.members.iter().map(|member| member.sent()).sum()
    }
}

impl Member {
    /// Its name in the overlay's zone.
    pub fn full_name(&self) -> String {
        format!("{}.lab.internal", self.name)
    }

    /// Starts a command as a user who is logged in on this machine.
    ///
    /// # Errors
    /// A program is missing.
    pub fn spawn(&self, command: &[&str]) -> anyhow::Result<Process> {
        // All namespaces of the network share a host name and a home with the machine that the tests run on; these two do not.
        let enter = "hostname \"$1\" && mount --bind \"$2\" \"$3\" && cd && shift 3 && exec \"$@\"";
        let home = self.home();
        let inside = ["unshare", "--uts", "env", "HOME=/root", "sh", "-c", enter, "sh", &self.name, path(&home)?, HOME];
        self.node.spawn(&[&inside[..], command].concat())
    }

    /// The directory that is its home.
    pub fn home(&self) -> PathBuf {
        self.node.dir().join("home")
    }

    fn open_login(&mut self, keys: &Path) -> anyhow::Result<()> {
        let ssh = self.home().join(".ssh");
        fs::create_dir_all(&ssh)?;
        fs::copy(keys.join("user"), ssh.join("id_ed25519"))?;
        fs::copy(keys.join("user.pub"), ssh.join("authorized_keys"))?;
        let host = fs::read_to_string(keys.join("host.pub"))?;
        fs::write(ssh.join("known_hosts"), format!("*.lab.internal {host}"))?;
        self.node.run(&["chmod", "-R", "go=", path(&self.home())?])?;
        let key = keys.join("host.dropbear");
        let mut login = self.spawn(&["dropbear", "-F", "-E", "-s", "-P", "", "-r", path(&key)?, "-p", "22"])?;
        login.wait_for_line(Duration::from_secs(10), |line| line.contains("Not backgrounding"))?;
        self.login = Some(login);
        Ok(())
    }

    fn sent(&self) -> anyhow::Result<u64> {
        let text = self.node.run(&["ip", "-s", "-j", "link", "show", "dev", "ov-lab"])?;
        let links: Value = serde_json::from_str(&text)?;
        links.pointer("/0/stats64/tx/bytes").and_then(Value::as_u64).context("no count of bytes")
    }
}
