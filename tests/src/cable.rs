//! Two machines and one cable between them, for measurements.

use crate::lab::{Lab, ip};
use crate::node::Node;

/// Their addresses.
const ENDS: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
const NETWORK: &str = "10.77.0.0/24";

impl Lab {
    /// Two machines that are joined by one pair of virtual Ethernet devices, and reach nothing else. TCP between them is
    /// cubic: the default may be bbr, which hides losses.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn cable(&mut self, names: [&str; 2]) -> anyhow::Result<[Node; 2]> {
        let (a, b) = (self.add_namespace(names[0])?, self.add_namespace(names[1])?);
        ip(&["link", "add", "name", "eth0", "netns", &a, "type", "veth", "peer", "name", "eth0", "netns", &b])?;
        let end = |namespace: String, address: &str| -> anyhow::Result<Node> {
            ip(&["-n", &namespace, "addr", "add", &format!("{address}/24"), "dev", "eth0"])?;
            ip(&["-n", &namespace, "link", "set", "eth0", "mtu", "1500", "up"])?;
            // By the route: many kernels let a namespace choose no default of its own.
            let route = ["-n", &namespace, "route", "replace", NETWORK, "dev", "eth0", "src", address];
            ip(&[&route[..], &["congctl", "cubic"]].concat())?;
            Node::new(namespace, self.dir(), address.to_owned())
        };
        Ok([end(a, ENDS[0])?, end(b, ENDS[1])?])
    }
}
