//! Accesses of contexts and sockets as programs see them become accesses of the kernel objects behind them, as the rows of
//! `ring3_spec::ctx` say; loads through pointers that may be bad become loads that read 0 on a fault.
//!
//! Also here, as in the kernel's pass: speculation barriers, and the prologue of programs that write into packets (it makes
//! the packet the program's own).
//! Kernel counterpart: `convert_ctx_accesses`. Neighbours: `check::ctx` (access checks), ring3-btf's layouts.

use alloc::vec::Vec;

use ring3_btf::{Btf, layout};
use ring3_isa::RawInsn;
use ring3_spec::ctx::{
    ACCESS, AccessKind, CtxField, CtxTable, Operation, Place, SocketView, Step, Who, Width,
};
use ring3_uapi::{FuncId, ProgType};

use super::patch::build::*;
use super::patch::{Draft, DraftSlot, Patch};
use crate::aux::{AuxTable, InsnAux};
use crate::error::{Check, Violation, unjudged};
use crate::state::{RegBase, RegType, TypeFlags};

const MODE_MEM: u8 = 0x60;
const MODE_MEMSX: u8 = 0x80;
const MODE_PROBE_MEM: u8 = 0x20;
const MODE_PROBE_MEMSX: u8 = 0x40;
const MODE_PROBE_MEM32: u8 = 0xa0;
const MODE_PROBE_MEM32SX: u8 = 0xc0;
const MODE_PROBE_ATOMIC: u8 = 0xe0;
const MODE_ATOMIC: u8 = 0xc0;
const CLASS_LDX: u8 = 1;
const CLASS_ST: u8 = 2;
const CLASS_STX: u8 = 3;

/// What the conversion needs.
pub(super) struct CtxInput<'a> {
    /// One per slot of the program as loaded.
    pub(super) aux: &'a AuxTable,
    /// The program's context, if accesses of it are converted.
    pub(super) ctx: Option<&'static CtxTable>,
    /// Expected attach type that rows are chosen by.
    pub(super) attach_type: u32,
    pub(super) prog_type: ProgType,
    pub(super) kernel_btf: Option<&'a Btf>,
    /// Some path writes into the packet.
    pub(super) direct_write: bool,
}

/// Converts accesses.
///
/// # Errors
/// Unjudged: no row or no layout for an access that was accepted.
pub(super) fn convert_ctx_accesses(draft: &mut Draft, input: &CtxInput<'_>) -> Check {
    let tstamp_type = uses_tstamp_type(draft, input);
    draft.rewrite(|_, slot, patch| {
        let Some(aux) = aux_of(input, slot) else {
            patch.keep(slot);
            return Ok(());
        };
        if aux.nospec {
            patch.push(NOSPEC);
        }
        if aux.nospec_result && is_memory(slot.insn) && slot.insn.class() != CLASS_LDX {
            patch.keep(slot);
            patch.push(NOSPEC);
            return Ok(());
        }
        convert(input, slot, aux, tstamp_type, patch)
    })?;
    add_prologue(input, draft)
}

fn aux_of<'a>(input: &CtxInput<'a>, slot: DraftSlot) -> Option<&'a InsnAux> {
    if slot.is_primary {
        input.aux.get(slot.orig)
    } else {
        None
    }
}

fn is_memory(insn: RawInsn) -> bool {
    match insn.class() {
        CLASS_LDX => matches!(insn.code & 0xe0, MODE_MEM | MODE_MEMSX),
        CLASS_ST | CLASS_STX => insn.code & 0xe0 == MODE_MEM,
        _ => false,
    }
}

fn access_bytes(insn: RawInsn) -> u8 {
    match insn.code & 0x18 {
        0x00 => 4,
        0x08 => 2,
        0x10 => 1,
        _ => 8,
    }
}

fn size_bits(bytes: u8) -> u8 {
    match bytes {
        1 => 0x10,
        2 => 0x08,
        4 => 0x00,
        _ => 0x18,
    }
}

