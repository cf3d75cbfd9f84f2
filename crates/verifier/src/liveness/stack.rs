//! Stack slots that may be read later, per chain of calls, learned while paths are walked.
//!
//! A function called through different chains of call sites has one *instance* for each chain: what it reads of its
//! callers' frames depends on the pointers it got. Per instance, per frame (its own and those below) and per
//! instruction there are four sets of 8-byte slots:
//!
//! ```text
//! read(i)     read on some path so far                                    grows
//! wrote(i)    overwritten whole on every path so far                      shrinks after its first value
//! live(i)   = read(i) | (union of live(s) - wrote(i))                     s: successors of i in the function
//! written(i)= wrote(i) | intersection of written(s)
//! ```
//!
//! Exploration feeds `read` ([`StackLiveness::mark_read`]) and `wrote` ([`StackLiveness::mark_write`], between
//! [`StackLiveness::begin_insn`] and [`StackLiveness::commit_insn`]). When a path or a callee ends,
//! [`StackLiveness::update`] solves the equations of every instance on the chain that changed, innermost first; what the
//! entry of a callee has live and written becomes read and wrote of the call in its caller. Pruning asks
//! [`StackLiveness::live_slots`] and forgets dead slots.
//!
//! Solving goes over the whole function in postorder, as the kernel does, only where the log shows each change (level 2).
//! Otherwise only what depends on a change is computed anew: instructions whose sets were fed since the last time, then
//! their predecessors as long as something changes.
//!
//! Memory is bounded: beyond [`MASKS_MAX`] sets nothing is learned any more and every slot counts as alive.
//! Kernel counterpart: `liveness.c`. Neighbours: `explore`, `states`, `order` (postorder).

mod chain;
mod text;

use alloc::boxed::Box;
use alloc::collections::BinaryHeap;
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::fmt;

use ring3_isa::RawInsn;
use ring3_uapi::limits::CALL_FRAMES_MAX;

use crate::cfg::successors;
use crate::env::{Facts, InsnFlags, Linkage, Subprog};
use crate::log::{Log, vlog};
use crate::state::VerifierState;
use crate::subprogs::is_pseudo_call;
use chain::CallChain;
use text::{ChainText, ChangeLine};

/// Instructions (times frames) over all instances.
const MASKS_MAX: usize = 8 << 20;
const NONE: u32 = u32::MAX;
/// Functions for which the equations are solved whole rather than what depends on a change: that needs tables.
const SMALL_INSNS: u32 = 48;

/// The four sets of one instruction and frame.
#[derive(Clone, Copy, Default)]
struct Masks {
    read: u64,
    wrote: u64,
    written: u64,
    live: u64,
}

struct Instance {
    chain: CallChain,
    start: u32,
    insn_count: u32,
    frames: [Option<Box<[Masks]>>; CALL_FRAMES_MAX],
    /// Whether `wrote` of the instruction has its first value.
    committed: Vec<bool>,
    changed: bool,
    /// Some `wrote` lost slots, so `written` must be found anew.
    wrote_less: bool,
    /// Instructions and frames fed since the equations were solved.
    fed: Vec<(u8, u32)>,
}

impl Instance {
    fn masks(&self, frame: usize, insn_idx: u32) -> Option<&Masks> {
        self.frames[frame]
            .as_ref()?
            .get(insn_idx.checked_sub(self.start)? as usize)
    }
}

/// What a function needs: where it is and where its postorder begins.
struct Function {
    start: u32,
    insn_count: u32,
    postorder_start: u32,
}

/// The program, as the equations see it.
struct Code<'a> {
    insns: &'a [RawInsn],
    postorder: &'a [u32],
    flags: &'a [InsnFlags],
}

