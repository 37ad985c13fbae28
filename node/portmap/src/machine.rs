//! [`Mapper`]: when the gateway is asked, whose answer counts, and what is deleted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use crate::belief::{self, LONGEST};
use crate::mapping::{Answer, Left, Mapping, Network, Owner, Port, Protocol, Refusal};
use crate::slot::{LEASE, RARELY, Slot, believed, pause};

/// How long a protocol that answers waits for one that is preferred.
const PREFER: Duration = Duration::from_millis(250);
/// How often a mapping is to be deleted, where the gateway does not answer.
const DELETIONS: u8 = 2;
/// What may be on disk: one for each port, and what was left with routers that keep it for ever. Beyond, the oldest are given up.
const MOST_LEFT: usize = 128;

/// Goes with an [`Action`], and comes back with its [`Answer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ActionId(pub u64);

/// What the mapper wants done, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Have this on disk before anything that follows. There is no answer.
    Save(Vec<Left>),
    /// Find out whether the gateway speaks the protocol, without making anything.
    Probe {
        /// For the answer.
        id: ActionId,
        /// Which.
        protocol: Protocol,
        /// Of whom.
        network: Network,
    },
    /// Ask for a mapping, or for one to last longer.
    Map {
        /// For the answer.
        id: ActionId,
        /// What to ask for, and whom.
        left: Left,
        /// For how long; `None` for ever.
        lease: Option<Duration>,
    },
    /// Delete a mapping.
    Delete {
        /// For the answer.
        id: ActionId,
        /// Which.
        left: Left,
        /// It was renewed in time, so it is ours; else the gateway has to show that first, where another one could have it.
        certain: bool,
    },
}

/// What is known of a protocol at this gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Waiting,
    Speaks,
    Silent(String),
}

#[derive(Clone, Copy, Debug)]
enum Pending {
    Probe(Protocol),
    Map { port: Port, left: u64 },
    Delete { left: u64 },
}

/// A mapping that may be there.
struct Kept {
    left: Left,
    /// The port that has it, or asks for it. Without one it is to be deleted.
    of: Option<Port>,
    certain: bool,
    deletions: u8,
    deleting: bool,
    /// When it has gone by itself.
    over: Option<Instant>,
}

/// Decides about the mappings of one machine. Inputs are `handle_*`; after each, take [`Mapper::poll_action`] until it is empty,
/// then wait for the next input or [`Mapper::poll_timeout`]. Calls that come late, early or twice do no harm.
pub struct Mapper {
    owner: Owner,
    pub(crate) network: Option<Network>,
    pub(crate) slots: BTreeMap<Port, Slot>,
    pub(crate) protocols: BTreeMap<Protocol, Asked>,
    /// Whether any of them has.
    answered: bool,
    /// Until when one that is preferred is waited for.
    decide: Option<Instant>,
    /// When to ask which protocols are spoken.
    probe: Option<Instant>,
    probes: u32,
    /// The gateway keeps UPnP mappings for ever.
    only_permanent: bool,
    kept: BTreeMap<u64, Kept>,
    saved: Vec<Left>,
    pending: BTreeMap<ActionId, Pending>,
    actions: VecDeque<Action>,
    next: u64,
    stopping: bool,
}

impl Mapper {
    /// `left` is what an earlier process on this state directory did not live to delete.
    pub fn new(owner: Owner, left: Vec<Left>, now: Instant) -> Self {
        let saved = left.clone();
        let mut mapper = Self {
            owner,
            network: None,
            slots: BTreeMap::new(),
            protocols: BTreeMap::new(),
            answered: false,
            decide: None,
            probe: None,
            probes: 0,
            only_permanent: false,
            kept: BTreeMap::new(),
            saved,
            pending: BTreeMap::new(),
            actions: VecDeque::new(),
            next: 0,
            stopping: false,
        };
        for left in left.into_iter().take(MOST_LEFT) {
            let id = mapper.keep(left, None);
            mapper.abandon(id, now);
        }
        mapper
    }

