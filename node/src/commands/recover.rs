//! `overlay recover`: says what it costs, asks, and puts this machine in the place of replicas that are lost.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::Path;

use anyhow::bail;
use engine::{LostShard, Recovery};

use super::show::{duration, plural};
use crate::client::call_daemon;
use crate::report;
use crate::socket::Call;

pub(crate) fn run(state: &Path, namespace: &str, yes: bool, all: bool, json: bool) -> anyhow::Result<()> {
    let call = |confirmed| -> anyhow::Result<Recovery> {
        let call = Call::Recover { namespace: namespace.to_owned(), all, confirmed };
        Ok(serde_json::from_value(call_daemon(state, &call)?)?)
    };
    if !json {
        report::note("asking the replicas; those that do not answer within 8 s count as lost");
    }
    let mut recovery = call(yes)?;
    if json {
        report::line(&serde_json::to_string_pretty(&recovery)?);
        return Ok(());
    }
    if !recovery.done {
        lines(namespace, &recovery).iter().for_each(|line| report::line(line));
        if recovery.shards.is_empty() {
            return Ok(());
        }
        if !confirmed(namespace)? {
            bail!(
                "nothing was changed; to do it: overlay recover {namespace}{} --yes",
                if all { " --all" } else { "" }
            );
        }
        recovery = call(true)?;
    }
    let (count, of) = (recovery.shards.len(), recovery.of);
    report::line(&format!(
        "recovered {count} of {of} {} of {namespace}; nothing is granted there for {}: see overlay status",
        plural(usize::from(of), "shard"),
        duration(recovery.wait_s)
    ));
    report::note("open invites are void: make new ones with overlay invite");
    Ok(())
}

/// Asks at a terminal; elsewhere the answer is no.
fn confirmed(namespace: &str) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    report::note(&format!("type the name of the namespace to go on ({namespace}):"));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim() == namespace)
}

/// What would be done, what it costs, and for which shards.
fn lines(namespace: &str, recovery: &Recovery) -> Vec<String> {
    let Recovery { shards, of, waiting, wait_s, .. } = recovery;
    let mut lines = Vec::new();
    if *waiting > 0 {
        lines.push(format!("{waiting} of {of} shards were recovered on this machine already, and wait"));
    }
    if shards.is_empty() {
        let place = if *waiting > 0 { "everywhere else" } else { "everywhere" };
        lines.push(format!("nothing to recover in {namespace}: {place} a quorum of the replicas answers"));
        return lines;
    }
    lines.push(format!(
        "{} of {of} {} of {namespace} would be given to this machine alone:",
        shards.len(),
        plural(usize::from(*of), "shard")
    ));
    lines.extend(groups(shards));
    lines.push(format!(
        "- Nothing is granted or renewed there for {}: every lease of the lost replicas has run out by then.",
        duration(*wait_s)
    ));
    lines.push(
        "- What they granted and this machine does not know of is forgotten; whoever uses it has to claim anew.".into(),
    );
    lines.push("- Open invites become void. Members stay members.".into());
    lines.push(
        "- If enough of the silent ones can be brought back, do that instead: nothing is lost by waiting for them."
            .into(),
    );
    lines.push(
        "- If these replicas still run elsewhere, both sides give the same addresses away, and members who see this"
            .into(),
    );
    lines.push(
        "  side stop believing the other. Shut them down for good first; they come back as ordinary members.".into(),
    );
    lines
}

/// One line for all shards that are in the same place.
fn groups(shards: &[LostShard]) -> Vec<String> {
    let mut groups: BTreeMap<String, Vec<&LostShard>> = BTreeMap::new();
    for shard in shards {
        groups.entry(place(shard)).or_default().push(shard);
    }
    let text = |(place, shards): (String, Vec<&LostShard>)| {
        let leases: usize = shards.iter().map(|shard| shard.leases).sum();
        let (which, known) = (plural(shards.len(), "shard"), plural(leases, "lease"));
        let numbers = ranges(shards.iter().map(|shard| shard.shard));
        format!("  {which} {numbers} {place}; {leases} {known} known here")
    };
    groups.into_iter().map(text).collect()
}

/// Rising numbers, those that follow each other as one: `0-3,7`.
fn ranges(numbers: impl Iterator<Item = u16>) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            Some(_) | None => ranges.push((number, number)),
        }
    }
    let text = |(first, last): &(u16, u16)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

/// Which view a shard is in, and who of it answered.
fn place(shard: &LostShard) -> String {
    let LostShard { view, members, needed, .. } = shard;
    let answer = |answered| if answered { "answers" } else { "is silent" };
    let replicas: Vec<String> =
        members.iter().map(|member| format!("{} {}", member.peer_id, answer(member.answered))).collect();
    format!("(view {view}): {needed} of {} replicas have to answer; {}", members.len(), replicas.join(", "))
}

#[cfg(test)]
mod tests {
    use engine::AskedReplica;

    use super::*;

    fn lost(shard: u16, leases: usize) -> LostShard {
        let member = |name: &str, answered| AskedReplica { peer_id: name.into(), answered };
        let members = vec![member("one", true), member("two", false), member("three", false)];
        LostShard { shard, view: 4, members, needed: 2, leases }
    }

    #[test]
    fn shards_with_the_same_replicas_are_one_line() {
        let text = groups(&[lost(0, 1), lost(7, 2)]);
        let members = "one answers, two is silent, three is silent";
        assert_eq!(
            text,
            [format!("  shards 0,7 (view 4): 2 of 3 replicas have to answer; {members}; 3 leases known here")]
        );
    }

    #[test]
    fn what_it_costs_is_said_before_it_is_done() {
        let shards = vec![lost(0, 1)];
        let recovery = Recovery { done: false, shards, of: 1, waiting: 0, wait_s: 32 };
        let text = lines("lab", &recovery).join("\n");
        for part in
            ["1 of 1 shard of lab", "32 s", "forgotten", "invites become void", "Shut them down", "brought back"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        let nothing = Recovery { shards: Vec::new(), ..recovery };
        assert_eq!(lines("lab", &nothing).len(), 1);
    }
}
