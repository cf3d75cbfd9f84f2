//! C declarations of all types, each definition after what it embeds.
//!
//! [`c`] walks the types by id: `order` queues what a type needs, then each queued type is emitted with the forward
//! declarations its definition needs. Emission and the text of declarations keep their own stacks of tasks, since
//! structs nest in structs and functions return pointers to functions.
//!
//! Names are made unique as libbpf makes them: the second type of a name is called `name___2`.

use super::align::Alignments;
use super::decl::Task;
use super::order::Order;
use crate::{Btf, BtfError, Kind, Type, TypeId};
use alloc::borrow::Cow;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use ring3_uapi::Errno;

/// Tasks of one dump, beside [`TASKS_PER_TYPE`]; more is a blob made to take time.
const TASKS_MIN: usize = 1 << 20;
const TASKS_PER_TYPE: usize = 64;
/// Lines that fill one gap: half a megabyte of gap.
pub(super) const PAD_LINES_MAX: u64 = 1 << 16;
/// Nested definitions.
pub(super) const DEPTH_MAX: usize = 1 << 14;

const HEAD: &str = "#ifndef __VMLINUX_H__
#define __VMLINUX_H__

#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute push (__attribute__((preserve_access_index)), apply_to = record)
#endif

";

const FOOT: &str = "#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute pop
#endif

#endif /* __VMLINUX_H__ */
";

/// Declares all types of a blob and its base in C.
///
/// # Errors
/// ELOOP: types that C cannot declare. E2BIG: a definition nested beyond reason. EIO: the sink failed.
pub fn c(btf: &Btf, out: &mut dyn fmt::Write) -> Result<(), BtfError> {
    let mut dumper = Dumper {
        btf,
        out,
        aligns: Alignments::new(btf),
        emitted: vec![Emit::New; btf.type_count() as usize],
        forward: vec![false; btf.type_count() as usize],
        names: BTreeMap::new(),
        tags: BTreeMap::new(),
        idents: BTreeMap::new(),
        tasks_left: TASKS_MIN + TASKS_PER_TYPE * btf.type_count() as usize,
    };
    let mut order = Order::new(btf);
    dumper.text(HEAD)?;
    for id in (1..btf.type_count()).map(TypeId) {
        let mut queue = Vec::new();
        order.add(id, &mut queue)?;
        for queued in queue {
            dumper.emit(queued)?;
        }
    }
    dumper.text(FOOT)
}

#[derive(Clone, Copy, PartialEq)]
enum Emit {
    New,
    Emitting,
    Done,
}

pub(super) struct Dumper<'a, 'o> {
    pub(super) btf: &'a Btf,
    out: &'o mut dyn fmt::Write,
    pub(super) aligns: Alignments<'a>,
    emitted: Vec<Emit>,
    /// a forward declaration (or a typedef that serves as one) is out
    forward: Vec<bool>,
    /// names that had to be changed, and those that were looked at
    names: BTreeMap<TypeId, Option<String>>,
    /// uses of each tag and of each identifier
    tags: BTreeMap<&'a str, u32>,
    pub(super) idents: BTreeMap<&'a str, u32>,
    tasks_left: usize,
}

/// A step of emitting a type and what it needs.
enum EmitTask {
    /// a type that the type `inside` refers to; 0 for a definition of its own
    Visit {
        id: TypeId,
        inside: TypeId,
    },
    /// the next member of a struct or parameter of a prototype
    Part {
        id: TypeId,
        inside: TypeId,
        index: u32,
    },
    Typedef(TypeId),
    Composite {
        id: TypeId,
        inside: TypeId,
    },
}