    /// The default route leads there, or nowhere.
    pub fn handle_network(&mut self, network: Option<Network>, now: Instant) {
        if self.network == network {
            return;
        }
        self.network = network;
        self.pending.clear();
        for kept in self.kept.values_mut() {
            // What was renewed there may have run out when this machine comes back.
            (kept.deleting, kept.deletions, kept.certain) = (false, 0, false);
        }
        let ports: Vec<Port> = self.slots.keys().copied().collect();
        self.give_up(&ports, now);
        self.slots = ports.into_iter().map(|port| (port, Slot::new(port, now))).collect();
        self.only_permanent = false;
        self.forget_protocols();
        (self.probe, self.probes) = (network.map(|_| now), 0);
        self.advance(now);
    }

    /// The ports that are to be mapped.
    pub fn handle_wanted(&mut self, wanted: &BTreeSet<Port>, now: Instant) {
        let unwanted: Vec<Port> = self.slots.keys().filter(|port| !wanted.contains(port)).copied().collect();
        self.give_up(&unwanted, now);
        for port in unwanted {
            self.slots.remove(&port);
        }
        for port in wanted {
            self.slots.entry(*port).or_insert_with(|| Slot::new(*port, now));
        }
        self.advance(now);
    }

    /// What came of an action.
    pub fn handle_answer(&mut self, id: ActionId, answer: Answer, now: Instant) {
        // An answer of a network that this machine has left.
        let Some(pending) = self.pending.remove(&id) else { return };
        match pending {
            Pending::Probe(protocol) => self.probed(protocol, answer, now),
            Pending::Map { port, left } => self.mapped(port, left, answer, now),
            Pending::Delete { left } => self.deleted(left, answer, now),
        }
        self.advance(now);
    }

