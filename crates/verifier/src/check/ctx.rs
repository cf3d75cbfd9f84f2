//! What a program may load from and store to its context and to sockets: fields of fixed places and sizes, as the rows of
//! `ring3_spec::ctx` say. The row that permits an access says what the loaded register is.
//!
//! Key types: [`CtxField`], the answer to an access of the context. Kernel counterpart: `check_ctx_access` and the
//! `is_valid_access` of every program type. Neighbours: `mem` (which pointer is it), `ctx_btf` (contexts typed by BTF),
//! `fixups::ctx_access` (the rewrite).

use ring3_btf::Kind;
use ring3_isa::{LoadMode, Reg};
use ring3_spec::ctx::{AccessKind, CtxReg, SocketView, table};
use ring3_spec::{CtxView, PktAccess};

use super::ctx_btf;
use super::mem::{Access, MemAccess};
use super::regs::mark_reg_unknown;
use crate::env::Env;
use crate::error::{Check, reject, unjudged};
use crate::state::{BtfIdx, DEF_NOT_SUBREG, Extra, RegBase, RegState, RegType, TypeFlags};

/// What a permitted access of the context yields.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CtxField {
    /// The pointer that a load yields; none for a number.
    pub(crate) pointer: Option<(RegType, Extra)>,
    /// The reference that the loaded pointer belongs to, 0 if none.
    pub(crate) ref_obj_id: u32,
    /// Bounds of a loaded number (the return value of the function that the program attaches to).
    pub(crate) range: Option<(i32, i32)>,
}

impl CtxField {
    /// A number.
    pub(crate) const SCALAR: CtxField = CtxField {
        pointer: None,
        ref_obj_id: 0,
        range: None,
    };
}

const fn kind_of(access: Access) -> AccessKind {
    match access {
        Access::Read => AccessKind::Load,
        Access::Write => AccessKind::Store,
    }
}

/// An access at `off` from the start of the context by the current instruction.
///
/// # Errors
/// EACCES: no field of the context is there for this program.
pub(crate) fn check_ctx_access(env: &mut Env<'_>, off: i32, access: MemAccess) -> Check<CtxField> {
    let row = env.registry.prog_type(env.facts.attach.prog_type);
    let bytes = access.size.bytes() as u8;
    let found = match row.ctx {
        CtxView::BtfArgs => ctx_btf::find_argument(env, off, access)?,
        CtxView::None | CtxView::Extended => unjudged!("context of program type {}", row.prog_type),
        view => {
            let Some(ctx) = table(view) else {
                unjudged!("context of program type {}", row.prog_type)
            };
            let attach = row.effective_attach_type(env.facts.attach.expected_attach_type);
            let field = u32::try_from(off)
                .ok()
                .and_then(|off| ctx.find(attach, kind_of(access.access), off, bytes))
                .filter(|field| !field.need_bpf || env.permits.bpf_capable)
                // A pointer cannot be loaded with its sign extended.
                .filter(|field| field.reg == CtxReg::Scalar || access.mode == LoadMode::ZeroExtend);
            match field {
                Some(field) => {
                    let pointer = loaded_pointer(env, field.reg)?;
                    if pointer.is_none_or(|(ty, _)| ty.base != RegBase::PtrToBtfId) {
                        let field_size = field.narrow.map_or(0, |narrow| narrow.unit);
                        env.aux[env.insn_idx].ctx_field_size = field_size;
                    }
                    Some(CtxField {
                        pointer,
                        ..CtxField::SCALAR
                    })
                }
                None => None,
            }
        }
    };
    // DIVERGES: the reference kernel takes aligned loads at negative offsets from the record of a tracepoint (its lower
    // bound is compared without sign), which read memory before the record; they are rejected here.
    let Some(field) = found else {
        reject!(EACCES, "invalid bpf_context access off={off} size={bytes}")
    };
    if field.ref_obj_id != 0 && env.cur.refs.find(field.ref_obj_id).is_none() {
        reject!(
            EACCES,
            "invalid bpf_context access off={off}. Reference may already be released"
        );
    }
    // Rows have no negative offsets.
    env.max_ctx_offset = env
        .max_ctx_offset
        .max((off as u32).saturating_add(u32::from(bytes)));
    Ok(field)
}

/// The kernel's structure behind the context of the program, as the kernel's BTF pairs them in `struct bpf_ctx_convert`; in a
/// part of it without that struct, as the rows of contexts say.
pub(crate) fn kernel_ctx_type(env: &Env<'_>) -> Check<ring3_btf::TypeId> {
    let prog_type = env.facts.attach.prog_type;
    let Some(btf) = env.req.kernel_btf.as_ref() else {
        unjudged!("a kernel context: no kernel BTF was given")
    };
    let find = |name: &str| btf.find_by_name_kind(name, Kind::Struct);
    let Some(pairs) = find("bpf_ctx_convert").and_then(|id| btf.type_by_id(id)) else {
        let ctx = table(env.registry.prog_type(prog_type).ctx);
        let id = ctx.and_then(|ctx| find(ctx.kernel_struct));
        return match id {
            Some(id) => Ok(id),
            None => unjudged!("the kernel's view of the context of program type {prog_type}"),
        };
    };
    let name = alloc::format!("{prog_type}").to_ascii_uppercase();
    let member = pairs.members().find(|member| {
        let kind = member.name().strip_prefix("BPF_PROG_TYPE_");
        kind.and_then(|kind| kind.strip_suffix("_kern")) == Some(name.as_str())
    });
    let Some(member) = member else {
        unjudged!("the kernel's view of the context of program type {prog_type}")
    };
    if btf.stripped(member.ty).map(|ty| ty.kind()) != Some(Kind::Struct) {
        reject!(EINVAL, "kern ctx type id {} is not a struct", member.ty.0);
    }
    Ok(btf.skip_mods_and_typedefs(member.ty))
}

