//! The kernel's text of an instruction, to the byte of `print_bpf_insn` as the verifier's log and `bpftool` show it. It
//! works on raw slots, since the log also shows encodings that `decode` refuses. Names come from [`Names`]. Lossy: offsets
//! become text, `ld_imm64` variants may look alike; the text that reads back is `text`.
//!
//! # Source
//! Observed: logs of the running 6.18 kernel at log level 2 over one program per opcode and variant.

use core::fmt;

use crate::table;
use crate::{AtomicOp, LoadMode, MemSize, RawInsn};

/// Where the names and values in kernel-style text come from. Every method has the kernel's default.
pub trait Names {
    /// Writes what stands before `#ID` in a helper call; the kernel writes `unknown` for an id it does not know.
    ///
    /// # Errors
    /// Those of the formatter.
    fn helper(&self, f: &mut fmt::Formatter<'_>, id: i32) -> fmt::Result {
        let _ = id;
        f.write_str("unknown")
    }

    /// Writes the name of the kernel function with this BTF id, of the module BTF at `btf_idx` of fd_array (0: vmlinux).
    ///
    /// # Errors
    /// Those of the formatter.
    fn kfunc(&self, f: &mut fmt::Formatter<'_>, id: i32, btf_idx: i16) -> fmt::Result {
        let _ = (id, btf_idx);
        f.write_str("unknown")
    }

    /// Writes the target of a call of a subprogram: `pc+3`.
    ///
    /// # Errors
    /// Those of the formatter.
    fn subprog(&self, f: &mut fmt::Formatter<'_>, distance: i32) -> fmt::Result {
        write!(f, "pc{distance:+}")
    }

    /// Writes the value of a two-slot load, whose first slot is `first` and whose immediates together are `imm`.
    ///
    /// # Errors
    /// Those of the formatter.
    fn imm64(&self, f: &mut fmt::Formatter<'_>, first: RawInsn, imm: u64) -> fmt::Result {
        let _ = first;
        write!(f, "{imm:#x}")
    }
}

/// No names: `unknown` for calls, plain numbers elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNames;

impl Names for NoNames {}

/// The kernel's text of the instruction at the start of `insns`, such as `(07) r1 += 8`, without a line end.
///
/// A two-slot load whose second slot is missing shows the upper half as zero.
#[derive(Clone, Copy)]
pub struct Disasm<'a, N: Names> {
    insns: &'a [RawInsn],
    names: &'a N,
    hide_pointers: bool,
}

/// The kernel's text of the instruction at the start of `insns`.
///
/// ```
/// use ring3_isa::{NoNames, RawInsn, disasm};
/// let insn = RawInsn::from_bytes([0x79, 0x12, 0xf8, 0xff, 0, 0, 0, 0]);
/// assert_eq!(disasm(&[insn], &NoNames).to_string(), "(79) r2 = *(u64 *)(r1 -8)");
/// ```
pub fn disasm<'a, N: Names>(insns: &'a [RawInsn], names: &'a N) -> Disasm<'a, N> {
    Disasm {
        insns,
        names,
        hide_pointers: false,
    }
}

impl<N: Names> Disasm<'_, N> {
    /// Shows map addresses as 0, as the kernel does for loaders that may not see pointers.
    pub fn hide_pointers(mut self, hide: bool) -> Self {
        self.hide_pointers = hide;
        self
    }
}

/// A memory operand after the type: `(r1 +8)`.
struct Mem(u8, i16);

impl fmt::Display for Mem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(r{} {:+})", self.0, self.1)
    }
}

