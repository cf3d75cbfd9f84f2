//! `oracle [AREA]`: records the running kernel's answers into fixtures/oracle. Where bpf(2) is refused it says so and changes nothing.

use std::{ffi::OsStr, fs, io, path::PathBuf, process::ExitCode};

use ring3_testkit::{
    corpus_kernel,
    filetest::{self, Loader},
    fixture::elf_fixtures,
    kernel::{self, KernelObject},
    mprog_kernel, mutants, net_kernel,
};
use ring3_uapi::Errno;

/// Records an area; the number of answers.
type Record = fn() -> io::Result<usize>;

/// What can be recorded.
const AREAS: &[(&str, Record)] = &[
    ("asm", filetest::run::record),
    ("elf", record_elf),
    ("feature", record_feature),
    ("helpers", record_helpers),
    ("maps", record_maps),
    ("memlock", record_memlock),
    ("mprog", record_mprog),
    ("net", record_net),
    ("syscall", record_syscall),
];

/// `oracle corpus DIR OUT`: the folder DIR in the corpus format, asked again without CAP_PERFMON and CAP_SYS_ADMIN.
fn record_corpus(area: &str) -> ExitCode {
    let args: Vec<PathBuf> = std::env::args().skip(2).map(PathBuf::from).collect();
    let result = match &args[..] {
        [dir, out] if area == corpus_kernel::INSIDE => corpus_kernel::record_inside(dir, out),
        [dir, out] => corpus_kernel::record(dir, out),
        _ => Err(io::Error::other("usage: oracle corpus DIR OUT")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("oracle corpus: {error}");
            ExitCode::from(1)
        }
    }
}

/// `oracle mutants DIR [--runs N] [--seed N] [--only PATH] [--out FOLDER] [--no-perfmon]`: nothing is recorded.
fn compare_mutants(area: &str) -> Result<bool, String> {
    let args: Vec<String> = std::env::args().skip(2).collect();
    let usage = "usage: oracle mutants DIR [--runs N] [--seed N] [--only PATH] [--out FOLDER] [--no-perfmon]";
    let (dir, rest) = args.split_first().ok_or(usage)?;
    let mut options = mutants::Options {
        runs: 2000,
        seed: 1,
        only: "",
        no_perfmon: false,
        out: None,
    };
    let mut rest = rest.iter();
    while let Some(arg) = rest.next() {
        if arg == "--no-perfmon" {
            options.no_perfmon = true;
            continue;
        }
        let value = rest.next().ok_or(usage)?;
        let number = || value.parse().map_err(|_| format!("{arg}: '{value}'"));
        match arg.as_str() {
            "--runs" => options.runs = number()?,
            "--seed" => options.seed = number()?,
            "--only" => options.only = value,
            "--out" => options.out = Some(value.as_ref()),
            _ => return Err(usage.to_owned()),
        }
    }
    if !kernel::is_permitted() {
        println!("not permitted here: bpf(2) is refused; nothing was compared");
        return Ok(true);
    }
    let result = if options.no_perfmon && area != mutants::INSIDE {
        let again: Vec<&OsStr> = [mutants::INSIDE.as_ref()]
            .into_iter()
            .chain(args.iter().map(AsRef::as_ref))
            .collect();
        corpus_kernel::run_without_perfmon(&again)
    } else {
        mutants::run(dir.as_ref(), options)
    };
    result.map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    let wanted = std::env::args().nth(1);
    if wanted.as_deref() == Some(mprog_kernel::INSIDE) {
        return match mprog_kernel::run_inside() {
            Ok(()) => ExitCode::SUCCESS,
            Err(errno) => {
                eprintln!("inside the network namespace: {errno}");
                ExitCode::from(1)
            }
        };
    }
    if wanted.as_deref() == Some(net_kernel::INSIDE) {
        let args: Vec<String> = std::env::args().skip(2).collect();
        let result = match &args[..] {
            [folder, cases] => cases
                .parse()
                .map_err(io::Error::other)
                .and_then(|cases| net_kernel::run_inside(folder.as_ref(), cases)),
            _ => Err(io::Error::other("expected a folder and a number of cases")),
        };
        return match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("inside the network namespace: {error}");
                ExitCode::from(1)
            }
        };
    }
    if let Some(area @ (corpus_kernel::INSIDE | "corpus")) = wanted.as_deref() {
        return record_corpus(area);
    }
    if let Some(area @ (mutants::INSIDE | "mutants")) = wanted.as_deref() {
        return match compare_mutants(area) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(1),
            Err(message) => {
                eprintln!("oracle mutants: {message}");
                ExitCode::from(1)
            }
        };
    }
    if wanted.as_deref() == Some(ELF_INSIDE) {
        return match record_elf_for(Loader::NoPerfmon) {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("without CAP_PERFMON: {error}");
                ExitCode::from(1)
            }
        };
    }
    if wanted.as_deref() == Some(filetest::run::INSIDE) {
        return match filetest::run::record_for(Loader::NoPerfmon) {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("without CAP_PERFMON: {error}");
                ExitCode::from(1)
            }
        };
    }
    if let Some(wanted) = &wanted
        && !AREAS.iter().any(|(name, _)| name == wanted)
    {
        let names: Vec<_> = AREAS.iter().map(|(name, _)| *name).collect();
        eprintln!(
            "oracle: no area '{wanted}', there are: {}",
            names.join(", ")
        );
        return ExitCode::from(2);
    }
    if !kernel::is_permitted() {
        println!("not permitted here: bpf(2) is refused; nothing was recorded");
        return ExitCode::SUCCESS;
    }
    for (name, record) in AREAS
        .iter()
        .filter(|(name, _)| wanted.as_ref().is_none_or(|wanted| wanted == name))
    {
        match record() {
            Ok(count) => println!("{name}: {count} answers recorded"),
            Err(error) => {
                eprintln!("oracle: {name}: {error}");
                return ExitCode::from(1);
            }
        }
    }
    ExitCode::SUCCESS
}

