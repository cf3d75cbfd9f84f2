//! What only the target knows: CO-RE relocations, kernel symbols and functions, attach points.
//!
//! [`Resolver`] adjusts the programs of one object to one target; libbpf does the same between opening and loading.

use crate::error::fail;
use crate::{ElfError, ExternKind, ExternSpec, ObjectSpec, ProgSpec};
use ring3_btf::core_relo::{ReloKind, Relocator, essential_name, types_are_compatible};
use ring3_btf::{Btf, Kind, TypeId};
use ring3_isa::RawInsn;
use ring3_uapi::ProgType;
use std::collections::BTreeSet;

/// Source registers of resolved operands.
const PSEUDO_BTF_ID: u8 = 3;
const PSEUDO_KFUNC_CALL: u8 = 2;
/// Immediate of a call of a weak function that the target does not have, plus the extern's index. Source: libbpf.
const MISSING_KFUNC: i32 = 2_002_000_000;
const CALL: u8 = 0x85;

/// Finds the address of a symbol.
pub type Symbols<'a> = dyn Fn(&str) -> Option<u64> + 'a;

/// What programs are resolved against.
#[derive(Clone, Copy, Default)]
pub struct Target<'a> {
    /// types of the kernel or host; an object's own BTF leaves CO-RE relocations as compiled
    pub btf: Option<&'a Btf>,
    /// addresses of symbols without a type
    pub symbols: Option<&'a Symbols<'a>>,
}

/// Resolves the programs of one object.
pub struct Resolver<'a> {
    object: &'a ObjectSpec,
    target: Target<'a>,
    relocator: Option<Relocator<'a>>,
}

/// What an extern is in the target.
enum Found {
    Address(u64),
    Type(TypeId),
    Missing,
}

