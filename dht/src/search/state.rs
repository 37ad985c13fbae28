//! One state of the searched system: small numbers only, so that millions fit.
//!
//! Messages are not queued: what was once sent stays on the board for ever and can be delivered late, twice or never. So
//! a round is only its ballot, its answers up to now, and what was decided.

use super::pack::Bytes;

/// Most replicas, views, keys, rounds, operations, view proposals and owners of a scenario.
pub(super) const REPLICAS: usize = 5;
pub(super) const VIEWS: usize = 3;
pub(super) const KEYS: usize = 2;
pub(super) const ROUNDS: usize = 6;
pub(super) const OPS: usize = 8;
pub(super) const PROPOSALS: usize = 3;
pub(super) const OWNERS: usize = 2;

/// How a replica stands in a view, as it is stored; 0 for nothing stored.
pub(super) const TRANSFERRING: u8 = 1;
pub(super) const ACTIVE: u8 = 2;
pub(super) const WEDGED: u8 = 3;
pub(super) const RETIRED: u8 = 4;

/// One register at one replica in one view. A ballot is the view times 16 plus a number that is used once.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) promised: u8,
    pub(super) ballot: u8,
    pub(super) value: u8,
    pub(super) elapsed: u8,
    pub(super) base: u8,
}

/// A replica's place in one view, and its vote on the next.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Station {
    pub(super) standing: u8,
    pub(super) promised: u8,
    pub(super) ballot: u8,
    pub(super) next: u8,
}

/// One replica.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Replica {
    /// The newest view it knows.
    pub(super) knows: u8,
    pub(super) stations: [Station; VIEWS],
    pub(super) cells: [[Cell; KEYS]; VIEWS],
    pub(super) reboots: u8,
    /// Votes that its store counted; only where a store is set back.
    pub(super) votes: u8,
}

/// A replica's answer to a Prepare.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Promise {
    /// 0 none, 1 sent, 2 waits for the disk.
    pub(super) have: u8,
    pub(super) ballot: u8,
    pub(super) value: u8,
    pub(super) elapsed: u8,
    pub(super) at: u8,
    pub(super) votes: u8,
}

/// How far one key of a round has come.
pub(super) mod phase {
    /// No part of this round.
    pub(in crate::search) const NONE: u8 = 0;
    pub(in crate::search) const PREPARING: u8 = 1;
    /// Decided, and to be accepted.
    pub(in crate::search) const ACCEPTING: u8 = 2;
    /// Decided, and nothing to write.
    pub(in crate::search) const REFUSED: u8 = 3;
    /// The ballot is taken for being promised along with another's votes.
    pub(in crate::search) const RESERVED: u8 = 4;
    /// A quorum promised it with their votes.
    pub(in crate::search) const READY: u8 = 5;
    /// Can have no further effect.
    pub(in crate::search) const DEAD: u8 = 6;
}

/// What became of an operation.
pub(super) mod outcome {
    pub(in crate::search) const NONE: u8 = 0;
    pub(in crate::search) const GRANTED: u8 = 1;
    pub(in crate::search) const RELEASED: u8 = 2;
    pub(in crate::search) const TAKEN: u8 = 3;
    pub(in crate::search) const LOST: u8 = 4;
    pub(in crate::search) const STALE: u8 = 5;
    /// A settled value: nobody asked.
    pub(in crate::search) const SETTLED: u8 = 6;
}

/// One key's part in a round.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) phase: u8,
    /// The operation plus one, 0 while it is open, [`SETTLE`] for none.
    pub(super) op: u8,
    pub(super) outcome: u8,
    /// What is written; of a ready one what the promises told.
    pub(super) value: u8,
    pub(super) elapsed: u8,
    /// Of a ready one: the ballot of the value, and when it was counted.
    pub(super) ballot: u8,
    pub(super) at: u8,
    /// The round whose ballot is promised along, plus one.
    pub(super) next: u8,
    pub(super) promises: [Promise; REPLICAS],
    /// One bit for each replica: has voted; has voted, but not on disk yet; has promised the next ballot, too.
    pub(super) votes: u8,
    pub(super) unsynced: u8,
    pub(super) promised_next: u8,
}