impl<'a> Code<'a> {
    fn of(facts: &'a Facts) -> Code<'a> {
        Code {
            insns: &facts.raw,
            postorder: &facts.postorder,
            flags: &facts.flags,
        }
    }

    /// `NONE` for none; the first is set whenever the second is.
    #[inline]
    fn successors(&self, at: u32) -> [u32; 2] {
        let mut to = successors(self.insns, at);
        [to.next().unwrap_or(NONE), to.next().unwrap_or(NONE)]
    }
}

/// Ways between instructions, for those to compute anew after a change.
struct Graph {
    /// Place of each slot in the postorder.
    places: Vec<u32>,
    /// Predecessors of slot `i`: `predecessors[predecessors_from[i]..predecessors_from[i + 1]]`.
    predecessors: Vec<u32>,
    predecessors_from: Vec<u32>,
    /// Places to compute anew, lowest first, and which are in there.
    queue: BinaryHeap<Reverse<u32>>,
    queued: Vec<bool>,
}

impl Graph {
    fn of(code: &Code<'_>) -> Graph {
        let count = code.insns.len();
        let mut places = vec![NONE; count];
        for (place, &at) in code.postorder.iter().enumerate() {
            places[at as usize] = place as u32;
        }
        let (predecessors, predecessors_from) = predecessors_of(code);
        Graph {
            queue: BinaryHeap::new(),
            queued: vec![false; code.postorder.len()],
            places,
            predecessors,
            predecessors_from,
        }
    }

    fn enqueue(&mut self, at: u32) {
        let place = self.places[at as usize];
        if place != NONE && !self.queued[place as usize] {
            self.queued[place as usize] = true;
            self.queue.push(Reverse(place));
        }
    }
}

/// Liveness of stack slots; see the module.
#[derive(Default)]
pub(crate) struct StackLiveness {
    /// None before the first instruction that may touch the stack.
    functions: Vec<Function>,
    /// Of a program with a large function, from its first change on.
    graph: Option<Graph>,
    instances: Vec<Instance>,
    /// All instances by ascending chain.
    by_chain: Vec<u32>,
    /// The instance asked for last.
    latest: Option<(CallChain, usize)>,
    /// Chain and instance of the frame being walked.
    current: Option<(CallChain, usize)>,
    write_insn_idx: u32,
    write_masks: [u64; CALL_FRAMES_MAX],
    query: Option<LiveQuery>,
    masks_allocated: usize,
}

/// A place at which slots are asked for.
#[derive(Clone, Copy)]
struct LiveQuery {
    instances: [usize; CALL_FRAMES_MAX],
    chain: CallChain,
    insn_idx: u32,
}

/// What exploration calls.
impl StackLiveness {
    /// Before an instruction is judged: forgets the writes of the one before.
    pub(crate) fn begin_insn(&mut self, facts: &Facts, st: &VerifierState, insn_idx: u32) {
        // Every way into or out of a frame, and to another path, leaves `current` unset.
        if self.current.is_none() {
            self.prepare(facts);
            self.begin(CallChain::of(st), insn_idx);
        }
        self.begin_writes(insn_idx);
        // What a call of a function overwrites is known when the function returns.
        let insn = facts.raw[insn_idx as usize];
        if is_pseudo_call(insn) {
            let target = (i64::from(insn_idx) + i64::from(insn.imm) + 1) as u32;
            let is_global = facts
                .subprog_at(target)
                .is_some_and(|callee| facts.subprogs[callee as usize].linkage == Linkage::Global);
            if !is_global {
                self.current = None;
            }
        }
    }

    /// The instruction overwrites these slots of a frame, whole.
    pub(crate) fn mark_write(&mut self, frame: u8, slots: u64) {
        if let Some(mask) = self.write_masks.get_mut(usize::from(frame)) {
            *mask |= slots;
        }
    }

