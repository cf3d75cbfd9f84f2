//! `MultiHook`: several programs at one place, in order. Readers run one packed array; edits go through `mprog`, which judges them, and are published
//! as a whole. Both arrays exist from the start: an edit allocates nothing but the counters of a program that is new.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use ring3_mprog::{Anchor, Entry, Mprog, Query, QueryResult};
use ring3_objects::{Error, Program};
use ring3_runtime::ProgObject;
use ring3_sync::{RcuPair, rcu};
use ring3_uapi::{Errno, limits::MPROG_MAX};

/// A program as an entry of a hook: equal only to itself.
#[derive(Clone)]
pub struct Held(pub Arc<Program>);

impl PartialEq for Held {
    fn eq(&self, other: &Held) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}#{}", self.0.name(), self.0.id())
    }
}

/// How often a program ran, and how often the chain stopped there.
#[derive(Debug, Default)]
pub struct Counts {
    runs: AtomicU64,
    stops: AtomicU64,
}

impl Counts {
    pub(crate) fn count_run(&self) {
        self.runs.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_stop(&self) {
        self.stops.fetch_add(1, Ordering::Relaxed);
    }

    /// Packets it ran over.
    pub fn runs(&self) -> u64 {
        self.runs.load(Ordering::Relaxed)
    }

    /// Packets that went no further along the chain.
    pub fn stops(&self) -> u64 {
        self.stops.load(Ordering::Relaxed)
    }
}

/// One program of the array that packets run through.
#[derive(Clone)]
pub struct HookSlot {
    /// The program.
    pub prog: Arc<Program>,
    /// The link that holds it.
    pub link: Option<u32>,
    /// What it did.
    pub counts: Arc<Counts>,
}

impl HookSlot {
    pub(crate) fn new(prog: &Arc<Program>, link: Option<u32>) -> HookSlot {
        HookSlot {
            prog: Arc::clone(prog),
            link,
            counts: Arc::default(),
        }
    }
}

/// A hook for several programs.
pub struct MultiHook {
    entries: Mutex<Mprog<Held, u32>>,
    slots: RcuPair<Vec<HookSlot>>,
}

impl Default for MultiHook {
    fn default() -> Self {
        MultiHook {
            entries: Mutex::new(Mprog::new()),
            slots: RcuPair::new([(); 2].map(|()| Vec::with_capacity(MPROG_MAX))),
        }
    }
}

impl MultiHook {
    /// Attaches a program, by itself or held by a link.
    ///
    /// # Errors
    /// As [`Mprog::attach`]. EBUSY: inside of a program run.
    pub fn attach(
        &self,
        prog: &Arc<Program>,
        link: Option<u32>,
        anchor: &Anchor<Held, u32>,
        expected_revision: Option<u64>,
    ) -> Result<(), Error> {
        let mut entries = self.entries.lock();
        let entry = Entry {
            prog: Held(Arc::clone(prog)),
            link,
        };
        let pending = entries
            .attach(entry, anchor, expected_revision)
            .map_err(|errno| refused(errno, "attach", Some(prog)))?;
        self.publish(pending.entries())?;
        let removed = pending.commit();
        drop(entries);
        drop(removed);
        Ok(())
    }

    /// Detaches a program, or what stands at the anchor's place. An emptied hook is forgotten, and its revision with it.
    ///
    /// # Errors
    /// As [`Mprog::detach`]. EBUSY: inside of a program run.
    pub fn detach(
        &self,
        prog: Option<&Arc<Program>>,
        link: Option<u32>,
        anchor: &Anchor<Held, u32>,
        expected_revision: Option<u64>,
    ) -> Result<(), Error> {
        let mut entries = self.entries.lock();
        let wanted = prog.map(|prog| Entry {
            prog: Held(Arc::clone(prog)),
            link,
        });
        let pending = entries
            .detach(wanted.as_ref(), anchor, expected_revision)
            .map_err(|errno| refused(errno, "detach", prog))?;
        self.publish(pending.entries())?;
        let removed = pending.commit();
        if entries.entries().is_empty() {
            entries.reset();
        }
        drop(entries);
        drop(removed);
        Ok(())
    }

    /// Gives a link's entry another program.
    ///
    /// # Errors
    /// As [`Mprog::update_link`]. EBUSY: inside of a program run.
    pub fn update_link(
        &self,
        link: u32,
        from: &Arc<Program>,
        to: &Arc<Program>,
    ) -> Result<(), Error> {
        let mut entries = self.entries.lock();
        let pending = entries
            .update_link(link, Held(Arc::clone(from)), Held(Arc::clone(to)))
            .map_err(|errno| refused(errno, "link update", Some(to)))?;
        self.publish(pending.entries())?;
        let removed = pending.commit();
        drop(entries);
        drop(removed);
        Ok(())
    }

    /// Detaches everything, links too: the device is gone.
    pub(crate) fn clear(&self) -> Result<(), Error> {
        let mut entries = self.entries.lock();
        self.publish(&[])?;
        let removed = std::mem::take(&mut *entries);
        drop(entries);
        drop(removed);
        Ok(())
    }

    /// Revision, count and entries.
    ///
    /// # Errors
    /// As [`Mprog::query`].
    pub fn query(&self, query: &Query) -> Result<QueryResult<Held, u32>, Errno> {
        self.entries.lock().query(query)
    }

    /// Number of edits since the hook was last empty, plus 1.
    pub fn revision(&self) -> u64 {
        self.entries.lock().revision()
    }

    /// The programs in the order they run now.
    pub fn slots(&self) -> Vec<HookSlot> {
        self.slots.read(&rcu::read()).clone()
    }

    /// Runs `each` over the slots until it says to stop, without taking a reference: what a packet does. The array is the same to the end.
    #[inline]
    pub(crate) fn run(&self, mut each: impl FnMut(&HookSlot) -> bool) {
        let section = rcu::read();
        for slot in self.slots.read(&section) {
            if !each(slot) {
                return;
            }
        }
    }

    fn publish(&self, entries: &[Entry<Held, u32>]) -> Result<(), Error> {
        let write = |old: &Vec<HookSlot>, new: &mut Vec<HookSlot>| {
            new.clear();
            new.extend(entries.iter().map(|entry| {
                let is_same = |slot: &&HookSlot| Arc::ptr_eq(&slot.prog, &entry.prog.0);
                let known = old.iter().find(is_same);
                HookSlot {
                    prog: Arc::clone(&entry.prog.0),
                    link: entry.link,
                    counts: known.map_or_else(Arc::default, |slot| Arc::clone(&slot.counts)),
                }
            }));
            Ok(())
        };
        self.slots.edit(write, Vec::clear)
    }
}

pub(crate) fn refused(errno: Errno, what: &str, prog: Option<&Arc<Program>>) -> Error {
    let name = prog.map_or("no program", |prog| prog.name());
    Error::new(errno, format!("{what} of '{name}'"))
}
