//! `Registry`: the rows in force: program types, helpers, kfuncs; built-in ones and the embedder's.

use alloc::vec::Vec;

use ring3_uapi::ProgType;

use crate::grants::{Grant, Sleep};
use crate::kfunc::{self, KfuncRow};
use crate::{FuncProto, HelperId, Privilege, ProgTypeRow, helpers, prog_type};

/// Rows the verifier judges by.
#[derive(Clone, Debug)]
pub struct Registry {
    prog_types: &'static [ProgTypeRow],
    custom_prog_types: Vec<CustomProgType>,
    custom_helpers: Vec<CustomHelper>,
    custom_kfuncs: Vec<KfuncRow>,
}

/// A program type of the embedder's.
#[derive(Clone, Copy, Debug)]
pub struct CustomProgType {
    /// Its row; the type is [`ProgType::Custom`] with a number of at least [`Registry::FIRST_CUSTOM_ID`].
    pub row: ProgTypeRow,
    /// ELF section of its programs, which may also be `SECTION/ANYTHING`.
    pub section: &'static str,
}

/// A helper of the embedder's.
#[derive(Clone, Debug)]
pub struct CustomHelper {
    /// Prototype; its id is [`HelperId::Custom`], at least [`Registry::FIRST_CUSTOM_ID`].
    pub proto: FuncProto,
    /// Program types that may call it.
    pub prog_types: Vec<ProgType>,
}

/// The program that asks for a helper.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// Program type (of the target, for an extension).
    pub prog_type: ProgType,
    /// Expected attach type, raw.
    pub expected_attach_type: u32,
    /// Sleepable.
    pub sleepable: bool,
    /// Privilege of the loader.
    pub privilege: Privilege,
}

/// Answer to the question for a helper.
#[derive(Clone, Copy, Debug)]
pub enum HelperLookup<'a> {
    /// No helper has this number: `invalid func unknown#N`.
    Unknown,
    /// It exists, but not for this program: `program of this type cannot use helper bpf_x#N`.
    NotForProgram(&'a str),
    /// This prototype.
    Found(&'a FuncProto),
}

/// Why a row was not registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterError {
    /// The number belongs to the kernel or to another custom row.
    IdTaken(u32),
    /// The row's program type is one of the kernel's.
    NotCustom(ProgType),
    /// Another custom program type has this section.
    SectionTaken(&'static str),
    /// The name belongs to a kernel function of the kernel or to another custom row.
    NameTaken(&'static str),
}

impl core::fmt::Display for RegisterError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            RegisterError::IdTaken(id) => write!(f, "id {id}: taken"),
            RegisterError::NotCustom(prog_type) => {
                write!(f, "program type '{prog_type}': the kernel's own")
            }
            RegisterError::SectionTaken(section) => write!(f, "section '{section}': taken"),
            RegisterError::NameTaken(name) => write!(f, "kernel function '{name}': taken"),
        }
    }
}

impl core::error::Error for RegisterError {}

impl Registry {
    /// Custom helpers and program types have numbers from here on, far from the kernel's.
    pub const FIRST_CUSTOM_ID: u32 = 0x1_0000;

    /// The rows of Linux 6.18 in the reference configuration.
    pub fn linux_6_18() -> Registry {
        Registry {
            prog_types: prog_type::ROWS,
            custom_prog_types: Vec::new(),
            custom_helpers: Vec::new(),
            custom_kfuncs: Vec::new(),
        }
    }

    /// The row of a program type; a custom one that was not registered has that of the reserved type, which is refused.
    pub fn prog_type(&self, prog_type: ProgType) -> &ProgTypeRow {
        if let ProgType::Custom(_) = prog_type {
            return self
                .custom_prog_types
                .iter()
                .map(|custom| &custom.row)
                .find(|row| row.prog_type == prog_type)
                .unwrap_or(&self.prog_types[0]);
        }
        &self.prog_types[prog_type.raw() as usize]
    }

    /// Adds a program type.
    ///
    /// # Errors
    /// [`RegisterError::NotCustom`]: the row is not of a custom type. [`RegisterError::IdTaken`]: its number is below
    /// [`Registry::FIRST_CUSTOM_ID`] or given before. [`RegisterError::SectionTaken`].
    pub fn register_prog_type(&mut self, custom: CustomProgType) -> Result<(), RegisterError> {
        let ProgType::Custom(id) = custom.row.prog_type else {
            return Err(RegisterError::NotCustom(custom.row.prog_type));
        };
        let known = &self.custom_prog_types;
        if id < Self::FIRST_CUSTOM_ID
            || known
                .iter()
                .any(|other| other.row.prog_type == custom.row.prog_type)
        {
            return Err(RegisterError::IdTaken(id));
        }
        if known.iter().any(|other| other.section == custom.section) {
            return Err(RegisterError::SectionTaken(custom.section));
        }
        self.custom_prog_types.push(custom);
        Ok(())
    }

    /// The custom program type whose programs are in this ELF section.
    pub fn prog_type_of_section(&self, section: &str) -> Option<ProgType> {
        let custom = self.custom_prog_types.iter().find(|custom| {
            let rest = section.strip_prefix(custom.section);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })?;
        Some(custom.row.prog_type)
    }

