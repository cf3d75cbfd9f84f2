//! References between types: do they exist, may they stand there, do they end, and how large are they?
//!
//! Types are resolved depth first with a stack of 32. What counts as an end depends on how the walk began: a pointer's
//! walk stops at structs and arrays, a struct's or array's walk stops at pointers, so that a struct may point to itself
//! but not contain itself.

use super::member::{check_member, is_regular_int, reject_member};
use super::{Log, TypeLine, is_identifier};
use crate::{Btf, Kind, Type, TypeId};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use ring3_uapi::Errno;

/// Most types on the way to an end. Source: `MAX_RESOLVE_DEPTH`.
const DEPTH_MAX: usize = 32;

#[derive(Clone, Copy, PartialEq)]
enum State {
    NotVisited,
    Visited,
    Resolved,
}

/// How the walk began.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Undecided,
    Pointer,
    StructOrArray,
}

/// A type being resolved and the next of its members to look at.
#[derive(Clone, Copy)]
struct Vertex {
    id: TypeId,
    next_member: usize,
}

/// What one step of a type's resolution comes to.
enum Step {
    /// first resolve this type
    Push(TypeId),
    /// done: the type it stands for and its size, 0 where they mean nothing
    Done(TypeId, u32),
}

pub(super) struct Resolver<'b, 'l, 'k> {
    pub(super) btf: &'b Btf,
    pub(super) log: &'l mut Log<'k>,
    start: u32,
    states: Vec<State>,
    ids: Vec<TypeId>,
    sizes: Vec<u32>,
    stack: Vec<Vertex>,
    mode: Mode,
}

/// Resolves every type.
pub(super) fn check_all(btf: &Btf, log: &mut Log<'_>) -> Result<(), Errno> {
    let start = btf.start_id().0;
    let count = (btf.type_count() - start) as usize;
    let mut resolver = Resolver {
        btf,
        log,
        start,
        states: vec![State::NotVisited; count],
        ids: vec![TypeId::VOID; count],
        sizes: vec![0; count],
        stack: Vec::with_capacity(DEPTH_MAX),
        mode: Mode::Undecided,
    };
    for id in (start..btf.type_count()).map(TypeId) {
        let ty = btf.type_by_id(id).ok_or(Errno::EINVAL)?;
        if needs_resolve(ty.kind()) && !resolver.is_resolved(id) {
            resolver.resolve(&ty)?;
        }
        if ty.kind() == Kind::FuncProto {
            resolver.check_prototype(&ty)?;
        }
    }
    Ok(())
}

fn needs_resolve(kind: Kind) -> bool {
    kind.is_mod_or_typedef()
        || matches!(
            kind,
            Kind::Ptr
                | Kind::Struct
                | Kind::Union
                | Kind::Array
                | Kind::Var
                | Kind::Func
                | Kind::DeclTag
                | Kind::Datasec
        )
}

/// Types that nothing but a data section (or a tag) may refer to.
fn is_source_only(kind: Kind) -> bool {
    matches!(kind, Kind::Var | Kind::DeclTag | Kind::Datasec)
}

fn has_no_size(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Void | Kind::Fwd | Kind::Func | Kind::FuncProto | Kind::DeclTag
    )
}

impl<'b> Resolver<'b, '_, '_> {
    fn own(&self, id: TypeId) -> Option<usize> {
        id.0.checked_sub(self.start)
            .map(|index| index as usize)
            .filter(|&index| index < self.states.len())
    }

    /// Types of the base are.
    fn is_resolved(&self, id: TypeId) -> bool {
        id.0 < self.start
            || self
                .own(id)
                .is_some_and(|index| self.states[index] == State::Resolved)
    }

