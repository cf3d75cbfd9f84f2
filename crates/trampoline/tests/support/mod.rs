//! What the integration tests share: programs that are Rust functions.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};

use ring3_runtime::{Entry, EntryCode, ProgObject, ProgRef, RunStats, StatsSwitch};
use ring3_uapi::ProgType;

/// Of all these programs.
pub(crate) static SWITCH: LazyLock<Arc<StatsSwitch>> = LazyLock::new(Arc::default);

/// A program that is a Rust function.
pub(crate) struct Prog {
    id: u32,
    entry: Entry,
    stats: RunStats,
}

impl ProgObject for Prog {
    fn id(&self) -> u32 {
        self.id
    }
    fn entry(&self) -> Entry {
        self.entry
    }
    fn tail_target(&self) -> usize {
        0
    }
    fn prog_type(&self) -> ProgType {
        ProgType::Tracing
    }
    fn run_stats(&self) -> Option<&RunStats> {
        Some(&self.stats)
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// A program with an id of its own.
pub(crate) fn program(code: EntryCode, data: usize) -> ProgRef {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    program_with_id(NEXT.fetch_add(1, Ordering::Relaxed), code, data)
}

/// A program with this id, as that of another system may have.
pub(crate) fn program_with_id(id: u32, code: EntryCode, data: usize) -> ProgRef {
    let data = data as *const ();
    Arc::new(Prog {
        id,
        entry: Entry { code, data },
        stats: RunStats::new(&SWITCH),
    })
}