/// The loaded register becomes what the field holds.
pub(crate) fn load_field(env: &mut Env<'_>, dst: Reg, field: &CtxField) {
    match field.pointer {
        None => {
            mark_reg_unknown(env, dst);
            if let Some((min, max)) = field.range {
                let reg = env.cur.reg_mut(dst);
                let scalar = &mut reg.scalar;
                scalar.s32_min = scalar.s32_min.max(min);
                scalar.s32_max = scalar.s32_max.min(max);
                scalar.smin = scalar.smin.max(i64::from(min));
                scalar.smax = scalar.smax.min(i64::from(max));
                *scalar = scalar.sync();
            }
        }
        Some((ty, extra)) => {
            let id = if ty.may_be_null() { env.new_id() } else { 0 };
            let precise = env.cur.reg(dst).precise;
            // Whatever the instruction's size, the register holds a whole pointer.
            *env.cur.reg_mut(dst) = RegState {
                id,
                precise,
                ref_obj_id: field.ref_obj_id,
                subreg_def: DEF_NOT_SUBREG,
                ..RegState::pointer(ty, extra)
            };
        }
    }
}

/// What a load of a field yields: none for a number.
fn loaded_pointer(env: &Env<'_>, reg: CtxReg) -> Check<Option<(RegType, Extra)>> {
    let null = TypeFlags::PTR_MAYBE_NULL;
    let pointer = |base, extra| Some((RegType::of(base), extra));
    Ok(match reg {
        CtxReg::Scalar => None,
        CtxReg::Packet => pointer(RegBase::PtrToPacket, Extra::Range(0)),
        CtxReg::PacketEnd => pointer(RegBase::PtrToPacketEnd, Extra::Range(0)),
        CtxReg::PacketMeta => pointer(RegBase::PtrToPacketMeta, Extra::Range(0)),
        CtxReg::FlowKeys => pointer(RegBase::PtrToFlowKeys, Extra::None),
        CtxReg::Sock => pointer(RegBase::PtrToSocket, Extra::None),
        CtxReg::SockOrNull => Some((RegType::of(RegBase::PtrToSocket).with(null), Extra::None)),
        CtxReg::SockCommonOrNull => Some((
            RegType::of(RegBase::PtrToSockCommon).with(null),
            Extra::None,
        )),
        CtxReg::TpBuffer => pointer(RegBase::PtrToTpBuffer, Extra::None),
        CtxReg::Trusted(name) => {
            let id = env
                .req
                .kernel_btf
                .as_ref()
                .and_then(|btf| btf.find_by_name_kind(name, Kind::Struct));
            let Some(id) = id else {
                unjudged!("struct {name} of the kernel: no kernel BTF was given")
            };
            let ty = RegType::of(RegBase::PtrToBtfId).with(TypeFlags::PTR_TRUSTED);
            Some((ty, Extra::Btf { btf: BtfIdx(0), id }))
        }
    })
}

/// Bytes of the field (0 unless parts of it may be loaded) that a load through a socket pointer may read; none: no such
/// load is valid.
pub(crate) fn check_sock_field(
    env: &Env<'_>,
    base: RegBase,
    off: i32,
    access: MemAccess,
) -> Option<u8> {
    let _ = env;
    let view = match base {
        RegBase::PtrToSockCommon => SocketView::SockCommon,
        RegBase::PtrToSocket => SocketView::Socket,
        RegBase::PtrToTcpSock => SocketView::TcpSock,
        RegBase::PtrToXdpSock => SocketView::XdpSock,
        _ => return None,
    };
    let off = u32::try_from(off).ok()?;
    let field = view
        .table()
        .find(0, kind_of(access.access), off, access.size.bytes() as u8)?;
    Some(field.narrow.map_or(0, |narrow| narrow.unit))
}

/// Whether the context is memory as it stands, with no field rewritten.
pub(crate) fn is_plain_memory(env: &Env<'_>) -> bool {
    match env.registry.prog_type(env.facts.attach.prog_type).ctx {
        CtxView::BtfArgs => true,
        CtxView::None | CtxView::Extended => false,
        view => table(view)
            .is_some_and(|ctx| ctx.kernel_struct.is_empty() || view == CtxView::Netfilter),
    }
}

/// Whether packet data may be loaded directly.
pub(crate) fn may_read_packet(env: &Env<'_>) -> bool {
    env.registry.prog_type(env.facts.attach.prog_type).pkt >= PktAccess::Read
}

/// Whether packet data may be stored to directly. Asking counts as doing: the prologue of the program makes the packet
/// writable.
pub(crate) fn may_write_packet(env: &mut Env<'_>) -> bool {
    let may = env.registry.prog_type(env.facts.attach.prog_type).pkt == PktAccess::ReadWrite;
    env.seen_direct_write |= may;
    may
}
