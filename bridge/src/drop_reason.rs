//! The names of everything that goes no further.

use std::collections::BTreeMap;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why something went no further. Silence where an answer was possible is a reason too.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason {
            $($(#[$doc])* $variant,)*
        }

        impl DropReason {
            /// Every reason there is.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name shown to people and counted in the status.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

reasons! {
    /// A frame without a whole Ethernet header.
    ShortFrame = "short-frame",
    /// An 802.3 frame with a length instead of a type, as spanning tree sends.
    Ieee8023 = "ieee-802-3",
    /// A VLAN tag.
    Vlan = "vlan",
    /// IPv6 does not cross.
    Ipv6 = "ipv6",
    /// Link layer discovery.
    Lldp = "lldp",
    /// Some other Ethernet type.
    OtherEthertype = "other-ethertype",
    /// A frame for another machine on the segment.
    OtherMachine = "other-machine",
    /// A frame that claims to come from our own virtual MAC: a loop.
    OwnMac = "own-mac",
    /// A frame whose source MAC is a group's.
    GroupSource = "group-source",
    /// Not an IPv4 packet, or its lengths contradict each other.
    BadIpv4 = "bad-ipv4",
    /// The IPv4 or UDP checksum of something meant for us is wrong.
    BadChecksum = "bad-checksum",
    /// UDP or ICMP for us whose lengths contradict each other.
    BadTransport = "bad-transport",
    /// A broadcast that no service of ours wants.
    Broadcast = "broadcast",
    /// A multicast.
    Multicast = "multicast",
    /// Multicast group management.
    Igmp = "igmp",
    /// A source address that no host behind this TAP holds a lease of, or not with that MAC.
    SpoofedSource = "spoofed-source",
    /// A source address that the peer had, and that somebody else was granted since.
    SupersededSource = "superseded-source",
    /// A destination outside the namespace's range.
    OutOfRange = "out-of-range",
    /// A destination that is behind this TAP itself: the segment delivers that without us.
    LocalDestination = "local-destination",
    /// A packet from a peer for an address that is not behind this TAP.
    NoSuchHost = "no-such-host",
    /// DHCP between members: nobody's server may answer another's clients.
    DhcpCrossing = "dhcp-crossing",
    /// A plain packet larger than the tunnel carries, which may not be cut; its sender was told.
    TooBig = "too-big",
    /// A message that does not fit into one packet to the host.
    Oversize = "oversize",
    /// A fragment for the virtual server.
    ServiceFragment = "service-fragment",
    /// A router on the way had to tell of congestion, and the packet's ends do not understand other signs than loss.
    Congested = "congested",
    /// A protocol or port that the virtual server does not have.
    NoService = "no-service",
    /// Nobody has the destination address.
    Absent = "absent",
    /// Nobody could be asked about the destination address.
    Unreachable = "unreachable",
    /// No answer about the destination address in time.
    LookupExpired = "lookup-expired",
    /// Too many addresses being looked up.
    LookupsFull = "lookups-full",
    /// Too much waits for a route already; the oldest made room.
    WaitingFull = "waiting-full",
    /// Packets of a peer that did not prove its address in time.
    Unproven = "unproven",
    /// Too many packets or peers wait for a proof.
    UnprovenFull = "unproven-full",
    /// An ICMP error that was not sent because too many were.
    IcmpLimited = "icmp-limited",
    /// Not an ARP packet for IPv4 over Ethernet.
    BadArp = "bad-arp",
    /// An ARP reply: nothing is learned from it.
    ArpReply = "arp-reply",
    /// An ARP announcement: nothing is learned from it.
    ArpAnnouncement = "arp-announcement",
    /// An ARP packet that claims the address of a member elsewhere or of the service.
    ArpConflict = "arp-conflict",
    /// An ARP question for an address outside the range.
    ArpOutOfRange = "arp-out-of-range",
    /// An ARP question for an address behind this TAP, whose holder answers it.
    ArpLocal = "arp-local",
    /// An ARP question from a machine that holds no lease.
    ArpForeign = "arp-foreign",
    /// An ARP question for an address of a member elsewhere that a machine of the segment insists on: that one answers.
    ArpYielded = "arp-yielded",
    /// An ARP question for an address that nobody has.
    ArpAbsent = "arp-absent",
    /// An ARP question nobody could be asked about in time.
    ArpUnknown = "arp-unknown",
    /// A virtio network header that is short, or contradicts the packet it stands before.
    BadOffload = "bad-offload",
    /// An answer for a TCP connection that has ended.
    ConnectionGone = "connection-gone",
    /// A question over TCP that is empty or too long.
    BadLength = "bad-length",
}

/// How often each thing happened.
#[derive(Debug, Default)]
pub(crate) struct Drops(BTreeMap<DropReason, u64>);

impl Drops {
    pub(crate) fn count(&mut self, reason: DropReason) {
        self.add(reason, 1);
    }

    pub(crate) fn add(&mut self, reason: DropReason, times: usize) {
        if times > 0 {
            let count = self.0.entry(reason).or_default();
            *count = count.saturating_add(times as u64);
        }
    }

    pub(crate) fn counts(&self) -> &BTreeMap<DropReason, u64> {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::DropReason;

    #[test]
    fn names_are_kebab_case_and_unique() {
        let names: BTreeSet<_> = DropReason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
        for name in names {
            assert!(name.bytes().all(|b| b == b'-' || b.is_ascii_lowercase() || b.is_ascii_digit()), "{name}");
        }
    }
}
