//! Machines that are far away: at the end of a line of the model, with its delay and its losses.

use std::net::Ipv4Addr;

use wan::Edge;
use wan_shell::{End, Lines, Settings, Shell, Translation};

use crate::lab::{INTERNET, Lab, exec, ip};
use crate::node::Node;

/// Windows of TCP that a line of some Gbit/s needs: a round trip of 100 ms at 10 Gbit/s, and as much again.
const BUFFERS: &str = "4096 131072 268435456";
/// Addresses of the two at the ends of a stretch.
const ENDS: [&str; 2] = ["203.0.113.201", "203.0.113.202"];

/// Two machines, and nothing but a line between them. They end before the laboratory does.
pub struct Stretch {
    /// At the first end.
    pub a: Node,
    /// At the second end.
    pub b: Node,
    /// What is between them.
    pub line: Shell,
}

impl Lab {
    /// Two machines joined by a line ([`Lines::far`] for a round trip and a loss). TCP has windows large enough for it.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn stretch(&mut self, names: [&str; 2], lines: Lines, seed: u64) -> anyhow::Result<Stretch> {
        let namespaces = [self.add_namespace(names[0])?, self.add_namespace(names[1])?];
        let ends = namespaces.each_ref().map(|namespace| end(namespace, "eth0"));
        let line = Shell::lay(&Settings::new(ends, lines, seed))?;
        for (namespace, (own, other)) in namespaces.iter().zip([(ENDS[0], ENDS[1]), (ENDS[1], ENDS[0])]) {
            ip(&["-n", namespace, "addr", "add", &format!("{own}/24"), "dev", "eth0"])?;
            ip(&["-n", namespace, "route", "add", "default", "via", other, "dev", "eth0"])?;
            let windows = ["net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"].map(|name| format!("{name}={BUFFERS}"));
            exec(namespace, &["sysctl", "-qw", &windows[0], &windows[1]])?;
        }
        let [a, b] = namespaces;
        let (a, b) = (Node::new(a, &self.dir, ENDS[0].to_owned())?, Node::new(b, &self.dir, ENDS[1].to_owned())?);
        Ok(Stretch { a, b, line })
    }

    /// A machine with a public address whose uplink is such a line, seen from the machine.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn distant(&mut self, name: &str, lines: Lines, seed: u64) -> anyhow::Result<(Node, Shell)> {
        let namespace = self.add_namespace(name)?;
        self.ports += 1;
        let line = self.lay_uplink(&namespace, lines, seed, None)?;
        let address = self.settle(&namespace, "eth0")?;
        self.lead_out(&namespace)?;
        Ok((Node::new(namespace, &self.dir, address)?, line))
    }

    /// The same behind a translator of the model, which is in the line: it has none of the kernel's, and no ICMP passes.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn behind_model(&mut self, name: &str, edge: Edge, lines: Lines, seed: u64) -> anyhow::Result<(Node, Shell)> {
        let namespace = self.add_namespace(name)?;
        self.ports += 1;
        let outside: Ipv4Addr = self.outside().parse()?;
        let inside = match edge {
            Edge::Open | Edge::Firewall => outside,
            Edge::FullCone
            | Edge::AddressRestricted
            | Edge::Home
            | Edge::HomeWithoutInputDrop
            | Edge::HomeOtherPort
            | Edge::AddressDependentMapping
            | Edge::SymmetricSequential
            | Edge::SymmetricRandom => Ipv4Addr::new(192, 168, outside.octets()[3], 2),
        };
        let line = self.lay_uplink(&namespace, lines, seed, Some(Translation { edge, inside, outside }))?;
        ip(&["-n", &namespace, "addr", "add", &format!("{inside}/32"), "dev", "eth0"])?;
        ip(&["-n", &namespace, "route", "add", INTERNET, "dev", "eth0"])?;
        ip(&["-n", &namespace, "route", "add", "default", "via", INTERNET, "dev", "eth0"])?;
        Ok((Node::new(namespace, &self.dir, inside.to_string())?, line))
    }

    /// A line from a machine to the latest port of the internet.
    fn lay_uplink(
        &self,
        namespace: &str,
        lines: Lines,
        seed: u64,
        translation: Option<Translation>,
    ) -> anyhow::Result<Shell> {
        let (net, port) = (self.internet(), self.port());
        let settings = Settings::new([end(namespace, "eth0"), end(&net, &port)], lines, seed);
        let line = Shell::lay(&Settings { translation, ..settings })?;
        ip(&["-n", &net, "link", "set", &port, "master", "br0"])?;
        Ok(line)
    }
}

fn end(namespace: &str, device: &str) -> End {
    End { namespace: Some(namespace.to_owned()), device: device.to_owned() }
}
