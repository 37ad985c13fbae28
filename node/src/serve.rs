//! Whether this machine offers to keep a part of the register for others: not while it runs on battery, unless told otherwise.

use clap::ValueEnum;
use dht::Command;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use crate::io::power::Power;

/// When this machine offers itself as a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Serve {
    /// While it does not run on battery.
    #[default]
    Auto,
    /// On battery, too.
    Always,
    /// Not at all.
    Never,
}

impl Serve {
    /// Why it does not, at this moment.
    fn hindrance(self, power: Power) -> Option<&'static str> {
        match (self, power) {
            (Self::Auto, Power::Battery) => Some("it runs on battery (--serve always would make it one)"),
            (Self::Never, Power::Mains | Power::Battery) => Some("it was started with --serve never"),
            (Self::Auto, Power::Mains) | (Self::Always, Power::Mains | Power::Battery) => None,
        }
    }
}

/// Keeps the state machine informed.
pub(crate) struct Offer {
    serve: Serve,
    power: watch::Receiver<Power>,
    told: Option<&'static str>,
}

impl Offer {
    pub(crate) fn new(serve: Serve, power: watch::Receiver<Power>) -> Self {
        Self { serve, power, told: None }
    }

    /// A new state machine offers itself until it is told something else.
    pub(crate) fn begin_anew(&mut self) {
        self.told = None;
    }

    /// Says so if it is not as it was. Where the way is blocked, the next look comes soon; waiting here could wait for ever.
    pub(crate) fn tell(&mut self, commands: &mpsc::Sender<Command>) {
        let hindrance = self.serve.hindrance(*self.power.borrow_and_update());
        if hindrance != self.told && commands.try_send(Command::Serve { hindrance }).is_ok() {
            self.told = hindrance;
        }
    }

    /// Waits for news.
    pub(crate) async fn changed(&mut self) {
        if self.power.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(commands: &mut mpsc::Receiver<Command>) -> Vec<Option<&'static str>> {
        let said = std::iter::from_fn(|| commands.try_recv().ok());
        said.map(|command| {
            let Command::Serve { hindrance } = command else { panic!("{command:?}") };
            hindrance.map(|why| if why.contains("battery") { "battery" } else { why })
        })
        .collect()
    }

    #[test]
    fn only_what_changes_is_told_and_a_new_state_machine_is_told_again() {
        let (power, receiver) = watch::channel(Power::Mains);
        let (sender, mut commands) = mpsc::channel(8);
        let mut offer = Offer::new(Serve::Auto, receiver);
        offer.tell(&sender);
        assert_eq!(told(&mut commands), []);
        power.send_replace(Power::Battery);
        offer.tell(&sender);
        offer.tell(&sender);
        assert_eq!(told(&mut commands), [Some("battery")]);
        offer.begin_anew();
        offer.tell(&sender);
        power.send_replace(Power::Mains);
        offer.tell(&sender);
        assert_eq!(told(&mut commands), [Some("battery"), None]);
    }

    #[test]
    fn the_command_line_overrules_the_battery() {
        for (serve, on_mains, on_battery) in
            [(Serve::Auto, true, false), (Serve::Always, true, true), (Serve::Never, false, false)]
        {
            assert_eq!(serve.hindrance(Power::Mains).is_none(), on_mains, "{serve:?}");
            assert_eq!(serve.hindrance(Power::Battery).is_none(), on_battery, "{serve:?}");
        }
    }

    #[test]
    fn what_found_no_room_is_told_later() {
        let (_power, receiver) = watch::channel(Power::Battery);
        let (sender, mut commands) = mpsc::channel(1);
        sender.try_send(Command::Serve { hindrance: None }).unwrap();
        let mut offer = Offer::new(Serve::Auto, receiver);
        offer.tell(&sender);
        assert_eq!(told(&mut commands), [None]);
        offer.tell(&sender);
        assert_eq!(told(&mut commands), [Some("battery")]);
    }
}