    /// Adds a helper.
    ///
    /// # Errors
    /// [`RegisterError::IdTaken`] for a number below [`Registry::FIRST_CUSTOM_ID`] or given before.
    pub fn register_helper(&mut self, helper: CustomHelper) -> Result<(), RegisterError> {
        let id = helper.proto.id.raw();
        let taken = self
            .custom_helpers
            .iter()
            .any(|other| other.proto.id.raw() == id);
        if id < Self::FIRST_CUSTOM_ID || taken {
            return Err(RegisterError::IdTaken(id));
        }
        self.custom_helpers.push(helper);
        Ok(())
    }

    /// Adds a kernel function: of a module, or of the embedder's own BTF.
    ///
    /// # Errors
    /// [`RegisterError::NameTaken`] for a name of the kernel's or one given before.
    pub fn register_kfunc(&mut self, row: KfuncRow) -> Result<(), RegisterError> {
        if self.kfunc(row.name).is_some() {
            return Err(RegisterError::NameTaken(row.name));
        }
        self.custom_kfuncs.push(row);
        Ok(())
    }

    /// The row of a kernel function.
    pub fn kfunc(&self, name: &str) -> Option<&KfuncRow> {
        let custom = || self.custom_kfuncs.iter().find(|row| row.name == name);
        kfunc::find(name).or_else(custom)
    }

    /// Prototypes that exist, of all program types, kernel rows first.
    pub fn helper_rows(&self) -> impl Iterator<Item = &FuncProto> {
        helpers::ROWS
            .iter()
            .chain(self.custom_helpers.iter().map(|helper| &helper.proto))
    }

    /// The helper that a call immediate names, for this caller.
    pub fn helper(&self, caller: Caller, imm: i32) -> HelperLookup<'_> {
        let Ok(raw) = u32::try_from(imm) else {
            return HelperLookup::Unknown;
        };
        if let Some(custom) = self
            .custom_helpers
            .iter()
            .find(|helper| helper.proto.id.raw() == raw)
        {
            return if custom.prog_types.contains(&caller.prog_type) {
                HelperLookup::Found(&custom.proto)
            } else {
                HelperLookup::NotForProgram(custom.proto.name)
            };
        }
        let Some(id) = ring3_uapi::FuncId::from_raw(raw) else {
            return HelperLookup::Unknown;
        };
        match self.grant(caller, HelperId::Uapi(id)) {
            Some(grant) => HelperLookup::Found(grant.proto),
            None => HelperLookup::NotForProgram(id.name()),
        }
    }

    /// The first grant of this helper that fits the caller.
    fn grant(&self, caller: Caller, id: HelperId) -> Option<&'static Grant> {
        let sets = self.prog_type(caller.prog_type).helpers;
        sets.iter().copied().flatten().find(|grant| {
            grant.id() == id
                && grant.need.is_met_by(caller.privilege)
                && grant.attach.contains(caller.expected_attach_type)
                && (grant.sleep == Sleep::Either || caller.sleepable)
        })
    }
}

impl Default for Registry {
    fn default() -> Self {
        Registry::linux_6_18()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctx::{CtxField, CtxReg, CtxTable, Sizes};

    static TABLE: CtxTable = CtxTable {
        view: None,
        uapi_struct: "request",
        kernel_struct: "",
        bytes: 4,
        fields: &[CtxField::plain(
            "method",
            0,
            4,
            Sizes::between(1, 4),
            Sizes::NONE,
            CtxReg::Scalar,
        )],
    };

    fn custom(id: u32, section: &'static str) -> CustomProgType {
        CustomProgType {
            row: ProgTypeRow::custom(id, &TABLE),
            section,
        }
    }

    #[test]
    fn custom_program_types_have_numbers_and_sections_of_their_own() {
        let mut registry = Registry::linux_6_18();
        let first = Registry::FIRST_CUSTOM_ID;
        registry
            .register_prog_type(custom(first, "filter"))
            .unwrap();
        assert_eq!(
            registry.prog_type_of_section("filter/x"),
            Some(ProgType::Custom(first))
        );
        assert_eq!(registry.prog_type_of_section("filters"), None);
        assert_eq!(registry.prog_type(ProgType::Custom(first)).refused, None);
        assert!(
            registry
                .prog_type(ProgType::Custom(first + 1))
                .refused
                .is_some()
        );
        for (id, section, error) in [
            (first, "other", RegisterError::IdTaken(first)),
            (7, "other", RegisterError::IdTaken(7)),
            (first + 1, "filter", RegisterError::SectionTaken("filter")),
        ] {
            assert_eq!(registry.register_prog_type(custom(id, section)), Err(error));
        }
        let kernel = CustomProgType {
            row: *registry.prog_type(ProgType::Xdp),
            section: "x",
        };
        assert_eq!(
            registry.register_prog_type(kernel),
            Err(RegisterError::NotCustom(ProgType::Xdp))
        );
    }
}
