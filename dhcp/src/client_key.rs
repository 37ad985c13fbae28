//! Who a client is, whatever address or interface it uses.

use std::fmt;

/// The identity of a DHCP client: its client identifier (option 61, type and id) if it sent one, else hardware type and
/// address (RFC 2131 §4.2, RFC 4361). Leases belong to it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientKey(Vec<u8>);

impl ClientKey {
    /// The key of a client that identified itself by option 61.
    pub fn from_identifier(identifier: &[u8]) -> Self {
        Self(identifier.to_vec())
    }

    /// The key of a client without identifier. It equals the identifier that most clients build of the same address
    /// (RFC 2132 §9.14), so a machine keeps its address from its boot loader to its system.
    pub fn from_ethernet(mac: [u8; 6]) -> Self {
        let mut bytes = vec![1];
        bytes.extend_from_slice(&mac);
        Self(bytes)
    }

    /// The bytes: what a caller hashes into an identity of its own.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { ":" };
            write!(f, "{separator}{byte:02x}")?;
        }
        Ok(())
    }
}
