//! The helper oracle: what programs of `fixtures/elf/helpers` find out by calling helpers, from the kernel and from ring3.
//!
//! Each program is run once over the same input, in the order of the object; what helpers answered it wrote to the variable `out` in `.bss`. A record is
//! `fixtures/oracle/helpers/OBJECT.txt`: a line per program with its return value, then a line per member of `out`, as BTF shows it.
//! Programs write only what is the same on every machine: no addresses, ids or times.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::Duration,
};

use ring3_btf::{Btf, Kind, ValueText};
use ring3_elf::{MapOrigin, ObjectSpec, ProgSpec};
use ring3_os::bpf_load::{map_lookup, prog_test_run, prog_test_run_ctx};
use ring3_uapi::ProgType;

use crate::{
    fixture::{Fixture, elf_fixtures},
    kernel::{KernelObject, release},
};

/// Time for timers that a program armed, between two programs.
pub const PAUSE: Duration = Duration::from_millis(30);

/// What user memory holds that syscall programs get the address of.
pub const USER_MEMORY: [u8; 16] = *b"user text\0\x01\x02\x03\x04\x05\x06";

/// The input of a test run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A packet.
    Packet(Vec<u8>),
    /// A context.
    Ctx(Vec<u8>),
}

/// The input that programs of a type get; `user` is where [`USER_MEMORY`] lies.
pub fn input(prog_type: ProgType, user: &[u8; 16]) -> Input {
    match prog_type {
        ProgType::Syscall | ProgType::RawTracepoint => {
            let mut ctx = vec![0; 64];
            let address = user.as_ptr().expose_provenance() as u64;
            ctx[..8].copy_from_slice(&address.to_ne_bytes());
            Input::Ctx(ctx)
        }
        _ => {
            let mut packet: Vec<u8> = (0..100).collect();
            packet[12..14].copy_from_slice(&[8, 0]);
            packet[14] = 0x45;
            Input::Packet(packet)
        }
    }
}

/// The fixtures whose answers are recorded.
///
/// # Errors
/// The folder cannot be read.
pub fn objects() -> io::Result<Vec<Fixture>> {
    let mut fixtures = elf_fixtures()?;
    fixtures.retain(|fixture| fixture.name.starts_with("helpers/"));
    Ok(fixtures)
}

/// Index of the map that holds `out`.
pub fn out_map(spec: &ObjectSpec) -> Option<usize> {
    spec.maps
        .iter()
        .position(|map| map.origin == MapOrigin::Bss)
}

/// A line per member of `out`; empty without BTF or without such a variable.
pub fn out_lines(btf: &Btf, bss: &[u8]) -> Vec<String> {
    let lines = || {
        let section = btf.type_by_id(btf.find_by_name_kind(".bss", Kind::Datasec)?)?;
        let var = btf.find_by_name_kind("out", Kind::Var)?;
        let place = section.vars().find(|place| place.ty == var)?;
        let start = place.offset as usize;
        let bytes = bss.get(start..start + place.size as usize)?;
        let ty = btf.type_by_id(btf.type_by_id(var)?.type_id())?;
        let members = ty.members().map(|member| {
            let from = (member.bit_offset / 8) as usize;
            let size = btf.resolve_size(member.ty).unwrap_or(0) as usize;
            let text = ValueText::new(btf, member.ty, &bytes[from..from + size]);
            format!("{}: {text}", member.name())
        });
        Some(members.collect())
    };
    lines().unwrap_or_default()
}

/// The line of a program.
pub fn prog_line(name: &str, answer: Result<u32, String>) -> String {
    match answer {
        Ok(retval) => format!("{name} returned {retval}"),
        Err(errno) => format!("{name} did not run: {errno}"),
    }
}

/// Records the kernel's answers into `folder`; the number of objects.
///
/// # Errors
/// A program is refused, or a file cannot be written.
pub fn record(folder: &Path) -> io::Result<usize> {
    fs::create_dir_all(folder)?;
    let mut count = 0;
    for fixture in objects()? {
        let stem = fixture.name.trim_start_matches("helpers/");
        let mut text = format!("# {stem} of Linux {}\n", release()?);
        for line in ask(&fixture.spec()?)? {
            text.push_str(&line);
            text.push('\n');
        }
        fs::write(folder.join(format!("{stem}.txt")), text)?;
        count += 1;
    }
    Ok(count)
}

fn ask(spec: &ObjectSpec) -> io::Result<Vec<String>> {
    let object = KernelObject::create(spec)
        .map_err(|errno| io::Error::other(format!("maps or BTF: {errno}")))?;
    let mut lines = Vec::new();
    for prog in &spec.progs {
        let (fd, recorded) = object.load(prog)?;
        let fd = fd.ok_or_else(|| io::Error::other(format!("{}\n{}", prog.name, recorded.log)))?;
        let answer = run(&fd, prog).map_err(|errno| errno.to_string());
        lines.push(prog_line(&prog.name, answer));
        std::thread::sleep(PAUSE);
    }
    if let (Some(at), Some(btf)) = (out_map(spec), &spec.btf) {
        let mut bss = vec![0; spec.maps[at].value_size as usize];
        map_lookup(object.map(at), &0u32.to_ne_bytes(), &mut bss).map_err(io::Error::other)?;
        lines.extend(out_lines(btf, &bss));
    }
    Ok(lines)
}

fn run(fd: &OwnedFd, prog: &ProgSpec) -> Result<u32, ring3_uapi::Errno> {
    let user = Box::new(USER_MEMORY);
    match input(prog.prog_type, &user) {
        Input::Packet(packet) => prog_test_run(fd.as_fd(), &packet, &[], 1).map(|out| out.retval),
        Input::Ctx(mut ctx) => prog_test_run_ctx(fd.as_fd(), &mut ctx),
    }
}
