//! Programs that no corpus holds, beside the running kernel: corpus rows and generated programs with a few fields changed at random are
//! loaded there and judged here; errno and masked log must be equal. Nothing is attached or run.
//!
//! Key types: [`Mutants`] (a campaign), [`Difference`]. A program that is judged otherwise is made small before it is reported: changed
//! fields are changed back and instructions become `goto +0` as long as the answers still differ. Neighbours: `kernel_request` (the calls),
//! `corpus`, `generate` (where programs come from).

use std::{borrow::Cow, fs, io, path::Path, sync::Arc};

use hashbrown::HashMap;
use ring3_btf::{Btf, TypeId};
use ring3_isa::{NoNames, RawInsn, format_asm};
use ring3_spec::{FdObject, LoadRequest, MapInfo, Privilege, Registry};
use ring3_uapi::{MapType, flags::prog_load};
use ring3_verifier::{Log, verify};

use crate::{
    corpus::{Corpus, Row, registry},
    generate::{self, Generated, MAPS, Rng},
    kernel_request::{Answer, KernelRequest, LOG_LEVEL_STATS},
    log_mask::mask_log,
    parity::LOG_LEVEL,
};

/// The argument with which the campaign starts itself without CAP_PERFMON and CAP_SYS_ADMIN.
pub const INSIDE: &str = "mutants-no-perfmon";

/// Mutants of one program before another is taken.
const MUTANTS_PER_PROGRAM: u64 = 8;
/// Rows that the kernel needed more instructions for are left out: their logs are too long.
const PROCESSED_MAX: u64 = 30_000;
/// Logs of programs that take more instructions are compared by their statistics.
const WHOLE_LOG_MAX: u64 = 5_000;
/// Attempts to make a difference small.
const SHRINKS_MAX: u32 = 400;

/// What a campaign is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Programs to load.
    pub runs: u64,
    /// First state of the random numbers.
    pub seed: u64,
    /// Only rows whose path contains this.
    pub only: &'a str,
    /// Whether CAP_PERFMON and CAP_SYS_ADMIN are given up first.
    pub no_perfmon: bool,
    /// Folder for the programs and whole logs of each kind of difference.
    pub out: Option<&'a Path>,
}

/// A program that the kernel answers otherwise.
pub struct Difference {
    /// Row or generator it came from, and its number.
    pub origin: String,
    /// The small program as assembler text, with type and flags.
    pub program: String,
    /// The first lines that differ, with the lines before them.
    pub how: String,
    /// The kernel's log and ours, masked.
    pub logs: [String; 2],
    /// The two lines with their numbers taken out: differences of one cause mostly share it.
    pub signature: String,
}

/// What a campaign went through.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Programs loaded.
    pub programs: u64,
    /// Of those, the kernel accepted.
    pub accepted: u64,
    /// Of those, the log was compared whole.
    pub whole_logs: u64,
    /// Programs answered otherwise.
    pub different: u64,
    /// Of those, accepted here and rejected by the kernel.
    pub unsafe_accepts: u64,
}

/// A campaign.
pub struct Mutants {
    corpus: Corpus,
    rows: Vec<Row>,
    registry: Registry,
    /// Of the running kernel.
    types: Btf,
    /// Of the kernel that the corpus was recorded on.
    corpus_types: Btf,
    rng: Rng,
    privilege: Privilege,
    /// Instructions to copy into others.
    donors: Vec<RawInsn>,
    /// What was loaded so far.
    pub counts: Counts,
}

impl Mutants {
    /// A campaign over the rows of a corpus folder that the running kernel can be asked for.
    ///
    /// # Errors
    /// The folder cannot be read, or no row is as wanted.
    pub fn open(dir: &Path, options: Options<'_>) -> io::Result<Mutants> {
        let types = read_types("/sys/kernel/btf/vmlinux".as_ref())?;
        let corpus = Corpus::with_types(dir, types.clone());
        let mut rows = corpus.rows()?;
        rows.retain(|row| {
            row.set.ends_with("-6.18")
                && row.processed <= PROCESSED_MAX
                && row.path.contains(options.only)
        });
        if rows.is_empty() {
            return Err(io::Error::other(format!(
                "{}: no row of 6.18 with '{}'",
                dir.display(),
                options.only
            )));
        }
        Ok(Mutants {
            corpus,
            rows,
            registry: registry(),
            types,
            corpus_types: read_types(&dir.join("btf/vmlinux-6.18.btf"))?,
            rng: Rng::new(options.seed),
            privilege: if options.no_perfmon {
                Privilege {
                    perfmon: false,
                    sys_admin: false,
                    ..Privilege::FULL
                }
            } else {
                Privilege::FULL
            },
            donors: Vec::new(),
            counts: Counts::default(),
        })
    }