    /// What a modifier, pointer or variable stands for.
    pub(super) fn resolved_id(&self, id: TypeId) -> TypeId {
        match self.own(id) {
            Some(index) => self.ids[index],
            None => match self.btf.type_by_id(id) {
                Some(ty) if ty.kind().is_mod_or_typedef() => self.btf.skip_mods_and_typedefs(id),
                Some(ty) => self.btf.skip_mods_and_typedefs(ty.type_id()),
                None => TypeId::VOID,
            },
        }
    }

    fn resolved_size(&self, id: TypeId) -> u32 {
        match self.own(id) {
            Some(index) => self.sizes[index],
            None => self.btf.resolve_size(id).unwrap_or(0),
        }
    }

    /// The type with a size that `id` stands for, and the size.
    pub(super) fn type_size(&self, id: TypeId) -> Option<(TypeId, u32)> {
        let ty = self.btf.type_by_id(id)?;
        let (id, ty) = match ty.kind() {
            kind if kind.is_mod_or_typedef() || kind == Kind::Var => {
                let id = self.resolved_id(id);
                (id, self.btf.type_by_id(id)?)
            }
            _ => (id, ty),
        };
        match ty.kind() {
            kind if has_no_size(kind) => None,
            kind if kind.has_size() => Some((id, ty.size())),
            Kind::Array => Some((id, self.resolved_size(id))),
            Kind::Ptr => Some((id, 8)),
            _ => None,
        }
    }

    /// Does the walk end at this kind?
    fn is_sink(&self, kind: Kind) -> bool {
        match self.mode {
            Mode::Undecided => !needs_resolve(kind),
            Mode::Pointer => !kind.is_mod_or_typedef() && kind != Kind::Ptr,
            Mode::StructOrArray => {
                !kind.is_mod_or_typedef() && kind != Kind::Array && !kind.is_composite()
            }
        }
    }

    /// Must this type be resolved before the one that refers to it?
    fn is_open(&self, id: TypeId, kind: Kind) -> bool {
        !self.is_sink(kind) && !self.is_resolved(id)
    }

    fn reject(&mut self, ty: &Type<'_>, message: fmt::Arguments<'_>) -> Errno {
        if self.log.is_on() {
            self.log
                .write(format_args!("{} {message}\n", TypeLine(*ty)));
        }
        Errno::EINVAL
    }

    fn push(&mut self, id: TypeId) -> Result<(), Errno> {
        if self.stack.len() == DEPTH_MAX {
            return Err(Errno::E2BIG);
        }
        let index = self.own(id).ok_or(Errno::EINVAL)?;
        if self.states[index] != State::NotVisited {
            return Err(Errno::EEXIST);
        }
        self.states[index] = State::Visited;
        self.stack.push(Vertex { id, next_member: 0 });
        if self.mode == Mode::Undecided {
            self.mode = match self.btf.kind(id) {
                Some(Kind::Ptr) => Mode::Pointer,
                Some(Kind::Struct | Kind::Union | Kind::Array) => Mode::StructOrArray,
                _ => Mode::Undecided,
            };
        }
        Ok(())
    }

    fn resolve(&mut self, ty: &Type<'_>) -> Result<(), Errno> {
        self.mode = Mode::Undecided;
        self.stack.clear();
        let mut outcome = self.push(ty.id());
        while outcome.is_ok() {
            let Some(vertex) = self.stack.last().copied() else {
                break;
            };
            outcome = match self.step(vertex) {
                Ok(Step::Push(next)) => self.push(next),
                Ok(Step::Done(id, size)) => {
                    self.stack.pop();
                    if let Some(index) = self.own(vertex.id) {
                        (self.states[index], self.ids[index], self.sizes[index]) =
                            (State::Resolved, id, size);
                    }
                    Ok(())
                }
                Err(errno) => Err(errno),
            };
        }
        match outcome {
            Err(Errno::E2BIG) => {
                self.reject(ty, format_args!("Exceeded max resolving depth:{DEPTH_MAX}"));
            }
            Err(Errno::EEXIST) => {
                self.reject(ty, format_args!("Loop detected"));
            }
            Err(_) => {}
            Ok(()) if !self.is_validly_resolved(ty) => {
                return Err(self.reject(ty, format_args!("Invalid resolve state")));
            }
            Ok(()) => {}
        }
        outcome
    }

