//! Function shapes by a generator: arguments and return values of every class, as C source, and what programs must see of them.

use std::fmt::Write as _;

use ring3_btf::{ArgModel, FuncModel};

/// Where the ABI puts a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// One or two general registers, or memory when they are used up.
    Integer,
    /// Vector registers, alone or with a general one.
    Vector,
    /// Memory always.
    Memory,
}

/// A type of an argument or a return value.
#[derive(Debug)]
pub(crate) struct Type {
    c: &'static str,
    bytes: u8,
    is_struct: bool,
    class: Class,
    /// As a return value: offset and size of what rax holds.
    in_rax: Option<(usize, usize)>,
}

const fn ty(
    c: &'static str,
    bytes: u8,
    is_struct: bool,
    class: Class,
    in_rax: Option<(usize, usize)>,
) -> Type {
    Type {
        c,
        bytes,
        is_struct,
        class,
        in_rax,
    }
}

use Class::{Integer, Memory, Vector};

const TYPES: [Type; 19] = [
    ty("uint8_t", 1, false, Integer, Some((0, 1))),
    ty("int16_t", 2, false, Integer, Some((0, 2))),
    ty("uint32_t", 4, false, Integer, Some((0, 4))),
    ty("int64_t", 8, false, Integer, Some((0, 8))),
    ty("uint64_t", 8, false, Integer, Some((0, 8))),
    ty("pointer", 8, false, Integer, Some((0, 8))),
    ty("struct s3", 3, true, Integer, Some((0, 3))),
    ty("struct s8", 8, true, Integer, Some((0, 8))),
    ty("struct s9", 9, true, Integer, Some((0, 8))),
    ty("struct s12", 12, true, Integer, Some((0, 8))),
    ty("struct s16", 16, true, Integer, Some((0, 8))),
    ty("wide", 16, false, Integer, Some((0, 8))),
    ty("float", 4, false, Vector, None),
    ty("double", 8, false, Vector, None),
    ty("struct dd", 16, true, Vector, None),
    ty("struct du", 16, true, Vector, Some((8, 8))),
    ty("struct ud", 16, true, Vector, Some((0, 8))),
    ty("struct packed", 9, true, Memory, None),
    ty("struct s24", 24, true, Memory, None),
];
/// How many of them are integers.
const INTEGERS: u64 = 12;

const PRELUDE: &str = "#include <stdint.h>
#include <string.h>
typedef void *pointer;
typedef unsigned __int128 wide;
struct s3 { uint8_t b[3]; };
struct s8 { uint32_t a, b; };
struct s9 { uint8_t b[9]; };
struct s12 { uint32_t a, b, c; };
struct s16 { uint64_t a, b; };
struct dd { double a, b; };
struct du { double a; uint64_t b; };
struct ud { uint64_t a; double b; };
struct __attribute__((packed)) packed { uint8_t a; uint64_t b; };
struct s24 { uint64_t a, b, c; };
#define PLAIN static __attribute__((patchable_function_entry(0), noinline))
PLAIN void fill(void *p, unsigned long n, uint64_t *s) {
    uint8_t *b = p;
    for (unsigned long i = 0; i < n; i++) {
        *s = *s * 6364136223846793005ull + 1442695040888963407ull;
        b[i] = *s >> 56;
    }
}
PLAIN uint64_t mix(uint64_t h, const void *p, unsigned long n) {
    const uint8_t *b = p;
    for (unsigned long i = 0; i < n; i++)
        h = (h ^ b[i]) * 1099511628211ull;
    return h;
}
PLAIN void show(const void *p, unsigned long n, uint64_t **slots, uint64_t **masks) {
    for (unsigned long at = 0; at < n; at += 8) {
        unsigned long bytes = n - at < 8 ? n - at : 8;
        **slots = 0;
        memcpy(*slots, (const uint8_t *)p + at, bytes);
        **masks = bytes == 8 ? ~0ull : (1ull << 8 * bytes) - 1;
        ++*slots;
        ++*masks;
    }
}
";

/// A function.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) name: String,
    pub(crate) args: Vec<&'static Type>,
    /// `None`: void.
    pub(crate) ret: Option<&'static Type>,
}