    /// Loads mutants of the next program and hands each difference to `found`.
    ///
    /// # Errors
    /// A row cannot be read.
    pub fn next_program(&mut self, found: &mut dyn FnMut(Difference)) -> io::Result<()> {
        let (mut request, origin) = if self.rng.one_in(4) {
            let generated = if self.rng.one_in(2) {
                generate::program(&mut self.rng)
            } else {
                generate::proof::program(&mut self.rng)
            };
            (request_of(&generated), "generated".to_owned())
        } else {
            let row = &self.rows[self.rng.below(self.rows.len())];
            let mut request = self.corpus.request(row)?;
            self.use_running_types(&mut request);
            (request, row.path.clone())
        };
        request.privilege = self.privilege;
        request.kernel_btf = Some(self.types.clone());
        // An arena has an address only where a process maps it.
        let is_arena = |map: &Arc<MapInfo>| map.map_type == MapType::Arena;
        if request.maps.iter().any(is_arena) {
            return Ok(());
        }
        let Ok(kernel) = KernelRequest::create(&request) else {
            return Ok(());
        };
        for _ in 0..2 {
            let donor = self.rng.below(request.insns.len().max(1));
            self.donors.extend(request.insns.get(donor));
        }
        for _ in 0..MUTANTS_PER_PROGRAM {
            let mut mutant = request.clone();
            self.mutate(&mut mutant);
            let number = self.counts.programs;
            self.counts.programs += 1;
            let answer = kernel.load_up_to(&mutant, WHOLE_LOG_MAX);
            self.counts.accepted += u64::from(answer.errno == 0);
            self.counts.whole_logs += u64::from(!answer.is_cut);
            let Some((errno, _)) = self.differs(&mutant, &answer) else {
                continue;
            };
            self.counts.different += 1;
            self.counts.unsafe_accepts += u64::from(errno == 0 && answer.errno != 0);
            let small = self.shrink(&request, mutant, &kernel);
            let answer = kernel.load_up_to(&small, WHOLE_LOG_MAX);
            // An answer that depends on the time, if it is equal now.
            if let Some((errno, ours)) = self.differs(&small, &answer) {
                found(difference(
                    format!("{origin}, program {number}"),
                    &small,
                    &answer,
                    (errno, &ours),
                ));
            }
        }
        Ok(())
    }

    /// Functions and variables of the kernel have other numbers in the running one than in the corpus.
    fn use_running_types(&self, request: &mut LoadRequest) {
        let mut is_second = false;
        for insn in &mut request.insns {
            let is_wide = !is_second && insn.is_ld_imm64();
            let names_type = is_wide && insn.src() == 3 || insn.code == 0x85 && insn.src() == 2;
            if !is_second && names_type && insn.off == 0 {
                let named = self.corpus_types.type_by_id(TypeId(insn.imm as u32));
                let here = named
                    .and_then(|named| self.types.find_by_name_kind(named.name(), named.kind()));
                insn.imm = here.map_or(insn.imm, |id| id.0 as i32);
            }
            is_second = is_wide;
        }
    }

