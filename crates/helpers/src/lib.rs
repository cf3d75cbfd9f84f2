//! Implementations of BPF helpers.
//!
//! `ring3-spec` declares every helper with a prototype that fixes its signature; here each is bound to a body (`bind`), and one that does not
//! fit the prototype does not compile. What is not here yet has no row in [`find`]: a program that calls it is verified, and refused
//! before it runs.
//!
//! Maps are in `ring3-maps`; packets, which helpers and hooks share, are in [`packet`].
//!
//! ```
//! use ring3_uapi::FuncId;
//! assert!(ring3_helpers::find(FuncId::KtimeGetNs).is_some());
//! assert!(ring3_helpers::find(FuncId::RcRepeat).is_none());
//! ```

mod bind;
mod cgroup;
mod dynptr;
mod file_object;
mod find_vma;
mod format;
pub mod host;
pub mod kernel_memory;
mod lock;
mod looping;
mod map;
mod memory;
pub mod packet;
mod perf;
mod permit;
pub mod plain_context;
mod random;
mod ringbuf;
mod stack;
mod storage;
mod syncookie;
pub mod syscall;
mod task;
mod task_object;
mod text;
mod time;
mod timer;
mod trace;
mod traced;
mod vma;

pub use file_object::FileObject;
pub use packet::skb_helpers::load_packet;
pub use perf::{PerfCounter, PerfRecord, PerfSink, PerfValue};
pub use permit::{Permissions, set_permissions};
pub use timer::Hooks as FieldHooks;
pub use trace::{TraceLine, set_trace_sink};

use ring3_runtime::HelperFn;
use ring3_uapi::{AttachType, FuncId, ProgType};

/// One implemented helper.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Which helper.
    pub id: FuncId,
    /// What programs call.
    pub code: HelperFn,
}

/// The tables of this crate, one per area. Helpers whose first argument is an `xdp_buff` in some programs and an `sk_buff` in others have a
/// row only where the two agree.
const TABLES: &[&[Row]] = &[
    map::ROWS,
    looping::ROWS,
    random::ROWS,
    task::ROWS,
    time::ROWS,
    timer::ROWS,
    trace::ROWS,
    traced::ROWS,
    text::ROWS,
    memory::ROWS,
    memory::TASK_ROWS,
    cgroup::ROWS,
    permit::ROWS,
    syncookie::ROWS,
    lock::ROWS,
    dynptr::ROWS,
    ringbuf::MAP_ROWS,
    ringbuf::ROWS,
    stack::ROWS,
    file_object::ROWS,
    find_vma::ROWS,
    kernel_memory::ROWS,
    storage::ROWS,
    syscall::ROWS,
    perf::ROWS,
    perf::COUNTER_ROWS,
    packet::skb_helpers::ROWS,
    packet::sock_helpers::ROWS,
    packet::xdp_helpers::ROWS,
    packet::traced::ROWS,
];

/// Helpers that one id names differently by program type: what XDP programs get.
const XDP_VARIANTS: &[Row] = packet::xdp_helpers::VARIANTS;

/// The implementation of a helper, `None` if there is none yet.
pub fn find(id: FuncId) -> Option<HelperFn> {
    TABLES
        .iter()
        .copied()
        .flatten()
        .find(|row| row.id == id)
        .map(|row| row.code)
}

/// The implementation of a helper for XDP programs.
pub fn find_for_xdp(id: FuncId) -> Option<HelperFn> {
    XDP_VARIANTS
        .iter()
        .find(|row| row.id == id)
        .map(|row| row.code)
        .or_else(|| find(id))
}

/// The implementation of a helper for programs of a type, which may get another than [`find`]'s where the context decides.
pub fn find_for(
    prog_type: ProgType,
    attach_type: Option<AttachType>,
    id: FuncId,
) -> Option<HelperFn> {
    let is_traced = matches!(
        (prog_type, attach_type),
        (
            ProgType::Tracing,
            Some(AttachType::TraceFentry | AttachType::TraceFexit | AttachType::ModifyReturn)
        ) | (ProgType::Lsm, Some(AttachType::LsmMac))
    );
    let variants = if is_traced {
        traced::VARIANTS
    } else if prog_type == ProgType::Xdp {
        perf::XDP_VARIANTS
    } else if packet::SKB_PROG_TYPES.contains(&prog_type) {
        perf::SKB_VARIANTS
    } else {
        &[]
    };
    let variant = variants.iter().find(|row| row.id == id);
    variant.map(|row| row.code).or_else(|| match prog_type {
        ProgType::Xdp => find_for_xdp(id),
        _ => find(id),
    })
}

/// Every implemented helper, in table order.
pub fn rows() -> impl Iterator<Item = Row> {
    TABLES.iter().copied().flatten().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_helper_has_two_implementations() {
        let mut ids: Vec<_> = rows().map(|row| row.id).collect();
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }
}
