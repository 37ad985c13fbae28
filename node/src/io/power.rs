//! What this machine runs on, by what the kernel says of its power supplies (Documentation/ABI/testing/sysfs-class-power).

use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;

/// Where the kernel lists them.
const SUPPLIES: &str = "/sys/class/power_supply";
/// How often they are looked at. Nothing hurries: views change every ten minutes at most for that.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What a machine runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Power {
    /// The mains, or something that does not say.
    Mains,
    /// A battery that gets emptier.
    Battery,
}

/// Looks at once and then now and then, for as long as somebody wants to know.
pub(crate) fn watch() -> watch::Receiver<Power> {
    let (sender, power) = watch::channel(look(Path::new(SUPPLIES)));
    tokio::spawn(async move {
        let mut turn = tokio::time::interval(LOOK_EVERY);
        turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !sender.is_closed() {
            turn.tick().await;
            // A battery may take its firmware a while to ask.
            let Ok(seen) = tokio::task::spawn_blocking(|| look(Path::new(SUPPLIES))).await else { return };
            sender.send_if_modified(|known| std::mem::replace(known, seen) != seen);
        }
    });
    power
}

/// The machine is on battery if one of its batteries gets emptier and no supply from outside is connected. Whatever cannot be
/// read does not count: a machine without a battery often lists nothing at all.
fn look(supplies: &Path) -> Power {
    let Ok(entries) = std::fs::read_dir(supplies) else { return Power::Mains };
    let (mut fed, mut drained) = (false, false);
    for supply in entries.flatten().map(|entry| entry.path()) {
        match Supply::read(&supply) {
            Some(Supply::Outside { connected }) => fed |= connected,
            Some(Supply::Battery { drained: this }) => drained |= this,
            None => {}
        }
    }
    if drained && !fed { Power::Battery } else { Power::Mains }
}

/// What one entry says.
enum Supply {
    Outside { connected: bool },
    Battery { drained: bool },
}

impl Supply {
    fn read(supply: &Path) -> Option<Self> {
        let says = |attribute: &str| std::fs::read_to_string(supply.join(attribute)).map(|text| text.trim().to_owned());
        // Those of a mouse or a headset.
        if says("scope").is_ok_and(|scope| scope == "Device") {
            return None;
        }
        match says("type").ok()?.as_str() {
            // 2 is online with a voltage of its choice.
            "Mains" | "USB" | "Wireless" => Some(Self::Outside { connected: says("online").is_ok_and(|it| it != "0") }),
            "Battery" | "UPS" => {
                let there = says("present").map_or(true, |it| it != "0");
                Some(Self::Battery { drained: there && says("status").is_ok_and(|it| it == "Discharging") })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    struct Supplies(PathBuf);

    impl Supplies {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("overlay-power-{}-{test}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn set(&self, supply: &str, attributes: &[(&str, &str)]) {
            let folder = self.0.join(supply);
            std::fs::create_dir_all(&folder).unwrap();
            for (name, value) in attributes {
                std::fs::write(folder.join(name), format!("{value}\n")).unwrap();
            }
        }
    }

    impl Drop for Supplies {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_machine_that_lists_nothing_is_on_mains() {
        let supplies = Supplies::new("nothing");
        assert_eq!(look(&supplies.0), Power::Mains);
        assert_eq!(look(&supplies.0.join("not-there")), Power::Mains);
        supplies.set("AC", &[("type", "Mains"), ("online", "1")]);
        assert_eq!(look(&supplies.0), Power::Mains);
    }

    #[test]
    fn a_laptop_is_on_battery_once_its_plug_is_pulled() {
        let supplies = Supplies::new("laptop");
        let battery = |status| supplies.set("BAT0", &[("type", "Battery"), ("present", "1"), ("status", status)]);
        supplies.set("AC", &[("type", "Mains"), ("online", "1")]);
        battery("Charging");
        assert_eq!(look(&supplies.0), Power::Mains);
        supplies.set("AC", &[("online", "0")]);
        battery("Discharging");
        assert_eq!(look(&supplies.0), Power::Battery);
        // A weak charger slows the emptying down, and the machine is fed all the same.
        supplies.set("ucsi-source-psy", &[("type", "USB"), ("online", "1")]);
        assert_eq!(look(&supplies.0), Power::Mains);
        supplies.set("ucsi-source-psy", &[("online", "0")]);
        assert_eq!(look(&supplies.0), Power::Battery);
        battery("Not charging");
        assert_eq!(look(&supplies.0), Power::Mains);
    }

    #[test]
    fn a_second_battery_and_one_that_was_taken_out_count_for_what_they_are() {
        let supplies = Supplies::new("two");
        supplies.set("BAT0", &[("type", "Battery"), ("present", "0"), ("status", "Discharging")]);
        supplies.set("BAT1", &[("type", "Battery"), ("status", "Full")]);
        assert_eq!(look(&supplies.0), Power::Mains);
        supplies.set("BAT1", &[("status", "Discharging")]);
        assert_eq!(look(&supplies.0), Power::Battery);
    }

    #[test]
    fn the_battery_of_a_mouse_is_none_of_the_machines() {
        let supplies = Supplies::new("mouse");
        let of_a_mouse = [("type", "Battery"), ("scope", "Device"), ("status", "Discharging")];
        supplies.set("hidpp_battery_0", &of_a_mouse);
        assert_eq!(look(&supplies.0), Power::Mains);
        supplies.set("ups", &[("type", "UPS"), ("status", "Discharging")]);
        assert_eq!(look(&supplies.0), Power::Battery);
    }

    #[test]
    fn what_cannot_be_read_does_not_count() {
        let supplies = Supplies::new("odd");
        supplies.set("empty", &[]);
        supplies.set("strange", &[("type", "Fuel cell"), ("status", "Discharging")]);
        supplies.set("mute", &[("type", "Battery")]);
        std::fs::write(supplies.0.join("file"), "x").unwrap();
        std::fs::create_dir(supplies.0.join("binary")).unwrap();
        std::fs::write(supplies.0.join("binary/type"), [0xff, 0xfe]).unwrap();
        assert_eq!(look(&supplies.0), Power::Mains);
    }
}