impl Shape {
    /// The shape with this number; arguments by turns 0 to 12.
    pub(crate) fn generate(number: u64) -> Shape {
        let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bd1_e995;
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) % below
        };
        // Two of three are what BTF can describe.
        let kinds = if number.is_multiple_of(3) {
            TYPES.len() as u64
        } else {
            INTEGERS
        };
        let mut shape = Shape {
            name: format!("shape_{number}"),
            args: (0..number % 13)
                .map(|_| &TYPES[random(kinds) as usize])
                .collect(),
            ret: match random(TYPES.len() as u64 + 1) as usize {
                0 => None,
                at => Some(&TYPES[at - 1]),
            },
        };
        // What cannot be described is preserved up to six words in memory.
        while !shape.is_integer() && shape.memory_words() > 6 {
            shape.args.pop();
        }
        shape
    }

    /// Whether all arguments are integers and the return value is not a bare vector.
    pub(crate) fn is_integer(&self) -> bool {
        let is_bare = |ty: &&Type| ty.class == Vector && !ty.is_struct;
        self.args.iter().all(|arg| arg.class == Integer) && !self.ret.as_ref().is_some_and(is_bare)
    }

    fn is_returned_in_memory(&self) -> bool {
        self.ret.is_some_and(|ret| ret.class == Memory)
    }

    /// Words of arguments in memory.
    pub(crate) fn memory_words(&self) -> u32 {
        let (mut general, mut vector, mut memory) = (u32::from(self.is_returned_in_memory()), 0, 0);
        for arg in &self.args {
            let words = u32::from(arg.bytes.div_ceil(8));
            let (g, v) = match (arg.class, arg.c) {
                (Integer, _) => (words, 0),
                (Vector, "struct du" | "struct ud") => (1, 1),
                (Vector, _) => (0, words),
                (Memory, _) => (7, 0),
            };
            if general + g <= 6 && vector + v <= 8 {
                general += g;
                vector += v;
            } else {
                memory += words + u32::from(arg.c == "wide");
            }
        }
        memory
    }

    /// As BTF would describe it.
    pub(crate) fn model(&self) -> FuncModel {
        let arg = |ty: &&Type| ArgModel {
            size: ty.bytes,
            is_struct: ty.is_struct,
            is_signed: ty.c.starts_with("int"),
        };
        let hidden = self.is_returned_in_memory().then_some(ArgModel::U64);
        FuncModel {
            args: hidden
                .into_iter()
                .chain(self.args.iter().map(arg))
                .collect(),
            ret: match &self.ret {
                None => ArgModel {
                    size: 0,
                    ..ArgModel::U64
                },
                Some(ret) if ret.class == Memory => ArgModel::U64,
                Some(ret) => arg(ret),
            },
        }
    }

    /// Slots before the first that arguments fill.
    pub(crate) fn hidden_slots(&self) -> usize {
        usize::from(self.is_returned_in_memory())
    }

    /// Value and mask of what rax holds when the function returns these bytes.
    pub(crate) fn return_slot(&self, bytes: &[u8]) -> Option<(u64, u64)> {
        let (offset, size) = self.ret?.in_rax?;
        let mut word = [0; 8];
        word[..size].copy_from_slice(&bytes[offset..offset + size]);
        let mask = if size == 8 {
            u64::MAX
        } else {
            (1 << (8 * size)) - 1
        };
        Some((u64::from_ne_bytes(word), mask))
    }

    fn write(&self, c: &mut String) -> std::fmt::Result {
        let ret = self.ret.map_or("void", |ret| ret.c);
        let params: Vec<String> = self
            .args
            .iter()
            .enumerate()
            .map(|(at, arg)| format!("{} a{at}", arg.c))
            .collect();
        let params = if params.is_empty() {
            "void".to_owned()
        } else {
            params.join(", ")
        };
        writeln!(c, "__attribute__((noipa)) {ret} {}({params}) {{", self.name)?;
        writeln!(c, "    uint64_t h = {};", self.name.len())?;
        for at in 0..self.args.len() {
            writeln!(c, "    h = mix(h, &a{at}, sizeof a{at});")?;
        }
        match self.ret {
            None => writeln!(c, "    extern uint64_t seen; seen = h;")?,
            Some(_) => writeln!(c, "    {ret} r; fill(&r, sizeof r, &h); return r;")?,
        }
        writeln!(c, "}}")?;
        writeln!(
            c,
            "__attribute__((patchable_function_entry(0))) void call_{}(uint64_t s, uint8_t *out, uint64_t *slots, uint64_t *masks) {{",
            self.name
        )?;
        for (at, arg) in self.args.iter().enumerate() {
            writeln!(
                c,
                "    {} a{at}; fill(&a{at}, sizeof a{at}, &s); show(&a{at}, sizeof a{at}, &slots, &masks);",
                arg.c
            )?;
        }
        let args: Vec<String> = (0..self.args.len()).map(|at| format!("a{at}")).collect();
        let args = args.join(", ");
        match self.ret {
            None => writeln!(
                c,
                "    extern uint64_t seen; {}({args}); memcpy(out, &seen, 8);",
                self.name
            )?,
            Some(_) => writeln!(
                c,
                "    {ret} r = {}({args}); memcpy(out, &r, sizeof r);",
                self.name
            )?,
        }
        writeln!(c, "}}")
    }
}

/// C source of functions, and for each a `call_NAME(seed, result, slots, masks)`.
pub(crate) fn source(shapes: &[Shape]) -> String {
    let mut c = format!("{PRELUDE}uint64_t seen;\n");
    for shape in shapes {
        shape.write(&mut c).expect("strings take everything");
    }
    c
}
