//! Hostile BTF and CO-RE records: mutated blobs through the parser, the checker, the dumps and the record finder; mutated types, records and
//! instructions through relocation. Nothing may panic, hang or eat memory. Key type: [`Tally`].

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use ring3_btf::{
    Btf, Builder, CoreRelo, FieldMask, FuncModel, IntEncoding, Kind, Minimizer, Record, TypeId,
    check::{CheckOptions, check},
    core_relo::{Relocator, describe},
    dump,
};
use ring3_isa::RawInsn;

use crate::{
    fixture::{elf_fixtures, kernel_btf},
    generate::Rng,
};

/// Longest time one input may take: above it the run ends with an error.
const TIME_MAX: Duration = Duration::from_secs(5);
/// Most memory the process may have held at once.
const MEMORY_KB_MAX: u64 = 2 << 20;

/// What a run saw.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Inputs.
    pub inputs: u64,
    /// Those that parsed (BTF), or were relocated without an error (CO-RE).
    pub passed: u64,
    /// Those that the checker accepted, or with a poisoned instruction.
    pub accepted: u64,
    /// The slowest one, and its seed.
    pub slowest: (Duration, u64),
    /// Most memory held, in KiB.
    pub memory_kb: u64,
}

impl Tally {
    fn run(
        &mut self,
        seed: u64,
        body: impl FnOnce(&mut Rng) -> (bool, bool),
    ) -> Result<(), String> {
        let mut rng = Rng::new(seed);
        let start = Instant::now();
        let (passed, accepted) = catch_unwind(AssertUnwindSafe(|| body(&mut rng)))
            .map_err(|_| format!("panic, seed {seed}"))?;
        let took = start.elapsed();
        self.slowest = self.slowest.max((took, seed));
        self.inputs += 1;
        self.passed += u64::from(passed);
        self.accepted += u64::from(accepted);
        if took > TIME_MAX {
            return Err(format!("{took:?} for seed {seed}"));
        }
        if self.inputs.is_multiple_of(1024) {
            self.memory_kb = peak_memory_kb();
            if self.memory_kb > MEMORY_KB_MAX {
                return Err(format!("{} KiB of memory, seed {seed}", self.memory_kb));
            }
        }
        Ok(())
    }
}

/// `VmHWM` of this process, 0 where it is not told.
fn peak_memory_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0)
}

/// Changes words, bytes, and the places of whole ranges; cuts the end.
fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..1 + rng.below(6) {
        let words = bytes.len() / 4;
        if words == 0 {
            return;
        }
        let at = rng.below(words) * 4;
        let word = u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let changed = match rng.below(10) {
            0 => word ^ 1 << rng.below(32),
            1 => rng.word() as u32,
            2 => rng.pick(&[0, 1, u32::MAX, 0x7fff_ffff, 0x8000_0000, 0x00ff_ffff]),
            3 => word.wrapping_add(1),
            4 => word.wrapping_sub(1),
            // Another kind.
            5 => word & !0x1f00_0000 | (rng.below(32) as u32) << 24,
            // Another number of records.
            6 => word & !0xffff | rng.below(24) as u32,
            // A type id or a name of this blob, as likely as not.
            7 => rng.below(words) as u32,
            8 => {
                let from = rng.below(words) * 4;
                let len = (rng.below(8) * 4).min(bytes.len() - at.max(from));
                bytes.copy_within(from..from + len, at);
                continue;
            }
            _ => {
                if rng.below(20) == 0 {
                    bytes.truncate(at.max(24));
                }
                continue;
            }
        };
        bytes[at..at + 4].copy_from_slice(&changed.to_le_bytes());
    }
}

/// Chains, cycles, arrays of arrays, structs in structs: what grows when it is followed.
fn nested(rng: &mut Rng) -> Vec<u8> {
    let mut b = Builder::new();
    let int = b.add_int("int", 4, IntEncoding::SIGNED);
    let count = 2 + rng.below(80) as u32;
    for _ in 0..count {
        let next = TypeId(b.next_id().0 + 1);
        let any = TypeId(1 + rng.below(count as usize + 1) as u32);
        let to = rng.pick(&[next, next, any]);
        match rng.below(8) {
            0 => b.add_ref(Kind::Ptr, "", to),
            1 => b.add_ref(rng.pick(&[Kind::Const, Kind::Volatile]), "", to),
            2 => b.add_ref(Kind::Typedef, "t", to),
            3 => b.add_array(to, int, rng.pick(&[0, 1, 2, 65536, u32::MAX])),
            4 => b.add_func_proto(to, &[("a", to), ("b", any)]),
            5 => b.add_union("u", 8, &[("", to, 0), ("x", any, 0)]),
            6 => b.add_struct("", 8, &[("", to, 0), ("", any, 0)]),
            _ => b.add_struct(
                "s",
                rng.pick(&[0, 4, 8, u32::MAX]),
                &[("", to, 0), ("y", to, 32)],
            ),
        };
    }
    b.finish()
}

fn blob(rng: &mut Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    if rng.below(4) == 0 {
        let mut bytes = nested(rng);
        if rng.below(2) == 0 {
            mutate(rng, &mut bytes);
        }
        return bytes;
    }
    let mut bytes = seeds[rng.below(seeds.len())].clone();
    mutate(rng, &mut bytes);
    bytes
}

fn seeds() -> Result<Vec<Vec<u8>>, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut seeds = Vec::new();
    for fixture in elf_fixtures().map_err(text)? {
        seeds.extend(
            fixture
                .spec()
                .map_err(text)?
                .btf
                .map(|btf| btf.bytes().to_vec()),
        );
    }
    Ok(seeds)
}

