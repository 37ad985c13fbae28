//! The program on the real kernel, and the real programs of others. One binary, so that tests which wait do so side by side:
//! `cargo test -p e2e NAME` runs those of which this is a part of the name, `MODULE::NAME` in full.

mod bad_members;
mod behind_routers;
mod cleanup;
mod cli_errors;
mod creator_may_die;
mod dhclient;
mod dhcpcd;
mod dns;
mod five_nodes;
mod handover;
mod idle;
mod lab_itself;
mod leave;
mod minority_grants_nothing;
mod more_edges;
mod nat_edges;
mod networkd;
mod one_owner_nine_nodes;
mod only_https;
mod port_mapping;
mod recover;
mod relays;
mod restart_keeps_address;
mod roaming;
mod router;
mod status_json;
mod two_members;
mod two_nodes;
mod two_want_one_address;
mod udhcpc;
mod udp_blocked;
mod unmodified_programs;
mod watcher_itself;
