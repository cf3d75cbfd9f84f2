//! Registers, stack slots and whole states as the kernel prints them.
//!
//! Two callers' views: everything (`R1=ctx() R10=fp0`, after `from A to B:`) or only what the last instruction touched
//! (`; R1=4`, in a column behind the instruction). Kernel counterpart: `print_verifier_state`, `print_insn_state`.

use core::fmt::{self, Write};

use ring3_btf::TypeId;

use super::sink::vlog;
use crate::env::{Env, Facts};
use crate::state::{
    BPF_ADD_CONST, BtfIdx, DynptrType, Extra, FrameKind, FuncState, IterState, RegBase, RegState,
    RegType, SLOT_BYTES, SlotType, TypeFlags, VerifierState,
};

/// Columns: states stand at least here, at a multiple of [`LOG_ALIGN_MIN`].
const LOG_ALIGN: u64 = 40;
const LOG_ALIGN_MIN: u64 = 8;

/// Which registers and slots to print.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Which {
    All,
    /// Bit sets of registers and slots.
    Scratched {
        regs: u32,
        slots: u64,
    },
}

/// The kernel's name of a register type: `rdonly_map_value_or_null`.
pub(crate) struct TypeName(pub(crate) RegType);

impl fmt::Display for TypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ty = self.0;
        for (flag, prefix) in [
            (TypeFlags::MEM_RDONLY, "rdonly_"),
            (TypeFlags::MEM_RINGBUF, "ringbuf_"),
            (TypeFlags::MEM_USER, "user_"),
            (TypeFlags::MEM_PERCPU, "percpu_"),
            (TypeFlags::MEM_RCU, "rcu_"),
            (TypeFlags::PTR_UNTRUSTED, "untrusted_"),
            (TypeFlags::PTR_TRUSTED, "trusted_"),
        ] {
            if ty.has(flag) {
                f.write_str(prefix)?;
            }
        }
        f.write_str(match ty.base {
            RegBase::NotInit => "?",
            RegBase::Scalar => "scalar",
            RegBase::PtrToCtx => "ctx",
            RegBase::ConstPtrToMap => "map_ptr",
            RegBase::PtrToMapValue => "map_value",
            RegBase::PtrToMapKey => "map_key",
            RegBase::PtrToStack => "fp",
            RegBase::PtrToPacket => "pkt",
            RegBase::PtrToPacketMeta => "pkt_meta",
            RegBase::PtrToPacketEnd => "pkt_end",
            RegBase::PtrToFlowKeys => "flow_keys",
            RegBase::PtrToSocket => "sock",
            RegBase::PtrToSockCommon => "sock_common",
            RegBase::PtrToTcpSock => "tcp_sock",
            RegBase::PtrToTpBuffer => "tp_buffer",
            RegBase::PtrToXdpSock => "xdp_sock",
            RegBase::PtrToBtfId => "ptr_",
            RegBase::PtrToMem => "mem",
            RegBase::PtrToArena => "arena",
            RegBase::PtrToBuf => "buf",
            RegBase::PtrToFunc => "func",
            RegBase::ConstPtrToDynptr => "dynptr_ptr",
        })?;
        if ty.may_be_null() {
            f.write_str(if ty.base == RegBase::PtrToBtfId {
                "or_null_"
            } else {
                "_or_null"
            })?;
        }
        Ok(())
    }
}

/// Signed: decimal while it fits 16 bits, else the hexadecimal of 64 bits.
struct Snum(i64);

impl fmt::Display for Snum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if i16::try_from(self.0).is_ok() {
            write!(f, "{}", self.0)
        } else {
            write!(f, "{:#x}", self.0 as u64)
        }
    }
}

/// Unsigned: decimal while it fits 16 bits.
struct Unum(u64);

impl fmt::Display for Unum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 <= u64::from(u16::MAX) {
            write!(f, "{}", self.0)
        } else {
            write!(f, "{:#x}", self.0)
        }
    }
}

