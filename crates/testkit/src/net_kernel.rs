//! The running kernel as packet oracle: BPF_PROG_TEST_RUN of every subject of `net_oracle`. Nothing is attached or sent.

use std::{fmt::Write, fs, io, os::fd::AsFd, path::Path};

use ring3_os::bpf_load::{ProgLoad, prog_load, prog_test_run};
use ring3_uapi::ProgType;

use crate::net_oracle::{Case, Subject, answer, subjects};

/// Records `cases` random cases of every subject below `folder`, and returns how many answers there are.
///
/// # Errors
/// A program is refused, or a file cannot be written.
pub fn record(folder: &Path, cases: u64) -> io::Result<usize> {
    fs::create_dir_all(folder)?;
    let release = crate::kernel::release()?;
    let mut count = 0;
    for subject in subjects() {
        let mut text = format!(
            "# {} of Linux {release}, see testkit::net_oracle\n",
            subject.name
        );
        for line in ask(&subject, cases)? {
            let _ = writeln!(text, "{line}");
            count += 1;
        }
        fs::write(folder.join(format!("{}.txt", subject.name)), text)?;
    }
    Ok(count)
}

fn ask(subject: &Subject, cases: u64) -> io::Result<Vec<String>> {
    let prog_type = if subject.is_xdp {
        ProgType::Xdp
    } else {
        ProgType::SchedCls
    };
    let load = ProgLoad {
        prog_type: prog_type.raw(),
        insns: &subject.insns,
        license: "GPL",
        name: "net_oracle",
        log_level: 1,
        ..ProgLoad::default()
    };
    let (prog, log) = prog_load(&load, 1 << 20);
    let prog =
        prog.map_err(|errno| io::Error::other(format!("{}: {errno}\n{log}", subject.name)))?;
    let lines = (1..=cases).map(|seed| {
        let case = Case::random(subject, seed);
        let (data, ctx) = case.input(subject);
        let answer = match prog_test_run(prog.as_fd(), &data, &ctx, 1) {
            Ok(out) => answer(out.retval, &out.data, &out.ctx),
            Err(errno) => errno.to_string(),
        };
        format!("{} -> {answer}", case.text())
    });
    Ok(lines.collect())
}
