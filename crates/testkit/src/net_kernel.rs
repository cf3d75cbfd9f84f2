//! The running kernel as packet oracle: BPF_PROG_TEST_RUN of every subject of `net_oracle`. Nothing is attached. The runs happen in a network namespace
//! of their own: [`record`] starts this binary again below `unshare --net`.

use std::{
    fmt::Write,
    fs,
    io::{self, Write as _},
    os::fd::AsFd,
    path::Path,
    process::{Command, Stdio},
};

use ring3_os::{
    bpf_load::{ProgLoad, prog_load, prog_test_run},
    rtnetlink::forward_ipv4,
};
use ring3_uapi::{ProgType, flags};

use crate::net_oracle::{Case, Kind, Subject, VA, WORLD, answer, subjects};

/// Argument that says: this is the process inside the namespace. The folder and the number of cases follow.
pub const INSIDE: &str = "net-inside-namespace";

/// Records `cases` random cases of every subject below `folder`, and returns how many answers there are.
///
/// # Errors
/// A program is refused, or a file cannot be written.
pub fn record(folder: &Path, cases: u64) -> io::Result<usize> {
    let output = Command::new("unshare")
        .arg("--net")
        .arg(std::env::current_exe()?)
        .arg(INSIDE)
        .arg(folder)
        .arg(cases.to_string())
        .output()?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(io::Error::other(message));
    }
    let count = String::from_utf8_lossy(&output.stdout).trim().parse();
    count.map_err(io::Error::other)
}

/// Makes the devices and routes of [`WORLD`], with the tool `ip`; `va` forwards IPv4.
fn build_world() -> io::Result<()> {
    let mut ip = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = ip.stdin.take() {
        stdin.write_all(WORLD.as_bytes())?;
    }
    match ip.wait()?.success() {
        true => forward_ipv4(VA).map_err(|errno| io::Error::other(errno.to_string())),
        false => Err(io::Error::other("ip -batch: a line of the world failed")),
    }
}

/// The process inside the namespace: records, and prints how many answers there are.
///
/// # Errors
/// As [`record`].
pub fn run_inside(folder: &Path, cases: u64) -> io::Result<()> {
    build_world()?;
    println!("{}", record_here(folder, cases)?);
    Ok(())
}

fn record_here(folder: &Path, cases: u64) -> io::Result<usize> {
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
    let prog_type = match subject.kind {
        Kind::Tc => ProgType::SchedCls,
        Kind::Xdp | Kind::XdpFrags => ProgType::Xdp,
    };
    let prog_flags = match subject.kind {
        Kind::XdpFrags => flags::prog_load::XDP_HAS_FRAGS,
        Kind::Tc | Kind::Xdp => 0,
    };
    let load = ProgLoad {
        prog_type: prog_type.raw(),
        insns: &subject.insns,
        license: "GPL",
        name: "net_oracle",
        log_level: 1,
        prog_flags,
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
