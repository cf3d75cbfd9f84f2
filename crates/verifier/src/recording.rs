//! What the verifier knew before each instruction, on every path: for oracles that compare it with what a run of the program does.
//!
//! Key types: [`Recording`] (the states by instruction), [`StateView`] (one of them), [`Known`] (what was known of a register or slot).
//! Nothing is recorded unless [`verify_recorded`](crate::verify_recorded) asks for it.
//!
//! Pruning as the kernel does it leaves states out: a path that differs only in scalars nobody relied on, or in slots nobody reads,
//! is not walked again, and a run on it is in none of the states recorded behind the checkpoint. So while recording, a checkpoint covers
//! the current state only if every live register and every slot lies in it ([`Exactness::RangeWithin`](crate::states::equal)), and
//! slots are never forgotten. The walk is longer, the checks are the same; each run of the program is then, at each instruction, in one
//! of the recorded states, as far as registers are live.

use alloc::rc::Rc;
use alloc::vec::Vec;

use ring3_isa::MemSize;

use crate::domain::Scalar;
use crate::env::Facts;
use crate::error::{Check, Violation};
use crate::state::{Extra, FuncState, RegBase, RegState, SLOT_BYTES, SlotType, VerifierState};

/// What is known of a number or a pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing: no value, or one of a kind that is not compared.
    Nothing,
    /// A number.
    Scalar(Scalar),
    /// A pointer.
    Pointer(KnownPointer),
}

/// Where a pointer points: `start of target + off + var`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownPointer {
    /// The object.
    pub target: Target,
    /// Fixed part of the offset, in bytes.
    pub off: i32,
    /// Variable part of the offset, in bytes.
    pub var: Scalar,
    /// It may be 0 instead.
    pub may_be_null: bool,
    /// Bytes behind `start + var` that were compared with the packet's end; 0 for other targets.
    pub range_bytes: u32,
}

/// What a pointer points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// The program's context.
    Ctx,
    /// The end of a frame's stack; 0 is the outermost frame of the state.
    Stack(u8),
    /// The packet's first byte.
    Packet,
    /// The metadata's first byte.
    PacketMeta,
    /// The byte behind the packet.
    PacketEnd,
    /// A map, by its index in the request.
    Map(u32),
    /// An element's value, of the map with this index.
    MapValue(u32),
    /// An element's key, of the map with this index.
    MapKey(u32),
    /// Memory of so many bytes.
    Mem(u32),
    /// Anything else that is not 0.
    Other,
}

impl Target {
    /// Name without numbers, for tables.
    pub fn kind(self) -> &'static str {
        match self {
            Target::Ctx => "ctx",
            Target::Stack(_) => "fp",
            Target::Packet => "pkt",
            Target::PacketMeta => "pkt_meta",
            Target::PacketEnd => "pkt_end",
            Target::Map(_) => "map_ptr",
            Target::MapValue(_) => "map_value",
            Target::MapKey(_) => "map_key",
            Target::Mem(_) => "mem",
            Target::Other => "other",
        }
    }
}

/// What is known of 8 bytes of stack, the byte of the lowest address first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownSlot {
    /// Which bytes are zero.
    pub zero: [bool; SLOT_BYTES],
    /// A register that was spilled, and how many bytes of it, from the lowest address.
    pub spilled: Option<(Known, usize)>,
}

/// One state that was walked, as far as it is compared.
#[derive(Debug)]
struct Frames {
    frames: Vec<Rc<FuncState>>,
}

/// All states of an exploration.
#[derive(Debug)]
pub struct Recording {
    by_insn: Vec<Vec<Frames>>,
    live_regs: Vec<u16>,
    states_left: u32,
}

impl Recording {
    /// At most `states_max` states; a longer exploration ends with E2BIG.
    pub(crate) fn new(states_max: u32) -> Self {
        Recording {
            by_insn: Vec::new(),
            live_regs: Vec::new(),
            states_left: states_max,
        }
    }

    /// Takes what is static of the program.
    pub(crate) fn begin(&mut self, facts: &Facts) {
        self.live_regs.clone_from(&facts.live_regs);
        self.by_insn.resize_with(facts.raw.len(), Vec::new);
    }

    /// The state before the instruction. Paths of speculation are left out: no run takes them.
    ///
    /// # Errors
    /// E2BIG: too many states.
    pub(crate) fn push(&mut self, insn_idx: u32, state: &VerifierState) -> Check {
        if state.speculative {
            return Ok(());
        }
        if self.states_left == 0 {
            return Err(Violation::silent(ring3_uapi::Errno::E2BIG));
        }
        self.states_left -= 1;
        let frames = (0..=state.curframe).map(|frame| state.shared_frame(frame));
        let frames = frames.collect();
        if let Some(states) = self.by_insn.get_mut(insn_idx as usize) {
            states.push(Frames { frames });
        }
        Ok(())
    }

