//! Traced functions of generated shapes return what they return untraced, and programs see their arguments and results: C functions compiled with
//! patchable entries, and Rust functions by the macro, with up to 64 programs of each kind.

mod generator;
mod library;
mod support;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use ring3_btf::{ArgModel, FuncModel};
use ring3_runtime::ProgRef;
use ring3_trampoline::{
    Attachment, Certainty, DiscoverError, Patching, ProgKind, Site, Target, find_patchable,
    patchable_functions,
};

use generator::{Shape, source};
use library::{Library, load_c};
use support::program;

const COUNTS: [usize; 5] = [0, 1, 5, 40, 64];
const SEEDS: [u64; 2] = [1, 2];
const KINDS: [ProgKind; 3] = [ProgKind::Fentry, ProgKind::FmodRet, ProgKind::Fexit];

/// What programs must see, and how often they ran.
#[derive(Default)]
struct Expected {
    slots: Vec<u64>,
    masks: Vec<u64>,
    slot_count: u64,
    function: u64,
    ret: Option<(u64, u64)>,
    runs: [usize; 3],
    wrong: Option<String>,
}

thread_local! {
    static EXPECTED: RefCell<Expected> = RefCell::default();
}

/// Looks at everything, then overwrites what a callee may. Data is the kind.
unsafe extern "C" fn look(ctx: u64, data: *const ()) -> u64 {
    let kind = data as usize;
    let ctx: *const u64 = std::ptr::with_exposed_provenance(ctx as usize);
    EXPECTED.with_borrow_mut(|expected| {
        expected.runs[kind] += 1;
        // SAFETY: the array has as many words as the target says, one more for the result, and two below.
        let word = |at: isize| unsafe { *ctx.offset(at) };
        if (word(-1), word(-2)) != (expected.slot_count, expected.function) {
            expected.wrong = Some(format!(
                "{kind}: {} slots, function {:#x}",
                word(-1),
                word(-2)
            ));
        }
        for (at, (slot, mask)) in expected.slots.iter().zip(&expected.masks).enumerate() {
            let found = word(at as isize) & mask;
            if found != *slot & mask {
                expected.wrong = Some(format!("{kind}: slot {at} is {found:#x}, not {slot:#x}"));
            }
        }
        if let (2, Some((value, mask))) = (kind, expected.ret) {
            let found = word(expected.slot_count as isize) & mask;
            if found != value {
                expected.wrong = Some(format!("result is {found:#x}, not {value:#x}"));
            }
        }
    });
    // SAFETY: the registers named are the callee's.
    unsafe {
        std::arch::asm!(
            "mov edi, 1", "mov esi, 2", "mov edx, 3", "mov ecx, 4", "mov r8d, 5", "mov r9d, 6", "mov r10d, 7", "mov r11d, 8",
            "pcmpeqd xmm0, xmm0", "pcmpeqd xmm1, xmm1", "pcmpeqd xmm2, xmm2", "pcmpeqd xmm3, xmm3",
            "pcmpeqd xmm4, xmm4", "pcmpeqd xmm5, xmm5", "pcmpeqd xmm6, xmm6", "pcmpeqd xmm7, xmm7",
            out("rdi") _, out("rsi") _, out("rdx") _, out("rcx") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
        );
    }
    0
}

fn programs() -> Vec<[ProgRef; 3]> {
    (0..64)
        .map(|_| [0, 1, 2].map(|kind| program(look, kind)))
        .collect()
}

/// Runs `call` with every number of programs; `call` calls the function so many times and compares with the untraced result.
fn check(
    what: &str,
    target: &Arc<Target>,
    programs: &[[ProgRef; 3]],
    calls: usize,
    call: &dyn Fn(),
) {
    for count in COUNTS {
        let attachments: Vec<Attachment> = programs[..count]
            .iter()
            .flat_map(|progs| KINDS.iter().zip(progs))
            .map(|(&kind, prog)| target.attach(kind, prog.clone(), 0).expect("attachable"))
            .collect();
        EXPECTED.with_borrow_mut(|expected| expected.runs = [0; 3]);
        call();
        EXPECTED.with_borrow_mut(|expected| {
            assert_eq!(expected.wrong.take(), None, "{what} with {count} programs");
            assert_eq!(expected.runs, [calls * count; 3], "{what}");
        });
        drop(attachments);
    }
    EXPECTED.with_borrow_mut(|expected| expected.runs = [0; 3]);
    call();
    EXPECTED.with_borrow(|expected| assert_eq!(expected.runs, [0; 3], "{what}: detached"));
}

type CallShape = extern "C" fn(u64, *mut u8, *mut u64, *mut u64);

/// Calls a C shape; its result, and slots and masks of its arguments.
fn call_shape(library: &Library, shape: &Shape, seed: u64) -> ([u8; 24], [u64; 32], [u64; 32]) {
    let code = library.symbol(&format!("call_{}", shape.name));
    // SAFETY: the generator wrote the function.
    let call: CallShape = unsafe { std::mem::transmute(code) };
    let (mut out, mut slots, mut masks) = ([0; 24], [0; 32], [0; 32]);
    call(
        seed,
        out.as_mut_ptr(),
        slots.as_mut_ptr(),
        masks.as_mut_ptr(),
    );
    (out, slots, masks)
}

