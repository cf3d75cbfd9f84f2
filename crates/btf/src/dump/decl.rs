//! The text of declarations: C writes a type around its name, so a declaration is unwound from the innermost type out.
//!
//! Tasks wait on a stack: a struct's members, a prototype's parameters and a chain's next link are written when what
//! stands before them is.

use super::c::{DEPTH_MAX, Dumper, PAD_LINES_MAX, forward_keyword, keyword, numbered, too_big};
use crate::{BtfError, Kind, Type, TypeId};
use alloc::borrow::Cow;
use alloc::format;
use alloc::vec::Vec;
use ring3_uapi::Errno;

/// A piece of a declaration still to be written.
pub(super) enum Task<'a> {
    Text(Cow<'a, str>),
    /// a declaration of `name` with this type
    Declaration {
        id: TypeId,
        name: Cow<'a, str>,
        level: usize,
    },
    /// what is left of a chain from a declaration's name to its innermost type, which comes first
    Chain {
        ids: Vec<TypeId>,
        name: Cow<'a, str>,
        level: usize,
        after_ptr: bool,
    },
    /// the parameters of a prototype from `index` on
    Params {
        id: TypeId,
        index: u32,
        level: usize,
    },
    Struct {
        id: TypeId,
        level: usize,
    },
    /// the members of a struct from `index` on
    Members {
        id: TypeId,
        level: usize,
        index: u32,
        end: u64,
        after_bitfield: bool,
        is_packed: bool,
    },
    Enum {
        id: TypeId,
        level: usize,
    },
}