pub(crate) const fn dynptr_name(ty: DynptrType) -> &'static str {
    match ty {
        DynptrType::Invalid => "<invalid>",
        DynptrType::Local => "local",
        DynptrType::Ringbuf => "ringbuf",
        DynptrType::Skb => "skb",
        DynptrType::Xdp => "xdp",
        DynptrType::SkbMeta => "skb_meta",
    }
}

pub(crate) fn iter_name<'a>(facts: &'a Facts<'_>, btf: BtfIdx, id: TypeId) -> &'a str {
    let name = facts.btf(btf).name(id);
    name.strip_prefix("bpf_iter_").unwrap_or(name)
}

pub(crate) const fn iter_state_name(state: IterState) -> &'static str {
    match state {
        IterState::Invalid => "<invalid>",
        IterState::Active => "active",
        IterState::Drained => "drained",
    }
}

/// Writes attributes with commas between them.
struct Attrs<'w, W: Write> {
    out: &'w mut W,
    sep: &'static str,
}

impl<W: Write> Attrs<'_, W> {
    fn put(&mut self, text: fmt::Arguments<'_>) -> fmt::Result {
        self.out.write_str(self.sep)?;
        self.sep = ",";
        self.out.write_fmt(text)
    }
}

/// One register, without its name.
pub(crate) fn write_reg<W: Write>(
    out: &mut W,
    facts: &Facts,
    frameno: u8,
    reg: &RegState,
) -> fmt::Result {
    let ty = reg.ty;
    let is_scalar = ty.is(RegBase::Scalar);
    if is_scalar && reg.precise {
        out.write_char('P')?;
    }
    if is_scalar && reg.scalar.is_const() {
        return write!(out, "{}", Snum(reg.scalar.var_off.value as i64));
    }
    write!(out, "{}", TypeName(ty))?;
    if ty.is(RegBase::PtrToArena) {
        return Ok(());
    }
    if ty.is(RegBase::PtrToStack) {
        if frameno != reg.frameno {
            write!(out, "[{}]", reg.frameno)?;
        }
        if let Some(off) = reg.const_offset() {
            return write!(out, "{}", Snum(off));
        }
    }
    if ty.base == RegBase::PtrToBtfId
        && let Some((btf, id)) = reg.btf()
    {
        out.write_str(facts.btf(btf).name(id))?;
    }
    out.write_char('(')?;
    let mut attrs = Attrs { out, sep: "" };
    if reg.id & !BPF_ADD_CONST != 0 {
        attrs.put(format_args!("id={}", reg.id & !BPF_ADD_CONST))?;
    }
    if reg.id & BPF_ADD_CONST != 0 {
        write!(attrs.out, "{:+}", reg.off)?;
    }
    if reg.ref_obj_id != 0 {
        attrs.put(format_args!("ref_obj_id={}", reg.ref_obj_id))?;
    }
    if ty.is_non_owning_ref() {
        attrs.put(format_args!("non_own_ref"))?;
    }
    if let (RegBase::ConstPtrToMap | RegBase::PtrToMapKey | RegBase::PtrToMapValue, Some(map)) =
        (ty.base, reg.map())
    {
        let map = facts.map(map);
        if !map.name.is_empty() {
            attrs.put(format_args!("map={}", map.name))?;
        }
        attrs.put(format_args!("ks={},vs={}", map.key_size, map.value_size))?;
    }
    if !is_scalar && reg.off != 0 {
        attrs.put(format_args!("off={}", Snum(i64::from(reg.off))))?;
    }
    if matches!(ty.base, RegBase::PtrToPacket | RegBase::PtrToPacketMeta)
        && ty.flags == TypeFlags::NONE
    {
        attrs.put(format_args!("r={}", Unum(i64::from(reg.range()) as u64)))?;
    }
    if ty.base == RegBase::PtrToMem {
        attrs.put(format_args!("sz={}", Unum(u64::from(reg.mem_size()))))?;
    }
    if ty.is(RegBase::ConstPtrToDynptr)
        && let Extra::Dynptr { ty, .. } = reg.extra
    {
        attrs.put(format_args!("type={}", dynptr_name(ty)))?;
    }
    match reg.scalar.const_value() {
        Some(0) => {}
        Some(value) => attrs.put(format_args!("imm={}", Snum(value as i64)))?,
        None => {
            write_ranges(&mut attrs, reg)?;
            let bits = reg.scalar.var_off;
            if bits.mask != u64::MAX {
                attrs.put(format_args!(
                    "var_off=({:#x}; {:#x})",
                    bits.value, bits.mask
                ))?;
            }
        }
    }
    out.write_char(')')
}

