//! Tests of CO-RE relocation: candidates, fields, enumerations, types.

use super::*;
use crate::{Builder, IntEncoding};

const LDX_W: u8 = 0x61;
const MOV_K: u8 = 0xb7;

/// struct s { int a; struct { int b; }; int arr[4]; } with `pad` bytes in front.
fn btf(pad: u32, name: &str, access: &[&str]) -> (Btf, Vec<u32>) {
    let mut b = Builder::new();
    let int = b.add_int("int", 4, IntEncoding::SIGNED);
    let arr = b.add_array(int, int, 4);
    let inner = b.add_struct("", 4, &[("b", int, 0)]);
    let p = pad * 8;
    b.add_struct(
        name,
        24 + pad,
        &[("a", int, p), ("", inner, p + 32), ("arr", arr, p + 64)],
    );
    b.add_enum("e", &[("ONE", 1 + pad as i32), ("TWO___x", 2)]);
    let strings = access.iter().map(|text| b.string(text)).collect();
    (Btf::parse(&b.finish()).unwrap(), strings)
}

fn relo(ty: u32, access_str_off: u32, kind: ReloKind) -> CoreRelo {
    CoreRelo {
        insn_off: 0,
        type_id: TypeId(ty),
        access_str_off,
        kind: kind as u32,
    }
}

#[test]
fn field_offsets_move_and_flavours_are_ignored() {
    let (local, strings) = btf(0, "s___mine", &["0:1:0", "0:2:3", "0:0"]);
    let (target, _) = btf(16, "s", &[]);
    let mut relocator = Relocator::new(&local, &target);
    for (access, from, to) in [
        (strings[0], 4, 20),
        (strings[1], 20, 36),
        (strings[2], 0, 16),
    ] {
        let mut insns = [RawInsn::new(LDX_W, 1, 1, from, 0)];
        relocator
            .relocate(
                "p",
                &mut insns,
                &[relo(4, access, ReloKind::FieldByteOffset)],
            )
            .unwrap();
        assert_eq!(insns[0].off, to);
    }
    let mut wrong = [RawInsn::new(LDX_W, 1, 1, 8, 0)];
    let error = relocator
        .relocate(
            "p",
            &mut wrong,
            &[relo(4, strings[0], ReloKind::FieldByteOffset)],
        )
        .unwrap_err();
    assert!(
        error
            .message()
            .contains("instruction holds 8, expected 4 -> 20"),
        "{error}"
    );
}

#[test]
fn missing_types_poison_or_answer_zero() {
    let (local, strings) = btf(0, "mine", &["0:0", "0"]);
    let (target, _) = btf(0, "theirs", &[]);
    let mut relocator = Relocator::new(&local, &target);
    let mut insns = [RawInsn::new(LDX_W, 1, 1, 0, 0)];
    relocator
        .relocate(
            "p",
            &mut insns,
            &[relo(4, strings[0], ReloKind::FieldByteOffset)],
        )
        .unwrap();
    assert_eq!(insns[0], RawInsn::new(0x85, 0, 0, 0, 195_896_080));
    for kind in [
        ReloKind::FieldExists,
        ReloKind::TypeExists,
        ReloKind::TypeSize,
    ] {
        let access = if kind.is_field() {
            strings[0]
        } else {
            strings[1]
        };
        let orig = if kind == ReloKind::TypeSize { 24 } else { 1 };
        let mut insns = [RawInsn::new(MOV_K, 1, 0, 0, orig)];
        relocator
            .relocate("p", &mut insns, &[relo(4, access, kind)])
            .unwrap();
        assert_eq!(insns[0].imm, 0, "{kind:?}");
    }
}

#[test]
fn enum_values_are_found_by_essential_name() {
    let (local, strings) = btf(0, "s", &["0", "1"]);
    let (target, _) = btf(4, "s", &[]);
    let mut relocator = Relocator::new(&local, &target);
    let mut insns = [RawInsn::new(MOV_K, 1, 0, 0, 1)];
    relocator
        .relocate(
            "p",
            &mut insns,
            &[relo(5, strings[0], ReloKind::EnumvalValue)],
        )
        .unwrap();
    assert_eq!(insns[0].imm, 5);
    let mut insns = [RawInsn::new(MOV_K, 1, 0, 0, 1)];
    relocator
        .relocate(
            "p",
            &mut insns,
            &[relo(5, strings[1], ReloKind::EnumvalExists)],
        )
        .unwrap();
    assert_eq!(insns[0].imm, 1);
}

#[test]
fn bitfields_are_loaded_as_narrow_as_possible() {
    let make = |shift: u32| {
        let mut b = Builder::new();
        let int = b.add_int("unsigned int", 4, IntEncoding::NONE);
        let name = b.string("f");
        b.add(
            Kind::Struct,
            "s",
            1,
            true,
            8,
            &[name, int.0, 5 << 24 | shift],
        );
        let access = b.string("0:0");
        (Btf::parse(&b.finish()).unwrap(), access)
    };
    let (local, access) = make(3);
    let (target, _) = make(30);
    let ask = |kind| {
        let mut insns = [RawInsn::new(
            MOV_K,
            1,
            0,
            0,
            if kind == ReloKind::FieldRshiftU64 {
                59
            } else {
                0
            },
        )];
        Relocator::new(&local, &target)
            .relocate("p", &mut insns, &[relo(2, access, kind)])
            .unwrap();
        insns[0].imm
    };
    assert_eq!(ask(ReloKind::FieldByteOffset), 0);
    assert_eq!(ask(ReloKind::FieldByteSize), 8);
    assert_eq!(ask(ReloKind::FieldLshiftU64), 64 - 35);
    assert_eq!(ask(ReloKind::FieldRshiftU64), 59);
    assert_eq!(ask(ReloKind::FieldSigned), 0);
}

#[test]
fn type_match_needs_every_local_member() {
    let (local, strings) = btf(0, "s", &["0"]);
    let (same, _) = btf(8, "s", &[]);
    let mut b = Builder::new();
    let int = b.add_int("int", 4, IntEncoding::SIGNED);
    b.add_struct("s", 12, &[("a", int, 0), ("b", int, 32), ("arr", int, 64)]);
    let other = Btf::parse(&b.finish()).unwrap();
    for (target, expected) in [(&same, 1), (&other, 0)] {
        let mut insns = [RawInsn::new(MOV_K, 1, 0, 0, 1)];
        let relo = relo(4, strings[0], ReloKind::TypeMatches);
        Relocator::new(&local, target)
            .relocate("p", &mut insns, &[relo])
            .unwrap();
        assert_eq!(insns[0].imm, expected);
    }
}

#[test]
fn flavours_need_text_on_both_sides() {
    for (name, essential) in [
        ("a___b", "a"),
        ("a___b___c", "a___b"),
        ("___b", "___b"),
        ("a___", "a___"),
        ("a____b", "a____b"),
        ("a", "a"),
    ] {
        assert_eq!(essential_name(name), essential);
    }
}
