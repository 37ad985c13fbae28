//! The page `docs/scale.md`.

use std::fmt::Write as _;

use super::plots::{growth, points};
use super::{BOUND, REST};
use crate::figures::{Figures, show};

/// Numbers of nodes at which the model's questions differ from real nodes' by more than the bound.
pub(super) fn disagreements(figures: &[Figures]) -> Vec<String> {
    compared(figures)
        .into_iter()
        .filter(|row| row.counts() && row.apart().abs() > BOUND)
        .map(|row| show(row.nodes))
        .collect()
}

/// Below this share of answers real lookups say nothing of the model.
const ANSWERED: f64 = 0.9;

/// Real lookups beside the model's.
struct Compared {
    nodes: f64,
    real: f64,
    spread: f64,
    /// The share of questions that were answered.
    answered: f64,
    table: f64,
    model: f64,
    model_table: f64,
}

impl Compared {
    fn apart(&self) -> f64 {
        self.model / self.real - 1.0
    }

    /// The model is of a network in which everybody answers: a machine that is too busy for its nodes shows another.
    fn counts(&self) -> bool {
        self.answered >= ANSWERED
    }
}

fn compared(figures: &[Figures]) -> Vec<Compared> {
    let model = |key| points(figures, "kad", "", key);
    let (requests, tables) = (model("requests"), model("table"));
    let of = |list: &[(f64, f64)], n: f64| list.iter().find(|point| point.0 == n).map_or(f64::NAN, |point| point.1);
    let lookups = figures.iter().filter(|line| line.is("lookup"));
    lookups
        .map(|line| Compared {
            nodes: line.number("n"),
            real: line.number("requests"),
            spread: line.number("spread"),
            answered: line.number("answers") / line.number("requests"),
            table: line.number("table"),
            model: of(&requests, line.number("n")),
            model_table: of(&tables, line.number("n")),
        })
        .collect()
}

/// A column: its head, the key of its figure, and what one unit of the figure is.
type Column = (&'static str, &'static str, f64);

fn table(page: &mut String, rows: &[&Figures], columns: &[Column]) {
    let heads: Vec<&str> = columns.iter().map(|column| column.0).collect();
    let _ = writeln!(page, "\n| {} |\n|{}", heads.join(" | "), "---|".repeat(columns.len()));
    for row in rows {
        let cell = |(_, key, unit): &Column| {
            let value = row.number(key);
            if value.is_nan() { row.text(key).to_owned() } else { show(value / unit) }
        };
        let cells: Vec<String> = columns.iter().map(cell).collect();
        let _ = writeln!(page, "| {} |", cells.join(" | "));
    }
}

/// The whole page.
pub(super) fn page(figures: &[Figures]) -> String {
    let rows = |what: &str| figures.iter().filter(|line| line.is(what)).collect::<Vec<_>>();
    let mut page = String::new();
    head(&mut page, figures);
    model(&mut page, figures);
    check(&mut page, figures);
    crowd(&mut page, figures);
    page.push_str(
        "\n## Memory\n\nOne replica's state machine, loaded from its store in a process of its own (`scale replica`). It \
         holds every\nregister of the namespace: an address, a name and an invite for each member.\n",
    );
    let columns: [Column; 5] = [
        ("members", "n", 1.0),
        ("registers", "registers", 1.0),
        ("memory, MB", "memory_kb", 1024.0),
        ("store, MB", "store_kb", 1024.0),
        ("entries in the store", "entries", 1.0),
    ];
    table(&mut page, &rows("replica"), &columns);
    page.push_str(
        "\nA member's state machine with its disk in memory and its part of the simulation's queues, `VmRSS` divided by \
         members:\n",
    );
    table(&mut page, &rows("memory"), &[("members", "n", 1.0), ("kB each", "member_kb", 1.0)]);
    page.push_str("\n![memory](scale/replica.svg)\n");
    idle(&mut page, &rows("real"));
    page
}

