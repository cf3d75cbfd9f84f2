//! The assembler's text of an instruction: the kernel's text (see `disasm`) where that says everything, a form of its own
//! where it does not. `asm` reads it back to the same slots.
//!
//! Differences from the kernel's text: a two-slot load ends in `ll` and names its variant (`map[5]`, `map[5]+8`,
//! `map_idx[0]`, `btf[12]`, `btf[12, 3]`, `func[+7]`), a call of a kernel function is `call btf[12]` (`call btf[12, 1]` with
//! an index into fd_array), a helper call without a known name is `call #1`. Slots that do not decode are written as
//! `.slot code dst src off imm`.

use core::fmt;

use crate::disasm::{Names, NoNames, disasm};
use crate::{CallTarget, DecodeError, Imm64, Insn, InternalInsn, RawInsn, decode_xlated};

/// Names that the assembler's text may use; every name is only a decoration of the number beside it.
pub trait AsmNames {
    /// The name of this helper, without the number: `bpf_map_lookup_elem`.
    fn helper(&self, id: i32) -> Option<&str> {
        let _ = id;
        None
    }
}

impl AsmNames for NoNames {}

/// The assembler's text of one instruction, with its `(op)` prefix.
#[derive(Clone, Copy)]
pub struct AsmText<'a, N: AsmNames> {
    insns: &'a [RawInsn],
    names: &'a N,
}

/// The assembler's text of the instruction at the start of `insns`.
///
/// ```
/// use ring3_isa::{NoNames, RawInsn, asm_text, parse_asm};
/// let slots = [RawInsn::new(0x18, 1, 2, 0, 5), RawInsn::new(0, 0, 0, 0, 8)];
/// let text = asm_text(&slots, &NoNames).to_string();
/// assert_eq!(text, "(18) r1 = map[5]+8 ll");
/// assert_eq!(parse_asm(&text, &NoNames).unwrap().insns, slots);
/// ```
pub fn asm_text<'a, N: AsmNames>(insns: &'a [RawInsn], names: &'a N) -> AsmText<'a, N> {
    AsmText { insns, names }
}

impl<N: AsmNames> AsmText<'_, N> {
    /// Number of slots that the text stands for: 2 for a two-slot load, else 1 (0 at the end of a program).
    pub fn slots(&self) -> usize {
        self.decoded()
            .map_or(self.insns.len().min(1), |insn| insn.slots())
    }

    fn decoded(&self) -> Result<Insn, DecodeError> {
        decode_xlated(self.insns, 0).map(|(insn, _)| insn)
    }
}

/// Supplies the parts of the kernel's text that differ.
struct Operands<'a, N: AsmNames> {
    value: Option<Imm64>,
    names: &'a N,
}

impl<N: AsmNames> Names for Operands<'_, N> {
    fn helper(&self, f: &mut fmt::Formatter<'_>, id: i32) -> fmt::Result {
        f.write_str(self.names.helper(id).unwrap_or(""))
    }

    fn imm64(&self, f: &mut fmt::Formatter<'_>, _first: RawInsn, imm: u64) -> fmt::Result {
        match self.value {
            None | Some(Imm64::Value(_)) => write!(f, "{imm:#x} ll"),
            Some(Imm64::MapFd(fd)) => write!(f, "map[{fd}] ll"),
            Some(Imm64::MapValue { fd, off }) => write!(f, "map[{fd}]+{off} ll"),
            Some(Imm64::BtfId { id, btf_fd: 0 }) => write!(f, "btf[{id}] ll"),
            Some(Imm64::BtfId { id, btf_fd }) => write!(f, "btf[{id}, {btf_fd}] ll"),
            Some(Imm64::Func(distance)) => write!(f, "func[{distance:+}] ll"),
            Some(Imm64::MapIdx(idx)) => write!(f, "map_idx[{idx}] ll"),
            Some(Imm64::MapIdxValue { idx, off }) => write!(f, "map_idx[{idx}]+{off} ll"),
        }
    }
}

