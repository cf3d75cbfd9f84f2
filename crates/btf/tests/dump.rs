//! Dumps agree with bpftool 7.1: the recorded texts come from `bpftool btf dump file shapes.btf format raw|c`.

use ring3_btf::{Btf, Builder, IntEncoding, Kind, TypeId, dump};

fn shapes() -> Btf {
    Btf::parse(include_bytes!("data/shapes.btf")).unwrap()
}

#[test]
fn raw_listing_is_bpftools() {
    let mut out = String::new();
    dump::raw(&shapes(), &mut out).unwrap();
    assert_eq!(out, include_str!("data/shapes.raw"));
}

#[test]
fn c_declarations_are_bpftools() {
    let mut out = String::new();
    dump::c(&shapes(), &mut out).unwrap();
    assert_eq!(out, include_str!("data/shapes.h"));
}

#[test]
fn equal_names_get_numbers() {
    let mut b = Builder::new();
    let int = b.add_int("int", 4, IntEncoding::SIGNED);
    for offset in [0, 0] {
        b.add_struct("s", 4, &[("a", int, offset)]);
    }
    b.add_ref(Kind::Typedef, "t", int);
    b.add_ref(Kind::Typedef, "t", int);
    b.add_enum("e", &[("t", 1)]);
    let mut out = String::new();
    dump::c(&Btf::parse(&b.finish()).unwrap(), &mut out).unwrap();
    for text in ["struct s___2 {", "typedef int t___2;", "t___3 = 1,"] {
        assert!(out.contains(text), "{text} in {out}");
    }
}

#[test]
fn types_that_c_cannot_declare_are_errors() {
    let mut b = Builder::new();
    b.add_struct("s", 4, &[("a", TypeId(1), 0)]);
    let itself = Btf::parse(&b.finish()).unwrap();
    assert!(
        dump::c(&itself, &mut String::new())
            .unwrap_err()
            .message()
            .contains("contains itself")
    );

    let mut b = Builder::new();
    b.add_ref(Kind::Ptr, "", TypeId(1));
    let endless = Btf::parse(&b.finish()).unwrap();
    assert!(dump::c(&endless, &mut String::new()).is_err());
}
