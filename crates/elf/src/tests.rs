//! A small object built by hand, whole and mutated: what `ObjectSpec` says of it, and that no input does harm.

use crate::{ExternKind, MapOrigin, ObjectSpec, ParseOptions, Resolver, SlotSpec, Target};
use ring3_btf::ext::write_records;
use ring3_btf::{
    Btf, Builder, FuncInfo, FuncLinkage, IntEncoding, Kind, LineInfo, TypeId, VarLinkage,
};
use ring3_isa::RawInsn;
use std::path::Path;

const EXIT: RawInsn = RawInsn::new(0x95, 0, 0, 0, 0);

/// A section to write; symbols and relocations name sections by index from 1.
struct Sec {
    name: &'static str,
    sh_type: u32,
    flags: u64,
    data: Vec<u8>,
    size: u64,
    link: u32,
    info: u32,
}

fn sec(name: &'static str, sh_type: u32, flags: u64, data: Vec<u8>) -> Sec {
    let size = data.len() as u64;
    Sec {
        name,
        sh_type,
        flags,
        data,
        size,
        link: 0,
        info: 0,
    }
}

/// (name, value, size, info, section)
type Sym = (&'static str, u64, u64, u8, u16);

fn insns(list: &[RawInsn]) -> Vec<u8> {
    list.iter().flat_map(|insn| insn.to_bytes()).collect()
}

fn load(src: u8, imm: i32) -> [RawInsn; 2] {
    [RawInsn::new(0x18, 1, src, 0, imm), RawInsn::default()]
}

/// Relocations (offset, symbol) of a section, with the symbol table at `symtab`.
fn rel(name: &'static str, symtab: u32, of: u32, list: &[(u64, u64)]) -> Sec {
    let bytes = list
        .iter()
        .flat_map(|(offset, symbol)| {
            offset
                .to_le_bytes()
                .into_iter()
                .chain((symbol << 32 | 1).to_le_bytes())
        })
        .collect();
    Sec {
        link: symtab,
        info: of,
        ..sec(name, 9, 0, bytes)
    }
}

fn write_elf(mut sections: Vec<Sec>, symbols: &[Sym]) -> Vec<u8> {
    let (mut strtab, mut symtab) = (vec![0u8], vec![0u8; 24]);
    for (name, value, size, info, section) in symbols {
        let at = strtab.len() as u32;
        strtab.extend_from_slice(name.as_bytes());
        strtab.push(0);
        symtab.extend_from_slice(&at.to_le_bytes());
        symtab.extend_from_slice(&[*info, 0]);
        symtab.extend_from_slice(&section.to_le_bytes());
        symtab.extend_from_slice(&value.to_le_bytes());
        symtab.extend_from_slice(&size.to_le_bytes());
    }
    let symtab_index = sections.len() as u32 + 1;
    sections.push(Sec {
        link: symtab_index + 1,
        info: 1,
        ..sec(".symtab", 2, 0, symtab)
    });
    for (name, _, _, _, _) in symbols {
        strtab.extend_from_slice(name.as_bytes());
    }
    strtab.push(0);
    let mut name_at = Vec::new();
    sections.push(sec(".strtab", 3, 0, Vec::new()));
    for section in &sections {
        name_at.push(strtab.len() as u32);
        strtab.extend_from_slice(section.name.as_bytes());
        strtab.push(0);
    }
    if let Some(last) = sections.last_mut() {
        last.size = strtab.len() as u64;
        last.data = strtab;
    }
    let mut out = vec![0u8; 64];
    let mut headers = vec![0u8; 64];
    for (section, name) in sections.iter().zip(&name_at) {
        while !out.len().is_multiple_of(8) {
            out.push(0);
        }
        for word in [*name, section.sh_type] {
            headers.extend_from_slice(&word.to_le_bytes());
        }
        for word in [section.flags, 0, out.len() as u64, section.size] {
            headers.extend_from_slice(&word.to_le_bytes());
        }
        for word in [section.link, section.info] {
            headers.extend_from_slice(&word.to_le_bytes());
        }
        for word in [8u64, if section.sh_type == 9 { 16 } else { 0 }] {
            headers.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&section.data);
    }
    let shoff = out.len() as u64;
    out.extend_from_slice(&headers);
    out[..8].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
    out[16..18].copy_from_slice(&1u16.to_le_bytes());
    out[18..20].copy_from_slice(&247u16.to_le_bytes());
    out[20..24].copy_from_slice(&1u32.to_le_bytes());
    out[40..48].copy_from_slice(&shoff.to_le_bytes());
    out[52..54].copy_from_slice(&64u16.to_le_bytes());
    out[58..60].copy_from_slice(&64u16.to_le_bytes());
    out[60..62].copy_from_slice(&(sections.len() as u16 + 1).to_le_bytes());
    out[62..64].copy_from_slice(&(sections.len() as u16).to_le_bytes());
    out
}

/// Types of the object: an array map with a pinned name, a map of maps with one slot, data, an extern of each kind.
fn object_btf() -> Vec<u8> {
    let mut b = Builder::new();
    let int = b.add_int("int", 4, IntEncoding::SIGNED);
    let number = |b: &mut Builder, value| {
        let array = b.add_array(int, int, value);
        b.add_ref(Kind::Ptr, "", array)
    };
    let (one, two, twelve) = (number(&mut b, 1), number(&mut b, 2), number(&mut b, 12));
    let int_ptr = b.add_ref(Kind::Ptr, "", int);
    let array_def = b.add_struct(
        "",
        40,
        &[
            ("type", two, 0),
            ("key", int_ptr, 64),
            ("value", int_ptr, 128),
            ("max_entries", one, 192),
            ("pinning", one, 256),
        ],
    );
    let inner_def = b.add_struct(
        "",
        32,
        &[
            ("type", two, 0),
            ("key", int_ptr, 64),
            ("value", int_ptr, 128),
            ("max_entries", one, 192),
        ],
    );
    let inner_ptr = b.add_ref(Kind::Ptr, "", inner_def);
    let slots = b.add_array(inner_ptr, int, 0);
    let outer_def = b.add_struct(
        "",
        32,
        &[
            ("type", twelve, 0),
            ("key", int_ptr, 64),
            ("max_entries", two, 128),
            ("values", slots, 192),
        ],
    );
    let counts = b.add_var("counts", array_def, VarLinkage::GlobalAllocated);
    let outer = b.add_var("outer", outer_def, VarLinkage::GlobalAllocated);
    b.add_datasec(".maps", 0, &[(outer, 0, 40), (counts, 0, 40)]);
    let limit = b.add_var("limit", int, VarLinkage::GlobalAllocated);
    b.add_datasec(".rodata", 0, &[(limit, 0, 4)]);
    let version = b.add_var("LINUX_KERNEL_VERSION", int, VarLinkage::GlobalExtern);
    b.add_datasec(".kconfig", 0, &[(version, 0, 4)]);
    let kfunc_proto = b.add_func_proto(int, &[("", int)]);
    let kfunc = b.add_func("kfunc___v1", kfunc_proto, FuncLinkage::Extern);
    b.add_datasec(".ksyms", 0, &[(kfunc, 0, 0)]);
    let proto = b.add_func_proto(int, &[("ctx", int_ptr)]);
    b.add_func("entry", proto, FuncLinkage::Global);
    b.add_func("helper", proto, FuncLinkage::Global);
    for name in ["xdp.frags", ".text", "f.c", "line"] {
        b.string(name);
    }
    b.finish()
}

fn object_ext(btf: &Btf) -> Vec<u8> {
    let at = |name: &str| {
        let strings = btf.string_bytes();
        let needle: Vec<u8> = name.bytes().chain([0]).collect();
        strings
            .windows(needle.len())
            .position(|window| window == needle)
            .unwrap() as u32
    };
    let table = |rec_size: u32, per_section: &[(u32, Vec<u8>)]| {
        let mut out = rec_size.to_le_bytes().to_vec();
        for (name, records) in per_section {
            out.extend_from_slice(&name.to_le_bytes());
            out.extend_from_slice(&(records.len() as u32 / rec_size).to_le_bytes());
            out.extend_from_slice(records);
        }
        out
    };
    let func = |name| FuncInfo {
        insn_off: 0,
        type_id: btf.find_by_name_kind(name, Kind::Func).unwrap(),
    };
    let line = |insn_off| LineInfo {
        insn_off,
        file_name_off: at("f.c"),
        line_off: at("line"),
        line_col: 1 << 10,
    };
    let funcs = table(
        8,
        &[
            (at("xdp.frags"), write_records(&[func("entry")])),
            (at(".text"), write_records(&[func("helper")])),
        ],
    );
    let lines = table(
        16,
        &[
            (at("xdp.frags"), write_records(&[line(0), line(24)])),
            (at(".text"), write_records(&[line(0)])),
        ],
    );
    let mut out = 0x0001_eb9fu32.to_le_bytes().to_vec();
    for word in [
        24,
        0,
        funcs.len() as u32,
        funcs.len() as u32,
        lines.len() as u32,
    ] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend(funcs);
    out.extend(lines);
    out
}

fn object() -> Vec<u8> {
    let btf = object_btf();
    let ext = object_ext(&Btf::parse(&btf).unwrap());
    let mut entry = load(0, 0).to_vec();
    entry.extend(load(0, 0));
    entry.extend(load(0, 0));
    entry.push(RawInsn::new(0x85, 0, 1, 0, -1));
    entry.push(RawInsn::new(0x85, 0, 1, 0, -1));
    entry.push(EXIT);
    let sections = vec![
        sec(
            ".text",
            1,
            6,
            insns(&[RawInsn::new(0xb7, 0, 0, 0, 7), EXIT]),
        ),
        sec("xdp.frags", 1, 6, insns(&entry)),
        rel(
            ".relxdp.frags",
            11,
            2,
            &[(0, 1), (16, 2), (32, 5), (48, 4), (56, 6)],
        ),
        sec(".maps", 1, 3, vec![0; 80]),
        rel(".rel.maps", 11, 4, &[(24, 1)]),
        sec(".rodata", 1, 2, 42u32.to_le_bytes().to_vec()),
        sec("license", 1, 3, b"GPL\0".to_vec()),
        sec(".BTF", 1, 0, btf),
        sec(".BTF.ext", 1, 0, ext),
        Sec {
            size: 16,
            ..sec(".bss", 8, 3, Vec::new())
        },
    ];
    let symbols = [
        ("counts", 40, 40, 0x11, 4),
        ("limit", 0, 4, 0x11, 6),
        ("entry", 0, 72, 0x12, 2),
        ("helper", 0, 16, 0x12, 1),
        ("LINUX_KERNEL_VERSION", 0, 0, 0x10, 0),
        ("kfunc___v1", 0, 0, 0x20, 0),
        ("outer", 0, 40, 0x11, 4),
    ];
    write_elf(sections, &symbols)
}

#[test]
fn a_small_object_is_read_whole() {
    let spec = ObjectSpec::parse(&object(), "dir/small.bpf.o").unwrap();
    assert_eq!(
        (spec.name.as_str(), spec.license.as_str()),
        ("small", "GPL")
    );
    let names: Vec<_> = spec
        .maps
        .iter()
        .map(|map| (map.name.as_str(), map.origin))
        .collect();
    assert_eq!(
        names,
        [
            ("outer", MapOrigin::Btf),
            ("counts", MapOrigin::Btf),
            ("small.rodata", MapOrigin::Rodata),
            ("small.bss", MapOrigin::Bss),
            ("small.kconfig", MapOrigin::Kconfig)
        ]
    );
    assert_eq!(spec.maps[0].slots, [(0, SlotSpec::Map(1))]);
    assert_eq!(spec.maps[0].inner.as_ref().unwrap().name, "outer.inner");
    assert_eq!(
        spec.maps[2].map_flags, 0x480,
        "read-only for programs, can be mapped"
    );
    assert_eq!(
        spec.maps[4].data.as_deref(),
        Some(&0x0006_1200u32.to_le_bytes()[..])
    );

    let prog = spec.prog("entry").unwrap();
    assert_eq!((prog.prog_flags, prog.expected_attach_type), (0x20, 37));
    assert_eq!(prog.functions.len(), 2);
    let fields = |at: usize| {
        (
            prog.insns[at].src(),
            prog.insns[at].imm,
            prog.insns[at + 1].imm,
        )
    };
    assert_eq!(fields(0), (1, 1, 0), "map operand is its index");
    assert_eq!(fields(2), (2, 2, 0), "data operand is index and offset");
    assert_eq!(fields(4), (2, 4, 0), "configuration value is data");
    assert_eq!(prog.insns[6].imm, 2, "call of the function appended at 9");
    assert_eq!(
        prog.func_info
            .iter()
            .map(|info| info.insn_off)
            .collect::<Vec<_>>(),
        [0, 9]
    );
    assert_eq!(
        prog.line_info
            .iter()
            .map(|info| info.insn_off)
            .collect::<Vec<_>>(),
        [0, 3, 9]
    );
    assert!(spec.to_string().contains("extern[1] kfunc___v1 weak"));
    assert_eq!(spec, ObjectSpec::parse(&object(), "small.bpf.o").unwrap());
}

#[test]
fn btf_is_completed_as_it_would_be_loaded() {
    let spec = ObjectSpec::parse(&object(), "small").unwrap();
    let btf = spec.btf.as_ref().unwrap();
    let section = |name| {
        btf.type_by_id(btf.find_by_name_kind(name, Kind::Datasec).unwrap())
            .unwrap()
    };
    let vars = |name| {
        section(name)
            .vars()
            .map(|var| (btf.name(var.ty), var.offset))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (section(".maps").size(), vars(".maps")),
        (80, vec![("outer", 0), ("counts", 40)])
    );
    assert_eq!(section(".rodata").size(), 4);
    assert_eq!(
        (section(".ksyms").size(), vars(".ksyms")),
        (4, vec![("dummy_ksym", 0)])
    );
    let kfunc = btf
        .type_by_id(btf.find_by_name_kind("kfunc___v1", Kind::Func).unwrap())
        .unwrap();
    assert_eq!(kfunc.func_linkage(), Some(FuncLinkage::Global));
    assert_eq!(
        kfunc.referent().unwrap().params().next().unwrap().name(),
        "dummy_ksym"
    );
    ring3_btf::check::check(btf.bytes(), Default::default(), None).unwrap();
}

#[test]
fn kernel_functions_resolve_by_essential_name_and_prototype() {
    let spec = ObjectSpec::parse(&object(), "small").unwrap();
    let prog = spec.prog("entry").unwrap();
    let kernel = |size: u32| {
        let mut b = Builder::new();
        let int = b.add_int("int", size, IntEncoding::SIGNED);
        let proto = b.add_func_proto(int, if size == 4 { &[("a", TypeId(1))] } else { &[] });
        b.add_func("kfunc", proto, FuncLinkage::Static);
        Btf::parse(&b.finish()).unwrap()
    };
    let (same, other) = (kernel(4), kernel(8));
    let call = |btf| {
        Resolver::new(&spec, Target { btf, symbols: None })
            .insns(prog)
            .unwrap()[7]
    };
    assert_eq!((call(Some(&same)).src(), call(Some(&same)).imm), (2, 3));
    assert_eq!(
        (call(Some(&other)).src(), call(Some(&other)).imm),
        (0, 2_002_000_001)
    );
    assert_eq!(call(None).imm, 2_002_000_001, "weak: the call is poisoned");
    assert!(matches!(
        spec.externs[0].kind,
        ExternKind::Kconfig { is_set: true, .. }
    ));
}

#[test]
fn faults_are_named() {
    let parse = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = object();
        change(&mut bytes);
        ObjectSpec::parse(&bytes, "x").unwrap_err().to_string()
    };
    assert_eq!(
        parse(&|bytes| bytes[18] = 62),
        "elf: machine 62, expected BPF (247)"
    );
    assert_eq!(
        parse(&|bytes| bytes[16] = 2),
        "elf: type 2, expected a relocatable object (1)"
    );
    assert_eq!(
        parse(&|bytes| bytes[5] = 2),
        "elf: data encoding 2, expected little-endian"
    );
    assert!(parse(&|bytes| bytes.truncate(200)).contains("section headers"));
}

