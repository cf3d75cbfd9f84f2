//! Random programs that the verifier mostly accepts, for differential tests. Key types: [`Rng`], [`Generated`].
//!
//! | file | what |
//! |---|---|
//! | `engines` | programs whose result shows every difference: [`program`] |
//! | `proof` | programs that the verifier has to reason about: [`proof::program`] |
//! | `helpers` | programs that call helpers, by their prototypes: [`helpers::program`] |
//! | `sequences` | helpers that need more than a prototype |
//! | `steps`, `calls` | steps that both are made of |
//! | `phrases` | runs that the compiler's rules know |
//!
//! Maps are named by the numbers of [`MAPS`].

mod calls;
mod engines;
#[cfg(feature = "engines")]
pub mod helpers;
mod insns;
mod phrases;
pub mod proof;
mod rng;
#[cfg(feature = "engines")]
mod sequences;
mod steps;

use ring3_btf::{Btf, FuncLinkage, IntEncoding, Kind, TypeId};
use ring3_isa::{AluOp, CallTarget, Imm64, Insn, MemSize, Operand, RawInsn, Reg, Width};
use ring3_spec::InfoRecords;
use ring3_uapi::{FuncId, MapType, ProgType};

pub use engines::program;
pub use rng::Rng;

use insns::{SCALARS, alu, mov, mov_imm, slots};

/// Maps that generated programs use, by number: type, key bytes, value bytes, entries.
pub const MAPS: &[(MapType, u32, u32, u32)] = &[
    (MapType::Array, 4, 16, 4),
    (MapType::Hash, 4, 16, 4),
    (MapType::PercpuArray, 4, 8, 2),
    (MapType::Hash, 8, 8, 8),
    (MapType::ProgArray, 4, 4, 2),
    (MapType::PercpuHash, 4, 8, 4),
    (MapType::Array, 4, 64, 2),
    (MapType::Ringbuf, 0, 0, 4096),
];
/// The prog array among [`MAPS`]; slot 1 is for [`tail_target`].
pub const PROG_ARRAY: i32 = 4;
/// The array among [`MAPS`] whose values have room for offsets.
const VALUES: i32 = 6;
/// The ring buffer among [`MAPS`].
const RINGBUF: i32 = 7;

/// Bytes of packet that programs check for and touch.
const PACKET_BYTES: i16 = 32;
/// Stack bytes with scalars, below r10.
const STACK_BYTES: i16 = 64;
/// Where keys and values for helpers are put, below the scalars.
const SCRATCH: i16 = -96;

/// A generated program.
#[derive(Clone, Debug)]
pub struct Generated {
    /// XDP, tc classifier or socket filter.
    pub prog_type: ProgType,
    /// Instructions.
    pub insns: Vec<RawInsn>,
    /// First slots of the functions, the main program's 0 first.
    pub functions: Vec<u32>,
    /// Names maps of `helpers::HELPER_MAPS` too.
    pub calls_helpers: bool,
}

impl Generated {
    /// The name of a function, by its place among [`Generated::functions`].
    pub fn function_name(at: usize) -> String {
        if at == 0 {
            "main_prog".to_owned()
        } else {
            format!("sub{at}")
        }
    }

    /// BTF with a function per subprogram, and its `func_info`: callbacks need them.
    pub fn btf(&self) -> (Btf, InfoRecords) {
        let mut builder = ring3_btf::Builder::new();
        let number = builder.add_int("long", 8, IntEncoding::SIGNED);
        let pointer = builder.add_ref(Kind::Ptr, "", TypeId(0));
        let mut bytes = Vec::new();
        for (at, start) in self.functions.iter().enumerate() {
            let linkage = if at == 0 {
                FuncLinkage::Global
            } else {
                FuncLinkage::Static
            };
            let name = Generated::function_name(at);
            let proto = builder.add_func_proto(number, &[("ctx", pointer)]);
            let func = builder.add_func(&name, proto, linkage);
            bytes.extend(start.to_le_bytes());
            bytes.extend(func.0.to_le_bytes());
        }
        let btf = Btf::parse(&builder.finish()).expect("built BTF parses");
        (
            btf,
            InfoRecords {
                rec_size: 8,
                count: self.functions.len() as u32,
                bytes,
            },
        )
    }
}

