//! Packet helpers beside the recorded answers of the running kernel's BPF_PROG_TEST_RUN: result, packet bytes and what programs see of the
//! packet afterwards. `RING3_ORACLE_NET` names another folder of records, larger than the committed sample.

#[path = "../../testkit/src/net_oracle/mod.rs"]
#[expect(dead_code, unreachable_pub, reason = "shared with the recorder")]
mod oracle;

use std::{fmt::Write, fs, path::PathBuf, sync::Arc};

use oracle::{Case, Kind, Subject, answer, subjects};
use ring3_isa::RawInsn;
use ring3_net::Script;
use ring3_objects::{EngineKind, LoadOptions, ProgAttr, Program, System, TestRun};
use ring3_uapi::{ProgType, flags::prog_load};

fn load(system: &Arc<System>, subject: &Subject, engine: EngineKind) -> Arc<Program> {
    let prog_type = match subject.kind {
        Kind::Tc => ProgType::SchedCls,
        Kind::Xdp | Kind::XdpFrags => ProgType::Xdp,
    };
    let insns = subject
        .insns
        .chunks_exact(8)
        .map(|slot| RawInsn::from_bytes(slot.try_into().expect("eight bytes")))
        .collect();
    let mut attr = ProgAttr::new(prog_type, insns);
    attr.engine = engine;
    attr.log_level = 1;
    if subject.kind == Kind::XdpFrags {
        attr.flags = prog_load::XDP_HAS_FRAGS;
    }
    Program::load(system, attr)
        .unwrap_or_else(|error| panic!("{}: {error}\n{}", subject.name, error.log))
}

fn run(program: &Program, subject: &Subject, case: &Case) -> String {
    let (data_in, ctx_in) = case.input(subject);
    let run = TestRun {
        data_in,
        ctx_in,
        repeat: 1,
        ..TestRun::default()
    };
    match program.test_run_with(&run) {
        Ok(out) => answer(out.retval, &out.data_out, &out.ctx_out),
        Err(error) => error.errno.to_string(),
    }
}

#[test]
fn every_recorded_helper_call_gives_the_kernels_answer() {
    let folder = std::env::var_os("RING3_ORACLE_NET").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/oracle/net"),
        PathBuf::from,
    );
    let system = System::new();
    ring3_net::register(&system);
    let mut out = Vec::new();
    let mut world = Script::new(&system, &LoadOptions::default(), &folder);
    let lines: String = oracle::WORLD
        .lines()
        .map(|line| format!("ip {line}\n"))
        .collect();
    world
        .run(&lines, &mut out)
        .unwrap_or_else(|error| panic!("the world: {error}"));
    let net = world.net().clone();
    for device in net.devices() {
        device.set_forwarding(false, device.ifindex() == oracle::VA);
        device.set_forwarding(true, false);
    }
    let _inside = net.enter();
    let (mut cases, mut report) = (0, String::new());
    for subject in subjects() {
        let path = folder.join(format!("{}.txt", subject.name));
        let text =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for engine in [EngineKind::Jit, EngineKind::Interp] {
            let program = load(&system, &subject, engine);
            let (mut differ, mut total, mut first) = (0, 0, String::new());
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                let (case, kernel) = Case::parse(line).unwrap_or_else(|| panic!("line '{line}'"));
                total += 1;
                let ours = run(&program, &subject, &case);
                if ours != kernel {
                    differ += 1;
                    if differ <= 4 {
                        let frame = &case.input(&subject).0;
                        let _ = writeln!(
                            first,
                            "    {} ({} bytes {:02x?})\n      ours {ours}\n      kernel {kernel}",
                            case.text(),
                            frame.len(),
                            &frame[..frame.len().min(24)]
                        );
                    }
                }
            }
            cases += total;
            if differ > 0 {
                let _ = write!(
                    report,
                    "{} ({engine:?}): {differ} of {total} differ\n{first}",
                    subject.name
                );
            }
        }
    }
    assert!(report.is_empty(), "{report}");
    assert!(cases >= 10_000, "{cases} cases");
}
