//! The ten kinds of edges (`wan::Edge`) as nftables rule sets: the kernel's own opinion of what `wan::nat` models.
//!
//! The drop on `input` matters: without it a datagram from outside that nothing was sent to makes a conntrack entry for the router
//! itself, and the inside socket loses its port. Most home routers drop it; `HomeWithoutInputDrop` is one of the others.

use wan::Edge;

/// The rules of a router with this address outside, on links `wan` and `lan`.
pub(crate) fn rules(edge: Edge, outside: &str) -> String {
    let masquerade = "oifname \"wan\" masquerade".to_owned();
    let hashed =
        |what: &str| format!("oifname \"wan\" ip protocol udp snat to {outside}:jhash {what} mod 20000 offset 30000");
    match edge {
        Edge::Open => String::new(),
        Edge::Firewall => filter(false),
        Edge::FullCone => mapped(outside, "dnat to udp dport map @inside"),
        Edge::AddressRestricted => mapped(outside, "ip saddr . udp dport @sent_to dnat to udp dport map @inside"),
        Edge::Home => format!("{}{}", nat(&masquerade), filter(true)),
        Edge::HomeWithoutInputDrop => format!("{}{}", nat(&masquerade), filter(false)),
        Edge::HomeOtherPort => format!("{}{}", nat(&hashed("ip saddr . udp sport")), filter(true)),
        Edge::AddressDependentMapping => format!("{}{}", nat(&hashed("ip saddr . udp sport . ip daddr")), filter(true)),
        Edge::SymmetricSequential => {
            // With an offset instead of a map the numbers would step by 256: they are kept in the other byte order.
            let ports: Vec<String> = (0..400).map(|n| format!("{n} : {}", 30_000 + n)).collect();
            let numbered = format!("numgen inc mod 400 map {{ {} }}", ports.join(", "));
            let rule = format!("oifname \"wan\" ip protocol udp snat to {outside}:{numbered}");
            format!("{}{}", nat(&rule), filter(true))
        }
        Edge::SymmetricRandom => format!("{}{}", nat("oifname \"wan\" masquerade fully-random"), filter(true)),
    }
}

/// Translation on the way out. The empty chain makes the kernel look at what comes in.
fn nat(source: &str) -> String {
    format!(
        "table ip nat {{\nchain pre {{\ntype nat hook prerouting priority -100; policy accept;\n}}\n\
         chain post {{\ntype nat hook postrouting priority 100; policy accept;\n{source}\n}}\n}}\n"
    )
}

fn filter(input_drop: bool) -> String {
    let drop = if input_drop { "iifname \"wan\" ct state new drop\n" } else { "" };
    format!(
        "table ip filter {{\nchain in {{\ntype filter hook input priority 0; policy accept;\n{drop}}}\n\
         chain through {{\ntype filter hook forward priority 0; policy accept;\n\
         iifname \"wan\" ct state established,related accept\niifname \"wan\" drop\n}}\n}}\n"
    )
}

/// Who is inside is kept in a map of our own, as conntrack lets in only whom was sent to. What is not translated does not pass: the
/// internet of the laboratory has a route to the network inside, for edges that translate nothing.
fn mapped(outside: &str, target: &str) -> String {
    format!(
        "table ip nat {{\n\
         map inside {{ type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 300s; size 65536; }}\n\
         set sent_to {{ type ipv4_addr . inet_service; flags dynamic,timeout; timeout 300s; size 65536; }}\n\
         chain pre {{\ntype nat hook prerouting priority -100; policy accept;\n\
         iifname \"wan\" ip protocol udp {target}\n}}\n\
         chain post {{\ntype nat hook postrouting priority 100; policy accept;\n\
         oifname \"wan\" ip protocol udp update @inside {{ udp sport : ip saddr . udp sport }}\n\
         oifname \"wan\" ip protocol udp update @sent_to {{ ip daddr . udp sport }}\n\
         oifname \"wan\" snat to {outside}\n}}\n}}\n\
         table ip filter {{\nchain in {{\ntype filter hook input priority 0; policy accept;\n\
         iifname \"wan\" ct state new drop\n}}\n\
         chain through {{\ntype filter hook forward priority 0; policy accept;\n\
         iifname \"wan\" ct state established,related accept\niifname \"wan\" ct status dnat accept\niifname \"wan\" drop\n}}\n}}\n"
    )
}

/// The chains that miniupnpd writes into; and what it maps passes a home router.
pub(crate) const MAPPED_PORTS: &str = "\
table inet filter {
chain miniupnpd { }
chain prerouting_miniupnpd { }
chain postrouting_miniupnpd { }
chain pre {
type nat hook prerouting priority -100; policy accept;
jump prerouting_miniupnpd
}
chain post {
type nat hook postrouting priority 100; policy accept;
jump postrouting_miniupnpd
}
chain through {
type filter hook forward priority 0; policy accept;
jump miniupnpd
}
}
insert rule ip filter through iifname \"wan\" ct status dnat accept
";

/// One address inside for one outside (RFC 2993 calls it basic NAT).
pub(crate) fn one_to_one(outside: &str, inside: &str) -> String {
    format!(
        "table ip nat {{\nchain pre {{\ntype nat hook prerouting priority -100; policy accept;\n\
         iifname \"wan\" dnat to {inside}\n}}\n\
         chain post {{\ntype nat hook postrouting priority 100; policy accept;\n\
         oifname \"wan\" snat to {outside}\n}}\n}}\n"
    )
}

/// What the routers of homes do with IPv6, whatever they do else: RFC 6092.
pub(crate) const IPV6: &str = "\
table ip6 filter {
chain through {
type filter hook forward priority 0; policy accept;
iifname \"wan\" meta l4proto ipv6-icmp accept
iifname \"wan\" ct state established,related accept
iifname \"wan\" drop
}
}
";
