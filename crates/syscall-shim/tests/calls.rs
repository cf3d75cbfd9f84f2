//! Whole conversations, and calls that nobody means.

use ring3_objects::System;
use ring3_syscall_shim::{Caller, SUPPORT, Shim, VecMemory};
use ring3_uapi::{Cmd, Errno};

fn attr<const N: usize>(fields: &[(usize, u32)]) -> [u8; N] {
    let mut attr = [0; N];
    for &(at, value) in fields {
        attr[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    attr
}

fn put_address(attr: &mut [u8], at: usize, address: u64) {
    attr[at..at + 8].copy_from_slice(&address.to_ne_bytes());
}

#[test]
fn a_pin_brings_a_map_from_one_caller_to_another() {
    let shim = Shim::new(System::new());
    let (one, two) = (Caller::new(), Caller::new());
    let mut memory = VecMemory::new();
    let mut create = attr::<92>(&[(0, 1), (4, 4), (8, 4), (12, 4)]);
    let fd = shim.bpf(&one, Cmd::MapCreate.raw(), &mut create, &mut memory);
    let path = memory.add(b"/sys/fs/bpf/m\0");
    let mut pin = attr::<20>(&[(8, fd.unwrap() as u32)]);
    put_address(&mut pin, 0, path);
    let pinned = shim.bpf(&one, Cmd::ObjPin.raw(), &mut pin, &mut memory);
    assert_eq!(pinned, Ok(0));
    drop(one);
    let mut get = attr::<20>(&[]);
    put_address(&mut get, 0, path);
    let got = shim.bpf(&two, Cmd::ObjGet.raw(), &mut get, &mut memory);
    assert_eq!(got, Ok(3));
    let mut next = attr::<8>(&[]);
    let found = shim.bpf(&two, Cmd::MapGetNextId.raw(), &mut next, &mut memory);
    assert_eq!((found, next[4]), (Ok(0), 1));
    shim.bpffs().unlink("/sys/fs/bpf/m").unwrap();
    two.close(3).unwrap();
    let mut next = attr::<8>(&[]);
    let found = shim.bpf(&two, Cmd::MapGetNextId.raw(), &mut next, &mut memory);
    assert_eq!(found, Err(Errno::ENOENT));
}

/// Attributes of small and extreme numbers, addresses and descriptors: every answer is an answer.
#[test]
fn random_attributes_never_panic() {
    let shim = Shim::new(System::new());
    let caller = Caller::new().with_fds_max(40);
    let mut memory = VecMemory::new();
    let address = memory.add(&[0; 64]) as u32;
    let values = [
        0,
        1,
        2,
        3,
        4,
        5,
        8,
        16,
        64,
        4096,
        address,
        address + 60,
        u32::MAX,
        1 << 31,
    ];
    let mut state = 1u64;
    let mut next = |below: usize| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let mut create = attr::<92>(&[(0, 2), (4, 4), (8, 4), (12, 4)]);
    let made = shim.bpf(&caller, Cmd::MapCreate.raw(), &mut create, &mut memory);
    assert_eq!(made, Ok(3));
    let mut served = 0;
    for _ in 0..20_000 {
        let row = &SUPPORT[next(SUPPORT.len())];
        let mut attr = vec![0; row.attr_bytes];
        if next(2) == 0 && row.attr_bytes >= 24 {
            // An element of the array made first.
            attr[0] = 3;
            put_address(&mut attr, 8, u64::from(address));
            put_address(&mut attr, 16, u64::from(address));
        }
        for _ in 0..next(4) {
            let at = next(row.attr_bytes / 4) * 4;
            attr[at..at + 4].copy_from_slice(&values[next(values.len())].to_ne_bytes());
        }
        served += usize::from(
            shim.bpf(&caller, row.cmd.raw(), &mut attr, &mut memory)
                .is_ok(),
        );
    }
    assert!(served > 20, "only {served} calls succeeded");
}

/// A program that makes an array of its own, puts an element into it, freezes it, and closes a descriptor: the caller has what it left.
#[test]
fn a_program_calls_bpf_for_the_caller_of_its_run() {
    let shim = Shim::new(System::new());
    let caller = Caller::new();
    let mut memory = VecMemory::new();
    // ctx: descriptor of the map, answers of update, freeze, close, close again, and of a command that programs may not give.
    let text = "
        r6 = r1
        r1 = 0
        *(u64 *)(r10 - 72) = r1
        *(u64 *)(r10 - 64) = r1
        *(u64 *)(r10 - 56) = r1
        *(u64 *)(r10 - 48) = r1
        *(u64 *)(r10 - 40) = r1
        *(u32 *)(r10 - 72) = 2
        *(u32 *)(r10 - 68) = 4
        *(u32 *)(r10 - 64) = 8
        *(u32 *)(r10 - 60) = 3
        r1 = 0
        r2 = r10
        r2 += -72
        r3 = 40
        call #166
        *(u64 *)(r6 + 0) = r0
        r7 = r0
        *(u64 *)(r10 - 72) = r7
        *(u32 *)(r10 - 16) = 1
        *(u64 *)(r10 - 8) = 77
        r1 = r10
        r1 += -16
        *(u64 *)(r10 - 64) = r1
        r1 = r10
        r1 += -8
        *(u64 *)(r10 - 56) = r1
        r1 = 0
        *(u64 *)(r10 - 48) = r1
        r1 = 2
        r2 = r10
        r2 += -72
        r3 = 32
        call #166
        *(u64 *)(r6 + 8) = r0
        r1 = 22
        r2 = r10
        r2 += -72
        r3 = 4
        call #166
        *(u64 *)(r6 + 16) = r0
        r1 = 1000
        call #168
        *(u64 *)(r6 + 24) = r0
        r1 = 1
        r2 = r10
        r2 += -72
        r3 = 32
        call #166
        *(u64 *)(r6 + 32) = r0
        r0 = 0
        exit";
    let insns = ring3_isa::parse_asm(text, &ring3_isa::NoNames)
        .unwrap()
        .insns;
    let bytes: Vec<u8> = insns.iter().flat_map(|insn| insn.to_bytes()).collect();
    let mut load = attr::<168>(&[(0, 31), (4, insns.len() as u32), (44, 1 << 4)]);
    put_address(&mut load, 8, memory.add(&bytes));
    put_address(&mut load, 16, memory.add(b"GPL\0"));
    let prog = shim.bpf(&caller, Cmd::ProgLoad.raw(), &mut load, &mut memory);
    let prog = prog.unwrap() as u32;
    let ctx = memory.add(&[0; 40]);
    let mut run = attr::<76>(&[(0, prog), (40, 40)]);
    put_address(&mut run, 48, ctx);
    let ran = shim.bpf(&caller, Cmd::ProgTestRun.raw(), &mut run, &mut memory);
    assert_eq!(ran, Ok(0));
    let words: Vec<i64> = memory
        .bytes_at(ctx)
        .unwrap()
        .chunks(8)
        .map(|word| i64::from_ne_bytes(word.try_into().unwrap()))
        .collect();
    let map = words[0] as u32;
    let [bad_fd, invalid] = [Errno::EBADF, Errno::EINVAL].map(Errno::negated);
    assert_eq!(words, [4, 0, 0, bad_fd, invalid]);
    let (key, value) = (memory.add(&1u32.to_ne_bytes()), memory.add(&[0; 8]));
    let mut elem = attr::<32>(&[(0, map)]);
    put_address(&mut elem, 8, key);
    put_address(&mut elem, 16, value);
    let found = shim.bpf(&caller, Cmd::MapLookupElem.raw(), &mut elem, &mut memory);
    assert_eq!(found, Ok(0));
    assert_eq!(memory.bytes_at(value), Some(&77u64.to_ne_bytes()[..]));
    // It was frozen.
    let updated = shim.bpf(&caller, Cmd::MapUpdateElem.raw(), &mut elem, &mut memory);
    assert_eq!(updated, Err(Errno::EPERM));
}

#[test]
fn an_update_waits_for_elements_that_readers_may_still_see() {
    let shim = Shim::new(System::new());
    let caller = Caller::new();
    let mut memory = VecMemory::new();
    let (key, value) = (memory.add(&[7; 4]), memory.add(&[1; 8]));
    let mut call = |cmd: Cmd, fields: &[(usize, u64)]| {
        let mut attr = [0; 72];
        for &(at, field) in fields {
            attr[at..at + 8].copy_from_slice(&field.to_ne_bytes());
        }
        shim.bpf(&caller, cmd.raw(), &mut attr, &mut memory)
    };
    // A hash map of one element, which is taken out and put in again and again.
    let fd = call(Cmd::MapCreate, &[(0, 1 | 4 << 32), (8, 8 | 1 << 32)]).unwrap() as u64;
    for _ in 0..2000 {
        let elem = [(0, fd), (8, key), (16, value)];
        assert_eq!(call(Cmd::MapUpdateElem, &elem), Ok(0));
        assert_eq!(call(Cmd::MapDeleteElem, &elem[..2]), Ok(0));
    }
}