/// A generator with a fixed start: the same mutations every time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    const WORDS: [u64; 8] = [
        0,
        1,
        0xffff,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        u64::MAX,
        1 << 63,
    ];
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        match random.below(5) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.below(256) as u8,
            2 => bytes.truncate(at.max(bytes.len() / 2)),
            3 => {
                let word = WORDS[random.below(8)].to_le_bytes();
                let len = [2, 4, 8][random.below(3)].min(bytes.len() - at);
                bytes[at..at + len].copy_from_slice(&word[..len]);
            }
            _ => {
                let from = random.below(bytes.len());
                let len = random
                    .below(32)
                    .min(bytes.len() - at)
                    .min(bytes.len() - from);
                bytes.copy_within(from..from + len, at);
            }
        }
        if bytes.is_empty() {
            return;
        }
    }
}

/// Everything that reads an untrusted object: how many of `count` mutations are still accepted.
fn survive(seed: &[u8], count: usize, random: &mut Random) -> usize {
    let target = Btf::parse(&object_btf()).unwrap();
    let mut accepted = 0;
    for _ in 0..count {
        let mut bytes = seed.to_vec();
        mutate(&mut bytes, random);
        let Ok(spec) = ObjectSpec::parse_with(&bytes, "fuzz.o", &ParseOptions::default()) else {
            continue;
        };
        accepted += 1;
        let held: usize = spec
            .maps
            .iter()
            .filter_map(|map| map.data.as_ref())
            .map(Vec::len)
            .sum();
        assert!(held <= bytes.len() + 4096 * spec.externs.len());
        let mut resolver = Resolver::new(
            &spec,
            Target {
                btf: Some(&target),
                symbols: None,
            },
        );
        for prog in &spec.progs {
            // An error is as good as an answer here.
            let _ = (resolver.insns(prog), resolver.attach_btf_id(prog));
        }
        if let Some(btf) = &spec.btf {
            let _ =
                ring3_btf::check::check(btf.bytes(), Default::default(), Some(&mut String::new()));
        }
        assert!(!spec.to_string().is_empty());
    }
    accepted
}

