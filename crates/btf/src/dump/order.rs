//! In which order types must be declared: what a definition embeds comes before it, what it only points to need not.

use crate::{Btf, BtfError, Kind, TypeId};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use ring3_uapi::Errno;

/// Types on the way from one to another. A struct is there at most once, so only a loop without structs gets this far.
const DEPTH_MAX: usize = 1 << 16;
/// Steps from a type to a part of it that one blob may take, beside [`STEPS_PER_TYPE`]: prototypes that take each other twice are walked twice, those
/// that these take four times.
const STEPS_MIN: u64 = 1 << 18;
const STEPS_PER_TYPE: u64 = 64;

#[derive(Clone, Copy, PartialEq)]
enum State {
    New,
    Ordering,
    Ordered,
}

/// Which types are ordered already.
pub(super) struct Order<'a> {
    btf: &'a Btf,
    states: Vec<State>,
    /// types that some other type refers to
    referenced: Vec<bool>,
    steps_left: u64,
}

/// A type whose parts are being ordered.
struct Frame {
    id: TypeId,
    /// parts done
    done: u32,
    through_ptr: bool,
    /// some part must be defined first
    is_strong: bool,
}

impl<'a> Order<'a> {
    pub(super) fn new(btf: &'a Btf) -> Order<'a> {
        let count = btf.type_count() as usize;
        let mut order = Order {
            btf,
            states: vec![State::New; count],
            referenced: vec![false; count],
            steps_left: STEPS_MIN + STEPS_PER_TYPE * count as u64,
        };
        order.states[0] = State::Ordered;
        for ty in btf.types() {
            let mut mark = |id: TypeId| {
                if let Some(slot) = order.referenced.get_mut(id.0 as usize) {
                    *slot = true;
                }
            };
            match ty.kind() {
                Kind::Array => {
                    if let Some(array) = ty.array() {
                        mark(array.elem);
                        mark(array.index);
                    }
                }
                Kind::Struct | Kind::Union => ty.members().for_each(|member| mark(member.ty)),
                Kind::FuncProto => ty.params().for_each(|param| mark(param.ty)),
                Kind::Datasec => ty.vars().for_each(|var| mark(var.ty)),
                Kind::Int | Kind::Enum | Kind::Enum64 | Kind::Fwd | Kind::Float | Kind::Void => {}
                _ => mark(ty.type_id()),
            }
        }
        order
    }

    /// Appends to `queue` what must be declared for `root`, in order.
    ///
    /// # Errors
    /// ELOOP: a type that contains itself, or types that refer to each other in too many ways.
    pub(super) fn add(&mut self, root: TypeId, queue: &mut Vec<TypeId>) -> Result<(), BtfError> {
        let mut frames: Vec<Frame> = Vec::new();
        let mut next = Some((root, false));
        // The answer of the last type: must it be defined before what refers to it?
        let mut strong = false;
        let mut answered = false;
        loop {
            while let Some((id, through_ptr)) = next.take() {
                self.steps_left = match self.steps_left.checked_sub(1) {
                    Some(left) => left,
                    None => return Err(tangled(self.btf, root)),
                };
                match self.enter(id, through_ptr, queue)? {
                    Some(answer) => (strong, answered) = (answer, true),
                    None if frames.len() >= DEPTH_MAX => return Err(endless(self.btf, id)),
                    None => {
                        frames.push(Frame {
                            id,
                            done: 0,
                            through_ptr,
                            is_strong: false,
                        });
                        answered = false;
                        next = self.part(frames.last(), 0);
                    }
                }
            }
            let Some(frame) = frames.last_mut() else {
                return Ok(());
            };
            if answered {
                frame.is_strong |= strong;
                frame.done += 1;
            }
            next = self.part(frames.last(), frames.last().map_or(0, |frame| frame.done));
            if next.is_none()
                && let Some(frame) = frames.pop()
            {
                (strong, answered) = (self.leave(&frame, strong, queue), true);
            }
        }
    }

    fn set(&mut self, id: TypeId, state: State) {
        if let Some(slot) = self.states.get_mut(id.0 as usize) {
            *slot = state;
        }
    }

    /// The answer for a type without parts, or `None` for one whose parts come first.
    fn enter(
        &mut self,
        id: TypeId,
        through_ptr: bool,
        queue: &mut Vec<TypeId>,
    ) -> Result<Option<bool>, BtfError> {
        let ty = self.btf.type_by_id(id);
        let state = self.states.get(id.0 as usize).copied();
        let (Some(ty), Some(state)) = (ty, state) else {
            return Err(BtfError::new(Errno::EINVAL, format!("btf: no type {id}")));
        };
        let is_named = ty.name_off() != 0;
        match state {
            State::Ordered => return Ok(Some(true)),
            State::Ordering if ty.kind().is_composite() && through_ptr && is_named => {
                return Ok(Some(false));
            }
            State::Ordering => {
                return Err(endless(self.btf, id));
            }
            State::New => {}
        }
        Ok(match ty.kind() {
            Kind::Int
            | Kind::Float
            | Kind::Func
            | Kind::Var
            | Kind::Datasec
            | Kind::DeclTag
            | Kind::Void => {
                self.set(id, State::Ordered);
                Some(false)
            }
            Kind::Enum | Kind::Enum64 | Kind::Fwd => {
                if is_named || !self.referenced.get(id.0 as usize).copied().unwrap_or(false) {
                    queue.push(id);
                }
                self.set(id, State::Ordered);
                Some(true)
            }
            Kind::Struct | Kind::Union if through_ptr && is_named => Some(false),
            Kind::Struct | Kind::Union => {
                self.set(id, State::Ordering);
                None
            }
            // These are only on the way to a type and may be met again there.
            _ => None,
        })
    }

    /// The part of a type with this index, and whether a pointer leads to it.
    fn part(&self, frame: Option<&Frame>, index: u32) -> Option<(TypeId, bool)> {
        let frame = frame?;
        let ty = self.btf.type_by_id(frame.id)?;
        match ty.kind() {
            Kind::Struct | Kind::Union => ty.member(index).map(|member| (member.ty, false)),
            Kind::Array => ty
                .array()
                .filter(|_| index == 0)
                .map(|array| (array.elem, false)),
            Kind::Ptr => (index == 0).then(|| (ty.type_id(), true)),
            Kind::FuncProto if index == 0 => Some((ty.type_id(), frame.through_ptr)),
            Kind::FuncProto => ty
                .param(index - 1)
                .map(|param| (param.ty, frame.through_ptr)),
            _ => (index == 0).then(|| (ty.type_id(), frame.through_ptr)),
        }
    }

    /// All parts are ordered: the type's own answer.
    fn leave(&mut self, frame: &Frame, last: bool, queue: &mut Vec<TypeId>) -> bool {
        let id = frame.id;
        let Some(ty) = self.btf.type_by_id(id) else {
            return false;
        };
        match ty.kind() {
            Kind::Ptr => {
                self.set(id, State::Ordered);
                last
            }
            Kind::Struct | Kind::Union => {
                if ty.name_off() != 0 {
                    queue.push(id);
                }
                self.set(id, State::Ordered);
                true
            }
            Kind::Typedef if frame.through_ptr && !frame.is_strong => false,
            Kind::Typedef => {
                queue.push(id);
                self.set(id, State::Ordered);
                true
            }
            _ => frame.is_strong,
        }
    }
}

fn tangled(btf: &Btf, id: TypeId) -> BtfError {
    let name = btf.name(id);
    BtfError::new(
        Errno::ELOOP,
        format!(
            "btf: the types that type [{id}] '{name}' is made of refer to each other in too many ways"
        ),
    )
}

fn endless(btf: &Btf, id: TypeId) -> BtfError {
    BtfError::new(
        Errno::ELOOP,
        format!("btf: type [{id}] '{}' contains itself", btf.name(id)),
    )
}
