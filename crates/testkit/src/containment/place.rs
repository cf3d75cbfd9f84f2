//! Where the objects of a run lie: learned from pointers that the verifier knows to be at an object's start, then held against all others.
//!
//! Key types: [`Places`], [`FrameAt`] (a live frame of the run).

use std::collections::BTreeMap;
use std::iter;
use std::ops::Range;

use ring3_verifier::domain::Scalar;
use ring3_verifier::recording::{Known, KnownPointer, Target};

/// A live frame of the run.
#[derive(Clone, Debug)]
pub(super) struct FrameAt {
    /// Run (callbacks nest) and depth in it.
    pub(super) key: (usize, usize),
    /// Instruction of the program as loaded that called it.
    pub(super) callsite: Option<u32>,
    /// Registers before the last compared step.
    pub(super) regs: [u64; 11],
    /// Address behind its stack.
    pub(super) end: u64,
}

/// Addresses of objects.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    pub(super) ctx: u64,
    data: Option<u64>,
    data_meta: Option<u64>,
    data_end: Option<u64>,
    maps: BTreeMap<u32, u64>,
    /// Elements, keys and memory may be many.
    objects: BTreeMap<Target, Vec<u64>>,
}

/// Where a pointer was seen, as far as that matters to learning.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// A helper returned it, or a helper gave it to a callback: the start of an object.
    Fresh,
    Elsewhere,
}

/// The single offset that a pointer can have from its object's start.
fn fixed_offset(pointer: &KnownPointer) -> Option<u64> {
    let var = pointer.var.const_value()?;
    Some(var.wrapping_add(i64::from(pointer.off) as u64))
}

fn is_at(address: u64, start: u64, off: i32, var: &Scalar) -> bool {
    let distance = address
        .wrapping_sub(start)
        .wrapping_sub(i64::from(off) as u64);
    var.contains_value(distance)
}

impl Places {
    /// The packet moved.
    pub(super) fn forget_packet(&mut self) {
        self.data = None;
        self.data_meta = None;
        self.data_end = None;
    }

    /// Whether a value is what is known of it; learns from it if so.
    pub(super) fn admits(
        &mut self,
        known: &Known,
        value: u64,
        frames: &[FrameAt],
        seen: Seen,
    ) -> bool {
        let pointer = match known {
            Known::Nothing => return true,
            Known::Scalar(scalar) => return scalar.contains_value(value),
            Known::Pointer(pointer) => pointer,
        };
        if value == 0 {
            return pointer.may_be_null;
        }
        let off = pointer.off;
        let var = &pointer.var;
        let fixed = fixed_offset(pointer);
        let learn = |place: &mut Option<u64>| match (*place, fixed) {
            (Some(start), _) => is_at(value, start, off, var),
            (None, Some(fixed)) => {
                *place = Some(value.wrapping_sub(fixed));
                true
            }
            (None, None) => true,
        };
        match pointer.target {
            Target::Ctx => is_at(value, self.ctx, off, var),
            Target::Stack(frame) => frames
                .get(usize::from(frame))
                .is_some_and(|frame| is_at(value, frame.end, off, var)),
            Target::Packet => {
                learn(&mut self.data) && self.is_range_in_packet(pointer, value, self.data_end)
            }
            Target::PacketMeta => {
                learn(&mut self.data_meta) && self.is_range_in_packet(pointer, value, self.data)
            }
            Target::PacketEnd => learn(&mut self.data_end),
            Target::Map(map) => *self.maps.entry(map).or_insert(value) == value,
            Target::MapValue(_) | Target::MapKey(_) | Target::Mem(_) => {
                let starts = self.objects.entry(pointer.target).or_default();
                if starts.iter().any(|&start| is_at(value, start, off, var)) {
                    return true;
                }
                // Elements of maps that the program names directly come from nowhere.
                let is_start = seen == Seen::Fresh && fixed == Some(0) || starts.is_empty();
                match fixed {
                    Some(fixed) if is_start => {
                        starts.push(value.wrapping_sub(fixed));
                        true
                    }
                    Some(_) | None => starts.is_empty(),
                }
            }
            Target::Other => true,
        }
    }

    /// The bytes that were compared with the packet's end lie before it.
    fn is_range_in_packet(&self, pointer: &KnownPointer, value: u64, end: Option<u64>) -> bool {
        let start = value.wrapping_sub(i64::from(pointer.off) as u64);
        pointer.range_bytes == 0
            || end.is_none_or(|end| start.wrapping_add(u64::from(pointer.range_bytes)) <= end)
    }

    /// Memory that a program may touch through such a pointer; `None` where this is not known.
    pub(super) fn memory_of(
        &self,
        known: &Known,
        frames: &[FrameAt],
        map_bytes: &[(u64, u64)],
    ) -> Option<Vec<Range<u64>>> {
        let Known::Pointer(pointer) = known else {
            return None;
        };
        let objects = |bytes: u64| {
            let starts = self.objects.get(&pointer.target)?;
            Some(starts.iter().map(|&start| start..start + bytes).collect())
        };
        let between = |start: Option<u64>, end: Option<u64>| match (start, end) {
            (Some(start), Some(end)) => Some(iter::once(start..end).collect()),
            _ => None,
        };
        match pointer.target {
            Target::Stack(frame) => {
                let frame = frames.get(usize::from(frame))?;
                Some(iter::once(frame.end - 512..frame.end).collect())
            }
            Target::Packet => between(self.data, self.data_end),
            Target::PacketMeta => between(self.data_meta, self.data),
            Target::MapValue(map) => objects(map_bytes.get(map as usize)?.1),
            Target::MapKey(map) => objects(map_bytes.get(map as usize)?.0),
            Target::Mem(bytes) => objects(u64::from(bytes)),
            Target::Ctx | Target::PacketEnd | Target::Map(_) | Target::Other => None,
        }
    }
}
