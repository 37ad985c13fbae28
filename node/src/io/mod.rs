//! The edges of the program: clocks, the data socket, the kernel's links and routes.

pub(crate) mod bridge;
pub(crate) mod changes;
pub(crate) mod clock;
pub(crate) mod link;
pub(crate) mod offload;
pub(crate) mod pace;
pub(crate) mod power;
pub(crate) mod threads;
pub(crate) mod udp;
pub(crate) mod uplink;
pub(crate) mod vmgenid;