impl<'a> Resolver<'a> {
    /// For the programs of `object`.
    pub fn new(object: &'a ObjectSpec, target: Target<'a>) -> Resolver<'a> {
        let relocator = object
            .btf
            .as_ref()
            .zip(target.btf)
            .map(|(local, target)| Relocator::new(local, target));
        Resolver {
            object,
            target,
            relocator,
        }
    }

    /// The program's instructions as they are loaded; map operands are still indices of [`ObjectSpec::maps`].
    ///
    /// # Errors
    /// A strong extern that the target does not have, or a relocation that cannot be applied.
    pub fn insns(&mut self, prog: &ProgSpec) -> Result<Vec<RawInsn>, ElfError> {
        let mut insns = prog.insns.clone();
        if !prog.core_relos.is_empty() {
            match &mut self.relocator {
                Some(relocator) => relocator.relocate(&prog.name, &mut insns, &prog.core_relos)?,
                None => self.relocate_locally(prog, &mut insns)?,
            }
        }
        for reference in &prog.extern_refs {
            let at = reference.insn_idx as usize;
            let Some(ext) = self.object.externs.get(reference.ext) else {
                fail!(
                    "program '{}': extern {} of {}",
                    prog.name,
                    reference.ext,
                    self.object.externs.len()
                )
            };
            let found = self.find(ext)?;
            let (Some(insn), true) = (insns.get(at).copied(), at < insns.len()) else {
                fail!(
                    "program '{}': extern '{}' at instruction {at}",
                    prog.name,
                    ext.name
                )
            };
            let (low, src, high) = match found {
                None => continue,
                Some(Found::Address(address)) => {
                    (address as i32, insn.src(), Some((address >> 32) as i32))
                }
                Some(Found::Type(id)) if reference.is_call => {
                    (id.0 as i32, PSEUDO_KFUNC_CALL, None)
                }
                Some(Found::Type(id)) => (id.0 as i32, PSEUDO_BTF_ID, Some(0)),
                Some(Found::Missing) if reference.is_call => {
                    insns[at] = RawInsn::new(
                        CALL,
                        0,
                        0,
                        0,
                        MISSING_KFUNC.saturating_add(reference.ext as i32),
                    );
                    continue;
                }
                Some(Found::Missing) => (0, insn.src(), Some(0)),
            };
            insns[at] = RawInsn::new(insn.code, insn.dst(), src, insn.off, low);
            if let (Some(high), Some(next)) = (high, insns.get_mut(at + 1)) {
                next.imm = high;
            }
        }
        Ok(insns)
    }

    /// Without a target, only the ids of the object's own types can be told.
    fn relocate_locally(&self, prog: &ProgSpec, insns: &mut [RawInsn]) -> Result<(), ElfError> {
        let is_local = |kind| ReloKind::from_raw(kind) == Some(ReloKind::TypeIdLocal);
        match &self.object.btf {
            Some(local) if prog.core_relos.iter().all(|relo| is_local(relo.kind)) => {
                Ok(Relocator::new(local, local).relocate(&prog.name, insns, &prog.core_relos)?)
            }
            _ => Err(self.no_target(prog)),
        }
    }

    /// The types, functions and variables of the target that a program names, each as `struct name` or the like, sorted.
    pub fn needs(&self, prog: &ProgSpec) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for relo in &prog.core_relos {
            let is_local = ReloKind::from_raw(relo.kind) == Some(ReloKind::TypeIdLocal);
            let ty = self
                .object
                .btf
                .as_ref()
                .and_then(|btf| btf.type_by_id(relo.type_id));
            if let (Some(ty), false) = (ty, is_local) {
                names.insert(format!(
                    "{} {}",
                    ty.kind().c_word(),
                    essential_name(ty.name())
                ));
            }
        }
        for reference in &prog.extern_refs {
            match self.object.externs.get(reference.ext) {
                Some(ext) if matches!(ext.kind, ExternKind::Func(_)) => {
                    names.insert(format!("function {}", ext.essential_name()));
                }
                Some(ext) if matches!(ext.kind, ExternKind::Var(_)) => {
                    names.insert(format!("variable {}", ext.name));
                }
                _ => {}
            }
        }
        if let Some((full, kind)) = attach_name(prog) {
            names.insert(format!("{} {full}", kind.c_word()));
        }
        names
    }

    fn no_target(&self, prog: &ProgSpec) -> ElfError {
        let names: Vec<_> = self.needs(prog).into_iter().collect();
        ElfError::missing(format!(
            "program '{}': there is no kernel BTF to take its types from: {}",
            prog.name,
            names.join(", ")
        ))
    }

    /// The id in the target's BTF that the program attaches to; `None` if it attaches to none, or to another program.
    ///
    /// # Errors
    /// The target has no such function, type or BTF.
    pub fn attach_btf_id(&self, prog: &ProgSpec) -> Result<Option<TypeId>, ElfError> {
        let Some((full, kind)) = attach_name(prog) else {
            return Ok(None);
        };
        let Some(btf) = self.target.btf else {
            return Err(self.no_target(prog));
        };
        match btf.find_by_name_kind(&full, kind) {
            Some(id) => Ok(Some(id)),
            None => Err(ElfError::missing(format!(
                "program '{}': the kernel BTF has no {} '{full}' to attach to",
                prog.name,
                kind.c_word()
            ))),
        }
    }

    /// For a program that is a member of a struct of operations: the id of the target's struct and the index of the
    /// member there, which are `attach_btf_id` and `expected_attach_type`. `None` for a program that no map refers to.
    ///
    /// # Errors
    /// The target has no such struct or member.
    pub fn struct_ops_member(&self, prog: &ProgSpec) -> Result<Option<(TypeId, u32)>, ElfError> {
        let Some(index) = self
            .object
            .progs
            .iter()
            .position(|other| other.name == prog.name)
        else {
            return Ok(None);
        };
        let used = self
            .object
            .maps
            .iter()
            .filter_map(|map| map.struct_ops.as_ref())
            .find_map(|ops| {
                let (member, _) = ops.progs.iter().find(|(_, prog)| *prog == index)?;
                Some((ops, *member))
            });
        let Some((ops, member)) = used else {
            return Ok(None);
        };
        let type_name = essential_name(&ops.type_name);
        let member_name = self
            .object
            .btf
            .as_ref()
            .and_then(|btf| Some(btf.type_by_id(ops.type_id)?.member(member)?.name()))
            .unwrap_or("");
        let Some(btf) = self.target.btf else {
            return Err(ElfError::missing(format!(
                "program '{}': there is no kernel BTF to take its types from: struct {type_name}",
                prog.name
            )));
        };
        let found = btf
            .find_by_name_kind(type_name, Kind::Struct)
            .and_then(|id| btf.type_by_id(id));
        let Some(ty) = found else {
            return Err(ElfError::missing(format!(
                "program '{}': the kernel BTF has no struct '{type_name}'",
                prog.name
            )));
        };
        match ty.members().position(|member| member.name() == member_name) {
            Some(index) => Ok(Some((ty.id(), index as u32))),
            None => Err(ElfError::missing(format!(
                "program '{}': the kernel's '{type_name}' has no member '{member_name}'",
                prog.name
            ))),
        }
    }

    /// What an extern is; `None` for configuration values, which are in their map.
    fn find(&self, ext: &ExternSpec) -> Result<Option<Found>, ElfError> {
        let missing = |what: &str| match ext.is_weak {
            true => Ok(Some(Found::Missing)),
            false => Err(ElfError::missing(format!("extern '{}': {what}", ext.name))),
        };
        match &ext.kind {
            ExternKind::Kconfig { is_set, .. } if *is_set || ext.is_weak => Ok(None),
            ExternKind::Kconfig { .. } => Err(ElfError::missing(format!(
                "extern '{}': no configuration value",
                ext.name
            ))),
            ExternKind::Symbol => {
                match self.target.symbols.and_then(|symbols| symbols(&ext.name)) {
                    Some(address) => Ok(Some(Found::Address(address))),
                    None => missing("no such symbol in the target"),
                }
            }
            ExternKind::Var(local) => {
                let found = self.target.btf.and_then(|btf| {
                    let id = btf.find_by_name_kind(&ext.name, Kind::Var)?;
                    Some((btf, id, btf.type_by_id(id)?.type_id()))
                });
                let Some((btf, id, ty)) = found else {
                    return missing("no such variable in the target's BTF");
                };
                if !self.is_compatible(*local, btf, btf.skip_mods_and_typedefs(ty))? {
                    fail!(
                        "extern '{}': type {local} is not compatible with the target's {ty}",
                        ext.name
                    );
                }
                Ok(Some(Found::Type(id)))
            }
            ExternKind::Func(local) => {
                let found = self.target.btf.and_then(|btf| {
                    let id = btf.find_by_name_kind(ext.essential_name(), Kind::Func)?;
                    Some((btf, id, btf.type_by_id(id)?.type_id()))
                });
                let Some((btf, id, proto)) = found else {
                    return missing("no such function in the target's BTF");
                };
                if !self.is_compatible(*local, btf, proto)? {
                    return missing(&format!(
                        "prototype {local} is not compatible with the target's {proto}"
                    ));
                }
                Ok(Some(Found::Type(id)))
            }
        }
    }

    fn is_compatible(&self, local: TypeId, target: &Btf, id: TypeId) -> Result<bool, ElfError> {
        match &self.object.btf {
            Some(btf) => Ok(types_are_compatible(btf, local, target, id)?),
            None => Ok(false),
        }
    }
}

/// The name and kind of what a program attaches to in the target's BTF; `None` for nothing, or a function of a program.
fn attach_name(prog: &ProgSpec) -> Option<(String, Kind)> {
    let (def, name) = prog
        .sec_def
        .filter(|def| def.traits.attach_btf && prog.prog_type != ProgType::Ext)
        .zip(prog.attach_to.as_deref())?;
    // `MODULE:NAME` names a function of a module.
    let name = name.rsplit(':').next().unwrap_or(name);
    Some(def.attach_btf_name(name))
}
