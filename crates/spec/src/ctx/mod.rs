//! Contexts: the fields that programs of each type see, as rows; the access check, the rewrites and the docs read them.
//!
//! Key types: [`CtxTable`] (one per view), [`CtxField`] (place, sizes, what a load yields), [`Step`] (the accesses to kernel
//! objects that replace it, by struct and field name). [`table`] finds a view's table, [`CtxTable::find`] the row that
//! permits an access. Typed contexts (`CtxView::BtfArgs`) have no rows: BTF says what they hold.

mod cgroup;
mod packet;
mod plain;
mod rows;
mod select;
mod skb;
mod sock;
mod sock_addr;
mod sock_ops;
mod table;

pub use packet::FLOW_KEYS_BYTES;
pub use table::{SOCKET_VIEWS, SocketView, table};

use rows::{NO, at_start, sized};

use crate::CtxView;
use crate::grants::AttachSet;

/// The context of one view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CtxTable {
    /// Which view, none for sockets behind pointers.
    pub view: Option<CtxView>,
    /// Struct in linux/bpf.h that programs see, empty if none.
    pub uapi_struct: &'static str,
    /// Kernel struct behind it, whose address the register really holds; empty where it is the same memory.
    pub kernel_struct: &'static str,
    /// Bytes of the context as programs see it.
    pub bytes: u32,
    /// Fields in order of their offsets.
    pub fields: &'static [CtxField],
}

/// A field of a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CtxField {
    /// Name in linux/bpf.h.
    pub name: &'static str,
    /// Bytes from the start of the context.
    pub offset: u32,
    /// Bytes it spans.
    pub len: u32,
    /// Loads that are valid.
    pub read: Sizes,
    /// Stores that are valid.
    pub write: Sizes,
    /// What a load yields.
    pub reg: CtxReg,
    /// Attach types whose programs see it.
    pub attach: AttachSet,
    /// Only for programs of loaders with CAP_BPF.
    pub need_bpf: bool,
    /// How loads of a part are made from a load of the whole.
    pub narrow: Option<Narrow>,
    /// Replacement of a load; empty: the access stays as it is.
    pub load: &'static [Step],
    /// Replacement of a load into the context register itself, where it differs.
    pub load_aliased: Option<&'static [Step]>,
    /// Replacement of a store.
    pub store: &'static [Step],
    /// Replacements of load and store in programs that also access `tstamp_type`.
    pub with_tstamp_type: Option<(&'static [Step], &'static [Step])>,
}

/// Which access sizes are valid in a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Smallest, in bytes; 0: none is.
    pub min: u8,
    /// Largest.
    pub max: u8,
    /// Only at the field's start, else anywhere in it. Always aligned to the size, counted from the context's start.
    pub at_start: bool,
}

impl Sizes {
    /// No access.
    pub const NONE: Sizes = NO;

    /// Accesses of `min` to `max` bytes anywhere in the field.
    pub const fn between(min: u8, max: u8) -> Sizes {
        sized(min, max)
    }

    /// The whole field of `bytes` bytes.
    pub const fn whole(bytes: u8) -> Sizes {
        at_start(bytes, bytes)
    }
}

/// A load of a part: the `unit` bytes around it are loaded, then shifted and masked if the kernel's field is larger than
/// the part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Narrow {
    /// Bytes of the whole.
    pub unit: u8,
    /// Bytes of the kernel's field.
    pub target: u8,
}

/// What a load of a field yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CtxReg {
    /// A number.
    Scalar,
    /// Start of the packet.
    Packet,
    /// End of the packet.
    PacketEnd,
    /// Start of the metadata before the packet.
    PacketMeta,
    /// Flow dissector's keys.
    FlowKeys,
    /// A full socket.
    Sock,
    /// A full socket or NULL.
    SockOrNull,
    /// A socket of some kind or NULL.
    SockCommonOrNull,
    /// Writable buffer of a raw tracepoint.
    TpBuffer,
    /// A trusted kernel object of this struct.
    Trusted(&'static str),
}

