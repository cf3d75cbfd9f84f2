//! Types that refer to each other in more ways than anybody can walk: each of them ends in an answer or an error.

use ring3_btf::{Btf, Builder, CoreRelo, FuncLinkage, Kind, TypeId, core_relo::Relocator, dump};
use ring3_isa::RawInsn;
use ring3_uapi::Errno;

/// Levels; whoever walks each way takes 3^48 steps.
const LEVELS: u32 = 48;

/// Prototypes that take and return the next one three times, through pointers or not.
fn prototypes(through_pointers: bool) -> Btf {
    let mut builder = Builder::new();
    for level in 1..=LEVELS {
        let this = builder.next_id().0;
        let step = if through_pointers {
            builder.add_ref(Kind::Ptr, "", TypeId(this + 1));
            2
        } else {
            1
        };
        let next = TypeId(if level == LEVELS { 0 } else { this + step });
        builder.add_func_proto(next, &[("a", next), ("b", next)]);
    }
    let first = TypeId(1);
    let proto = if through_pointers { TypeId(2) } else { first };
    builder.add_func("f", proto, FuncLinkage::Global);
    builder.add_ref(Kind::Typedef, "callback", first);
    builder.add_struct("s", 8, &[("f", first, 0)]);
    Btf::parse(&builder.finish()).unwrap()
}

#[test]
fn c_dumps_end() {
    for through_pointers in [false, true] {
        let mut text = String::new();
        let error = dump::c(&prototypes(through_pointers), &mut text).unwrap_err();
        assert!(
            [Errno::ELOOP, Errno::E2BIG].contains(&error.errno()),
            "{error}"
        );
        assert!(text.len() < 64 << 20, "{} bytes", text.len());
    }
}

#[test]
fn relocations_end() {
    for through_pointers in [false, true] {
        let local = prototypes(through_pointers);
        let target = prototypes(through_pointers);
        for name in ["callback", "s"] {
            // Existence, size, match.
            for kind in [8, 9, 12] {
                let mut relocator = Relocator::new(&local, &target);
                let relo = CoreRelo {
                    insn_off: 0,
                    type_id: local.ids_by_name(name).next().unwrap(),
                    access_str_off: 0,
                    kind,
                };
                let mut insns = [RawInsn::new(0xb7, 0, 0, 0, 0)];
                let _ = relocator.relocate("p", &mut insns, &[relo]);
            }
        }
    }
}