struct Builder<'a> {
    rng: &'a mut Rng,
    insns: Vec<RawInsn>,
    prog_type: ProgType,
    has_packet: bool,
    functions: Vec<u32>,
    /// Calls whose distance is filled in when subprograms are appended: slot and which.
    calls: Vec<(usize, Subprog)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Subprog {
    Mix,
    LoopBody,
    /// Callback for each element of a map.
    Element,
    /// Writes through r1.
    Writer,
    /// Callback that does nothing.
    Nothing,
}

/// What slot 1 of the prog array holds: a constant, so that a tail call shows in the result.
pub fn tail_target(prog_type: ProgType) -> Generated {
    // Hooks of cgroups and socket look-ups take one bit, those of security an error.
    let value = match prog_type {
        ProgType::CgroupSkb | ProgType::SkLookup => 1,
        ProgType::Lsm => -1,
        _ => 0x7a11,
    };
    let body = [mov_imm(Reg::R0, value), Insn::Exit];
    Generated {
        prog_type,
        insns: body.iter().flat_map(slots).collect(),
        functions: vec![0],
        calls_helpers: false,
    }
}

impl<'a> Builder<'a> {
    fn new(rng: &'a mut Rng, prog_type: ProgType) -> Self {
        Builder {
            rng,
            insns: Vec::new(),
            prog_type,
            has_packet: prog_type != ProgType::SocketFilter,
            functions: vec![0],
            calls: Vec::new(),
        }
    }

    fn finish(self) -> Generated {
        Generated {
            prog_type: self.prog_type,
            insns: self.insns,
            functions: self.functions,
            calls_helpers: false,
        }
    }

    fn push(&mut self, insn: Insn) {
        self.insns.extend(slots(&insn));
    }

    fn scalar(&mut self) -> Reg {
        self.rng.pick(&SCALARS)
    }

    fn width(&mut self) -> Width {
        self.rng.pick(&[Width::W32, Width::W64])
    }

    /// Random scalars where a call left nothing.
    fn refill(&mut self, regs: &[Reg]) {
        for &reg in regs {
            if self.rng.one_in(4) {
                let value = self.rng.word();
                self.push(Insn::LoadImm64 {
                    dst: reg,
                    value: Imm64::Value(value),
                });
            } else {
                let imm = self.rng.imm();
                self.push(mov_imm(reg, imm));
            }
        }
    }

    fn load_map(&mut self, dst: Reg, map: i32) {
        self.push(Insn::LoadImm64 {
            dst,
            value: Imm64::MapFd(map),
        });
    }

    fn helper(&mut self, id: FuncId) {
        self.push(Insn::Call(CallTarget::Helper(id.raw() as i32)));
    }

    fn pointer_to_scratch(&mut self, dst: Reg, off: i16) {
        self.push(mov(dst, Reg::FP));
        self.push(alu(
            Width::W64,
            AluOp::Add,
            dst,
            Operand::Imm(i32::from(off)),
        ));
    }

    fn store_scratch(&mut self, size: MemSize, off: i16, imm: i32) {
        self.push(Insn::Store {
            size,
            dst: Reg::FP,
            off,
            src: Operand::Imm(imm),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_program() {
        let make = |seed| program(&mut Rng::new(seed)).insns;
        assert_eq!(make(7), make(7));
        assert_ne!(make(7), make(8));
    }

    #[test]
    fn generated_instructions_decode() {
        let mut rng = Rng::new(1);
        for _ in 0..200 {
            let insns = program(&mut rng).insns;
            let mut at = 0;
            while at < insns.len() {
                let (_, len) = ring3_isa::decode(&insns, at).unwrap();
                at += len;
            }
        }
    }
}