impl<N: AsmNames> fmt::Display for AsmText<'_, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(&raw) = self.insns.first() else {
            return Ok(());
        };
        let operands = |value| Operands {
            value,
            names: self.names,
        };
        match self.decoded() {
            Err(_) => {
                let (dst, src) = (raw.dst(), raw.src());
                write!(
                    f,
                    ".slot {:#04x} {dst} {src} {} {}",
                    raw.code, raw.off, raw.imm
                )
            }
            Ok(Insn::LoadImm64 { value, .. }) => {
                write!(f, "{}", disasm(self.insns, &operands(Some(value))))
            }
            Ok(Insn::Call(CallTarget::Kfunc { id, btf_idx: 0 })) => {
                write!(f, "({:02x}) call btf[{id}]", raw.code)
            }
            Ok(Insn::Call(CallTarget::Kfunc { id, btf_idx })) => {
                write!(f, "({:02x}) call btf[{id}, {btf_idx}]", raw.code)
            }
            Ok(Insn::Internal(insn)) => internal(f, raw, insn),
            Ok(
                Insn::Alu { .. }
                | Insn::Neg { .. }
                | Insn::Movsx { .. }
                | Insn::Endian { .. }
                | Insn::AddrSpaceCast { .. }
                | Insn::LoadAbs { .. }
                | Insn::LoadInd { .. }
                | Insn::Load { .. }
                | Insn::Store { .. }
                | Insn::Atomic { .. }
                | Insn::Jmp { .. }
                | Insn::Ja { .. }
                | Insn::Jal { .. }
                | Insn::MayGoto { .. }
                | Insn::Call(CallTarget::Helper(_) | CallTarget::Subprog(_))
                | Insn::Exit,
            ) => write!(f, "{}", disasm(self.insns, &operands(None))),
        }
    }
}

/// Internal forms read as the program's form after a word: `probe r0 = *(u32 *)(r1 +0)`.
fn internal(f: &mut fmt::Formatter<'_>, raw: RawInsn, insn: InternalInsn) -> fmt::Result {
    let (word, plain) = match insn {
        InternalInsn::Nospec | InternalInsn::PercpuAddr { .. } => {
            return write!(f, "{}", disasm(&[raw], &NoNames));
        }
        InternalInsn::TailCall => return write!(f, "({:02x}) tail_call", raw.code),
        InternalInsn::ProbeLoad {
            size,
            mode,
            dst,
            src,
            off,
        } => (
            "probe",
            Insn::Load {
                size,
                mode,
                dst,
                src,
                off,
            },
        ),
        InternalInsn::ArenaLoad {
            size,
            mode,
            dst,
            src,
            off,
        } => (
            "arena",
            Insn::Load {
                size,
                mode,
                dst,
                src,
                off,
            },
        ),
        InternalInsn::ArenaStore {
            size,
            dst,
            off,
            src,
        } => (
            "arena",
            Insn::Store {
                size,
                dst,
                off,
                src,
            },
        ),
        InternalInsn::ArenaAtomic {
            op,
            size,
            dst,
            src,
            off,
        } => (
            "arena",
            Insn::Atomic {
                op,
                size,
                dst,
                src,
                off,
            },
        ),
    };
    // The plain form exists: the internal one was decoded with the same sizes.
    let slots = plain.encode().map_err(|_| fmt::Error)?;
    write!(f, "({:02x}) {word} ", raw.code)?;
    Tail {
        skip: PREFIX_BYTES,
        out: f,
    }
    .write(format_args!("{}", disasm(&slots, &NoNames)))
}

/// Bytes of `(07) `.
const PREFIX_BYTES: usize = 5;

/// Drops the first bytes of what is written.
struct Tail<'a, 'f> {
    skip: usize,
    out: &'a mut fmt::Formatter<'f>,
}

impl Tail<'_, '_> {
    fn write(&mut self, args: fmt::Arguments<'_>) -> fmt::Result {
        fmt::write(self, args)
    }
}

impl fmt::Write for Tail<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let dropped = self.skip.min(text.len());
        self.skip -= dropped;
        self.out.write_str(text.get(dropped..).unwrap_or(""))
    }
}
