//! CO-RE beside libbpf: the instructions of fixtures as `xtask/libbpf` recorded them, and as ring3 makes them. Key type: [`Prepared`].
//!
//! The recorded text has a line `object AREA/NAME`, then for each of its programs `program NAME` and one line of 16 hex digits per
//! instruction slot, or `error ERRNO`.

use std::{collections::BTreeMap, fs, io, path::Path};

use ring3_btf::Btf;
use ring3_elf::{ExternKind, ObjectSpec, ProgSpec, Resolver, Target};
use ring3_isa::RawInsn;
use ring3_uapi::Errno;

use crate::fixture::elf_fixtures;

/// What libbpf made of programs: instructions, or a negative errno; by object and program.
pub type Prepared = BTreeMap<(String, String), Result<Vec<RawInsn>, i32>>;

/// Reads a recorded text.
///
/// # Errors
/// The file cannot be read or a line is not in the format.
pub fn read(path: &Path) -> io::Result<Prepared> {
    let text = fs::read_to_string(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    let mut prepared = Prepared::new();
    let (mut object, mut program) = (String::new(), String::new());
    for (at, line) in text.lines().enumerate() {
        let bad = || {
            let message = format!("{}:{}: '{line}'", path.display(), at + 1);
            io::Error::new(io::ErrorKind::InvalidData, message)
        };
        match line.split_once(' ') {
            Some(("libbpf" | "target", _)) => {}
            Some(("object", name)) => object = name.to_owned(),
            Some(("program", name)) => {
                program = name.to_owned();
                prepared.insert((object.clone(), program.clone()), Ok(Vec::new()));
            }
            Some(("error", errno)) => {
                let errno = errno.parse().map_err(|_| bad())?;
                prepared.insert((object.clone(), program.clone()), Err(errno));
            }
            _ => {
                let slot = u64::from_str_radix(line, 16).map_err(|_| bad())?;
                let entry = prepared.get_mut(&(object.clone(), program.clone()));
                match entry {
                    Some(Ok(insns)) => insns.push(RawInsn::from_bytes(slot.to_be_bytes())),
                    _ => return Err(bad()),
                }
            }
        }
    }
    Ok(prepared)
}

/// How ring3 and libbpf compare over all fixtures.
#[derive(Clone, Debug, Default)]
pub struct Compared {
    /// Programs whose every instruction is equal.
    pub equal: usize,
    /// Relocations in those.
    pub relocations: usize,
    /// Programs that name kernel symbols: libbpf looks those up in the running kernel, so their operands are left out.
    pub with_symbols: usize,
    /// What differs, one line each.
    pub different: Vec<String>,
}

/// Compares every program of every fixture with what libbpf made of it.
///
/// # Errors
/// A fixture cannot be read.
pub fn compare(prepared: &Prepared, kernel: &Btf) -> io::Result<Compared> {
    let mut compared = Compared::default();
    for fixture in elf_fixtures()? {
        let spec = fixture.spec()?;
        let target = Target {
            btf: Some(kernel),
            symbols: None,
        };
        let mut resolver = Resolver::new(&spec, target);
        for prog in &spec.progs {
            let key = (fixture.name.clone(), prog.name.clone());
            let ours = resolver.insns(prog);
            let difference = match (prepared.get(&key), &ours) {
                // Nothing of it depends on the kernel.
                (None | Some(Err(_)), _) if prog.core_relos.is_empty() => continue,
                (None, _) => Some("not recorded".to_owned()),
                (Some(Err(_)), Err(_)) => None,
                // The maps of some objects cannot be made where the record was; libbpf prepares nothing of those.
                (Some(Err(_)), Ok(_)) if is_refused(prepared, &fixture.name) => continue,
                // A symbol that the running kernel had and this one has not.
                (Some(Ok(_)), Err(error))
                    if error.errno() == Errno::ESRCH && !symbol_slots(&spec, prog).is_empty() =>
                {
                    compared.with_symbols += 1;
                    continue;
                }
                (Some(Ok(theirs)), Ok(ours)) => first_difference(&spec, prog, theirs, ours),
                (Some(theirs), ours) => Some(format!("libbpf {theirs:?}, ring3 {ours:?}")),
            };
            compared.with_symbols += usize::from(!symbol_slots(&spec, prog).is_empty());
            match difference {
                None => {
                    compared.equal += 1;
                    compared.relocations += prog.core_relos.len();
                }
                Some(difference) => compared
                    .different
                    .push(format!("{} {}: {difference}", fixture.name, prog.name)),
            }
        }
    }
    Ok(compared)
}

/// Whether libbpf prepared no program of an object.
fn is_refused(prepared: &Prepared, object: &str) -> bool {
    let mut programs = prepared.iter().filter(|((name, _), _)| name == object);
    programs.all(|(_, insns)| insns.is_err())
}

/// Slots whose operand is a kernel symbol.
fn symbol_slots(spec: &ObjectSpec, prog: &ProgSpec) -> Vec<u32> {
    prog.extern_refs
        .iter()
        .filter(|reference| {
            let kind = spec.externs.get(reference.ext).map(|ext| &ext.kind);
            !matches!(kind, Some(ExternKind::Kconfig { .. }))
        })
        .map(|reference| reference.insn_idx)
        .collect()
}

/// Map operands are descriptors there and indices here: everything else of those slots is compared.
fn first_difference(
    spec: &ObjectSpec,
    prog: &ProgSpec,
    theirs: &[RawInsn],
    ours: &[RawInsn],
) -> Option<String> {
    if theirs.len() != ours.len() {
        return Some(format!("{} slots, ring3 {}", theirs.len(), ours.len()));
    }
    let symbols = symbol_slots(spec, prog);
    let is_map = |slot: u32| prog.map_refs.iter().any(|map| map.insn_idx == slot);
    let is_symbol = |slot: u32| {
        symbols.contains(&slot) || slot.checked_sub(1).is_some_and(|s| symbols.contains(&s))
    };
    for (slot, (their, our)) in (0..).zip(theirs.iter().zip(ours)) {
        let (mut their, mut our) = (*their, *our);
        if is_map(slot) {
            (their.imm, our.imm) = (0, 0);
        }
        if is_symbol(slot) {
            continue;
        }
        if their != our {
            return Some(format!("slot {slot}: libbpf {their:?}, ring3 {our:?}"));
        }
    }
    None
}