/// The argument with which `elf` starts itself without CAP_PERFMON and CAP_SYS_ADMIN.
const ELF_INSIDE: &str = "elf-no-perfmon";

/// The verdict and log of every program of every ELF fixture, with every capability and without CAP_PERFMON and CAP_SYS_ADMIN.
fn record_elf() -> io::Result<usize> {
    let count = record_elf_for(Loader::Full)?;
    if !corpus_kernel::run_without_perfmon(&[ELF_INSIDE.as_ref()])? {
        return Err(io::Error::other("without CAP_PERFMON"));
    }
    Ok(count)
}

fn record_elf_for(loader: Loader) -> io::Result<usize> {
    let mut count = 0;
    for fixture in elf_fixtures()? {
        let spec = fixture.spec()?;
        let object = KernelObject::create(&spec)
            .map_err(|errno| io::Error::other(format!("{}: maps or BTF: {errno}", fixture.name)))?;
        for prog in &spec.progs {
            let (_, recorded) = object.load(prog)?;
            let path = fixture.oracle_path_for(loader, &prog.name);
            // Types that this kernel refuses to every loader.
            let is_refused = loader == Loader::Full || !fixture.oracle_path(&prog.name).exists();
            if recorded.errno == Errno::EPERM.raw() && recorded.log.is_empty() && is_refused {
                println!("{}: not permitted here, nothing recorded", path.display());
                continue;
            }
            fs::create_dir_all(path.parent().expect("below the fixtures"))?;
            fs::write(path, recorded.to_text())?;
            count += 1;
        }
    }
    Ok(count)
}

/// What bpftool's probes find.
fn record_feature() -> io::Result<usize> {
    ring3_testkit::feature_kernel::record(
        &ring3_testkit::fixture::fixtures_dir().join("oracle/bpftool-feature.txt"),
    )
}

/// What programs find out by calling helpers.
fn record_helpers() -> io::Result<usize> {
    ring3_testkit::helper_oracle::record(
        &ring3_testkit::fixture::fixtures_dir().join("oracle/helpers"),
    )
}

/// The answers to every operation of every map script.
fn record_maps() -> io::Result<usize> {
    let folder = ring3_testkit::fixture::fixtures_dir().join("oracle/maps");
    let recorded = ring3_testkit::map_oracle::kernel::record(&folder).map_err(io::Error::other)?;
    Ok(recorded.len())
}

/// Random histories of attach requests at a tcx hook.
fn record_mprog() -> io::Result<usize> {
    mprog_kernel::record(&ring3_testkit::fixture::fixtures_dir().join("oracle/mprog"))
}

/// Memory that fdinfo tells of maps.
fn record_memlock() -> io::Result<usize> {
    ring3_testkit::memlock_kernel::record(
        &ring3_testkit::fixture::fixtures_dir().join("oracle/memlock.txt"),
    )
}

/// Raw bpf(2) calls: errnos, layouts and limits.
fn record_syscall() -> io::Result<usize> {
    ring3_testkit::shim_oracle::record(
        &ring3_testkit::fixture::fixtures_dir().join("oracle/syscall"),
    )
}

/// Random test runs of every packet helper; `RING3_ORACLE_NET` names another folder for a larger record of `RING3_ORACLE_CASES`.
fn record_net() -> io::Result<usize> {
    const CASES: u64 = 120;
    let folder = std::env::var_os("RING3_ORACLE_NET").map_or_else(
        || ring3_testkit::fixture::fixtures_dir().join("oracle/net"),
        std::path::PathBuf::from,
    );
    let cases = std::env::var("RING3_ORACLE_CASES").ok();
    let cases = cases.and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    net_kernel::record(&folder, cases)
}