impl<N: Names> fmt::Display for Disasm<'_, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(&insn) = self.insns.first() else {
            return Ok(());
        };
        match insn.class() {
            table::ALU | table::ALU64 => alu(f, insn),
            table::STX => stx(f, insn),
            table::ST => match insn.code & 0xe0 {
                table::MEM => {
                    let (size, mem) = (MemSize::of_code(insn.code), Mem(insn.dst(), insn.off));
                    write!(
                        f,
                        "({:02x}) *(u{} *){mem} = {}",
                        insn.code,
                        size.bits(),
                        insn.imm
                    )
                }
                table::NOSPEC => write!(f, "({:02x}) nospec", insn.code),
                _ => write!(f, "BUG_st_{:02x}", insn.code),
            },
            table::LDX => {
                let letter = match insn.code & 0xe0 {
                    table::MEM => LoadMode::ZeroExtend.letter(),
                    table::MEMSX => LoadMode::SignExtend.letter(),
                    _ => return write!(f, "BUG_ldx_{:02x}", insn.code),
                };
                let (size, mem) = (MemSize::of_code(insn.code), Mem(insn.src(), insn.off));
                write!(
                    f,
                    "({:02x}) r{} = *({letter}{} *){mem}",
                    insn.code,
                    insn.dst(),
                    size.bits()
                )
            }
            table::LD => self.ld(f, insn),
            _ => self.jmp(f, insn),
        }
    }
}

fn alu(f: &mut fmt::Formatter<'_>, insn: RawInsn) -> fmt::Result {
    let (code, dst, src) = (insn.code, insn.dst(), insn.src());
    let wide = insn.class() == table::ALU64;
    let letter = if wide { 'r' } else { 'w' };
    let register_operand = code & table::X != 0;
    match code & 0xf0 {
        table::OP_END if wide => {
            return write!(f, "({code:02x}) r{dst} = bswap{} r{dst}", insn.imm);
        }
        table::OP_END => {
            let name = if register_operand { "be" } else { "le" };
            return write!(f, "({code:02x}) r{dst} = {name}{} r{dst}", insn.imm);
        }
        table::OP_NEG => return write!(f, "({code:02x}) {letter}{dst} = -{letter}{dst}"),
        table::OP_MOV if wide && register_operand && insn.off == table::OFF_ADDR_SPACE_CAST => {
            let spaces = insn.imm as u32;
            let (to, from) = (spaces >> 16, spaces & 0xffff);
            return write!(
                f,
                "({code:02x}) r{dst} = addr_space_cast(r{src}, {to}, {from})"
            );
        }
        table::OP_MOV if wide && register_operand && insn.off == table::OFF_PERCPU => {
            return write!(f, "({code:02x}) r{dst} = &(void __percpu *)(r{src})");
        }
        _ => {}
    }
    let selector = i16::from(insn.off == 1);
    let symbol = table::alu_op(code, selector)
        .or_else(|| table::alu_op(code, 0))
        .map_or("(null)", |op| op.symbol());
    if !register_operand {
        return write!(f, "({code:02x}) {letter}{dst} {symbol} {}", insn.imm);
    }
    let cast = match (code & 0xf0, insn.off) {
        (table::OP_MOV, 8) => "(s8)",
        (table::OP_MOV, 16) => "(s16)",
        (table::OP_MOV, 32) => "(s32)",
        _ => "",
    };
    write!(f, "({code:02x}) {letter}{dst} {symbol} {cast}{letter}{src}")
}

