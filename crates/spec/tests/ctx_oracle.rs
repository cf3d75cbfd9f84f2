//! The context tables against what the running kernel answered (fixtures/oracle/spec/ctx.txt).

use ring3_spec::Registry;
use ring3_spec::ctx::{AccessKind, CtxReg, table};
use ring3_uapi::ProgType;

const RECORDED: &str = include_str!("../../../fixtures/oracle/spec/ctx.txt");

fn reg_name(reg: CtxReg) -> String {
    match reg {
        CtxReg::Scalar => String::new(),
        CtxReg::Packet => "pkt".into(),
        CtxReg::PacketEnd => "pkt_end".into(),
        CtxReg::PacketMeta => "pkt_meta".into(),
        CtxReg::FlowKeys => "flow_keys".into(),
        CtxReg::Sock => "sock".into(),
        CtxReg::SockOrNull => "sock_or_null".into(),
        CtxReg::SockCommonOrNull => "sock_common_or_null".into(),
        CtxReg::TpBuffer => "tp_buffer".into(),
        CtxReg::Trusted(name) => format!("trusted_ptr_{name}"),
    }
}

#[test]
fn accesses_equal_the_kernels() {
    let registry = Registry::linux_6_18();
    let mut asked = 0u32;
    let mut taken = 0u32;
    let mut different = Vec::new();
    for line in RECORDED.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        let [prog_type, attach, kind, bytes, end, list] = words[..] else {
            panic!("{line}")
        };
        let row = registry.prog_type(ProgType::from_name(prog_type).unwrap());
        let ctx = table(row.ctx).unwrap();
        let attach: u32 = attach.parse().unwrap();
        let kind = if kind == "load" {
            AccessKind::Load
        } else {
            AccessKind::Store
        };
        let bytes: u8 = bytes.parse().unwrap();
        let kernel: Vec<(u32, &str)> = list
            .split(',')
            .filter(|part| *part != "-")
            .map(|part| part.split_once(':').unwrap_or((part, "")))
            .map(|(offset, reg)| (offset.parse().unwrap(), reg))
            .collect();
        for offset in 0..end.parse::<u32>().unwrap() {
            asked += 1;
            let theirs = kernel
                .iter()
                .find(|(other, _)| *other == offset)
                .map(|(_, reg)| (*reg).to_owned());
            taken += u32::from(theirs.is_some());
            let ours = ctx
                .find(attach, kind, offset, bytes)
                .map(|field| match kind {
                    AccessKind::Load => reg_name(field.reg),
                    AccessKind::Store => String::new(),
                });
            if ours != theirs {
                different.push(format!(
                    "{prog_type} {attach} {kind:?} {bytes} at {offset}: {ours:?}, kernel {theirs:?}"
                ));
            }
        }
    }
    assert!(
        asked > 40_000 && taken > 3_000,
        "{asked} asked, {taken} taken"
    );
    assert!(
        different.is_empty(),
        "{} of {asked}:\n{}",
        different.len(),
        different[..different.len().min(40)].join("\n")
    );
}

/// A conversion's jumps stay inside it and nothing is read before it is written.
#[test]
fn conversions_are_well_formed() {
    use ring3_spec::ctx::{SOCKET_VIEWS, Step, Who};
    let tables = ring3_spec::PROG_TYPES
        .iter()
        .filter_map(|row| table(row.ctx))
        .chain(&SOCKET_VIEWS);
    let mut sequences = 0;
    for ctx in tables {
        for field in ctx.fields {
            let aliased = field.load_aliased.unwrap_or(&[]);
            let (plain_load, plain_store) = field.with_tstamp_type.unwrap_or((&[], &[]));
            for (steps, known) in [
                (field.load, vec![Who::Ctx]),
                (aliased, vec![Who::Ctx, Who::Tmp]),
                (field.store, vec![Who::Ctx, Who::Val, Who::Tmp]),
                (plain_load, vec![Who::Ctx]),
                (plain_store, vec![Who::Ctx, Who::Val]),
            ] {
                sequences += usize::from(!steps.is_empty());
                let mut known = known;
                for (i, step) in steps.iter().enumerate() {
                    let (reads, writes): (&[Who], Option<Who>) = match step {
                        Step::Load { base, dst, .. } => (&[*base], Some(*dst)),
                        Step::Store { base, src, .. } => (&[*base, *src], None),
                        Step::AluImm { dst, .. } => (&[], Some(*dst)),
                        Step::AluReg { dst, src, .. } => (&[*src], Some(*dst)),
                        Step::JumpImm { reg, skip, .. } => {
                            assert!(
                                i + usize::from(*skip) < steps.len(),
                                "{} {}",
                                ctx.uapi_struct,
                                field.name
                            );
                            (&[*reg], None)
                        }
                        Step::Skip(skip) => {
                            assert!(
                                i + usize::from(*skip) < steps.len(),
                                "{} {}",
                                ctx.uapi_struct,
                                field.name
                            );
                            (&[], None)
                        }
                    };
                    for read in reads {
                        assert!(
                            known.contains(read),
                            "{} {} step {i} reads {read:?}",
                            ctx.uapi_struct,
                            field.name
                        );
                    }
                    known.extend(writes);
                }
            }
        }
    }
    assert!(sequences > 250, "{sequences}");
}