    /// An instruction of the current function reads these slots of a frame.
    pub(crate) fn mark_read(
        &mut self,
        facts: &Facts,
        st: &VerifierState,
        frame: u8,
        insn_idx: u32,
        slots: u64,
    ) {
        if let Some((_, instance)) = self.current {
            self.note_read(instance, usize::from(frame), insn_idx, slots);
            return;
        }
        self.prepare(facts);
        self.note_read_at(CallChain::of(st), frame, insn_idx, slots);
    }

    /// After an instruction was judged (and not rejected): its writes count.
    pub(crate) fn commit_insn(&mut self) {
        if let Some((_, current)) = self.current {
            self.commit_to(current);
        }
    }

    /// Solves the equations along a state's chain of calls: at the end of a path, and before a callee returns.
    pub(crate) fn update(&mut self, log: &mut Log, facts: &Facts, st: &VerifierState) {
        if self.functions.is_empty() {
            return;
        }
        self.solve_chain(CallChain::of(st), &Code::of(facts), log);
    }

    /// Prepares questions about the slots alive where a state stands.
    pub(crate) fn begin_query(&mut self, st: &VerifierState) {
        self.query = self.query_at(CallChain::of(st), st.insn_idx);
    }

    /// Slots of a frame that may be read from the place of the last [`StackLiveness::begin_query`] on.
    pub(crate) fn live_slots(&self, facts: &Facts, frame: u8) -> u64 {
        self.live_at_query(frame, |callsite| {
            facts.has_flag(callsite, InsnFlags::CALLS_CALLBACK)
        })
    }

    fn prepare(&mut self, facts: &Facts) {
        if self.functions.is_empty() {
            *self = Self::of_program(&facts.subprogs);
        }
    }
}

impl StackLiveness {
    fn of_program(subprogs: &[Subprog]) -> Self {
        let functions = subprogs
            .iter()
            .map(|subprog| Function {
                start: subprog.start,
                insn_count: subprog.end.saturating_sub(subprog.start),
                postorder_start: subprog.postorder_start,
            })
            .collect();
        StackLiveness {
            functions,
            // Most programs have one.
            instances: Vec::with_capacity(1),
            ..StackLiveness::default()
        }
    }

    fn begin(&mut self, chain: CallChain, insn_idx: u32) {
        if self.current.is_none_or(|(current, _)| current != chain) {
            self.current = self.instance(chain).map(|instance| (chain, instance));
        }
        self.begin_writes(insn_idx);
    }

    fn note_read_at(&mut self, chain: CallChain, frame: u8, insn_idx: u32, slots: u64) {
        let instance = match self.current {
            Some((current, instance)) if current == chain => Some(instance),
            _ => self.instance(chain),
        };
        if let Some(instance) = instance {
            self.note_read(instance, usize::from(frame), insn_idx, slots);
        }
    }

    fn solve_chain(&mut self, chain: CallChain, code: &Code<'_>, log: &mut Log) {
        self.current = None;
        for frame in (0..=chain.curframe).rev() {
            let Some(instance) = self.instance(chain.at_frame(frame)) else {
                continue;
            };
            if self.instances[instance].changed {
                let Instance {
                    wrote_less,
                    insn_count,
                    ..
                } = self.instances[instance];
                if log.is_level2() || wrote_less || insn_count <= SMALL_INSNS {
                    self.solve(instance, code, log);
                    self.instances[instance].fed.clear();
                } else {
                    self.solve_fed(instance, code);
                }
                self.tell_caller(instance);
            }
        }
    }

    fn query_at(&mut self, chain: CallChain, insn_idx: u32) -> Option<LiveQuery> {
        let mut instances = [0; CALL_FRAMES_MAX];
        for frame in 0..=chain.curframe {
            instances[usize::from(frame)] = self.instance(chain.at_frame(frame))?;
        }
        Some(LiveQuery {
            instances,
            chain,
            insn_idx,
        })
    }

