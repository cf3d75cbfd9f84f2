//! Whether the frames of every chain of calls fit the stack together, who can reach a tail call, and which functions get a
//! private stack.
//!
//! Walks calls (and loads of function addresses, as if called) from the main program and from every asynchronous
//! callback, in program order. The kernel walks every chain; there may be exponentially many, so that here a function
//! entered again under equal conditions is not walked again: nothing new can come of it.
//! With a JIT a frame takes a multiple of 16 bytes.
//! Kernel counterpart: `check_max_stack_depth`. Neighbours: `explore` (measures each function), `fixups`.

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

use ring3_isa::RawInsn;
use ring3_uapi::ProgType;
use ring3_uapi::limits::{CALL_FRAMES_MAX, STACK_BYTES_MAX};

use crate::env::Subprog;
use crate::error::{Check, Violation, reject};
use crate::subprogs::{is_kfunc_call, is_pseudo_call, is_pseudo_func};

/// Least stack of a function that is worth a stack of its own. Source: `BPF_PRIV_STACK_MIN_SIZE`.
const PRIVATE_STACK_BYTES_MIN: u32 = 64;
/// Stack of a tail-calling function's callers: 33 tail calls times this is what the kernel's stack can take.
const TAIL_CALLER_BYTES_MAX: u32 = 256;

/// What exploration found out about a function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SubprogUse {
    /// Bytes.
    pub(crate) stack_depth: u32,
    /// Called back by a helper before it returns.
    pub(crate) is_cb: bool,
    /// Called back later.
    pub(crate) is_async_cb: bool,
    /// Handles exceptions: runs on a stack of its own, as a callback of either kind.
    pub(crate) is_exception_cb: bool,
}

impl SubprogUse {
    const fn is_cb(&self) -> bool {
        self.is_cb || self.is_exception_cb
    }

    const fn is_async_cb(&self) -> bool {
        self.is_async_cb || self.is_exception_cb
    }
}

/// Where a function's frame lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum PrivateStack {
    /// Not decided.
    #[default]
    Unknown,
    /// On the kernel's stack.
    No,
    /// On its own, per CPU.
    Yes,
}

/// What the walk finds, per function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StackFacts {
    /// A tail call is reachable: the JIT passes the count of tail calls through.
    pub(crate) tail_call_reachable: bool,
    pub(crate) private_stack: PrivateStack,
}

/// What the walk needs.
pub(crate) struct StackInput<'a> {
    pub(crate) insns: &'a [RawInsn],
    pub(crate) subprogs: &'a [Subprog],
    /// One per function.
    pub(crate) uses: &'a [SubprogUse],
    pub(crate) private_stack: PrivateStack,
    /// Whether the call instruction throws an exception.
    pub(crate) is_throw: &'a dyn Fn(RawInsn) -> bool,
}

/// Whether programs of this type get private stacks: those of which a second instance cannot run on the same CPU inside of
/// the first. `requested` is what a struct_ops type asks for.
pub(crate) fn private_stack_of(
    prog_type: ProgType,
    is_iter: bool,
    requested: bool,
) -> PrivateStack {
    match prog_type {
        ProgType::Kprobe | ProgType::Tracepoint | ProgType::PerfEvent | ProgType::RawTracepoint => {
            PrivateStack::Yes
        }
        ProgType::Tracing if !is_iter || requested => PrivateStack::Yes,
        ProgType::Lsm | ProgType::StructOps if requested => PrivateStack::Yes,
        _ => PrivateStack::No,
    }
}

/// Checks every chain of calls.
///
/// # Errors
/// EACCES: too much stack; E2BIG: too many frames; EINVAL: exceptions out of callbacks.
pub(crate) fn check_max_stack_depth(input: &StackInput<'_>) -> Check<Vec<StackFacts>> {
    let mut facts: Vec<StackFacts> = input
        .subprogs
        .iter()
        .map(|subprog| StackFacts {
            tail_call_reachable: subprog.has_tail_call,
            ..StackFacts::default()
        })
        .collect();
    let has_tail_call = input.subprogs.iter().any(|subprog| subprog.has_tail_call);
    let may_be_private = !has_tail_call && input.private_stack == PrivateStack::Yes;
    // Asynchronous callbacks first: what they reach runs on the kernel's stack wherever it is called from.
    for root in (0..input.subprogs.len()).rev() {
        if root == 0 || input.uses.get(root).is_some_and(SubprogUse::is_async_cb) {
            let mut walk = Walk::new(input, &mut facts, root == 0 && may_be_private);
            walk.run(root)?;
        }
    }
    Ok(facts)
}