#[test]
fn mutated_objects_do_no_harm() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let accepted = survive(&object(), 6000, &mut random);
    assert!(
        (100..5900).contains(&accepted),
        "{accepted} of 6000 accepted: the mutations test nothing"
    );
}

#[test]
fn mutated_fixtures_do_no_harm() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/elf");
    let mut folders = vec![folder];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                _ if path.is_dir() => folders.push(path),
                Some("o") => files.push(path),
                _ => {}
            }
        }
    }
    files.sort();
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for file in files.iter().take(60) {
        let bytes = std::fs::read(file).unwrap();
        ObjectSpec::parse(&bytes, "fixture.o")
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        survive(&bytes, 40, &mut random);
    }
}

#[test]
fn legacy_definitions_and_unknown_sections() {
    let def = |words: [u32; 7]| {
        words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let object = |extra: u32| {
        let mut body = load(0, 0).to_vec();
        body.push(EXIT);
        let sections = vec![
            sec("mine", 1, 6, insns(&body)),
            rel(".relmine", 4, 1, &[(0, 2)]),
            sec(
                "maps",
                1,
                3,
                [def([1, 4, 8, 16, 1, 0, 0]), def([2, 4, 4, 1, 0, extra, 0])].concat(),
            ),
        ];
        let symbols = [
            ("h", 0, 28, 0x11, 3),
            ("a", 28, 28, 0x11, 3),
            ("p", 0, 24, 0x12, 1),
        ];
        ObjectSpec::parse(&write_elf(sections, &symbols), "x.o")
    };
    let spec = object(0).unwrap();
    let map = &spec.maps[0];
    assert_eq!(
        (map.origin, map.key_size, map.value_size, map.max_entries),
        (MapOrigin::Legacy, 4, 8, 16)
    );
    assert_eq!(
        (spec.progs[0].insns[0].src(), spec.progs[0].insns[0].imm),
        (1, 1)
    );
    assert_eq!(spec.progs[0].prog_type, ring3_uapi::ProgType::Unspec);
    assert_eq!(
        object(3).unwrap_err().message(),
        "map 'a': word 0x3 beyond the known definition"
    );
}