    /// By the current function or, once it returned, by those between it and the frame. A callback may be called again,
    /// so its caller is asked at the call itself.
    fn live_at_query(&self, frame: u8, calls_callback: impl Fn(u32) -> bool) -> u64 {
        let Some(query) = &self.query else {
            return !0;
        };
        if self.masks_allocated > MASKS_MAX {
            return !0;
        }
        let live = |level: usize, insn_idx: u32| {
            self.instances[query.instances[level]]
                .masks(usize::from(frame), insn_idx)
                .map_or(0, |masks| masks.live)
        };
        let curframe = usize::from(query.chain.curframe);
        let in_callers = (usize::from(frame)..curframe).map(|level| {
            let callsite = query.chain.callsites[level];
            live(
                level,
                if calls_callback(callsite) {
                    callsite
                } else {
                    callsite + 1
                },
            )
        });
        in_callers.fold(live(curframe, query.insn_idx), |all, live| all | live)
    }

    /// The instance of a chain; none when memory is used up.
    fn instance(&mut self, chain: CallChain) -> Option<usize> {
        if let Some((latest, idx)) = self.latest
            && latest == chain
        {
            return Some(idx);
        }
        let instances = &self.instances;
        let found = self
            .by_chain
            .binary_search_by(|&idx| instances[idx as usize].chain.cmp(&chain));
        let idx = match found {
            Ok(place) => self.by_chain[place] as usize,
            Err(place) => self.add_instance(chain, place)?,
        };
        self.latest = Some((chain, idx));
        Some(idx)
    }

    /// `place`: where it belongs in `by_chain`.
    fn add_instance(&mut self, chain: CallChain, place: usize) -> Option<usize> {
        let function = self.functions.get(chain.subprog() as usize)?;
        self.masks_allocated += function.insn_count as usize / 16 + 1;
        if self.masks_allocated > MASKS_MAX {
            return None;
        }
        let idx = self.instances.len();
        self.instances.push(Instance {
            chain,
            start: function.start,
            insn_count: function.insn_count,
            frames: [const { None }; CALL_FRAMES_MAX],
            committed: vec![false; function.insn_count as usize],
            changed: false,
            wrote_less: false,
            fed: Vec::new(),
        });
        self.by_chain.insert(place, idx as u32);
        Some(idx)
    }

    /// The sets of an instruction, made on first use.
    fn masks_mut(&mut self, instance: usize, frame: usize, insn_idx: u32) -> Option<&mut Masks> {
        let instance = &mut self.instances[instance];
        let idx = insn_idx.wrapping_sub(instance.start);
        if frame > usize::from(instance.chain.curframe) || idx >= instance.insn_count {
            return None;
        }
        if instance.frames[frame].is_none() {
            self.masks_allocated += instance.insn_count as usize;
            if self.masks_allocated > MASKS_MAX {
                return None;
            }
        }
        let count = instance.insn_count as usize;
        let masks =
            instance.frames[frame].get_or_insert_with(|| vec![Masks::default(); count].into());
        Some(&mut masks[idx as usize])
    }

    fn note_read(&mut self, instance: usize, frame: usize, insn_idx: u32, slots: u64) {
        if slots == 0 {
            return;
        }
        let Some(masks) = self.masks_mut(instance, frame, insn_idx) else {
            return;
        };
        let is_news = slots & !masks.read != 0 && (slots | masks.read) & !masks.live != 0;
        masks.read |= slots;
        if is_news {
            self.instances[instance].changed = true;
            self.instances[instance].fed.push((frame as u8, insn_idx));
        }
    }

    fn begin_writes(&mut self, insn_idx: u32) {
        self.write_insn_idx = insn_idx;
        self.write_masks = [0; CALL_FRAMES_MAX];
    }

