//! Running packet programs over packets: the one place that promises a program the context its type says.

use std::marker::PhantomData;

use ring3_runtime::{Entry, ProgObject, is_anyone_counting, run_in_section};
use ring3_sync::rcu;
use ring3_uapi::{Errno, ProgType};

use super::{FlowDissection, NetfilterRun, SkLookup, Skb, XdpBuff};

/// Program types whose context is an `sk_buff`.
pub const SKB_PROG_TYPES: &[ProgType] = &[
    ProgType::SocketFilter,
    ProgType::SchedCls,
    ProgType::SchedAct,
    ProgType::CgroupSkb,
    ProgType::LwtIn,
    ProgType::LwtOut,
    ProgType::LwtXmit,
    ProgType::LwtSeg6local,
    ProgType::SkSkb,
];

/// What programs of a type run over: a value whose first bytes are the kernel's object.
pub trait Context: sealed::Context {}

mod sealed {
    use ring3_uapi::ProgType;

    /// Only values of this crate are contexts.
    pub trait Context {
        /// Whether programs of a type expect such a value.
        fn is_of(prog_type: ProgType) -> bool;
        /// The pointer that they get.
        fn address(&mut self) -> u64;
    }
}

macro_rules! contexts {
    ($($ty:ident: $prog_types:expr),* $(,)?) => {$(
        impl Context for $ty {}
        impl sealed::Context for $ty {
            fn is_of(prog_type: ProgType) -> bool {
                $prog_types.contains(&prog_type)
            }
            #[inline]
            fn address(&mut self) -> u64 {
                self.program_ptr()
            }
        }
    )*};
}
contexts! {
    Skb: SKB_PROG_TYPES,
    XdpBuff: [ProgType::Xdp],
    FlowDissection: [ProgType::FlowDissector],
    SkLookup: [ProgType::SkLookup],
    NetfilterRun: [ProgType::Netfilter],
}

impl<C: Context> Context for Box<C> {}
impl<C: sealed::Context> sealed::Context for Box<C> {
    fn is_of(prog_type: ProgType) -> bool {
        C::is_of(prog_type)
    }
    #[inline]
    fn address(&mut self) -> u64 {
        (**self).address()
    }
}

/// A program whose context was checked to be a `C`, ready to run many times.
pub struct PacketProgram<'a, C> {
    entry: Entry,
    prog: &'a dyn ProgObject,
    context: PhantomData<fn(&mut C)>,
}

impl<'a, C: Context> PacketProgram<'a, C> {
    /// A program that runs over `C`s.
    ///
    /// # Errors
    /// EINVAL: the program's context is something else.
    pub fn over(prog: &'a dyn ProgObject) -> Result<PacketProgram<'a, C>, Errno> {
        if !C::is_of(prog.prog_type()) {
            return Err(Errno::EINVAL);
        }
        Ok(PacketProgram {
            entry: prog.entry(),
            prog,
            context: PhantomData,
        })
    }

    /// One run in a read section of its own; the low half of r0.
    #[inline]
    pub fn run(&self, context: &mut C) -> u32 {
        let address = context.address();
        let _section = rcu::read();
        if is_anyone_counting() {
            // SAFETY: as below; 3. a read section is active.
            return unsafe { self.run_counted(address) };
        }
        // SAFETY: 1. the program is borrowed, so it is alive; 2. its type was checked: its context is what a `C` begins with, and the `C` is
        // borrowed for the run; 3. a read section is active.
        unsafe { run_in_section(&self.entry, address) as u32 }
    }

    /// A run while somebody counts. Out of line: what it keeps in registers would be saved in every run.
    ///
    /// # Safety
    /// `ctx` is a context of the program's type that nobody else uses; a read section is active.
    #[cold]
    #[inline(never)]
    unsafe fn run_counted(&self, ctx: u64) -> u32 {
        // SAFETY: 1. the caller's contract.
        let run = || unsafe { run_in_section(&self.entry, ctx) as u32 };
        match self.prog.run_stats() {
            None => run(),
            Some(stats) => stats.measure(run),
        }
    }
}
