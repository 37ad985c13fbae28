//! Whom an address of the underlay means.

use std::net::IpAddr;

/// Whether the address means the same everywhere, as far as its number tells.
pub fn is_global(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            // RFC 6598: carriers number their customers' routers so.
            let shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64;
            !shared && !v4.is_private() && !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified()
        }
        IpAddr::V6(v6) => {
            !v6.is_unique_local() && !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_shared_and_local_addresses_mean_others_elsewhere() {
        for global in ["8.8.8.8", "100.63.0.1", "100.128.0.1", "172.32.0.1", "2001:db8::1", "::ffff:8.8.8.8"] {
            assert!(is_global(global.parse().unwrap()), "{global}");
        }
        let local = ["10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "127.0.0.1", "169.254.0.1", "0.0.0.0"];
        for local in local.into_iter().chain(["fd00::1", "fe80::1", "::1", "::", "::ffff:10.0.0.1"]) {
            assert!(!is_global(local.parse().unwrap()), "{local}");
        }
    }
}