    fn commit_to(&mut self, idx: usize) {
        let insn_idx = self.write_insn_idx;
        let instance = &self.instances[idx];
        let at = insn_idx.wrapping_sub(instance.start) as usize;
        let Some(&committed) = instance.committed.get(at) else {
            return;
        };
        for frame in 0..=usize::from(instance.chain.curframe) {
            let mut slots = self.write_masks[frame];
            if slots == 0 && !committed {
                continue;
            }
            if slots == 0 && self.instances[idx].frames[frame].is_none() {
                continue;
            }
            let Some(masks) = self.masks_mut(idx, frame, insn_idx) else {
                return;
            };
            let before = masks.wrote;
            if committed {
                slots &= before;
            }
            masks.wrote = slots;
            let instance = &mut self.instances[idx];
            if before != slots {
                instance.changed = true;
                instance.fed.push((frame as u8, insn_idx));
            }
            instance.wrote_less |= before & !slots != 0;
        }
        self.instances[idx].committed[at] = true;
    }

    fn solve(&mut self, idx: usize, code: &Code<'_>, log: &mut Log) {
        let instance = &mut self.instances[idx];
        let Some(function) = self.functions.get(instance.chain.subprog() as usize) else {
            return;
        };
        let from = function.postorder_start as usize;
        let postorder = &code.postorder[from..];
        let until = postorder
            .iter()
            .position(|&at| at.wrapping_sub(instance.start) >= instance.insn_count)
            .unwrap_or(postorder.len());
        let chain_text = ChainText {
            chain: &instance.chain,
            start: instance.start,
        };
        if instance.wrote_less {
            for masks in instance
                .frames
                .iter_mut()
                .flatten()
                .flat_map(|masks| masks.iter_mut())
            {
                masks.written = 0;
            }
        }
        let mut iterations = 0u32;
        loop {
            let mut changed = false;
            for (frame, masks) in instance.frames.iter_mut().enumerate() {
                let Some(masks) = masks else { continue };
                for &at in &postorder[..until] {
                    let [next, jump] = code.successors(at);
                    if next == NONE {
                        continue;
                    }
                    let next = masks[(next - instance.start) as usize];
                    let (mut live, mut written) = (next.live, next.written);
                    if jump != NONE {
                        let jump = masks[(jump - instance.start) as usize];
                        live |= jump.live;
                        written &= jump.written;
                    }
                    let here = &mut masks[(at - instance.start) as usize];
                    let before = *here;
                    here.live = (live & !here.wrote) | here.read;
                    here.written = written | here.wrote;
                    changed |= before.live != here.live || before.written != here.written;
                    let is_logged = here.read | here.wrote != 0
                        || at == instance.start
                        || code.flags[at as usize].has(InsnFlags::PRUNE_POINT);
                    if log.is_level2() && is_logged {
                        let line = ChangeLine {
                            chain: &chain_text,
                            frame,
                            at,
                        };
                        line.write("live", before.live, here.live, log);
                        line.write("written", before.written, here.written, log);
                    }
                }
            }
            iterations += 1;
            if !changed {
                break;
            }
        }
        if log.is_level2() {
            vlog!(
                log,
                "{chain_text} live stack update done in {iterations} iterations\n"
            );
        }
        instance.changed = false;
        instance.wrote_less = false;
    }

    /// As [`Self::solve`], for what was fed since and what depends on it.
    fn solve_fed(&mut self, idx: usize, code: &Code<'_>) {
        let mut graph = self.graph.take().unwrap_or_else(|| Graph::of(code));
        let mut fed = core::mem::take(&mut self.instances[idx].fed);
        let curframe = self.instances[idx].chain.curframe;
        for frame in 0..=curframe {
            for &(_, at) in fed.iter().filter(|(fed_frame, _)| *fed_frame == frame) {
                graph.enqueue(at);
            }
            self.drain_queue(&mut graph, code, idx, usize::from(frame));
        }
        self.graph = Some(graph);
        fed.clear();
        let instance = &mut self.instances[idx];
        instance.fed = fed;
        instance.changed = false;
    }