fn convert(
    input: &CtxInput<'_>,
    slot: DraftSlot,
    aux: &InsnAux,
    tstamp_type: bool,
    patch: &mut Patch,
) -> Check {
    let insn = slot.insn;
    let Some(ty) = aux.ptr_type() else {
        patch.keep(slot);
        return Ok(());
    };
    if ty.base == RegBase::PtrToArena {
        patch.keep_as(slot, arena_access(insn));
        return Ok(());
    }
    let is_load = insn.class() == CLASS_LDX;
    if !is_memory(insn) {
        patch.keep(slot);
        return Ok(());
    }
    if is_load && reads_zero_on_fault(ty) {
        let mode = if insn.code & 0xe0 == MODE_MEM {
            MODE_PROBE_MEM
        } else {
            MODE_PROBE_MEMSX
        };
        patch.keep_as(
            slot,
            RawInsn {
                code: (insn.code & 0x1f) | mode,
                ..insn
            },
        );
        return Ok(());
    }
    let table = match ty.base {
        RegBase::PtrToCtx => input.ctx,
        RegBase::PtrToSocket => Some(SocketView::Socket.table()),
        RegBase::PtrToSockCommon => Some(SocketView::SockCommon.table()),
        RegBase::PtrToTcpSock => Some(SocketView::TcpSock.table()),
        RegBase::PtrToXdpSock => Some(SocketView::XdpSock.table()),
        _ => None,
    };
    let Some(table) = table else {
        patch.keep(slot);
        return Ok(());
    };
    let kind = if is_load {
        AccessKind::Load
    } else {
        AccessKind::Store
    };
    let off = insn.off as u32;
    let Some(field) = table.find(input.attach_type, kind, off, access_bytes(insn)) else {
        unjudged!(
            "conversion of an access to {} at {}",
            table.uapi_struct,
            insn.off
        );
    };
    let steps = steps_of(field, insn, kind, tstamp_type);
    if steps.is_empty() {
        patch.keep(slot);
        return Ok(());
    }
    let access = Conversion {
        input,
        insn,
        field,
        off,
    };
    access.write(steps, slot, patch)
}

fn steps_of(
    field: &CtxField,
    insn: RawInsn,
    kind: AccessKind,
    tstamp_type: bool,
) -> &'static [Step] {
    let (load, store) = match field.with_tstamp_type {
        Some(steps) if tstamp_type => steps,
        _ => (field.load, field.store),
    };
    match (kind, field.load_aliased) {
        (AccessKind::Store, _) => store,
        (AccessKind::Load, Some(aliased)) if insn.dst() == insn.src() => aliased,
        (AccessKind::Load, _) => load,
    }
}

/// Whether a load through such a pointer may fault.
fn reads_zero_on_fault(ty: RegType) -> bool {
    let untrusted = TypeFlags::PTR_UNTRUSTED;
    match ty.base {
        RegBase::PtrToBtfId => {
            ty.flags == TypeFlags::NONE
                || ty.flags == untrusted
                || ty.flags == untrusted.with(TypeFlags::MEM_ALLOC)
        }
        RegBase::PtrToMem => ty.flags == untrusted.with(TypeFlags::MEM_RDONLY),
        _ => false,
    }
}

fn arena_access(insn: RawInsn) -> RawInsn {
    let mode = match (insn.class(), insn.code & 0xe0) {
        (CLASS_LDX, MODE_MEM) | (CLASS_ST | CLASS_STX, MODE_MEM) => MODE_PROBE_MEM32,
        (CLASS_LDX, MODE_MEMSX) => MODE_PROBE_MEM32SX,
        (CLASS_STX, MODE_ATOMIC) => MODE_PROBE_ATOMIC,
        _ => return insn,
    };
    RawInsn {
        code: (insn.code & 0x1f) | mode,
        ..insn
    }
}

/// Whether the program looks at `tstamp_type`: others see a time stamp only if it is one of delivery.
fn uses_tstamp_type(draft: &Draft, input: &CtxInput<'_>) -> bool {
    let Some(ctx) = input.ctx else { return false };
    draft.slots.iter().any(|&slot| {
        is_memory(slot.insn)
            && aux_of(input, slot).is_some_and(|aux| {
                aux.ptr_type()
                    .is_some_and(|ty| ty.base == RegBase::PtrToCtx)
            })
            && slot.insn.class() == CLASS_LDX
            && ctx
                .find(
                    input.attach_type,
                    AccessKind::Load,
                    slot.insn.off as u32,
                    access_bytes(slot.insn),
                )
                .is_some_and(|field| field.name == "tstamp_type")
    })
}

/// One access and its row.
struct Conversion<'a> {
    input: &'a CtxInput<'a>,
    insn: RawInsn,
    field: &'a CtxField,
    off: u32,
}