/// The ranges; bounds of one kind that have one value are printed together: `smin=smin32=0`.
fn write_ranges<W: Write>(attrs: &mut Attrs<'_, W>, reg: &RegState) -> fmt::Result {
    let s = &reg.scalar;
    // A 32-bit bound that is printed in hexadecimal is not sign-extended.
    let narrow = |value: i32| {
        if i16::try_from(value).is_ok() {
            i64::from(value) as u64
        } else {
            u64::from(value as u32)
        }
    };
    let mut bounds = [
        ("smin", s.smin as u64, s.smin == i64::MIN),
        ("smax", s.smax as u64, s.smax == i64::MAX),
        ("umin", s.umin, s.umin == 0),
        ("umax", s.umax, s.umax == u64::MAX),
        ("smin32", narrow(s.s32_min), s.s32_min == i32::MIN),
        ("smax32", narrow(s.s32_max), s.s32_max == i32::MAX),
        ("umin32", u64::from(s.u32_min), s.u32_min == 0),
        ("umax32", u64::from(s.u32_max), s.u32_max == u32::MAX),
    ];
    let is_negative = |name: &str, value: u64| name.starts_with('s') && (value as i64) < 0;
    for i in 0..bounds.len() {
        let (name, value, omit) = bounds[i];
        if omit {
            continue;
        }
        attrs.put(format_args!("{name}="))?;
        let mut j = i + 2;
        while j < bounds.len() {
            let (other, other_value, other_omit) = bounds[j];
            if !other_omit
                && other_value == value
                && is_negative(name, value) == is_negative(other, other_value)
            {
                bounds[j].2 = true;
                write!(attrs.out, "{other}=")?;
            }
            j += 2;
        }
        if name.starts_with('s') {
            write!(attrs.out, "{}", Snum(value as i64))?;
        } else {
            write!(attrs.out, "{}", Unum(value))?;
        }
    }
    Ok(())
}

/// A frame's registers and slots, references and marks of callbacks, and the line end.
pub(crate) fn write_state<W: Write>(
    out: &mut W,
    facts: &Facts,
    state: &VerifierState,
    frameno: u8,
    which: Which,
) -> fmt::Result {
    let frame = state.frame(frameno);
    if frame.frameno != 0 {
        write!(out, " frame{}:", frame.frameno)?;
    }
    for (number, reg) in frame.regs.iter().enumerate() {
        let shown = match which {
            Which::All => true,
            Which::Scratched { regs, .. } => regs & 1 << number != 0,
        };
        if reg.ty.is_init() && shown {
            write!(out, " R{number}=")?;
            write_reg(out, facts, frame.frameno, reg)?;
        }
    }
    write_stack(out, facts, frame, which)?;
    if let Some(first) = state.refs.list.first()
        && first.id != 0
    {
        write!(out, " refs={}", first.id)?;
        for r in &state.refs.list[1..] {
            if r.id != 0 {
                write!(out, ",{}", r.id)?;
            }
        }
    }
    if frame.kind == FrameKind::Callback {
        out.write_str(" cb")?;
    }
    if frame.kind.is_async() {
        out.write_str(" async_cb")?;
    }
    out.write_char('\n')
}