    fn drain_queue(&mut self, graph: &mut Graph, code: &Code<'_>, idx: usize, frame: usize) {
        while let Some(Reverse(place)) = graph.queue.pop() {
            graph.queued[place as usize] = false;
            let at = code.postorder[place as usize];
            let instance = &mut self.instances[idx];
            let start = instance.start;
            let Some(masks) = &mut instance.frames[frame] else {
                continue;
            };
            let [next, jump] = code.successors(at);
            if next == NONE {
                continue;
            }
            let next = masks[(next - start) as usize];
            let (mut live, mut written) = (next.live, next.written);
            if jump != NONE {
                let jump = masks[(jump - start) as usize];
                live |= jump.live;
                written &= jump.written;
            }
            let here = &mut masks[(at - start) as usize];
            let (live, written) = (live & !here.wrote | here.read, written | here.wrote);
            if live == here.live && written == here.written {
                continue;
            }
            here.live = live;
            here.written = written;
            let at = at as usize;
            for i in graph.predecessors_from[at]..graph.predecessors_from[at + 1] {
                graph.enqueue(graph.predecessors[i as usize]);
            }
        }
    }

    /// What the function's entry has live and written is read and written by the call.
    fn tell_caller(&mut self, idx: usize) {
        let Instance { chain, start, .. } = self.instances[idx];
        let Some(caller_frame) = chain.curframe.checked_sub(1) else {
            return;
        };
        let Some(caller) = self.instance(chain.at_frame(caller_frame)) else {
            return;
        };
        let callsite = chain.callsites[usize::from(caller_frame)];
        self.begin_writes(callsite);
        for frame in 0..=usize::from(caller_frame) {
            let Some(&entry) = self.instances[idx].masks(frame, start) else {
                continue;
            };
            self.write_masks[frame] |= entry.written;
            self.note_read(caller, frame, callsite, entry.live);
        }
        self.commit_to(caller);
    }
}

/// The reverse of [`Code::successors`], flat: all predecessors, and where those of each slot begin.
fn predecessors_of(code: &Code<'_>) -> (Vec<u32>, Vec<u32>) {
    let count = code.insns.len();
    let edges = || {
        (0..count as u32).flat_map(|from| {
            let to = code.successors(from).into_iter();
            to.filter(|&to| (to as usize) < count)
                .map(move |to| (from, to as usize))
        })
    };
    let mut from = vec![0u32; count + 1];
    for (_, to) in edges() {
        from[to + 1] += 1;
    }
    for i in 1..from.len() {
        from[i] += from[i - 1];
    }
    let mut free = from.clone();
    let mut flat = vec![0; from[count] as usize];
    for (source, to) in edges() {
        flat[free[to] as usize] = source;
        free[to] += 1;
    }
    (flat, from)
}

impl fmt::Debug for StackLiveness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StackLiveness({} instances)", self.instances.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    const EXIT: RawInsn = RawInsn::new(0x95, 0, 0, 0, 0);
    const MOV: RawInsn = RawInsn::new(0xb7, 0, 0, 0, 0);
    const JEQ: RawInsn = RawInsn::new(0x15, 0, 0, 1, 0);
    const CALL: RawInsn = RawInsn::new(0x85, 0, 1, 0, 1);

    struct Case {
        insns: Vec<RawInsn>,
        postorder: Vec<u32>,
        flags: Vec<InsnFlags>,
        stack: StackLiveness,
    }

    fn liveness(insns: &[RawInsn], starts: &[u32]) -> Case {
        let ends = starts[1..].iter().copied().chain([insns.len() as u32]);
        let mut subprogs: Vec<Subprog> = starts
            .iter()
            .zip(ends)
            .map(|(&start, end)| Subprog {
                start,
                end,
                ..Subprog::default()
            })
            .collect();
        let postorder = crate::order::compute_postorder(insns, &mut subprogs);
        Case {
            insns: insns.to_vec(),
            postorder,
            flags: vec![InsnFlags::default(); insns.len()],
            stack: StackLiveness::of_program(&subprogs),
        }
    }