impl<'a> Dumper<'a, '_> {
    pub(super) fn text(&mut self, text: &str) -> Result<(), BtfError> {
        self.out.write_str(text).map_err(|_| sink_failed())
    }

    pub(super) fn print(&mut self, text: fmt::Arguments<'_>) -> Result<(), BtfError> {
        self.out.write_fmt(text).map_err(|_| sink_failed())
    }

    /// Counts a task, with so many that wait.
    pub(super) fn spend(&mut self, waiting: usize) -> Result<(), BtfError> {
        self.tasks_left = match self.tasks_left.checked_sub(1) {
            Some(left) if waiting <= DEPTH_MAX => left,
            _ => return Err(too_big()),
        };
        Ok(())
    }

    fn state(&self, id: TypeId) -> Emit {
        self.emitted
            .get(id.0 as usize)
            .copied()
            .unwrap_or(Emit::Done)
    }

    fn set_state(&mut self, id: TypeId, state: Emit) {
        if let Some(slot) = self.emitted.get_mut(id.0 as usize) {
            *slot = state;
        }
    }

    fn is_forward(&self, id: TypeId) -> bool {
        self.forward.get(id.0 as usize).copied().unwrap_or(true)
    }

    fn set_forward(&mut self, id: TypeId) {
        if let Some(slot) = self.forward.get_mut(id.0 as usize) {
            *slot = true;
        }
    }

    /// Emits a queued type, after what its definition needs.
    fn emit(&mut self, id: TypeId) -> Result<(), BtfError> {
        let mut tasks = vec![EmitTask::Visit {
            id,
            inside: TypeId::VOID,
        }];
        while let Some(task) = tasks.pop() {
            self.spend(tasks.len())?;
            match task {
                EmitTask::Visit { id, inside } => self.visit(id, inside, &mut tasks)?,
                EmitTask::Part { id, inside, index } => {
                    let Some(ty) = self.btf.type_by_id(id) else {
                        continue;
                    };
                    let part = match ty.kind() {
                        Kind::FuncProto if index == 0 => Some(ty.type_id()),
                        Kind::FuncProto => ty.param(index - 1).map(|param| param.ty),
                        _ => ty.member(index).map(|member| member.ty),
                    };
                    if let Some(part) = part {
                        tasks.push(EmitTask::Part {
                            id,
                            inside,
                            index: index + 1,
                        });
                        tasks.push(EmitTask::Visit { id: part, inside });
                    }
                }
                EmitTask::Typedef(id) => {
                    if !self.is_forward(id) {
                        self.typedef(id)?;
                    }
                    self.set_state(id, Emit::Done);
                }
                EmitTask::Composite { id, inside } => {
                    if inside.is_void() {
                        self.declare(vec![Task::Struct { id, level: 0 }])?;
                        self.text(";\n\n")?;
                        self.set_state(id, Emit::Done);
                    } else {
                        self.set_state(id, Emit::New);
                    }
                }
            }
        }
        Ok(())
    }

    fn visit(
        &mut self,
        id: TypeId,
        inside: TypeId,
        tasks: &mut Vec<EmitTask>,
    ) -> Result<(), BtfError> {
        let Some(ty) = self.btf.type_by_id(id) else {
            return Ok(());
        };
        match self.state(id) {
            Emit::Done => return Ok(()),
            Emit::Emitting => return self.visit_again(&ty, inside),
            Emit::New => {}
        }
        match ty.kind() {
            Kind::Int => {
                self.missing_alias(&ty)?;
                self.set_state(id, Emit::Done);
            }
            Kind::Enum | Kind::Enum64 => {
                if inside.is_void() {
                    self.declare(vec![Task::Enum { id, level: 0 }])?;
                    self.text(";\n\n")?;
                }
                self.set_state(id, Emit::Done);
            }
            Kind::Ptr | Kind::Volatile | Kind::Const | Kind::Restrict | Kind::TypeTag => {
                tasks.push(EmitTask::Visit {
                    id: ty.type_id(),
                    inside,
                });
            }
            Kind::Array => {
                if let Some(array) = ty.array() {
                    tasks.push(EmitTask::Visit {
                        id: array.elem,
                        inside,
                    });
                }
            }
            Kind::Fwd => {
                let name = self.tag(&ty);
                self.print(format_args!("{} {name};\n\n", forward_keyword(&ty)))?;
                self.set_state(id, Emit::Done);
            }
            Kind::Typedef => {
                self.set_state(id, Emit::Emitting);
                tasks.push(EmitTask::Typedef(id));
                tasks.push(EmitTask::Visit {
                    id: ty.type_id(),
                    inside: id,
                });
            }
            Kind::Struct | Kind::Union => {
                self.set_state(id, Emit::Emitting);
                tasks.push(EmitTask::Composite { id, inside });
                let is_anonymous = ty.name_off() == 0;
                if inside.is_void() || is_anonymous {
                    tasks.push(EmitTask::Part {
                        id,
                        inside: if is_anonymous { inside } else { id },
                        index: 0,
                    });
                } else if !self.is_forward(id) && id != inside {
                    self.forward_declaration(&ty)?;
                }
            }
            Kind::FuncProto => tasks.push(EmitTask::Part {
                id,
                inside,
                index: 0,
            }),
            Kind::Void | Kind::Func | Kind::Var | Kind::Datasec | Kind::Float | Kind::DeclTag => {}
        }
        Ok(())
    }

    /// A type met inside of its own definition.
    fn visit_again(&mut self, ty: &Type<'a>, inside: TypeId) -> Result<(), BtfError> {
        let id = ty.id();
        if self.is_forward(id) {
            return Ok(());
        }
        match ty.kind() {
            Kind::Struct | Kind::Union if id != inside && ty.name_off() != 0 => {
                self.forward_declaration(ty)?;
            }
            Kind::Typedef => {
                self.typedef(id)?;
                self.set_forward(id);
            }
            _ => {}
        }
        Ok(())
    }

    fn forward_declaration(&mut self, ty: &Type<'a>) -> Result<(), BtfError> {
        let name = self.tag(ty);
        self.print(format_args!("{} {name};\n\n", keyword(ty.kind())))?;
        self.set_forward(ty.id());
        Ok(())
    }

    fn typedef(&mut self, id: TypeId) -> Result<(), BtfError> {
        let Some(ty) = self.btf.type_by_id(id) else {
            return Ok(());
        };
        if ty.name() == "__builtin_va_list" {
            return Ok(());
        }
        let name = self.ident(&ty);
        if ty.type_id().is_void() && name == "__gnuc_va_list" {
            return self.text("typedef __builtin_va_list __gnuc_va_list;\n\n");
        }
        self.text("typedef ")?;
        let name = Cow::Owned(name.into_owned());
        self.declare(vec![Task::Declaration {
            id: ty.type_id(),
            name,
            level: 0,
        }])?;
        self.text(";\n\n")
    }

    /// Vector element types that compilers know and BTF only names.
    fn missing_alias(&mut self, ty: &Type<'a>) -> Result<(), BtfError> {
        let base = match ty.name() {
            "__Poly8_t" => "unsigned char",
            "__Poly16_t" => "unsigned short",
            "__Poly64_t" => "unsigned long long",
            "__Poly128_t" => "unsigned __int128",
            _ => return Ok(()),
        };
        self.print(format_args!("typedef {base} {};\n\n", ty.name()))
    }

    /// The name behind `struct`, `union` or `enum`.
    pub(super) fn tag(&mut self, ty: &Type<'a>) -> Cow<'a, str> {
        let counts = ty.kind() != Kind::Fwd && !(ty.kind() == Kind::Enum && ty.vlen() == 0);
        resolve_name(ty, counts, &mut self.names, &mut self.tags)
    }

    /// The name of a typedef.
    pub(super) fn ident(&mut self, ty: &Type<'a>) -> Cow<'a, str> {
        resolve_name(ty, true, &mut self.names, &mut self.idents)
    }
}

fn resolve_name<'a>(
    ty: &Type<'a>,
    counts: bool,
    names: &mut BTreeMap<TypeId, Option<String>>,
    uses: &mut BTreeMap<&'a str, u32>,
) -> Cow<'a, str> {
    let name = ty.name();
    if ty.name_off() == 0 {
        return Cow::Borrowed("");
    }
    let changed = names.entry(ty.id()).or_insert_with(|| {
        if !counts {
            return None;
        }
        numbered(name, uses)
    });
    match changed {
        Some(changed) => Cow::Owned(changed.clone()),
        None => Cow::Borrowed(name),
    }
}

/// Counts a use of a name; from the second on it gets a number.
pub(super) fn numbered<'a>(name: &'a str, uses: &mut BTreeMap<&'a str, u32>) -> Option<String> {
    let count = uses.entry(name).or_insert(0);
    *count += 1;
    (*count > 1).then(|| format!("{name}___{count}"))
}

pub(super) fn keyword(kind: Kind) -> &'static str {
    match kind {
        Kind::Union => "union",
        Kind::Enum | Kind::Enum64 => "enum",
        _ => "struct",
    }
}

pub(super) fn forward_keyword(ty: &Type<'_>) -> &'static str {
    if ty.kind_flag() { "union" } else { "struct" }
}

pub(super) fn too_big() -> BtfError {
    BtfError::new(Errno::E2BIG, "btf: a definition is nested beyond reason")
}

fn sink_failed() -> BtfError {
    BtfError::new(Errno::EIO, "btf: the text could not be written")
}
