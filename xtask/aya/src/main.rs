//! A client made of aya: loads rings.bpf.o, runs its program, reads a hash, a global and the ring buffer. One line each; `cargo xtask clients` compares.

use std::{
    env, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    process::ExitCode,
};

use aya::{
    EbpfLoader,
    maps::{Array, HashMap, RingBuf},
    programs::{Xdp, loaded_programs},
};

type Failure = Box<dyn std::error::Error>;

/// BPF_PROG_TEST_RUN, which aya has not: the program's return value.
fn test_run(prog: BorrowedFd<'_>) -> io::Result<u32> {
    const PROG_TEST_RUN: libc::c_long = 10;
    let packet = [0u8; 64];
    let mut attr = [0u64; 10];
    let address = packet.as_ptr() as u64;
    attr[0] = prog.as_raw_fd() as u64;
    attr[1] = packet.len() as u64;
    attr[2] = address;
    attr[4] = 1;
    // SAFETY: 1. the attributes are as long as is said; 2. the packet, which they point to, outlives the call, and nothing else is pointed to.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_TEST_RUN,
            attr.as_mut_ptr(),
            size_of_val(&attr),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // `retval` is the second word.
    Ok((attr[0] >> 32) as u32)
}

fn run() -> Result<(), Failure> {
    let object = env::args().nth(1).ok_or("aya-client OBJECT")?;
    // aya has no user ring buffers; the object has one.
    let mut ebpf = EbpfLoader::new()
        .allow_unsupported_maps()
        .set_global("step", &3u64, true)
        .load_file(object)?;
    let program: &mut Xdp = ebpf
        .program_mut("count")
        .ok_or("no program 'count'")?
        .try_into()?;
    program.load()?;
    let fd = program.fd()?.try_clone()?;
    let mut ring = RingBuf::try_from(ebpf.take_map("ring").ok_or("no map 'ring'")?)?;
    for round in 0..5 {
        let retval = test_run(fd.as_fd())?;
        if round == 0 {
            println!("count {retval}");
        }
    }
    let (mut count, mut sum) = (0, 0);
    while let Some(record) = ring.next() {
        count += 1;
        sum += u64::from_ne_bytes(record[..8].try_into()?);
    }
    println!("ring {count} of sum {sum}");
    let counts: HashMap<_, u32, u64> =
        HashMap::try_from(ebpf.map("counts").ok_or("no map 'counts'")?)?;
    println!("hash {}", counts.get(&7, 0)?);
    for entry in counts.iter() {
        let (key, value) = entry?;
        println!("entry {key} {value}");
    }
    let globals: Array<_, [u64; 2]> = Array::try_from(ebpf.map(".bss").ok_or("no map '.bss'")?)?;
    let globals = globals.get(&0, 0)?;
    println!("globals {}", globals.contains(&15));
    let own = loaded_programs()
        .filter_map(Result::ok)
        .find(|info| info.name() == b"count");
    println!(
        "program {:?}",
        own.map(|info| info.name_as_str().map(str::to_owned))
    );
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aya-client: {error}");
            ExitCode::FAILURE
        }
    }
}
