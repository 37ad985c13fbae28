//! The text of resolv.conf(5), and our lines in it.
//!
//! Our server stands first and the system's own stay behind it, so that a machine whose daemon was killed still resolves,
//! if slowly. The last `search` line wins, so ours stands at the end and repeats what the line before it said. Both are
//! between marks; what anybody else writes around them is left alone.

use std::net::{IpAddr, Ipv4Addr};

/// Whose lines they are: one namespace on one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark<'a> {
    pub(super) zone: &'a str,
    pub(super) link: &'a str,
}

const BEGIN: &str = "# overlay begin ";
const END: &str = "# overlay end ";

impl Mark<'_> {
    fn begins(self, line: &str) -> bool {
        line == format!("{BEGIN}{} {}", self.zone, self.link)
    }

    fn around(self, line: &str) -> String {
        let Self { zone, link } = self;
        format!("{BEGIN}{zone} {link}\n{line}\n{END}{zone} {link}\n")
    }
}

/// A line of the file and what it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line<'a> {
    /// Anybody's.
    Theirs(&'a str),
    /// The first of a block of ours.
    Begin(&'a str),
    /// The one inside it.
    Inside(&'a str),
    /// The last.
    End(&'a str),
}

/// The file with our lines, once, however often they are added.
pub(super) fn add(text: &str, mark: Mark<'_>, server: Ipv4Addr) -> String {
    let mut rest = remove(text, mark);
    if !rest.is_empty() && !rest.ends_with('\n') {
        rest.push('\n');
    }
    let mut search = search(&rest);
    if !search.iter().any(|domain| domain.eq_ignore_ascii_case(mark.zone)) {
        search.push(mark.zone.to_owned());
    }
    let server = mark.around(&format!("nameserver {server}"));
    let search = mark.around(&format!("search {}", search.join(" ")));
    format!("{server}{rest}{search}")
}

/// The file without our lines, and without our zone in the search line of another namespace that was added after us.
pub(super) fn remove(text: &str, mark: Mark<'_>) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut ours = false;
    for line in lines(text) {
        match line {
            Line::Begin(line) => {
                ours = mark.begins(line.trim_end());
                if !ours {
                    kept.push_str(line);
                }
            }
            Line::Inside(_) | Line::End(_) if ours => {}
            Line::Inside(line) => kept.push_str(&without_domain(line, mark.zone)),
            Line::Theirs(line) | Line::End(line) => kept.push_str(line),
        }
    }
    kept
}

/// The servers somebody else put there.
pub(super) fn name_servers(text: &str) -> Vec<IpAddr> {
    let theirs = lines(text).into_iter().filter_map(|line| match line {
        Line::Theirs(line) => words(line, "nameserver")?.next()?.parse().ok(),
        Line::Begin(_) | Line::Inside(_) | Line::End(_) => None,
    });
    let mut servers: Vec<IpAddr> = Vec::new();
    for server in theirs {
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    servers
}

/// The search list in force: the last of `search` and `domain` (resolv.conf(5)).
fn search(text: &str) -> Vec<String> {
    let in_force = text.lines().rev().find_map(|line| words(line, "search").or_else(|| words(line, "domain")));
    in_force.map(|domains| domains.map(str::to_owned).collect()).unwrap_or_default()
}

/// The lines with their line ends. A block is its two marks and at most one line between them, so that a mark whose end
/// somebody deleted takes nothing of theirs along.
fn lines(text: &str) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    let mut rest = text.split_inclusive('\n').peekable();
    while let Some(line) = rest.next() {
        let Some(name) = line.trim_end().strip_prefix(BEGIN) else {
            lines.push(Line::Theirs(line));
            continue;
        };
        lines.push(Line::Begin(line));
        let ends = |line: &&str| line.trim_end().strip_prefix(END) == Some(name);
        if rest.peek().is_some_and(|line| !ends(line)) {
            lines.extend(
                rest.next_if(|line| words(line, "nameserver").or_else(|| words(line, "search")).is_some())
                    .map(Line::Inside),
            );
        }
        lines.extend(rest.next_if(ends).map(Line::End));
    }
    lines
}

/// The words behind a keyword at the start of the line.
fn words<'a>(line: &'a str, keyword: &str) -> Option<impl Iterator<Item = &'a str>> {
    let mut words = line.split_ascii_whitespace();
    (words.next() == Some(keyword)).then_some(words)
}

fn without_domain(line: &str, zone: &str) -> String {
    let Some(domains) = words(line, "search") else { return line.to_owned() };
    let left: Vec<&str> = domains.filter(|domain| !domain.eq_ignore_ascii_case(zone)).collect();
    if left.is_empty() { line.to_owned() } else { format!("search {}\n", left.join(" ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: Mark<'_> = Mark { zone: "home.internal", link: "ov-home" };
    const LAB: Mark<'_> = Mark { zone: "lab.internal", link: "ov-lab" };
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);

    #[test]
    fn our_server_stands_first_and_our_search_line_last() {
        assert_eq!(
            add("# by hand\nnameserver 192.0.2.53\nsearch example.com\n", HOME, SERVER),
            "# overlay begin home.internal ov-home\nnameserver 10.64.0.1\n# overlay end home.internal ov-home\n\
             # by hand\nnameserver 192.0.2.53\nsearch example.com\n\
             # overlay begin home.internal ov-home\nsearch example.com home.internal\n# overlay end home.internal ov-home\n"
        );
    }

    #[test]
    fn what_was_added_is_removed_whatever_was_there() {
        for text in
            ["", "nameserver 192.0.2.53\n", "domain a.example\n# x\n\n\n", "search a b\r\noptions edns0\n", "; c\n"]
        {
            let added = add(text, HOME, SERVER);
            assert_eq!(add(&added, HOME, SERVER), added, "once however often");
            assert_eq!(remove(&added, HOME), text);
        }
    }

    #[test]
    fn two_namespaces_leave_in_any_order() {
        let text = "nameserver 192.0.2.53\nsearch example.com\n";
        let both = add(&add(text, HOME, SERVER), LAB, SERVER);
        assert!(both.contains("\nsearch example.com home.internal lab.internal\n"));
        assert_eq!(remove(&both, LAB), add(text, HOME, SERVER));
        assert_eq!(remove(&both, HOME), add(text, LAB, SERVER));
        assert_eq!(remove(&remove(&both, HOME), LAB), text);
    }

    #[test]
    fn what_others_wrote_meanwhile_stays() {
        let added = add("nameserver 192.0.2.53\n", HOME, SERVER);
        let edited = format!("nameserver 192.0.2.1\n{added}options rotate\n");
        assert_eq!(remove(&edited, HOME), "nameserver 192.0.2.1\nnameserver 192.0.2.53\noptions rotate\n");
        let torn = added.replacen("# overlay end home.internal ov-home\n", "", 1);
        assert_eq!(remove(&torn, HOME), "nameserver 192.0.2.53\n");
        let emptied = added.replacen("nameserver 10.64.0.1\n# overlay end home.internal ov-home\n", "options x\n", 1);
        assert_eq!(remove(&emptied, HOME), "options x\nnameserver 192.0.2.53\n");
    }

    #[test]
    fn our_own_servers_are_nobodys_upstream() {
        let text = "nameserver 192.0.2.53 \n nameserver 2001:db8::1\nnameserver fe80::1%eth0\nnameserver\nnameserver x\nnameserver 192.0.2.53\n#nameserver 192.0.2.9\n";
        let expected: Vec<IpAddr> = vec!["192.0.2.53".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(name_servers(text), expected);
        assert_eq!(name_servers(&add(&add(text, HOME, SERVER), LAB, SERVER)), expected);
    }
}