fn head(page: &mut String, figures: &[Figures]) {
    let machine = figures.iter().find(|line| line.is("machine"));
    let of = |key| machine.map_or("?", |line| line.text(key)).replace('_', " ");
    let _ = writeln!(
        page,
        "# Growth\n\n`cargo xtask scale` (as root, for a network namespace of its own; an hour) measures all of this and \
         writes this page,\nits plots and `scale/figures.txt`, from which `cargo xtask scale --page` writes them again.\n\
         Machine: {}, {} cores, {} GB, Linux {}.\n\n\
         | what | is |\n|---|---|\n\
         | hops, questions, tables of Kademlia | a model (`sim/src/scale/table.rs`, `lookup.rs`), checked below against real nodes |\n\
         | claims, renewals, joins, messages, tries, memory | the shipped state machines (`dht`) in virtual time (`sim/src/scale/crowd.rs`) |\n\
         | cost at rest | the shipped driver over real sockets (`dht/driver/examples/crowd.rs`) |\n\n\
         Growth with the number of members N, fitted to the figures below from N = 1,000 on:\n",
        of("cpu"),
        of("cores"),
        of("memory_gb"),
        of("kernel"),
    );
    for (what, phase, key, name) in [
        ("kad", "", "hops", "hops of a lookup"),
        ("kad", "", "rounds", "round trips until a lookup is over"),
        ("kad", "", "requests", "questions of a lookup"),
        ("kad", "", "table", "entries of a routing table"),
        ("crowd", "join", "claim_ms", "median ms until a new member's address is granted"),
        ("crowd", "join", "tries", "addresses tried"),
        ("crowd", "steady", "messages", "register messages of a member in an hour"),
    ] {
        let (start, slope) = growth(&points(figures, what, phase, key));
        let sign = if slope < 0.0 { '-' } else { '+' };
        let _ = writeln!(page, "- {name}: {} {sign} {:.3} · log2 N", show(start), slope.abs());
    }
    let kademlia: Vec<String> = [1000.0, 10_000.0, 100_000.0].map(|n| show(kademlia(figures, n))).into();
    let _ = writeln!(
        page,
        "- Kademlia's messages of a member in an hour, by the model, at N = 1,000, 10,000 and 100,000: {}",
        kademlia.join(", ")
    );
    let memory = points(figures, "replica", "", "memory_kb");
    let (_, power) = crate::figures::fit(&memory.iter().map(|(n, kb)| (n.ln(), kb.ln())).collect::<Vec<_>>());
    let each = memory.last().map_or(f64::NAN, |(n, kb)| kb / n);
    let _ = writeln!(page, "- memory of a replica: N to the power of {power:.2}; {} kB for each member", show(each));
}

/// Questions and answers of refreshing the table every two minutes, and of hints: each is looked up, then stored at 20.
fn kademlia(figures: &[Figures], n: f64) -> f64 {
    let at = |points: Vec<(f64, f64)>| points.into_iter().find(|point| point.0 == n).map_or(f64::NAN, |point| point.1);
    let model = |key| at(points(figures, "kad", "", key));
    let hints = at(points(figures, "crowd", "steady", "published"));
    let hints = if hints.is_nan() { 0.0 } else { hints };
    2.0 * (model("requests") * model("refresh_lookups") * 30.0 + hints * (model("requests") + 20.0))
}

