//! The grammar of one instruction of assembler text. No recursion: an instruction is flat. Neighbours: `asm_cursor` (tokens),
//! `asm` (labels and the whole program), `table` (the symbols, read here by the same rows that write them).

use alloc::format;

use crate::asm::{AsmError, AsmResolve};
use crate::asm_cursor::{Cursor, Distance, Place, longest};
use crate::asm_memory::{atomic_result, load, locked, store, store_release};
use crate::{
    AluOp, AtomicOp, CallTarget, EndianOp, Imm64, Insn, InternalInsn, JmpOp, MemSize, Operand,
    RawInsn, Reg, Width,
};

/// An instruction's slots; the distance of one with a `place` is still to be set.
pub(crate) struct Parsed<'a> {
    slots: [RawInsn; 2],
    count: usize,
    pub(crate) place: Option<Place<'a>>,
}

impl Parsed<'_> {
    pub(crate) fn slots(&self) -> &[RawInsn] {
        &self.slots[..self.count]
    }
}

/// What a statement is before it is encoded.
struct Statement<'a> {
    insn: Insn,
    place: Option<Place<'a>>,
}

impl From<Insn> for Statement<'_> {
    fn from(insn: Insn) -> Self {
        Statement { insn, place: None }
    }
}

/// Parses one instruction.
pub(crate) fn instruction<'a>(
    c: &mut Cursor<'a>,
    names: &impl AsmResolve,
) -> Result<Parsed<'a>, AsmError> {
    let start = c.at;
    if c.take(".slot") {
        return raw_slot(c);
    }
    let statement = statement(c, names)?;
    let slots = statement.insn.encode().map_err(|error| {
        c.at = start;
        c.error(error.reason)
    })?;
    let second = slots.get(1).copied().unwrap_or_default();
    Ok(Parsed {
        slots: [slots[0], second],
        count: slots.len(),
        place: statement.place,
    })
}

/// `.slot code dst src off imm`
fn raw_slot<'a>(c: &mut Cursor<'a>) -> Result<Parsed<'a>, AsmError> {
    let code = c.ranged("an opcode")?;
    let mut register = || {
        let start = c.at;
        let number: u8 = c.ranged("a register field")?;
        if number < 16 {
            return Ok(number);
        }
        c.at = start;
        Err(c.error("a register field holds 0 to 15"))
    };
    let (dst, src) = (register()?, register()?);
    let off = c.ranged("an offset of 16 bits")?;
    let imm = c.imm32(true)?;
    let slot = RawInsn::new(code, dst, src, off, imm);
    Ok(Parsed {
        slots: [slot, RawInsn::default()],
        count: 1,
        place: None,
    })
}

fn statement<'a>(c: &mut Cursor<'a>, names: &impl AsmResolve) -> Result<Statement<'a>, AsmError> {
    if c.rest().starts_with('*') {
        return store(c).map(Statement::from);
    }
    if c.is_register() {
        return register_statement(c, names);
    }
    let word = c.peek_word();
    match word {
        "exit" => {
            c.advance(word.len());
            Ok(Insn::Exit.into())
        }
        "goto" | "may_goto" => {
            c.advance(word.len());
            let column = c.at;
            let (off, place) = offset_of(c, column)?;
            let insn = if word == "goto" {
                Insn::Ja { off }
            } else {
                Insn::MayGoto { off }
            };
            Ok(Statement { insn, place })
        }
        "gotol" => {
            c.advance(word.len());
            let (off, place) = match c.place()? {
                Distance::Slots(off) => (off, None),
                Distance::Label(place) => (0, Some(place)),
            };
            Ok(Statement {
                insn: Insn::Jal { off },
                place,
            })
        }
        "if" => {
            c.advance(word.len());
            conditional(c)
        }
        "call" => {
            c.advance(word.len());
            call(c, names)
        }
        "lock" => {
            c.advance(word.len());
            locked(c).map(Statement::from)
        }
        "store_release" => {
            c.advance(word.len());
            store_release(c).map(Statement::from)
        }
        "nospec" => {
            c.advance(word.len());
            Ok(Insn::from(InternalInsn::Nospec).into())
        }
        "tail_call" => {
            c.advance(word.len());
            Ok(Insn::from(InternalInsn::TailCall).into())
        }
        "probe" | "arena" => {
            let start = c.at;
            c.advance(word.len());
            let plain = if c.rest().starts_with('*') {
                store(c)?.into()
            } else if c.is_register() {
                register_statement(c, names)?
            } else if c.take_word("lock") {
                locked(c)?.into()
            } else if c.take_word("store_release") {
                store_release(c)?.into()
            } else {
                return Err(c.error("expected a load, a store or an atomic operation"));
            };
            internal(word, plain.insn)
                .map(Statement::from)
                .ok_or_else(|| {
                    c.at = start;
                    c.error(format!("there is no '{word}' form of this instruction"))
                })
        }
        "" => Err(c.error("expected an instruction")),
        other => Err(c.error(format!("'{other}' begins no instruction"))),
    }
}

