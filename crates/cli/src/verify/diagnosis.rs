//! A diagnosis as data: what `ring3 verify --explain` says, field by field.

use ring3::verifier::diagnostics::{Diagnosis, Place};
use serde_json::{Value, json};

pub(super) fn to_json(diagnosis: &Diagnosis) -> Value {
    let registers = diagnosis.registers.iter().map(|reg| {
        json!({
            "register": format!("r{}", reg.number),
            "words": reg.words,
            "state": reg.state,
            "set_at": reg.set_at.as_ref().map(place),
        })
    });
    let path = diagnosis.path.iter().map(|decision| {
        json!({
            "at": place(&decision.at),
            "taken": decision.taken,
            "to": place(&decision.to),
        })
    });
    json!({
        "errno": diagnosis.errno.to_string(),
        "message": diagnosis.message,
        "details": diagnosis.details,
        "unjudged": diagnosis.is_unjudged,
        "at": diagnosis.at.as_ref().map(place),
        "registers": registers.collect::<Vec<_>>(),
        "path": path.collect::<Vec<_>>(),
        "path_is_cut": diagnosis.path_is_cut,
        "help": diagnosis.help,
    })
}

fn place(place: &Place) -> Value {
    let source = place.source.as_ref().map(|source| {
        json!({
            "file": source.file,
            "line": source.line,
            "column": source.column,
            "text": source.text,
        })
    });
    json!({
        "insn_idx": place.insn_idx,
        "insn": place.insn,
        "function": place.function,
        "source": source,
    })
}
