//! Joins functions to programs: an entry function, then each function of `.text` it reaches, in the order of first
//! reference, depth first; calls and function addresses are then relative to the joined program.

use crate::error::fail;
use crate::funcs::{Func, Funcs, PSEUDO_FUNC, Target};
use crate::{ElfError, ExternKind, ExternRef, ExternSpec, FunctionSpec, MapRef, ProgSpec, SecDef};
use ring3_btf::{CoreRelo, FuncInfo, LineInfo};
use ring3_isa::RawInsn;
use ring3_uapi::ProgType;
use std::collections::BTreeMap;

/// Source registers of a 64-bit load of a map, and of an address in its first value.
const PSEUDO_MAP_FD: u8 = 1;
const PSEUDO_MAP_VALUE: u8 = 2;

/// How many instruction slots all programs of an object may have together.
pub(crate) struct SlotBudget {
    left: usize,
}

impl SlotBudget {
    /// Shared functions are copied to every program: 256 times the object's slots, and a million, is plenty.
    pub(crate) fn new(funcs: &Funcs<'_>) -> SlotBudget {
        let slots: usize = funcs.list.iter().map(|func| func.insns.len()).sum();
        SlotBudget {
            left: slots.saturating_mul(256).saturating_add(1_000_000),
        }
    }
}

/// What the operands of functions refer to.
pub(crate) struct Linker<'a> {
    pub(crate) funcs: &'a Funcs<'a>,
    pub(crate) externs: &'a [ExternSpec],
    /// the `.kconfig` map
    pub(crate) config_map: Option<usize>,
    pub(crate) budget: SlotBudget,
}

/// Where a joined program keeps its functions: index in [`Funcs::list`] to first slot and place in `functions`.
struct Joined {
    prog: ProgSpec,
    placed: BTreeMap<usize, usize>,
    has_func_info: Option<bool>,
    has_line_info: Option<bool>,
}

/// Makes the program whose entry is `entry`; `callback` is the exception callback it names.
pub(crate) fn join(
    linker: &mut Linker<'_>,
    entry: usize,
    callback: Option<usize>,
) -> Result<ProgSpec, ElfError> {
    let funcs = linker.funcs;
    let mut joined = Joined {
        prog: entry_spec(&funcs.list[entry]),
        placed: BTreeMap::new(),
        has_func_info: None,
        has_line_info: None,
    };
    for root in std::iter::once(entry).chain(callback) {
        if joined.placed.contains_key(&root) {
            continue;
        }
        joined.append(linker, root)?;
        // Each frame is a placed function and the next of its instructions to look at.
        let mut frames = vec![(root, 0usize)];
        while let Some((func, insn)) = frames.last_mut() {
            let body = &funcs.list[*func];
            if *insn >= body.insns.len() {
                frames.pop();
                continue;
            }
            let (func, at) = (*func, *insn);
            *insn += 1;
            let Some(callee) = callee(funcs, func, at)? else {
                continue;
            };
            if !joined.placed.contains_key(&callee) {
                joined.append(linker, callee)?;
                frames.push((callee, 0));
            }
            joined.set_reference(func, at, callee)?;
        }
    }
    joined.prog.exception_callback =
        callback.and_then(|callback| joined.placed.get(&callback).copied());
    Ok(joined.prog)
}

fn entry_spec(func: &Func<'_>) -> ProgSpec {
    let (section, autoload) = match func.section.strip_prefix('?') {
        Some(section) => (section, false),
        None => (func.section, true),
    };
    let found = SecDef::find(section);
    ProgSpec {
        name: func.name.to_string(),
        section: section.to_string(),
        sec_def: found.map(|(def, _)| def),
        prog_type: found.map_or(ProgType::Unspec, |(def, _)| def.prog_type),
        expected_attach_type: found.map_or(0, |(def, _)| def.load_attach_type()),
        prog_flags: found.map_or(0, |(def, _)| def.load_flags()),
        attach_to: found.and_then(|(_, argument)| argument).map(str::to_string),
        autoload,
        insns: Vec::new(),
        functions: Vec::new(),
        map_refs: Vec::new(),
        extern_refs: Vec::new(),
        func_info: Vec::new(),
        line_info: Vec::new(),
        core_relos: Vec::new(),
        exception_callback: None,
    }
}

