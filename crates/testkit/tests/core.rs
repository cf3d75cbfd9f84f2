//! CO-RE relocations of every fixture beside libbpf's, against the parts of two kernels' BTF that the fixtures need.

use ring3_testkit::{
    core_oracle::{compare, read},
    fixture::{fixtures_dir, kernel_btf},
};

#[test]
fn instructions_are_libbpfs() {
    for release in ["6.12", "6.18"] {
        let recorded = fixtures_dir().join(format!("oracle/core/{release}.txt"));
        let kernel = kernel_btf(release).unwrap();
        let mut prepared = read(&recorded).unwrap();
        let compared = compare(&prepared, &kernel).unwrap();
        assert!(compared.different.is_empty(), "{:#?}", compared.different);
        assert!(compared.relocations > 40, "{compared:?}");

        // One other instruction is found.
        let key = ("core/offsets".to_owned(), "read_members".to_owned());
        let insns = prepared.get_mut(&key).unwrap().as_mut().unwrap();
        insns[2].imm ^= 1;
        assert_eq!(compare(&prepared, &kernel).unwrap().different.len(), 1);
    }
}

#[test]
fn the_two_kernels_ask_for_different_patches() {
    let [old, new] = ["6.12", "6.18"]
        .map(|release| read(&fixtures_dir().join(format!("oracle/core/{release}.txt"))).unwrap());
    let differ = old.iter().filter(|(key, insns)| new[*key] != **insns);
    assert!(differ.count() >= 5);
}