/// A register of a conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Holds the context.
    Ctx,
    /// Loaded into.
    Dst,
    /// Stored: a register, or the immediate of the original store.
    Val,
    /// `BPF_REG_AX`
    Ax,
    /// R9, or the next lower one that the instruction does not use.
    Tmp,
}

/// Operand width of an operation or comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 32 bits
    W32,
    /// 64 bits
    W64,
}

/// Operation or comparison of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `+=`
    Add,
    /// `-=`
    Sub,
    /// `&=`
    And,
    /// `<<=`
    Lsh,
    /// `=`
    Mov,
    /// jump if equal
    Eq,
    /// jump if not equal
    Ne,
    /// jump if greater or equal, unsigned
    Ge,
    /// jump if any bit is set
    Set,
}

/// Where in a kernel object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Kernel struct; empty: the pointer's target itself.
    pub type_name: &'static str,
    /// Member path, dots between.
    pub field: &'static str,
    /// Bytes behind the member's start.
    pub plus: i16,
    /// Add the distance of the access (aligned to the unit of a narrow one) from the context field's start.
    pub indexed: bool,
}

/// Size of a step that takes the size of the access (at least the unit of a narrow one).
pub const ACCESS: u8 = 0;

/// One instruction of a conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `dst = *(base + place)`
    Load {
        /// Bytes, or [`ACCESS`].
        bytes: u8,
        /// Into.
        dst: Who,
        /// From.
        base: Who,
        /// Where.
        place: Place,
    },
    /// `*(base + place) = src`
    Store {
        /// Bytes, or [`ACCESS`].
        bytes: u8,
        /// Into.
        base: Who,
        /// Where.
        place: Place,
        /// What.
        src: Who,
    },
    /// `dst op= imm`
    AluImm {
        /// Width.
        width: Width,
        /// Operation.
        op: Operation,
        /// Operand and result.
        dst: Who,
        /// Operand.
        imm: i32,
    },
    /// `dst op= src`
    AluReg {
        /// Width.
        width: Width,
        /// Operation.
        op: Operation,
        /// Operand and result.
        dst: Who,
        /// Operand.
        src: Who,
    },
    /// Skip steps if the comparison holds.
    JumpImm {
        /// Width.
        width: Width,
        /// Comparison.
        op: Operation,
        /// Operand.
        reg: Who,
        /// Operand.
        imm: i32,
        /// Steps.
        skip: u8,
    },
    /// Skip steps.
    Skip(u8),
}

impl CtxField {
    /// Whether an access of `bytes` (1, 2, 4 or 8) at `offset` from the context's start is a valid one of this field.
    pub fn permits(&self, kind: AccessKind, offset: u32, bytes: u8) -> bool {
        let sizes = match kind {
            AccessKind::Load => self.read,
            AccessKind::Store => self.write,
        };
        let size = u32::from(bytes);
        sizes.min != 0
            && (sizes.min..=sizes.max).contains(&bytes)
            && offset.is_multiple_of(size)
            && offset >= self.offset
            && offset - self.offset + size <= self.len.max(if sizes.at_start { size } else { 0 })
            && (!sizes.at_start || offset == self.offset)
    }
}

/// Direction of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// The program loads.
    Load,
    /// The program stores.
    Store,
}

impl CtxTable {
    /// The row that permits an access, for a program with this expected attach type.
    ///
    /// [`CtxField::need_bpf`] is left to the caller. None: `invalid bpf_context access`.
    pub fn find(
        &self,
        expected_attach_type: u32,
        kind: AccessKind,
        offset: u32,
        bytes: u8,
    ) -> Option<&'static CtxField> {
        self.fields.iter().find(|field| {
            field.attach.contains(expected_attach_type) && field.permits(kind, offset, bytes)
        })
    }
}