/// The operation of an item that settles.
pub(super) const SETTLE: u8 = 0xff;

/// One ballot.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Round {
    pub(super) used: u8,
    pub(super) view: u8,
    /// The number within the ballot.
    pub(super) number: u8,
    /// Who runs it, where that matters.
    pub(super) coordinator: u8,
    pub(super) items: [Item; KEYS],
}

/// A proposal of a next view.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Proposal {
    pub(super) used: u8,
    pub(super) view: u8,
    /// Which choice of the scenario, plus one; 0 for none of its own.
    pub(super) own: u8,
    pub(super) sent: u8,
    /// Promise, ballot, choice.
    pub(super) promises: [(u8, u8, u8); REPLICAS],
    pub(super) votes: u8,
    /// Votes that wait for the disk.
    pub(super) unsynced: u8,
}

/// An operation that an owner made. What it is stands in the scenario.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Op {
    /// One bit for each view that it was signed for.
    pub(super) signed: u8,
    pub(super) t0: u8,
}

/// One owner.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) step: u8,
    pub(super) view: u8,
    /// Until when each key may be used, plus one; 0 for not at all.
    pub(super) until: [u8; KEYS],
    /// The newest operation on each key, plus one, if its result is waited for.
    pub(super) pending: [u8; KEYS],
    /// For which client it holds each key, where that may be another's, too.
    pub(super) client: [u8; KEYS],
    /// What is on disk, where that differs.
    pub(super) disk: [u8; KEYS],
    /// Operations that wait for the disk, as bits.
    pub(super) unsent: u8,
}

/// What was shown of a view that was still served, and is under way to the late member.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Copied {
    pub(super) view: u8,
    pub(super) cells: [Cell; KEYS],
    pub(super) at: u8,
}

/// The highest ballot in a view that a quorum accepted, and its value.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct Committed {
    pub(super) ballot: u8,
    pub(super) value: u8,
}

/// All of it.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) time: u8,
    /// Which choice became the next view, plus one. `decided[v]` is the successor of view v.
    pub(super) decided: [u8; VIEWS],
    pub(super) committed: [[Committed; KEYS]; VIEWS],
    pub(super) ops: [Op; OPS],
    pub(super) owners: [Owner; OWNERS],
    pub(super) rounds: [Round; ROUNDS],
    pub(super) proposals: [Proposal; PROPOSALS],
    pub(super) replicas: [Replica; REPLICAS],
    /// What is on their disks, where a scenario tells that from memory.
    pub(super) disks: [Replica; REPLICAS],
    /// The copy of the store that is set back, and how that stands: 0 no copy, 1 copy, 2 restored and asking, 3 back in
    /// service, 4 given up.
    pub(super) backup: Replica,
    pub(super) setback: u8,
    /// Votes of that store that each replica has seen.
    pub(super) seen: [u8; REPLICAS],
    pub(super) copied: [Copied; REPLICAS],
}

/// How much of a state a scenario uses: the rest stays zero and is not packed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) replicas: usize,
    pub(super) views: usize,
    pub(super) keys: usize,
    pub(super) ops: usize,
    pub(super) disks: bool,
    pub(super) setback: bool,
    pub(super) copied: bool,
    pub(super) shares: bool,
    pub(super) coordinators: bool,
}

impl State {
    /// Everything that belongs to no single replica.
    pub(super) fn header(&mut self, shape: &Shape, io: &mut impl Bytes) {
        io.byte(&mut self.time);
        for view in 0..shape.views {
            if view + 1 < shape.views {
                io.byte(&mut self.decided[view]);
                for key in 0..shape.keys {
                    let committed = &mut self.committed[view][key];
                    io.bytes([&mut committed.ballot, &mut committed.value]);
                }
            }
        }
        for op in &mut self.ops[..shape.ops] {
            io.bytes([&mut op.signed, &mut op.t0]);
        }
        for owner in &mut self.owners {
            io.bytes([&mut owner.step, &mut owner.view]);
            for key in 0..shape.keys {
                io.bytes([&mut owner.until[key], &mut owner.pending[key]]);
                if shape.shares {
                    io.byte(&mut owner.client[key]);
                }
                if shape.disks {
                    io.byte(&mut owner.disk[key]);
                }
            }
            if shape.disks {
                io.byte(&mut owner.unsent);
            }
        }
        for round in &mut self.rounds {
            io.byte(&mut round.used);
            if round.used == 0 {
                break;
            }
            round.header(shape, io);
        }
        for proposal in &mut self.proposals {
            io.byte(&mut proposal.used);
            if proposal.used == 0 {
                break;
            }
            io.bytes([&mut proposal.view, &mut proposal.own, &mut proposal.sent]);
        }
        if shape.setback {
            io.byte(&mut self.setback);
            self.backup.pack(shape, io);
        }
    }

