//! The name a client gives itself, made safe for a zone. Names are hostile input: scripts have run what they held.

use crate::option::{CLIENT_FQDN, HOST_NAME, Options};

/// Names that clients would look up for other reasons, and whoever held one would be believed.
const RESERVED: [&str; 5] = ["localhost", "localdomain", "wpad", "isatap", "local"];

/// The flag of option 81 that says the name is in DNS wire form (RFC 4702 §2.1).
const WIRE_FORM: u8 = 0x04;

/// The client's name as one lower-case label: from option 81 if it sent one, else from option 12 (RFC 4702 §3.1).
pub(crate) fn of_client(options: &Options) -> Option<String> {
    match options.bytes(CLIENT_FQDN) {
        Some([flags, _, _, name @ ..]) if flags & WIRE_FORM != 0 => label(first_wire_label(name)?),
        Some([_, _, _, name @ ..]) => label(name),
        Some(_) => None,
        None => label(options.bytes(HOST_NAME)?),
    }
}

fn first_wire_label(name: &[u8]) -> Option<&[u8]> {
    let (length, rest) = name.split_first()?;
    rest.get(..usize::from(*length))
}

/// The first label of `name`, if it is one that RFC 1123 §2.1 allows and that means nothing else.
fn label(name: &[u8]) -> Option<String> {
    // Some clients end the text with a NUL (RFC 2132 §2 tells servers to remove it).
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    if name.len() > 255 {
        return None;
    }
    let first = name.split(|byte| *byte == b'.').next()?;
    let allowed = first.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
    let inner = !first.starts_with(b"-") && !first.ends_with(b"-");
    if first.is_empty() || first.len() > 63 || !allowed || !inner {
        return None;
    }
    let label = String::from_utf8(first.to_ascii_lowercase()).ok()?;
    (!RESERVED.contains(&label.as_str()) && !looks_computed(&label)).then_some(label)
}

/// Whether the name is of the form that stands for an address, as `c010064000007`: it is not for clients to take.
fn looks_computed(label: &str) -> bool {
    label.len() == 13 && label.strip_prefix('c').is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::option::{OPTIONS_AT, push};

    fn name_of(code: u8, value: &[u8]) -> Option<String> {
        let mut message = vec![0; OPTIONS_AT];
        push(&mut message, code, value);
        of_client(&Options::parse(&message).unwrap())
    }

    #[test]
    fn an_ordinary_name_is_taken_in_lower_case_without_its_domain() {
        assert_eq!(name_of(HOST_NAME, b"Web-1.example.org").as_deref(), Some("web-1"));
        assert_eq!(name_of(HOST_NAME, b"db\0").as_deref(), Some("db"));
    }

    #[test]
    fn names_that_are_no_labels_or_mean_something_else_are_not_taken() {
        let bad: [&[u8]; 14] = [
            b"",
            b"\0",
            b".",
            b"../../x",
            b"a b",
            b"$(reboot)",
            b"a\0b",
            b"-a",
            b"a-",
            b"\xff\xfe",
            b"localhost.localdomain",
            b"WPAD",
            b"c010064000007",
            &[b'a'; 64],
        ];
        for name in bad {
            assert_eq!(name_of(HOST_NAME, name), None, "{}", name.escape_ascii());
        }
        assert_eq!(name_of(HOST_NAME, &[b"a.".as_slice(), &[b'b'; 298]].concat()), None);
        assert_eq!(name_of(HOST_NAME, &[b'a'; 63]), Some("a".repeat(63)));
    }

    #[test]
    fn a_qualified_name_is_read_in_both_its_forms() {
        assert_eq!(name_of(CLIENT_FQDN, b"\x05\0\0\x03Web\x03lan\0").as_deref(), Some("web"));
        assert_eq!(name_of(CLIENT_FQDN, b"\x04\0\0\x03web").as_deref(), Some("web"));
        assert_eq!(name_of(CLIENT_FQDN, b"\x01\0\0web.lan").as_deref(), Some("web"));
        for cut in [&b""[..], b"\x04", b"\x04\0\0", b"\x04\0\0\x09web", b"\x04\0\0\0"] {
            assert_eq!(name_of(CLIENT_FQDN, cut), None, "{}", cut.escape_ascii());
        }
    }

    #[test]
    fn the_qualified_name_wins_over_the_host_name() {
        let mut message = vec![0; OPTIONS_AT];
        push(&mut message, HOST_NAME, b"short");
        push(&mut message, CLIENT_FQDN, b"\0\0\0full.lan");
        assert_eq!(of_client(&Options::parse(&message).unwrap()).as_deref(), Some("full"));
    }
}
