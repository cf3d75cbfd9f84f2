//! `MultiHook`: several programs at one place, in order. Readers run one packed array; edits go through `mprog` and publish a new one.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use ring3_mprog::{Anchor, Entry, Mprog, Query, QueryResult};
use ring3_objects::{Error, Program};
use ring3_runtime::ProgObject;
use ring3_sync::RcuCell;
use ring3_uapi::Errno;

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
    slots: RcuCell<Arc<[HookSlot]>>,
}

impl Default for MultiHook {
    fn default() -> Self {
        MultiHook {
            entries: Mutex::new(Mprog::new()),
            slots: RcuCell::new(Arc::from([])),
        }
    }
}

impl MultiHook {
    /// Attaches a program, by itself or held by a link.
    ///
    /// # Errors
    /// As [`Mprog::attach`].
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
        let removed = entries
            .attach(entry, anchor, expected_revision)
            .map_err(|errno| refused(errno, "attach", Some(prog)))?
            .commit();
        self.publish(&entries);
        drop(removed);
        Ok(())
    }

    /// Detaches a program, or what stands at the anchor's place.
    ///
    /// # Errors
    /// As [`Mprog::detach`].
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
        let removed = entries
            .detach(wanted.as_ref(), anchor, expected_revision)
            .map_err(|errno| refused(errno, "detach", prog))?
            .commit();
        if entries.entries().is_empty() {
            // An empty hook is forgotten, and its revision with it.
            *entries = Mprog::new();
        }
        self.publish(&entries);
        drop(removed);
        Ok(())
    }

    /// Gives a link's entry another program.
    ///
    /// # Errors
    /// As [`Mprog::update_link`].
    pub fn update_link(
        &self,
        link: u32,
        from: &Arc<Program>,
        to: &Arc<Program>,
    ) -> Result<(), Error> {
        let mut entries = self.entries.lock();
        let removed = entries
            .update_link(link, Held(Arc::clone(from)), Held(Arc::clone(to)))
            .map_err(|errno| refused(errno, "link update", Some(to)))?
            .commit();
        self.publish(&entries);
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

    /// The programs in the order they run; the array stays whole while it is held.
    pub fn slots(&self) -> Arc<[HookSlot]> {
        Arc::clone(&self.slots.load())
    }

    /// Runs `each` over the slots until it says to stop, without taking a reference: what a packet does.
    #[inline]
    pub(crate) fn run(&self, mut each: impl FnMut(&HookSlot) -> bool) {
        for slot in self.slots.load().iter() {
            if !each(slot) {
                return;
            }
        }
    }

    fn publish(&self, entries: &Mprog<Held, u32>) {
        let old = self.slots();
        let counts_of = |entry: &Entry<Held, u32>| {
            let known = old
                .iter()
                .find(|slot| Arc::ptr_eq(&slot.prog, &entry.prog.0));
            known.map_or_else(Arc::default, |slot| Arc::clone(&slot.counts))
        };
        let slots = entries.entries().iter().map(|entry| HookSlot {
            prog: Arc::clone(&entry.prog.0),
            link: entry.link,
            counts: counts_of(entry),
        });
        self.slots.store(slots.collect());
    }
}

pub(crate) fn refused(errno: Errno, what: &str, prog: Option<&Arc<Program>>) -> Error {
    let name = prog.map_or("no program", |prog| prog.name());
    Error::new(errno, format!("{what} of '{name}'"))
}
