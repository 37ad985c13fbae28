//! The name an address has when its holder gave it none: `c010064000007` for 10.64.0.7.

use std::net::Ipv4Addr;

/// The name computed from an address: `c` and its four octets in three digits each.
pub fn computed_name(ip: Ipv4Addr) -> String {
    let [a, b, c, d] = ip.octets();
    format!("c{a:03}{b:03}{c:03}{d:03}")
}

/// The address a computed name stands for; none if the label is not exactly of that form.
pub fn parse_computed_name(label: &str) -> Option<Ipv4Addr> {
    let digits = label.strip_prefix(['c', 'C'])?;
    if digits.len() != 12 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut octets = [0; 4];
    for (octet, start) in octets.iter_mut().zip([0, 3, 6, 9]) {
        *octet = digits[start..start + 3].parse().ok()?;
    }
    Some(Ipv4Addr::from(octets))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_becomes_twelve_digits() {
        assert_eq!(computed_name(Ipv4Addr::new(10, 64, 0, 7)), "c010064000007");
        assert_eq!(computed_name(Ipv4Addr::BROADCAST), "c255255255255");
    }

    #[test]
    fn only_the_exact_form_is_an_address() {
        for label in ["", "c", "c01006400007", "c0100640000077", "d010064000007", "c256064000007", "c+10064000007"] {
            assert_eq!(parse_computed_name(label), None, "{label}");
        }
        assert_eq!(parse_computed_name("C010064000007"), Some(Ipv4Addr::new(10, 64, 0, 7)));
    }

    proptest! {
        #[test]
        fn there_and_back(ip: u32) {
            let ip = Ipv4Addr::from(ip);
            prop_assert_eq!(parse_computed_name(&computed_name(ip)), Some(ip));
        }

        #[test]
        fn any_text_is_read_without_panic(text: String) {
            let _ = parse_computed_name(&text);
        }
    }
}