/// The internal form of a plain instruction.
fn internal(word: &str, plain: Insn) -> Option<Insn> {
    let insn = match (word, plain) {
        (
            "probe",
            Insn::Load {
                size,
                mode,
                dst,
                src,
                off,
            },
        ) => InternalInsn::ProbeLoad {
            size,
            mode,
            dst,
            src,
            off,
        },
        (
            "arena",
            Insn::Load {
                size,
                mode,
                dst,
                src,
                off,
            },
        ) => InternalInsn::ArenaLoad {
            size,
            mode,
            dst,
            src,
            off,
        },
        (
            "arena",
            Insn::Store {
                size,
                dst,
                off,
                src,
            },
        ) => InternalInsn::ArenaStore {
            size,
            dst,
            off,
            src,
        },
        (
            "arena",
            Insn::Atomic {
                op,
                size,
                dst,
                src,
                off,
            },
        ) => InternalInsn::ArenaAtomic {
            op,
            size,
            dst,
            src,
            off,
        },
        _ => return None,
    };
    Some(insn.into())
}

fn offset_of<'a>(c: &mut Cursor<'a>, start: usize) -> Result<(i16, Option<Place<'a>>), AsmError> {
    match c.place()? {
        Distance::Label(place) => Ok((0, Some(place))),
        Distance::Slots(distance) => match i16::try_from(distance) {
            Ok(off) => Ok((off, None)),
            Err(_) => {
                c.at = start;
                Err(c.error(format!("{distance} does not fit a distance of 16 bits")))
            }
        },
    }
}

/// After `if`.
fn conditional<'a>(c: &mut Cursor<'a>) -> Result<Statement<'a>, AsmError> {
    let (width, dst) = c.register()?;
    let op = longest(c, JmpOp::ALL, JmpOp::symbol)
        .ok_or_else(|| c.error("expected a comparison: == != > >= < <= s> s>= s< s<= &"))?;
    let src = if c.is_register() {
        Operand::Reg(c.register_of(width)?)
    } else {
        Operand::Imm(c.imm32(true)?)
    };
    c.expect_word("goto")?;
    let start = c.at;
    let (off, place) = offset_of(c, start)?;
    Ok(Statement {
        insn: Insn::Jmp {
            width,
            op,
            dst,
            src,
            off,
        },
        place,
    })
}

/// After `call`.
fn call<'a>(c: &mut Cursor<'a>, names: &impl AsmResolve) -> Result<Statement<'a>, AsmError> {
    let start = c.at;
    if c.take("#") {
        let id = c.ranged("a helper id of 32 bits")?;
        return Ok(Insn::Call(CallTarget::Helper(id)).into());
    }
    let word = c.peek_word();
    let after = &c.rest()[word.len()..];
    if word == "btf" && after.starts_with('[') {
        c.advance(word.len());
        let (id, btf_idx) = btf_operand(c, names)?;
        let btf_idx = i16::try_from(btf_idx).map_err(|_| {
            c.at = start;
            c.error("the index of a module BTF has 16 bits")
        })?;
        return Ok(Insn::Call(CallTarget::Kfunc { id, btf_idx }).into());
    }
    if !word.is_empty() && after.starts_with('#') {
        c.advance(word.len() + 1);
        let id = c.ranged("a helper id of 32 bits")?;
        if names.helper_id(word).is_some_and(|known| known != id) {
            c.at = start;
            return Err(c.error(format!("helper {word} does not have the number {id}")));
        }
        return Ok(Insn::Call(CallTarget::Helper(id)).into());
    }
    if let Some(id) = names.helper_id(word) {
        c.advance(word.len());
        return Ok(Insn::Call(CallTarget::Helper(id)).into());
    }
    let (distance, place) = match c.place()? {
        Distance::Slots(distance) => (distance, None),
        Distance::Label(place) => (0, Some(place)),
    };
    Ok(Statement {
        insn: Insn::Call(CallTarget::Subprog(distance)),
        place,
    })
}

