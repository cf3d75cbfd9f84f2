//! Paths that wait: what is said when they are too many.

use ring3_isa::{NoNames, parse_asm};
use ring3_spec::{LoadRequest, Registry};
use ring3_uapi::{Errno, ProgType};
use ring3_verifier::{Log, verify};

fn errno_of(text: &str) -> (Errno, String) {
    let program = parse_asm(text, &NoNames).unwrap();
    let request = LoadRequest::new(ProgType::SocketFilter, program.insns);
    let error = verify(&request, &Registry::linux_6_18(), &mut Log::off()).unwrap_err();
    (error.errno, error.message)
}

/// CVE-2024-42072 let a `may_goto` jump backwards uncounted. The kernel's answers differ in the errno (recorded of 6.18.44).
#[test]
fn too_many_waiting_paths_are_refused() {
    let message = "The sequence of 8193 jumps is too complex.".to_owned();
    let may_goto = "r0 = 0\nloop: r0 += 1\nmay_goto loop\nexit";
    assert_eq!(errno_of(may_goto), (Errno::ENOMEM, message.clone()));
    let branch = "r6 = r1\nr0 = 0\nloop: r0 += 1\nr1 = *(u32 *)(r6 +0)\nif r1 == 7 goto out\ngoto loop\nout: exit";
    assert_eq!(errno_of(branch), (Errno::EFAULT, message));
}
