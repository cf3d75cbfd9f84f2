//! `Registry`: the rows in force: program types, helpers, kfuncs; built-in ones and the embedder's.

use alloc::{borrow::Cow, vec::Vec};

use ring3_uapi::ProgType;

use crate::grants::{Grant, Sleep};
use crate::{FuncProto, HelperId, Privilege, ProgTypeRow, helpers, prog_type};

/// Rows the verifier judges by.
#[derive(Clone, Debug)]
pub struct Registry {
    prog_types: Cow<'static, [ProgTypeRow]>,
    custom_helpers: Vec<CustomHelper>,
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
}

impl core::fmt::Display for RegisterError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            RegisterError::IdTaken(id) => write!(f, "helper id {id}: taken"),
        }
    }
}

impl core::error::Error for RegisterError {}

impl Registry {
    /// Custom helpers have numbers from here on, far from the kernel's.
    pub const FIRST_CUSTOM_ID: u32 = 0x1_0000;

    /// The rows of Linux 6.18 in the reference configuration.
    pub fn linux_6_18() -> Registry {
        Registry {
            prog_types: Cow::Borrowed(prog_type::ROWS),
            custom_helpers: Vec::new(),
        }
    }

    /// The row of a program type.
    pub fn prog_type(&self, prog_type: ProgType) -> &ProgTypeRow {
        &self.prog_types[prog_type.raw() as usize]
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