    /// The states before an instruction of the program as loaded.
    pub fn states_at(&self, insn_idx: u32) -> impl Iterator<Item = StateView<'_>> {
        let states = self.by_insn.get(insn_idx as usize);
        states.into_iter().flatten().map(move |state| StateView {
            recording: self,
            insn_idx,
            frames: &state.frames,
        })
    }

    /// Number of states.
    pub fn states(&self) -> usize {
        self.by_insn.iter().map(Vec::len).sum()
    }
}

/// One state.
#[derive(Clone, Copy, Debug)]
pub struct StateView<'a> {
    recording: &'a Recording,
    insn_idx: u32,
    frames: &'a [Rc<FuncState>],
}

impl StateView<'_> {
    /// Frames, the innermost last.
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// The function of the program that a frame runs; 0 is the main one.
    pub fn subprog(&self, frame: usize) -> u32 {
        self.frames[frame].subprogno()
    }

    /// The instruction that called a frame; `None` for the outermost.
    pub fn callsite(&self, frame: usize) -> Option<u32> {
        (frame > 0).then(|| self.frames[frame].callsite)
    }

    /// What is known of a register, r0 to r10. Of registers that are not read any more, nothing.
    pub fn reg(&self, frame: usize, number: usize) -> Known {
        let at = match self.frames.get(frame + 1) {
            Some(callee) => callee.callsite,
            None => self.insn_idx,
        };
        let live = self.recording.live_regs.get(at as usize).copied();
        if live.unwrap_or(0) & 1 << number == 0 {
            return Known::Nothing;
        }
        known_of(&self.frames[frame].regs[number])
    }

    /// Slots of a frame, from the one below the frame pointer down.
    pub fn slots(&self, frame: usize) -> impl Iterator<Item = KnownSlot> {
        self.frames[frame].stack.iter().map(|slot| {
            // The slot's types stand from the highest address to the lowest.
            let at = |byte: usize| slot.types[SLOT_BYTES - 1 - byte];
            let spilled_bytes = (0..SLOT_BYTES)
                .take_while(|&byte| at(byte) == SlotType::Spill)
                .count();
            KnownSlot {
                zero: core::array::from_fn(|byte| at(byte) == SlotType::Zero),
                spilled: (spilled_bytes > 0).then(|| {
                    (
                        truncated(known_of(slot.spilled()), spilled_bytes),
                        spilled_bytes,
                    )
                }),
            }
        })
    }
}

/// A narrow spill keeps the register as it was; the slot holds its low bytes.
fn truncated(known: Known, bytes: usize) -> Known {
    match known {
        Known::Scalar(scalar) => Known::Scalar(match bytes {
            1 => scalar.coerce_to_size(MemSize::B),
            2 => scalar.coerce_to_size(MemSize::H),
            4 => scalar.coerce_to_size(MemSize::W),
            SLOT_BYTES => scalar,
            _ => Scalar::UNKNOWN,
        }),
        Known::Nothing | Known::Pointer(_) => known,
    }
}

fn known_of(reg: &RegState) -> Known {
    let map = |target: fn(u32) -> Target| match reg.extra {
        Extra::Map { map, .. } => target(map.0),
        _ => Target::Other,
    };
    let target = match reg.ty.base {
        RegBase::NotInit => return Known::Nothing,
        RegBase::Scalar => return Known::Scalar(reg.scalar),
        RegBase::PtrToCtx => Target::Ctx,
        RegBase::PtrToStack => Target::Stack(reg.frameno),
        RegBase::PtrToPacket => Target::Packet,
        RegBase::PtrToPacketMeta => Target::PacketMeta,
        RegBase::PtrToPacketEnd => Target::PacketEnd,
        RegBase::ConstPtrToMap => map(Target::Map),
        RegBase::PtrToMapValue => map(Target::MapValue),
        RegBase::PtrToMapKey => map(Target::MapKey),
        RegBase::PtrToMem => Target::Mem(reg.mem_size()),
        RegBase::PtrToFlowKeys
        | RegBase::PtrToSocket
        | RegBase::PtrToSockCommon
        | RegBase::PtrToTcpSock
        | RegBase::PtrToTpBuffer
        | RegBase::PtrToXdpSock
        | RegBase::PtrToBtfId
        | RegBase::PtrToBuf
        | RegBase::PtrToFunc => Target::Other,
        RegBase::PtrToArena | RegBase::ConstPtrToDynptr => return Known::Nothing,
    };
    Known::Pointer(KnownPointer {
        target,
        off: reg.off,
        var: reg.scalar,
        may_be_null: reg.ty.may_be_null(),
        range_bytes: u32::try_from(reg.range()).unwrap_or(0),
    })
}