/// Traces every shape of a library, found through the ELF section.
fn check_library(library: &Library, shapes: &[Shape]) {
    let object = ring3_os::loaded::objects()
        .into_iter()
        .find(|object| object.path == library.path)
        .expect("the library is loaded");
    let functions = patchable_functions(&object).expect("a readable object");
    assert_eq!(functions.len(), shapes.len());
    let by_name: HashMap<_, _> = functions
        .into_iter()
        .map(|function| (function.name.clone().expect("a symbol"), function))
        .collect();
    let programs = programs();
    for shape in shapes {
        let function = &by_name[&shape.name];
        assert_eq!(function.function, library.symbol(&shape.name) as usize);
        let untraced = SEEDS.map(|seed| call_shape(library, shape, seed));
        for certainty in certainties(shape) {
            let is_certain = certainty == Certainty::Certain;
            let model = if is_certain {
                shape.model()
            } else {
                FuncModel::untyped()
            };
            // SAFETY: the library stays mapped; certain models are the generator's.
            let target = unsafe {
                let site = function.site(Patching::Fastest).expect("a site");
                Target::new(site, &model, certainty)
            };
            let call = || {
                for (seed, (out, slots, masks)) in SEEDS.into_iter().zip(untraced) {
                    EXPECTED.with_borrow_mut(|expected| {
                        expected.slot_count = target.arg_slots() as u64;
                        expected.function = function.function as u64;
                        let hidden = shape.hidden_slots();
                        let visible = if is_certain {
                            target.arg_slots() - hidden
                        } else {
                            0
                        };
                        expected.slots = [&[0][..hidden], &slots[..visible]].concat();
                        expected.masks = [&[0][..hidden], &masks[..visible]].concat();
                        expected.ret = shape.return_slot(&out);
                    });
                    assert_eq!(call_shape(library, shape, seed).0, out, "{shape:?}");
                }
            };
            check(
                &format!("{shape:?}, {certainty:?}"),
                &target,
                &programs,
                SEEDS.len(),
                &call,
            );
        }
    }
}

/// What a shape can be traced as. Of those that BTF describes, one of four is traced as if it did not.
fn certainties(shape: &Shape) -> Vec<Certainty> {
    let mut all = Vec::new();
    if shape.is_integer() {
        all.push(Certainty::Certain);
    }
    let is_fourth = shape
        .name
        .bytes()
        .last()
        .is_some_and(|digit| digit % 4 == 0);
    if shape.memory_words() <= 6 && (all.is_empty() || is_fourth) {
        all.push(Certainty::Uncertain);
    }
    all
}

#[test]
fn c_functions_of_240_shapes() {
    let shapes: Vec<Shape> = (0..240).map(Shape::generate).collect();
    let library = load_c(
        "shapes",
        &source(&shapes),
        &["-O1", "-fpatchable-function-entry=5"],
    );
    check_library(&library, &shapes);
}

#[test]
fn c_functions_that_begin_with_endbr64() {
    let shapes: Vec<Shape> = (240..270).map(Shape::generate).collect();
    let flags = [
        "-O2",
        "-fpatchable-function-entry=5",
        "-fcf-protection=full",
    ];
    let library = load_c("endbr", &source(&shapes), &flags);
    check_library(&library, &shapes);
}

