//! The classic classifier of tc: filters by priority and handle, classid results or direct action, action programs.
//!
//! # Source
//! tc-bpf(8), tc-actions(8); verdicts as Linux 6.18 takes them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use ring3_helpers::packet::{PacketProgram, Skb};
use ring3_objects::{Error, Program};
use ring3_sync::{RcuPair, rcu};
use ring3_uapi::{Errno, ProgType};

use crate::{device::bump, hook::Counts};

/// `TC_ACT_*`
#[expect(missing_docs, reason = "named as in linux/pkt_cls.h")]
pub mod act {
    pub const UNSPEC: i32 = -1;
    pub const OK: i32 = 0;
    pub const RECLASSIFY: i32 = 1;
    pub const SHOT: i32 = 2;
    pub const PIPE: i32 = 3;
    pub const STOLEN: i32 = 4;
    pub const QUEUED: i32 = 5;
    pub const REPEAT: i32 = 6;
    pub const REDIRECT: i32 = 7;
    pub const TRAP: i32 = 8;
}

/// Priority of the first filter without one; each further one is one less.
const PRIORITY_FIRST: u32 = 0xc000;
/// Times a packet may be classified again before it is dropped.
const RECLASSIFY_MAX: u32 = 16;
/// Times an action may ask to be repeated.
const REPEAT_MAX: u32 = 32;

/// What a filter does with a packet that it matched.
#[derive(Clone)]
pub enum FilterAction {
    /// A program decides; where it says `TC_ACT_UNSPEC`, this.
    Bpf {
        /// Program.
        prog: Arc<Program>,
        /// What `tc filter show` calls it: file and section.
        label: String,
        /// Verdict by default.
        default: i32,
        /// What it did.
        counts: Arc<Counts>,
    },
    /// Always this verdict.
    Fixed(i32),
}

/// A filter.
#[derive(Clone)]
pub struct Filter {
    /// Lower is earlier.
    pub priority: u32,
    /// Number within its priority.
    pub handle: u32,
    /// EtherType it looks at, in network order; `None` is every one.
    pub protocol: Option<[u8; 2]>,
    /// The program's result is the verdict.
    pub is_direct: bool,
    /// Class of what it matches with -1.
    pub classid: u32,
    /// Program.
    pub prog: Arc<Program>,
    /// What `tc filter show` calls it: file and section.
    pub label: String,
    /// Actions in order.
    pub actions: Vec<FilterAction>,
    /// What it did: runs, and packets it decided.
    pub counts: Arc<Counts>,
    /// What its program returned, how often.
    pub results: Arc<Results>,
}

/// How often a program returned what.
#[derive(Debug, Default)]
pub struct Results {
    /// -1, then 0 to 8.
    named: [AtomicU64; Self::NAMED],
    other: AtomicU64,
}

impl Results {
    const NAMED: usize = 10;

    fn count(&self, result: i32) {
        let named = usize::try_from(result.wrapping_add(1)).ok();
        bump(
            named
                .and_then(|at| self.named.get(at))
                .unwrap_or(&self.other),
        );
    }

    /// Results from -1 to 8 that were returned, with their numbers.
    pub fn named(&self) -> impl Iterator<Item = (i32, u64)> {
        let counted = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (-1..)
            .zip(self.named.iter().map(counted))
            .filter(|(_, count)| *count != 0)
    }

    /// How often another was returned: a class.
    pub fn other(&self) -> u64 {
        self.other.load(Ordering::Relaxed)
    }
}

/// How a new filter is described.
#[derive(Clone)]
pub struct FilterSpec {
    /// Priority, or chosen.
    pub priority: Option<u32>,
    /// Handle, or chosen.
    pub handle: Option<u32>,
    /// As [`Filter::protocol`].
    pub protocol: Option<[u8; 2]>,
    /// As [`Filter::is_direct`].
    pub is_direct: bool,
    /// As [`Filter::classid`].
    pub classid: u32,
    /// As [`Filter::label`].
    pub label: String,
    /// As [`Filter::actions`].
    pub actions: Vec<FilterAction>,
}

/// The filters of one direction of a device.
pub struct Clsact {
    edits: Mutex<()>,
    filters: RcuPair<Arc<[Filter]>>,
}

impl Default for Clsact {
    fn default() -> Self {
        Clsact {
            edits: Mutex::new(()),
            filters: RcuPair::new([(); 2].map(|()| Arc::from([]))),
        }
    }
}

