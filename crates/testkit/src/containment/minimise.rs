//! A failing program made small: instructions are taken out, jumps and calls follow their targets, as long as it still fails.

use std::time::{Duration, Instant};

use ring3_isa::{CallTarget, Imm64, Insn, RawInsn, decode};

use crate::generate::Generated;

/// After this time the smallest program so far must do.
const TIME_MAX: Duration = Duration::from_secs(20);

/// An instruction whose target is another, not a distance.
#[derive(Clone)]
struct Item {
    slots: Vec<RawInsn>,
    /// Index of the item it leads to.
    target: Option<usize>,
}

struct Draft {
    items: Vec<Item>,
    /// Items at which functions begin.
    functions: Vec<usize>,
}

/// Takes instructions out while `fails` holds.
pub fn minimise(generated: &Generated, fails: &mut dyn FnMut(&Generated) -> bool) -> Generated {
    let begin = Instant::now();
    let mut best = generated.clone();
    let Some(mut draft) = Draft::new(generated) else {
        return best;
    };
    let mut chunk = draft.items.len() / 2;
    while chunk > 0 {
        let mut at = 0;
        let mut removed_some = false;
        while at < draft.items.len() {
            if begin.elapsed() > TIME_MAX {
                return best;
            }
            let smaller = draft.without(at, chunk);
            match smaller.encode(generated) {
                Some(program) if fails(&program) => {
                    best = program;
                    draft = smaller;
                    removed_some = true;
                }
                Some(_) | None => at += chunk,
            }
        }
        if !removed_some || chunk > 1 {
            chunk /= 2;
        }
    }
    best
}

/// The distance that an instruction's target is given by.
fn distance(insn: &Insn) -> Option<i64> {
    match insn {
        Insn::Jmp { off, .. } | Insn::Ja { off } | Insn::MayGoto { off } => Some(i64::from(*off)),
        Insn::Jal { off } | Insn::Call(CallTarget::Subprog(off)) => Some(i64::from(*off)),
        Insn::LoadImm64 {
            value: Imm64::Func(off),
            ..
        } => Some(i64::from(*off)),
        _ => None,
    }
}

fn set_distance(slot: &mut RawInsn, insn: &Insn, distance: i64) -> Option<()> {
    if matches!(
        insn,
        Insn::Jmp { .. } | Insn::Ja { .. } | Insn::MayGoto { .. }
    ) {
        slot.off = i16::try_from(distance).ok()?;
    } else {
        slot.imm = i32::try_from(distance).ok()?;
    }
    Some(())
}

impl Draft {
    fn new(generated: &Generated) -> Option<Draft> {
        let insns = &generated.insns;
        let mut starts = Vec::new();
        let mut at = 0;
        while at < insns.len() {
            let (insn, len) = decode(insns, at).ok()?;
            starts.push((at, insn, len));
            at += len;
        }
        let item_at = |slot: i64| {
            let found = starts.binary_search_by_key(&slot, |(at, ..)| *at as i64);
            found.ok()
        };
        let items = starts.iter().map(|(at, insn, len)| Item {
            slots: insns[*at..at + len].to_vec(),
            target: distance(insn).and_then(|distance| item_at(*at as i64 + 1 + distance)),
        });
        let items = items.collect();
        let functions = generated.functions.iter();
        let functions = functions
            .map(|&slot| item_at(i64::from(slot)))
            .collect::<Option<_>>()?;
        Some(Draft { items, functions })
    }

    fn without(&self, from: usize, count: usize) -> Draft {
        let to = (from + count).min(self.items.len());
        let moved = |item: usize| {
            if item < from {
                item
            } else if item < to {
                from
            } else {
                item - (to - from)
            }
        };
        let mut items = self.items.clone();
        items.drain(from..to);
        for item in &mut items {
            item.target = item.target.map(moved);
        }
        let mut functions: Vec<usize> = self.functions.iter().map(|&item| moved(item)).collect();
        functions.dedup();
        functions.retain(|&item| item < items.len());
        Draft { items, functions }
    }

    fn encode(&self, like: &Generated) -> Option<Generated> {
        let mut starts = Vec::new();
        let mut insns: Vec<RawInsn> = Vec::new();
        for item in &self.items {
            starts.push(insns.len());
            insns.extend(&item.slots);
        }
        for (item, &start) in self.items.iter().zip(&starts) {
            if let Some(target) = item.target {
                let target = *starts.get(target)?;
                let (insn, _) = decode(&insns, start).ok()?;
                let distance = target as i64 - start as i64 - 1;
                set_distance(&mut insns[start], &insn, distance)?;
            }
        }
        let functions = self.functions.iter().map(|&item| starts[item] as u32);
        Some(Generated {
            functions: functions.collect(),
            insns,
            ..like.clone()
        })
    }
}