    /// The machine was suspended or restored: what was mapped may be gone.
    pub fn handle_doubt(&mut self, now: Instant) {
        self.slots.values_mut().for_each(|slot| slot.hurry(now));
        self.probe = self.probe.map(|at| at.min(now));
        self.advance(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
    }

    /// Deletes everything, see [`Mapper::is_clean`].
    pub fn stop(&mut self, now: Instant) {
        self.stopping = true;
        let ports: Vec<Port> = self.slots.keys().copied().collect();
        self.give_up(&ports, now);
        self.slots.clear();
        self.advance(now);
    }

    /// After [`Mapper::stop`]: whether nothing is left to be done. What could not be deleted is on disk.
    pub fn is_clean(&self) -> bool {
        let works = |pending: &Pending| match pending {
            Pending::Probe(_) => false,
            Pending::Map { .. } | Pending::Delete { .. } => true,
        };
        self.stopping && !self.pending.values().any(works)
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Mapper::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let over = self.kept.values().filter_map(|kept| kept.over).min();
        let probe = self.probe.filter(|_| self.is_needed());
        let ends = self.slots.values().filter_map(|slot| Some(slot.held()?.until)).min();
        let due = self.slots.iter().filter(|(port, slot)| self.may_ask(port, slot)).map(|(_, slot)| slot.due()).min();
        [self.decide, over, probe, ends, due].into_iter().flatten().min()
    }

    /// What is mapped, in the order of ports.
    pub fn mappings(&self) -> impl Iterator<Item = &Mapping> {
        self.slots.values().filter_map(Slot::held)
    }

    /// Whether the gateway is to be asked about the port once it is due. Otherwise it waits for an answer, not for time.
    fn may_ask(&self, port: &Port, slot: &Slot) -> bool {
        let asks = |pending: &Pending| matches!(pending, Pending::Map { port: asked, .. } if asked == port);
        if self.network.is_none() || slot.asked || !self.is_tidy() || self.pending.values().any(asks) {
            return false;
        }
        let answering = self.answering();
        // One that has not answered yet may do better than those that refused.
        slot.held().is_some() || (!answering.is_empty() && (slot.whom(&answering).is_some() || !self.is_asking()))
    }

    /// Whether there is anything to ask the gateway for.
    fn is_needed(&self) -> bool {
        let here = |kept: &Kept| self.network.is_some_and(|network| network.gateway == kept.left.gateway);
        !self.stopping && (!self.slots.is_empty() || self.kept.values().any(|kept| kept.of.is_none() && here(kept)))
    }

    fn is_asking(&self) -> bool {
        self.protocols.values().any(|asked| *asked == Asked::Waiting)
    }

    /// Whether nothing is about to be deleted. A deletion could take what is mapped meanwhile with it.
    fn is_tidy(&self) -> bool {
        !self.kept.values().any(|kept| kept.deleting)
    }

    fn forget_protocols(&mut self) {
        self.protocols.clear();
        (self.answered, self.decide) = (false, None);
    }

    /// Does what is due.
    fn advance(&mut self, now: Instant) {
        self.kept.retain(|_, kept| kept.over.is_none_or(|over| over > now));
        self.decide = self.decide.filter(|at| *at > now && self.is_asking());
        let lost: BTreeSet<Protocol> = self.slots.values_mut().filter_map(|slot| slot.expire(now)).collect();
        for protocol in lost {
            if !self.holds_by(protocol) {
                self.mark_silent(protocol, "it did not renew the mappings".into());
                self.probe_again(now);
            }
        }
        self.abandon_unheld(now);
        if let Some(network) = self.network {
            self.delete_left(network);
            if self.is_needed() {
                self.probe(network, now);
                self.map(network, now);
            }
        }
        self.save();
    }

    /// What a port no longer holds, and does not ask for, is to be deleted.
    fn abandon_unheld(&mut self, now: Instant) {
        let mut lost = Vec::new();
        for slot in self.slots.values_mut().filter(|slot| slot.held().is_none() && !slot.asked) {
            lost.extend(slot.left.take());
        }
        for id in lost {
            if let Some(kept) = self.kept.get_mut(&id) {
                // Its time may be over, and another one may have it.
                kept.certain = false;
            }
            self.abandon(id, now);
        }
    }

    fn delete_left(&mut self, network: Network) {
        let due = |kept: &Kept, speaks: &dyn Fn(Protocol) -> bool| {
            let by_us = kept.left.local == network.local.addr() || kept.left.protocol == Protocol::Upnp;
            let ours = kept.of.is_none() && kept.left.gateway == network.gateway && by_us;
            ours && !kept.deleting && kept.deletions < DELETIONS && speaks(kept.left.protocol)
        };
        let speaks = |protocol| self.protocols.get(&protocol) == Some(&Asked::Speaks);
        let ids: Vec<u64> = self.kept.iter().filter(|(_, kept)| due(kept, &speaks)).map(|(id, _)| *id).collect();
        for left in ids {
            let id = self.pend(Pending::Delete { left });
            let Some(kept) = self.kept.get_mut(&left) else { continue };
            kept.deleting = true;
            kept.deletions = if self.stopping { DELETIONS } else { kept.deletions + 1 };
            self.actions.push_back(Action::Delete { id, left: kept.left, certain: kept.certain });
        }
    }

    fn probe(&mut self, network: Network, now: Instant) {
        if self.probe.is_none_or(|at| at > now) {
            return;
        }
        self.probe = None;
        self.forget_protocols();
        self.slots.values_mut().for_each(Slot::begin_anew);
        for protocol in Protocol::ALL {
            self.protocols.insert(protocol, Asked::Waiting);
            let id = self.pend(Pending::Probe(protocol));
            self.actions.push_back(Action::Probe { id, protocol, network });
        }
    }

    /// Those that answer, in order, once it is clear which is the best of them.
    fn answering(&self) -> Vec<Protocol> {
        let are =
            |wanted: Asked| self.protocols.iter().filter(move |(_, asked)| **asked == wanted).map(|(one, _)| *one);
        let speak: Vec<Protocol> = are(Asked::Speaks).collect();
        let better_may_come = are(Asked::Waiting).next().is_some_and(|waits| speak.first() > Some(&waits));
        if better_may_come && self.decide.is_some() { Vec::new() } else { speak }
    }

    fn map(&mut self, network: Network, now: Instant) {
        let due = |(port, slot): &(&Port, &Slot)| slot.due() <= now && self.may_ask(port, slot);
        let due: Vec<Port> = self.slots.iter().filter(due).map(|(port, _)| *port).collect();
        let answering = self.answering();
        let mut asks = Vec::new();
        for port in due {
            let Some(slot) = self.slots.get_mut(&port) else { continue };
            match slot.whom(&answering) {
                Some(protocol) => asks.extend(self.ask(port, protocol, network)),
                None => slot.rest(now),
            }
        }
        // On disk first, and all of them at once.
        self.save();
        self.actions.extend(asks);
    }

    fn ask(&mut self, port: Port, protocol: Protocol, network: Network) -> Option<Action> {
        let slot = self.slots.get_mut(&port)?;
        let left = Left {
            gateway: network.gateway,
            local: network.local.addr(),
            protocol,
            port,
            external: slot.wish(self.owner),
            owner: self.owner,
            permanent: protocol == Protocol::Upnp && self.only_permanent,
        };
        slot.asked = true;
        let before = slot.left;
        let kept = match before.and_then(|id| Some((id, self.kept.get_mut(&id)?))) {
            Some((id, kept)) => {
                kept.left = left;
                id
            }
            None => self.keep(left, Some(port)),
        };
        if let Some(slot) = self.slots.get_mut(&port) {
            slot.left = Some(kept);
        }
        let lease = (!left.permanent).then_some(LEASE);
        let id = self.pend(Pending::Map { port, left: kept });
        Some(Action::Map { id, left, lease })
    }

    fn probed(&mut self, protocol: Protocol, answer: Answer, now: Instant) {
        let doubt = |ip: Ipv4Addr| self.network.and_then(|network| belief::reach(ip, &network).err());
        let asked = match answer {
            Answer::Speaks(external) => match external.and_then(doubt) {
                Some(doubt) => Asked::Silent(doubt.to_string()),
                None => Asked::Speaks,
            },
            Answer::Silent(why) | Answer::Refused(Refusal::Other(why)) => Asked::Silent(why),
            Answer::Refused(Refusal::PortTaken | Refusal::OnlyPermanent) | Answer::Mapped { .. } | Answer::Deleted => {
                Asked::Silent("it answered something else".into())
            }
        };
        if asked == Asked::Speaks {
            if !std::mem::replace(&mut self.answered, true) {
                self.decide = Some(now + PREFER);
            }
            self.probes = 0;
        }
        self.protocols.insert(protocol, asked);
        self.probe_again(now);
    }

    /// Where nobody answers, asks again: soon if somebody did before, else rarely.
    fn probe_again(&mut self, now: Instant) {
        let silent = |asked: &Asked| matches!(asked, Asked::Silent(_));
        if self.probe.is_none() && self.protocols.values().all(silent) {
            let wait = if self.answered { pause(self.probes) } else { RARELY };
            self.probes += 1;
            self.probe = Some(now + wait);
        }
    }

    fn mark_silent(&mut self, protocol: Protocol, why: String) {
        if let Some(asked) = self.protocols.get_mut(&protocol) {
            *asked = Asked::Silent(why);
        }
    }

    fn mapped(&mut self, port: Port, left: u64, answer: Answer, now: Instant) {
        let Some(network) = self.network else { return };
        let Some(protocol) = self.kept.get(&left).map(|kept| kept.left.protocol) else { return };
        let Some(slot) = self.slots.get_mut(&port).filter(|slot| slot.left == Some(left)) else {
            // Nobody wants it any more.
            return self.abandon(left, now);
        };
        slot.asked = false;
        match answer {
            Answer::Mapped { external, lease } => match belief::granted(external, lease, &network) {
                Ok((reach, lease)) => {
                    let until = now + believed(lease);
                    let permanent = lease.is_none();
                    slot.hold(Mapping { port, external, reach, protocol, until, permanent }, now);
                    self.note_held(left, external, permanent);
                }
                Err(doubt) => self.fail(port, protocol, doubt.to_string(), now),
            },
            Answer::Refused(Refusal::OnlyPermanent) if !self.only_permanent => {
                self.only_permanent = true;
                slot.hurry(now);
                self.forget_refused(port, left);
            }
            Answer::Refused(Refusal::PortTaken) => {
                // What is there is somebody else's.
                slot.left = None;
                self.kept.remove(&left);
                if !slot.give_way(now) {
                    self.fail(port, protocol, "the router has given the port away".into(), now);
                }
            }
            Answer::Refused(Refusal::OnlyPermanent) => {
                self.fail(port, protocol, "the router refuses every lease".into(), now);
            }
            Answer::Refused(Refusal::Other(why)) => {
                self.forget_refused(port, left);
                self.fail(port, protocol, why, now);
            }
            Answer::Silent(why) => {
                let held = slot.held().is_some();
                self.fail(port, protocol, why.clone(), now);
                if !held && !self.holds_by(protocol) {
                    // First what may have been made all the same is deleted, and for that it has to count as speaking.
                    self.doubt(left, protocol, why, now);
                }
            }
            Answer::Speaks(_) | Answer::Deleted => {
                self.fail(port, protocol, "it answered something else".into(), now);
            }
        }
    }

    /// Nothing was made, so nothing is to be deleted.
    fn forget_refused(&mut self, port: Port, left: u64) {
        if let Some(slot) = self.slots.get_mut(&port).filter(|slot| slot.held().is_none()) {
            slot.left = None;
            self.kept.remove(&left);
        }
    }

    fn holds_by(&self, protocol: Protocol) -> bool {
        self.mappings().any(|mapping| mapping.protocol == protocol)
    }

    /// One that spoke is silent.
    fn doubt(&mut self, left: u64, protocol: Protocol, why: String, now: Instant) {
        self.abandon(left, now);
        if let Some(network) = self.network {
            self.delete_left(network);
        }
        self.mark_silent(protocol, why);
        self.probe_again(now);
    }

    fn fail(&mut self, port: Port, protocol: Protocol, why: String, now: Instant) {
        if let Some(slot) = self.slots.get_mut(&port) {
            slot.fail(protocol, why, now);
        }
    }

    fn note_held(&mut self, left: u64, external: SocketAddrV4, permanent: bool) {
        let Some(kept) = self.kept.get_mut(&left) else { return };
        (kept.left.external, kept.left.permanent, kept.certain) = (external.port(), permanent, true);
        (kept.of, kept.over) = (Some(kept.left.port), None);
    }

    fn deleted(&mut self, left: u64, answer: Answer, now: Instant) {
        let gone = match answer {
            Answer::Deleted => true,
            Answer::Speaks(_) | Answer::Mapped { .. } | Answer::Refused(_) | Answer::Silent(_) => false,
        };
        let Some(kept) = self.kept.get_mut(&left) else { return };
        kept.deleting = false;
        if gone {
            self.kept.remove(&left);
        } else if !kept.left.permanent {
            kept.over.get_or_insert(now + LONGEST);
        }
    }

    fn give_up(&mut self, ports: &[Port], now: Instant) {
        let ids: Vec<u64> = ports.iter().filter_map(|port| self.slots.get_mut(port)?.left.take()).collect();
        let asked: BTreeSet<u64> = self.pending.values().filter_map(asked_for).collect();
        // What is asked for right now is deleted once there is an answer.
        ids.into_iter().filter(|id| !asked.contains(id)).for_each(|id| self.abandon(id, now));
    }

    fn keep(&mut self, left: Left, of: Option<Port>) -> u64 {
        self.next += 1;
        let kept = Kept { left, of, certain: false, deletions: 0, deleting: false, over: None };
        self.kept.insert(self.next, kept);
        while self.kept.len() > MOST_LEFT {
            let Some(oldest) = self.kept.iter().find(|(_, kept)| kept.of.is_none()).map(|(id, _)| *id) else { break };
            self.kept.remove(&oldest);
        }
        self.next
    }

    /// A mapping is to be deleted.
    fn abandon(&mut self, id: u64, now: Instant) {
        let Some(kept) = self.kept.get_mut(&id) else { return };
        kept.of = None;
        if !kept.left.permanent {
            kept.over = Some(now + LONGEST);
        }
    }

    fn pend(&mut self, pending: Pending) -> ActionId {
        self.next += 1;
        self.pending.insert(ActionId(self.next), pending);
        ActionId(self.next)
    }

    fn save(&mut self) {
        let all: Vec<Left> = self.kept.values().map(|kept| kept.left).collect();
        if all != self.saved {
            self.saved.clone_from(&all);
            self.actions.push_back(Action::Save(all));
        }
    }
}

fn asked_for(pending: &Pending) -> Option<u64> {
    match pending {
        Pending::Map { left, .. } => Some(*left),
        Pending::Probe(_) | Pending::Delete { .. } => None,
    }
}