    /// The last look at a resolved type.
    fn is_validly_resolved(&self, ty: &Type<'_>) -> bool {
        let (id, size) = (self.resolved_id(ty.id()), self.resolved_size(ty.id()));
        if !self.is_resolved(ty.id()) {
            return false;
        }
        match ty.kind() {
            Kind::Struct | Kind::Union | Kind::Datasec => id.is_void() && size == 0,
            Kind::DeclTag | Kind::Func => !id.is_void() && size == 0,
            Kind::Array => {
                let Some(array) = ty.array() else {
                    return false;
                };
                self.type_size(array.elem).is_some_and(|(elem, elem_size)| {
                    !self.btf.kind(elem).is_some_and(Kind::is_mod_or_typedef)
                        && array.nelems.wrapping_mul(elem_size) == size
                })
            }
            _ => self.btf.kind(id).is_some_and(|kind| {
                !kind.is_mod_or_typedef() && kind != Kind::Var && kind != Kind::Datasec
            }),
        }
    }

    fn step(&mut self, vertex: Vertex) -> Result<Step, Errno> {
        let ty = self.btf.type_by_id(vertex.id).ok_or(Errno::EINVAL)?;
        match ty.kind() {
            Kind::Ptr | Kind::Var => self.step_pointer(&ty),
            Kind::Typedef | Kind::Volatile | Kind::Const | Kind::Restrict | Kind::TypeTag => {
                self.step_modifier(&ty)
            }
            Kind::Array => self.step_array(&ty),
            Kind::Struct | Kind::Union => self.step_struct(&ty, vertex.next_member),
            Kind::Func => self.step_func(&ty),
            Kind::DeclTag => self.step_decl_tag(&ty),
            Kind::Datasec => self.step_datasec(&ty, vertex.next_member),
            Kind::Void
            | Kind::Int
            | Kind::Enum
            | Kind::Enum64
            | Kind::Fwd
            | Kind::FuncProto
            | Kind::Float => Err(self.reject(&ty, format_args!("Unsupported resolve"))),
        }
    }

    /// What a reference may lead to, or whether to resolve it first.
    fn follow(&mut self, ty: &Type<'b>) -> Result<Option<Step>, Errno> {
        let next = ty.type_id();
        match self.btf.kind(next) {
            Some(kind) if !is_source_only(kind) => {
                Ok(self.is_open(next, kind).then_some(Step::Push(next)))
            }
            _ => Err(self.reject(ty, format_args!("Invalid type_id"))),
        }
    }

    fn step_pointer(&mut self, ty: &Type<'b>) -> Result<Step, Errno> {
        if let Some(step) = self.follow(ty)? {
            return Ok(step);
        }
        let next = ty.type_id();
        // A modifier resolved for a struct may have stopped at a pointer: go on from there.
        if self.btf.kind(next).is_some_and(Kind::is_mod_or_typedef) {
            let resolved = self.resolved_id(next);
            if self.btf.kind(resolved) == Some(Kind::Ptr) && self.is_open(resolved, Kind::Ptr) {
                return Ok(Step::Push(resolved));
            }
        }
        if ty.kind() == Kind::Var {
            // A variable has a size.
            return match self.type_size(next) {
                Some((id, size)) => Ok(Step::Done(id, size)),
                None => Err(self.reject(ty, format_args!("Invalid type_id"))),
            };
        }
        self.end_of_reference(ty)
    }

    fn step_modifier(&mut self, ty: &Type<'b>) -> Result<Step, Errno> {
        match self.follow(ty)? {
            Some(step) => Ok(step),
            None => self.end_of_reference(ty),
        }
    }