fn model(page: &mut String, figures: &[Figures]) {
    page.push_str(
        "\n## Lookups (a model)\n\n`scale kad N`. Buckets of 20, 5 questions at a time, as the driver sets libp2p; everybody \
         answers. Hops are questions\none after the other until the member that is looked for was named; the driver waits \
         until the whole lookup is over.\nKademlia refreshes its table every two minutes: one lookup of itself and one for \
         each bucket; the last column is what\nthat makes in an hour.\n\n\
         | members | table | hops, mean | 99 % | most | round trips until over, mean | questions, mean | 99 % | questions an hour for refreshing |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    let mut seen = Vec::new();
    for line in figures.iter().filter(|line| line.is("kad")) {
        let n = line.number("n");
        if seen.contains(&n.to_bits()) {
            continue;
        }
        seen.push(n.to_bits());
        let refresh = line.number("requests") * line.number("refresh_lookups") * 30.0;
        let cells = ["n", "table", "hops", "hops99", "hops_most", "rounds", "requests", "requests99"];
        let cells: Vec<String> = cells.iter().map(|key| show(line.number(key))).collect();
        let _ = writeln!(page, "| {} | {} |", cells.join(" | "), show(refresh));
    }
    page.push_str("\n![hops](scale/hops.svg) ![questions](scale/lookup.svg)\n");
}

fn check(page: &mut String, figures: &[Figures]) {
    let _ = write!(
        page,
        "\n### Checked against real nodes\n\nReal nodes in one process look for somebody who does not exist, which is the \
         driver's own way to a member whose address\nnobody has told (`QueryStats` of libp2p). The command fails if the \
         model is off by more than {} %.\nlibp2p does not tell hops, so what is compared is questions and table sizes; the \
         lookup's rules are libp2p-kad 0.49's.\n\
         Where fewer than {} % of the questions were answered, because the nodes had too little of the machine, only the tables \
         count.\n\n\
         | nodes | questions, real (standard deviation) | answered | model | difference | table, real | model |\n\
         |---|---|---|---|---|---|---|\n",
        show(BOUND * 100.0),
        show(ANSWERED * 100.0)
    );
    for row in compared(figures) {
        let _ = writeln!(
            page,
            "| {} | {} ({}) | {:.0} % | {} | {} | {} | {} |",
            show(row.nodes),
            show(row.real),
            show(row.spread),
            row.answered * 100.0,
            show(row.model),
            if row.counts() { format!("{:+.1} %", row.apart() * 100.0) } else { "does not count".to_owned() },
            show(row.table),
            show(row.model_table)
        );
    }
}

fn crowd(page: &mut String, figures: &[Figures]) {
    page.push_str(
        "\n## Joining, renewing, churn (shipped code in virtual time)\n\n`scale crowd N MINUTES`. Five founders are the \
         replicas of all 16 shards; everybody else redeems an invite of one use\nat them, then leases an address and a name \
         for an hour. All come within 16.5 minutes, the time from one renewal to the\nnext. Then everybody stays; then 30 % \
         go in an hour, half of them without a word, and come back after ten minutes in the\nmean. Delays are drawn for each \
         pair, one way 50 ms in the median; a write to disk takes 2 ms. Connections are made when\nthere is something to say \
         (one round trip for QUIC, one for the hellos) and closed after 20 s of silence. Nothing is lost,\nprocessors take no \
         time, and there is no Kademlia in it: hints published are counted, not carried.\nFigures by member and hour are of \
         the stretch that the row is about; `twice` counts addresses used by two.\n",
    );
    let rows: Vec<&Figures> = figures.iter().filter(|line| line.is("crowd")).collect();
    let columns: [Column; 16] = [
        ("members", "n", 1.0),
        ("range", "range", 1.0),
        ("stretch", "phase", 1.0),
        ("minutes", "seconds", 60.0),
        ("claims", "claims", 1.0),
        ("claim, median ms", "claim_ms", 1.0),
        ("99 %", "claim99_ms", 1.0),
        ("tries, mean", "tries", 1.0),
        ("most", "tries_most", 1.0),
        ("join, median ms", "join_ms", 1.0),
        ("messages / member·h", "messages", 1.0),
        ("kB / member·h", "bytes", 1000.0),
        ("connections / member·h", "connections", 1.0),
        ("hints / member·h", "published", 1.0),
        ("failed", "failed", 1.0),
        ("twice", "twice", 1.0),
    ];
    table(page, &rows, &columns);
    page.push_str(
        "\nWhat that is for one of the five replicas. The driver takes 1,024 connections at most, so more than that do not \
         come at once\nin real life.\n",
    );
    let columns: [Column; 6] = [
        ("members", "n", 1.0),
        ("stretch", "phase", 1.0),
        ("messages / s", "replica_messages_s", 1.0),
        ("writes waited for / s", "replica_syncs_s", 1.0),
        ("most connections", "peak_links", 1.0),
        ("ignored so far, by all five", "ignored", 1.0),
    ];
    table(page, &rows, &columns);
    page.push_str("\n![claims](scale/claim.svg) ![tries](scale/tries.svg) ![messages](scale/messages.svg)\n");
}

fn idle(page: &mut String, rows: &[&Figures]) {
    let _ = write!(
        page,
        "\n## Real nodes at rest\n\nThe shipped driver, store and state machines, all nodes in one process, over loopback, \
         without mDNS: five founders, the others\njoined with invites; each leases an address and a name. Measured for {REST} \
         s, from 150 s after the last one came, in a network\nnamespace of their own. Packets and bytes are what was sent, UDP \
         and TCP. The stores are in memory:\none disk under all of them would be what is measured. \"Granted\" counts the \
         two claims of each node that were answered within the\n4 s of a claim's patience while everybody joined; the others \
         are got in the background.\n",
    );
    let columns: [Column; 9] = [
        ("nodes", "n", 1.0),
        ("s until all joined", "joined_s", 1.0),
        ("granted", "granted", 1.0),
        ("memory each, MB", "memory_kb", 1024.0),
        ("connections each", "links", 1.0),
        ("UDP packets / min, each", "packets", 1.0),
        ("TCP segments / min, each", "tcp", 1.0),
        ("kB / min, each", "bytes", 1000.0),
        ("processor ms / min, each", "cpu_ms", 1.0),
    ];
    table(page, rows, &columns);
    page.push_str("\n![at rest](scale/idle.svg)\n");
}