#[test]
fn functions_are_found_by_name_or_the_reason_is_told() {
    let source = "
        int ring3_test_found(int a) { return a + 1; }
        __attribute__((patchable_function_entry(0))) int ring3_test_plain(int a) { return a; }";
    let library = load_c("named", source, &["-O2", "-fpatchable-function-entry=5"]);
    let found = find_patchable("ring3_test_found").expect("found");
    assert_eq!(found.function, library.symbol("ring3_test_found") as usize);
    assert_eq!(found.object, library.path);
    let error = find_patchable("ring3_test_plain").unwrap_err();
    assert!(
        matches!(error, DiscoverError::NotPatchable { .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("-fpatchable-function-entry=5"),
        "{error}"
    );
    let error = find_patchable("ring3_test_nowhere").unwrap_err();
    assert_eq!(
        error,
        DiscoverError::NoFunction("ring3_test_nowhere".to_owned())
    );
    // SAFETY: the library stays mapped.
    let site = unsafe { Site::at(library.symbol("ring3_test_plain") as usize) };
    assert!(site.is_err(), "there is no nop");
}

/// A type of arguments of Rust functions.
trait Word: Copy {
    const MODEL: ArgModel;
    fn from_seed(seed: u64) -> Self;
    fn words(self) -> Vec<u64>;
}

const fn arg(size: u8, is_struct: bool) -> ArgModel {
    ArgModel {
        size,
        is_struct,
        is_signed: false,
    }
}

macro_rules! int_words {
    ($($ty:ty)*) => {$(
        impl Word for $ty {
            const MODEL: ArgModel = arg(size_of::<$ty>() as u8, false);
            fn from_seed(seed: u64) -> Self {
                seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) as $ty
            }
            fn words(self) -> Vec<u64> {
                let mut bytes = [0; 8];
                bytes[..size_of::<$ty>()].copy_from_slice(&self.to_ne_bytes());
                vec![u64::from_ne_bytes(bytes)]
            }
        }
    )*};
}

int_words!(u8 i16 u32 i32 u64);

impl Word for *const u8 {
    const MODEL: ArgModel = arg(8, false);
    fn from_seed(seed: u64) -> Self {
        u64::from_seed(seed) as *const u8
    }
    fn words(self) -> Vec<u64> {
        vec![self as u64]
    }
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pair(u64, u64);

impl Word for Pair {
    const MODEL: ArgModel = arg(16, true);
    fn from_seed(seed: u64) -> Self {
        Pair(u64::from_seed(seed), u64::from_seed(seed + 100))
    }
    fn words(self) -> Vec<u64> {
        vec![self.0, self.1]
    }
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Trio([u32; 3]);

impl Word for Trio {
    const MODEL: ArgModel = arg(12, true);
    fn from_seed(seed: u64) -> Self {
        Trio([1, 2, 3].map(|at| u32::from_seed(seed + at)))
    }
    fn words(self) -> Vec<u64> {
        let [a, b, c] = self.0.map(u64::from);
        vec![a | b << 32, c]
    }
}

fn mask(bytes: u8) -> Vec<u64> {
    let masks = (0..bytes).step_by(8).map(|at| match bytes - at {
        left @ 0..8 => (1 << (8 * left)) - 1,
        _ => u64::MAX,
    });
    masks.collect()
}

/// The sum of all words, as a seed of the result.
fn sum(words: &[Vec<u64>]) -> u64 {
    words
        .iter()
        .flatten()
        .fold(words.len() as u64, |sum, word| sum.rotate_left(9) ^ word)
}

fn check_rust<A: Word, R: Word + PartialEq + std::fmt::Debug>(
    name: &str,
    function: *const (),
    count: usize,
    call: &dyn Fn() -> R,
) {
    thread_local!(static PROGRAMS: Vec<[ProgRef; 3]> = programs());
    let expected = call();
    let model = FuncModel {
        args: vec![A::MODEL; count],
        ret: R::MODEL,
    };
    // SAFETY: the functions are declared by `traceable` and take what the model says.
    let target = unsafe {
        Target::new(
            Site::of_stub(function).expect("a site"),
            &model,
            Certainty::Certain,
        )
    };
    let args: Vec<A> = (0..count as u64).map(A::from_seed).collect();
    EXPECTED.with_borrow_mut(|all| {
        *all = Expected {
            slots: args.iter().flat_map(|arg| arg.words()).collect(),
            masks: args.iter().flat_map(|_| mask(A::MODEL.size)).collect(),
            slot_count: target.arg_slots() as u64,
            function: target.address() as u64,
            ret: Some((expected.words()[0], mask(R::MODEL.size)[0])),
            ..Expected::default()
        }
    });
    PROGRAMS.with(|programs| {
        check(name, &target, programs, 1, &|| {
            assert_eq!(call(), expected, "{name}")
        })
    });
}

macro_rules! rust_shapes {
    ($($test:ident: $arg:ty => $ret:ty;)*) => {$(
        rust_shapes!(@ $test $arg, $ret,
            f0(0) f1(1 a) f2(2 a b) f3(3 a b c) f4(4 a b c d) f5(5 a b c d e) f6(6 a b c d e f) f7(7 a b c d e f g)
            f8(8 a b c d e f g h) f9(9 a b c d e f g h i) f10(10 a b c d e f g h i j) f11(11 a b c d e f g h i j k)
            f12(12 a b c d e f g h i j k l));
    )*};
    (@ $test:ident $arg:ty, $ret:ty, $($f:ident($count:literal $($a:ident)*))*) => {
        mod $test {
            use super::*;
            ring3_trampoline::traceable! {$(
                fn $f($($a: $arg),*) -> $ret {
                    <$ret>::from_seed(sum(&[$($a.words()),*]))
                }
            )*}
            #[test]
            fn of_0_to_12_arguments() {
                $({
                    let call = || {
                        let mut seed = 0..;
                        $(let $a = <$arg>::from_seed(seed.next().unwrap());)*
                        let _ = &mut seed;
                        $f($($a),*)
                    };
                    check_rust::<$arg, $ret>(concat!(stringify!($test), "::", stringify!($f)), $f as *const (), $count, &call);
                })*
            }
        }
    };
}

rust_shapes! {
    bytes: u8 => u64;
    shorts: i16 => u8;
    words: u32 => Pair;
    signed: i32 => i32;
    longs: u64 => u64;
    pointers: *const u8 => *const u8;
    pairs: Pair => Pair;
    trios: Trio => Trio;
}