/// Mutated and nested blobs through everything that reads BTF.
///
/// # Errors
/// A panic, too much time or too much memory, with the seed.
pub fn fuzz_btf(runs: u64, seed: u64) -> Result<Tally, String> {
    let seeds = seeds()?;
    let mut tally = Tally::default();
    for run in 0..runs {
        let seed = seed.wrapping_mul(0x1_0000_0001).wrapping_add(run);
        tally.run(seed, |rng| read_btf(&blob(rng, &seeds)))?;
    }
    tally.memory_kb = peak_memory_kb();
    Ok(tally)
}

fn read_btf(bytes: &[u8]) -> (bool, bool) {
    let mut log = String::new();
    let accepted = check(bytes, CheckOptions::default(), Some(&mut log)).is_ok();
    let Ok(btf) = Btf::parse(bytes) else {
        return (false, accepted);
    };
    let _ = dump::raw(&btf, &mut String::new());
    // Errors of dumps are one line; what they wrote before is as long as the types are many.
    let _ = dump::c(&btf, &mut String::new());
    let mut minimizer = Minimizer::new(&btf);
    for ty in btf.types() {
        let _ = (btf.resolve_size(ty.id()), btf.skip_mods(ty.id()));
        match ty.kind() {
            Kind::FuncProto => {
                let _ = FuncModel::from_proto(&btf, ty.id(), "f");
            }
            Kind::Struct => {
                let _ = Record::parse(&btf, ty.id(), FieldMask::MAP_VALUE, ty.size(), None);
            }
            _ => {}
        }
    }
    minimizer.keep(TypeId(btf.type_count() / 2));
    let _ = minimizer.finish();
    (true, accepted)
}

/// A program with relocations, and the types it was compiled with.
struct Relocated {
    local: Vec<u8>,
    progs: Vec<(Vec<RawInsn>, Vec<CoreRelo>)>,
}

fn relocated() -> Result<Vec<Relocated>, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut all = Vec::new();
    for fixture in elf_fixtures().map_err(text)? {
        let spec = fixture.spec().map_err(text)?;
        let progs: Vec<_> = spec
            .progs
            .iter()
            .filter(|prog| !prog.core_relos.is_empty())
            .map(|prog| (prog.insns.clone(), prog.core_relos.clone()))
            .collect();
        if let (Some(btf), false) = (&spec.btf, progs.is_empty()) {
            all.push(Relocated {
                local: btf.bytes().to_vec(),
                progs,
            });
        }
    }
    Ok(all)
}

/// Mutated local types, target types, records and instructions through relocation.
///
/// # Errors
/// A panic, too much time or too much memory, with the seed.
pub fn fuzz_core(runs: u64, seed: u64) -> Result<Tally, String> {
    let objects = relocated()?;
    let kernel = kernel_btf("6.18").map_err(|error| error.to_string())?;
    let mut targets = seeds()?;
    targets.push(kernel.bytes().to_vec());
    let mut tally = Tally::default();
    for run in 0..runs {
        let seed = seed.wrapping_mul(0x1_0000_0001).wrapping_add(run);
        tally.run(seed, |rng| relocate(rng, &objects, &kernel, &targets))?;
    }
    tally.memory_kb = peak_memory_kb();
    Ok(tally)
}

fn relocate(
    rng: &mut Rng,
    objects: &[Relocated],
    kernel: &Btf,
    targets: &[Vec<u8>],
) -> (bool, bool) {
    let object = &objects[rng.below(objects.len())];
    let mut local = object.local.clone();
    if rng.below(2) == 0 {
        mutate(rng, &mut local);
    }
    let target = match rng.below(3) {
        0 => Ok(kernel.clone()),
        1 => Btf::parse(&local),
        _ => Btf::parse(&blob(rng, targets)),
    };
    let (Ok(local), Ok(target)) = (Btf::parse(&local), target) else {
        return (false, false);
    };
    let mut relocator = Relocator::new(&local, &target);
    let (mut passed, mut poisoned) = (true, false);
    for (insns, relos) in &object.progs {
        let (mut insns, mut relos) = (insns.clone(), relos.clone());
        for relo in &mut relos {
            match rng.below(8) {
                0 => relo.type_id = TypeId(rng.below(local.type_count() as usize + 2) as u32),
                1 => relo.kind = rng.below(16) as u32,
                2 => relo.access_str_off = rng.below(local.string_bytes().len() + 8) as u32,
                3 => relo.insn_off = rng.below(insns.len() + 2) as u32,
                _ => {}
            }
            let _ = (describe(&local, relo), relocator.candidates(relo));
        }
        if rng.below(4) == 0 {
            let at = rng.below(insns.len());
            insns[at] = RawInsn::from_bytes(rng.word().to_le_bytes());
        }
        passed &= relocator.relocate("p", &mut insns, &relos).is_ok();
        poisoned |= insns
            .iter()
            .any(|insn| insn.imm == ring3_btf::core_relo::POISON_IMM);
    }
    (passed, poisoned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_mutated_blobs_pass_and_some_do_not() {
        let tally = fuzz_btf(2000, 3).unwrap();
        assert!(tally.passed > 200 && tally.passed < 2000, "{tally:?}");
        assert!(
            tally.accepted > 20 && tally.accepted < tally.passed,
            "{tally:?}"
        );
    }

    #[test]
    fn some_mutated_relocations_pass_and_some_are_poisoned() {
        let tally = fuzz_core(2000, 3).unwrap();
        assert!(tally.passed > 100 && tally.passed < 1900, "{tally:?}");
        assert!(tally.accepted > 20, "{tally:?}");
    }
}
