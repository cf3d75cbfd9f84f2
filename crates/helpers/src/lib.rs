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
pub mod iterator;
pub mod kernel_memory;
pub mod kfunc;
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
mod show;
pub mod sock_addr;
mod stack;
mod storage;
mod support;
mod syncookie;
pub mod syscall;
pub mod sysctl;
mod task;
mod task_object;
mod text;
mod time;
mod timer;
mod trace;
mod traced;
mod vma;

pub use bind::Needs;
pub use file_object::FileObject;
pub use kfunc::fields::Hooks as FieldHooks;
pub use kfunc::object::ObjectKind;
pub use packet::skb_helpers::load_packet;
pub use perf::{PerfCounter, PerfRecord, PerfSink, PerfValue};
pub use permit::{Permissions, set_permissions};
pub use support::{Support, support};
pub use trace::{TraceLine, set_trace_sink};

use ring3_runtime::HelperFn;
use ring3_spec::{FuncProto, HelperId, helpers::Helper};
use ring3_uapi::{AttachType, FuncId, ProgType};

/// One implemented helper.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Which helper.
    pub id: FuncId,
    /// What programs call.
    pub code: HelperFn,
    /// What the context of the program must be.
    pub needs: Needs,
    /// The prototype that it was bound to.
    pub proto: &'static FuncProto,
    /// What `code` takes behind its arguments: then it is a [`ring3_runtime::GivenHelperFn`] by another type.
    pub given: Given,
}

/// A word that helpers cannot take from the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// None.
    Nothing,
    /// The address of the [`ring3_btf::Btf`] of the program's system, which lives as long as the program; 0 if there is none.
    KernelTypes,
}

impl Row {
    /// A function for the helper that `H` declares, which takes any context.
    const fn of<H: Helper>(code: HelperFn) -> Row {
        let proto = const { &H::PROTO };
        Row {
            id: match proto.id {
                HelperId::Uapi(id) => id,
                HelperId::Custom(_) => panic!("rows are of the kernel's helpers"),
            },
            code,
            needs: Needs::Nothing,
            proto,
            given: Given::Nothing,
        }
    }
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
    iterator::ROWS,
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
    show::ROWS,
    stack::ROWS,
    file_object::ROWS,
    find_vma::ROWS,
    kernel_memory::ROWS,
    storage::ROWS,
    syscall::ROWS,
    sysctl::ROWS,
    perf::ROWS,
    perf::COUNTER_ROWS,
    packet::skb_helpers::ROWS,
    packet::sock_helpers::ROWS,
    packet::xdp_helpers::ROWS,
    packet::traced::ROWS,
];

/// Helpers that one id names differently by program type: what XDP programs get.
const XDP_VARIANTS: &[Row] = packet::xdp_helpers::VARIANTS;

/// The implementation of a helper that is given nothing, `None` if there is none.
pub fn find(id: FuncId) -> Option<HelperFn> {
    TABLES
        .iter()
        .copied()
        .flatten()
        .find(|row| row.id == id && row.given == Given::Nothing)
        .map(|row| row.code)
}

/// Program types whose packets have a class of their own; programs of others are told that of the task.
const CLASSIFIED: &[ProgType] = &[
    ProgType::SchedCls,
    ProgType::SchedAct,
    ProgType::LwtIn,
    ProgType::LwtOut,
    ProgType::LwtXmit,
    ProgType::LwtSeg6local,
];
/// Program types that are given a socket where others are given a packet.
const GIVEN_SOCKETS: &[ProgType] = &[ProgType::Tracing, ProgType::Lsm, ProgType::SkReuseport];

impl Needs {
    /// Whether programs of a type have such a context.
    fn are_met_by(self, prog_type: ProgType, is_traced: bool) -> bool {
        match self {
            Needs::Nothing => true,
            Needs::Skb => packet::SKB_PROG_TYPES.contains(&prog_type),
            Needs::Xdp => prog_type == ProgType::Xdp,
            Needs::SkLookup => prog_type == ProgType::SkLookup,
            Needs::Frame => is_traced,
        }
    }
}

/// The implementation of a helper for programs of a type, which may get another than [`find`]'s where the context decides, or none.
pub fn find_row_for(
    prog_type: ProgType,
    attach_type: Option<AttachType>,
    id: FuncId,
) -> Option<Row> {
    let is_traced = matches!(
        (prog_type, attach_type),
        (
            ProgType::Tracing,
            Some(AttachType::TraceFentry | AttachType::TraceFexit | AttachType::ModifyReturn)
        ) | (ProgType::Lsm, Some(AttachType::LsmMac))
    );
    let by_context: [&[Row]; 2] = match prog_type {
        _ if is_traced => [traced::VARIANTS, &[]],
        ProgType::Xdp => [perf::XDP_VARIANTS, XDP_VARIANTS],
        ProgType::FlowDissector => [packet::flow_dissector::VARIANTS, &[]],
        ProgType::SkLookup => [packet::sk_lookup::VARIANTS, &[]],
        ProgType::CgroupSockAddr => [sock_addr::VARIANTS, &[]],
        _ if packet::SKB_PROG_TYPES.contains(&prog_type) => [perf::SKB_VARIANTS, &[]],
        _ => [&[], &[]],
    };
    let by_task = if CLASSIFIED.contains(&prog_type) {
        &[][..]
    } else {
        cgroup::CURRENT_VARIANTS
    };
    let by_socket = if GIVEN_SOCKETS.contains(&prog_type) {
        packet::sock_helpers::TRACED_VARIANTS
    } else {
        &[]
    };
    let variants = by_context.into_iter().chain([by_task, by_socket]).flatten();
    let mut rows = variants.chain(TABLES.iter().copied().flatten());
    let fits = |row: &&Row| row.id == id && row.needs.are_met_by(prog_type, is_traced);
    rows.find(fits).copied()
}

/// As [`find_row_for`]: what programs call.
pub fn find_for(
    prog_type: ProgType,
    attach_type: Option<AttachType>,
    id: FuncId,
) -> Option<HelperFn> {
    find_row_for(prog_type, attach_type, id).map(|row| row.code)
}

/// Every implemented helper, in table order.
pub fn rows() -> impl Iterator<Item = Row> {
    TABLES.iter().copied().flatten().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An implementation that takes other arguments than the verifier checked would read what the program never gave.
    #[test]
    fn rows_take_the_arguments_of_the_prototype_in_force() {
        use ring3_spec::{Caller, HelperLookup, Privilege, Registry};
        let registry = Registry::linux_6_18();
        let mut compared = 0;
        for &prog_type in ProgType::ALL {
            for &attach_type in AttachType::ALL {
                for &id in FuncId::ALL {
                    let Some(row) = find_row_for(prog_type, Some(attach_type), id) else {
                        continue;
                    };
                    let caller = Caller {
                        prog_type,
                        expected_attach_type: attach_type.raw(),
                        sleepable: true,
                        privilege: Privilege::FULL,
                    };
                    let HelperLookup::Found(granted) = registry.helper(caller, id.raw() as i32)
                    else {
                        continue;
                    };
                    // A socket is a socket, as context, common or typed pointer.
                    let is_socket = matches!(id, FuncId::SkStorageGet | FuncId::SkStorageDelete);
                    let fits = is_socket || granted.args == row.proto.args;
                    assert!(fits, "{id} in {prog_type} {attach_type}");
                    compared += 1;
                }
            }
        }
        assert!(compared > 10_000, "{compared}");
    }

    #[test]
    fn no_helper_has_two_implementations() {
        let mut ids: Vec<_> = rows().map(|row| row.id).collect();
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }
}
