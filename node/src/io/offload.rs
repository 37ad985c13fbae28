//! Whether the kernel may cut trains of datagrams for us (UDP segmentation offload).
//!
//! It is asked for where the kernel has it, and given up for the life of the process when it refuses. Linux 7.0 to 7.1.4 spoils
//! the headers of trains whose last datagram is as long as the others, on some network cards, and nothing here can see that:
//! there those go one by one, unless `OVERLAY_UDP_OFFLOAD=on` says otherwise. `off` has all go one by one, on any kernel.

use std::env;

/// The variable that overrules us.
pub(crate) const VARIABLE: &str = "OVERLAY_UDP_OFFLOAD";
/// First and last (fixed by "udp: Fix UDP length on last GSO_PARTIAL segment", 7.1.5).
const SPOILS: [[u32; 3]; 2] = [[7, 0, 0], [7, 1, 4]];

/// Why the kernel does not cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// The variable says so.
    Told,
    /// This kernel spoils what it cuts.
    Spoils(String),
}

/// What is to be done here: by the variable, else by the kernel's release.
pub(crate) fn doubt() -> Option<Doubt> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    judge(env::var(VARIABLE).ok().as_deref(), &release)
}

fn judge(told: Option<&str>, release: &str) -> Option<Doubt> {
    match told {
        Some("off") => Some(Doubt::Told),
        Some("on") => None,
        Some(_) | None => {
            let version = version(release)?;
            (SPOILS[0] <= version && version <= SPOILS[1]).then(|| Doubt::Spoils(release.into()))
        }
    }
}

/// Of `7.0.14-pve`, say. What is not there counts as zero.
fn version(release: &str) -> Option<[u32; 3]> {
    let numbers = release.split(|other: char| !other.is_ascii_digit() && other != '.').next()?;
    let mut parts = numbers.split('.').map(str::parse::<u32>);
    let major = parts.next()?.ok()?;
    let mut next = || parts.next().and_then(Result::ok).unwrap_or(0);
    Some([major, next(), next()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_spoil_trains_are_not_asked_for_them() {
        for release in ["7.0.0", "7.0.2-6-pve", "7.0.0-22-generic", "7.1", "7.1.4", "7.1.0-rc1"] {
            assert_eq!(judge(None, release), Some(Doubt::Spoils(release.into())), "{release}");
            assert_eq!(judge(Some("on"), release), None);
        }
        for release in ["6.18.44-fc", "5.15.0-91-generic", "7.1.5", "7.2.0-rc1", "8.0", "", "unknown"] {
            assert_eq!(judge(None, release), None, "{release}");
            assert_eq!(judge(Some("off"), release), Some(Doubt::Told));
        }
    }
}