/// `[12]` or `[12, 3]` after `btf`.
fn btf_operand(c: &mut Cursor<'_>, names: &impl AsmResolve) -> Result<(i32, i32), AsmError> {
    c.expect("[")?;
    let id = index(c, "a BTF id", |name| names.btf_id(name))?;
    let second = if c.take(",") {
        index(c, "a BTF fd", |_| None)?
    } else {
        0
    };
    c.expect("]")?;
    Ok((id, second))
}

/// A number of 32 bits, signed or not, or a name that `resolve` knows.
fn index(
    c: &mut Cursor<'_>,
    what: &str,
    resolve: impl Fn(&str) -> Option<i32>,
) -> Result<i32, AsmError> {
    let word = c.peek_word();
    if word.is_empty() {
        return c.imm32(true);
    }
    let found =
        resolve(word).ok_or_else(|| c.error(format!("'{word}' is not {what} known here")))?;
    c.advance(word.len());
    Ok(found)
}

/// What begins with a register: arithmetic, loads, everything with `=`.
fn register_statement<'a>(
    c: &mut Cursor<'a>,
    names: &impl AsmResolve,
) -> Result<Statement<'a>, AsmError> {
    let (width, dst) = c.register()?;
    let op = longest(c, AluOp::ALL, AluOp::symbol)
        .ok_or_else(|| c.error("expected an assignment or an operation such as += or s>>="))?;
    if op != AluOp::Mov {
        let src = alu_operand(c, width)?;
        return Ok(Insn::Alu {
            width,
            op,
            dst,
            src,
        }
        .into());
    }
    if c.is_register() {
        let src = Operand::Reg(c.register_of(width)?);
        return Ok(Insn::Alu {
            width,
            op,
            dst,
            src,
        }
        .into());
    }
    if c.is_number() {
        return constant(c, width, dst).map(Statement::from);
    }
    if c.rest().starts_with('-') {
        return negation(c, width, dst).map(Statement::from);
    }
    if c.rest().starts_with('(') {
        return sign_extension(c, width, dst).map(Statement::from);
    }
    if width == Width::W32 {
        return Err(c.error("expected a register 'wN' or a number"));
    }
    if c.rest().starts_with('*') {
        return load(c, dst).map(Statement::from);
    }
    if c.rest().starts_with('&') {
        for token in ["&", "(", "void", "__percpu", "*", ")", "("] {
            c.expect(token)?;
        }
        let src = c.wide_register()?;
        c.expect(")")?;
        return Ok(Insn::from(InternalInsn::PercpuAddr { dst, src }).into());
    }
    named_value(c, dst, names)
}

fn alu_operand(c: &mut Cursor<'_>, width: Width) -> Result<Operand, AsmError> {
    if c.is_register() {
        return Ok(Operand::Reg(c.register_of(width)?));
    }
    Ok(Operand::Imm(c.imm32(width == Width::W32)?))
}

/// `r1 = 5` or `r1 = 0x1122334455 ll`
fn constant(c: &mut Cursor<'_>, width: Width, dst: Reg) -> Result<Insn, AsmError> {
    let start = c.at;
    let value = c.number()?;
    if width == Width::W64 && c.take_word("ll") {
        let value = if value < 0 {
            i64::try_from(value).map(|v| v as u64)
        } else {
            u64::try_from(value)
        };
        let value = value.map_err(|_| {
            c.at = start;
            c.error("the value does not fit 64 bits")
        })?;
        return Ok(Insn::LoadImm64 {
            dst,
            value: Imm64::Value(value),
        });
    }
    c.at = start;
    let src = Operand::Imm(c.imm32(width == Width::W32)?);
    Ok(Insn::Alu {
        width,
        op: AluOp::Mov,
        dst,
        src,
    })
}

/// `r1 = -r1`
fn negation(c: &mut Cursor<'_>, width: Width, dst: Reg) -> Result<Insn, AsmError> {
    c.expect("-")?;
    let start = c.at;
    if c.register_of(width)? != dst {
        c.at = start;
        return Err(c.error("a negation's operand is its destination"));
    }
    Ok(Insn::Neg { width, dst })
}