    /// What ring3 says, if it is not what the kernel says.
    fn differs(&self, request: &LoadRequest, kernel: &Answer) -> Option<(i32, String)> {
        let level = if kernel.is_cut {
            LOG_LEVEL_STATS
        } else {
            LOG_LEVEL
        };
        let mut log = Log::new(level);
        let verdict = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            verify(request, &self.registry, &mut log)
        }));
        let errno = match verdict {
            Ok(Ok(_)) => 0,
            Ok(Err(error)) => error.errno.raw(),
            Err(_) => -1,
        };
        let ours = mask_log(&log.into_string(), &request.insns);
        let theirs = mask_log(&kernel.log, &request.insns);
        let is_equal = errno == kernel.errno && without_place(&theirs) == without_place(&ours);
        (!is_equal).then_some((errno, ours))
    }

    fn shrink(
        &self,
        original: &LoadRequest,
        mut small: LoadRequest,
        kernel: &KernelRequest,
    ) -> LoadRequest {
        let still = |request: &LoadRequest, left: &mut u32| {
            *left = left.saturating_sub(1);
            *left != 0
                && self
                    .differs(request, &kernel.load_up_to(request, WHOLE_LOG_MAX))
                    .is_some()
        };
        let mut left = SHRINKS_MAX;
        if small.flags != original.flags {
            let mut tried = small.clone();
            tried.flags = original.flags;
            if still(&tried, &mut left) {
                small = tried;
            }
        }
        for at in 0..original.insns.len() {
            if small.insns[at] != original.insns[at] {
                let mut tried = small.clone();
                tried.insns[at] = original.insns[at];
                if still(&tried, &mut left) {
                    small = tried;
                }
            }
        }
        // Runs of instructions become `goto +0`, halving the runs.
        let nop = RawInsn::new(0x05, 0, 0, 0, 0);
        let mut run = small.insns.len() / 2;
        while run != 0 && left != 0 {
            let mut at = 0;
            while at < small.insns.len() {
                let end = (at + run).min(small.insns.len());
                if small.insns[at..end].iter().any(|insn| *insn != nop) {
                    let mut tried = small.clone();
                    tried.insns[at..end].fill(nop);
                    if still(&tried, &mut left) {
                        small = tried;
                    }
                }
                at = end;
            }
            run /= 2;
        }
        small
    }

    fn mutate(&mut self, request: &mut LoadRequest) {
        let rng = &mut self.rng;
        // Arrays of programs remember flags of the first program that used them.
        let owns = |map: &Arc<MapInfo>| map.map_type == MapType::ProgArray;
        if rng.one_in(16) && !request.maps.iter().any(owns) {
            request.flags ^= rng.pick(&[
                prog_load::STRICT_ALIGNMENT,
                prog_load::ANY_ALIGNMENT,
                prog_load::TEST_STATE_FREQ,
                prog_load::SLEEPABLE,
                prog_load::TEST_REG_INVARIANTS,
                prog_load::XDP_HAS_FRAGS,
            ]);
        }
        for _ in 0..rng.pick(&[1, 1, 1, 2, 2, 3, 5]) {
            let count = request.insns.len();
            if count == 0 {
                return;
            }
            let at = rng.below(count);
            let is_second = at != 0 && request.insns[at - 1].is_ld_imm64();
            if is_second && !rng.one_in(8) {
                continue;
            }
            let donor = if rng.one_in(2) && !self.donors.is_empty() {
                rng.pick(&self.donors)
            } else {
                request.insns[rng.below(count)]
            };
            if rng.one_in(12) {
                request.insns.swap(at, (at + 1) % count);
            } else {
                let insn = &mut request.insns[at];
                *insn = mutant(rng, *insn, donor, at, count);
            }
        }
    }
}

fn read_types(file: &Path) -> io::Result<Btf> {
    let bytes = std::fs::read(file)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))?;
    Btf::parse(&bytes).map_err(io::Error::other)
}

/// One instruction, changed.
fn mutant(rng: &mut Rng, mut insn: RawInsn, donor: RawInsn, at: usize, count: usize) -> RawInsn {
    let names_object = insn.is_ld_imm64() && insn.src() != 0;
    match rng.below(10) {
        // The operation within its class, or its operand's kind.
        0 => insn.code ^= 0x10 << rng.below(4),
        1 => insn.code ^= 0x08,
        // 32 or 64 bits; sizes of accesses; another class.
        2 => insn.code ^= rng.pick(&[0x03, 0x08, 0x10, 0x18, 0x01, 0x02, 0x04]),
        3 => {
            insn = RawInsn::new(
                insn.code,
                rng.below(11) as u8,
                insn.src(),
                insn.off,
                insn.imm,
            )
        }
        4 => {
            insn = RawInsn::new(
                insn.code,
                insn.dst(),
                rng.below(11) as u8,
                insn.off,
                insn.imm,
            )
        }
        5 if matches!(insn.class(), 5 | 6) => {
            insn.off = (rng.below(count) as i64 - at as i64) as i16;
        }
        5 | 6 => {
            let near = rng.pick(&[-16i16, -8, -4, -2, -1, 1, 2, 4, 8, 16]);
            insn.off = if rng.one_in(8) {
                rng.imm() as i16
            } else {
                insn.off.wrapping_add(near)
            };
        }
        7 | 8 if !names_object => {
            let near = rng.pick(&[-8i32, -4, -1, 1, 2, 4, 8, 64]);
            insn.imm = if rng.one_in(2) {
                rng.imm()
            } else {
                insn.imm.wrapping_add(near)
            };
        }
        _ => insn = donor,
    }
    insn
}

/// A generated program as the verifier takes it.
fn request_of(generated: &Generated) -> LoadRequest {
    let mut request = LoadRequest::new(generated.prog_type, generated.insns.clone());
    let (btf, func_info) = generated.btf();
    request.btf = Some(btf);
    request.func_info = func_info;
    for (number, (map_type, key_size, value_size, max_entries)) in (0..).zip(MAPS) {
        request
            .fds
            .insert(number, FdObject::Map(request.maps.len()));
        request.maps.push(Arc::new(map_info(
            number,
            *map_type,
            (*key_size, *value_size),
            *max_entries,
        )));
    }
    request
}