fn write_stack<W: Write>(
    out: &mut W,
    facts: &Facts,
    frame: &FuncState,
    which: Which,
) -> fmt::Result {
    let mut spi = 0;
    while spi < frame.stack.len() {
        let this = spi;
        spi += 1;
        if let Which::Scratched { slots, .. } = which
            && (this > 63 || slots & 1 << this == 0)
        {
            continue;
        }
        let slot = &frame.stack[this];
        if slot.types.iter().all(|&ty| ty == SlotType::Invalid) {
            continue;
        }
        let fp = |spi: usize| -((spi as i64 + 1) * SLOT_BYTES as i64);
        match slot.types[SLOT_BYTES - 1] {
            SlotType::Spill => {
                write!(out, " fp{}=", fp(this))?;
                for ty in slot.types.iter().take_while(|&&ty| ty != SlotType::Spill) {
                    out.write_char(ty.letter())?;
                }
                write_reg(out, facts, frame.frameno, slot.spilled())?;
            }
            SlotType::Dynptr => {
                // The second slot describes the dynptr.
                let main = this + 1;
                spi = main + 1;
                let Some(slot) = frame.stack.get(main) else {
                    continue;
                };
                let reg = slot.spilled();
                let (ty, first_slot) = match reg.extra {
                    Extra::Dynptr { ty, first_slot } => (ty, first_slot),
                    _ => (DynptrType::Invalid, false),
                };
                write!(out, " fp{}=dynptr_{}(", fp(main), dynptr_name(ty))?;
                let mut attrs = Attrs { out, sep: "" };
                if reg.id != 0 {
                    attrs.put(format_args!("id={}", reg.id))?;
                }
                if reg.ref_obj_id != 0 {
                    attrs.put(format_args!("ref_id={}", reg.ref_obj_id))?;
                }
                // The kernel reads the id of a slice here, which shares its place with "first slot".
                if first_slot {
                    attrs.put(format_args!("dynptr_id=1"))?;
                }
                out.write_char(')')?;
            }
            SlotType::Iter => {
                let reg = slot.spilled();
                if reg.ref_obj_id == 0 {
                    continue;
                }
                if let Extra::Iter {
                    btf,
                    id,
                    state,
                    depth,
                } = reg.extra
                {
                    write!(
                        out,
                        " fp{}=iter_{}(ref_id={},state={},depth={})",
                        fp(this),
                        iter_name(facts, btf, id),
                        reg.ref_obj_id,
                        iter_state_name(state),
                        depth
                    )?;
                }
            }
            SlotType::Invalid | SlotType::Misc | SlotType::Zero | SlotType::IrqFlag => {
                write!(out, " fp{}=", fp(this))?;
                for ty in slot.types {
                    out.write_char(ty.letter())?;
                }
            }
        }
    }
    Ok(())
}

/// Everything of a frame of the current path, as after `from A to B:`.
pub(crate) fn print_full_state(env: &mut Env<'_>, frameno: u8) {
    if env.log.is_on() {
        // Writing to the sink cannot fail.
        let _ = write_state(env.log.out(), env.facts, &env.cur, frameno, Which::All);
    }
}

/// What was scratched, behind the instruction printed last, or on a line of its own.
pub(crate) fn print_insn_state(env: &mut Env<'_>, frameno: u8) {
    if !env.log.is_on() {
        return;
    }
    if env.prev_log_position != 0 && env.prev_log_position == env.log.position() {
        // Back over the line end.
        env.log.reset_to(env.prev_log_position - 1);
        let printed = env.prev_insn_print_bytes;
        let column = (printed + LOG_ALIGN_MIN / 2)
            .max(LOG_ALIGN)
            .next_multiple_of(LOG_ALIGN_MIN);
        let spaces = (column - printed - 1) as usize;
        vlog!(env.log, "{:>spaces$};", ' ');
    } else {
        vlog!(env.log, "{}:", env.insn_idx);
    }
    let which = Which::Scratched {
        regs: env.scratched_regs,
        slots: env.scratched_slots,
    };
    // Writing to the sink cannot fail.
    let _ = write_state(env.log.out(), env.facts, &env.cur, frameno, which);
    env.scratched_regs = 0;
    env.scratched_slots = 0;
}