impl<'a> Dumper<'a, '_> {
    pub(super) fn declare(&mut self, tasks: Vec<Task<'a>>) -> Result<(), BtfError> {
        let mut tasks = tasks;
        while let Some(task) = tasks.pop() {
            self.spend(tasks.len())?;
            match task {
                Task::Text(text) => self.text(&text)?,
                Task::Declaration { id, name, level } => {
                    let ids = self.chain(id)?;
                    tasks.push(Task::Chain {
                        ids,
                        name,
                        level,
                        after_ptr: true,
                    });
                }
                Task::Chain {
                    ids,
                    name,
                    level,
                    after_ptr,
                } => self.link(ids, name, level, after_ptr, &mut tasks)?,
                Task::Params { id, index, level } => self.param(id, index, level, &mut tasks)?,
                Task::Struct { id, level } => self.start_struct(id, level, &mut tasks)?,
                Task::Members {
                    id,
                    level,
                    index,
                    end,
                    after_bitfield,
                    is_packed,
                } => {
                    let at = Place {
                        index,
                        end,
                        after_bitfield,
                        is_packed,
                    };
                    self.member(id, level, at, &mut tasks)?;
                }
                Task::Enum { id, level } => self.enumeration(id, level)?,
            }
        }
        Ok(())
    }

    /// From the declared name to the innermost type.
    fn chain(&self, id: TypeId) -> Result<Vec<TypeId>, BtfError> {
        let mut ids = Vec::new();
        let mut id = id;
        loop {
            ids.push(id);
            if ids.len() > DEPTH_MAX {
                return Err(BtfError::new(
                    Errno::E2BIG,
                    format!("btf: type [{id}] is nested beyond reason"),
                ));
            }
            let Some(ty) = self.btf.type_by_id(id) else {
                break;
            };
            id = match ty.kind() {
                Kind::Ptr
                | Kind::Volatile
                | Kind::Const
                | Kind::Restrict
                | Kind::FuncProto
                | Kind::TypeTag => ty.type_id(),
                Kind::Array => ty.array().map_or(TypeId::VOID, |array| array.elem),
                _ => break,
            };
        }
        Ok(ids)
    }

    /// Qualifiers at the end of the chain: written in front of the type, or dropped.
    fn qualifiers(&mut self, ids: &mut Vec<TypeId>, write: Qualifiers) -> Result<(), BtfError> {
        while let Some(word) = ids
            .last()
            .and_then(|&id| self.btf.kind(id))
            .and_then(qualifier)
        {
            if write == Qualifiers::Write {
                self.print(format_args!("{word} "))?;
            }
            ids.pop();
        }
        Ok(())
    }

    /// Writes the innermost type of a chain that is not written yet.
    fn link(
        &mut self,
        mut ids: Vec<TypeId>,
        name: Cow<'a, str>,
        level: usize,
        after_ptr: bool,
        tasks: &mut Vec<Task<'a>>,
    ) -> Result<(), BtfError> {
        let Some(id) = ids.pop() else {
            return self.declared_name(&name, after_ptr);
        };
        let Some(ty) = self.btf.type_by_id(id) else {
            return Ok(());
        };
        let mut inline = None;
        match ty.kind() {
            Kind::Void => {
                self.qualifiers(&mut ids, Qualifiers::Write)?;
                self.text("void")?;
            }
            Kind::Int | Kind::Float => {
                self.qualifiers(&mut ids, Qualifiers::Write)?;
                self.text(ty.name())?;
            }
            Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 => {
                self.qualifiers(&mut ids, Qualifiers::Write)?;
                let is_enum = ty.kind().is_any_enum();
                if ty.name_off() == 0 {
                    inline = Some(if is_enum {
                        Task::Enum { id, level }
                    } else {
                        Task::Struct { id, level }
                    });
                } else {
                    let tag = self.tag(&ty);
                    self.print(format_args!("{} {tag}", keyword(ty.kind())))?;
                }
            }
            Kind::Fwd => {
                self.qualifiers(&mut ids, Qualifiers::Write)?;
                let tag = self.tag(&ty);
                self.print(format_args!("{} {tag}", forward_keyword(&ty)))?;
            }
            Kind::Typedef => {
                self.qualifiers(&mut ids, Qualifiers::Write)?;
                let ident = self.ident(&ty);
                self.text(&ident)?;
            }
            Kind::Ptr => self.text(if after_ptr { "*" } else { " *" })?,
            Kind::Volatile => self.text(" volatile")?,
            Kind::Const => self.text(" const")?,
            Kind::Restrict => self.text(" restrict")?,
            Kind::TypeTag => {
                self.qualifiers(&mut ids, Qualifiers::Write)?;
                self.print(format_args!(
                    " __attribute__((btf_type_tag(\"{}\")))",
                    ty.name()
                ))?;
            }
            Kind::Array => return self.array(&ty, ids, name, level, after_ptr, tasks),
            Kind::FuncProto => return self.prototype(&ty, ids, name, level, after_ptr, tasks),
            Kind::Func | Kind::Var | Kind::Datasec | Kind::DeclTag => return Ok(()),
        }
        tasks.push(Task::Chain {
            ids,
            name,
            level,
            after_ptr: ty.kind() == Kind::Ptr,
        });
        tasks.extend(inline);
        Ok(())
    }

    fn declared_name(&mut self, name: &str, after_ptr: bool) -> Result<(), BtfError> {
        if !name.is_empty() && !after_ptr {
            self.text(" ")?;
        }
        self.text(name)
    }

    fn array(
        &mut self,
        ty: &Type<'a>,
        mut ids: Vec<TypeId>,
        name: Cow<'a, str>,
        level: usize,
        after_ptr: bool,
        tasks: &mut Vec<Task<'a>>,
    ) -> Result<(), BtfError> {
        let nelems = ty.array().map_or(0, |array| array.nelems);
        // Qualifiers of an array are those of its elements, written already.
        self.qualifiers(&mut ids, Qualifiers::Drop)?;
        let Some(&outer) = ids.last() else {
            self.declared_name(&name, after_ptr)?;
            return self.print(format_args!("[{nelems}]"));
        };
        let is_multidimensional = self.btf.kind(outer) == Some(Kind::Array);
        if !name.is_empty() && !after_ptr {
            self.text(" ")?;
        }
        let close = if is_multidimensional { "" } else { ")" };
        self.text(if is_multidimensional { "" } else { "(" })?;
        tasks.push(Task::Text(Cow::Owned(format!("{close}[{nelems}]"))));
        tasks.push(Task::Chain {
            ids,
            name,
            level,
            after_ptr: true,
        });
        Ok(())
    }

    fn prototype(
        &mut self,
        ty: &Type<'a>,
        mut ids: Vec<TypeId>,
        name: Cow<'a, str>,
        level: usize,
        after_ptr: bool,
        tasks: &mut Vec<Task<'a>>,
    ) -> Result<(), BtfError> {
        self.qualifiers(&mut ids, Qualifiers::Drop)?;
        let takes_nothing = ty.params().all(|param| param.ty.is_void()) && ty.vlen() <= 1;
        if takes_nothing {
            tasks.push(Task::Text(Cow::Borrowed("(void)")));
        } else {
            tasks.push(Task::Text(Cow::Borrowed(")")));
            tasks.push(Task::Params {
                id: ty.id(),
                index: 0,
                level,
            });
            tasks.push(Task::Text(Cow::Borrowed("(")));
        }
        if ids.is_empty() {
            return self.declared_name(&name, after_ptr);
        }
        self.text(" (")?;
        tasks.push(Task::Text(Cow::Borrowed(")")));
        tasks.push(Task::Chain {
            ids,
            name,
            level,
            after_ptr: true,
        });
        Ok(())
    }

    fn param(
        &mut self,
        id: TypeId,
        index: u32,
        level: usize,
        tasks: &mut Vec<Task<'a>>,
    ) -> Result<(), BtfError> {
        let Some(ty) = self.btf.type_by_id(id) else {
            return Ok(());
        };
        let Some(param) = ty.param(index) else {
            return Ok(());
        };
        if index > 0 {
            self.text(", ")?;
        }
        if index + 1 == ty.vlen() && param.ty.is_void() {
            return self.text("...");
        }
        tasks.push(Task::Params {
            id,
            index: index + 1,
            level,
        });
        tasks.push(Task::Declaration {
            id: param.ty,
            name: Cow::Borrowed(param.name()),
            level,
        });
        Ok(())
    }

    fn start_struct(
        &mut self,
        id: TypeId,
        level: usize,
        tasks: &mut Vec<Task<'a>>,
    ) -> Result<(), BtfError> {
        let Some(ty) = self.btf.type_by_id(id) else {
            return Ok(());
        };
        let is_packed = ty.kind() == Kind::Struct && self.aligns.is_packed(id);
        let tag = self.tag(&ty);
        let space = if ty.name_off() == 0 { "" } else { " " };
        self.print(format_args!("{}{space}{tag} {{", keyword(ty.kind())))?;
        tasks.push(Task::Members {
            id,
            level,
            index: 0,
            end: 0,
            after_bitfield: false,
            is_packed,
        });
        Ok(())
    }

    fn member(
        &mut self,
        id: TypeId,
        level: usize,
        at: Place,
        tasks: &mut Vec<Task<'a>>,
    ) -> Result<(), BtfError> {
        let Some(ty) = self.btf.type_by_id(id) else {
            return Ok(());
        };
        let Some(member) = ty.member(at.index) else {
            return self.end_struct(&ty, level, &at);
        };
        let align = if at.is_packed {
            1
        } else {
            self.aligns.of(member.ty)
        };
        let bits = u64::from(member.bitfield_bits);
        let is_bitfield = bits != 0;
        let start = u64::from(member.bit_offset);
        self.pad(
            at.end,
            start,
            align,
            at.after_bitfield && is_bitfield,
            level + 1,
        )?;
        self.print(format_args!("\n{:\t<1$}", "", level + 1))?;
        let end = match bits {
            0 => start + u64::from(self.btf.resolve_size(member.ty).unwrap_or(0)) * 8,
            bits => start + bits,
        };
        tasks.push(Task::Members {
            id,
            level,
            index: at.index + 1,
            end,
            after_bitfield: is_bitfield,
            is_packed: at.is_packed,
        });
        let after = if is_bitfield {
            Cow::Owned(format!(": {bits};"))
        } else {
            Cow::Borrowed(";")
        };
        tasks.push(Task::Text(after));
        tasks.push(Task::Declaration {
            id: member.ty,
            name: Cow::Borrowed(member.name()),
            level: level + 1,
        });
        Ok(())
    }

    fn end_struct(&mut self, ty: &Type<'a>, level: usize, at: &Place) -> Result<(), BtfError> {
        if ty.kind() == Kind::Struct {
            let align = self.aligns.of(ty.id());
            self.pad(at.end, u64::from(ty.size()) * 8, align, false, level + 1)?;
        }
        // An empty struct stays on one line.
        if ty.vlen() > 0 || ty.size() > 0 {
            self.print(format_args!("\n{:\t<1$}", "", level))?;
        }
        self.text("}")?;
        if at.is_packed {
            self.text(" __attribute__((packed))")
        } else {
            Ok(())
        }
    }

    /// Fills the bits between two members with unnamed bitfields, as few as natural alignment allows.
    fn pad(
        &mut self,
        from: u64,
        to: u64,
        align: u32,
        in_bitfield: bool,
        level: usize,
    ) -> Result<(), BtfError> {
        const PADS: [(&str, u64); 4] = [("long", 64), ("int", 32), ("short", 16), ("char", 8)];
        if from >= to {
            return Ok(());
        }
        let mut at = from;
        let (mut name, mut bits) = PADS[3];
        let mut aligned = from.next_multiple_of(8);
        for (pad_name, pad_bits) in PADS {
            (name, bits) = (pad_name, pad_bits);
            aligned = from.next_multiple_of(pad_bits);
            if aligned <= to {
                break;
            }
        }
        if aligned > at && aligned <= to {
            let natural = at.next_multiple_of(u64::from(align).max(1) * 8);
            let is_needed = in_bitfield
                || (aligned == to && natural != aligned)
                || (aligned != to && to - aligned <= aligned - at);
            if is_needed {
                let width = if in_bitfield { aligned - at } else { 0 };
                self.print(format_args!("\n{:\t<1$}{name}: {width};", "", level))?;
            }
            at = aligned;
        }
        if at < to && (to - at) / bits > PAD_LINES_MAX {
            return Err(too_big());
        }
        while at < to {
            self.spend(0)?;
            let left = (to - at).min(bits);
            // The rest takes the smallest type that holds it.
            let rest = PADS.iter().rev().find(|(_, pad_bits)| *pad_bits >= left);
            let pad_name = if left == bits {
                name
            } else {
                rest.map_or(name, |(name, _)| name)
            };
            self.print(format_args!("\n{:\t<1$}{pad_name}: {left};", "", level))?;
            at += left;
        }
        Ok(())
    }

    fn enumeration(&mut self, id: TypeId, level: usize) -> Result<(), BtfError> {
        let Some(ty) = self.btf.type_by_id(id) else {
            return Ok(());
        };
        let tag = self.tag(&ty);
        let space = if ty.name_off() == 0 { "" } else { " " };
        self.print(format_args!("enum{space}{tag}"))?;
        if ty.vlen() == 0 {
            return Ok(());
        }
        self.text(" {")?;
        let is_wide = ty.kind() == Kind::Enum64;
        for value in ty.enum_values() {
            let name = match numbered(value.name(), &mut self.idents) {
                Some(changed) => Cow::Owned(changed),
                None => Cow::Borrowed(value.name()),
            };
            self.print(format_args!("\n{:\t<1$}{name} = ", "", level + 1))?;
            match (value.signed, is_wide) {
                (true, false) => self.print(format_args!("{},", value.bits as i64))?,
                (true, true) => self.print(format_args!("{}LL,", value.bits as i64))?,
                (false, false) => self.print(format_args!("{},", value.bits))?,
                (false, true) => self.print(format_args!("{}ULL,", value.bits))?,
            }
        }
        // Newer tools add a mode attribute to enumerations of 1 and 8 bytes; bpftool 7.1 does not.
        self.print(format_args!("\n{:\t<1$}}}", "", level))
    }
}

/// How far a struct's members are written.
struct Place {
    index: u32,
    /// first bit after the last member
    end: u64,
    after_bitfield: bool,
    is_packed: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Qualifiers {
    Write,
    Drop,
}

fn qualifier(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Volatile => Some("volatile"),
        Kind::Const => Some("const"),
        Kind::Restrict => Some("restrict"),
        _ => None,
    }
}