/// The function that an instruction calls or takes the address of.
fn callee(funcs: &Funcs<'_>, func: usize, at: usize) -> Result<Option<usize>, ElfError> {
    let body = &funcs.list[func];
    let insn = &body.insns[at];
    let relo = body
        .relos
        .binary_search_by_key(&at, |relo| relo.insn)
        .ok()
        .map(|found| body.relos[found].target);
    let is_call = insn.code == 0x85 && insn.src() == 1;
    let slot = match relo {
        Some(Target::Call { base }) => base.checked_add_signed(i64::from(insn.imm) + 1),
        Some(Target::FuncAddr { offset }) => offset
            .checked_add_signed(i64::from(insn.imm))
            .map(|byte| byte / 8),
        Some(
            Target::Map(_) | Target::Data { .. } | Target::ExternAddr(_) | Target::ExternCall(_),
        ) => return Ok(None),
        None if is_call && body.is_text => {
            (body.slots.start as u64).checked_add_signed(at as i64 + i64::from(insn.imm) + 1)
        }
        None if is_call => {
            // A call inside of the program's own section: only into itself, which the kernel judges.
            return own_section_call(body, at).map(|()| None);
        }
        None if insn.is_ld_imm64() && insn.src() == PSEUDO_FUNC => {
            fail!(
                "function '{}' instruction {at}: function address without a relocation",
                body.name
            )
        }
        None => return Ok(None),
    };
    match slot.and_then(|slot| funcs.in_text(slot)) {
        Some(callee) => Ok(Some(callee)),
        None => fail!(
            "function '{}' instruction {at}: no function of .text at slot {slot:?}",
            body.name
        ),
    }
}

fn own_section_call(body: &Func<'_>, at: usize) -> Result<(), ElfError> {
    let target = (at as i64) + i64::from(body.insns[at].imm) + 1;
    if (0..body.insns.len() as i64).contains(&target) {
        return Ok(());
    }
    fail!(
        "function '{}' instruction {at}: call of slot {target} of its section, expected .text",
        body.name
    )
}

impl Joined {
    fn append(&mut self, linker: &mut Linker<'_>, index: usize) -> Result<(), ElfError> {
        let func = &linker.funcs.list[index];
        let Some(left) = linker.budget.left.checked_sub(func.insns.len()) else {
            fail!(
                "program '{}': programs of this object have too many instructions together",
                self.prog.name
            )
        };
        linker.budget.left = left;
        let start = self.prog.insns.len();
        let Ok(insn_off) = u32::try_from(start) else {
            fail!("program '{}': too many instructions", self.prog.name)
        };
        self.placed.insert(index, self.prog.functions.len());
        self.prog.functions.push(FunctionSpec {
            name: func.name.to_string(),
            insn_off,
            insn_cnt: func.insns.len() as u32,
        });
        self.prog.insns.extend_from_slice(&func.insns);
        self.relocate(linker, func, start)?;
        self.add_records(func, insn_off)
    }