fn map_info(number: i32, map_type: MapType, sizes: (u32, u32), max_entries: u32) -> MapInfo {
    MapInfo {
        id: number as u32 + 1,
        map_type,
        name: format!("m{number}"),
        key_size: sizes.0,
        value_size: sizes.1,
        max_entries,
        map_flags: 0,
        map_extra: 0,
        frozen: false,
        contents: None,
        btf: None,
        key_type_id: TypeId(0),
        value_type_id: TypeId(0),
        record: None,
        inner: None,
    }
}

fn difference(
    origin: String,
    request: &LoadRequest,
    answer: &Answer,
    (errno, ours): (i32, &str),
) -> Difference {
    let theirs = mask_log(&answer.log, &request.insns);
    let same = theirs
        .lines()
        .zip(ours.lines())
        .take_while(|(a, b)| a == b)
        .count();
    let line = |text: &str| text.lines().nth(same).unwrap_or("(end)").to_owned();
    let before: Vec<&str> = theirs
        .lines()
        .take(same)
        .skip(same.saturating_sub(6))
        .collect();
    let (their_line, our_line) = (line(&theirs), line(ours));
    let maps: Vec<String> = request
        .maps
        .iter()
        .map(|map| {
            format!(
                "; map {} {} key {} value {} entries {} flags {:#x}\n",
                map.id - 1,
                map.map_type,
                map.key_size,
                map.value_size,
                map.max_entries,
                map.map_flags
            )
        })
        .collect();
    let text = format_asm(&request.insns, &NoNames);
    let slots: Vec<String> = text.lines().map(str::to_owned).collect();
    Difference {
        logs: [theirs.clone(), ours.to_owned()],
        origin,
        program: format!(
            "; {} attach {} flags {:#x} license {}\n{}{}\n",
            request.prog_type,
            request.expected_attach_type,
            request.flags,
            request.license,
            maps.concat(),
            slots.join("\n")
        ),
        how: format!(
            "errno: kernel {}, ring3 {errno}\n  {}\n- {their_line}\n+ {our_line}",
            answer.errno,
            before.join("\n  ")
        ),
        signature: format!(
            "{}/{errno} -{} +{}",
            answer.errno,
            without_numbers(&their_line),
            without_numbers(&our_line)
        ),
    }
}

/// The kernel's JIT counts instructions of calls that it inlines and we do not.
fn without_place(log: &str) -> Cow<'_, str> {
    const BEFORE: &str = "verifier bug: No program to jit at insn ";
    let Some(place) = log.find(BEFORE) else {
        return Cow::Borrowed(log);
    };
    let (head, rest) = log.split_at(place + BEFORE.len());
    Cow::Owned(format!(
        "{head}{}",
        rest.trim_start_matches(|c: char| c.is_ascii_digit())
    ))
}

fn without_numbers(line: &str) -> String {
    line.chars()
        .filter(|c| !c.is_ascii_digit())
        .take(60)
        .collect()
}

/// Runs a campaign and prints each kind of difference once, then the counts: whether nothing differed.
///
/// # Errors
/// The corpus cannot be read.
pub fn run(dir: &Path, options: Options<'_>) -> io::Result<bool> {
    let mut mutants = Mutants::open(dir, options)?;
    let mut kinds: HashMap<String, u64> = HashMap::new();
    if let Some(out) = options.out {
        fs::create_dir_all(out)?;
    }
    while mutants.counts.programs < options.runs {
        let mut kept = Ok(());
        mutants.next_program(&mut |found| {
            let count = kinds.entry(found.signature).or_default();
            *count += 1;
            if *count == 1 {
                let number = kinds.len();
                println!(
                    "== {number}: {}\n{}{}\n",
                    found.origin, found.program, found.how
                );
                if let Some(out) = options.out {
                    let [kernel, ours] = &found.logs;
                    let write =
                        |who: &str, log: &str| fs::write(out.join(format!("{number}.{who}")), log);
                    if let Err(error) = write("kernel", kernel).and(write("ring3", ours)) {
                        kept = Err(error);
                    }
                }
            }
        })?;
        kept?;
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for (signature, count) in &kinds {
        println!("{count:6} times {signature}");
    }
    let Counts {
        programs,
        accepted,
        whole_logs,
        different,
        unsafe_accepts,
    } = mutants.counts;
    println!(
        "{programs} programs, {accepted} accepted by the kernel, {whole_logs} logs compared whole; {different} differ ({unsafe_accepts} accepted here only), seed {}",
        options.seed
    );
    Ok(different == 0)
}