    fn write(case: &mut Case, chain: CallChain, insn_idx: u32, frame: u8, slots: u64) {
        let stack = &mut case.stack;
        stack.begin(chain, insn_idx);
        stack.mark_write(frame, slots);
        stack.commit_insn();
    }

    fn read(case: &mut Case, chain: CallChain, insn_idx: u32, frame: u8, slots: u64) {
        let stack = &mut case.stack;
        stack.begin(chain, insn_idx);
        stack.note_read_at(chain, frame, insn_idx, slots);
        stack.commit_insn();
    }

    fn update(case: &mut Case, chain: CallChain) -> String {
        let mut log = Log::new(2);
        let code = Code {
            insns: &case.insns,
            postorder: &case.postorder,
            flags: &case.flags,
        };
        case.stack.solve_chain(chain, &code, &mut log);
        log.into_string()
    }

    fn is_alive(case: &mut Case, chain: CallChain, insn_idx: u32, calls_callback: bool) -> bool {
        let stack = &mut case.stack;
        stack.query = stack.query_at(chain, insn_idx);
        stack.live_at_query(0, |_| calls_callback) & 1 != 0
    }

    #[test]
    fn a_slot_lives_between_its_write_and_its_read() {
        let mut case = liveness(&[MOV, MOV, MOV, EXIT], &[0]);
        let main = CallChain::new(0);
        write(&mut case, main, 0, 0, 1);
        read(&mut case, main, 2, 0, 1);
        assert_eq!(
            update(&mut case, main),
            "(0) frame 0 insn 2 +live -8 \n(0) frame 0 insn 0 +written -8 \n(0) live stack update done in 2 iterations\n"
        );
        for (at, alive) in [(0, false), (1, true), (2, true), (3, false)] {
            assert_eq!(is_alive(&mut case, main, at, false), alive, "insn {at}");
        }
        assert_eq!(update(&mut case, main), "");
    }

    #[test]
    fn a_write_on_one_path_only_does_not_kill() {
        let mut case = liveness(&[MOV, MOV, MOV, EXIT], &[0]);
        let main = CallChain::new(0);
        write(&mut case, main, 1, 0, 0b10);
        read(&mut case, main, 2, 0, 0b10);
        update(&mut case, main);
        // The same instruction, another path: it writes elsewhere.
        write(&mut case, main, 1, 0, 0);
        assert_eq!(
            update(&mut case, main),
            "(0) frame 0 insn 0 +live -16 \n(0) live stack update done in 2 iterations\n"
        );
    }

    #[test]
    fn written_is_what_all_successors_write() {
        let mut case = liveness(&[JEQ, MOV, MOV, EXIT], &[0]);
        let main = CallChain::new(0);
        write(&mut case, main, 1, 0, 0b11);
        write(&mut case, main, 2, 0, 0b01);
        let log = update(&mut case, main);
        assert!(log.contains("insn 0 +written -8 \n"), "{log}");
    }

    #[test]
    fn callees_read_for_their_callers() {
        // main: 0 mov, 1 call f, 2 exit; f: 3 mov, 4 exit
        let mut case = liveness(&[MOV, CALL, EXIT, MOV, EXIT], &[0, 3]);
        let main = CallChain::new(0);
        let callee = main.called(1, 1);
        write(&mut case, main, 0, 0, 1);
        read(&mut case, callee, 3, 0, 1);
        assert_eq!(
            update(&mut case, callee),
            "(1,3) frame 0 insn 3 +live -8 \n(1,3) live stack update done in 2 iterations\n\
             (0) frame 0 insn 1 +live -8 \n(0) frame 0 insn 0 +written -8 \n(0) live stack update done in 2 iterations\n"
        );
        assert!(!is_alive(&mut case, callee, 4, false));
        // As a callback it may run again.
        assert!(is_alive(&mut case, callee, 4, true));
    }
}