/// A function on the chain.
#[derive(Clone, Copy)]
struct Level {
    subprog: usize,
    /// Next slot to look at.
    next: u32,
}

/// Conditions under which a function was entered; equal ones need no second walk.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    subprog: usize,
    depth: u32,
    level: usize,
    below_cb: bool,
    tail_call_seen: bool,
}

struct Walk<'a> {
    input: &'a StackInput<'a>,
    facts: &'a mut [StackFacts],
    may_be_private: bool,
    seen: BTreeSet<Entry>,
    chain: Vec<Level>,
    /// Bytes of the chain's frames.
    depth: u32,
    /// A tail-calling function was entered at some time in this walk.
    tail_call_seen: bool,
}

impl<'a> Walk<'a> {
    fn new(input: &'a StackInput<'a>, facts: &'a mut [StackFacts], may_be_private: bool) -> Self {
        Walk {
            input,
            facts,
            may_be_private,
            seen: BTreeSet::new(),
            chain: vec![],
            depth: 0,
            tail_call_seen: false,
        }
    }

    fn run(&mut self, root: usize) -> Check {
        self.enter(root)?;
        while let Some(&level) = self.chain.last() {
            match self.find_call(level)? {
                Some(callee) => {
                    if self.input.subprogs[callee].has_tail_call {
                        self.tail_call_seen = true;
                    }
                    if self.chain.len() >= CALL_FRAMES_MAX {
                        reject!(
                            E2BIG,
                            "the call stack of {} frames is too deep !",
                            self.chain.len()
                        );
                    }
                    if self.is_known(callee) {
                        self.mark_tail_call_reachable()?;
                    } else {
                        self.enter(callee)?;
                    }
                }
                None => {
                    self.chain.pop();
                    self.mark_tail_call_reachable()?;
                    if self.facts[level.subprog].private_stack != PrivateStack::Yes {
                        self.depth = self.depth.saturating_sub(self.frame_bytes(level.subprog));
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether the callee was entered before with the same chain length and depth; notes it.
    fn is_known(&mut self, callee: usize) -> bool {
        // A function that is not private for one caller is private for none.
        if !self.may_be_private {
            self.facts[callee].private_stack = PrivateStack::No;
        }
        let is_cb = |subprog: usize| self.input.uses.get(subprog).is_some_and(SubprogUse::is_cb);
        let entry = Entry {
            subprog: callee,
            depth: self.depth,
            level: self.chain.len(),
            below_cb: self.chain.iter().any(|level| is_cb(level.subprog)),
            tail_call_seen: self.tail_call_seen,
        };
        !self.seen.insert(entry)
    }

    fn frame_bytes(&self, subprog: usize) -> u32 {
        self.input
            .uses
            .get(subprog)
            .map_or(0, |subprog| subprog.stack_depth)
            .next_multiple_of(16)
    }

    fn enter(&mut self, subprog: usize) -> Check {
        let Some(function) = self.input.subprogs.get(subprog) else {
            return Err(Violation::bug("stack depth: no such function"));
        };
        if !self.may_be_private {
            self.facts[subprog].private_stack = PrivateStack::No;
        }
        if subprog != 0 && function.has_tail_call && self.depth >= TAIL_CALLER_BYTES_MAX {
            reject!(
                EACCES,
                "tail_calls are not allowed when call stack of previous frames is {} bytes. Too large",
                self.depth
            );
        }
        let bytes = self.frame_bytes(subprog);
        let private_stack = &mut self.facts[subprog].private_stack;
        if self.may_be_private
            && *private_stack == PrivateStack::Unknown
            && bytes >= PRIVATE_STACK_BYTES_MIN
        {
            *private_stack = PrivateStack::Yes;
        }
        if *private_stack == PrivateStack::Yes {
            if bytes as usize > STACK_BYTES_MAX {
                reject!(
                    EACCES,
                    "stack size of subprog {subprog} is {bytes}. Too large"
                );
            }
        } else {
            self.depth += bytes;
            if self.depth as usize > STACK_BYTES_MAX {
                let calls = self.chain.len() + 1;
                reject!(
                    EACCES,
                    "combined stack size of {calls} calls is {}. Too large",
                    self.depth
                );
            }
        }
        self.chain.push(Level {
            subprog,
            next: function.start,
        });
        Ok(())
    }

    /// The next function that the one on top calls; leaves the place behind it in the chain.
    fn find_call(&mut self, level: Level) -> Check<Option<usize>> {
        let function = &self.input.subprogs[level.subprog];
        for at in level.next..function.end {
            let insn = self.input.insns[at as usize];
            if is_kfunc_call(insn) && insn.off == 0 {
                self.check_throw(at, insn, level.subprog)?;
                continue;
            }
            let is_call = is_pseudo_call(insn);
            if !is_call && !is_pseudo_func(insn) {
                continue;
            }
            let target = (i64::from(at) + i64::from(insn.imm) + 1) as u32;
            let Ok(callee) = self
                .input
                .subprogs
                .binary_search_by_key(&target, |subprog| subprog.start)
            else {
                return Err(Violation::bug("stack depth: call of no function"));
            };
            if let Some(subprog) = self
                .input
                .uses
                .get(callee)
                .filter(|subprog| subprog.is_async_cb())
            {
                if self.input.subprogs[callee].has_tail_call {
                    return Err(Violation::bug("subprog has tail_call and async cb"));
                }
                if !is_call {
                    continue;
                }
                if subprog.is_exception_cb {
                    // The kernel leaves out the end of the line here.
                    return Err(Violation::unterminated(
                        ring3_uapi::Errno::EINVAL,
                        alloc::format!("insn {at} cannot call exception cb directly"),
                    ));
                }
            }
            if let Some(top) = self.chain.last_mut() {
                top.next = at + 1;
            }
            return Ok(Some(callee));
        }
        Ok(None)
    }

    fn check_throw(&self, at: u32, insn: RawInsn, subprog: usize) -> Check {
        let is_cb = |subprog: usize| self.input.uses.get(subprog).is_some_and(SubprogUse::is_cb);
        if (self.input.is_throw)(insn) && self.chain.iter().any(|level| is_cb(level.subprog)) {
            reject!(
                EINVAL,
                "bpf_throw kfunc (insn {at}) cannot be called from callback subprog {subprog}"
            );
        }
        Ok(())
    }

    /// At the end of a function: its callers can reach a tail call if one was seen.
    fn mark_tail_call_reachable(&mut self) -> Check {
        if !self.tail_call_seen {
            return Ok(());
        }
        for level in &self.chain {
            if self
                .input
                .uses
                .get(level.subprog)
                .is_some_and(|subprog| subprog.is_exception_cb)
            {
                reject!(EINVAL, "cannot tail call within exception cb");
            }
            self.facts[level.subprog].tail_call_reachable = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    const EXIT: RawInsn = RawInsn::new(0x95, 0, 0, 0, 0);

    fn call(distance: i32) -> RawInsn {
        RawInsn::new(0x85, 0, 1, 0, distance)
    }

    /// Function `i` calls function `i + 1`; each two slots, the last one slot.
    fn chain(depths: &[u32]) -> (Vec<RawInsn>, Vec<Subprog>, Vec<SubprogUse>) {
        let mut insns = vec![];
        let mut subprogs = vec![];
        for idx in 0..depths.len() {
            let start = insns.len() as u32;
            if idx + 1 < depths.len() {
                insns.push(call(1));
            }
            insns.push(EXIT);
            subprogs.push(Subprog {
                start,
                end: insns.len() as u32,
                ..Subprog::default()
            });
        }
        let uses = depths
            .iter()
            .map(|&stack_depth| SubprogUse {
                stack_depth,
                ..SubprogUse::default()
            })
            .collect();
        (insns, subprogs, uses)
    }

    fn run(
        (insns, subprogs, uses): &(Vec<RawInsn>, Vec<Subprog>, Vec<SubprogUse>),
        private_stack: PrivateStack,
    ) -> Result<Vec<StackFacts>, String> {
        let input = StackInput {
            insns,
            subprogs,
            uses,
            private_stack,
            is_throw: &|_| false,
        };
        check_max_stack_depth(&input).map_err(|violation| violation.text)
    }

    #[test]
    fn frames_of_a_chain_share_512_bytes() {
        assert!(run(&chain(&[256, 256]), PrivateStack::No).is_ok());
        assert_eq!(
            run(&chain(&[256, 257]), PrivateStack::No).unwrap_err(),
            "combined stack size of 2 calls is 528. Too large"
        );
        assert_eq!(
            run(&chain(&[520]), PrivateStack::No).unwrap_err(),
            "combined stack size of 1 calls is 528. Too large"
        );
    }

    #[test]
    fn private_stacks_are_not_added() {
        let facts = run(&chain(&[256, 400, 48]), PrivateStack::Yes).unwrap();
        assert_eq!(facts[0].private_stack, PrivateStack::Yes);
        assert_eq!(facts[2].private_stack, PrivateStack::Unknown);
        let mut program = chain(&[256, 400, 48]);
        program.1[2].has_tail_call = true;
        assert!(run(&program, PrivateStack::Yes).is_err());
    }

    #[test]
    fn eight_frames_at_most() {
        assert!(run(&chain(&[0; 8]), PrivateStack::No).is_ok());
        assert_eq!(
            run(&chain(&[0; 9]), PrivateStack::No).unwrap_err(),
            "the call stack of 8 frames is too deep !"
        );
    }

    #[test]
    fn recursion_runs_out_of_frames() {
        let mut program = chain(&[0, 0]);
        program.0[2] = call(-1);
        program.0.push(EXIT);
        program.1[1].end = 4;
        assert_eq!(
            run(&program, PrivateStack::No).unwrap_err(),
            "the call stack of 8 frames is too deep !"
        );
    }

    #[test]
    fn tail_calls_need_half_of_the_stack() {
        let mut program = chain(&[256, 8]);
        program.1[1].has_tail_call = true;
        assert_eq!(
            run(&program, PrivateStack::No).unwrap_err(),
            "tail_calls are not allowed when call stack of previous frames is 256 bytes. Too large"
        );
        program.2[0].stack_depth = 240;
        assert!(run(&program, PrivateStack::No).unwrap()[0].tail_call_reachable);
    }

    #[test]
    fn many_chains_take_little_time() {
        // Each of 7 functions calls the next 64 times: 64^6 chains.
        let mut insns = vec![];
        let mut subprogs = vec![];
        for level in 0..7u32 {
            let start = insns.len() as u32;
            if level < 6 {
                insns.extend((0..64).map(|call_idx| call(64 - call_idx)));
            }
            insns.push(EXIT);
            subprogs.push(Subprog {
                start,
                end: insns.len() as u32,
                ..Subprog::default()
            });
        }
        let uses = vec![
            SubprogUse {
                stack_depth: 8,
                ..SubprogUse::default()
            };
            7
        ];
        assert!(run(&(insns, subprogs, uses), PrivateStack::No).is_ok());
    }

    #[test]
    fn async_callbacks_start_their_own_chain() {
        let load = RawInsn::new(0x18, 1, 4, 0, 2);
        let insns = vec![load, RawInsn::new(0, 0, 0, 0, 0), EXIT, EXIT];
        let subprogs = vec![
            Subprog {
                start: 0,
                end: 3,
                ..Subprog::default()
            },
            Subprog {
                start: 3,
                end: 4,
                ..Subprog::default()
            },
        ];
        let mut uses = vec![
            SubprogUse {
                stack_depth: 300,
                ..SubprogUse::default()
            };
            2
        ];
        assert!(
            run(
                &(insns.clone(), subprogs.clone(), uses.clone()),
                PrivateStack::No
            )
            .is_err()
        );
        uses[1].is_async_cb = true;
        assert!(run(&(insns, subprogs, uses), PrivateStack::No).is_ok());
    }
}