fn stx(f: &mut fmt::Formatter<'_>, insn: RawInsn) -> fmt::Result {
    let (code, dst, src) = (insn.code, insn.dst(), insn.src());
    let size = MemSize::of_code(code);
    let bits = size.bits();
    let mem = Mem(dst, insn.off);
    match code & 0xe0 {
        table::MEM => write!(f, "({code:02x}) *(u{bits} *){mem} = r{src}"),
        table::ATOMIC => {
            let Some(op) = table::atomic_op(insn.imm) else {
                return write!(f, "BUG_{code:02x}");
            };
            let wide = if size == MemSize::Dw { "64" } else { "" };
            let name = op.symbol();
            match op {
                AtomicOp::Add { fetch: false }
                | AtomicOp::Or { fetch: false }
                | AtomicOp::And { fetch: false }
                | AtomicOp::Xor { fetch: false } => {
                    write!(f, "({code:02x}) lock *(u{bits} *){mem} {name} r{src}")
                }
                AtomicOp::Add { fetch: true }
                | AtomicOp::Or { fetch: true }
                | AtomicOp::And { fetch: true }
                | AtomicOp::Xor { fetch: true }
                | AtomicOp::Xchg => {
                    write!(
                        f,
                        "({code:02x}) r{src} = atomic{wide}_{name}((u{bits} *){mem}, r{src})"
                    )
                }
                AtomicOp::Cmpxchg => {
                    write!(
                        f,
                        "({code:02x}) r0 = atomic{wide}_{name}((u{bits} *){mem}, r0, r{src})"
                    )
                }
                AtomicOp::LoadAcquire => {
                    let mem = Mem(src, insn.off);
                    write!(f, "({code:02x}) r{dst} = {name}((u{bits} *){mem})")
                }
                AtomicOp::StoreRelease => {
                    write!(f, "({code:02x}) {name}((u{bits} *){mem}, r{src})")
                }
            }
        }
        _ => write!(f, "BUG_{code:02x}"),
    }
}

impl<N: Names> Disasm<'_, N> {
    fn ld(&self, f: &mut fmt::Formatter<'_>, insn: RawInsn) -> fmt::Result {
        let (code, src, imm) = (insn.code, insn.src(), insn.imm);
        let size = MemSize::of_code(code);
        match code & 0xe0 {
            table::ABS => write!(f, "({code:02x}) r0 = *(u{} *)skb[{imm}]", size.bits()),
            table::IND => write!(
                f,
                "({code:02x}) r0 = *(u{} *)skb[r{src} + {imm}]",
                size.bits()
            ),
            table::IMM if size == MemSize::Dw => {
                let high = self.insns.get(1).map_or(0, |second| second.imm);
                let mut value = u64::from(imm as u32) | (u64::from(high as u32) << 32);
                if self.hide_pointers
                    && matches!(src, table::PSEUDO_MAP_FD | table::PSEUDO_MAP_VALUE)
                {
                    value = 0;
                }
                write!(f, "({code:02x}) r{} = ", insn.dst())?;
                self.names.imm64(f, insn, value)
            }
            _ => write!(f, "BUG_ld_{code:02x}"),
        }
    }

    fn jmp(&self, f: &mut fmt::Formatter<'_>, insn: RawInsn) -> fmt::Result {
        let RawInsn { code, off, imm, .. } = insn;
        let (dst, src) = (insn.dst(), insn.src());
        let wide = insn.class() == table::JMP;
        match (code & 0xf0, code & table::X != 0) {
            (table::OP_CALL, _) => {
                write!(f, "({code:02x}) call ")?;
                match src {
                    table::PSEUDO_CALL => return self.names.subprog(f, imm),
                    table::PSEUDO_KFUNC_CALL => self.names.kfunc(f, imm, off)?,
                    0 => self.names.helper(f, imm)?,
                    _ => f.write_str("unknown")?,
                }
                write!(f, "#{imm}")
            }
            (table::OP_JA, false) if wide => write!(f, "({code:02x}) goto pc{off:+}"),
            (table::OP_JCOND, false) if wide && src == 0 => {
                write!(f, "({code:02x}) may_goto pc{off:+}")
            }
            (table::OP_JA, false) => write!(f, "({code:02x}) gotol pc{imm:+}"),
            (table::OP_EXIT, false) if wide => write!(f, "({code:02x}) exit"),
            (op, register_operand) => {
                let symbol = match op {
                    table::OP_JA => "jmp",
                    table::OP_EXIT => "exit",
                    _ => table::jmp_op(code).map_or("(null)", |op| op.symbol()),
                };
                let letter = if wide { 'r' } else { 'w' };
                write!(f, "({code:02x}) if {letter}{dst} {symbol} ")?;
                if register_operand {
                    write!(f, "{letter}{src} goto pc{off:+}")
                } else {
                    write!(f, "{imm:#x} goto pc{off:+}")
                }
            }
        }
    }
}