    /// A pointer or modifier ends at a type with a size, or at void, a forward declaration or a prototype.
    fn end_of_reference(&mut self, ty: &Type<'b>) -> Result<Step, Errno> {
        let next = ty.type_id();
        if let Some((id, _)) = self.type_size(next) {
            return Ok(Step::Done(id, 0));
        }
        // A function stands for its prototype once it is resolved.
        let end = match self.own(next) {
            Some(index) if self.states[index] == State::Resolved => self.ids[index],
            _ => next,
        };
        match self.btf.kind(end) {
            Some(Kind::Void | Kind::Fwd | Kind::FuncProto) => Ok(Step::Done(end, 0)),
            _ => Err(self.reject(ty, format_args!("Invalid type_id"))),
        }
    }

    fn step_array(&mut self, ty: &Type<'b>) -> Result<Step, Errno> {
        let array = ty.array().ok_or(Errno::EINVAL)?;
        for (part, message) in [(array.index, "Invalid index"), (array.elem, "Invalid elem")] {
            match self.btf.kind(part) {
                Some(kind) if !has_no_size(kind) && !is_source_only(kind) => {
                    if self.is_open(part, kind) {
                        return Ok(Step::Push(part));
                    }
                }
                _ => return Err(self.reject(ty, format_args!("{message}"))),
            }
            let sized = self
                .type_size(part)
                .and_then(|(id, size)| Some((self.btf.type_by_id(id)?, size)));
            let Some((part_ty, size)) = sized else {
                return Err(self.reject(ty, format_args!("{message}")));
            };
            if message == "Invalid index" {
                if !is_regular_int(&part_ty) {
                    return Err(self.reject(ty, format_args!("{message}")));
                }
                continue;
            }
            if part_ty.kind() == Kind::Int && !is_regular_int(&part_ty) {
                return Err(self.reject(ty, format_args!("Invalid array of int")));
            }
            return match size.checked_mul(array.nelems) {
                Some(bytes) => Ok(Step::Done(part_ty.id(), bytes)),
                None => Err(self.reject(ty, format_args!("Array size overflows U32_MAX"))),
            };
        }
        Err(Errno::EINVAL)
    }

    fn step_struct(&mut self, ty: &Type<'b>, next_member: usize) -> Result<Step, Errno> {
        // The member before is the one that was just resolved.
        let members = ty.members().enumerate().skip(next_member.saturating_sub(1));
        for (index, member) in members {
            let Some(member_ty) = self.btf.type_by_id(member.ty) else {
                return Err(reject_member(self, ty, &member, "Invalid member"));
            };
            if index >= next_member {
                let kind = member_ty.kind();
                if has_no_size(kind) || is_source_only(kind) {
                    return Err(reject_member(self, ty, &member, "Invalid member"));
                }
                if self.is_open(member.ty, kind) {
                    self.set_next_member(index + 1);
                    return Ok(Step::Push(member.ty));
                }
            }
            check_member(self, ty, &member, &member_ty)?;
        }
        Ok(Step::Done(TypeId::VOID, 0))
    }

    fn set_next_member(&mut self, next: usize) {
        if let Some(vertex) = self.stack.last_mut() {
            vertex.next_member = next;
        }
    }

    fn step_func(&mut self, ty: &Type<'b>) -> Result<Step, Errno> {
        let proto = self
            .btf
            .type_by_id(ty.type_id())
            .filter(|proto| proto.kind() == Kind::FuncProto);
        let Some(proto) = proto else {
            return Err(self.reject(ty, format_args!("Invalid type_id")));
        };
        let unnamed = proto
            .params()
            .position(|param| param.name_off == 0 && !param.ty.is_void());
        match unnamed {
            Some(index) => Err(self.reject(ty, format_args!("Invalid arg#{}", index + 1))),
            None => Ok(Step::Done(ty.type_id(), 0)),
        }
    }