/// `r1 = (s8)r2`
fn sign_extension(c: &mut Cursor<'_>, width: Width, dst: Reg) -> Result<Insn, AsmError> {
    c.expect("(")?;
    let word = c.peek_word();
    let from = word
        .strip_prefix('s')
        .and_then(|bits| bits.parse().ok())
        .and_then(MemSize::from_bits);
    let from = from.ok_or_else(|| c.error("expected s8, s16 or s32"))?;
    c.advance(word.len());
    c.expect(")")?;
    let src = c.register_of(width)?;
    Ok(Insn::Movsx {
        width,
        from,
        dst,
        src,
    })
}

/// `be16 r1`, atomics with a result, address space casts, and the operands of two-slot loads.
fn named_value<'a>(
    c: &mut Cursor<'a>,
    dst: Reg,
    names: &impl AsmResolve,
) -> Result<Statement<'a>, AsmError> {
    let start = c.at;
    let word = c.peek_word();
    let endian = EndianOp::ALL.iter().find_map(|op| {
        let bits = word.strip_prefix(op.symbol())?.parse().ok()?;
        Some((*op, MemSize::from_bits(bits)?))
    });
    c.advance(word.len());
    if let Some((op, size)) = endian {
        let operand = c.at;
        if c.wide_register()? != dst {
            c.at = operand;
            return Err(c.error("the operand of a byte-order operation is its destination"));
        }
        return Ok(Insn::Endian { op, size, dst }.into());
    }
    match word {
        "addr_space_cast" => {
            c.expect("(")?;
            let src = c.wide_register()?;
            c.expect(",")?;
            let dst_as = c.ranged("an address space of 16 bits")?;
            c.expect(",")?;
            let src_as = c.ranged("an address space of 16 bits")?;
            c.expect(")")?;
            Ok(Insn::AddrSpaceCast {
                dst,
                src,
                dst_as,
                src_as,
            }
            .into())
        }
        "load_acquire" => {
            c.expect("(")?;
            let (_, size) = c.cast()?;
            let (src, off) = c.address()?;
            c.expect(")")?;
            Ok(Insn::Atomic {
                op: AtomicOp::LoadAcquire,
                size,
                dst,
                src,
                off,
            }
            .into())
        }
        "map" | "map_idx" | "btf" | "func" => imm64(c, dst, word, names),
        _ => match word.strip_prefix("atomic") {
            Some(name) => atomic_result(c, dst, name).map(Statement::from),
            None => {
                c.at = start;
                Err(c.error("expected a register, a number, a load or a named value"))
            }
        },
    }
}

/// `map[5]`, `map[5]+8`, `map_idx[0]`, `btf[12]`, `func[+7]`, `func[label]`, each with `ll`.
fn imm64<'a>(
    c: &mut Cursor<'a>,
    dst: Reg,
    word: &str,
    names: &impl AsmResolve,
) -> Result<Statement<'a>, AsmError> {
    let mut place = None;
    let value = match word {
        "btf" => {
            let (id, btf_fd) = btf_operand(c, names)?;
            Imm64::BtfId {
                id: id as u32,
                btf_fd: btf_fd as u32,
            }
        }
        "func" => {
            c.expect("[")?;
            let distance = match c.place()? {
                Distance::Slots(distance) => distance,
                Distance::Label(label) => {
                    place = Some(label);
                    0
                }
            };
            c.expect("]")?;
            Imm64::Func(distance)
        }
        _ => {
            c.expect("[")?;
            let number = index(c, "a map", |name| names.map(name))?;
            c.expect("]")?;
            let off: Option<u32> = if c.take("+") {
                Some(c.ranged("an offset of 32 bits")?)
            } else {
                None
            };
            match (word, off) {
                ("map", None) => Imm64::MapFd(number),
                ("map", Some(off)) => Imm64::MapValue { fd: number, off },
                (_, None) => Imm64::MapIdx(number),
                (_, Some(off)) => Imm64::MapIdxValue { idx: number, off },
            }
        }
    };
    c.expect_word("ll")?;
    Ok(Statement {
        insn: Insn::LoadImm64 { dst, value },
        place,
    })
}
