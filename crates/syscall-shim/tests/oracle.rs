//! The shim beside the recorded kernel: every row of `fixtures/oracle/syscall`, errno and bytes.

use ring3_objects::System;
use ring3_os::bpf::Buffer;
use ring3_syscall_shim::{Caller, OpenFile, Shim, VecMemory};
use ring3_testkit::{
    fixture::{fixtures_dir, kernel_btf},
    shim_oracle::{Subject, run, scripts},
};
use ring3_uapi::Errno;

struct Ours {
    shim: Shim,
    caller: Caller,
}

impl Ours {
    fn new() -> Ours {
        let system = System::new();
        ring3_net::register(&system);
        system.set_kernel_btf(kernel_btf("6.18").expect("a fixture"));
        let caller = Caller::new();
        for standard_stream in 0..3 {
            caller
                .install(standard_stream, OpenFile::Other)
                .expect("not negative");
        }
        Ours {
            shim: Shim::new(system),
            caller,
        }
    }
}

impl Subject for Ours {
    fn bpf(&mut self, cmd: u32, attr: &mut [u8], buffers: &mut [Buffer<'_>]) -> Result<i64, Errno> {
        let mut memory = VecMemory::new();
        let mut addresses = Vec::new();
        for buffer in buffers.iter() {
            let address = memory.add(buffer.bytes);
            attr[buffer.attr_offset..buffer.attr_offset + 8]
                .copy_from_slice(&address.to_ne_bytes());
            addresses.push(address);
        }
        let result = self.shim.bpf(&self.caller, cmd, attr, &mut memory);
        for (buffer, address) in buffers.iter_mut().zip(addresses) {
            buffer
                .bytes
                .copy_from_slice(memory.bytes_at(address).expect("added above"));
        }
        result
    }
}

#[test]
fn every_recorded_call_is_answered_as_the_kernel_did() {
    let folder = fixtures_dir().join("oracle/syscall");
    let mut rows = 0;
    let mut differences = Vec::new();
    for path in scripts(&folder).expect("the scripts are there") {
        let recorded = std::fs::read_to_string(&path).expect("a script is text");
        let answered = run(&recorded, &mut Ours::new()).expect("recorded scripts can be read");
        for (theirs, ours) in recorded.lines().zip(answered.lines()) {
            rows += usize::from(theirs.contains(" => "));
            if theirs != ours {
                let answer = ours.split(" => ").nth(1).unwrap_or_default();
                differences.push(format!("{theirs}\n      ring3: {answer}"));
            }
        }
        assert_eq!(recorded.lines().count(), answered.lines().count());
    }
    assert!(rows >= 100, "only {rows} recorded rows");
    assert!(
        differences.is_empty(),
        "{} of {rows} rows differ:\n{}",
        differences.len(),
        differences.join("\n")
    );
}

#[test]
fn a_wrong_answer_is_seen() {
    let script = "map_create 92 @0=1 @4=4 @8=4 @12=1 => EPERM\n";
    let answered = run(script, &mut Ours::new()).unwrap();
    assert_eq!(answered, "map_create 92 @0=1 @4=4 @8=4 @12=1 => fd\n");
}