    fn step_decl_tag(&mut self, ty: &Type<'b>) -> Result<Step, Errno> {
        let target = self.btf.type_by_id(ty.type_id()).filter(|target| {
            matches!(
                target.kind(),
                Kind::Func | Kind::Struct | Kind::Union | Kind::Var | Kind::Typedef
            )
        });
        let Some(target) = target else {
            return Err(self.reject(ty, format_args!("Invalid type_id")));
        };
        if self.is_open(target.id(), target.kind()) {
            return Ok(Step::Push(target.id()));
        }
        let component = ty.component_idx().unwrap_or(-1);
        if component != -1 {
            let count = match target.kind() {
                Kind::Struct | Kind::Union => target.vlen(),
                Kind::Func => self
                    .btf
                    .type_by_id(target.type_id())
                    .map_or(0, |proto| proto.vlen()),
                _ => 0,
            };
            if component as u32 >= count {
                return Err(self.reject(ty, format_args!("Invalid component_idx")));
            }
        }
        Ok(Step::Done(target.id(), 0))
    }

    fn step_datasec(&mut self, ty: &Type<'b>, next_member: usize) -> Result<Step, Errno> {
        self.mode = Mode::Undecided;
        for (index, secinfo) in ty.vars().enumerate().skip(next_member) {
            let var = self
                .btf
                .type_by_id(secinfo.ty)
                .filter(|var| var.kind() == Kind::Var);
            let fault = match var {
                None => "Not a VAR kind member",
                Some(var) => {
                    if self.is_open(var.id(), Kind::Var) {
                        self.set_next_member(index + 1);
                        return Ok(Step::Push(var.id()));
                    }
                    match self.type_size(var.type_id()) {
                        None => "Invalid type",
                        Some((_, size)) if secinfo.size < size => "Invalid size",
                        Some(_) => continue,
                    }
                }
            };
            if self.log.is_on() {
                self.log.write(format_args!(
                    "{}\n\t type_id={} offset={} size={} {fault}\n",
                    TypeLine(*ty),
                    secinfo.ty,
                    secinfo.offset,
                    secinfo.size
                ));
            }
            return Err(Errno::EINVAL);
        }
        Ok(Step::Done(TypeId::VOID, 0))
    }

    /// Return and parameter types have a size; the last parameter may be `...`.
    fn check_prototype(&mut self, ty: &Type<'b>) -> Result<(), Errno> {
        if !ty.type_id().is_void() {
            self.check_passed(ty, ty.type_id(), format_args!("Invalid return type"))?;
        }
        let mut count = ty.params().len();
        if let Some(last) = ty.params().next_back().filter(|last| last.ty.is_void()) {
            if last.name_off != 0 {
                return Err(self.reject(ty, format_args!("Invalid arg#{count}")));
            }
            count -= 1;
        }
        for (index, param) in ty.params().take(count).enumerate() {
            let number = index + 1;
            if param.name_off != 0
                && !self
                    .btf
                    .str_bytes_by_offset(param.name_off)
                    .is_some_and(is_identifier)
            {
                // The type is looked at first: the same message, so the order does not show.
                return Err(self.reject(ty, format_args!("Invalid arg#{number}")));
            }
            self.check_passed(ty, param.ty, format_args!("Invalid arg#{number}"))?;
        }
        Ok(())
    }

    fn check_passed(
        &mut self,
        ty: &Type<'b>,
        id: TypeId,
        message: fmt::Arguments<'_>,
    ) -> Result<(), Errno> {
        let passed = self
            .btf
            .type_by_id(id)
            .filter(|passed| !is_source_only(passed.kind()));
        let Some(passed) = passed else {
            return Err(self.reject(ty, message));
        };
        if needs_resolve(passed.kind()) && !self.is_resolved(id) {
            self.resolve(&passed)?;
        }
        match self.type_size(id) {
            Some(_) => Ok(()),
            None => Err(self.reject(ty, message)),
        }
    }
}