impl Conversion<'_> {
    fn write(&self, steps: &[Step], slot: DraftSlot, patch: &mut Patch) -> Check {
        let mut insns = Vec::with_capacity(steps.len() + 3);
        for &step in steps {
            insns.push(self.insn_of(step)?);
        }
        self.push_narrowing(&mut insns);
        if self.insn.class() == CLASS_LDX && self.insn.code & 0xe0 == MODE_MEMSX {
            let dst = self.insn.dst();
            let bits = i16::from(access_bytes(self.insn)) * 8;
            insns.push(RawInsn {
                off: bits,
                ..alu_reg(ALU64, MOV, dst, dst)
            });
        }
        if let [only] = insns[..] {
            patch.keep_as(slot, only);
        } else {
            patch.push_all(&insns);
        }
        Ok(())
    }

    /// The part of a field that is loaded, after the whole was.
    fn push_narrowing(&self, insns: &mut Vec<RawInsn>) {
        let bytes = access_bytes(self.insn);
        let Some(narrow) = self
            .field
            .narrow
            .filter(|narrow| bytes < narrow.unit && bytes < narrow.target)
        else {
            return;
        };
        if self.insn.class() != CLASS_LDX {
            return;
        }
        let dst = self.insn.dst();
        let shift = (self.off % u32::from(narrow.unit)) as i32 * 8;
        if shift != 0 {
            let class = if narrow.unit <= 4 { ALU } else { ALU64 };
            insns.push(alu_imm(class, RSH, dst, shift));
        }
        let mask = (1u64 << (u32::from(bytes) * 8)) - 1;
        insns.push(alu_imm(ALU, AND, dst, mask as i32));
    }

    /// Bytes of the access, at least the unit of a narrow one.
    fn unit_bytes(&self) -> u8 {
        let bytes = access_bytes(self.insn);
        match self.field.narrow {
            Some(narrow) if self.insn.class() == CLASS_LDX => bytes.max(narrow.unit),
            _ => bytes,
        }
    }

    fn reg(&self, who: Who) -> u8 {
        let insn = self.insn;
        let is_load = insn.class() == CLASS_LDX;
        match who {
            Who::Ctx => {
                if is_load {
                    insn.src()
                } else {
                    insn.dst()
                }
            }
            Who::Dst => insn.dst(),
            Who::Val => insn.src(),
            Who::Ax => AX,
            Who::Tmp => [R9, R8, R7]
                .into_iter()
                .find(|&reg| reg != insn.src() && reg != insn.dst())
                .unwrap_or(R9),
        }
    }

    fn place(&self, place: Place) -> Check<i16> {
        let base = if place.type_name.is_empty() {
            0
        } else {
            match layout::field(self.input.kernel_btf, place.type_name, place.field) {
                Some(loc) => loc.offset,
                None => unjudged!("layout of {}.{}", place.type_name, place.field),
            }
        };
        let index = if place.indexed {
            let unit = u32::from(self.unit_bytes());
            (self.off - self.off % unit).saturating_sub(self.field.offset)
        } else {
            0
        };
        i16::try_from(i64::from(base) + i64::from(place.plus) + i64::from(index))
            .map_err(|_| Violation::bug("a context field is further away than an offset reaches"))
    }

    fn insn_of(&self, step: Step) -> Check<RawInsn> {
        let bytes_of = |bytes: u8| {
            if bytes == ACCESS {
                self.unit_bytes()
            } else {
                bytes
            }
        };
        Ok(match step {
            Step::Load {
                bytes,
                dst,
                base,
                place,
            } => RawInsn::new(
                CLASS_LDX | MODE_MEM | size_bits(bytes_of(bytes)),
                self.reg(dst),
                self.reg(base),
                self.place(place)?,
                0,
            ),
            Step::Store {
                bytes,
                base,
                place,
                src: Who::Val,
            } => RawInsn::new(
                self.insn.class() | MODE_MEM | size_bits(bytes_of(bytes)),
                self.reg(base),
                self.insn.src(),
                self.place(place)?,
                self.insn.imm,
            ),
            Step::Store {
                bytes,
                base,
                place,
                src,
            } => RawInsn::new(
                CLASS_STX | MODE_MEM | size_bits(bytes_of(bytes)),
                self.reg(base),
                self.reg(src),
                self.place(place)?,
                0,
            ),
            Step::AluImm {
                width,
                op,
                dst,
                imm,
            } => alu_imm(alu_class(width), op_bits(op), self.reg(dst), imm),
            Step::AluReg {
                width,
                op,
                dst,
                src: Who::Val,
            } if self.insn.class() == CLASS_ST => {
                alu_imm(alu_class(width), op_bits(op), self.reg(dst), self.insn.imm)
            }
            Step::AluReg {
                width,
                op,
                dst,
                src,
            } => alu_reg(alu_class(width), op_bits(op), self.reg(dst), self.reg(src)),
            Step::JumpImm {
                width,
                op,
                reg,
                imm,
                skip,
            } => {
                let class = match width {
                    Width::W32 => JMP32,
                    Width::W64 => JMP,
                };
                jmp_imm(class, op_bits(op), self.reg(reg), imm, i16::from(skip))
            }
            Step::Skip(steps) => ja(i16::from(steps)),
        })
    }
}

fn alu_class(width: Width) -> u8 {
    match width {
        Width::W32 => ALU,
        Width::W64 => ALU64,
    }
}

fn op_bits(op: Operation) -> u8 {
    match op {
        Operation::Add => ADD,
        Operation::Sub => SUB,
        Operation::And => AND,
        Operation::Lsh => LSH,
        Operation::Mov => MOV,
        Operation::Eq => JEQ,
        Operation::Ne => JNE,
        Operation::Ge => JGE,
        Operation::Set => 0x40,
    }
}

