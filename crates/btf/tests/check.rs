//! The checker agrees with the running kernel: `data/check.txt` holds blobs and what Linux 6.18 answered to each.

use ring3_btf::check::{CheckOptions, check};
use ring3_btf::record::DESTRUCTIBLE_6_18;
use ring3_btf::{Btf, Builder, IntEncoding, KernelTypes, Kind, TypeId};

/// The kernel structs that the recorded blobs refer to.
fn kernel() -> Btf {
    let mut b = Builder::new();
    let int = b.add_int("int", 4, IntEncoding::SIGNED);
    for name in ["task_struct", "cgroup", "sock"] {
        b.add_struct(name, 4, &[("x", int, 0)]);
    }
    Btf::parse(&b.finish()).unwrap()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).unwrap())
        .collect()
}

#[test]
fn recorded_answers_of_the_kernel() {
    let kernel = kernel();
    let types = KernelTypes {
        btf: &kernel,
        destructible: DESTRUCTIBLE_6_18,
    };
    let mut errnos = std::collections::BTreeMap::new();
    for row in include_str!("data/check.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        let mut fields = row.splitn(3, '\t');
        let (blob, errno, log) = (
            fields.next().unwrap(),
            fields.next().unwrap(),
            fields.next().unwrap(),
        );
        let mut ours = String::new();
        let verdict = check(
            &unhex(blob),
            CheckOptions {
                base: None,
                kernel: Some(types),
            },
            Some(&mut ours),
        );
        let ours_errno = verdict.as_ref().map_or_else(|errno| errno.raw(), |_| 0);
        assert_eq!(
            ours.replace('\n', "\\n").replace('\t', "\\t"),
            log,
            "{blob}"
        );
        assert_eq!(ours_errno.to_string(), errno, "{blob}");
        *errnos.entry(ours_errno).or_insert(0) += 1;
        // Without a log the verdict is the same.
        let quiet = check(
            &unhex(blob),
            CheckOptions {
                base: None,
                kernel: Some(types),
            },
            None,
        );
        assert_eq!(quiet.map(drop), verdict.map(drop));
    }
    for errno in [0, 2, 7, 14, 17, 22, 40, 524] {
        assert!(
            errnos.contains_key(&errno),
            "no recorded answer with errno {errno}"
        );
    }
}

#[test]
fn chains_deeper_than_the_stack_are_too_big() {
    // Each refers to the next, so that nothing is resolved when the first is looked at.
    let chain = |links: u32| {
        let mut b = Builder::new();
        for link in 0..links {
            b.add_ref(Kind::Const, "", TypeId(link + 2));
        }
        b.add_int("int", 4, IntEncoding::SIGNED);
        let mut log = String::new();
        (
            check(&b.finish(), CheckOptions::default(), Some(&mut log)).map(drop),
            log,
        )
    };
    assert_eq!(chain(32).0, Ok(()));
    let (verdict, log) = chain(33);
    assert_eq!(verdict, Err(ring3_uapi::Errno::E2BIG));
    assert!(
        log.ends_with("[1] CONST (anon) type_id=2 Exceeded max resolving depth:32\n"),
        "{log}"
    );
}

#[test]
fn split_blobs_continue_their_base() {
    let mut base = Builder::new();
    base.add_int("int", 4, IntEncoding::SIGNED);
    let base = Btf::parse(&base.finish()).unwrap();
    let mut split = Builder::on_base(&base);
    split.add_struct("s", 4, &[("a", TypeId(1), 0)]);
    let options = CheckOptions {
        base: Some(&base),
        kernel: None,
    };
    let mut log = String::new();
    let checked = check(&split.finish(), options, Some(&mut log)).unwrap();
    assert_eq!(
        checked.btf.find_by_name_kind("s", Kind::Struct),
        Some(TypeId(2))
    );
    assert_eq!(
        checked.btf.find_by_name_kind("int", Kind::Int),
        Some(TypeId(1))
    );
    assert!(
        log.ends_with("[2] STRUCT s size=4 vlen=1\n\ta type_id=1 bits_offset=0\n"),
        "{log}"
    );
    let mut dangling = Builder::on_base(&base);
    dangling.add_ref(Kind::Ptr, "", TypeId(9));
    assert!(check(&dangling.finish(), options, None).is_err());
}
