//! The part of a kernel's BTF that the fixtures need. Entry point: [`minimize`].

use ring3_btf::{Btf, Kind, Minimizer, core_relo::Relocator};
use ring3_elf::{ExternKind, ObjectSpec, Resolver, Target};
use ring3_spec::helpers::ROWS;

const CALL: u8 = 0x85;

/// Everything in `kernel` that these objects name: roots of CO-RE relocations, attach targets, externs, types of helpers' arguments; with
/// what those are made of.
pub fn minimize(kernel: &Btf, objects: &[ObjectSpec]) -> Vec<u8> {
    let mut minimizer = Minimizer::new(kernel);
    for object in objects {
        add_object(&mut minimizer, kernel, object);
    }
    minimizer.finish().0
}

fn add_object(minimizer: &mut Minimizer<'_>, kernel: &Btf, object: &ObjectSpec) {
    let target = Target {
        btf: Some(kernel),
        symbols: None,
    };
    let resolver = Resolver::new(object, target);
    let mut relocator = object
        .btf
        .as_ref()
        .map(|local| Relocator::new(local, kernel));
    for prog in &object.progs {
        for relo in &prog.core_relos {
            let candidates = relocator
                .as_mut()
                .map(|relocator| relocator.candidates(relo));
            for id in candidates.into_iter().flatten() {
                minimizer.keep(id);
            }
        }
        if let Ok(Some(id)) = resolver.attach_btf_id(prog) {
            minimizer.keep(id);
            if let Some(event) = kernel.name(id).strip_prefix("btf_trace_") {
                minimizer.keep_name(&format!("__bpf_trace_{event}"));
            }
        }
        let calls = prog
            .insns
            .iter()
            .filter(|insn| insn.code == CALL && insn.src() == 0);
        let protos = calls.flat_map(|call| {
            ROWS.iter()
                .filter(|proto| proto.id.raw() == call.imm as u32)
        });
        for proto in protos {
            let args = proto.args.iter().filter_map(|arg| arg.btf_type);
            for name in args.chain(proto.ret.btf_type) {
                minimizer.keep_name(name);
            }
        }
    }
    for ext in &object.externs {
        let (name, kind) = match ext.kind {
            ExternKind::Func(_) => (ext.essential_name(), Kind::Func),
            ExternKind::Var(_) => (ext.name.as_str(), Kind::Var),
            ExternKind::Kconfig { .. } | ExternKind::Symbol => continue,
        };
        if let Some(id) = kernel.find_by_name_kind(name, kind) {
            minimizer.keep(id);
        }
    }
}
