//! What the host panics with inside of a helper ends the process; it never unwinds through a program.
//!
//! The test runs itself again: the second process attaches the program and calls the function.

use std::{process::Command, sync::Arc};

use crate::common::function;
use ring3_helpers::PerfSink;
use ring3_isa::{NoNames, parse_asm};
use ring3_maps::{MapAttr, PerfEventArray};
use ring3_objects::{MapObject, ProgAttr, Program, System};
use ring3_tracing::Tracing;
use ring3_trampoline::{Certainty, traceable};
use ring3_uapi::{AttachType, MapType, ProgType};

traceable! {
    fn noisy(a: u64) -> u64 {
        a + 1
    }
}

const ROLE: &str = "RING3_TEST_PANICS";
const SIGABRT: i32 = 6;

/// Calls `noisy` with a program on it that sends to a sink of the host, which may panic.
fn call_with_sink(panics: bool, attach_type: AttachType) {
    let system = System::new();
    let tracing = Tracing::new(&system);
    let noisy = function(noisy as *const (), "u64 noisy(u64 a)", Certainty::Certain);
    tracing.offer([noisy]).unwrap();
    let attr = MapAttr::new(MapType::PerfEventArray, 4, 4, 1);
    let map = MapObject::create(&system, &attr, None, None).unwrap();
    let events = map.map().downcast::<PerfEventArray>().unwrap();
    let sink = PerfSink::new(
        None,
        Box::new(move |_| {
            println!("heard");
            assert!(!panics, "the sink is broken");
        }),
    );
    events.set(0, Arc::new(sink)).unwrap();
    // bpf_perf_event_output(ctx, map, 0, stack, 8)
    let text = "r0 = 0\n*(u64 *)(r10 - 8) = r0\nr2 = map[0] ll\nr3 = 0\nr4 = r10\nr4 += -8\nr5 = 8\ncall bpf_perf_event_output#25\nr0 = 0\nexit";
    let mut attr = ProgAttr::new(ProgType::Tracing, parse_asm(text, &NoNames).unwrap().insns);
    attr.expected_attach_type = attach_type.raw();
    attr.maps.insert(0, Arc::clone(&map));
    let btf = system.kernel_btf().unwrap();
    attr.attach_btf_id = btf.find_by_name("noisy").unwrap();
    let prog = Program::load(&system, attr).unwrap_or_else(|error| panic!("{error}"));
    let _link = tracing.link(&prog, 0).unwrap();
    // Were a panic to unwind, it would be caught here.
    let result = std::panic::catch_unwind(|| self::noisy(1));
    println!("returned {result:?}");
}

#[test]
fn a_panic_in_a_helper_ends_the_process() {
    if let Ok(role) = std::env::var(ROLE) {
        let attach_type = match role.ends_with("fexit") {
            true => AttachType::TraceFexit,
            false => AttachType::TraceFentry,
        };
        call_with_sink(role.starts_with("panic"), attach_type);
        return;
    }
    for (role, ends) in [
        ("quiet-fentry", false),
        ("panic-fentry", true),
        ("panic-fexit", true),
    ] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "panics::a_panic_in_a_helper_ends_the_process",
                "--nocapture",
            ])
            .env(ROLE, role)
            .output()
            .unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stdout.contains("heard"), "{role}: {stdout}{stderr}");
        assert_eq!(stdout.contains("returned Ok(2)"), !ends, "{role}: {stdout}");
        let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
        assert_eq!(signal, ends.then_some(SIGABRT), "{role}: {stderr}");
        if ends {
            assert!(stderr.contains("the sink is broken"), "{role}: {stderr}");
            assert!(stderr.contains("cannot unwind"), "{role}: {stderr}");
        }
    }
}