/// A program that writes into a packet which others may see first makes it its own, or ends with this verdict.
fn drop_verdict(prog_type: ProgType) -> Option<i32> {
    match prog_type {
        // TC_ACT_SHOT
        ProgType::SchedCls | ProgType::SchedAct => Some(2),
        // SK_DROP
        ProgType::SkSkb => Some(0),
        _ => None,
    }
}

fn add_prologue(input: &CtxInput<'_>, draft: &mut Draft) -> Check {
    let (Some(verdict), true) = (drop_verdict(input.prog_type), input.direct_write) else {
        return Ok(());
    };
    let Some(cloned) = layout::field(input.kernel_btf, "sk_buff", "__cloned_offset") else {
        unjudged!("layout of sk_buff.__cloned_offset");
    };
    let pull = RawInsn::new(0x85, 0, 0, 0, FuncId::SkbPullData.raw() as i32);
    draft.prepend(&[
        RawInsn::new(0x71, R6, R1, cloned.offset as i16, 0),
        alu_imm(ALU, AND, R6, 1),
        jmp_imm(JMP, JEQ, R6, 0, 7),
        alu_reg(ALU64, MOV, R6, R1),
        alu_reg(ALU64, XOR, R2, R2),
        pull,
        jmp_imm(JMP, JEQ, R0, 0, 2),
        alu_imm(ALU, MOV, R0, verdict),
        EXIT,
        alu_reg(ALU64, MOV, R1, R6),
    ]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Subprog;
    use ring3_spec::CtxView;

    fn converted(insn: RawInsn, aux: InsnAux, direct_write: bool) -> Vec<RawInsn> {
        let mut draft = Draft::new(&[insn], &[Subprog::default()]);
        let mut table = AuxTable::new(1);
        table[0] = aux;
        let input = CtxInput {
            aux: &table,
            ctx: ring3_spec::ctx::table(CtxView::TcClsAct),
            attach_type: 0,
            prog_type: ProgType::SchedCls,
            kernel_btf: None,
            direct_write,
        };
        convert_ctx_accesses(&mut draft, &input).unwrap();
        draft.encode().unwrap()
    }

    fn through(ty: RegType) -> InsnAux {
        let mut aux = InsnAux::default();
        aux.set_ptr_type(ty);
        aux
    }

    fn offset_of(field: &str) -> i16 {
        layout::field(None, "sk_buff", field).unwrap().offset as i16
    }

    #[test]
    fn a_field_is_loaded_from_the_kernel_object() {
        // r0 = *(u32 *)(r1 + 0): __sk_buff.len
        assert_eq!(
            converted(RawInsn::new(0x61, 0, 1, 0, 0), through(RegType::CTX), false),
            [RawInsn::new(0x61, 0, 1, offset_of("len"), 0)]
        );
    }

    #[test]
    fn a_part_is_cut_out_of_the_whole() {
        // r0 = *(u8 *)(r1 + 2): third byte of __sk_buff.len
        assert_eq!(
            converted(RawInsn::new(0x71, 0, 1, 2, 0), through(RegType::CTX), false),
            [
                RawInsn::new(0x61, 0, 1, offset_of("len"), 0),
                alu_imm(ALU, RSH, R0, 16),
                alu_imm(ALU, AND, R0, 0xff),
            ]
        );
    }

    #[test]
    fn loads_that_may_fault_read_zero() {
        let load = RawInsn::new(0x61, 0, 1, 8, 0);
        let object = RegType::of(RegBase::PtrToBtfId);
        assert_eq!(
            converted(load, through(object), false),
            [RawInsn { code: 0x21, ..load }]
        );
        let trusted = object.with(TypeFlags::PTR_TRUSTED);
        assert_eq!(converted(load, through(trusted), false), [load]);
    }

    #[test]
    fn barriers_stand_before_or_after() {
        let store = RawInsn::new(0x7b, FP, 1, -8, 0);
        let mut before = through(RegType::STACK);
        before.nospec = true;
        assert_eq!(converted(store, before, false), [NOSPEC, store]);
        let mut after = through(RegType::STACK);
        after.nospec_result = true;
        assert_eq!(converted(store, after, false), [store, NOSPEC]);
    }

    #[test]
    fn writers_of_packets_unshare_them_first() {
        let insns = converted(EXIT, InsnAux::default(), true);
        assert_eq!(insns.len(), 11);
        assert_eq!(
            insns[0],
            RawInsn::new(0x71, R6, R1, offset_of("__cloned_offset"), 0)
        );
        // A packet that is not shared goes straight to the program.
        assert_eq!(insns[2], jmp_imm(JMP, JEQ, R6, 0, 7));
    }
}