impl Clsact {
    /// Adds a filter; its priority and handle.
    ///
    /// # Errors
    /// EINVAL: no classifier, a priority out of range, or one whose filters are of another protocol. EEXIST: the handle is taken. EBUSY: inside of a
    /// program run.
    pub fn add(&self, prog: &Arc<Program>, spec: FilterSpec) -> Result<(u32, u32), Error> {
        if prog.prog_type() != ProgType::SchedCls {
            let message = format!("program '{}' is no classifier", prog.name());
            return Err(Error::new(Errno::EINVAL, message));
        }
        let _edit = self.edits.lock();
        let old = self.filters();
        let priority = spec.priority.unwrap_or_else(|| {
            old.first()
                .map_or(PRIORITY_FIRST, |first| first.priority.saturating_sub(1))
        });
        if priority == 0 || priority > 0xffff {
            let message = format!("filter priority {priority}, expected 1..=65535");
            return Err(Error::new(Errno::EINVAL, message));
        }
        let same = || old.iter().filter(|filter| filter.priority == priority);
        let handle = spec.handle.unwrap_or_else(|| {
            let highest = same().map(|filter| filter.handle).max();
            highest.map_or(1, |highest| highest.saturating_add(1))
        });
        if same().any(|filter| filter.protocol != spec.protocol) {
            let message = format!(
                "priority {priority}: Protocol mismatch for filter with specified priority."
            );
            return Err(Error::new(Errno::EINVAL, message));
        }
        if same().any(|filter| filter.handle == handle) {
            let message =
                format!("handle {handle:#x} of priority {priority}: Filter already exists.");
            return Err(Error::new(Errno::EEXIST, message));
        }
        let filter = Filter {
            priority,
            handle,
            protocol: spec.protocol,
            is_direct: spec.is_direct,
            classid: spec.classid,
            prog: Arc::clone(prog),
            label: spec.label,
            actions: spec.actions,
            counts: Arc::default(),
            results: Arc::default(),
        };
        let mut filters = old.to_vec();
        let at =
            filters.partition_point(|known| (known.priority, known.handle) < (priority, handle));
        filters.insert(at, filter);
        self.publish(filters)?;
        Ok((priority, handle))
    }

    /// Removes the filters of a priority, or one of them, or all; how many.
    ///
    /// # Errors
    /// EBUSY: inside of a program run.
    pub fn remove(&self, priority: Option<u32>, handle: Option<u32>) -> Result<usize, Error> {
        let _edit = self.edits.lock();
        let old = self.filters();
        let is_kept = |filter: &Filter| {
            priority.is_some_and(|priority| filter.priority != priority)
                || handle.is_some_and(|handle| filter.handle != handle)
        };
        let kept: Vec<Filter> = old
            .iter()
            .filter(|filter| is_kept(filter))
            .cloned()
            .collect();
        let removed = old.len() - kept.len();
        self.publish(kept)?;
        Ok(removed)
    }

    fn publish(&self, filters: Vec<Filter>) -> Result<(), Error> {
        let mut removed = None;
        self.filters.edit(
            |_, new| {
                *new = filters.into();
                Ok::<_, Error>(())
            },
            |old| removed = Some(std::mem::replace(old, Arc::from([]))),
        )?;
        drop(removed);
        Ok(())
    }

    /// The filters in order.
    pub fn filters(&self) -> Arc<[Filter]> {
        Arc::clone(self.filters.read(&rcu::read()))
    }

    /// Classifies a packet: a `TC_ACT_*`, `UNSPEC` where no filter matched. The class goes to `tc_index` where the packet passes.
    pub(crate) fn classify(&self, skb: &mut Skb) -> i32 {
        let section = rcu::read();
        let filters = self.filters.read(&section);
        if filters.is_empty() {
            return act::UNSPEC;
        }
        for _ in 0..RECLASSIFY_MAX {
            let (verdict, classid) = classify_once(filters, skb);
            match verdict {
                act::RECLASSIFY => {}
                act::OK => {
                    skb.set_tc_index(classid as u16);
                    return verdict;
                }
                _ => return verdict,
            }
        }
        act::SHOT
    }
}

fn classify_once(filters: &[Filter], skb: &mut Skb) -> (i32, u32) {
    for filter in filters {
        if filter
            .protocol
            .is_some_and(|protocol| protocol != skb.protocol())
        {
            continue;
        }
        let Ok(program) = PacketProgram::over(&*filter.prog) else {
            continue;
        };
        filter.counts.count_run();
        skb.clear_tc_classid();
        let result = program.run(skb) as i32;
        filter.results.count(result);
        let (verdict, classid) = if filter.is_direct {
            let classid = filter.classid & 0xffff_0000 | skb.tc_classid();
            (direct_verdict(result), classid)
        } else {
            match result {
                0 => continue,
                -1 => (run_actions(filter, skb), filter.classid),
                classid => (run_actions(filter, skb), classid as u32),
            }
        };
        if verdict != act::UNSPEC {
            filter.counts.count_stop();
            return (verdict, classid);
        }
    }
    (act::UNSPEC, 0)
}

/// What a direct action may say; anything else goes on to the next filter.
fn direct_verdict(result: i32) -> i32 {
    match result {
        act::OK | act::SHOT | act::STOLEN | act::TRAP | act::REDIRECT => result,
        _ => act::UNSPEC,
    }
}

/// A filter without actions lets pass.
fn run_actions(filter: &Filter, skb: &mut Skb) -> i32 {
    let mut verdict = act::OK;
    for action in &filter.actions {
        for _ in 0..REPEAT_MAX {
            verdict = match action {
                FilterAction::Fixed(verdict) => *verdict,
                FilterAction::Bpf {
                    prog,
                    default,
                    counts,
                    ..
                } => run_action(prog, *default, counts, skb),
            };
            if verdict != act::REPEAT {
                break;
            }
        }
        if verdict != act::PIPE {
            return verdict;
        }
    }
    // The last action piped: the packet passes.
    if verdict == act::PIPE {
        act::OK
    } else {
        verdict
    }
}

fn run_action(prog: &Arc<Program>, default: i32, counts: &Counts, skb: &mut Skb) -> i32 {
    let Ok(program) = PacketProgram::over(&**prog) else {
        return default;
    };
    counts.count_run();
    match program.run(skb) as i32 {
        result @ (act::PIPE | act::RECLASSIFY | act::OK | act::REDIRECT | act::SHOT) => result,
        act::UNSPEC => default,
        _ => act::UNSPEC,
    }
}