    /// Data, map and extern operands; calls are set when the callee has its place.
    fn relocate(
        &mut self,
        linker: &Linker<'_>,
        func: &Func<'_>,
        start: usize,
    ) -> Result<(), ElfError> {
        for relo in &func.relos {
            let at = start + relo.insn;
            let insn_idx = at as u32;
            match relo.target {
                Target::Map(map) => {
                    self.set_map(at, PSEUDO_MAP_FD, map, None);
                }
                Target::Data { map, offset } => {
                    let imm = self.prog.insns[at].imm;
                    self.set_map(
                        at,
                        PSEUDO_MAP_VALUE,
                        map,
                        Some((offset as i32).wrapping_add(imm)),
                    );
                }
                Target::ExternCall(ext) => {
                    self.prog.extern_refs.push(ExternRef {
                        insn_idx,
                        ext,
                        is_call: true,
                    });
                }
                Target::ExternAddr(ext) => {
                    if let (Some(ExternKind::Kconfig { offset, .. }), Some(map)) = (
                        linker.externs.get(ext).map(|spec| &spec.kind),
                        linker.config_map,
                    ) {
                        self.set_map(at, PSEUDO_MAP_VALUE, map, Some(*offset as i32));
                    }
                    self.prog.extern_refs.push(ExternRef {
                        insn_idx,
                        ext,
                        is_call: false,
                    });
                }
                Target::FuncAddr { .. } => {
                    let insn = &mut self.prog.insns[at];
                    *insn = with_src(*insn, PSEUDO_FUNC);
                }
                Target::Call { .. } => {}
            }
            let is_wide = !matches!(relo.target, Target::ExternCall(_) | Target::Call { .. });
            if is_wide && at + 1 >= self.prog.insns.len() {
                fail!("function '{}': 64-bit load at its end", func.name);
            }
        }
        Ok(())
    }

    fn set_map(&mut self, at: usize, src: u8, map: usize, offset: Option<i32>) {
        let insn = &mut self.prog.insns[at];
        *insn = with_src(*insn, src);
        insn.imm = map as i32;
        if let (Some(offset), Some(next)) = (offset, self.prog.insns.get_mut(at + 1)) {
            next.imm = offset;
        }
        self.prog.map_refs.push(MapRef {
            insn_idx: at as u32,
            map,
        });
    }

    /// Moves a function's records. All functions have records, or the program's entry has none and none are kept.
    fn add_records(&mut self, func: &Func<'_>, insn_off: u32) -> Result<(), ElfError> {
        let shift = |offset: u32| {
            offset
                .wrapping_sub(func.slots.start as u32)
                .wrapping_add(insn_off)
        };
        let wants = |has: &mut Option<bool>, is_empty: bool, what: &str| match *has
            .get_or_insert(!is_empty)
        {
            true if is_empty => Err(ElfError::new(format!(
                "function '{}': no {what} in .BTF.ext, its program has some",
                func.name
            ))),
            wanted => Ok(wanted),
        };
        if wants(
            &mut self.has_func_info,
            func.func_info.is_empty(),
            "func_info",
        )? {
            let moved = func.func_info.iter().map(|info| FuncInfo {
                insn_off: shift(info.insn_off),
                ..*info
            });
            self.prog.func_info.extend(moved);
        }
        if wants(
            &mut self.has_line_info,
            func.line_info.is_empty(),
            "line_info",
        )? {
            let moved = func.line_info.iter().map(|info| LineInfo {
                insn_off: shift(info.insn_off),
                ..*info
            });
            self.prog.line_info.extend(moved);
        }
        let moved = func.core_relos.iter().map(|relo| CoreRelo {
            insn_off: shift(relo.insn_off),
            ..*relo
        });
        self.prog.core_relos.extend(moved);
        Ok(())
    }

    /// Points a call or function address of a placed function at another placed function.
    fn set_reference(&mut self, func: usize, at: usize, callee: usize) -> Result<(), ElfError> {
        let place = |index: usize| {
            self.placed
                .get(&index)
                .and_then(|&place| self.prog.functions.get(place))
        };
        let (Some(from), Some(to)) = (place(func), place(callee)) else {
            fail!("program '{}': a function has no place", self.prog.name)
        };
        let at = from.insn_off as usize + at;
        let relative = i64::from(to.insn_off) - at as i64 - 1;
        let Ok(imm) = i32::try_from(relative) else {
            fail!("program '{}': too many instructions", self.prog.name)
        };
        if let Some(insn) = self.prog.insns.get_mut(at) {
            insn.imm = imm;
        }
        Ok(())
    }
}

fn with_src(insn: RawInsn, src: u8) -> RawInsn {
    RawInsn::new(insn.code, insn.dst(), src, insn.off, insn.imm)
}