    /// Everything that belongs to one replica: two that no view tells apart may change places.
    pub(super) fn column(&mut self, shape: &Shape, replica: usize, io: &mut impl Bytes) {
        self.replicas[replica].pack(shape, io);
        if shape.disks {
            self.disks[replica].pack(shape, io);
        }
        if shape.setback {
            io.byte(&mut self.seen[replica]);
        }
        if shape.copied {
            let copied = &mut self.copied[replica];
            io.bytes([&mut copied.view, &mut copied.at]);
            for cell in &mut copied.cells[..shape.keys] {
                cell.pack(io);
            }
        }
        for round in self.rounds.iter_mut().take_while(|round| round.used != 0) {
            for item in &mut round.items[..shape.keys] {
                item.column(shape, replica, io);
            }
        }
        for proposal in self.proposals.iter_mut().take_while(|proposal| proposal.used != 0) {
            io.bit(&mut proposal.votes, replica);
            if shape.disks {
                io.bit(&mut proposal.unsynced, replica);
            }
            let (have, ballot, next) = &mut proposal.promises[replica];
            io.bytes([have, ballot, next]);
        }
    }
}

impl Round {
    fn header(&mut self, shape: &Shape, io: &mut impl Bytes) {
        io.bytes([&mut self.view, &mut self.number]);
        if shape.coordinators {
            io.byte(&mut self.coordinator);
        }
        for item in &mut self.items[..shape.keys] {
            io.bytes([&mut item.phase, &mut item.op, &mut item.next]);
            if !matches!(item.phase, phase::NONE | phase::DEAD | phase::PREPARING) {
                io.bytes([&mut item.outcome, &mut item.value, &mut item.elapsed, &mut item.ballot, &mut item.at]);
            }
        }
    }
}

impl Item {
    fn column(&mut self, shape: &Shape, replica: usize, io: &mut impl Bytes) {
        match self.phase {
            phase::PREPARING => {
                let promise = &mut self.promises[replica];
                io.bytes([&mut promise.have, &mut promise.ballot, &mut promise.value]);
                io.bytes([&mut promise.elapsed, &mut promise.at]);
                if shape.setback {
                    io.byte(&mut promise.votes);
                }
            }
            phase::ACCEPTING => {
                io.bit(&mut self.votes, replica);
                io.bit(&mut self.promised_next, replica);
                if shape.disks {
                    io.bit(&mut self.unsynced, replica);
                }
                if shape.setback {
                    io.byte(&mut self.promises[replica].votes);
                }
            }
            _ => {}
        }
    }
}

impl Cell {
    fn pack(&mut self, io: &mut impl Bytes) {
        io.bytes([&mut self.promised, &mut self.ballot, &mut self.value, &mut self.elapsed, &mut self.base]);
    }
}

impl Replica {
    fn pack(&mut self, shape: &Shape, io: &mut impl Bytes) {
        io.byte(&mut self.reboots);
        if shape.setback {
            io.byte(&mut self.votes);
        }
        if shape.views > 1 {
            io.byte(&mut self.knows);
        }
        for view in 0..shape.views {
            if shape.views > 1 {
                let station = &mut self.stations[view];
                io.bytes([&mut station.standing, &mut station.promised, &mut station.ballot, &mut station.next]);
            }
            for cell in &mut self.cells[view][..shape.keys] {
                cell.pack(io);
            }
        }
    }
}
